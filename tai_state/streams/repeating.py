"""Whether a change was recorded before, by an earlier call with the same ids. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from tai_state.engines.matters import Done, Failed, Look, More, Verdict
from tai_state.errors import IdempotencyConflict, NotRetained
from tai_state.streams.changes import Append, Appended, Change
from tai_state.streams.planning import Draft
from tai_state.streams.records import EVENT, MARKER, EventRecord, MarkerRecord, state_after

Results: TypeAlias = list[Appended | None]
"""Of a change: for each append what it recorded; None where nothing was to happen."""


def repeated(change: Change, look: Look) -> Verdict[Results] | None:
    """The result of an earlier call with the same ids; None where none of the ids is known."""
    places: dict[str, int] = {}
    first: tuple[str, str] | None = None
    for append in change.appends:
        for offset, draft in enumerate(append.drafts):
            marker = _marker(append, draft, look)
            if marker is not None:
                is_same = marker.content == draft.marker and marker.state_id == append.stream.state_id
                start = marker.version - offset
                if not is_same or places.setdefault(append.stream.state, start) != start:
                    return Failed(IdempotencyConflict(draft.event_id, append.stream.state))
                first = first or (draft.event_id, append.stream.state)
                places.update({path: at for path, at in marker.others.items() if path not in places})
    if first is None:
        return None
    for append in change.appends:
        for draft in append.drafts:
            if draft.marker is not None and _marker(append, draft, look) is None:
                return Failed(IdempotencyConflict(draft.event_id, append.stream.state))
    return _recorded_at(change, places, look)


def at_expected(change: Change, look: Look) -> Verdict[Results] | None:
    """The same for ids that have no marker, where the version that was expected tells their place."""
    places: dict[str, int] = {}
    for append in change.appends:
        if isinstance(append.expected, int) and append.drafts and append.drafts[0].marker is not None:
            document = look.documents.get(append.stream.event(append.expected + 1))
            if document is not None and document.decode(EVENT).event_id == append.drafts[0].event_id:
                places[append.stream.state] = append.expected + 1
    return _recorded_at(change, places, look) if places else None


def _recorded_at(change: Change, places: Mapping[str, int], look: Look) -> Verdict[Results]:
    """What an earlier call recorded, given where its first event on each stream stands.

    Without a place nothing of a stream is known to have been recorded.
    """
    results: Results = []
    for append in change.appends:
        start = places.get(append.stream.state)
        if start is None:
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
                return Failed(NotRetained(path, "the change was made, and its event was cleaned up since"))
            events.append(document.decode(EVENT))
            recorded_us = document.updated_us
            if not _is_same(draft, events[-1]):
                return Failed(IdempotencyConflict(draft.event_id, append.stream.state))
        results.append(Appended(tuple(events), state_after(events[-1]), None, recorded_us, is_repeated=True))
    return Done(results)


def _marker(append: Append, draft: Draft, look: Look) -> MarkerRecord | None:
    """What a caller's id stands for; None where it stands for nothing, or is an id of ours."""
    document = None if draft.marker is None else look.documents.get(append.stream.marker(draft.event_id))
    return None if document is None else document.decode(MARKER)


def _is_same(draft: Draft, event: EventRecord) -> bool:
    """Whether an event is what a draft was to record; the state only where the draft brings one."""
    said = (draft.action, draft.payload, draft.changed_by, draft.reason, draft.context)
    metadata = event.metadata
    stands = (event.action, event.payload, metadata.changed_by, metadata.reason, metadata.context)
    is_id_same = draft.marker is None or draft.event_id == event.event_id
    return is_id_same and said == stands and (draft.state is None or draft.state == event.to_state)
