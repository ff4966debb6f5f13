"""Scans that come in pages, as plain iterators: breaking one off leaves nothing behind that must be closed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import TypeAlias

from tai_state.engines.api import Document

Page: TypeAlias = Sequence[Document]


class Paged(AsyncIterator[Document]):
    """The documents of one page after the other.

    Args:
        fetch: gives the next page, or None where there is no more; an empty page is not the end.
        limit: at most so many documents.
    """

    def __init__(self, fetch: Callable[[], Awaitable[Page | None]], limit: int | None) -> None:
        self._fetch = fetch
        self._left = limit
        self._page: Iterator[Document] = iter(())

    async def __anext__(self) -> Document:
        if self._left is not None:
            if self._left <= 0:
                raise StopAsyncIteration
            self._left -= 1
        for document in self._page:
            return document
        return await self._next_page()

    async def _next_page(self) -> Document:
        while (page := await self._fetch()) is not None:
            self._page = iter(page)
            for document in self._page:
                return document
        raise StopAsyncIteration
