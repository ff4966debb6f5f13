"""Iterators in pages: no item is lost, doubled or passed over, whatever happens between two steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tai_state.engines.paging import Paged, chained, converted, limited, mapped, resized, take

from ..support.stores import collected

pytestmark = pytest.mark.anyio


class Source:
    """Gives pages of numbers. Each page first fails so many times, and each fetch waits for a turn of the others."""

    def __init__(self, *pages: Sequence[int], failures: int = 0) -> None:
        self._pages = list(pages)
        self._failures = failures
        self._left = failures

    async def fetch(self) -> Sequence[int] | None:
        """The next page."""
        await anyio.lowlevel.checkpoint()
        if self._left:
            self._left -= 1
            raise TimeoutError
        self._left = self._failures
        return self._pages.pop(0) if self._pages else None


PAGES = ([1, 2, 3], [], [4], [5, 6, 7, 8])
NUMBERS = [1, 2, 3, 4, 5, 6, 7, 8]


def _source(failures: int) -> Paged[int]:
    return Paged(Source(*PAGES, failures=failures).fetch)


def _doubled(failures: int) -> Paged[int]:
    left = failures

    async def double(page: list[int]) -> Iterable[int]:
        nonlocal left
        await anyio.lowlevel.checkpoint()
        if left:
            left -= 1
            raise TimeoutError
        left = failures
        return (number * 2 for number in page)

    return converted(_source(failures), double)


KINDS: dict[str, Callable[[int], Paged[int]]] = {
    "plain": _source,
    "limited": lambda failures: Paged(limited(Source(*PAGES, NUMBERS, failures=failures).fetch, 8)),
    "mapped": lambda failures: mapped(mapped(_source(failures), lambda page: (-n for n in page)), lambda page: page),
    "converted": _doubled,
    "resized": lambda failures: resized(_source(failures), 3),
    "chained": lambda failures: chained([_source(failures), _source(failures)]),
}


async def _insisting(items: Paged[Any]) -> list[Any]:
    """All that is given to somebody who asks again after an error that passes."""
    seen: list[Any] = []
    while True:
        try:
            seen.append(await anext(items))
        except TimeoutError:
            continue
        except StopAsyncIteration:
            return seen


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
async def test_an_iterator_goes_on_after_an_error_that_passes(make: Callable[[int], Paged[int]]):
    """Where each page fails twice before it comes, the items are those that come without failures."""
    expected = await collected(make(0))
    assert len(expected) >= len(NUMBERS)
    assert await _insisting(make(2)) == expected


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
async def test_a_cancelled_step_takes_nothing(make: Callable[[int], Paged[int]]):
    """Steps that are cancelled at each of their moments leave all items to the later ones."""
    expected = await collected(make(0))
    for moments in range(1, 5):
        items, seen = make(0), []
        step = 0
        while len(seen) < len(expected):
            step += 1
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_take_one, items, seen)
                for _ in range(step % (moments + 3)):
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
        assert seen == expected


async def _take_one(items: Paged[Any], seen: list[Any]) -> None:
    seen.append(await anext(items))


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
async def test_several_tasks_share_an_iterator(make: Callable[[int], Paged[int]]):
    """Of several tasks each gets some of the items, and together they get each item once."""
    expected = await collected(make(0))
    items, seen = make(0), [[], [], []]

    async def take(mine: list[int]) -> None:
        async for item in items:
            mine.append(item)
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        for mine in seen:
            tasks.start_soon(take, mine)
    assert sorted(item for mine in seen for item in mine) == sorted(expected)
    assert sum(bool(mine) for mine in seen) > 1


def _sound(page: Iterable[int]) -> Iterator[int]:
    for number in page:
        if number == 6:
            raise ValueError("six is wrong")
        yield number


WRONG: dict[str, Callable[[], Paged[int]]] = {
    "mapped": lambda: mapped(_source(0), _sound),
    "mapped twice": lambda: mapped(mapped(_source(0), _sound), lambda page: (number for number in page)),
    "chained": lambda: chained([mapped(_source(0), _sound), _source(0)]),
    "resized": lambda: resized(mapped(_source(0), _sound), 100),
    "converted": lambda: converted(mapped(_source(0), _sound), _as_they_are),
}


async def _as_they_are(page: list[int]) -> Iterable[int]:
    return page


@pytest.mark.parametrize("make", WRONG.values(), ids=WRONG)
async def test_an_item_that_is_wrong_is_never_passed_over(make: Callable[[], Paged[int]]):
    """After an item that cannot be made, each step raises its error again: neither a later item comes nor an end."""
    items, seen = make(), []
    for _ in range(20):
        try:
            seen.append(await anext(items))
        except ValueError:
            continue
    assert seen == ([] if make is WRONG["resized"] else [1, 2, 3, 4, 5])
    with pytest.raises(ValueError, match="six is wrong") as caught:
        await anext(items)
    assert len(caught.traceback) < 10  # and does not grow with each step


async def test_a_page_ends_before_an_item_that_is_wrong():
    """Taking page by page gives the items before the error, and then the error each time."""
    items = mapped(_source(0), _sound)
    assert [await items.page() for _ in range(4)] == [[1, 2, 3], [], [4], [5]]
    for _ in range(2):
        with pytest.raises(ValueError, match="six is wrong"):
            await items.page()


async def test_a_page_begins_where_the_last_step_ended():
    """What steps have left of a page comes first when a page is asked for, and the other way round."""
    items = mapped(_source(0), lambda page: (number for number in page))
    assert await anext(items) == 1
    assert await items.page() == [2, 3]
    assert await items.page() == []
    assert [await anext(items), await anext(items)] == [4, 5]
    assert await items.page() == [6, 7, 8]
    assert await items.page() is None
    assert await anext(items, None) is None


async def test_taking_several_takes_all_of_them_or_none():
    """Where one of the items that are asked for cannot be had now, those before it come again."""
    items = _source(1)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await take(items, 5)
    assert await take(items, 3) == [1, 2, 3]
    assert await _insisting(items) == [4, 5, 6, 7, 8]


async def test_who_waits_for_a_page_outlives_who_fetches_it():
    """When the task that fetches a page is cancelled, those that wait for it fetch it themselves."""
    pages, is_open = [[1], [2]], anyio.Event()

    async def fetch() -> list[int] | None:
        await is_open.wait()
        return pages.pop(0) if pages else None

    items = Paged(fetch)
    cancelled: list[int] = []
    seen: list[int] = []
    async with anyio.create_task_group() as tasks:
        async with anyio.create_task_group() as fetching:
            fetching.start_soon(_take_one, items, cancelled)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(_take_one, items, seen)
            tasks.start_soon(_take_one, items, seen)
            await anyio.wait_all_tasks_blocked()
            fetching.cancel_scope.cancel()
        is_open.set()
    assert cancelled == []
    assert sorted(seen) == [1, 2]


async def test_what_is_put_back_while_another_task_waits_for_a_page_is_kept():
    """Items that come back during another task's fetch come before those of its page."""
    items = Paged(Source([1], [2]).fetch)
    first = await anext(items)
    seen: list[int] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_take_one, items, seen)
        await anyio.lowlevel.checkpoint()
        items.put_back([first])
    assert seen + await collected(items) == [1, 2]
