"""Copying events from another store: id, content and clock stay; version and digest are the receiving stream's own."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from tai_state.conflicts.sides import Side, Unseen
from tai_state.engines.api import Capabilities
from tai_state.engines.batching import Batches, Weight
from tai_state.errors import EventSourcingError
from tai_state.history.persister import StateMachinePersister
from tai_state.streams.changes import always, append_of
from tai_state.streams.planning import Composition, Draft, Given
from tai_state.streams.records import MARKER, EventRecord
from tai_state.values.digests import NO_STATE_HASH, NO_STATE_TEXT, state_hash
from tai_state.values.json import decode, encode

EVENTS_MAX: Final = 200
"""How many events one commit takes over at most."""

_WRITES_PER_EVENT: Final = 2
_BESIDE_WRITES: Final = 8
_SIZE_BESIDE_RECORD: Final = 8_192
"""An event's marker, and the paths of both."""


async def take_over(newer: Side, older: Side, unseen: Unseen, persister: StateMachinePersister) -> int | None:
    """Append the next events of the newer side to the older one, in one commit; how many this call appended.

    None if the older side has an event with the id of the first of them: a call was made on both sides. An id stands
    only once in a stream.

    Args:
        newer: the side to copy from.
        older: the side to copy to.
        unseen: the events.
        persister: the newer store's persister; it folds payload-carrying events whose state is needed.

    Raises:
        VersionConflict: the older side has changed since.
        ReducerMissing: a state needs a reducer that was not given.
    """
    follows = _follows(unseen.events[0], older, unseen)
    # An event that is given the state after it can be as large as two.
    events = _one_commit(unseen.events, older.core.engine.capabilities) if follows else unseen.events[:1]
    markers = await _markers(newer, older, events)
    if not markers:
        return None
    events = events[: len(markers)]
    drafts = [_draft(event, newer, marker) for event, marker in zip(events, markers, strict=True)]
    if not follows:
        drafts[0] = await _carrying(events[0], newer, markers[0], persister)
    drafts[0] = msgspec.structs.replace(drafts[0], call=older.core.settings.new_id())
    data = await _data_after(events[-1], newer, persister)
    composition = Composition(tuple(drafts), data)
    append = append_of(older.stream, older.version, composition.drafts)
    appended = await older.core.appender.append_one(append, always(composition))
    return 0 if appended.is_repeated else len(events)


def _one_commit(events: list[EventRecord], capabilities: Capabilities) -> list[EventRecord]:
    """As many of the first events as fit into one commit together with the state after them; at least one."""
    beside = Weight(_BESIDE_WRITES, capabilities.max_document_bytes)
    return next(Batches(capabilities).split(events, _weight_of, beside))


def _weight_of(event: EventRecord) -> Weight:
    return Weight(_WRITES_PER_EVENT, len(msgspec.json.encode(event)) + _SIZE_BESIDE_RECORD)


async def _markers(newer: Side, older: Side, events: list[EventRecord]) -> list[str | None]:
    """For each event, the content of its marker if a caller gave its id: the same call then finds it here too.

    None where the older side has a marker for that id already; that one stays. The list ends before the first event
    whose id the older side's stream has, as far as it was read.
    """
    there, here = [
        (await side.core.engine.read([side.stream.marker(event.event_id) for event in events])).documents
        for side in (newer, older)
    ]
    markers: list[str | None] = []
    for marker, taken in zip(there, here, strict=True):
        if taken is not None:
            place = taken.decode(MARKER)
            if place.state_id == older.stream.state_id and place.version <= older.version:
                break
        markers.append(None if marker is None or taken is not None else marker.decode(MARKER).content)
    return markers


def _draft(event: EventRecord, newer: Side, marker: str | None) -> Draft:
    return Draft(
        event_id=event.event_id,
        action=event.action,
        timestamp=event.timestamp,
        changed_by=event.metadata.changed_by,
        reason=event.metadata.reason,
        context=event.metadata.context,
        payload=event.payload,
        state=event.to_state,
        carries_state=event.to_state is not None,
        marker=marker,
        trace=event.trace,
        given=Given(
            causality=event.causality,
            hlc=event.hlc,
            schema=event.schema,
            state_hash=event.state_hash,
            origin=event.origin or newer.core.store_id,
        ),
    )


def _follows(event: EventRecord, older: Side, unseen: Unseen) -> bool:
    """Whether the older side can tell the state after an event: the event carries it, or follows the state there."""
    if event.to_state is not None:
        return True
    if older.record is None:
        return event.version == 1
    return unseen.before is not None and unseen.before.state_hash == older.record.state_hash


async def _carrying(event: EventRecord, newer: Side, marker: str | None, persister: StateMachinePersister) -> Draft:
    """The event together with the state after it, which the older side could not derive."""
    data = await _data_after(event, newer, persister)
    text = NO_STATE_TEXT if data is None else encode(data)
    return msgspec.structs.replace(_draft(event, newer, marker), state=text, carries_state=True)


async def _data_after(event: EventRecord, newer: Side, persister: StateMachinePersister) -> dict[str, Any] | None:
    """The state's data after an event, in the event's own schema."""
    if event.state_hash == NO_STATE_HASH:
        return None
    if event.to_state is not None:
        data: dict[str, Any] = decode(event.to_state)
        return data
    if newer.record is not None and newer.record.version == event.version:
        return newer.record.data
    found = await persister.get_state_at(newer.stream.governor_id, newer.stream.state_id, event.version)
    if state_hash(encode(found.data)) != event.state_hash:
        what = "has a state in an older schema: open both stores with schema=None to sync them"
        raise EventSourcingError(newer.stream.event(event.version), what)
    return found.data
