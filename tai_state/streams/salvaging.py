"""Reading the sound events of a stream, past those that are damaged or missing."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from tai_state.engines.api import Scan
from tai_state.engines.paging import Paged, converted
from tai_state.errors import Inconsistent
from tai_state.streams.core import Core
from tai_state.streams.damage import Report
from tai_state.streams.layout import Stream
from tai_state.streams.reading import get_events
from tai_state.streams.walking import Walk
from tai_state.values.events import JsonEvent
from tai_state.values.ids import split_versioned


async def sound_events(
    core: Core, stream: Stream, report: Report, *, after: int = 0, limit: int | None = None
) -> AsyncGenerator[JsonEvent, None]:
    """The events of a state. Each that is damaged or missing is reported, and the next one that is there follows.

    Of that next one, the state before it is not known.

    Args:
        core: the core of the store.
        stream: the paths of the state.
        report: called with what is wrong with an event.
        after: begin after this version.
        limit: how many events to yield at most; None: no limit.

    Raises:
        StateNotFound: the state was never written.
    """
    events, left = get_events(core, stream, after=after, limit=limit), limit
    while True:
        try:
            event = await anext(events, None)
        except Inconsistent as error:
            collection, _, document_id = error.path.rpartition("/")
            if collection != stream.events:
                raise
            report(error)
            events = _from(core, stream, 1 + max(after, split_versioned(document_id)[1]))
            continue
        if event is None:
            return
        left = None if left is None else left - 1
        after = event.version
        yield event
        if left == 0:
            return


def _from(core: Core, stream: Stream, version: int) -> Paged[JsonEvent]:
    """The events from the first one that is there, at a version or later."""
    start, end = stream.range(version)
    walk = Walk(core.reader, stream)
    documents = core.engine.scan(Scan(stream.events, start=start, end=end))
    return converted(documents, lambda page: walk.page(core.engine, page))
