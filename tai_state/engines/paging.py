"""Iteration in pages, as plain iterators: breaking one off leaves nothing behind that must be closed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeAlias, TypeVar

S = TypeVar("S")
T = TypeVar("T")

Fetch: TypeAlias = Callable[[], Awaitable[Iterable[T] | None]]
"""Gives the next page, or None where there is no more; an empty page is not the end."""


class Paged(AsyncIterator[T], Generic[T]):
    """The items of one page after the other.

    Args:
        fetch: gives the pages.
    """

    def __init__(self, fetch: Fetch[T]) -> None:
        self._fetch = fetch
        self._items: Iterator[T] = iter(())

    async def page(self) -> Iterable[T] | None:
        """The next page as it is, for those who take items faster than one by one; None where there is no more."""
        return await self._fetch()

    async def __anext__(self) -> T:
        for item in self._items:
            return item
        while (page := await self._fetch()) is not None:
            self._items = iter(page)
            for item in self._items:
                return item
        raise StopAsyncIteration


def limited(fetch: Callable[[], Awaitable[Sequence[T] | None]], limit: int | None) -> Fetch[T]:
    """The same pages, but no more than so many items."""
    left = limit

    async def fetch_limited() -> Sequence[T] | None:
        nonlocal left
        page = None if left == 0 else await fetch()
        if page is not None and left is not None:
            page = page[:left]
            left -= len(page)
        return page

    return fetch_limited


def mapped(
    items: Paged[S],
    take: Callable[[Iterable[S]], Iterable[T]],
    end: Callable[[], Awaitable[None]] | None = None,
) -> Paged[T]:
    """What the items stand for, taken as it is asked for.

    Args:
        items: the items.
        take: a generator of what the items of one page stand for.
        end: called after the last item; may raise.
    """

    async def fetch() -> Iterable[T] | None:
        page = await items.page()
        if page is not None:
            return take(page)
        if end is not None:
            await end()
        return None

    return Paged(fetch)


def chained(parts: Iterable[Paged[T]]) -> Paged[T]:
    """All items of the first, then those of the next."""
    left = list(parts)

    async def fetch() -> Iterable[T] | None:
        while left:
            page = await left[0].page()
            if page is not None:
                return page
            left.pop(0)
        return None

    return Paged(fetch)


async def taken(items: AsyncIterator[T], count: int | None) -> list[T]:
    """The next items, so many at most; None: all."""
    page: list[T] = []
    while count is None or len(page) < count:
        try:
            page.append(await anext(items))
        except StopAsyncIteration:
            break
    return page
