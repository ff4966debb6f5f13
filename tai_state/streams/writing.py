"""Changing states: each function makes one atomic commit of the new state and the event that explains it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any, TypeAlias

import msgspec

from tai_state.errors import IdempotencyConflict, InvalidData, NotRetained, ReducerMissing
from tai_state.streams.changes import Appended, Fence, Known, always, append_of, separately
from tai_state.streams.core import Core
from tai_state.streams.layout import Stream
from tai_state.streams.planning import Composition, Draft
from tai_state.streams.reader import Folded
from tai_state.streams.records import MARKER, state_after, state_text, to_deleted
from tai_state.streams.repeating import COMPUTED, different
from tai_state.streams.walking import Walk
from tai_state.values.digests import NO_STATE_TEXT, content_digest
from tai_state.values.events import JsonEvent
from tai_state.values.expected import Expected
from tai_state.values.json import encode, normalise, normalise_object
from tai_state.values.metadata import ChangeMetadata, check_metadata, check_text, check_trace
from tai_state.values.states import DeletedState, JsonSnapshot, JsonState
from tai_state.values.times import check_not_ahead, format_time, format_us

Keep: TypeAlias = Callable[[dict[str, Any] | None, dict[str, Any], str], dict[str, Any]]
"""``Codec.keep_unknown`` of a model."""


class Intent(msgspec.Struct, frozen=True, gc=False):
    """A caller's facts about a change, besides the data.

    Attributes:
        metadata: who and why.
        action: what happens; the event's name.
        event_id: the caller's own id, with which it can repeat the call; None: a new id.
        timestamp: when it happens; None: now.
        payload: any JSON value, kept with the event; None: no payload.
    """

    metadata: ChangeMetadata
    action: str
    event_id: str | None = None
    timestamp: datetime | None = None
    payload: Any = None


async def save(
    core: Core, stream: Stream, data: dict[str, Any], intent: Intent, expected: Expected, fence: Fence | None
) -> JsonSnapshot:
    """Write a state; see ``StateStore.save_state``."""
    text, copy = normalise_object(data, "state data")
    made = draft(core, stream, intent, state=text)
    append = append_of(stream, expected, (made,))
    appended = await core.appender.append_one(append, always(Composition((made,), copy)), core.guards(fence))
    return core.snapshot(stream, appended.state, appended.recorded_us)


async def save_over(
    core: Core,
    stream: Stream,
    data: dict[str, Any],
    keep: Keep,
    intent: Intent,
    expected: Expected,
    fence: Fence | None,
    seen: Known | None,
) -> JsonSnapshot:
    """Write a state with those fields of the state before it that its model does not know; see ``StateHandle.save``."""
    text, copy = normalise_object(data, "state data")
    made = draft(core, stream, intent, state=text)

    def compose(known: Known) -> Composition:
        return kept_unknown(core, stream, Composition((made,), copy), keep, known)

    append = append_of(stream, expected, (made,), needs_state=True, seen=seen)
    appended = await core.appender.append_one(append, separately(compose), core.guards(fence))
    return core.snapshot(stream, appended.state, appended.recorded_us)


def kept_unknown(core: Core, stream: Stream, composition: Composition, keep: Keep, known: Known) -> Composition:
    """A composition of one draft, with the fields that ``keep`` takes over from what is known of the state.

    Raises:
        InvalidData: the draft has a caller's id, which stands for exactly the data that the caller gave.
    """
    before, [made], data = present_data(core, stream, known), composition.drafts, composition.data
    if data is None or (whole := keep(before, data, stream.state)) is data:
        return composition
    if made.marker is not None:
        raise InvalidData(
            "the stored state has fields that the model does not know, and an event id stands for exactly what it is "
            "given with: use `update`, or let the model allow extra fields",
            stream.state,
        )
    text, copy = normalise_object(whole, "state data")
    return Composition((msgspec.structs.replace(made, state=text, carries_state=True),), copy)


def present_data(core: Core, stream: Stream, known: Known) -> dict[str, Any] | None:
    """What is known of a state's data, in the present schema."""
    if known.data is None:
        return None
    return core.settings.upcasting.state(known.data, known.head.schema, stream, stream.state)


async def update(
    core: Core,
    stream: Stream,
    evolve: Callable[[dict[str, Any] | None], dict[str, Any]],
    intent: Intent,
    expected: Expected,
    fence: Fence | None,
) -> JsonSnapshot:
    """Write the result of a pure function of the present data (None: no state); see ``StateHandle.update``."""
    made = draft(core, stream, intent, state=COMPUTED)

    def compose(known: Known) -> Composition:
        text, data = normalise_object(evolve(present_data(core, stream, known)), "state data")
        return Composition((msgspec.structs.replace(made, state=text, carries_state=True),), data)

    append = append_of(stream, expected, (made,), needs_state=True)
    appended = await core.appender.append_one(append, separately(compose), core.guards(fence))
    return core.snapshot(stream, appended.state, appended.recorded_us)


async def delete(core: Core, stream: Stream, intent: Intent, expected: Expected, fence: Fence | None) -> DeletedState:
    """Delete a state; see ``StateStore.delete_state``."""
    made = draft(core, stream, intent, state=NO_STATE_TEXT)
    append = append_of(stream, expected, (made,), must_live=True)
    appended = await core.appender.append_one(append, always(Composition((made,), None)), core.guards(fence))
    return to_deleted(stream, appended.state, appended.recorded_us)


async def log(core: Core, stream: Stream, intent: Intent, expected: Expected, fence: Fence | None) -> JsonEvent:
    """Record an event that leaves the state as it is; see ``StateStore.log_event``."""
    made = draft(core, stream, intent)
    append = append_of(stream, expected, (made,), needs_state=True, must_live=True)
    compose = separately(partial(unchanged, core, stream, made))
    appended = await core.appender.append_one(append, compose, core.guards(fence))
    if appended.is_repeated:
        version = appended.state.version
        walk = Walk(core.reader, stream, after=version - 1)
        [event] = [each async for each in walk.over(core.engine, version)]
        return event
    after = appended.state
    return event_of(core, stream, appended, Folded(state_text(after), after.schema, after.state_hash))


async def result_of(
    core: Core, stream: Stream, event_id: str, action: str, metadata: ChangeMetadata
) -> JsonState | None:
    """The state after the change with a caller's event id; see ``StateStore.result_of``."""
    check_text(action, "action")
    context = check_metadata(metadata)
    [document] = (await core.engine.read([stream.marker(event_id)])).documents
    if document is None:
        return None
    marker = document.decode(MARKER)
    if marker.state_id != stream.state_id:
        raise IdempotencyConflict(event_id, stream.state)
    stored = await core.reader.one(stream, marker.version)
    if stored is None:
        raise NotRetained(stream.event(marker.version), "the change was made, and its event was cleaned up since")
    record = stored.record
    differs = different(record, action, metadata.changed_by, metadata.reason, context)
    if differs:
        raise IdempotencyConflict(event_id, stream.state, differs)
    if record.to_state is not None:
        return core.state(stream, state_after(record, stream.event(record.version)), stored.recorded_us)
    shown = await core.reader.shown(stream, record)
    if shown.text is None:
        what = "the change was made; the state after it takes a reducer: read it with `get_state_at`"
        raise ReducerMissing(stream.event(record.version), what)
    return core.reader.state_at(stream, stored, shown)


def event_of(core: Core, stream: Stream, appended: Appended, before: Folded) -> JsonEvent:
    """The first event that an append recorded, with the states before and after it.

    Args:
        core: the store's core.
        stream: the stream of the event.
        appended: what was recorded.
        before: the state before the event.
    """
    record = appended.events[0]
    return core.reader.event(stream, record, appended.recorded_us, before, before.then(record))


def draft(core: Core, stream: Stream, intent: Intent, *, state: str | None = None) -> Draft:
    """Make the draft of one event, with its id and, for a caller's own id, the digest of the id's content.

    Args:
        core: the store's core.
        stream: the stream of the state.
        intent: the caller's facts about the change.
        state: the state after the event, as canonical text; None: the same as before; :data:`COMPUTED`: not known yet.

    Raises:
        InvalidId, InvalidData: a part of it cannot be stored.
    """
    metadata = intent.metadata
    check_text(intent.action, "action")
    context = check_metadata(metadata)
    payload = None if intent.payload is None else normalise(intent.payload, "payload")[0]
    said = None
    if intent.timestamp is not None:
        said = check_not_ahead(format_time(intent.timestamp), core.settings.latest, "timestamp")
    marker = None
    if intent.event_id is not None:
        stream.marker(intent.event_id)
        marker = content_digest(
            stream.state_id, intent.action, payload, state, metadata.changed_by, metadata.reason, context, said
        )
    return Draft(
        event_id=intent.event_id or core.settings.new_id(),
        action=intent.action,
        timestamp=said or format_us(core.settings.clock.now_us()),
        changed_by=metadata.changed_by,
        reason=metadata.reason,
        context=context,
        payload=payload,
        state=None if state == COMPUTED else state,
        carries_state=state is not None,
        marker=marker,
        trace=check_trace(metadata),
    )


def unchanged(core: Core, stream: Stream, made: Draft, known: Known) -> Composition:
    """Leave the state as it is; if its schema is an older one, the event carries it in the present schema."""
    upcasting = core.settings.upcasting
    if known.data is None or upcasting.is_current(known.head.schema):
        return Composition((made,), known.data)
    current = upcasting.state(known.data, known.head.schema, stream, stream.state)
    return Composition((msgspec.structs.replace(made, state=encode(current), carries_state=True),), current)
