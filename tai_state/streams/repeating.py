"""Finding out whether an earlier call with the same ids has already recorded a change. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

from tai_state.engines.matters import LOOKS_MAX, Done, Failed, Look, More, Verdict
from tai_state.errors import EventSourcingError, IdempotencyConflict, NotRetained
from tai_state.streams.changes import Append, Appended, Change
from tai_state.streams.planning import Draft
from tai_state.streams.reader import check_place
from tai_state.streams.records import EVENT, MARKER, NOTHING, STATE, EventRecord, MarkerRecord, state_after
from tai_state.values.digests import content_digest

Results: TypeAlias = list[Appended | None]
"""The results of a change: for each append, what it recorded; None if it has no events."""

COMPUTED: Final = "computed"
"""Stands for a state's text in the content of an id, if a function makes the state from the one before."""


def repeated(change: Change, look: Look) -> Verdict[Results] | None:
    """The result of an earlier call with the same ids; None if none of the ids is known."""
    places: dict[str, int] = {}
    taken: IdempotencyConflict | None = None
    for append in change.appends:
        for offset, draft in enumerate(append.drafts):
            marker = _marker(append, draft, look)
            if marker is not None:
                if marker.content != draft.marker and marker.state_id == append.stream.state_id:
                    return _conflict(append, draft, marker, look)
                own = IdempotencyConflict(draft.event_id, append.stream.state)
                taken = taken or own
                start = marker.version - offset
                said = {append.stream.place: start, **marker.others}
                is_apart = any(places.setdefault(place, at) != at for place, at in said.items())
                if marker.content != draft.marker or is_apart or start < 1:
                    return Failed(own)
    if taken is None:
        return None
    for append in change.appends:
        for draft in append.drafts:
            is_known = draft.marker is None or _marker(append, draft, look) is not None
            if not is_known and places.get(append.stream.place) != NOTHING:
                return Failed(taken)
    return _recorded_at(change, places, taken, look)


def _conflict(append: Append, draft: Draft, marker: MarkerRecord, look: Look) -> Verdict[Results]:
    """The verdict on an id that stands for a different change of the same state; it names the differences."""
    path = append.stream.event(marker.version)
    if path not in look.documents:
        return More((path,))
    document = look.documents[path]
    if document is None:
        return Failed(IdempotencyConflict(draft.event_id, append.stream.state))
    record = document.decode(EVENT)
    differs = different(record, draft.action, draft.changed_by, draft.reason, draft.context)
    if draft.payload != record.payload:
        differs += ("payload",)
    said = draft.state if draft.state is not None or not draft.carries_state else COMPUTED
    if said not in states_said(marker.content, record):
        differs += ("data",)
    return Failed(IdempotencyConflict(draft.event_id, append.stream.state, differs or ("timestamp",)))


def states_said(content: str, event: EventRecord) -> list[str | None]:
    """What the caller gave of the state after an event, by the content of its id; empty if that is another's.

    That is the state's text, :data:`COMPUTED`, or None if the caller gave nothing of it.
    """
    metadata = event.metadata
    who = (metadata.changed_by, metadata.reason, metadata.context)
    return [
        state
        for state in (event.to_state, None, COMPUTED)
        for time in (None, event.timestamp)
        if content == content_digest(event.state_id, event.action, event.payload, state, *who, time)
    ]


def different(event: EventRecord, action: str, changed_by: str, reason: str, context: str) -> tuple[str, ...]:
    """The names of those facts in which an event differs."""
    metadata = event.metadata
    pairs = {
        "action": (event.action, action),
        "changed_by": (metadata.changed_by, changed_by),
        "reason": (metadata.reason, reason),
        "context": (metadata.context, context),
    }
    return tuple(name for name, (stands, said) in pairs.items() if stands != said)


def at_expected(change: Change, look: Look) -> Verdict[Results] | None:
    """The same for ids without a marker, if the expected version shows their place."""
    places: dict[str, int] = {}
    taken: IdempotencyConflict | None = None
    for append in change.appends:
        if isinstance(append.expected, int) and append.drafts and append.drafts[0].marker is not None:
            document = look.documents.get(append.stream.event(append.expected + 1))
            if document is not None and document.decode(EVENT).event_id == append.drafts[0].event_id:
                places[append.stream.place] = append.expected + 1
                taken = taken or IdempotencyConflict(append.drafts[0].event_id, append.stream.state)
    return None if taken is None else _recorded_at(change, places, taken, look)


def _recorded_at(change: Change, places: Mapping[str, int], taken: IdempotencyConflict, look: Look) -> Verdict[Results]:
    """The result of an earlier call, given the version of its first event on each stream.

    If the places are not on the streams of this change, the known id stands for a different change: it is taken.
    """
    results: Results = []
    for append in change.appends:
        start = places.get(append.stream.place)
        if start is None or len(places) > len(change.appends):
            return Failed(taken)
        if start == NOTHING:
            results.append(None)
            continue
        paths = [append.stream.event(start + offset) for offset in range(len(append.drafts))]
        if unread := [path for path in paths if path not in look.documents]:
            return More(tuple(unread))
        events: list[EventRecord] = []
        recorded_us = 0
        for path, draft in zip(paths, append.drafts, strict=True):
            document = look.documents[path]
            if document is None:
                return _not_there(append, start, start + len(events), taken, look)
            record = document.decode(EVENT)
            check_place(append.stream, document, record)
            events.append(record)
            recorded_us = document.updated_us
            if not _is_same(draft, events[-1]):
                return Failed(taken)
        results.append(Appended(tuple(events), state_after(events[-1], paths[-1]), None, recorded_us, is_repeated=True))
    return Done(results)


def _not_there(append: Append, first: int, version: int, taken: IdempotencyConflict, look: Look) -> Verdict[Results]:
    """The verdict on a missing event, one of those that, by a marker, were recorded from a version on."""
    state, path = look.documents[append.stream.state], append.stream.event(version)
    head, floor = 0, 1
    if state is not None:
        record = state.decode(STATE)
        head, floor = record.version, record.floor
    if first <= head < version:
        return Failed(taken)
    if version < floor:
        return Failed(NotRetained(path, "the change was made, and its event was cleaned up since"))
    return More() if look.looks < LOOKS_MAX else Failed(EventSourcingError(path, "is missing: restore a backup"))


def _marker(append: Append, draft: Draft, look: Look) -> MarkerRecord | None:
    """The marker of a caller's id; None if there is none, or if this store made the id."""
    document = None if draft.marker is None else look.documents.get(append.stream.marker(draft.event_id))
    return None if document is None else document.decode(MARKER)


def _is_same(draft: Draft, event: EventRecord) -> bool:
    """Whether an event is the one that a draft would record; the state is compared only if the draft has one."""
    said = (draft.action, draft.payload, draft.changed_by, draft.reason, draft.context)
    metadata = event.metadata
    stands = (event.action, event.payload, metadata.changed_by, metadata.reason, metadata.context)
    is_id_same = draft.marker is None or draft.event_id == event.event_id
    return is_id_same and said == stands and (draft.state is None or draft.state == event.to_state)
