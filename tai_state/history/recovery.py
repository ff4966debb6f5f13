"""Recovery: checks that states agree with their streams, and rebuilds those that do not."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from functools import partial
from typing import NamedTuple

import anyio
import msgspec

from tai_state.engines.api import ABSENT, ANYTHING, PRESENT, At, Check, Committed, Delete, Document, Put, Scan, Write
from tai_state.engines.batching import Batches, weight_of, weight_of_all
from tai_state.engines.matters import Commit, Done, Look, Verdict, still_hold
from tai_state.engines.rewriting import Rewrite, write_unless_moved
from tai_state.engines.settling import settle
from tai_state.errors import EventSourcingError, Inconsistent, ReducerMissing, StateNotFound
from tai_state.history.cleaned import mend_notes, put_note
from tai_state.history.dropping import drop_damaged_snapshots, drop_stray, stray_snapshots
from tai_state.history.ending import end_restore
from tai_state.history.essentials import all_governors, mend_governor, mend_markers
from tai_state.history.extents import first_known
from tai_state.history.folding import first_fold
from tai_state.history.replay import Replay
from tai_state.history.reporting import RecoveryProgress, RecoveryReport
from tai_state.history.retirements import mend_records
from tai_state.history.survey import states_without_events, streams_with_events
from tai_state.history.timers import mend_timers, rebuilt_timer
from tai_state.history.unfinished import no_restore, unfinished_restore
from tai_state.streams.core import Core
from tai_state.streams.identity import mend_store
from tai_state.streams.layout import Stream
from tai_state.streams.reader import Folded, Stored, check_genuine, floor_in
from tai_state.streams.records import STATE, StateRecord, head_of, state_after, state_text
from tai_state.streams.snapshots import Kept, sound_snapshot
from tai_state.values.digests import NO_STATE_TEXT, state_hash
from tai_state.values.ids import VERSION_MAX, escape_id
from tai_state.values.json import decode

_logger = logging.getLogger("tai_state.history")

_ATTEMPTS_MAX = 16


class Recovered(NamedTuple):
    """A state that agrees with its stream, when the engine stored it, and whether it had to be rebuilt."""

    record: StateRecord
    recorded_us: int
    is_rebuilt: bool


class _Rebuilt(NamedTuple):
    """A state built from its stream.

    Attributes:
        record: the state.
        unsound: the versions of kept snapshots that cannot be relied on.
        is_followed: whether the stream goes on after this state.
    """

    record: StateRecord
    unsound: tuple[int, ...]
    is_followed: bool


class Recovery:
    """Recovers single states, or all states of a store.

    Args:
        core: the core of the store.
        replay: the fold with the application's reducers.
    """

    def __init__(self, core: Core, replay: Replay) -> None:
        self._core = core
        self._replay = replay
        self._strange: list[Inconsistent] = []
        self._mended: list[str] = []
        self._governors: list[str] = []

    async def recover(
        self,
        governor_id: str | None,
        concurrency: int,
        progress: RecoveryProgress | None,
        resume: tuple[str, str] | None,
        *,
        ends_restore: bool = False,
    ) -> RecoveryReport:
        """Recover all states of one governor, or of all; if asked to, end an unfinished restore of that one first."""
        core = self._core
        if (store_id := await mend_store(core.engine, core.layout, core.bounds, core.store_id)) is not None:
            self._mended.append(core.layout.store)
        if governor_id is not None and ends_restore:
            await end_restore(core, governor_id)
        report = RecoveryReport(resume=resume)
        pending: list[Stream] = []
        async with aclosing(self._streams(governor_id, resume)) as streams:
            async for stream in streams:
                pending.append(stream)
                if len(pending) >= concurrency:
                    report = await self._recover_some(pending, report)
                    pending = []
                    if progress is not None:
                        await progress(report)
        report = await self._recover_some(pending, report)
        for governor in self._governors:
            await self._drop_strays(governor)
        self._mended += await mend_timers(core, self._governors, everywhere=governor_id is None)
        strange = [(error.path, error.what) for error in self._strange]
        return msgspec.structs.replace(
            report.with_more(self._mended, [], strange),
            new_store_id=None if store_id == core.store_id else store_id,
            resume=None,
        )

    async def recover_one(self, stream: Stream) -> Recovered:
        """Make one state agree with its stream.

        This reads the state, the newest kept snapshot, the snapshot's event and the events after it. If the document
        of the state is gone, or lists the wrong snapshots, it also looks for snapshots and for the first event.

        Raises:
            StateNotFound: the state was never written.
            ReducerMissing: the stream needs a reducer that was not given.
            EventSourcingError, NotRetained, CorruptDocument: the state cannot be repaired.
        """
        for _ in range(_ATTEMPTS_MAX):
            [document] = (await self._core.engine.read([stream.state])).documents
            record = _intact(document)
            rebuilt = None if record is None else await self._by_its_own_list(stream, record)
            if (
                document is not None
                and record is not None
                and rebuilt is not None
                and _agree(record, rebuilt.record)
                and (not rebuilt.is_followed or await self._has_moved(stream, document))
            ):
                return Recovered(record, document.updated_us, is_rebuilt=False)
            alone = await no_restore(self._core, stream.governor_id)
            if rebuilt is None or rebuilt.is_followed:
                kept = await self._kept(stream)
                rebuilt = await self._rebuild(stream, kept, await first_known(self._core, stream, kept))
            recovered = await self._mend(stream, document, record, rebuilt, alone)
            if recovered is not None:
                return recovered
        raise EventSourcingError(stream.state, f"changed {_ATTEMPTS_MAX} times while it was checked: run it again")

    async def _has_moved(self, stream: Stream, document: Document) -> bool:
        """Whether a state was written since it was read: then the events that follow it are new ones."""
        [now] = (await self._core.engine.read([stream.state])).documents
        return now is not None and now.revision != document.revision

    async def _by_its_own_list(self, stream: Stream, record: StateRecord) -> _Rebuilt | None:
        """The state at its version, built on what its document says of its stream; None if that proves wrong."""
        if record.floor > record.version:
            return None
        try:
            rebuilt = await self._rebuild(stream, record.kept, record.floor, record.version)
        except ReducerMissing:
            raise
        except Inconsistent:
            return None
        names = ("kept", "kept_as_of", "unkept_bytes")
        if rebuilt is None or any(getattr(rebuilt.record, name) != getattr(record, name) for name in names):
            return None
        return rebuilt

    async def _mend(
        self,
        stream: Stream,
        document: Document | None,
        record: StateRecord | None,
        rebuilt: _Rebuilt | None,
        alone: Check,
    ) -> Recovered | None:
        """Store a rebuilt state; None if another writer changed the stream meanwhile, or a restore began."""
        if rebuilt is None:
            if document is None:
                raise StateNotFound(stream.state)
            raise EventSourcingError(stream.state, "has no events from which to rebuild it: restore an export")
        after = rebuilt.record
        if record is not None and record.version > after.version and record.digest != after.digest:
            raise EventSourcingError(
                stream.event(record.version), "is missing although the state is at its version: restore a backup"
            )
        as_seen = ABSENT if document is None else At(document.revision)
        writes: list[Write] = [
            Put(stream.state, after, as_seen),
            Check(stream.event(after.version), PRESENT),
            Check(stream.event(after.version + 1), ABSENT),
            alone,
            *rebuilt_timer(stream, record, after),
            *([put_note(stream)] if after.floor > 1 else []),
        ]
        unsound = await self._few(Check(stream.state, as_seen), map(stream.snapshot, rebuilt.unsound), writes)
        if unsound is None:
            return None
        writes += unsound
        commit: Commit[Committed | None] = Commit(writes, _as_is)

        def decide(look: Look) -> Verdict[Committed | None]:
            return commit if still_hold(writes, look) else Done(None)

        paths = [write.path for write in writes]
        committed = await settle(self._core.engine, Rewrite(paths, decide), self._core.bounds, commit)
        if committed is None:
            return None
        self._core.appender.heads.put(stream.state, head_of(after, committed.revision))
        _logger.warning("a state was rebuilt from its events", extra={"path": stream.state})
        return Recovered(after, committed.time_us, is_rebuilt=True)

    async def _few(self, as_seen: Check, unsound: Iterable[str], beside: Sequence[Write]) -> Sequence[Write] | None:
        """Delete unsound snapshots until one commit has room for the deletions of the rest beside its other writes.

        Returns those deletions; None if another writer wrote meanwhile.
        """
        deletes = [Delete(path, ANYTHING) for path in unsound]
        batches = Batches(self._core.engine.capabilities).split(deletes, weight_of, weight_of_all(beside))
        *first, rest = [*batches] or [[]]
        for batch in first:
            if not await write_unless_moved(self._core.engine, [as_seen, *batch], self._core.bounds):
                return None
        return rest

    async def _rebuild(
        self, stream: Stream, kept: Sequence[int], floor: int, until: int = VERSION_MAX
    ) -> _Rebuilt | None:
        """The state built from the stream; None if the stream has no events.

        Args:
            stream: the stream of the state.
            kept: the versions of the kept snapshots.
            floor: the version below which events may have been cleaned up.
            until: the last version to fold.
        """
        base, sound = await self._base(stream, kept)
        folding = self._replay.folding()
        folded, last = first_fold(), None
        as_of = kept_as_of = ""
        unkept_bytes = 0
        is_followed = False
        if base is not None:
            folded, last = base.folded, base.stored
            as_of = kept_as_of = base.record.as_of
        elif (beginning := await self._beginning(stream, floor)) is not None:
            folded, last = Folded().then(beginning.record), beginning
            as_of = beginning.record.as_of or beginning.record.timestamp
            kept_as_of, unkept_bytes = beginning.record.timestamp, beginning.record.unkept_bytes
        async for stored in self._core.reader.records(stream, last.record.version + 1 if last else 1):
            event = stored.record
            if last is not None and event.version > until:
                is_followed = True
                break
            folded = folding.follow(folded, last.record if last else None, stream, event)
            as_of = max(as_of, event.timestamp)
            kept_as_of = kept_as_of or event.timestamp
            unkept_bytes += event.unkept_bytes
            last = stored
        if last is None:
            return None
        if not last.record.is_genuine(stream.governor_id):
            raise EventSourcingError(
                stream.event(last.record.version), "was edited: its digest does not match: restore a backup"
            )
        if folded.text is None or state_hash(folded.text) != last.record.state_hash:
            raise EventSourcingError(
                stream.event(last.record.version), "does not lead to the state it recorded: restore a backup"
            )
        record = msgspec.structs.replace(
            state_after(last.record, stream.event(last.record.version)),
            data=None if folded.text == NO_STATE_TEXT else decode(folded.text),
            deleted=folded.text == NO_STATE_TEXT,
            as_of=as_of,
            kept=sound,
            kept_as_of=kept_as_of,
            unkept_bytes=unkept_bytes,
            floor=floor,
        )
        return _Rebuilt(record, tuple(version for version in kept if version not in sound), is_followed)

    async def _beginning(self, stream: Stream, floor: int) -> Stored | None:
        """The event at the floor of a cleaned stream, if it carries its state; none above the floor of a state."""
        if floor == 1:
            return None
        note, state = (await self._core.engine.read([stream.cleaned, stream.state])).documents
        stored = None if note is None else await self._core.reader.one(stream, floor)
        if stored is None or stored.record.to_state is None or floor > (floor_in(state) or floor):
            return None
        check_genuine(stream, stored.record)
        return stored

    async def _base(self, stream: Stream, kept: Sequence[int]) -> tuple[Kept | None, tuple[int, ...]]:
        """The newest sound snapshot, and the versions of that snapshot and all older ones."""
        for index in reversed(range(len(kept))):
            found = await sound_snapshot(self._core, stream, kept[index], as_stored=True)
            if found is not None:
                return found, tuple(kept[: index + 1])
        return None, ()

    async def _kept(self, stream: Stream) -> list[int]:
        """The versions of the snapshots that are stored."""
        start, end = stream.range(1)
        documents = self._core.engine.scan(Scan(stream.snapshots, start=start, end=end))
        return [
            place.version async for each in documents if (place := self._core.layout.placed(stream.governor_id, each))
        ]

    async def _recover_some(self, streams: list[Stream], report: RecoveryReport) -> RecoveryReport:
        outcomes: dict[str, bool | Exception] = {}

        async def one(stream: Stream) -> None:
            try:
                outcomes[stream.state] = (await self.recover_one(stream)).is_rebuilt
                if await drop_damaged_snapshots(self._core, stream):
                    await self.recover_one(stream)  # what is counted since the newest snapshot may be wrong now
                    outcomes[stream.state] = True
            except StateNotFound:
                what = "the names of its events are damaged, so that they cannot be read: restore a backup"
                outcomes[stream.state] = EventSourcingError(stream.state, what)
            except Exception as error:  # noqa: BLE001 - raised below, and in no group
                outcomes[stream.state] = error

        async with anyio.create_task_group() as tasks:
            for stream in streams:
                tasks.start_soon(one, stream)
        for outcome in outcomes.values():
            if isinstance(outcome, Exception) and not isinstance(outcome, Inconsistent):
                raise outcome
        in_order = [(stream.state, outcomes[stream.state]) for stream in streams]
        rebuilt = [path for path, outcome in in_order if outcome is True]
        unchecked = [path for path, outcome in in_order if isinstance(outcome, ReducerMissing)]
        failed = [
            (outcome.path, outcome.what)
            for _, outcome in in_order
            if isinstance(outcome, Inconsistent) and not isinstance(outcome, ReducerMissing)
        ]
        return msgspec.structs.replace(
            report.with_more(rebuilt, unchecked, failed),
            checked=report.checked + len(streams),
            sound=report.sound + sum(outcome is False for outcome in outcomes.values()),
            resume=(streams[-1].governor_id, streams[-1].state_id) if streams else report.resume,
        )

    async def _streams(self, governor_id: str | None, resume: tuple[str, str] | None) -> AsyncGenerator[Stream, None]:
        """Every stream that has events, and then every state without events."""
        if governor_id is not None:
            governors = [governor_id]
        else:
            governors = await all_governors(self._core, self._strange)
        for governor in governors:
            if resume is not None and escape_id(governor) < escape_id(resume[0]):
                continue
            if (error := await unfinished_restore(self._core, governor)) is not None:
                self._strange.append(error)
                continue
            if await mend_governor(self._core, governor):
                self._mended.append(self._core.layout.governor(governor))
            self._governors.append(governor)
            begin = resume[1] if resume is not None and governor == resume[0] else None
            for find in (partial(streams_with_events, after=begin), states_without_events):
                async with aclosing(find(self._core, governor, strange=self._strange)) as streams:
                    async for stream in streams:
                        yield stream
            mended, lost = await mend_markers(self._core, governor)
            self._strange += lost
            mended += await mend_records(self._core, governor, self._strange)
            self._mended += [*mended, *await mend_notes(self._core, governor)]

    async def _drop_strays(self, governor_id: str) -> None:
        """Drop the snapshots that no state lists, once it is sure that their states list the right ones."""
        async with aclosing(stray_snapshots(self._core, governor_id)) as strays:
            async for stray in strays:
                try:
                    if stray.stream is not None:
                        await self.recover_one(stray.stream)
                except Inconsistent:
                    continue  # the report names the state already
                if await drop_stray(self._core, stray):
                    self._mended.append(stray.snapshot.path)


def _agree(record: StateRecord, rebuilt: StateRecord) -> bool:
    """Whether a state equals the one built from its stream, in its text, too: as values, 1 and 1.0 are equal."""
    return record == rebuilt and state_text(record) == state_text(rebuilt)


def _intact(document: Document | None) -> StateRecord | None:
    """The record of a state; None if its document is missing or cannot be read."""
    try:
        return None if document is None else document.decode(STATE)
    except Inconsistent:
        return None


def _as_is(committed: Committed) -> Committed:
    return committed
