"""Acquiring a lock, cancelled: nothing stays behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tai_state import LockStatistics, StateStore, StoreTimeout, StoreUnavailable
from tai_state.engines.api import Delete, Engine, Put, Write
from tai_state.locks.lease import Lease
from tai_state.testing import AtCalls, Fault, FaultyEngine

from ..support.locks import TTL, Time, asleep, managed, paths, until
from ..support.stores import AroundEngine, Places

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("moment", range(0, 60, 4))
async def test_cancelled_while_waiting(store: StateStore, other: StateStore, time: Time, moment: int):
    """Whenever somebody who acquires or waits is cancelled, nothing of it is left behind."""
    locks, theirs = managed(store, time), managed(other, time)
    lease = await locks.acquire_lock("r", ttl_seconds=TTL) if moment % 8 else None

    async def block() -> None:
        async with theirs.lock("r", ttl_seconds=TTL):
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(block)
        for _ in range(moment):
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert await paths(store.core.engine, "r") == (["locks/r"] if lease else [])
    assert theirs.statistics() == LockStatistics(held={}, waiting={}, renewals=0)


class Late(AroundEngine):
    """A commit takes a while; one that is cancelled on its way is applied all the same, after the next read."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._late: Sequence[Write] = ()

    async def commit(self, writes: Sequence[Write]) -> Any:  # noqa: D102
        try:
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
        except anyio.get_cancelled_exc_class():
            self._late = writes
            raise
        return await self._engine.commit(writes)

    async def read(self, paths: Sequence[str]) -> Any:  # noqa: D102
        reading = await self._engine.read(paths)
        if self._late:
            await self._engine.commit(self._late)
            self._late = ()
        return reading


async def test_cancelled_commits_that_arrive_late(memory_places: Places, anyio_backend: str):
    """Nothing is left either where a cancelled commit would arrive when all was given back, were it let go."""
    place = memory_places.new()
    time = Time(place.clock)
    async with place.store() as store:
        locks = managed(store, time, Late(store.core.engine))

        async def block() -> None:
            async with locks.lock("r"):
                await anyio.sleep_forever()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(block)
            await until(lambda: time.calls)
            tasks.cancel_scope.cancel()
        if anyio_backend == "asyncio":
            import asyncio

            task = asyncio.create_task(block())
            await until(lambda: time.calls)
            task.cancel()
            await asyncio.wait([task])
        await store.core.engine.read([])
        assert await paths(store.core.engine, "r") == []


@pytest.mark.parametrize("fault", [Fault.CANCELLED_BEFORE, Fault.CANCELLED_AFTER])
@pytest.mark.parametrize("call", range(1, 9))
async def test_cancelled_at_each_call(store: StateStore, other: StateStore, time: Time, fault: Fault, call: int):
    """The same where the cancellation falls on a call of the engine."""
    faulty = FaultyEngine(other.core.engine, AtCalls({("any", call): fault}))
    locks, theirs = managed(store, time), managed(other, time, faulty)
    lease = await locks.acquire_lock("r", ttl_seconds=TTL)
    async with anyio.create_task_group() as tasks:

        async def wait() -> None:
            with faulty.cancellable():
                async with theirs.lock("r", ttl_seconds=TTL):
                    pass

        tasks.start_soon(wait)
        await until(lambda: asleep(theirs) or faulty.statistics().all_hit)
        await locks.release_lock(lease)
    assert await paths(store.core.engine, "r") == []


async def test_cancelled_natively(store: StateStore, other: StateStore, time: Time, anyio_backend: str):
    """The same for ``task.cancel()`` under asyncio, at any moment."""
    if anyio_backend != "asyncio":
        return
    import asyncio

    locks, theirs = managed(store, time), managed(other, time)
    for moment in range(0, 40, 3):
        lease = await locks.acquire_lock("r", ttl_seconds=TTL, wait_seconds=0) if moment % 2 else None
        task = asyncio.create_task(theirs.acquire_lock("r", ttl_seconds=TTL))
        for _ in range(moment):
            await anyio.lowlevel.checkpoint()
        task.cancel()
        [result] = await asyncio.gather(task, return_exceptions=True)
        if isinstance(result, Lease):
            await theirs.release_lock(result)
        assert await paths(store.core.engine, "r") == (["locks/r"] if lease else [])
        if lease:
            await locks.release_lock(lease)


@pytest.mark.parametrize("moment", range(0, 48, 2))
async def test_cancelled_while_a_lock_changes_hands(memory_places: Places, moment: int):
    """Nor is anything left of a waiter that gets the lock, and is cancelled before it has left the line."""
    place = memory_places.new()
    time = Time(place.clock)
    async with place.store() as store, place.store(place.engine()) as other:
        locks, theirs = managed(store, time), managed(other, time)
        for each in (moment, moment + 1):
            lease = await locks.acquire_lock("r", ttl_seconds=TTL)
            taken: list[Lease] = []

            async def wait(taken: list[Lease] = taken) -> None:
                taken.append(await theirs.acquire_lock("r", ttl_seconds=TTL))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await until(lambda: asleep(theirs))
                async with anyio.create_task_group() as releasing:
                    releasing.start_soon(locks.release_lock, lease)
                    for _ in range(each):
                        await anyio.lowlevel.checkpoint()
                    tasks.cancel_scope.cancel()
            for lease in taken:
                await theirs.release_lock(lease)
            assert await paths(store.core.engine, "r") == []


async def test_a_lock_is_given_back_though_the_line_cannot_be_left(store: StateStore, other: StateStore, time: Time):
    """A waiter's first commit arrives late and acquires the lock, and then the engine fails when it leaves the line."""
    late: list[Put] = []

    class Stuck(AroundEngine):
        async def commit(self, writes: Sequence[Write]) -> Any:
            if not late:
                late.extend(each for each in writes if isinstance(each, Put))
                raise StoreTimeout("commit", "TEST", unknown=True)
            if all(isinstance(each, Delete) and "/waiters/" in each.path for each in writes):
                raise StoreUnavailable("commit", "TEST")
            return await self._engine.commit(writes)

    locks, theirs = managed(store, time), managed(other, time, Stuck(other.core.engine))
    await locks.acquire_lock("r", ttl_seconds=60)

    async def wait() -> None:
        with pytest.raises(StoreUnavailable):
            await theirs.acquire_lock("r", ttl_seconds=60)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await until(lambda: asleep(theirs))
        await store.core.engine.commit([Put("locks/r", late[0].fields)])  # released, and acquired before anybody looks
    assert await paths(store.core.engine) == []
