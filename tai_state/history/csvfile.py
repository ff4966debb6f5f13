"""A CSV file of changes: what its columns mean, and its rows, each checked and made into an event to be."""

from __future__ import annotations

import csv
import gzip
import os
import uuid
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import msgspec

from tai_state.engines.api import Capabilities
from tai_state.engines.batching import Weight
from tai_state.errors import InvalidData, InvalidId
from tai_state.streams.layout import Layout
from tai_state.streams.planning import Draft
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


class Row(msgspec.Struct, frozen=True):
    """One row, checked.

    Attributes:
        number: the line in the file's data, from 1.
        machine: its id.
        version: its 1-based position among its machine's rows.
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


class CsvFile:
    """A file of changes of one governor's machines.

    Attributes:
        governor_id: as given.
        machines: how many machines it names; None until it is checked.

    Args:
        path: a CSV file in UTF-8 with a header, compressed if it ends in ``.gz``.
        governor_id: whose machines.
        columns: what means what.
    """

    def __init__(self, path: Path, governor_id: str, columns: Columns) -> None:
        self.governor_id: str = governor_id
        self._path = path
        self._name = os.fsencode(path.name).decode(errors="replace")
        self._columns = columns
        self.machines: int | None = None

    def check(self, capabilities: Capabilities) -> int:
        """Check the whole file, so that no row is refused once earlier ones are written.

        Args:
            capabilities: of the engine that is to take it.

        Returns:
            How many machines it names.

        Raises:
            InvalidId, InvalidData: a column is missing, or a row cannot be read or stored.
        """
        layout = Layout()
        limit = min(capabilities.max_document_bytes, capabilities.max_bytes_per_commit // 2)  # its event and its state
        layout.governor(self.governor_id)
        machines = 0
        for row in self.rows():
            machines += row.version == 1
            try:
                layout.stream(self.governor_id, row.machine)
            except InvalidId as error:
                raise InvalidId(f"the machine of row {row.number}", error.limit) from None
            if row.size > limit:
                raise InvalidData(f"row {row.number} would take {row.size:,} bytes and the limit is {limit:,}")
        if not machines:
            raise InvalidData(f"{self._path} has no rows")
        self.machines = machines
        return machines

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
            event_id=str(uuid.uuid5(_NAMESPACE, encode([self.governor_id, machine, *cells]))),
            action="import",
            timestamp=timestamp,
            changed_by=(by_name[columns.by] if columns.by else "") or "import",
            reason=f"row {number} of {self._name}",
            context=encode(context),
            state=encode(data),
        )
        return Row(number, machine, version, draft, data)


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")
