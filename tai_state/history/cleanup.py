"""Cleanup removes events that are old enough and covered by a kept snapshot.

Two kept snapshots always stay. The oldest of those that stay is verified first, and its own event stays as the anchor
of the chain. If the policy would have kept a snapshot between the ones that stay, cleanup makes that snapshot and keeps
it in the commit that moves the floor to it. Events are deleted after that commit, oldest first, so that an interruption
leaves a shorter stream without a gap.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import aclosing
from datetime import timedelta
from itertools import takewhile
from typing import NamedTuple

import msgspec

from tai_state.engines.api import ANYTHING, At, Delete, Put, Scan, Write
from tai_state.engines.batching import Batches, weight_of, weight_of_all
from tai_state.engines.matters import Commit, Done, Look, Verdict
from tai_state.engines.rewriting import Rewrite, write
from tai_state.engines.settling import settle
from tai_state.errors import CommitTooLarge, DocumentTooLarge, Inconsistent
from tai_state.history.cleaned import put_note
from tai_state.history.essentials import all_governors
from tai_state.history.folding import first_fold
from tai_state.history.replay import Replay
from tai_state.history.survey import streams_with_events
from tai_state.history.unfinished import unfinished_restore
from tai_state.streams.core import Core
from tai_state.streams.layout import Stream
from tai_state.streams.policies import SinceKept
from tai_state.streams.reader import Folded
from tai_state.streams.records import STATE, EventRecord, SnapshotRecord, StateRecord
from tai_state.streams.snapshots import Kept, is_state_after, sound_snapshot
from tai_state.values.digests import NO_STATE_TEXT
from tai_state.values.json import decode
from tai_state.values.times import format_time, format_us, from_us, is_far_ahead, to_us

_logger = logging.getLogger("tai_state.history")

AGE_MIN = timedelta(hours=1)
"""Events younger than this stay. No commit can be under way for so long."""

FAILED_MAX = 1_000
"""How many failures a report lists."""

_SNAPSHOTS_MIN = 2


class CleanupStats(msgspec.Struct, frozen=True, kw_only=True):
    """What a cleanup removed.

    Attributes:
        states: how many states had events removed.
        events_deleted: how many events were removed.
        snapshots_deleted: how many kept snapshots were removed.
        bytes_deleted: the size of the removed events, as JSON text.
        skipped: how many states were skipped, each with a warning: other writers kept changing them (run it again),
            they are damaged or lost (run ``verify``), or their document has no room for the note of a cleanup.
        failed: the path and reason of each state and governor that another cleanup would skip too; the first 1,000.
    """

    states: int = 0
    events_deleted: int = 0
    snapshots_deleted: int = 0
    bytes_deleted: int = 0
    skipped: int = 0
    failed: tuple[tuple[str, str], ...] = ()


class _Cutoff(NamedTuple):
    """The time before which events may be removed: as text for their timestamps, and in microseconds for the engine.

    Attributes:
        now_us: the engine's time.
    """

    text: str
    us: int
    now_us: int

    def credible(self, time: str, recorded_us: int) -> str:
        """A time of an event, or that of its recording if it is far ahead of now and would keep events for decades."""
        return format_us(recorded_us) if is_far_ahead(time, self.now_us) else time


class _FloorMove(NamedTuple):
    """How many kept snapshots a commit dropped, and how many are still to be dropped."""

    dropped: int
    left: int


class _MoveFloor(Rewrite[_FloorMove | None]):
    """Moves a floor; gives up with None if other writers are always faster."""

    def __init__(self, stream: Stream, decide: Callable[[Look], Verdict[_FloorMove | None]]) -> None:
        super().__init__([stream.state, stream.cleaned], decide)

    def outrun(self) -> None:
        return None


class Cleanup:
    """Cleans the streams of one store.

    Args:
        core: the core of the store.
        replay: the fold with the application's reducers.
        keep: history younger than this stays, and time travel to it keeps working.
        age_min: replaces :data:`AGE_MIN` in tests.
    """

    def __init__(self, core: Core, replay: Replay, keep: timedelta, age_min: timedelta = AGE_MIN) -> None:
        self._core = core
        self._folding = replay.folding()
        self._keep = max(keep, age_min)
        self._batches = Batches(core.engine.capabilities)

    async def run(self, governor_id: str | None) -> CleanupStats:
        """Clean all streams of one governor, or of all."""
        if governor_id is not None:
            return await self._governor(governor_id, CleanupStats())
        total = CleanupStats()
        strange: list[Inconsistent] = []
        for each in await all_governors(self._core, strange):
            total = await self._governor(each, total)
        for error in strange:
            _logger.warning("a governor was not cleaned up: its document %s", error.what, extra={"path": error.path})
        failed = [(error.path, error.what) for error in strange]
        return msgspec.structs.replace(total, failed=(*total.failed, *failed)[:FAILED_MAX])

    async def _governor(self, governor_id: str, total: CleanupStats) -> CleanupStats:
        """Clean all streams of a governor, and add the counts to the total; none while its restore is unfinished."""
        restore = await unfinished_restore(self._core, governor_id)
        if restore is not None:
            _logger.warning("a governor was not cleaned up: it %s", restore.what, extra={"path": restore.path})
            return msgspec.structs.replace(total, failed=(*total.failed, (restore.path, restore.what))[:FAILED_MAX])
        async with aclosing(streams_with_events(self._core, governor_id)) as streams:
            async for stream in streams:
                done = await self._stream_or_skip(stream)
                total = CleanupStats(
                    states=total.states + done.states,
                    events_deleted=total.events_deleted + done.events_deleted,
                    snapshots_deleted=total.snapshots_deleted + done.snapshots_deleted,
                    bytes_deleted=total.bytes_deleted + done.bytes_deleted,
                    skipped=total.skipped + done.skipped,
                    failed=(*total.failed, *done.failed)[:FAILED_MAX],
                )
        return total

    async def _stream_or_skip(self, stream: Stream) -> CleanupStats:
        """Clean a stream; skip it with a warning if its state cannot be read, or has no room to note the cleanup."""
        try:
            return await self._stream(stream)
        except (Inconsistent, DocumentTooLarge, CommitTooLarge) as error:
            facts = {"path": stream.state, "error": type(error).__name__}
            _logger.warning("a state was not cleaned up: %s", error, extra=facts)
            return CleanupStats(skipped=1, failed=((stream.state, str(error)),))

    async def _stream(self, stream: Stream) -> CleanupStats:
        reading = await self._core.engine.read([stream.state])
        [document] = reading.documents
        if document is None:
            if isinstance(error := await self._core.reader.absence_error(stream), Inconsistent):
                raise error
            return CleanupStats()
        record = document.decode(STATE)
        try:
            moment = from_us(reading.time_us) - self._keep
        except OverflowError:
            return CleanupStats()  # the cutoff is before the year 1, so nothing is older
        cutoff = _Cutoff(format_time(moment), to_us(moment), reading.time_us)
        older = await self._kept_before(stream, record, cutoff)
        kept = older.record if older else None
        made = await self._make_snapshot(stream, record, older, cutoff)
        if made is not None:
            try:
                return await self._clean(stream, made, cutoff, is_made=True)
            except (DocumentTooLarge, CommitTooLarge) as error:
                _logger.warning("cleanup cannot make a snapshot: it is too large", extra=error.fields())
        return CleanupStats() if kept is None else await self._clean(stream, kept, cutoff, is_made=False)

    async def _clean(self, stream: Stream, base: SnapshotRecord, cutoff: _Cutoff, *, is_made: bool) -> CleanupStats:
        """Remove the events before a snapshot, which stays as the oldest one."""
        dropped = await self._move_floor(stream, base, is_made=is_made)
        if dropped is None:
            _logger.warning("a state in use was not cleaned up: run cleanup again", extra={"path": stream.state})
            return CleanupStats(skipped=1)
        events, size = await self._delete_events(stream, base.version, cutoff)
        return CleanupStats(
            states=int(events > 0), events_deleted=events, snapshots_deleted=dropped, bytes_deleted=size
        )

    async def _move_floor(self, stream: Stream, base: SnapshotRecord, *, is_made: bool) -> int | None:
        """Keep a snapshot as the oldest one, and drop all older ones.

        Returns how many were dropped, or None if other writers were always faster. If one commit cannot drop them all,
        the oldest snapshot is dropped last, because the stream rests on it.
        """
        total = 0
        while True:
            moved = await self._move_floor_once(stream, base, is_made=is_made)
            if moved is None:
                return None
            self._core.appender.heads.drop(stream.state)
            total += moved.dropped
            if not moved.left:
                return total

    async def _move_floor_once(self, stream: Stream, base: SnapshotRecord, *, is_made: bool) -> _FloorMove | None:
        """One commit of :meth:`_move_floor`."""

        def decide(look: Look) -> Verdict[_FloorMove | None]:
            document = look.documents[stream.state]
            if document is None:
                return Done(None)
            record = document.decode(STATE)
            if record.floor > base.version:
                return Done(_FloorMove(0, 0))  # another cleanup has moved the floor further
            older = [version for version in record.kept if version < base.version]
            is_new = is_made or base.version not in record.kept
            made = [Put(stream.snapshot(base.version), base)] if is_new else []
            noted = [put_note(stream)] if base.version > 1 and look.documents[stream.cleaned] is None else []
            most = Put(stream.state, msgspec.structs.replace(record, kept=(*record.kept, base.version)))
            newest_first = [Delete(stream.snapshot(version), ANYTHING) for version in reversed(older)]
            beside = weight_of_all([most, *made, *noted])
            dropped = next(self._batches.split(newest_first, weight_of, beside), list[Delete]())
            left = older[: len(older) - len(dropped)]
            kept = (*left, base.version, *[version for version in record.kept if version > base.version])
            floor = record.floor if left else base.version
            if kept == record.kept and record.floor == floor and not noted:
                return Done(_FloorMove(0, 0))
            writes: list[Write] = [
                Put(stream.state, msgspec.structs.replace(record, kept=kept, floor=floor), At(document.revision)),
                *dropped,
                *made,
                *noted,
            ]
            moved = _FloorMove(len(dropped), len(left))
            return Commit(writes, lambda _: moved)

        return await settle(self._core.engine, _MoveFloor(stream, decide), self._core.bounds)

    async def _kept_before(self, stream: Stream, record: StateRecord, cutoff: _Cutoff) -> Kept | None:
        """The newest sound snapshot that is not younger than the cutoff and has another kept snapshot after it."""
        for version in reversed(record.kept[: 1 - _SNAPSHOTS_MIN]):
            kept = await sound_snapshot(self._core, stream, version)
            if kept is not None and cutoff.credible(kept.record.as_of, kept.stored.recorded_us) <= cutoff.text:
                return kept
        return None

    async def _make_snapshot(
        self, stream: Stream, record: StateRecord, older: Kept | None, cutoff: _Cutoff
    ) -> SnapshotRecord | None:
        """A new snapshot, of the last event not younger than the cutoff at which the policy would have kept one.

        The policy counts from ``older``. None if there is no such event, or if no younger snapshot is kept: one must
        stay after the new one.
        """
        if not record.kept or record.kept_as_of <= cutoff.text:
            return None
        folded, last = (older.folded, older.stored.record) if older else (first_fold(), None)
        as_of = older.record.as_of if older else ""
        since = until = cutoff.credible(as_of, older.stored.recorded_us) if older else ""
        first, size = (last.version + 1 if last else 1), 0
        made = None
        try:
            async for event, recorded_us in self._core.reader.records(stream, first, record.kept[-1] - 1):
                time = cutoff.credible(event.timestamp, recorded_us)
                if recorded_us > cutoff.us or time > cutoff.text:
                    break
                before, folded = folded, self._folding.follow(folded, last, stream, event)
                last, as_of, since, until = event, max(as_of, event.timestamp), since or time, max(until, time)
                size += event.unkept_bytes
                if self._is_due(event.version - first + 1, size, since, until, before, folded):
                    made = _snapshot(event, folded, as_of) or made
        except Inconsistent as error:
            _logger.warning("cleanup cannot make a snapshot: an event %s", error.what, extra={"path": error.path})
            return None
        return made

    def _is_due(self, events: int, size: int, since: str, until: str, before: Folded, now: Folded) -> bool:
        data = None if now.text in (None, NO_STATE_TEXT) else decode(now.text)
        is_changed = now.state_hash != before.state_hash
        since_kept = SinceKept(events=events, bytes=size, since=since, until=until, data=data, is_changed=is_changed)
        return self._core.settings.snapshots.due(since_kept)

    async def _delete_events(self, stream: Stream, before: int, cutoff: _Cutoff) -> tuple[int, int]:
        """Delete the events before a version, oldest first, up to the first that is too young."""
        count = size = 0
        start, end = stream.range(1, before - 1)
        documents = self._core.engine.scan(Scan(stream.events, start=start, end=end))
        while (page := await documents.page()) is not None:
            old = list(takewhile(lambda document: document.updated_us <= cutoff.us, page))
            for batch in self._batches.split([Delete(document.path, ANYTHING) for document in old], weight_of):
                await write(self._core.engine, batch, self._core.bounds)
            count += len(old)
            size += sum(document.size for document in old)
            if len(old) < len(page):
                break
        return count, size


def _snapshot(event: EventRecord, folded: Folded, as_of: str) -> SnapshotRecord | None:
    """The snapshot of the state after an event; None if the fold has upcast it, so that it differs from the record."""
    made = SnapshotRecord(
        state_id=event.state_id,
        state=folded.text or NO_STATE_TEXT,
        version=event.version,
        timestamp=event.timestamp,
        as_of=as_of,
        state_hash=event.state_hash,
        digest=event.digest,
        schema=event.schema,
    )
    return made if is_state_after(made, event) else None
