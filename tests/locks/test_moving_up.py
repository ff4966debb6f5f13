"""Those far back in a line watch those ahead of them: who leaves it, who holds whom up, and what the dead cost."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from tai_state import StateStore
from tai_state.engines.api import Put, Scan
from tai_state.engines.memory import MemoryEngine
from tai_state.errors import DeadlockDetected, LockAcquisitionFailed
from tai_state.locks.queueing import BEAT_SECONDS, WAITER_TTL_SECONDS
from tai_state.testing import ManualClock

from ..support.locks import Time, managed, until
from ..support.stores import collected, make_store

pytestmark = pytest.mark.anyio

TTL = 1_000.0


@pytest.fixture
def anyio_backend() -> str:
    """Which event loop it is decides nothing here."""
    return "asyncio"


class Line:
    """Callers that want locks one after the other.

    Attributes:
        order: the names of those who got what they wanted, first come first.
        failed: the names of those who did not, each with its error.
    """

    def __init__(self, store: StateStore, time: Time, tasks: Any) -> None:
        self.order: list[str] = []
        self.failed: dict[str, Exception] = {}
        self.locks = managed(store, time)
        self._time = time
        self._tasks = tasks

    async def join(self, name: str, *resources: str, **options: Any) -> anyio.CancelScope:
        """Let one more caller want locks; it is in line when this returns, and is cancelled by the scope."""
        scope = anyio.CancelScope()

        async def hold() -> None:
            with scope:
                try:
                    async with self.locks.lock_all(resources, ttl_seconds=TTL, holder=name, **options):
                        self.order.append(name)
                        await self._time.sleep(1.0)
                except (LockAcquisitionFailed, DeadlockDetected) as error:
                    self.failed[name] = error

        self._tasks.start_soon(hold)
        await until(lambda: name in self.waiting or name in self.order)
        await self._time.settle()
        return scope

    @property
    def waiting(self) -> set[str]:
        """The names of those who wait."""
        return {each.holder for line in self.locks.statistics().waiting.values() for each in line}

    async def serve(self, *names: str, seconds: float = 60.0) -> None:
        """Let time pass until all of them have had their locks."""
        await self._time.pass_until(lambda: set(names) <= {*self.order}, seconds)
        assert set(names) <= {*self.order}, f"of {names}, only {self.order} came"


@asynccontextmanager
async def line() -> AsyncIterator[tuple[Line, StateStore]]:
    """An empty line at a store, and at the end it must be empty again."""
    clock = ManualClock(step_us=1)
    time = Time(clock)
    async with make_store(MemoryEngine(clock), clock) as store:
        async with anyio.create_task_group() as tasks:
            yield (made := Line(store, time, tasks)), store
            await time.pass_until(lambda: not made.waiting)
            await time.pass_until(lambda: False, 1.5)
        assert await collected(store.core.engine.scan(Scan("locks/a/waiters"))) == []
        assert await collected(store.core.engine.scan(Scan("locks"))) == []


async def test_who_wants_more_holds_nobody_up():
    """Callers that want one lock are served past those who want another one as well, which is not to be had."""
    async with line() as (queue, _):
        a, b = [await queue.locks.acquire_lock(each, ttl_seconds=TTL) for each in "ab"]
        for n in range(4):
            await queue.join(f"both {n}", "a", "b")
        for n in range(5):
            await queue.join(f"one {n}", "a")
        await queue.locks.release_lock(a)
        await queue.serve(*(f"one {n}" for n in range(5)))
        assert queue.order == [f"one {n}" for n in range(5)]
        await queue.locks.release_lock(b)
        await queue.serve(*(f"both {n}" for n in range(4)))
        assert queue.order[5:] == [f"both {n}" for n in range(4)]


async def test_a_place_in_line_is_no_deadlock():
    """A holder gets the lock that it wants past those who wait for that one and for its own."""
    async with line() as (queue, _):
        a, b = [await queue.locks.acquire_lock(each, ttl_seconds=TTL) for each in "ab"]
        for n in range(4):
            await queue.join(f"both {n}", "a", "b")
        await queue.join("holder of b", "a", holding=[b])
        await queue.locks.release_lock(a)
        await queue.serve("holder of b")
        assert queue.order == ["holder of b"]
        await queue.locks.release_lock(b)
        await queue.serve("both 3")


@pytest.mark.parametrize("last", ["far back", "of the lock"])
async def test_a_circle_through_the_end_of_a_line_is_found(last: str):
    """Whoever of two that want each other's lock came last gives up, though one of them has many ahead of it."""
    async with line() as (queue, _):
        a, b = [await queue.locks.acquire_lock(each, ttl_seconds=TTL) for each in "ab"]
        for n in range(5):
            await queue.join(f"ahead {n}", "a")
        wanted = {"far back": ("a", b), "of the lock": ("b", a)}
        first = next(each for each in wanted if each != last)
        for name in (first, last):
            wants, lease = wanted[name]
            await queue.join(name, wants, holding=[lease])
        await queue._time.pass_until(lambda: queue.failed)
        assert isinstance(queue.failed.pop(last), DeadlockDetected)
        await queue.locks.release_lock(wanted[last][1])
        await queue.serve(first)
        await queue.locks.release_lock(wanted[first][1])
        await queue.serve("ahead 4")
        assert not queue.failed


@pytest.mark.parametrize("leave", ["cancelled", "out of time"])
async def test_who_leaves_a_line_leaves_no_gap(leave: str):
    """Whoever gives up, at any place, is passed over at once, and the others keep their order."""
    async with line() as (queue, _):
        lease = await queue.locks.acquire_lock("a", ttl_seconds=TTL)
        leaving = [0, 2, 3, 4, 8]
        scopes = [
            await queue.join(str(n), "a", wait_seconds=2.0 if leave == "out of time" and n in leaving else None)
            for n in range(10)
        ]
        if leave == "cancelled":
            for n in leaving:
                scopes[n].cancel()
        await queue._time.pass_until(lambda: len(queue.waiting) == 5, 5.0)
        assert len(queue.failed) == (5 if leave == "out of time" else 0)
        await queue.locks.release_lock(lease)
        await queue.serve("9", seconds=6.0)
        assert queue.order == [str(n) for n in (1, 5, 6, 7, 9)]


async def test_the_killed_in_line_cost_little():
    """However many died in line, those behind them get a free lock long before the dead count as gone."""
    async with line() as (queue, store):
        lease = await queue.locks.acquire_lock("a", ttl_seconds=TTL)
        dead = {"holder": "x", "holds": [], "wants": ["a"], "ttl": WAITER_TTL_SECONDS, "ticket": 0, "n": 0}
        places = [f"locks/a/waiters/{10**12 - n - 1:012}-dead" for n in range(9)]
        await store.core.engine.commit([Put(path, dead) for path in places])
        for n in range(3):
            await queue.join(str(n), "a")
        await queue.locks.release_lock(lease)
        await queue.serve("0", seconds=BEAT_SECONDS + 1)
        await queue.serve("1", "2", seconds=BEAT_SECONDS * 2 + 1)
        await queue._time.pass_until(lambda: False, 4 * WAITER_TTL_SECONDS)
        lease = await queue.locks.acquire_lock("a", ttl_seconds=TTL)
        await queue.join("later", "a")
        left = [document.path for document in await collected(store.core.engine.scan(Scan("locks/a/waiters")))]
        assert not {*left} & {*places}
        await queue.locks.release_lock(lease)


async def test_a_lock_that_moves_is_looked_at_by_the_first_few_alone():
    """While the lock changes hands at the front of a line, those far back ask the engine for nothing."""
    async with line() as (queue, _):
        lease = await queue.locks.acquire_lock("a", ttl_seconds=TTL)
        for n in range(9):
            await queue.join(str(n), "a")
        ahead = [each.ahead for each in queue.locks.statistics().waiting["a"]]
        assert ahead == [0, 1, 2, 3, 3, 3, 3, 3, 3]
        seen = [dict(each.fences) for each in queue.locks.statistics().waiting["a"]]
        await queue.locks.release_lock(lease)
        await until(lambda: queue.order)
        await queue._time.settle()
        now = [dict(each.fences) for each in queue.locks.statistics().waiting["a"]]
        assert [each["a"] for each in now[:3]] == [queue.locks.statistics().held["a"]] * 3
        assert now[3:] == seen[4:]


@pytest.mark.parametrize("seed", range(20))
async def test_nobody_is_forgotten(seed: int):
    """Callers that come and go at random, for any locks, are all served in the end, and two never hold the same one."""
    chance = random.Random(seed)
    async with line() as (queue, _):
        for n in range(30):
            wanted = chance.sample("abc", chance.choice([1, 1, 1, 2, 3]))
            scope = await queue.join(str(n), *wanted, wait_seconds=chance.choice([None, None, None, 3.0]))
            if chance.random() < 0.1:
                scope.cancel()
            await queue._time.pass_until(lambda: False, chance.choice([0.0, 0.0, 0.5, 1.0]))
        await queue._time.pass_until(lambda: not queue.waiting, 120.0)
        assert not queue.waiting


async def test_who_come_at_once_have_places_of_their_own():
    """Callers of one process that come while others are still joining are served in the order of coming."""
    async with line() as (queue, _):
        lease = await queue.locks.acquire_lock("a", ttl_seconds=TTL)
        names = [f"{n:02}" for n in range(12)]
        async with anyio.create_task_group() as joining:
            for name in names:
                joining.start_soon(queue.join, name, "a")
        await queue.locks.release_lock(lease)
        await queue.serve(*names)
        assert queue.order == names
