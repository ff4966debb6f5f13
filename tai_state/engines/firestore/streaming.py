"""Queries, each read by a thread: there a message of the answer costs a third of what it costs in an event loop."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from tai_state.engines.api import Document
from tai_state.engines.firestore.channels import SERVICE, Channels
from tai_state.engines.firestore.driver import RunQueryRequest, RunQueryResponse
from tai_state.engines.firestore.messages import Names, document

_THREADS_MAX: Final = 32
_PAGE_BYTES: Final = 4 * 1024 * 1024


class Queries:
    """Runs queries over one connection; those beyond 32 at once wait.

    Args:
        names: of the database's documents.
        channels: give the connection.
        metadata: what goes with each query.
    """

    def __init__(self, names: Names, channels: Channels, metadata: tuple[tuple[str, str], ...]) -> None:
        self._names = names
        self._channels = channels
        self._metadata = metadata
        self._threads = ThreadPoolExecutor(_THREADS_MAX, "tai-state firestore query")
        self._connection: Any = None
        self._run: Any = None

    async def page(self, request: Any, timeout_seconds: float) -> tuple[list[Document], Any, bool]:
        """The next documents of a query, bounded in number and bytes; the last one's message; whether more follow."""
        if self._run is None:
            self._connection = self._channels.connect_blocking()
            self._run = self._connection.unary_stream(
                f"{SERVICE}RunQuery",
                request_serializer=RunQueryRequest.SerializeToString,
                response_deserializer=_sized,
            )
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._page, request, timeout_seconds)

    def _page(self, request: Any, timeout_seconds: float) -> tuple[list[Document], Any, bool]:
        found: list[Document] = []
        last: Any = None
        size = 0
        call = self._run(request, metadata=self._metadata, timeout=timeout_seconds)
        for response_bytes, response in call:
            message = response.document
            if name := message.name:
                # Each at once: many messages kept are many objects that the garbage collector goes through.
                found.append(document(self._names.path(name), message))
                last = message
                size += response_bytes
            if size >= _PAGE_BYTES:
                call.cancel()
                return found, last, True
        return found, last, len(found) >= request.structured_query.limit.value

    async def aclose(self) -> None:
        """End the threads, once no query is under way, and the connection."""
        await asyncio.to_thread(self._threads.shutdown)
        if self._connection is not None:
            self._connection.close()


def _sized(data: bytes) -> tuple[int, Any]:
    return len(data), RunQueryResponse.FromString(data)
