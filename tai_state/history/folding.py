"""Folding streams: making states from events.

An event carries either the state after it, or a payload that the application's reducer folds into the state before
it. The outcome of a fold is checked against the hash that was recorded with the event.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import msgspec

from tai_state.errors import EventSourcingError, InvalidData, NotRetained, ReducerMissing
from tai_state.streams.layout import Stream
from tai_state.streams.planning import Draft
from tai_state.streams.reader import Folded, StreamReader, check_genuine
from tai_state.streams.records import EventRecord
from tai_state.streams.upcasting import Upcasting
from tai_state.values.checks import check_callable
from tai_state.values.digests import GENESIS, NO_STATE_TEXT, state_hash
from tai_state.values.events import JsonEvent, StateEvent
from tai_state.values.json import decode, normalise_object
from tai_state.values.metadata import ChangeMetadata, check_text
from tai_state.values.times import parse_time

Reducer: TypeAlias = Callable[[dict[str, Any] | None, JsonEvent], dict[str, Any] | None]
"""``evolve(state, event)`` returns the state after an event, or None for no state. It must be pure: no clock, no
randomness."""

Reducers: TypeAlias = Mapping[str, Reducer]
"""Reducers by the action of the events that they fold. Events of other actions leave the state as it was."""

_ANOTHER = "pass the reducer that made the recorded one, or restore a backup"


def check_reducers(reducers: Reducers | None) -> Reducers:
    """Check the reducers of an application, and return them.

    Raises:
        InvalidData: they are not functions by the names of actions.
    """
    if reducers is None:
        return {}
    if not isinstance(reducers, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise InvalidData(f"reducers must be a mapping of actions to functions, not {type(reducers).__name__}")
    for action, reducer in reducers.items():
        check_text(action, "an action in reducers")
        check_callable(reducer, f"the reducer of {action!r}")
    return reducers


class Folding:
    """Folds stored events, one after the other.

    Args:
        streams: decodes events.
        upcasting: brings states to the schema that the reducers work on.
        reducers: the application's reducers, by action.
        fallback: the reducer for the events of all other actions.
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
            ReducerMissing: the event changed the state, but no reducer folds its action.
            EventSourcingError: the reducer returned a state other than the recorded one.
            NotRetained: the state before it was cleaned up.
        """
        now = before.then(record)
        if now.text is not None:
            return now
        path = stream.event(record.version)
        reducer = self._reducers.get(record.action, self._fallback)
        if reducer is None:
            raise ReducerMissing(
                path, f"needs the reducer of the action {record.action!r}: pass it with reducers or --app"
            )
        if before.text is None:
            raise NotRetained(path, "cannot be folded: the state before it was cleaned up")
        data = self._streams.state(before, stream, record.version - 1)
        event = self._streams.event(stream, record, 0, before, Folded())
        try:
            text, _ = fold(reducer, data, stream, _blank(event))
        except Exception as error:
            what = f"the reducer of {record.action!r} failed with {type(error).__name__}: {_ANOTHER}"
            raise EventSourcingError(path, what) from error
        now = Folded(text, self._upcasting.schema, record.state_hash)
        same_shape = before.schema == record.schema and self._upcasting.is_current(record.schema)
        if same_shape and state_hash(text) != record.state_hash:
            what = f"the reducer of {record.action!r} returned another state than the recorded one: {_ANOTHER}"
            raise EventSourcingError(path, what)
        return now

    def follow(self, before: Folded, last: EventRecord | None, stream: Stream, record: EventRecord) -> Folded:
        """Like :meth:`then`, but the event must be genuine and follow the last one.

        Raises:
            EventSourcingError: the event was edited, or does not follow the last one; or as :meth:`then`.
        """
        path = stream.event(record.version)
        if last is None and record.version > 1:
            raise EventSourcingError(stream.event(1), "is missing, and no snapshot covers it: restore a backup")
        check_genuine(stream, record)
        if record.previous != (last.digest if last else GENESIS):
            raise EventSourcingError(path, "does not follow the event before it: restore a backup")
        return self.then(before, stream, record)


def fold(
    reducer: Reducer, data: dict[str, Any] | None, stream: Stream, event: JsonEvent
) -> tuple[str, dict[str, Any] | None]:
    """Call a reducer. Returns the canonical text of the state after the event, and its data.

    Raises:
        InvalidData: the reducer returned something that is not a JSON object.
    """
    after = reducer(data, event)
    if after is None:
        return NO_STATE_TEXT, None
    return normalise_object(after, f"the state that the reducer of {event.action!r} returned for {stream.state}")


def seen_by_reducer(stream: Stream, version: int, draft: Draft, data: dict[str, Any] | None) -> JsonEvent:
    """An event that is not recorded yet, in the form in which the reducer will also see it at every replay."""
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
    """A stored event without the fields that only storing it has set: a reducer must not depend on them."""
    return msgspec.structs.replace(event, recorded_at=event.timestamp, causality={}, digest="")


def first_fold() -> Folded:
    """The state before the first event."""
    return Folded(NO_STATE_TEXT, 1, state_hash(NO_STATE_TEXT))
