"""What is on record about the retired stores of a state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from tai_state.engines.api import Document, Shape
from tai_state.errors import CorruptDocument
from tai_state.streams.layout import Stream
from tai_state.streams.records import EventRecord
from tai_state.values.clocks import VectorClock
from tai_state.values.json import NOT_JSON
from tai_state.values.retired import Retired, mark_of

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


RETIRED = Shape(RetiredRecord)

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


def retired_by(event: EventRecord) -> Retired:
    """The retirement that an event is; none for every other event."""
    if event.action != RETIRE_ACTION or event.payload is None or mark_of(event.event_id) not in event.causality:
        return Retired({})
    try:
        return Retired({mark_of(event.event_id): _decode(event.payload).taken_out})
    except NOT_JSON:
        return Retired({})
