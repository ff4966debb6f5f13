"""Iteration in pages, as plain iterators: an abandoned one needs no closing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Final, Generic, NoReturn, TypeAlias, TypeVar

import anyio

S = TypeVar("S")
T = TypeVar("T")

Fetch: TypeAlias = Callable[[], Awaitable[Iterable[T] | None]]
"""Returns the next page, or None if there are no more; an empty page is not the end.

After a failed or cancelled call it is called again, and then returns the page that the failed call would have returned.
It is never called twice at once.
"""

_NOTHING: Final[Iterator[Any]] = iter(())


class Paged(AsyncIterator[T], Generic[T]):
    """The items of a sequence of pages, one by one. Made by stores and engines.

    It never silently skips an item, and yields none twice:

    - If the next page cannot be fetched now, the step raises the error, and the next step asks for the same page again.
    - If an item itself is wrong (for example a damaged document), the step raises the error, and so does every later
      step: this iterator cannot go past such an item.
    - A cancelled step loses no item.
    - Several tasks may take items from one iterator; each item goes to one of them.

    Args:
        fetch: returns the pages.
    """

    def __init__(self, fetch: Fetch[T]) -> None:
        self._fetch = fetch
        self._items: Iterator[T] = _NOTHING
        self._failed: _Failed | None = None
        self._is_fetching = False
        self._fetched: anyio.Event | None = None  # made only if another task waits for it

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
        """The rest of the present page, or else the next page; None if there are no more.

        It is faster than taking items one by one. A page ends before an item that is wrong.
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
        """As :meth:`page`, but as an iterator that makes items as they are taken. The caller handles its errors."""
        if self._items is _NOTHING and not await self._fill():
            return None
        items, self._items = self._items, _NOTHING
        return items

    def put_back(self, items: Iterable[T]) -> None:
        """Put items back to come next, after the step that took them has failed."""
        self._items = chain(items, self._items)

    async def _fill(self) -> bool:
        """Fetch the next page, once the present one is used up; False if there are no more."""
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
        """Raise this error, or an earlier one, in every later step."""
        self._failed = self._failed or _Failed(error)
        self._items = self._failed


class _Failed(Iterator[Any]):
    """Replaces the items after an error: raises the error each time."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self._traceback = error.__traceback__

    def __next__(self) -> NoReturn:
        raise self.error.with_traceback(self._traceback)


def limited(fetch: Callable[[], Awaitable[Sequence[T] | None]], limit: int | None) -> Fetch[T]:
    """The same pages, with at most ``limit`` items in all."""
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
    transform: Callable[[Iterable[S]], Iterable[T]],
    end: Callable[[], Awaitable[None]] | None = None,
) -> Paged[T]:
    """The items transformed, each as it is taken.

    Args:
        items: the items.
        transform: transforms the items of one page, as a generator.
        end: called after the last item; may raise.
    """

    async def fetch() -> Iterable[T] | None:
        rest = await items.rest()
        if rest is not None:
            return transform(rest)
        if end is not None:
            await end()
        return None

    return Paged(fetch)


def converted(
    items: Paged[S],
    convert: Callable[[list[S]], Awaitable[Iterable[T]]],
    end: Callable[[], Awaitable[None]] | None = None,
) -> Paged[T]:
    """The items converted page by page, by a function that may read from the store.

    Args:
        items: the items.
        convert: converts the items of one page; after a failure it is called again.
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
    """The same items in pages of ``size``; the last page may have fewer."""

    async def fetch() -> list[T] | None:
        return await take(items, size) or None

    return Paged(fetch)


def chained(parts: Iterable[Paged[T]]) -> Paged[T]:
    """All items of the first part, then those of the next, and so on."""
    left = list(parts)

    async def fetch() -> Iterable[T] | None:
        while left:
            rest = await left[0].rest()
            if rest is not None:
                return rest
            left.pop(0)
        return None

    return Paged(fetch)


async def take(items: Paged[T], count: int | None) -> list[T]:
    """Take the next items, at most ``count`` (None: all). If one of them raises an error, none is taken."""
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
