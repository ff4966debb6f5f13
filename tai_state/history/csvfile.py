"""A CSV file of changes: what its columns mean, and its rows, each checked and turned into a draft of an event."""

from __future__ import annotations

import csv
import gzip
import os
import uuid
import zlib
from collections.abc import Iterator, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Self

import msgspec

from tai_state.engines.api import Capabilities
from tai_state.engines.batching import Weight
from tai_state.errors import InvalidData, InvalidId
from tai_state.history.samefile import SameFile
from tai_state.streams.layout import Layout
from tai_state.streams.planning import Draft
from tai_state.streams.settings import Settings
from tai_state.values.json import encode
from tai_state.values.metadata import check_text
from tai_state.values.times import check_not_ahead, format_time, parse_rfc3339

_NAMESPACE = uuid.UUID("5f0f7d1c-6d0b-5b6e-9f0e-3d2a4c7b8e91")
_WRITES_PER_ROW = 4
_DOCUMENTS_PER_ROW = 3
"""A row may write an event, a state and a snapshot; the fourth write drops an old snapshot."""
_SIZE_BESIDE_CELLS = 4_096
"""Bytes for everything else in an event: other ids, digests, times and the causality."""


_CELL_CHARACTERS_MAX = 16 * 1024 * 1024
"""More than any document holds: a longer cell is refused as the file is read."""


class Columns(msgspec.Struct, frozen=True):
    """What the columns of the file mean.

    Attributes:
        machine: the column with the machine's id.
        states: the columns whose cells make up the state's data.
        time: the column with the time of the change; a time without an offset is read as UTC.
        by: the column with who made the change; without one, ``import``.
    """

    machine: str
    states: tuple[str, ...]
    time: str
    by: str | None = None


class Row(msgspec.Struct, frozen=True):
    """One row, checked.

    Attributes:
        number: its 1-based position among all rows of the file.
        machine: the machine's id.
        version: its 1-based position among its machine's rows.
        draft: the event to record.
        data: the state's data after the event.
        name: the governor, the machine and the cells, as text.
    """

    number: int
    machine: str
    version: int
    draft: Draft
    data: dict[str, str]
    name: str

    def is_recorded_as(self, event_id: str) -> bool:
        """Whether an event with this id is the row's own. Earlier releases made the id without the version."""
        return event_id in (self.draft.event_id, str(uuid.uuid5(_NAMESPACE, self.name)))

    @property
    def size(self) -> int:
        """The most bytes that its event can take; its state takes no more."""
        draft = self.draft
        cells = [self.machine, draft.state, draft.context, draft.changed_by, draft.reason]
        return _SIZE_BESIDE_CELLS + len(encode(cells).encode())

    @property
    def weight(self) -> Weight:
        """The most that it can add to a commit, whether or not a snapshot is kept with it."""
        return Weight(_WRITES_PER_ROW, _DOCUMENTS_PER_ROW * self.size)


class CsvFile:
    """A file of changes to the machines of one governor. The end of a block closes it.

    Attributes:
        governor_id: the governor, as given.
        machines: how many machines the file names; None until it is checked.

    Args:
        path: a CSV file in UTF-8 with a header, compressed if its name ends in ``.gz``.
        governor_id: the governor of the machines.
        columns: what the columns mean.

    Raises:
        InvalidData: the columns are not names of columns.
    """

    def __init__(self, path: Path, governor_id: str, columns: Columns) -> None:
        _check_columns(columns)
        self.governor_id: str = governor_id
        self._path = path
        self._name = os.fsencode(path.name).decode(errors="replace")
        self._columns = columns
        self._file: SameFile | None = None
        self.machines: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            self._file.close()

    def check(self, capabilities: Capabilities, latest: str | None = None) -> int:
        """Check the whole file, so that no row is refused after earlier ones have been written.

        Args:
            capabilities: those of the engine that will store the rows.
            latest: the latest time that a row may have; by default, that of a store with the machine's clock.

        Returns:
            How many machines the file names.

        Raises:
            InvalidId, InvalidData: a column is missing, or a row cannot be read or stored.
        """
        layout = Layout()
        limit = min(capabilities.max_document_bytes, capabilities.max_bytes_per_commit // 2)  # an event and a state
        layout.governor(self.governor_id)
        latest = Settings().latest if latest is None else latest
        machines = 0
        for row in self.rows():
            machines += row.version == 1
            check_not_ahead(row.draft.timestamp, latest, f"the time of row {row.number}")
            try:
                layout.stream(self.governor_id, row.machine)
            except InvalidId as error:
                raise InvalidId(f"the machine of row {row.number}", error.limit) from None
            if row.size > limit:
                raise InvalidData(f"row {row.number} would take {row.size:,} bytes, but the limit is {limit:,}")
        if not machines:
            raise InvalidData(f"{self._path} has no rows")
        self.machines = machines
        return machines

    def rows(self) -> Iterator[Row]:
        """The rows of the file, in order.

        Raises:
            InvalidData: the file or a row cannot be read.
        """
        versions: dict[str, int] = {}
        try:
            # The limit belongs to the whole process, so it is raised and never lowered.
            csv.field_size_limit(max(csv.field_size_limit(), _CELL_CHARACTERS_MAX))
            with self._text() as file:
                reader: Iterator[list[str]] = csv.reader(file, strict=True)
                names = self._check_header(next(reader, None))
                others = self._others(names)
                for number, cells in self._numbered(reader):
                    if len(cells) != len(names):
                        raise InvalidData(f"row {number} has {len(cells)} cells, but the header has {len(names)}")
                    yield self._row(number, dict(zip(names, cells, strict=True)), cells, versions, others)
        except OSError as error:
            raise InvalidData(f"{self._path} cannot be read: {error.strerror or error}") from None
        except (EOFError, zlib.error):
            raise InvalidData(f"{self._path} is damaged: its compressed data is cut off or corrupt") from None
        except UnicodeDecodeError:
            raise InvalidData(f"{self._path} is not UTF-8") from None
        except csv.Error as error:
            raise InvalidData(f"{self._path} is not a CSV file: {error}") from None

    def _text(self) -> IO[str]:
        """The text of the file, from the beginning."""
        if self._file is None:
            self._file = SameFile(self._path)
        stored = self._file.from_start()
        if self._path.suffix == ".gz":
            return gzip.open(stored, "rt", encoding="utf-8-sig", newline="")
        return TextIOWrapper(stored, encoding="utf-8-sig", newline="")

    def _numbered(self, reader: Iterator[list[str]]) -> Iterator[tuple[int, list[str]]]:
        """The rows with their numbers; an empty line is not a row."""
        number = 1
        try:
            for cells in reader:
                if cells:
                    yield number, cells
                    number += 1
        except csv.Error as error:
            raise InvalidData(f"{self._path} is not a CSV file at row {number}: {error}") from None

    def _check_header(self, names: list[str] | None) -> list[str]:
        if not names:
            raise InvalidData(f"{self._path} has no header")
        if len(set(names)) != len(names):
            raise InvalidData(f"{self._path} has two columns with the same name")
        columns = self._columns
        for wanted in (columns.machine, *columns.states, columns.time, *([columns.by] if columns.by else [])):
            if wanted not in names:
                raise InvalidData(f"{self._path} has no column {wanted!r}; it has: {', '.join(names)}")
        return names

    def _others(self, names: Sequence[str]) -> list[str]:
        """The columns that make up the context."""
        columns = self._columns
        named = {columns.machine, *columns.states, columns.time, columns.by}
        return [name for name in names if name not in named]

    def _row(
        self,
        number: int,
        by_name: dict[str, str],
        cells: Sequence[str],
        versions: dict[str, int],
        others: Sequence[str],
    ) -> Row:
        columns = self._columns
        machine = by_name[columns.machine]
        if not machine:
            raise InvalidData(f"row {number} does not name a machine")
        try:
            timestamp = format_time(parse_rfc3339(by_name[columns.time]))
        except InvalidData:
            raise InvalidData(
                f"row {number} has no valid time in {columns.time!r}; write times like 2026-01-31T09:15:00Z"
            ) from None
        version = versions[machine] = versions.get(machine, 0) + 1
        name = encode([self.governor_id, machine, *cells])
        data = {name: by_name[name] for name in columns.states}
        draft = Draft(
            event_id=str(uuid.uuid5(_NAMESPACE, f"{version} {name}")),
            action="import",
            timestamp=timestamp,
            changed_by=(by_name[columns.by] if columns.by else "") or "import",
            reason=f"row {number} of {self._name}",
            context=encode({name: by_name[name] for name in others}),
            state=encode(data),
        )
        return Row(number, machine, version, draft, data, name)


def _check_columns(columns: Columns) -> None:
    if type(columns) is not Columns or type(columns.states) is not tuple:
        raise InvalidData('columns must be Columns, with the names of the states in a tuple, like ("status",)')
    for each in (columns.machine, *columns.states, columns.time, *([] if columns.by is None else [columns.by])):
        check_text(each, "each name in columns")
