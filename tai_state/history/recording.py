"""Recording payload-carrying events: the drafts, and the states that the reducers fold from them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tai_state.errors import InvalidData
from tai_state.history.folding import Reducers, fold, seen_by_reducer
from tai_state.streams import writing
from tai_state.streams.changes import Known
from tai_state.streams.core import Core
from tai_state.streams.layout import Stream
from tai_state.streams.planning import Composition, Draft
from tai_state.streams.reader import Folded
from tai_state.streams.writing import Intent
from tai_state.values.checks import check_items
from tai_state.values.digests import NO_STATE_TEXT
from tai_state.values.events import NewEvent
from tai_state.values.ids import escape_id
from tai_state.values.json import decode, encode
from tai_state.values.metadata import ChangeMetadata


def drafts_of(core: Core, stream: Stream, events: Sequence[NewEvent], metadata: ChangeMetadata) -> tuple[Draft, ...]:
    """The drafts of the events, with their ids fixed.

    Raises:
        InvalidData: there are no events, two have the same id, or a payload is not plain JSON.
    """
    events = check_items(events, _no_events_error)
    if not events or any(type(event) is not NewEvent for event in events):
        raise _no_events_error()
    given = [escape_id(event.event_id, "event_id") for event in events if event.event_id is not None]
    if len(set(given)) != len(given):
        raise InvalidData("two events of one record call have the same event id")
    return tuple(
        writing.draft(core, stream, Intent(metadata, each.action, each.event_id, each.timestamp, each.payload))
        for each in events
    )


def _no_events_error() -> InvalidData:
    return InvalidData("record needs at least one event, each a NewEvent")


def fold_drafts(
    core: Core, reducers: Reducers, stream: Stream, known: Known, drafts: Sequence[Draft]
) -> tuple[Composition, list[Folded]]:
    """Fold drafts with the reducers.

    Returns the drafts with the states after them, and those states as a list that begins with the state before the
    first draft. An event whose action has no reducer leaves the state as it is.
    """
    upcasting, head, data = core.settings.upcasting, known.head, known.data
    if data is not None:
        data = upcasting.state(data, head.schema, stream, stream.state)
    is_current = head.version == 0 or upcasting.is_current(head.schema)
    text = NO_STATE_TEXT if data is None else encode(data)
    data = decode(text)  # what is known is folded more than once, and a reducer may change what it is given
    folded: list[Folded] = [Folded(text, upcasting.schema)]
    done: list[Draft] = []
    for offset, draft in enumerate(drafts, start=1):
        reducer = reducers.get(draft.action)
        if reducer is not None:
            text, data = fold(reducer, data, stream, seen_by_reducer(stream, head.version + offset, draft, data))
            done.append(msgspec.structs.replace(draft, state=text))
        elif is_current:
            done.append(draft)
        else:
            done.append(msgspec.structs.replace(draft, state=text, carries_state=True))
        is_current = True
        folded.append(Folded(text, upcasting.schema))
    return Composition(tuple(done), data), folded
