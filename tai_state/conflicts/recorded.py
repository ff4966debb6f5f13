"""The conflicts on record in a store: read from the events that resolved them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from tai_state.conflicts.joins import joined_by
from tai_state.conflicts.notes import note_of
from tai_state.engines.paging import Paged, converted, resized
from tai_state.errors import Inconsistent
from tai_state.streams.core import Core, HasCore, core_of
from tai_state.streams.damage import Report, raising
from tai_state.streams.layout import Stream
from tai_state.streams.reading import list_all_states
from tai_state.streams.records import EventRecord, moment
from tai_state.values.events import JOIN_ACTION, RIVAL_ACTION
from tai_state.values.states import JsonState

_ACTIONS: Final = (JOIN_ACTION, RIVAL_ACTION)


class RecordedConflict(msgspec.Struct, frozen=True, kw_only=True):
    """A conflict and its resolution.

    Attributes:
        governor_id: the owner and namespace.
        state_id: the state under it.
        version: the version of the event that resolved it.
        event_id: the id of that event.
        timestamp: the timestamp of that event.
        strategies: the names of the resolvers that decided.
        tips: the ids of the last events of the versions that it brought together.
        discarded: the discarded changes: objects with path, value, removed, stores and head.
    """

    governor_id: str
    state_id: str
    version: int
    event_id: str
    timestamp: datetime
    strategies: tuple[str, ...]
    tips: tuple[str, ...] = msgspec.field(name="heads")
    discarded: tuple[dict[str, Any], ...]


def recorded_conflicts(store: HasCore, governor_id: str) -> Paged[RecordedConflict]:
    """The conflicts of a governor's states, state by state, each oldest first. Reads all of their events.

    Raises:
        GovernorNotFound: nothing was ever written under this governor.
    """
    return conflicts_of(core_of(store), governor_id)


def conflicts_of(core: Core, governor_id: str, report: Report = raising) -> Paged[RecordedConflict]:
    """As :func:`recorded_conflicts`; of a stream with a damaged event, those before it are read and it is reported."""
    states = list_all_states(core, governor_id, report=report)

    async def convert(page: Sequence[JsonState]) -> list[RecordedConflict]:
        [state] = page
        stream = core.layout.stream(governor_id, state.state_id)
        found: list[RecordedConflict] = []
        try:
            async for stored in core.reader.records(stream, 1):
                if (recorded := _recorded(stream, stored.record)) is not None:
                    found.append(recorded)  # noqa: PERF401 - what was found before an error stays
        except Inconsistent as error:
            report(error)
        return found

    return converted(resized(states, 1), convert)


def _recorded(stream: Stream, event: EventRecord) -> RecordedConflict | None:
    """The conflict that an event resolved; None if it resolved none."""
    if event.action not in _ACTIONS:
        return None
    if (joined := joined_by(event)) is not None:
        return _conflict(stream, event, [joined.strategy], joined.tips, joined.discarded)
    if (note := note_of(event)) is not None:
        return _conflict(stream, event, note.strategies, note.tips, map(msgspec.to_builtins, note.discarded))
    return None


def _conflict(
    stream: Stream,
    event: EventRecord,
    strategies: Iterable[str],
    tips: Iterable[str],
    discarded: Iterable[dict[str, Any]],
) -> RecordedConflict:
    return RecordedConflict(
        governor_id=stream.governor_id,
        state_id=stream.state_id,
        version=event.version,
        event_id=event.event_id,
        timestamp=moment(event.timestamp, stream.event(event.version)),
        strategies=tuple(strategies),
        tips=tuple(tips),
        discarded=tuple(discarded),
    )
