"""Kept snapshots: asked for, listed and loaded. Keeping them by policy is part of writing."""

from __future__ import annotations

import logging

import msgspec

from tai_state.engines.api import ANYTHING, At, Delete, Put, Write
from tai_state.errors import CommitRefused, Inconsistent, StateNotFound, VersionConflict
from tai_state.store.core import StoreCore
from tai_state.store.layout import Stream
from tai_state.store.planning import put_snapshot
from tai_state.store.records import SNAPSHOT, SnapshotRecord, head_of
from tai_state.store.streams import Folded
from tai_state.values.digests import state_hash
from tai_state.values.states import JsonSnapshot

_logger = logging.getLogger("tai_state.store")

_ATTEMPTS_MAX = 64


class SnapshotKeeping(StoreCore):
    """The part of a store that keeps snapshots when asked to."""

    async def create_snapshot(self, governor_id: str, state_id: str) -> JsonSnapshot:
        """Keep a snapshot of a state as it is now, whatever the policy says. Its version does not move.

        Raises:
            StateNotFound: the state was never written.
            VersionConflict: the state changed 64 times while this tried.
        """
        stream = self.layout.stream(governor_id, state_id)
        version = 0
        for _ in range(_ATTEMPTS_MAX):
            found = await self.read_state(stream)
            if found is None:
                raise StateNotFound(stream.state)
            document, record = found
            version = record.version
            if record.kept and record.kept[-1] == version:
                return self.snapshot(stream, record, document.updated_us)
            kept = (*record.kept, version)[-self.settings.snapshots.keep :]
            after = msgspec.structs.replace(record, kept=kept, kept_as_of=record.as_of, unkept_bytes=0)
            writes: list[Write] = [
                put_snapshot(stream, after),
                Put(stream.state, msgspec.to_builtins(after), At(document.revision)),
                *(Delete(stream.snapshot(old), ANYTHING) for old in record.kept if old not in kept),
            ]
            try:
                committed = await self.engine.commit(writes)
            except CommitRefused:
                continue
            self.appender.heads.put(stream.state, head_of(after, committed.revision))
            return self.snapshot(stream, record, document.updated_us)
        raise VersionConflict(stream.state, version, version + 1)

    async def list_snapshots(self, governor_id: str, state_id: str) -> list[int]:
        """The versions of which a snapshot is kept, oldest first.

        Raises:
            StateNotFound: the state was never written.
        """
        stream = self.layout.stream(governor_id, state_id)
        found = await self.read_state(stream)
        if found is None:
            raise StateNotFound(stream.state)
        return list(found[1].kept)

    async def load_snapshot(self, governor_id: str, state_id: str, version: int | None = None) -> JsonSnapshot | None:
        """A kept snapshot, by default the newest that is sound; None where there is none.

        One that is damaged, or of a schema that this application does not know, is skipped with a warning.
        """
        stream = self.layout.stream(governor_id, state_id)
        kept = await self.list_snapshots(governor_id, state_id)
        for each in reversed(kept):
            if version is not None and each != version:
                continue
            record = await self.sound_snapshot(stream, each)
            event = await self.streams.one(stream, each)
            if record is not None and event is not None:
                folded = Folded(record.state, record.schema, record.state_hash)
                return self.streams.snapshot(stream, event, folded)
        return None

    async def sound_snapshot(self, stream: Stream, version: int) -> SnapshotRecord | None:
        """The snapshot kept at a version, if it is there and undamaged and of a known schema; else a warning."""
        path = stream.snapshot(version)
        [document] = (await self.engine.read([path])).documents
        if document is None:
            _logger.warning("a kept snapshot is missing", extra={"path": path})
            return None
        try:
            record = document.decode(SNAPSHOT)
            if record.version != version or record.state_id != stream.state_id:
                what = "stands in the wrong place"
            elif state_hash(record.state) != record.state_hash:
                what = "is not what its hash says"
            elif not self.settings.upcasting.knows(record.schema):
                what = "has an unknown schema"
            else:
                return record
        except Inconsistent as error:
            what = error.what
        _logger.warning("a kept snapshot is skipped: it %s", what, extra={"path": path})
        return None
