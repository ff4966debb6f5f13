"""A recorded change, and one still to be recorded."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Generic, TypeVar

import msgspec

from tai_state.values.clocks import VectorClock
from tai_state.values.metadata import ChangeMetadata

D = TypeVar("D")

JOIN_ACTION: Final = "merge"
"""The action of an event that joins two streams."""
NEWER_ACTION: Final = "read_repair"
"""The action of an event that brings in a version that knew of ours."""
RIVAL_ACTION: Final = "resolve"
"""The action of an event that resolves a conflict."""


class StateEvent(msgspec.Struct, Generic[D], frozen=True, kw_only=True):
    """One recorded change of one state. Event n of a stream is version n of its state.

    Attributes:
        governor_id: the owner and namespace of the machine.
        state_id: the state that changed.
        version: the state's version after the event; the first is 1.
        event_id: unique; the caller's own id, if one was given.
        action: what happened, in the caller's words.
        payload: what the action carried; None if it carried nothing.
        from_state: the state before; None if there was none, or if it was not kept or asked for.
        to_state: the state after; None after a deletion, or if it needs a reducer that was not given.
        timestamp: when it happened, according to the caller.
        recorded_at: when the engine stored it.
        metadata: who made the change, and why.
        causality: the vector clock after the event.
        digest: covers this event and all before it, in hex.
    """

    governor_id: str
    state_id: str
    version: int
    event_id: str
    action: str
    payload: Any
    from_state: D | None
    to_state: D | None
    timestamp: datetime
    recorded_at: datetime
    metadata: ChangeMetadata
    causality: VectorClock
    digest: str


JsonEvent = StateEvent[dict[str, Any]]


class NewEvent(msgspec.Struct, frozen=True):
    """A payload-carrying event to be recorded; the reducer of its action makes the state after it.

    Attributes:
        action: what happened; chooses the reducer.
        payload: any JSON value.
        event_id: the caller's own id, so that repeating the call changes nothing.
        timestamp: when it happened; now, if not given.
    """

    action: str
    payload: Any = None
    event_id: str | None = None
    timestamp: datetime | None = None
