"""Cleanup: events that a kept snapshot stands for, removed once they are old enough.

Two kept snapshots always stay. The oldest that stays is verified first, and its own event stays as the anchor
of the chain. Events go in ascending order, so that an interruption leaves a shorter stream and no hole.
"""

from __future__ import annotations

from contextlib import aclosing
from datetime import timedelta

import msgspec

from tai_state.engines.api import ANYTHING, At, Delete, Put, Write
from tai_state.errors import CommitRefused
from tai_state.history.recovery import streams_with_events
from tai_state.store.layout import Stream
from tai_state.store.records import STATE, SnapshotRecord, StateRecord
from tai_state.store.store import StateStore
from tai_state.values.times import format_us

AGE_MIN = timedelta(hours=1)
"""No event younger than this goes: longer than any commit can be under way."""

_SNAPSHOTS_MIN = 2
_BATCH = 200


class CleanupStats(msgspec.Struct, frozen=True, kw_only=True):
    """What a cleanup removed."""

    states: int = 0
    events_deleted: int = 0
    snapshots_deleted: int = 0
    bytes_deleted: int = 0


class Cleanup:
    """Cleans the streams of one store.

    Args:
        store: which.
        keep: history younger than this stays, and so does time travel to it.
        age_min: as :data:`AGE_MIN`, for tests.
    """

    def __init__(self, store: StateStore, keep: timedelta, age_min: timedelta = AGE_MIN) -> None:
        self._store = store
        self._keep = max(keep, age_min)

    async def run(self, governor_id: str) -> CleanupStats:
        """Clean all streams of a governor."""
        total = CleanupStats()
        async with aclosing(streams_with_events(self._store, governor_id)) as streams:
            async for stream in streams:
                done = await self._stream(stream)
                total = CleanupStats(
                    states=total.states + (done.events_deleted > 0),
                    events_deleted=total.events_deleted + done.events_deleted,
                    snapshots_deleted=total.snapshots_deleted + done.snapshots_deleted,
                    bytes_deleted=total.bytes_deleted + done.bytes_deleted,
                )
        return total

    async def _stream(self, stream: Stream) -> CleanupStats:
        reading = await self._store.engine.read([stream.state])
        [document] = reading.documents
        if document is None:
            return CleanupStats()
        record = document.decode(STATE)
        cutoff_us = reading.time_us - self._keep // timedelta(microseconds=1)
        base = await self._base(stream, record, format_us(cutoff_us))
        if base is None:
            return CleanupStats()
        dropped = tuple(version for version in record.kept if version < base.version)
        if dropped or record.floor != base.version:
            after = msgspec.structs.replace(
                record, kept=tuple(v for v in record.kept if v >= base.version), floor=base.version
            )
            try:
                await self._store.engine.commit(
                    [
                        Put(stream.state, after, At(document.revision)),
                        *(Delete(stream.snapshot(version), ANYTHING) for version in dropped),
                    ]
                )
            except CommitRefused:
                return CleanupStats()  # the state is in use: its turn comes with the next cleanup
            self._store.appender.heads.drop(stream.state)
        events, size = await self._delete_events(stream, base.version, cutoff_us)
        return CleanupStats(events_deleted=events, snapshots_deleted=len(dropped), bytes_deleted=size)

    async def _base(self, stream: Stream, record: StateRecord, cutoff: str) -> SnapshotRecord | None:
        """The oldest snapshot to stay: the newest that is sound and as old as the cutoff, with another after it."""
        for version in reversed(record.kept[: 1 - _SNAPSHOTS_MIN]):
            kept = await self._store.sound_snapshot(stream, version)
            if kept is not None and kept.record.as_of <= cutoff:
                return kept.record
        return None

    async def _delete_events(self, stream: Stream, before: int, cutoff_us: int) -> tuple[int, int]:
        """Delete the events before a version, oldest first, as long as they are old enough."""
        count = size = 0
        batch: list[Write] = []
        start, end = stream.range(1, before - 1)
        async for document in self._store.engine.scan(stream.events, start=start, end=end):
            if document.created_us > cutoff_us:
                break
            size += document.size
            batch.append(Delete(document.path, ANYTHING))
            if len(batch) == _BATCH:
                await self._store.engine.commit(batch)
                count += len(batch)
                batch = []
        if batch:
            await self._store.engine.commit(batch)
        return count + len(batch), size
