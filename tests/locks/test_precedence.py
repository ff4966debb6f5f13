"""Nobody starves: callers that come now, or again and again, leave a lock to those who wait for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial

import anyio
import pytest

from tai_state import Lease, StateStore
from tai_state.engines.api import DocumentChange, Engine, Put
from tai_state.errors import LockAlreadyHeld
from tai_state.locks.locking import LockManager
from tai_state.locks.precedence import STREAK_SECONDS
from tai_state.locks.queueing import WAITER_TTL_SECONDS

from ..support.locks import Time, asleep, expect, managed, until
from ..support.stores import MEMORY, SQLITE, AroundEngine, CountingEngine, Kind, Place, Places

pytestmark = pytest.mark.anyio

TTL = 1_000.0


@pytest.fixture
def anyio_backend() -> str:
    """Which event loop it is decides nothing here."""
    return "asyncio"


@pytest.fixture(params=[MEMORY, SQLITE], ids=["memory", "sqlite"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """An empty place with a shared clock, and one without."""
    kind: Kind = request.param
    with Places(kind) as places:
        yield places.new()


@pytest.fixture
def time(place: Place) -> Time:
    """The time at that place."""
    return Time(place.clock)


class Late(AroundEngine):
    """Its watches tell each change a tenth of a second late: who watches is slower than who need not be told."""

    def __init__(self, engine: Engine, time: Time) -> None:
        super().__init__(engine)
        self._time = time

    @asynccontextmanager
    async def watch(self, *targets: str) -> AsyncIterator[AsyncIterator[DocumentChange]]:  # noqa: D102
        async with self._engine.watch(*targets) as changes:

            async def told() -> AsyncIterator[DocumentChange]:
                async for change in changes:
                    await self._time.sleep(0.1)
                    yield change

            yield told()


async def hold_on_and_on(locks: LockManager, time: Time, held: list[LockManager]) -> None:
    """Hold the lock for a moment, again and again; note each time who has it."""
    while True:
        async with locks.lock("r", ttl_seconds=TTL):
            held.append(locks)
            await time.sleep(0.03)


async def passes(time: Time, engine: Engine, seconds: float) -> None:
    """Let time pass in small steps, and all be told after each what there is to tell."""
    for _ in range(round(seconds / 0.03)):
        time.advance(0.03)
        await time.settle()
        async with engine.watch("locks/r") as changes:
            await anext(changes)


def processes(store: StateStore, time: Time, count: int) -> list[LockManager]:
    """So many lock managers that know nothing of each other, and are told late of what others do."""
    managers = [managed(store, time, Late(store.core.engine, time))]
    return [*managers, *(managed(store, time) for _ in range(count - 1))]


async def test_who_holds_a_lock_again_and_again_starves_nobody(place: Place, time: Time):
    """Somebody of another process gets it after a second or two, however soon its holder comes again."""
    async with place.store() as store, anyio.create_task_group() as tasks:
        engine = store.core.engine
        ours, theirs = processes(store, time, 2)
        held: list[LockManager] = []
        got: list[Lease] = []
        tasks.start_soon(hold_on_and_on, ours, time, held)
        await time.settle()

        async def wait() -> None:
            got.append(await theirs.acquire_lock("r", ttl_seconds=TTL))

        tasks.start_soon(wait)
        await passes(time, engine, STREAK_SECONDS + 1.0)
        assert got
        before = len(held)
        await theirs.release_lock(got[0])
        await passes(time, engine, 1.0)
        assert len(held) > before, "and then its former holder has it again"
        tasks.cancel_scope.cancel()


async def test_all_who_come_again_and_again_have_their_turns(place: Place, time: Time):
    """Of several processes that do nothing but hold one lock, none is without it for long."""
    async with place.store() as store, anyio.create_task_group() as tasks:
        engine = store.core.engine
        managers = processes(store, time, 4)
        held: list[LockManager] = []
        for each in managers:
            tasks.start_soon(hold_on_and_on, each, time, held)
        for _ in range(2):
            held.clear()
            await passes(time, engine, 4 * (STREAK_SECONDS + 1.0))
            assert {*held} == {*managers}
        tasks.cancel_scope.cancel()


async def test_an_acquisition_that_nobody_waits_for_costs_what_it_did(place: Place, time: Time):
    """It is one commit, however often it is repeated; again and again for long, it is one call more in each second."""
    async with place.store() as store:
        counting = CountingEngine(store.core.engine)
        locks = managed(store, time, counting)
        for pause, scans in ((0.0, 0), (STREAK_SECONDS, 0), (0.1, 9)):
            counting.reset()
            for _ in range(100):
                lease = await locks.acquire_lock("r", ttl_seconds=TTL)
                await locks.release_lock(lease)
                time.advance(pause)
            counts = counting.counts
            assert (len(counts.commits), counts.reads) == (200, 0)
            assert counts.scans == pytest.approx(scans, abs=1 if scans else 0)
            time.advance(STREAK_SECONDS)


async def test_who_waits_in_the_same_process_goes_first(place: Place, time: Time):
    """Whoever comes while a caller of its own process waits has its turn after that one, at no cost of time."""
    async with place.store() as store, anyio.create_task_group() as tasks:
        locks = managed(store, time)
        order: list[str] = []
        lease = await locks.acquire_lock("r", ttl_seconds=TTL)

        async def hold(name: str) -> None:
            async with locks.lock("r", ttl_seconds=TTL):
                order.append(name)

        tasks.start_soon(hold, "first")
        await until(lambda: asleep(locks))
        await locks.release_lock(lease)
        await hold("again")
        assert order == ["first", "again"]


async def test_who_wants_more_leaves_it_to_those_who_want_less(place: Place, time: Time):
    """A caller who wants all that others wait for, and more, goes behind them, as one does in line."""
    async with place.store() as store, anyio.create_task_group() as tasks:
        locks = managed(store, time)
        lease = await locks.acquire_lock("a", ttl_seconds=TTL)
        done: list[str] = []

        async def hold() -> None:
            async with locks.lock_all(["a", "b"], ttl_seconds=TTL):
                done.append("two")

        tasks.start_soon(hold)
        await until(lambda: asleep(locks))
        await locks.release_lock(lease)
        async with locks.lock_all(["a", "b", "c"], ttl_seconds=TTL):
            done.append("three")
        assert done == ["two", "three"]


async def test_the_locks_of_transactions_are_in_the_same_line(place: Place):
    """Whoever comes by way of the store's transactions leaves a lock to those who wait for it."""
    async with place.store() as store, anyio.create_task_group() as tasks:
        lease = await store.locks.acquire_lock("r", ttl_seconds=TTL)
        tasks.start_soon(partial(store.locks.acquire_lock, "r", ttl_seconds=TTL))
        await until(lambda: asleep(store.locks))
        await store.locks.release_lock(lease)
        await expect(LockAlreadyHeld, lambda: store.transactions.acquire_lock("r", "client", TTL, wait_seconds=0))
        tasks.cancel_scope.cancel()


async def test_who_does_not_wait_leaves_it_to_those_who_do(place: Place, time: Time):
    """A lock that others wait for is not to be had without waiting, in one process at once, else after a second."""
    async with place.store() as store, anyio.create_task_group() as tasks:
        engine = store.core.engine
        ours, theirs = processes(store, time, 2)
        lease = await ours.acquire_lock("r", ttl_seconds=TTL)
        tasks.start_soon(partial(theirs.acquire_lock, "r", ttl_seconds=TTL))
        await until(lambda: theirs.statistics().waiting)
        await time.settle()
        await expect(LockAlreadyHeld, lambda: theirs.acquire_lock("r", wait_seconds=0))
        await ours.release_lock(lease)
        await expect(LockAlreadyHeld, lambda: theirs.acquire_lock("r", wait_seconds=0))
        lease = await ours.acquire_lock("r", wait_seconds=0, ttl_seconds=TTL)
        await passes(time, engine, STREAK_SECONDS + 0.1)
        await ours.release_lock(lease)
        await expect(LockAlreadyHeld, lambda: ours.acquire_lock("r", wait_seconds=0))
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("wait_seconds", [None, 0.2])
@pytest.mark.parametrize("dead", [1, 5])
async def test_a_free_lock_is_not_left_to_the_dead(place: Place, time: Time, dead: int, wait_seconds: float | None):
    """Whoever gives way to waiters that were killed has the lock within a second, or when it would wait no longer."""
    async with place.store() as store:
        engine = store.core.engine
        locks = managed(store, time)
        record = {"holder": "x", "holds": [], "wants": ["r"], "ttl": WAITER_TTL_SECONDS, "ticket": 0, "n": 0}
        places = [f"locks/r/waiters/{10**12 - n - 1:012}-dead" for n in range(dead)]
        lease = await locks.acquire_lock("r", ttl_seconds=TTL)
        await passes(time, engine, STREAK_SECONDS + 0.1)
        await store.core.engine.commit([Put(each, record) for each in places])
        await locks.release_lock(lease)
        got: list[Lease] = []

        async def wait() -> None:
            got.append(await locks.acquire_lock("r", ttl_seconds=TTL, wait_seconds=wait_seconds))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await until(lambda: locks.statistics().waiting or got)
            await passes(time, engine, 1.0)
            assert got
            tasks.cancel_scope.cancel()
