"""What a lock is asked for is checked, and a lock entered in one task can be left in another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tai_state import InvalidData, StateStore, TaiStateError, open_store

from ..support.stores import collected

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Tasks are those of asyncio here."""
    return "asyncio"


@pytest.fixture
async def store() -> AsyncIterator[StateStore]:
    """An empty store."""
    async with open_store("memory://") as store:
        yield store


ARGUMENTS: list[Any] = [
    {"ttl_seconds": 0},
    {"ttl_seconds": -1.0},
    {"ttl_seconds": float("nan")},
    {"ttl_seconds": float("inf")},
    {"wait_seconds": -1.0},
    {"wait_seconds": float("nan")},
    {"holder": 5},
    {"holder": "half of a pair: \ud800"},
    {"ttl_seconds": None},
    {"ttl_seconds": "5"},
    {"wait_seconds": "x"},
    {"wait_seconds": [1]},
    {"ttl_seconds": (1,)},
    {"holder": "h" * 1_481},
    {"holder": "é" * 741},
]


class Seconds(float):
    """As the numbers of other libraries are."""


class Count(int):
    """The same of whole numbers."""


@pytest.mark.parametrize("seconds", [Seconds(60), Count(60), 60])
async def test_seconds_may_be_of_a_kind_of_its_own(store: StateStore, seconds: float) -> None:
    """What is a number is one, and is stored as a plain one."""
    async with store.lock("r", ttl_seconds=seconds, wait_seconds=seconds, holder="h" * 1_480) as lease:
        assert type(lease.ttl_seconds) is float
        assert lease.ttl_seconds == 60
    async with store.lock("r", wait_seconds=Seconds("inf")):
        pass


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=repr)
async def test_an_argument_that_means_nothing_is_refused(store: StateStore, arguments: dict[str, Any]) -> None:
    """A time that is none, or a holder that is not text, is ``InvalidData`` before anything is sent, by each way."""
    with pytest.raises(InvalidData):
        await store.locks.acquire_lock("r", **arguments)
    with pytest.raises(InvalidData):
        async with store.lock("r", **arguments):
            pass
    assert await collected(store.locks.list_locks()) == []


async def test_a_lease_of_another_store_is_neither_renewed_nor_released(store: StateStore) -> None:
    """What was acquired in one store says nothing about a lock of that name in another one."""
    async with open_store("memory://") as other:
        lease = await other.locks.acquire_lock("r")
        mine = await store.locks.acquire_lock("r")
        for use in (store.locks.renew_lock, store.locks.release_lock):
            with pytest.raises(InvalidData, match="another store"):
                await use(lease)
        assert lease.is_held
        assert mine.is_held


async def test_names_may_come_from_a_generator(store: StateStore) -> None:
    """The block gets a lease for each name, in the order given, however they are given."""
    names: Any = (each for each in "ba")
    async with store.locks.lock_all(names) as leases:
        assert [each.resource for each in leases] == ["b", "a"]


async def test_a_lock_entered_in_one_task_and_left_in_another(store: StateStore) -> None:
    """A fixture's set-up may enter a lock and its tear-down leave it; or the error says what to use, and it is free."""
    stack = AsyncExitStack()
    await asyncio.create_task(stack.enter_async_context(store.lock("r")))
    try:
        await asyncio.create_task(stack.aclose())
    except (RuntimeError, TaiStateError) as error:
        assert "acquire_lock" in str(error)  # noqa: PT017 - either is right
    assert await collected(store.locks.list_locks()) == []
