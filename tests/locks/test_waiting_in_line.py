"""Those who wait for a lock: what it costs that there are many, in which order they come, and what wakes them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tai_state import InvalidData, Lease
from tai_state.engines.api import DocumentChange
from tai_state.engines.memory import MemoryEngine
from tai_state.locks.locking import LockManager
from tai_state.testing import AtCalls, Fault, FaultyEngine, ManualClock

from ..support.faults import NextCommit
from ..support.stores import AroundEngine, CountingEngine, Counts, make_store

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Which event loop it is decides nothing here."""
    return "asyncio"


class Time:
    """Seconds that pass when a test says so, for lock managers and for the engine's clock; wakes those who sleep."""

    def __init__(self, clock: ManualClock) -> None:
        self._now = 1_000.0
        self._clock = clock
        self._sleepers: list[tuple[float, anyio.Event]] = []

    def monotonic(self) -> float:
        """The time."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Until so much time has passed."""
        sleeper = (self._now + seconds, anyio.Event())
        self._sleepers.append(sleeper)
        try:
            await (sleeper[1].wait() if seconds > 0 else anyio.lowlevel.checkpoint())
        finally:
            self._sleepers.remove(sleeper)

    async def pass_until(self, condition: Callable[[], Any], seconds: float, step: float) -> None:
        """Let time pass in steps, and others do what is due after each, until something is so."""
        until = self._now + seconds
        while not condition() and self._now < until:
            self._now += step
            self._clock.advance_us(round(step * 1e6))
            for due, event in self._sleepers:
                if due <= self._now:
                    event.set()
            await settle()


async def settle() -> None:
    """Let others do all that needs no more time: memory answers at once."""
    for _ in range(60):
        await anyio.lowlevel.checkpoint()


class Silent(AroundEngine):
    """Its watches tell what is there when they begin, and nothing more."""

    @asynccontextmanager
    async def watch(self, *targets: str) -> AsyncIterator[AsyncIterator[DocumentChange]]:  # noqa: D102
        async with self._engine.watch(*targets) as changes:
            first = [await anext(changes) for _ in targets]

            async def told() -> AsyncIterator[DocumentChange]:
                for change in first:
                    yield change
                await anyio.sleep_forever()

            yield told()


class BadWatch(AroundEngine):
    """Its watches begin, and then fail for good."""

    @asynccontextmanager
    async def watch(self, *_: str) -> AsyncIterator[AsyncIterator[DocumentChange]]:  # noqa: D102
        async def changes() -> AsyncIterator[DocumentChange]:
            await anyio.lowlevel.checkpoint()
            raise InvalidData("a target that means nothing")
            yield

        yield changes()


async def test_a_failing_watch_is_told_as_itself(clock: ManualClock):
    """Whoever waits for a lock is told what its watch failed of, and in no group."""
    async with make_store(BadWatch(MemoryEngine(clock)), clock) as store:
        await store.locks.acquire_lock("r")
        with anyio.fail_after(30), pytest.raises(InvalidData):
            await store.locks.acquire_lock("r", wait_seconds=20)


async def test_a_watch_that_has_gone_silent_is_not_waited_for(clock: ManualClock):
    """Who waits looks again now and then: a release of which no watch told is noticed well before the lease's end."""
    engine = MemoryEngine(clock)
    time = Time(clock)
    got: list[Lease] = []
    async with make_store(engine, clock) as store, make_store(Silent(engine.beside()), clock) as other:
        holder, waiter = (LockManager(each, monotonic=time.monotonic, sleep=time.sleep) for each in (store, other))
        lease = await holder.acquire_lock("r", ttl_seconds=40.0)

        async def wait() -> None:
            got.append(await waiter.acquire_lock("r", ttl_seconds=40.0))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await settle()
            await holder.release_lock(lease)
            await time.pass_until(lambda: got, seconds=20.0, step=0.5)
            tasks.cancel_scope.cancel()
    assert got


async def test_who_turns_out_to_hold_its_lock_searches_for_no_deadlock(clock: ManualClock):
    """A waiter that sees that a commit of its own has arrived late, and made it a holder, looks for no circle."""
    engine, time = MemoryEngine(clock), Time(clock)
    faulty = FaultyEngine(Silent(engine.beside()), AtCalls({}), delay_calls=1_000)  # type: ignore[arg-type]
    counting = CountingEngine(faulty)  # type: ignore[arg-type]
    got: list[Lease] = []
    async with make_store(engine, clock) as store, make_store(counting, clock) as other:
        holder, waiter = (LockManager(each, monotonic=time.monotonic, sleep=time.sleep) for each in (store, other))
        lease = await holder.acquire_lock("r", ttl_seconds=1_000.0)
        own = await waiter.acquire_lock("own", ttl_seconds=1_000.0)
        faulty.plan = NextCommit(Fault.DELAYED)

        async def wait() -> None:
            got.append(await waiter.acquire_lock("r", ttl_seconds=1_000.0, holding=[own]))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await settle()
            await holder.release_lock(lease)
            await faulty.settle()
            counting.reset()
            await time.pass_until(lambda: got, seconds=20.0, step=20.0)
            tasks.cancel_scope.cancel()
    assert [each.resource for each in got] == ["r"]
    assert (counting.counts.reads, counting.counts.scans) == (1, 0)


async def _line_of(waiters: int, *resources: str) -> tuple[Counts, list[int]]:
    """What it costs that so many wait for locks and hold them one after the other, and in which order they did."""
    clock = ManualClock(step_us=1)
    time = Time(clock)
    counting = CountingEngine(MemoryEngine(clock))
    order: list[int] = []
    async with make_store(counting, clock) as store:
        locks = LockManager(store, monotonic=time.monotonic, sleep=time.sleep)
        first = await locks.acquire_lock("r", ttl_seconds=1_000.0)

        async def hold(number: int) -> None:
            async with locks.lock_all(resources, ttl_seconds=1_000.0):
                order.append(number)
                await time.sleep(0.1)

        counting.reset()
        async with anyio.create_task_group() as tasks:
            for number in range(waiters):
                tasks.start_soon(hold, number)
                await settle()
            await locks.release_lock(first)
            await time.pass_until(lambda: len(order) == waiters, seconds=60.0, step=0.025)
            await time.pass_until(lambda: False, seconds=0.2, step=0.1)
    return counting.counts, order


@pytest.mark.parametrize("resources", ["r", "qrs"])
async def test_a_line_costs_each_in_it_the_same(resources: str):
    """Three times as many who wait make three times as many calls, and read three times as many documents."""
    few, _ = await _line_of(10, *resources)
    many, _ = await _line_of(30, *resources)
    print(few.calls, few.documents, many.calls, many.documents)
    assert many.calls <= 1.5 * 3 * few.calls
    assert many.documents <= 1.5 * 3 * few.documents


@pytest.mark.parametrize("resources", ["r", "qrs"])
async def test_a_line_is_served_in_the_order_of_coming(resources: str):
    """Who came first has the lock first."""
    _, order = await _line_of(12, *resources)
    assert order == list(range(12))
