"""Import of a log of changes from CSV: each row is one change of one machine.

Row k of a machine becomes its version k, and the id of its event is derived from k and the row's cells. So importing a
file again, or going on after a kill, records nothing twice: rows already recorded are compared, and the rest is
appended.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import anyio.to_thread
import msgspec

from tai_state.engines.batching import Batches
from tai_state.errors import EventSourcingError, ImportConflict, Inconsistent, VersionConflict
from tai_state.history.csvfile import CsvFile, Row
from tai_state.streams.changes import Append, Change, always, append_of
from tai_state.streams.core import Core
from tai_state.streams.damage import Report, raising
from tai_state.streams.layout import Stream
from tai_state.streams.planning import Composition
from tai_state.streams.records import EVENT, STATE


class ImportStats(msgspec.Struct, frozen=True):
    """What an import recorded; ``skipped`` counts the rows that were already there."""

    events: int
    machines: int
    skipped: int


Acknowledged: TypeAlias = Callable[[ImportStats], Awaitable[None]]


class CsvImport:
    """Imports a file into its governor.

    Args:
        core: the core of the store to write to.
        file: the file to import.
        report: called with what is wrong with a damaged machine, whose rows are then left out.
    """

    def __init__(self, core: Core, file: CsvFile, report: Report = raising) -> None:
        self._core = core
        self._file = file
        self._report = report
        self._damaged: set[str] = set()

    async def run(self, acknowledged: Acknowledged | None) -> ImportStats:
        """Check the whole file, unless that was done before, then record the rows that are not there yet.

        Args:
            acknowledged: if given, called after each batch is durable, with the counts so far.

        Raises:
            InvalidId, InvalidData: as :meth:`CsvFile.check`; nothing was written.
            ImportConflict: a machine already has a different event where a row would go.
        """
        capabilities = self._core.engine.capabilities
        machines = self._file.machines
        if machines is None:
            machines = await anyio.to_thread.run_sync(self._file.check, capabilities, self._core.settings.latest)
        stats = ImportStats(0, machines, 0)
        batches = Batches(capabilities).split(self._file.rows(), lambda row: row.weight)
        while batch := await anyio.to_thread.run_sync(next, batches, None):
            recorded, skipped = await self._record(batch)
            stats = ImportStats(stats.events + recorded, machines, stats.skipped + skipped)
            if acknowledged is not None:
                await acknowledged(stats)
        return stats

    async def _record(self, batch: Sequence[Row]) -> tuple[int, int]:
        """Append the rows that are not there yet. Returns how many they are, and how many were there."""
        while True:
            rows = [row for row in batch if row.machine not in self._damaged]
            try:
                new = await self._unseen(rows)
                if new:
                    await self._core.appender.append(self._change(new))
            except VersionConflict as conflict:
                if not isinstance(conflict.expected, int) or conflict.actual <= conflict.expected:
                    raise
                continue  # another import was faster: its rows are compared like all that are already there
            except Inconsistent as error:
                self._leave_out(error, rows)
                continue
            return len(new), len(rows) - len(new)

    def _leave_out(self, error: Inconsistent, rows: Sequence[Row]) -> None:
        """Report the machine that an error is about; its rows are left out from now on."""
        for row in rows:
            stream = self._stream(row)
            if error.path == stream.state or error.path.startswith(stream.prefix):
                self._report(error)
                self._damaged.add(row.machine)
                return
        raise error

    async def _unseen(self, batch: Sequence[Row]) -> list[Row]:
        """The rows whose versions are still free. Where a version is taken, its event must be the row's own."""
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
            if document is not None and not row.is_recorded_as(document.decode(EVENT).event_id):
                raise ImportConflict(row.number, path)
            if document is None and row.version >= states[row.machine].floor:  # below the floor, it was cleaned up
                raise EventSourcingError(path, "is missing: run `tai-state verify`")
        numbers = {row.number for row in seen}
        return [row for row in batch if row.number not in numbers]

    def _change(self, rows: Sequence[Row]) -> Change:
        """One append for each machine, with all of the machine's rows in the batch."""
        by_machine: dict[str, list[Row]] = {}
        for row in rows:
            by_machine.setdefault(row.machine, []).append(row)
        appends: list[Append] = []
        compositions: list[Composition] = []
        call = self._core.settings.new_id()
        for each in by_machine.values():
            # The ids of rows are the same in every import of them.
            first, *others = [row.draft for row in each]
            drafts = (msgspec.structs.replace(first, call=call), *others)
            appends.append(append_of(self._stream(each[0]), each[0].version - 1, drafts))
            compositions.append(Composition(drafts, dict(each[-1].data)))
        return Change(tuple(appends), always(*compositions))

    def _stream(self, row: Row) -> Stream:
        return self._core.layout.stream(self._file.governor_id, row.machine)
