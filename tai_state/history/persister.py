"""The history of machines: replay, time travel, recovery, validation, cleanup, export and import."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from os import PathLike, fsencode
from pathlib import Path
from typing import NamedTuple

from tai_state.engines.observing import RecoveryTime, tell
from tai_state.engines.paging import Paged
from tai_state.errors import InvalidData, StateNotFound
from tai_state.history.cleanup import Cleanup, CleanupStats
from tai_state.history.csvfile import Columns, CsvFile
from tai_state.history.exportfile import TransferStats
from tai_state.history.exporting import Export
from tai_state.history.folding import Reducer, Reducers, check_reducers
from tai_state.history.importing import Acknowledged, CsvImport, ImportStats
from tai_state.history.recording import drafts_of, fold_drafts
from tai_state.history.recovery import Recovery
from tai_state.history.replay import Replay
from tai_state.history.reporting import RecoveryProgress, RecoveryReport
from tai_state.history.transfer import Restore
from tai_state.history.validation import ConsistencyReport, Validation
from tai_state.streams import writing
from tai_state.streams.changes import Appended, Fence, Known, append_of, separately
from tai_state.streams.core import HasCore, core_of
from tai_state.streams.layout import Stream
from tai_state.streams.planning import Composition
from tai_state.streams.reader import Folded
from tai_state.streams.writing import Intent
from tai_state.values.checks import check_callable, check_duration, check_flag, check_long_work
from tai_state.values.digests import NO_STATE_TEXT, state_hash
from tai_state.values.events import JsonEvent, NewEvent
from tai_state.values.expected import NO_STATE, Expected
from tai_state.values.json import normalise_object
from tai_state.values.metadata import ChangeMetadata
from tai_state.values.states import DeletedState, JsonSnapshot, JsonState, StateSnapshot


class LoadedState(NamedTuple):
    """A state that agrees with its stream, and whether it had to be rebuilt."""

    snapshot: JsonSnapshot
    recovered: bool


class StateMachinePersister:
    """Records transitions, and can return any past state.

    Args:
        store: an open store.
        reducers: for each action, the function that folds its payload-carrying events into the state. Events of other
            actions carry the state themselves or leave it as it was.
    """

    def __init__(self, store: HasCore, reducers: Reducers | None = None) -> None:
        self._core = core_of(store)
        self._reducers = check_reducers(reducers)
        self._replay = Replay(self._core, self._reducers)

    def __repr__(self) -> str:
        reducers = f"reducers for {len(self._reducers)} actions" if self._reducers else "no reducers"
        return f"<{type(self).__name__} of store {self._core.store_id}, {reducers}>"

    async def log_transition(
        self,
        governor_id: str,
        from_state: JsonState | None,
        to_state: JsonSnapshot,
        action: str,
        metadata: ChangeMetadata | None = None,
        *,
        event_id: str | None = None,
        timestamp: datetime | None = None,
        fence: Fence | None = None,
    ) -> JsonEvent:
        """Record a transition: the new state and its event, in one commit.

        Args:
            governor_id: the owner and namespace.
            from_state: the state as it was read; its version and data must still be current. None: there was none.
            to_state: names the state and holds its new data; make it with ``from_state.with_data(…)`` or
                ``StateSnapshot.unsaved(…)``.
            action: what happened.
            metadata: who made the change and why; by default, what the store was opened with.
            event_id: the caller's own id, so that repeating the call changes nothing.
            timestamp: when it happened; now, if not given.
            fence: a lease; the change is made only while its lock is held.

        Raises:
            InvalidData: ``from_state`` or ``to_state`` is of another state, or the data of ``from_state`` is not what
                is stored at its version.
            Otherwise as ``StateStore.save_state``.
        """
        if type(to_state) is not StateSnapshot or type(from_state) not in (StateSnapshot, DeletedState, type(None)):
            raise InvalidData("to_state must be a StateSnapshot; from_state a StateSnapshot, a DeletedState or None")
        if from_state is not None and from_state.state_id != to_state.state_id:
            raise InvalidData(f"from_state is {from_state.state_id!r} and to_state is {to_state.state_id!r}")
        core = self._core
        stream = core.layout.stream(governor_id, to_state.state_id)
        if to_state.governor_id != governor_id:
            raise InvalidData(f"to_state is a state of {to_state.governor_id!r}, not of {governor_id!r}")
        text, data = normalise_object(to_state.data, "to_state.data")
        before = None if from_state is None else from_state.data
        text_before = NO_STATE_TEXT if before is None else normalise_object(before, "from_state.data")[0]
        asserted = Folded(text_before, core.settings.upcasting.schema, state_hash(text_before))
        draft = writing.draft(core, stream, Intent(core.who(metadata), action, event_id, timestamp), state=text)

        def compose(known: Known) -> Composition:
            head = known.head
            if core.settings.upcasting.is_current(head.schema) and asserted.state_hash != head.state_hash:
                raise InvalidData(f"from_state is not what is stored at version {head.version}", stream.state)
            return Composition((draft,), data)

        append = append_of(stream, NO_STATE if from_state is None else from_state, (draft,))
        appended = await core.appender.append_one(append, separately(compose), core.guards(fence))
        if appended.is_repeated:
            return (await self._recorded(stream, appended))[0]
        return writing.event_of(core, stream, appended, asserted)

    async def record(
        self,
        governor_id: str,
        state_id: str,
        events: Sequence[NewEvent],
        metadata: ChangeMetadata | None = None,
        *,
        expected: Expected,
        fence: Fence | None = None,
    ) -> list[JsonEvent]:
        """Record payload-carrying events, and the state that the reducers fold from them, in one commit.

        Args:
            governor_id: the owner and namespace.
            state_id: the state under it.
            events: in order; an event whose action has no reducer leaves the state as it is.
            metadata: who made the change and why, for all events; by default, what the store was opened with.
            expected: what the writer believes the version to be.
            fence: as for :meth:`log_transition`.

        Raises:
            InvalidData: there are no events, or a payload or a folded state is not plain JSON.
            Otherwise as ``StateStore.save_state``.
        """
        core = self._core
        stream = core.layout.stream(governor_id, state_id)
        drafts = drafts_of(core, stream, events, core.who(metadata))
        folded: list[Folded] = []

        def compose(known: Known) -> Composition:
            composition, folded[:] = fold_drafts(core, self._reducers, stream, known, drafts)
            return composition

        append = append_of(stream, expected, drafts, needs_state=True)
        appended = await core.appender.append_one(append, separately(compose), core.guards(fence))
        if appended.is_repeated:
            return await self._recorded(stream, appended)
        return [
            core.reader.event(stream, event, appended.recorded_us, before, now)
            for event, (before, now) in zip(appended.events, pairwise(folded), strict=True)
        ]

    async def _recorded(self, stream: Stream, appended: Appended) -> list[JsonEvent]:
        """The events of an earlier call with the same ids, with the states before and after each of them."""
        first, last = appended.events[0].version, appended.events[-1].version
        return [event async for event in self._replay.events(stream, first - 1, last, None)]

    async def load_state(self, governor_id: str, state_id: str) -> LoadedState:
        """Load a state, check it against its stream, and rebuild it from the stream if the two disagree.

        Raises:
            StateNotFound: the state was never written, or is deleted.
            EventSourcingError, NotRetained: the state cannot be built from its stream.
        """
        stream = self._core.layout.stream(governor_id, state_id)
        begun = self._core.bounds.monotonic()
        record, recorded_us, is_rebuilt = await Recovery(self._core, self._replay).recover_one(stream)
        self._tell_recovery(1, begun)
        if record.deleted:
            raise StateNotFound(stream.state)
        return LoadedState(self._core.snapshot(stream, record, recorded_us), is_rebuilt)

    async def get_state_at(self, governor_id: str, state_id: str, version_or_time: int | datetime) -> JsonState:
        """The state as it was at a version, or at a time.

        At time T you get the newest version for which no event up to it has a timestamp after T.

        Raises:
            StateNotFound: the state had not been written by then.
            NotRetained: the events it would be built from were cleaned up.
            ReducerMissing: it needs a reducer that was not given.
        """
        return await self._replay.at(self._core.layout.stream(governor_id, state_id), version_or_time)

    def replay(
        self,
        governor_id: str,
        state_id: str,
        *,
        after: int = 0,
        until: int | None = None,
        reducer: Reducer | None = None,
    ) -> Paged[JsonEvent]:
        """The events of a state, oldest first, each with the states before and after it, folded where needed.

        Args:
            governor_id: the owner and namespace.
            state_id: the state under it.
            after: start with the event after this version.
            until: stop after the event of this version; None: go on to the newest.
            reducer: folds the payload-carrying events whose action has no reducer of its own.

        Raises:
            StateNotFound: the state was never written.
            NotRetained: the events asked for were cleaned up.
            EventSourcingError: an event is missing, needs a reducer, or does not fold to the state that was recorded.
        """
        return self._replay.events(self._core.layout.stream(governor_id, state_id), after, until, reducer)

    async def recover(
        self,
        governor_id: str | None = None,
        *,
        concurrency: int = 8,
        progress: RecoveryProgress | None = None,
        resume: tuple[str, str] | None = None,
        end_restore: bool = False,
    ) -> RecoveryReport:
        """Make every state agree with its stream: rebuild the states that are missing or wrong.

        Args:
            governor_id: the governor; None: all of them.
            concurrency: how many states to recover at a time.
            progress: called with the report so far, after every ``concurrency`` states.
            resume: ``report.resume`` of an interrupted recovery, to go on from there.
            end_restore: if a restore of this governor was interrupted, take what it has written for all there is. For
                a restore whose file is lost, where there is no other export either: what has not been restored is
                given up. A state that was only begun becomes what its events lead to.

        Raises:
            InvalidData: an argument is not valid, or a restore is to be ended and no governor is named.
            GovernorExists: another call has ended the restore, or has gone on from it, meanwhile.
            GovernorNotFound: nothing was ever written under this governor.
        """
        check_long_work(concurrency, progress, resume)
        check_flag(end_restore, "end_restore")
        if end_restore and governor_id is None:
            raise InvalidData("end_restore needs the governor whose restore is to be ended")
        await self._require(governor_id)
        begun = self._core.bounds.monotonic()
        recovery = Recovery(self._core, self._replay)
        report = await recovery.recover(governor_id, concurrency, progress, resume, ends_restore=end_restore)
        self._tell_recovery(report.checked, begun)
        return report

    async def validate_consistency(self, governor_id: str | None = None) -> ConsistencyReport:
        """Check every digest, fold, state and kept snapshot of one governor, or of all. Changes nothing.

        Raises:
            GovernorNotFound: nothing was ever written under this governor.
        """
        await self._require(governor_id)
        return await Validation(self._core, self._replay).run(governor_id)

    async def cleanup_old_data(self, governor_id: str | None = None, *, keep: timedelta) -> CleanupStats:
        """Remove events older than ``keep`` that a kept snapshot covers, and older snapshots.

        Cleans one governor, or all if none is given.

        - Time travel to any time within ``keep`` keeps working.
        - Two kept snapshots of each state stay, and events younger than an hour stay.
        - If the policy would have kept another snapshot that is old enough, cleanup makes it. If the events cannot be
          folded for that, they stay, and a warning is logged.
        - If interrupted, run it again to go on from where it stopped.

        Raises:
            InvalidData: ``keep`` is not a length of time.
            GovernorNotFound: nothing was ever written under this governor.
        """
        check_duration(keep, "keep")
        await self._require(governor_id)
        return await Cleanup(self._core, self._replay, keep).run(governor_id)

    async def export_history(self, governor_id: str, path: str | PathLike[str]) -> TransferStats:
        """Write the whole history of a governor to a file, as lines of JSON with digests.

        The file shows the governor as it is at one moment: each change made meanwhile is in it as a whole, or not at
        all. On Firestore, reading may take an hour at most.

        Each line is checked as a restore would check it, so a file that was written can be restored. If a line cannot
        be restored, no file is left.

        Raises:
            GovernorNotFound: nothing was ever written under this governor.
            CorruptDocument, EventSourcingError: a document is damaged or missing; ``path`` names it.
            StoreUnusable: on Firestore, reading took longer than an hour.
            InvalidData: ``path`` is not the path of a file.
        """
        file = _file(path)
        await self._require(governor_id)
        return await Export(self._core).run(governor_id, file)

    async def import_history(self, path: str | PathLike[str], *, keep_changed: bool = False) -> TransferStats:
        """Restore an exported governor, with its digests, into a store that does not have it.

        The whole file is checked first. If the restore is interrupted, run it again to go on from where it stopped. A
        state that was whole by then, and was changed since, keeps its changes.

        Args:
            path: the file.
            keep_changed: if states were made in the governor before an interrupted restore went on, keep them as they
                are and leave out those of the file; the result's ``kept`` names them. If a restore of another file of
                the same governor is unfinished, go on from what it has written.

        Raises:
            GovernorExists: the governor already has states or events, or a restore of another file is unfinished, and
                nothing was written; or states were made in it after the restore had begun: ``changed`` names them, and
                all others are restored; or another restore went on from this one, which writes no more.
            InvalidData, CorruptDocument, IncompatibleFormat: the file is damaged, or is not an export that this
                release can read; or this store was retired in it; or the note of an earlier restore is damaged, so
                that ``keep_changed`` is needed. Nothing was written.
        """
        check_flag(keep_changed, "keep_changed")
        return await Restore(self._core).run(_file(path), keep_changed=keep_changed)

    async def import_csv(
        self,
        governor_id: str,
        path: str | PathLike[str],
        columns: Columns,
        acknowledged: Acknowledged | None = None,
    ) -> ImportStats:
        """Record a CSV log of changes, one event per row. If run again, it records nothing twice.

        Row k of a machine becomes its version k. The whole file is checked before anything is written.

        Args:
            governor_id: the owner and namespace of the machines.
            path: the file; it is compressed if its name ends in ``.gz``.
            columns: what the columns mean.
            acknowledged: called with the counts so far, after each batch of rows is durable.

        Raises:
            InvalidId, InvalidData: a row cannot be recorded; nothing was written.
            ImportConflict: a machine already has a different event where a row would go.
        """
        if acknowledged is not None:
            check_callable(acknowledged, "acknowledged")
        with CsvFile(_file(path), governor_id, columns) as file:
            return await CsvImport(self._core, file).run(acknowledged)

    def _tell_recovery(self, states: int, begun: float) -> None:
        observer = self._core.settings.observer
        if observer is not None:
            seconds = self._core.bounds.monotonic() - begun
            tell(observer.recovered, RecoveryTime(states=states, seconds=seconds))

    async def _require(self, governor_id: str | None) -> None:
        if governor_id is not None:
            await self._core.require_governor(governor_id)


def _file(path: str | PathLike[str]) -> Path:
    """The path of a file.

    Raises:
        InvalidData: it is not a path, or no file can have that name.
    """
    try:
        found = Path(path)
        is_name = path != "" and b"\0" not in fsencode(found)
    except (TypeError, ValueError):
        is_name, found = False, Path()
    if not is_name:
        raise InvalidData("path must be the path of a file, as text or as a Path")
    return found
