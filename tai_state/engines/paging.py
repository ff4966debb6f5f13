"""Iteration in pages, as plain iterators: breaking one off leaves nothing behind that must be closed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Final, Generic, NoReturn, TypeAlias, TypeVar

import anyio

S = TypeVar("S")
T = TypeVar("T")

Fetch: TypeAlias = Callable[[], Awaitable[Iterable[T] | None]]
"""Gives the next page, or None where there is no more; an empty page is not the end.

It is called again after it has failed or was cancelled, never twice at once, and gives then what it would have given.
"""

_NOTHING: Final[Iterator[Any]] = iter(())


class Paged(AsyncIterator[T], Generic[T]):
    """The items of one page after the other.

    No item is passed over in silence, and none comes twice:

    - Where the next page cannot be had now, the error is raised, and the next step asks for the same page again.
    - Where an item itself is wrong (a damaged document, say), the error is raised, and every later step raises it
      again: what comes after such an item cannot be had from this iterator.
    - A step that is cancelled has taken nothing.
    - Several tasks may take from one iterator; each item goes to one of them.

    Made by stores and engines.

    Args:
        fetch: gives the pages.
    """

    def __init__(self, fetch: Fetch[T]) -> None:
        self._fetch = fetch
        self._items: Iterator[T] = _NOTHING
        self._failed: _Failed | None = None
        self._is_fetching = False
        self._fetched: anyio.Event | None = None  # made only where another task waits for it

    def __repr__(self) -> str:
        if self._failed is not None:
            place = f"ended by {type(self._failed.error).__name__}"
        elif self._is_fetching:
            place = "fetching a page"
        else:
            place = "between two pages" if self._items is _NOTHING else "inside a page"
        return f"<{type(self).__name__}, {place}>"

    async def __anext__(self) -> T:
        while True:
            try:
                for item in self._items:
                    return item
            except BaseException as error:
                self._fail(error)
                raise
            self._items = _NOTHING
            if not await self._fill():
                raise StopAsyncIteration

    async def page(self) -> list[T] | None:
        """What is left of the present page, else the next page; None where there is no more.

        For those who take items faster than one by one. A page ends before an item that is wrong.
        """
        items = await self.rest()
        if items is None:
            return None
        page: list[T] = []
        try:
            page.extend(items)
        except BaseException as error:
            self._fail(error)
            if not page:
                raise
        return page

    async def rest(self) -> Iterator[T] | None:
        """As :meth:`page`, but made one by one as they are taken: the caller's alone, and so are the errors in it."""
        if self._items is _NOTHING and not await self._fill():
            return None
        items, self._items = self._items, _NOTHING
        return items

    def put_back(self, items: Iterable[T]) -> None:
        """Have these come next: they were taken for a step that has failed."""
        self._items = chain(items, self._items)

    async def _fill(self) -> bool:
        """Have another page, now that one is used up; False where there is no more."""
        while self._is_fetching:
            self._fetched = self._fetched or anyio.Event()
            await self._fetched.wait()
        if self._items is not _NOTHING:  # another task has fetched meanwhile
            return True
        self._is_fetching = True
        try:
            page = await self._fetch()
        finally:
            self._is_fetching = False
            fetched, self._fetched = self._fetched, None
            if fetched is not None:
                fetched.set()
        if page is None:
            return False
        self._items = iter(page) if self._items is _NOTHING else chain(self._items, page)
        return True

    def _fail(self, error: BaseException) -> None:
        """Have nothing but this error come from now on."""
        self._failed = self._failed or _Failed(error)
        self._items = self._failed


class _Failed(Iterator[Any]):
    """In place of items that come after an error: raises it each time."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self._traceback = error.__traceback__

    def __next__(self) -> NoReturn:
        raise self.error.with_traceback(self._traceback)


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
        rest = await items.rest()
        if rest is not None:
            return take(rest)
        if end is not None:
            await end()
        return None

    return Paged(fetch)


def converted(
    items: Paged[S],
    convert: Callable[[list[S]], Awaitable[Iterable[T]]],
    end: Callable[[], Awaitable[None]] | None = None,
) -> Paged[T]:
    """What the items stand for, where something must be looked up for each page.

    Args:
        items: the items.
        convert: gives what the items of one page stand for; called again where it has failed.
        end: called after the last item; may raise.
    """

    async def fetch() -> Iterable[T] | None:
        page = await items.page()
        if page is None:
            if end is not None:
                await end()
            return None
        try:
            return await convert(page)
        except BaseException:
            items.put_back(page)
            raise

    return Paged(fetch)


def resized(items: Paged[T], size: int) -> Paged[T]:
    """The same items in pages of so many; the last one may have fewer."""

    async def fetch() -> list[T] | None:
        return await taken(items, size) or None

    return Paged(fetch)


def chained(parts: Iterable[Paged[T]]) -> Paged[T]:
    """All items of the first, then those of the next."""
    left = list(parts)

    async def fetch() -> Iterable[T] | None:
        while left:
            rest = await left[0].rest()
            if rest is not None:
                return rest
            left.pop(0)
        return None

    return Paged(fetch)


async def taken(items: Paged[T], count: int | None) -> list[T]:
    """The next items, so many at most; None: all. Where one of them cannot be had, none is taken."""
    page: list[T] = []
    try:
        while count is None or len(page) < count:
            page.append(await anext(items))
    except StopAsyncIteration:
        return page
    except BaseException:
        items.put_back(page)
        raise
    return page
