"""Finding the version of a state that stood at a time."""

from __future__ import annotations

from tai_state.errors import Inconsistent, StateNotFound
from tai_state.history.extents import extent_of
from tai_state.streams.core import Core
from tai_state.streams.layout import Stream
from tai_state.streams.reader import floor_of, missing_event_error, stored_record

_PARTS = 4
"""Each read divides the versions in question by this number. It halves the reads of a search by halves."""


class TimeSearch:
    """Searches a stream by ``as_of``, the latest time of all events up to one, which never falls.

    Args:
        core: the core of the store.
        stream: the stream.
        until: the time, as text.
    """

    def __init__(self, core: Core, stream: Stream, until: str) -> None:
        self._core = core
        self._stream = stream
        self._until = until

    async def version(self) -> int | None:
        """The last version with no event up to it after the time.

        None if ``as_of`` does not show it: the event has format 1, or is below the floor of a cleanup.

        Raises:
            StateNotFound: the state was never written, or not by then.
            CorruptDocument: the event that decides is damaged.
            EventSourcingError: it is missing.
        """
        [document] = (await self._core.engine.read([self._stream.state])).documents
        extent = await extent_of(self._core, self._stream, document)
        if extent.as_of is not None and extent.as_of <= self._until:
            return extent.version
        low, high, shows_low = extent.floor - 1, extent.version + (extent.as_of is None), False
        while high - low > 1:
            times, strange = await self._times(low, high)
            if not times:
                floor = await floor_of(self._core.engine, self._stream)
                if floor - 1 <= low:
                    raise strange
                low = floor - 1  # a cleanup has run meanwhile
            for version, as_of in times:
                if as_of > self._until:
                    high = version
                    break
                low, shows_low = version, as_of != ""
        if low == 0:
            raise StateNotFound(self._stream.state)
        return low if shows_low else None

    async def _times(self, low: int, high: int) -> tuple[list[tuple[int, str]], Inconsistent]:
        """The versions between two others that divide them into parts, with ``as_of``; and why some are left out."""
        stream = self._stream
        versions = sorted({low + (high - low) * part // _PARTS for part in range(1, _PARTS)} - {low})
        documents = (await self._core.engine.read([stream.event(version) for version in versions])).documents
        times: list[tuple[int, str]] = []
        strange: Inconsistent = missing_event_error(stream, versions[0], 1)
        for version, document in zip(versions, documents, strict=True):
            if document is not None:
                try:
                    times.append((version, stored_record(stream, document).record.as_of))
                except Inconsistent as error:
                    strange = error
        return times, strange
