"""The event that joins two streams, and the versions that it names."""

from __future__ import annotations

from typing import Any

import msgspec

from tai_state.conflicts.rivals import Counted
from tai_state.streams.records import EventRecord
from tai_state.values.clocks import VectorClock
from tai_state.values.events import JOIN_ACTION
from tai_state.values.json import NOT_JSON


class Earlier(msgspec.Struct, frozen=True, omit_defaults=True):
    """A version that one side had and the other had not seen.

    A store that takes over the join does not get all events of both sides. A later join may need the data of one of
    them as its base.

    Attributes:
        event_id: the id of its event.
        clock: the vector clock of its event.
        hlc: the hybrid clock of its event.
        store: the id of the store that counted the event in its clock; empty for an event that joins two streams.
        patch: leads from the state after the join to this version's data (RFC 6902); None: the state was deleted.
        seen: all that the version includes, if its clock does not show it: because read repairs brought in more, or
            because a store was restored from a backup and counted two events alike.
    """

    event_id: str = msgspec.field(name="id")
    clock: VectorClock
    hlc: int
    store: str = ""
    patch: list[dict[str, Any]] | None = None
    seen: VectorClock | None = None


class Joined(msgspec.Struct, frozen=True, omit_defaults=True):
    """The payload of an event that joins two streams.

    Attributes:
        tips: the ids of the last events that it joins.
        strategy: the name of the resolver.
        discarded: the discarded changes, as :class:`~tai_state.conflicts.resolutions.Discarded`.
        versions: what either side had and the other had not seen, newest first, as far as there was room.
    """

    tips: list[str] = msgspec.field(name="heads")
    strategy: str
    discarded: list[dict[str, Any]]
    versions: list[Earlier] = []


_decode = msgspec.json.Decoder(Joined).decode


def joined_by(event: EventRecord) -> Joined | None:
    """The payload of an event that joins two streams; None for every other event."""
    if event.action != JOIN_ACTION or event.payload is None or event.origin is None:
        return None
    try:
        return _decode(event.payload)
    except NOT_JSON:
        return None


def counter_of(event: EventRecord, before: EventRecord | None, store_id: str) -> str:
    """The id of the store that counted an event.

    A store that takes over an event names the store that counted it. Events that name none were counted here, or in the
    store from whose export this one was made. Then one entry of the clock has grown.

    Args:
        event: the event.
        before: the event before it; None if that is not known.
        store_id: the id of the store from which it was read.
    """
    if event.origin is not None:
        return event.origin
    known = {} if before is None else before.causality
    grown = [each for each, count in event.causality.items() if count > known.get(each, 0)]
    return grown[0] if len(grown) == 1 else store_id


def counted(event: EventRecord, before: EventRecord | None, store_id: str) -> Counted:
    """An event, and how it was counted; see :func:`counter_of`."""
    return Counted(event.event_id, "" if joined_by(event) else counter_of(event, before, store_id), event.causality)
