"""Planning a commit: the writes that append drafts to a stream. Pure; nothing about the writes is decided elsewhere."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from tai_state.engines.api import ABSENT, ANYTHING, At, Check, Delete, Put, Require, Write
from tai_state.streams.layout import Stream
from tai_state.streams.policies import SinceKept, SnapshotPolicy, keep_of
from tai_state.streams.records import (
    EventMetadata,
    EventRecord,
    Head,
    SnapshotRecord,
    StateRecord,
    state_metadata,
    state_text,
)
from tai_state.streams.timers import due_of, moved_timer
from tai_state.values.clocks import VectorClock, next_hybrid, tick
from tai_state.values.digests import state_hash
from tai_state.values.times import is_far_ahead

_set: Final = msgspec.structs.force_setattr

_DROPPED_MAX: Final = 100
"""How many snapshots one change deletes at most: with its other writes they fit into the smallest commit."""


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """The facts that an event keeps from the store that it comes from, or from the two stores whose streams it joins.

    Attributes:
        causality: the vector clock.
        hlc: the hybrid clock.
        schema: the schema of its data.
        state_hash: the hash of the state after it.
        origin: the id of the store that recorded it first.
    """

    causality: VectorClock
    hlc: int
    schema: int
    state_hash: str
    origin: str


class Draft(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An event to write.

    Attributes:
        event_id: the event's id; fixed before the first commit is sent.
        action: what happens.
        timestamp: when it happens, as text.
        changed_by: who makes the change.
        reason: why.
        context: any further facts, as canonical text.
        payload: the payload, as canonical text.
        state: the state after the event, as canonical text; None: the same as before.
        carries_state: whether the event holds that state; otherwise a reducer folds it.
        marker: the digest of the content that a caller's own id stands for; None if this store made the id.
        given: the facts that it keeps from elsewhere; None for an event that happens here.
        trace: the ids of the request that made the change, as canonical text.
        call: an id of the call that records the event. It is needed if another call may record the very same event, and
            then only in the first event of a commit on a stream: the digests of the others follow from it.
    """

    event_id: str
    action: str
    timestamp: str
    changed_by: str
    reason: str
    context: str
    payload: str | None = None
    state: str | None = None
    carries_state: bool = True
    marker: str | None = None
    given: Given | None = None
    trace: str | None = None
    call: str | None = None


class Composition(msgspec.Struct, frozen=True, gc=False):
    """The drafts of one commit on one stream, and the state's data after the last one."""

    drafts: tuple[Draft, ...]
    data: dict[str, Any] | None


class Author(msgspec.Struct, frozen=True):
    """The writing store: its id, its schema and its snapshot policy, which every event depends on."""

    store_id: str
    schema: int
    policy: SnapshotPolicy


class Plan(msgspec.Struct, frozen=True, gc=False):
    """A commit's part on one stream.

    Attributes:
        stream: the stream's paths.
        before: the head that the plan is based on.
        composition: the drafts, and the state after them.
        events: the event records to create, in order.
        state: the state's record after them.
        writes: all writes, for the engine.
    """

    stream: Stream
    before: Head
    composition: Composition
    events: tuple[EventRecord, ...]
    state: StateRecord
    writes: tuple[Write, ...]

    @property
    def snapshot(self) -> str | None:
        """The path of the snapshot that it keeps; None if none is due."""
        version = self.state.version
        return self.stream.snapshot(version) if version in self.state.kept else None


def plan(
    stream: Stream,
    before: Head,
    composition: Composition,
    author: Author,
    now_us: int,
) -> Plan:
    """Plan the writes that append drafts to a stream.

    Args:
        stream: the stream's paths.
        before: the head that the commit is based on.
        composition: the drafts, and the state after them.
        author: this store.
        now_us: the writer's time; the same in every try of one call.
    """
    events = _events(stream, before, composition.drafts, author, now_us)
    state, kept_now = _state(stream, before, composition, events, author, now_us)
    writes: list[Write] = [Put(stream.event(event.version), event, ABSENT) for event in events]
    writes.append(Put(stream.state, state, require_of(before)))
    if kept_now:
        writes.append(put_snapshot(stream, state))
        left = frozenset(state.kept)
        writes += [Delete(stream.snapshot(old), ANYTHING) for old in before.kept if old not in left]
    due = due_of(composition.data)
    if due != before.due:
        writes += moved_timer(stream, before.due, due)
    if before.version == 0:
        writes.append(Check(stream.cleaned, ABSENT))  # else event 1 may only seem never to have been there
    return Plan(stream, before, composition, events, state, tuple(writes))


def require_of(head: Head) -> Require:
    """The requirement that a state's document is unchanged since its head was read."""
    return ABSENT if head.revision is None else At(head.revision)


def put_snapshot(stream: Stream, state: StateRecord) -> Put:
    """The write that keeps a snapshot of a state; writing it twice is harmless."""
    record = SnapshotRecord(
        state_id=stream.state_id,
        state=state_text(state),
        version=state.version,
        timestamp=state.timestamp,
        as_of=state.as_of,
        state_hash=state.state_hash,
        digest=state.digest,
        schema=state.schema,
    )
    return Put(stream.snapshot(state.version), record, ANYTHING)


def kept_with(kept: tuple[int, ...], version: int, policy: SnapshotPolicy, floor: int) -> tuple[int, ...]:
    """The kept versions after one more is kept: the newest ones by the policy and, after a cleanup, the first one too.

    The events that a cleanup left depend on that first one. So it stays until the next cleanup, and is not counted. No
    more are dropped than a commit has room for; the rest are dropped with the snapshots that follow.
    """
    versions = (*kept, version)
    first = 0 if floor == 1 else 1
    keep = keep_of(policy, len(kept) - first)
    dropped = min(max(0, len(versions) - first - keep), _DROPPED_MAX)
    return versions[:first] + versions[first + dropped :]


def _events(
    stream: Stream,
    before: Head,
    drafts: tuple[Draft, ...],
    author: Author,
    now_us: int,
) -> tuple[EventRecord, ...]:
    version, digest, after = before.version, before.digest, before.state_hash
    causality, hlc, as_of = before.causality, before.hlc, before.as_of
    events: list[EventRecord] = []
    for draft in drafts:
        given = draft.given
        if given is not None:
            causality, hlc, after = given.causality, given.hlc, given.state_hash
        else:
            causality = tick(causality, author.store_id)
            hlc = next_hybrid(hlc, now_us)
            if draft.state is not None:
                after = state_hash(draft.state)
        as_of = max(as_of, draft.timestamp)
        event = EventRecord(  # with up to 15 arguments by name; Python would pass more of them by way of a dict
            event_id=draft.event_id,
            state_id=stream.state_id,
            version=version + 1,
            action=draft.action,
            timestamp=draft.timestamp,
            causality=causality,
            hlc=hlc,
            metadata=EventMetadata(draft.changed_by, draft.reason, version, draft.context),
            schema=author.schema if given is None else given.schema,
            state_hash=after,
            previous=digest,
            digest="",
            payload=draft.payload,
            to_state=draft.state if draft.carries_state else None,
            as_of=as_of,
        )
        if given is not None:
            _set(event, "origin", given.origin)
        if draft.trace is not None:
            _set(event, "trace", draft.trace)
        if draft.marker is not None:
            _set(event, "content", draft.marker)
        if draft.call is not None:
            _set(event, "call", draft.call)
        digest = event.computed_digest(stream.governor_id)
        _set(event, "digest", digest)
        events.append(event)
        version += 1
    return tuple(events)


def _state(
    stream: Stream,
    before: Head,
    composition: Composition,
    events: tuple[EventRecord, ...],
    author: Author,
    now_us: int,
) -> tuple[StateRecord, bool]:
    """The state's record after the events, and whether a snapshot of it is due."""
    last = events[-1]
    as_of, unkept_bytes = last.as_of, before.unkept_bytes
    for event in events:
        unkept_bytes += event.unkept_bytes
    kept_as_of = before.kept_as_of or events[0].timestamp
    since, until = kept_as_of, as_of
    stands_still = as_of > last.timestamp and is_far_ahead(as_of, now_us)  # perhaps for decades
    if stands_still:
        since = before.interval_from or events[0].timestamp
        until = max(since, last.timestamp)
    since_kept = SinceKept(
        events=last.version - (before.kept[-1] if before.kept else 0),
        bytes=unkept_bytes,
        since=since,
        until=until,
        data=composition.data,
        is_changed=last.state_hash != before.state_hash,
    )
    due = author.policy.due(since_kept)
    record = StateRecord(  # see _events about the number of arguments
        data=composition.data,
        version=last.version,
        timestamp=last.timestamp,
        as_of=as_of,
        metadata=state_metadata(last.metadata, stream.state),
        causality=last.causality,
        hlc=last.hlc,
        state_hash=last.state_hash,
        digest=last.digest,
        schema=last.schema,
        kept=kept_with(before.kept, last.version, author.policy, before.floor) if due else before.kept,
        kept_as_of=as_of if due else kept_as_of,
        unkept_bytes=0 if due else unkept_bytes,
        floor=before.floor,
        deleted=composition.data is None,
    )
    if stands_still:
        _set(record, "interval_from", until if due else since)
    return record, due
