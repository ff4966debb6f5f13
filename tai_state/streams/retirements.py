"""What is on record about the retired stores of a state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from tai_state.engines.api import Document, Shape
from tai_state.errors import CorruptDocument, EventSourcingError
from tai_state.streams.layout import Stream
from tai_state.streams.records import EventRecord
from tai_state.values.clocks import VectorClock
from tai_state.values.json import NOT_JSON
from tai_state.values.retired import Retired, has_marks, mark_of

RETIRE_ACTION: Final = "retire"
"""The action of an event by which a store was retired."""


class RetiredRecord(msgspec.Struct, frozen=True):
    """``governors/{g}/retired/{s}``: the retirements that the clocks of a state's events stand for.

    Attributes:
        state_id: the id of the state.
        taken_out: as in :class:`Retired`.
    """

    state_id: str
    taken_out: Mapping[str, VectorClock]


class Retirement(msgspec.Struct, frozen=True):
    """The payload of an event by which a store was retired: the clock of what it took out."""

    taken_out: VectorClock


RETIRED = Shape(RetiredRecord, advice="run `tai-state recover`")

_decode = msgspec.json.Decoder(Retirement).decode


def retired_in(stream: Stream, document: Document | None) -> Retired:
    """The retirements on record in a document; none if there is no document.

    Raises:
        CorruptDocument: it cannot be decoded, or is that of another state.
    """
    if document is None:
        return Retired({})
    record = document.decode(RETIRED)
    if record.state_id != stream.state_id:
        raise CorruptDocument(document.path, "holds the record of another state: run `tai-state recover`")
    return Retired(record.taken_out)


def lack(count: int) -> str:
    """What is wrong with a record that lacks so many of the retirements that its state needs."""
    return f"lacks {count} of the retirements that the clock of its state stands for"


def check_clock(stream: Stream, retired: Retired, clock: VectorClock) -> None:
    """Check that the stored clock of a state or an event can be compared with others.

    Raises:
        EventSourcingError: what it stands for is not on record; or it shows that a retired store wrote after all.
    """
    if not has_marks(clock):
        return
    if lacking := retired.lacking(clock):
        raise EventSourcingError(stream.retired, f"{lack(len(lacking))}: run `tai-state verify`")
    if (error := lateness(stream, retired, clock)) is not None:
        raise error


def lateness(stream: Stream, retired: Retired, clock: VectorClock) -> EventSourcingError | None:
    """The error if the stored clock of a state or an event shows that a retired store wrote after all."""
    if not (late := retired.late(clock)):
        return None
    what = "was retired, and changed this state after that, which looks like a change before it"
    return EventSourcingError(stream.state, f"store {late[0]} {what}: write the data to a new state")


def retired_by(event: EventRecord) -> Retired:
    """The retirement that an event is; none for every other event."""
    if event.action != RETIRE_ACTION or event.payload is None or mark_of(event.event_id) not in event.causality:
        return Retired({})
    try:
        return Retired({mark_of(event.event_id): _decode(event.payload).taken_out})
    except NOT_JSON:
        return Retired({})
