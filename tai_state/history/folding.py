"""Folding streams: from the events, the state.

An event either carries the state after it, or a payload that the application's reducer folds into the state
before. A fold is checked against the hash that was recorded with the event.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import msgspec

from tai_state.errors import EventSourcingError, ReducerMissing
from tai_state.streams.layout import Stream
from tai_state.streams.planning import Draft
from tai_state.streams.reader import Folded, StreamReader
from tai_state.streams.records import EventRecord
from tai_state.streams.upcasting import Upcasting
from tai_state.values.digests import GENESIS, NO_STATE_TEXT, state_hash
from tai_state.values.events import JsonEvent, StateEvent
from tai_state.values.json import decode, normalise_object
from tai_state.values.metadata import ChangeMetadata
from tai_state.values.times import parse_time

Reducer: TypeAlias = Callable[[dict[str, Any] | None, JsonEvent], dict[str, Any] | None]
"""``evolve(state, event)``: the state after an event, None where there is none. Pure: no clock, no randomness."""

Reducers: TypeAlias = Mapping[str, Reducer]
"""Reducers by the action of the events they fold. Events of other actions leave the state as it was."""


class Folding:
    """Folds stored events, one after the other.

    Args:
        streams: decodes events.
        upcasting: the shape that reducers work on.
        reducers: by action.
        fallback: folds the events of all other actions.
    """

    def __init__(
        self, streams: StreamReader, upcasting: Upcasting, reducers: Reducers, fallback: Reducer | None = None
    ) -> None:
        self._streams = streams
        self._upcasting = upcasting
        self._reducers = reducers
        self._fallback = fallback

    def then(self, before: Folded, stream: Stream, record: EventRecord) -> Folded:
        """The state after one more event.

        Raises:
            ReducerMissing: the event changed the state, and no reducer folds its action.
            EventSourcingError: the reducer gives another state than the one recorded.
        """
        now = before.then(record)
        if now.text is not None:
            return now
        path = stream.event(record.version)
        reducer = self._reducers.get(record.action, self._fallback)
        if reducer is None:
            raise ReducerMissing(
                path, f"needs the reducer of the action {record.action!r}: give it with reducers or --app"
            )
        if before.text is None:
            raise EventSourcingError(path, "cannot be folded: the state before it is not retained")
        data = self._streams.state(before, stream, record.version - 1)
        event = self._streams.event(stream, record, 0, before, Folded())
        try:
            text, _ = fold(reducer, data, stream, _blank(event))
        except Exception as error:
            what = f"the reducer of {record.action!r} failed with {type(error).__name__}"
            raise EventSourcingError(path, what) from error
        now = Folded(text, self._upcasting.schema, record.state_hash)
        same_shape = before.schema == record.schema and self._upcasting.is_current(record.schema)
        if same_shape and state_hash(text) != record.state_hash:
            raise EventSourcingError(path, f"the reducer of {record.action!r} gives another state than was recorded")
        return now

    def follow(self, before: Folded, last: EventRecord | None, stream: Stream, record: EventRecord) -> Folded:
        """As :meth:`then`, of an event that must be genuine and follow the last one.

        Raises:
            EventSourcingError: it was edited, or does not follow; or as :meth:`then`.
        """
        path = stream.event(record.version)
        if last is None and record.version > 1:
            raise EventSourcingError(stream.event(1), "is missing, and no snapshot stands for it")
        if not record.is_genuine(stream.governor_id):
            raise EventSourcingError(path, "was edited: its digest does not fit")
        if record.to_state is not None and state_hash(record.to_state) != record.state_hash:
            raise EventSourcingError(path, "was edited: the state in it is not what its hash says")
        if record.previous != (last.digest if last else GENESIS):
            raise EventSourcingError(path, "does not follow the event before it")
        return self.then(before, stream, record)


def fold(
    reducer: Reducer, data: dict[str, Any] | None, stream: Stream, event: JsonEvent
) -> tuple[str, dict[str, Any] | None]:
    """The canonical text of the state that a reducer gives, and its data.

    Raises:
        InvalidData: the reducer returned no JSON object.
    """
    after = reducer(data, event)
    if after is None:
        return NO_STATE_TEXT, None
    return normalise_object(after, f"the state that the reducer of {event.action!r} returned for {stream.state}")


def seen_by_reducer(stream: Stream, version: int, draft: Draft, data: dict[str, Any] | None) -> JsonEvent:
    """An event still to be recorded as a reducer sees it: as it will see it at every replay."""
    timestamp = parse_time(draft.timestamp)
    trace: dict[str, str] = {} if draft.trace is None else decode(draft.trace)
    return StateEvent(
        governor_id=stream.governor_id,
        state_id=stream.state_id,
        version=version,
        event_id=draft.event_id,
        action=draft.action,
        payload=None if draft.payload is None else decode(draft.payload),
        from_state=data,
        to_state=None,
        timestamp=timestamp,
        recorded_at=timestamp,
        metadata=ChangeMetadata(draft.changed_by, draft.reason, decode(draft.context), version - 1, trace),
        causality={},
        digest="",
    )


def _blank(event: JsonEvent) -> JsonEvent:
    """A stored event without what was not known before it was stored: a reducer must not depend on that."""
    return msgspec.structs.replace(event, recorded_at=event.timestamp, causality={}, digest="")


def first_fold() -> Folded:
    """The state before the first event."""
    return Folded(NO_STATE_TEXT, 1, state_hash(NO_STATE_TEXT))
