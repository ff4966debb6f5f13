"""The events of a stream, newest first.

Not every engine can scan downwards. So a stream is read in windows of versions, from its head down: each window is read
upwards, and its events are yielded in reverse.
"""

from __future__ import annotations

from collections.abc import Sequence

from tai_state.engines.paging import Paged
from tai_state.errors import Inconsistent, StateNotFound
from tai_state.streams.core import Core
from tai_state.streams.layout import Stream
from tai_state.streams.reader import floor_of, missing_event_error
from tai_state.streams.walking import Walk
from tai_state.values.events import JsonEvent

EVENTS_MAX = 100
"""How many events a window has at most."""


class Backwards:
    """One pass over a stream, from its newest event to its oldest.

    Args:
        core: the store's core.
        stream: the stream to read.
        after: the version before the last event to yield.
        until: the version of the first event to yield; None: the newest.
        limit: how many events to yield at most; None: all.
    """

    def __init__(self, core: Core, stream: Stream, after: int, until: int | None, limit: int | None) -> None:
        self._core = core
        self._stream = stream
        self._after = after
        self._until = until
        self._left = limit
        self._top: int | None = None
        self._is_begun = False

    def events(self) -> Paged[JsonEvent]:
        """The events, window by window."""
        return Paged(self._window)

    async def _window(self) -> Sequence[JsonEvent] | None:
        """The next window; after a failure, the same one again."""
        if self._top is None:
            found = await self._core.read_state(self._stream)
            if found is None:
                raise StateNotFound(self._stream.state)
            head = found[1].version
            self._top = head if self._until is None else min(self._until, head)
        top = self._top
        size = min(EVENTS_MAX, top - self._after, EVENTS_MAX if self._left is None else self._left)
        if size <= 0:
            return None
        events = await self._readable(top - size, top)
        self._top = events[0].version - 1 if events else self._after
        self._left = None if self._left is None else self._left - len(events)
        self._is_begun = True
        return events[::-1]

    async def _readable(self, after: int, top: int) -> list[JsonEvent]:
        """The events of a window; if one is damaged, only events above it, so that its error is raised in its turn."""
        while True:
            try:
                return await self._between(after, top)
            except Inconsistent:
                if after + 1 >= top:
                    raise
                after = (after + top) // 2

    async def _between(self, after: int, top: int) -> list[JsonEvent]:
        """The events of a window, oldest first: all of them, except those that were cleaned up.

        If the newest event of the stream is not there, that is not an error: its state may be visible a moment earlier.
        """
        engine = self._core.engine
        walk = Walk(self._core.reader, self._stream, after=after)
        events = [event async for event in walk.over(engine, top)]
        if events and self._is_begun and events[-1].version < top:
            raise missing_event_error(self._stream, top, 1)
        below = events[0].version - 1 if events else top
        if below > after and (events or self._is_begun):
            floor = await floor_of(engine, self._stream)
            if below >= floor:
                raise missing_event_error(self._stream, below, floor)
        return events
