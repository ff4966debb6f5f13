"""What callers iterate over: plain iterators, so that leaving one early leaves nothing behind that must be closed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, TypeAlias, TypeVar

S = TypeVar("S")
T = TypeVar("T")

Begin: TypeAlias = Callable[[], Awaitable[AsyncIterator[S]]]


class Results(AsyncIterator[T], Generic[S, T]):
    """Each item of another iterator, turned into what it stands for.

    Args:
        items: the other iterator, or what gives it at the first use.
        take: what an item stands for; None passes it over.
        end: called once after the last item, with whether there was none; may raise.
    """

    def __init__(
        self,
        items: AsyncIterator[S] | Begin[S],
        take: Callable[[S], T | None],
        end: Callable[[bool], Awaitable[None]] | None = None,
    ) -> None:
        self._items: AsyncIterator[S] | None = None
        if callable(items):
            self._begin = items
        else:
            self._items = items
        self._take = take
        self._end = end
        self._is_empty = True

    async def __anext__(self) -> T:
        items = self._items
        if items is None:
            items = self._items = await self._begin()
        async for item in items:
            self._is_empty = False
            if (result := self._take(item)) is not None:
                return result
        end, self._end = self._end, None
        if end is not None:
            await end(self._is_empty)
        raise StopAsyncIteration
