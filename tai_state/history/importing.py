"""Import of a log of changes from CSV: one row is one change of one machine.

Row k of a machine becomes its version k, and its event's id follows from the row's cells. So importing a file
again, or after a kill, records nothing twice: what is there is compared, the rest is appended.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import msgspec

from tai_state.engines.batching import Batches
from tai_state.errors import EventSourcingError, ImportConflict, VersionConflict
from tai_state.history.csvfile import CsvFile, Row
from tai_state.streams.changes import Append, Change, always, append_of
from tai_state.streams.core import Core
from tai_state.streams.layout import Stream
from tai_state.streams.planning import Composition
from tai_state.streams.records import EVENT, STATE


class ImportStats(msgspec.Struct, frozen=True):
    """What an import recorded; ``skipped`` rows were there already."""

    events: int
    machines: int
    skipped: int


Acknowledged: TypeAlias = Callable[[ImportStats], Awaitable[None]]


class CsvImport:
    """Imports a file into its governor.

    Args:
        core: of the store to write to.
        file: what to import.
    """

    def __init__(self, core: Core, file: CsvFile) -> None:
        self._core = core
        self._file = file

    async def run(self, acknowledged: Acknowledged | None) -> ImportStats:
        """Check the whole file, unless that is done, then record what is not there yet.

        Args:
            acknowledged: called after each batch that is durable, with the counts so far; None: nobody.

        Raises:
            InvalidId, InvalidData: as :meth:`CsvFile.check`; nothing was written.
            ImportConflict: a machine has another event where a row would go.
        """
        machines = self._file.machines or self._file.check(self._core.engine.capabilities)
        stats = ImportStats(0, machines, 0)
        for batch in Batches(self._core.engine.capabilities).split(self._file.rows(), lambda row: row.weight):
            recorded = await self._record(batch)
            stats = ImportStats(stats.events + recorded, machines, stats.skipped + len(batch) - recorded)
            if acknowledged is not None:
                await acknowledged(stats)
        return stats

    async def _record(self, batch: Sequence[Row]) -> int:
        """Append the rows that are not there yet; how many those were."""
        while True:
            new = await self._unseen(batch)
            try:
                if new:
                    await self._core.appender.append(self._change(new))
            except VersionConflict as conflict:
                if not isinstance(conflict.expected, int) or conflict.actual <= conflict.expected:
                    raise
                continue  # another import was faster: its rows are looked at like all that are there
            return len(new)

    async def _unseen(self, batch: Sequence[Row]) -> list[Row]:
        """The rows whose places are free; each taken place must hold the row's own event."""
        streams = {row.machine: self._stream(row) for row in batch}
        documents = (await self._core.engine.read([stream.state for stream in streams.values()])).documents
        states = {
            machine: document.decode(STATE)
            for machine, document in zip(streams, documents, strict=True)
            if document is not None
        }
        seen = [row for row in batch if row.machine in states and row.version <= states[row.machine].version]
        places = [streams[row.machine].event(row.version) for row in seen]
        found = (await self._core.engine.read(places)).documents if places else ()
        for row, path, document in zip(seen, places, found, strict=True):
            if document is not None and document.decode(EVENT).event_id != row.draft.event_id:
                raise ImportConflict(row.number, path)
            if document is None and row.version >= states[row.machine].floor:  # below, it was cleaned up
                raise EventSourcingError(path, "is missing: run `tai-state verify`")
        numbers = {row.number for row in seen}
        return [row for row in batch if row.number not in numbers]

    def _change(self, rows: Sequence[Row]) -> Change:
        """One append for each machine, with all of its rows in the batch."""
        by_machine: dict[str, list[Row]] = {}
        for row in rows:
            by_machine.setdefault(row.machine, []).append(row)
        appends: list[Append] = []
        compositions: list[Composition] = []
        for each in by_machine.values():
            drafts = tuple(row.draft for row in each)
            appends.append(append_of(self._stream(each[0]), each[0].version - 1, drafts))
            compositions.append(Composition(drafts, dict(each[-1].data)))
        return Change(tuple(appends), always(*compositions))

    def _stream(self, row: Row) -> Stream:
        return self._core.layout.stream(self._file.governor_id, row.machine)
