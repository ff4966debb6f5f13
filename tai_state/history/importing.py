"""Import of a log of changes from CSV: one row is one change of one machine.

Row k of a machine becomes its version k, and its event's id follows from the row's cells. So importing a file
again, or after a kill, records nothing twice: what is there is compared, the rest is appended.
"""

from __future__ import annotations

import csv
import gzip
import os
import uuid
import zlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TypeAlias

import msgspec

from tai_state.engines.batching import Batches, Weight
from tai_state.errors import EventSourcingError, ImportConflict, InvalidData, InvalidId, VersionConflict
from tai_state.store.changes import Append, always, append_of
from tai_state.store.layout import Stream
from tai_state.store.planning import Composition, Draft
from tai_state.store.records import EVENT, STATE
from tai_state.store.store import StateStore
from tai_state.values.json import encode
from tai_state.values.times import format_time, parse_time

_NAMESPACE = uuid.UUID("5f0f7d1c-6d0b-5b6e-9f0e-3d2a4c7b8e91")
_WRITES_PER_ROW = 4
_DOCUMENTS_PER_ROW = 3
"""An event, a state and a snapshot; and a snapshot that is dropped for it."""
_SIZE_BESIDE_CELLS = 4_096
"""Other ids, digests, times and the causality of an event."""


class Columns(msgspec.Struct, frozen=True):
    """Which columns of the file mean what.

    Attributes:
        machine: the machine's id.
        states: the state's data becomes the object of these.
        time: when the change happened; a time without an offset is read as UTC.
        by: who made it; without one, ``import``.
    """

    machine: str
    states: tuple[str, ...]
    time: str
    by: str | None = None


class ImportStats(msgspec.Struct, frozen=True):
    """What an import recorded; ``skipped`` rows were there already."""

    events: int
    machines: int
    skipped: int


class Row(msgspec.Struct, frozen=True):
    """One row, checked.

    Attributes:
        number: the line in the file's data, from 1.
        machine: its id.
        version: the how-many-eth row of its machine.
        draft: the event to be.
        data: the state's.
    """

    number: int
    machine: str
    version: int
    draft: Draft
    data: dict[str, str]

    @property
    def size(self) -> int:
        """The bytes that its event takes at the most; its state takes no more."""
        draft = self.draft
        cells = [self.machine, draft.state, draft.context, draft.changed_by, draft.reason]
        return _SIZE_BESIDE_CELLS + len(encode(cells).encode())

    @property
    def weight(self) -> Weight:
        """What it takes of a commit at the most, whatever that keeps."""
        return Weight(_WRITES_PER_ROW, _DOCUMENTS_PER_ROW * self.size)


Acknowledged: TypeAlias = Callable[[ImportStats], Awaitable[None]]


class CsvImport:
    """Imports a file into a governor.

    Args:
        store: where to.
        governor_id: whose machines.
        path: a CSV file in UTF-8 with a header, compressed if it ends in ``.gz``.
        columns: what means what.
    """

    def __init__(self, store: StateStore, governor_id: str, path: Path, columns: Columns) -> None:
        self._store = store
        self._governor_id = governor_id
        self._path = path
        self._name = os.fsencode(path.name).decode(errors="replace")
        self._columns = columns
        self._machines: int | None = None

    def check(self) -> int:
        """Check the whole file; how many machines it names. The store need not be open.

        Raises:
            InvalidId, InvalidData: a column is missing, or a row cannot be read or stored.
        """
        self._store.layout.governor(self._governor_id)
        machines = 0
        for row in self.rows():
            machines += row.version == 1
            self._check_row(row)
        if not machines:
            raise InvalidData(f"{self._path} has no rows")
        self._machines = machines
        return machines

    async def run(self, acknowledged: Acknowledged) -> ImportStats:
        """Check the whole file, unless that is done, then record what is not there yet.

        Args:
            acknowledged: called after each batch that is durable, with the counts so far.

        Raises:
            InvalidId, InvalidData: as :meth:`check`; nothing was written.
            ImportConflict: a machine has another event where a row would go.
        """
        machines = self.check() if self._machines is None else self._machines
        stats = ImportStats(0, machines, 0)
        for batch in Batches(self._store.engine.capabilities).split(self.rows(), lambda row: row.weight):
            recorded = await self._record(batch)
            stats = ImportStats(stats.events + recorded, machines, stats.skipped + len(batch) - recorded)
            await acknowledged(stats)
        return stats

    def rows(self) -> Iterator[Row]:
        """The rows of the file, in its order.

        Raises:
            InvalidData: the file or a row cannot be read.
        """
        versions: dict[str, int] = {}
        try:
            with _open(self._path) as file:
                reader: Iterator[list[str]] = csv.reader(file, strict=True)
                names = self._checked_header(next(reader, None))
                rows = (cells for cells in reader if cells)  # an empty line is no row
                for number, cells in enumerate(rows, start=1):
                    if len(cells) != len(names):
                        raise InvalidData(f"row {number} has {len(cells)} cells and the header {len(names)}")
                    yield self._row(number, dict(zip(names, cells, strict=True)), cells, versions)
        except OSError as error:
            raise InvalidData(f"{self._path} cannot be read: {error.strerror or error}") from None
        except (EOFError, zlib.error):
            raise InvalidData(f"{self._path} is damaged: its compressed data breaks off or does not fit") from None
        except UnicodeDecodeError:
            raise InvalidData(f"{self._path} is not UTF-8") from None
        except csv.Error as error:
            raise InvalidData(f"{self._path} is no CSV: {error}") from None

    def _checked_header(self, names: list[str] | None) -> list[str]:
        if not names:
            raise InvalidData(f"{self._path} has no header")
        if len(set(names)) != len(names):
            raise InvalidData(f"{self._path} has two columns of one name")
        columns = self._columns
        for wanted in (columns.machine, *columns.states, columns.time, *([columns.by] if columns.by else [])):
            if wanted not in names:
                raise InvalidData(f"{self._path} has no column {wanted!r}; it has: {', '.join(names)}")
        return names

    def _row(self, number: int, by_name: dict[str, str], cells: Sequence[str], versions: dict[str, int]) -> Row:
        columns = self._columns
        machine = by_name[columns.machine]
        if not machine:
            raise InvalidData(f"row {number} names no machine")
        try:
            timestamp = format_time(parse_time(by_name[columns.time]))
        except InvalidData:
            raise InvalidData(
                f"row {number} has no time in {columns.time!r}; write it like 2026-01-31T09:15:00Z"
            ) from None
        version = versions[machine] = versions.get(machine, 0) + 1
        data = {name: by_name[name] for name in columns.states}
        named = {columns.machine, *columns.states, columns.time, columns.by}
        context = {name: cell for name, cell in by_name.items() if name not in named}
        draft = Draft(
            event_id=str(uuid.uuid5(_NAMESPACE, encode([self._governor_id, machine, *cells]))),
            action="import",
            timestamp=timestamp,
            changed_by=(by_name[columns.by] if columns.by else "") or "import",
            reason=f"row {number} of {self._name}",
            context=encode(context),
            state=encode(data),
        )
        return Row(number, machine, version, draft, data)

    def _check_row(self, row: Row) -> None:
        """Whether the row can be stored, so that no later row is refused once earlier ones are written."""
        try:
            self._stream(row)
        except InvalidId as error:
            raise InvalidId(f"the machine of row {row.number}", error.limit) from None
        capabilities = self._store.engine.capabilities
        limit = min(capabilities.max_document_bytes, capabilities.max_bytes_per_commit // 2)  # its event and its state
        if row.size > limit:
            raise InvalidData(f"row {row.number} would take {row.size:,} bytes and the limit is {limit:,}")

    async def _record(self, batch: Sequence[Row]) -> int:
        """Append the rows that are not there yet; how many those were."""
        while True:
            new = await self._unseen(batch)
            try:
                if new:
                    await self._store.appender.append(self._appends(new))
            except VersionConflict as conflict:
                if not isinstance(conflict.expected, int) or conflict.actual <= conflict.expected:
                    raise
                continue  # another import was faster: its rows are looked at like all that are there
            return len(new)

    async def _unseen(self, batch: Sequence[Row]) -> list[Row]:
        """The rows whose places are free; each taken place must hold the row's own event."""
        streams = {row.machine: self._stream(row) for row in batch}
        documents = (await self._store.engine.read([stream.state for stream in streams.values()])).documents
        states = {
            machine: document.decode(STATE)
            for machine, document in zip(streams, documents, strict=True)
            if document is not None
        }
        seen = [row for row in batch if row.machine in states and row.version <= states[row.machine].version]
        places = [streams[row.machine].event(row.version) for row in seen]
        found = (await self._store.engine.read(places)).documents if places else ()
        for row, path, document in zip(seen, places, found, strict=True):
            if document is not None and document.decode(EVENT).event_id != row.draft.event_id:
                raise ImportConflict(row.number, path)
            if document is None and row.version >= states[row.machine].floor:  # below, it was cleaned up
                raise EventSourcingError(path, "is missing: run `tai-state verify`")
        numbers = {row.number for row in seen}
        return [row for row in batch if row.number not in numbers]

    def _appends(self, rows: Sequence[Row]) -> list[Append]:
        """One append for each machine, with all of its rows in the batch."""
        by_machine: dict[str, list[Row]] = {}
        for row in rows:
            by_machine.setdefault(row.machine, []).append(row)
        return [self._append(each) for each in by_machine.values()]

    def _append(self, rows: Sequence[Row]) -> Append:
        first, last = rows[0], rows[-1]
        drafts = tuple(row.draft for row in rows)
        return append_of(self._stream(first), first.version - 1, drafts, always(Composition(drafts, dict(last.data))))

    def _stream(self, row: Row) -> Stream:
        return self._store.layout.stream(self._governor_id, row.machine)


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")
