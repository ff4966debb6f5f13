"""Which streams a governor has, told by their events and their states."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from tai_state.engines.api import Scan
from tai_state.engines.paging import take
from tai_state.errors import CorruptDocument
from tai_state.streams.core import Core
from tai_state.streams.layout import Stream
from tai_state.values.ids import VERSION_MAX, versioned

STRANGE_MAX = 1_000
"""Documents in no place that are noted."""


async def streams_with_events(
    core: Core, governor_id: str, after: str | None = None, strange: list[CorruptDocument] | None = None
) -> AsyncGenerator[Stream, None]:
    """The streams of a governor, one look each: whatever their length, their events are not read.

    Args:
        core: of the store.
        governor_id: whose.
        after: of the state whose stream comes before the first one.
        strange: takes note of what stands in no place of an event, at most 1,000 documents.
    """
    collection = core.layout.events(governor_id)
    start = "" if after is None else core.layout.stream(governor_id, after).range(VERSION_MAX)[1]
    while found := await take(core.engine.scan(Scan(collection, start=start, limit=1)), 1):
        place = core.layout.placed(governor_id, found[0])
        if place is None:
            if strange is not None and len(strange) < STRANGE_MAX:
                strange.append(CorruptDocument(found[0].path, "is not a place of an event"))
            start = found[0].id + "\x00"
            continue
        yield place.stream
        start = versioned(place.stream.segment, VERSION_MAX) + "\x00"


async def states_without_events(
    core: Core, governor_id: str, strange: list[CorruptDocument]
) -> AsyncGenerator[Stream, None]:
    """The states of a governor that have no event at all, so that their streams do not show them.

    Args:
        core: of the store.
        governor_id: whose.
        strange: takes note of what stands in no place of a state, at most 1,000 documents.
    """
    async for document in core.engine.scan(Scan(core.layout.states(governor_id))):
        place = core.layout.placed(governor_id, document)
        if place is None:
            if len(strange) < STRANGE_MAX:
                strange.append(CorruptDocument(document.path, "is not a place of a state"))
            continue
        start, end = place.stream.range(1)
        if not await take(core.engine.scan(Scan(place.stream.events, start=start, end=end, limit=1)), 1):
            yield place.stream
