"""Iteration in pages, as plain iterators: breaking one off leaves nothing behind that must be closed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Paged(AsyncIterator[T], Generic[T]):
    """The items of one page after the other.

    Args:
        fetch: gives the next page, or None where there is no more; an empty page is not the end.
        limit: at most so many items.
    """

    def __init__(self, fetch: Callable[[], Awaitable[Sequence[T] | None]], limit: int | None) -> None:
        self._fetch = fetch
        self._left = limit
        self._page: Iterator[T] = iter(())

    async def __anext__(self) -> T:
        if self._left is not None:
            if self._left <= 0:
                raise StopAsyncIteration
            self._left -= 1
        for item in self._page:
            return item
        return await self._next_page()

    async def _next_page(self) -> T:
        while (page := await self._fetch()) is not None:
            self._page = iter(page)
            for item in self._page:
                return item
        raise StopAsyncIteration


async def taken(items: AsyncIterator[T], count: int | None) -> list[T]:
    """The next items, so many at most; None: all."""
    page: list[T] = []
    while count is None or len(page) < count:
        try:
            page.append(await anext(items))
        except StopAsyncIteration:
            break
    return page
