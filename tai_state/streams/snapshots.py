"""Kept snapshots: made on request, listed and loaded. Keeping them by policy is part of writing."""

from __future__ import annotations

import logging

import msgspec

from tai_state.engines.api import ANYTHING, At, Committed, Delete, Document, Put, Write
from tai_state.engines.matters import Commit, Done, Failed, Look, Verdict
from tai_state.engines.rewriting import Rewrite
from tai_state.engines.settling import settle
from tai_state.errors import Inconsistent, StateNotFound
from tai_state.streams.core import Core
from tai_state.streams.layout import Stream
from tai_state.streams.planning import kept_with, put_snapshot
from tai_state.streams.reader import Folded, Stored, stored_record
from tai_state.streams.records import SNAPSHOT, EventRecord, SnapshotRecord, checked_state, head_of
from tai_state.streams.upcasting import Upcasting
from tai_state.values.checks import check_whole
from tai_state.values.digests import state_hash
from tai_state.values.states import JsonState

_logger = logging.getLogger("tai_state.store")


class Kept(msgspec.Struct, frozen=True):
    """A sound kept snapshot, and the event whose state it holds."""

    record: SnapshotRecord
    stored: Stored

    @property
    def folded(self) -> Folded:
        """The state, for a fold that continues from it."""
        return Folded(self.record.state, self.record.schema, self.record.state_hash)


def where_kept(stream: Stream, version: int) -> tuple[str, str]:
    """The paths of a snapshot and of its event, to be read together for :func:`kept_if_sound`."""
    return stream.snapshot(version), stream.event(version)


def kept_if_sound(
    stream: Stream, version: int, snapshot: Document | None, event: Document | None, upcasting: Upcasting
) -> Kept | None:
    """The snapshot kept at a version; None if it is not sound, with a warning that says why."""
    try:
        if snapshot is None:
            what = "is missing"
        elif event is None:
            what = "belongs to a version without an event"
        else:
            record, stored = snapshot.decode(SNAPSHOT), stored_record(stream, event)
            if record.version != version or not is_state_after(record, stored.record):
                what = "is not the state at its version"
            elif not upcasting.knows(record.schema):
                what = "has an unknown schema"
            else:
                return Kept(record, stored)
    except Inconsistent as error:
        what = error.what
    _logger.warning("a kept snapshot is skipped: it %s", what, extra={"path": stream.snapshot(version)})
    return None


def is_state_after(snapshot: SnapshotRecord, event: EventRecord) -> bool:
    """Whether a snapshot is the state right after an event."""
    names = ("state_id", "version", "timestamp", "state_hash", "digest", "schema")
    same = all(getattr(snapshot, name) == getattr(event, name) for name in names)
    return same and state_hash(snapshot.state) == event.state_hash


async def create_snapshot(core: Core, stream: Stream) -> JsonState:
    """Keep a snapshot of a state as it is now, whatever the policy says. The state's version does not change.

    Raises:
        StateNotFound: the state was never written.
        StoreTimeout: other writers kept changing the state.
        DocumentTooLarge: the state's data does not fit into a snapshot.
    """

    def decide(look: Look) -> Verdict[JsonState]:
        document = look.documents[stream.state]
        if document is None:
            return Failed(StateNotFound(stream.state))
        record = checked_state(document)
        if record.kept and record.kept[-1] == record.version:
            return Done(core.state(stream, record, document.updated_us))
        kept = kept_with(record.kept, record.version, core.settings.snapshots, record.floor)
        after = msgspec.structs.replace(record, kept=kept, kept_as_of=record.as_of, unkept_bytes=0, interval_from="")
        writes: list[Write] = [
            put_snapshot(stream, after),
            Put(stream.state, after, At(document.revision)),
            *(Delete(stream.snapshot(old), ANYTHING) for old in record.kept if old not in kept),
        ]

        def accepted(committed: Committed) -> JsonState:
            core.appender.heads.put(stream.state, head_of(after, committed.revision))
            return core.state(stream, after, committed.time_us)

        return Commit(writes, accepted)

    return await settle(core.engine, Rewrite([stream.state], decide), core.bounds)


async def list_snapshots(core: Core, stream: Stream) -> list[int]:
    """The versions with a kept snapshot, oldest first.

    Raises:
        StateNotFound: the state was never written.
    """
    found = await core.read_state(stream)
    if found is None:
        raise StateNotFound(stream.state)
    return list(found[1].kept)


async def load_snapshot(core: Core, stream: Stream, version: int | None = None) -> JsonState | None:
    """A kept snapshot, by default the newest sound one; None if there is none.

    A snapshot that is damaged, or has a schema that this application does not know, is skipped with a warning.

    Raises:
        InvalidData: the version is not a whole number from 1 up.
    """
    if version is not None:
        check_whole(version, "version", 1)
    kept = await list_snapshots(core, stream)
    for each in reversed(kept):
        if version is not None and each != version:
            continue
        found = await sound_snapshot(core, stream, each)
        if found is not None:
            return core.reader.state_at(stream, found.stored, found.folded)
    return None


async def sound_snapshot(core: Core, stream: Stream, version: int, *, as_stored: bool = False) -> Kept | None:
    """Read the snapshot kept at a version, in one read; None if it is not sound, with a warning.

    With ``as_stored``, it may have a schema that only a newer release of the application knows.
    """
    snapshot, event = (await core.engine.read(where_kept(stream, version))).documents
    return kept_if_sound(
        stream, version, snapshot, event, Upcasting(None, {}) if as_stored else core.settings.upcasting
    )
