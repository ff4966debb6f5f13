"""Queries, each read by a thread: there, a message takes a third of the time that it takes in an event loop."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import msgspec

from tai_state.engines.api import Document
from tai_state.engines.firestore import driver
from tai_state.engines.firestore.channels import SERVICE, Channels
from tai_state.engines.firestore.messages import Names, document

_THREADS_MAX: Final = 32
_PART_DOCUMENTS: Final = 256
_PART_BYTES: Final = 256 * 1024
"""How much is handed over at once; while it is used, the next documents arrive."""
_AHEAD_BYTES_MIN: Final = 1024 * 1024
_AHEAD_BYTES_MAX: Final = 4 * 1024 * 1024
"""A page ends when this many bytes wait to be used, so that a slow or missing user blocks neither memory nor a thread.

The bound is as much as was used already, between these two limits, so that a user of few documents pays for few.
"""
_SECONDS_MAX: Final = 5.0
"""A page ends after this time, well before its deadline."""


class Part(msgspec.Struct, frozen=True):
    """Some documents of a query.

    Attributes:
        documents: the documents, in order.
        last: the message of the last document.
        bytes_so_far: the size of all documents of the scan up to here.
    """

    documents: list[Document]
    last: Any
    bytes_so_far: int


class End(msgspec.Struct, frozen=True):
    """How a page ended.

    Attributes:
        is_cut: whether it ended before the query did, so that more may follow.
        error: the driver's error, if the query failed.
    """

    is_cut: bool
    error: Exception | None = None


class Page:
    """The documents of a query as they arrive; it ends early if they are not used in time.

    Made by :class:`Queries`; a page that is abandoned needs no closing.

    Attributes:
        bytes_used: the size of all documents of the scan that were used so far, earlier pages included.
    """

    def __init__(self, bytes_used: int) -> None:
        self.bytes_used: int = bytes_used
        self._loop = asyncio.get_running_loop()
        self._arrived: asyncio.Queue[Part | End] = asyncio.Queue()

    @property
    def bytes_max(self) -> int:
        """The size up to which the page may go, counted like ``bytes_used``."""
        return self.bytes_used + min(max(self.bytes_used, _AHEAD_BYTES_MIN), _AHEAD_BYTES_MAX)

    async def next(self) -> Part | End:
        """The next documents; after the last ones, how the page ended.

        Raises:
            The driver's errors, unchanged; the page has then ended.
        """
        arrived = await self._arrived.get()
        if isinstance(arrived, Part):
            self.bytes_used = arrived.bytes_so_far
        elif arrived.error is not None:
            raise arrived.error
        return arrived

    def hand_over(self, arrived: Part | End) -> None:
        """Hand over what has arrived; any thread may call this."""
        self._loop.call_soon_threadsafe(self._arrived.put_nowait, arrived)


class Queries:
    """Runs queries over one connection; those beyond 32 at once wait.

    Args:
        names: the names of the database's documents.
        channels: make the connection.
        metadata: the metadata to send with each query.
    """

    def __init__(self, names: Names, channels: Channels, metadata: tuple[tuple[str, str], ...]) -> None:
        self._names = names
        self._channels = channels
        self._metadata = metadata
        self._threads = ThreadPoolExecutor(_THREADS_MAX, "tai-state firestore query")
        self._connection: Any = None
        self._run: Any = None

    def page(self, request: Any, bytes_used: int, timeout_seconds: float) -> Page:
        """Begin a query; ``bytes_used`` is how much was used of the pages before."""
        if self._run is None:
            self._connection = self._channels.connect_blocking()
            self._run = self._connection.unary_stream(
                f"{SERVICE}RunQuery",
                request_serializer=driver.RunQueryRequest.SerializeToString,
            )
        page = Page(bytes_used)
        self._threads.submit(self._read, request, timeout_seconds, page)
        return page

    def _read(self, request: Any, timeout_seconds: float, page: Page) -> None:
        try:
            end = self._read_parts(request, timeout_seconds, page)
        except Exception as error:  # noqa: BLE001 - raised where it is awaited
            end = End(is_cut=True, error=error)
        page.hand_over(end)

    def _read_parts(self, request: Any, timeout_seconds: float, page: Page) -> End:
        rows_max = request.structured_query.limit.value
        rows = 0
        size = handed_over = page.bytes_used
        is_cut = False
        last: Any = None
        part: list[Document] = []
        parse = driver.RunQueryResponse.FromString
        until = time.monotonic() + _SECONDS_MAX
        call = self._run(request, metadata=self._metadata, timeout=timeout_seconds)
        try:
            for response in call:
                message = parse(response).document
                if name := message.name:
                    # Convert each one at once: the garbage collector would have to go through all messages kept.
                    part.append(document(self._names.path(name), message))
                    last = message
                    rows += 1
                    size += len(response)
                if len(part) == _PART_DOCUMENTS or size - handed_over >= _PART_BYTES:
                    page.hand_over(Part(part, last, size))
                    part, handed_over = [], size
                is_cut = size >= page.bytes_max or time.monotonic() > until
                if is_cut:
                    break
        finally:
            if part:  # also after an error, so that the next query continues after these
                page.hand_over(Part(part, last, size))
            driver.drain(call)
        return End(is_cut or rows == rows_max > 0)

    async def aclose(self) -> None:
        """Wait for the queries under way, then end the threads and close the connection."""
        await asyncio.to_thread(self._threads.shutdown)
        if self._connection is not None:
            self._connection.close()
