"""Those who stand in line behind callers that were killed: each release reaches them, and costs little."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import anyio
import pytest

from tai_state import Lease, StateStore
from tai_state.engines.api import Put
from tai_state.locks.locking import LockManager
from tai_state.locks.queueing import WAITER_TTL_SECONDS

from ..support.locks import Time, managed, paths, until
from ..support.stores import MEMORY, SQLITE, CountingEngine, Kind, Places

pytestmark = pytest.mark.anyio

TTL = 1_000.0
SOON = 2.0
"""Much less than the pause between two looks that nothing calls for."""

SILENCE = WAITER_TTL_SECONDS * 1.1
"""After it, the dead count as gone on every engine."""


@pytest.fixture
def anyio_backend() -> str:
    """Which event loop it is decides nothing here."""
    return "asyncio"


@pytest.fixture(params=[MEMORY, SQLITE], ids=["shared clock", "no shared clock"])
def places(request: pytest.FixtureRequest) -> Iterator[Places]:
    """Whether a look shows when a document was last written, or only whether it has changed."""
    kind: Kind = request.param
    with Places(kind) as places:
        yield places


class Line:
    """Callers of several processes that want one lock, and dead ones before them.

    Attributes:
        store: where the lock is.
        got: the leases of those who got it, first come first.
    """

    def __init__(self, store: StateStore, time: Time, tasks: Any) -> None:
        self.store = store
        self.got: list[Lease] = []
        self._time = time
        self._tasks = tasks
        self._numbers = iter(range(1, 10**6))

    def process(self) -> LockManager:
        """The locks of one more process."""
        return managed(self.store, self._time)

    async def die(self, count: int) -> list[str]:
        """So many callers join, and are killed at once; their documents."""
        places = [f"locks/r/waiters/{10**12 - next(self._numbers):012}-dead" for _ in range(count)]
        await self.show_life(places, n=0)
        return places

    async def show_life(self, places: list[str], n: int = 1) -> None:
        """Those who will be killed give a sign of life."""
        record = {"holder": "x", "holds": [], "wants": ["r"], "ttl": WAITER_TTL_SECONDS, "ticket": 0, "n": n}
        await self.store.core.engine.commit([Put(path, record) for path in places])

    async def join(self, locks: LockManager, **options: Any) -> None:
        """One more waits."""
        next(self._numbers)

        async def wait() -> None:
            self.got.append(await locks.acquire_lock("r", ttl_seconds=TTL, **options))

        self._tasks.start_soon(wait)
        await until(lambda: locks.statistics().waiting)
        await self.passes(0.0)

    async def passes(self, seconds: float, ends: Callable[[], Any] = lambda: False) -> float:
        """Let time pass, and all be told what there is to tell, until something is so; how long it took."""
        began = self._time.monotonic()
        for _ in range(round(seconds / 0.1) + 1):
            async with self.store.core.engine.watch("locks/r") as changes:
                await anext(changes)
            await self._time.settle()
            if ends() or self._time.monotonic() >= began + seconds - 0.05:
                break
            self._time.advance(0.1)
        return self._time.monotonic() - began

    async def hand_over(self, locks: LockManager, lease: Lease, seconds: float) -> float:
        """Release the lock; the next one has it within that time. How long it took."""
        count = len(self.got)
        await locks.release_lock(lease)
        took = await self.passes(seconds, lambda: len(self.got) > count)
        assert len(self.got) == count + 1, f"nobody had it after {took} s"
        return took


@asynccontextmanager
async def line(places: Places) -> AsyncIterator[Line]:
    """An empty line, and at the end nobody is in it but the dead."""
    place = places.new()
    async with place.store() as store:
        async with anyio.create_task_group() as tasks:
            yield Line(store, Time(place.clock), tasks)
            tasks.cancel_scope.cancel()
        assert [each for each in await paths(store.core.engine, "r") if not each.endswith("-dead")] in ([], ["locks/r"])


@pytest.mark.parametrize("dead", [3, 9])
async def test_each_release_reaches_the_living(places: Places, dead: int):
    """However many died in line, each release reaches the first one alive, without a wait for a sign of its life."""
    async with line(places) as queue:
        managers = [queue.process() for _ in range(4)]
        lease = await managers[0].acquire_lock("r", ttl_seconds=TTL)
        await queue.die(dead)
        for each in managers[1:]:
            await queue.join(each)
        await queue.passes(21.0)
        for holder, heir in pairwise(managers):
            await queue.hand_over(holder, lease, SOON)
            lease = queue.got[-1]
            assert heir.statistics().held


async def test_the_dead_do_not_hold_up_one_process_after_the_other(places: Places):
    """Callers of new processes get the lock soon, each in its turn, though killed ones stand before them."""
    async with line(places) as queue:
        await queue.die(4)
        await queue.passes(WAITER_TTL_SECONDS)
        for _ in range(3):
            holder, heir = queue.process(), queue.process()
            lease = await holder.acquire_lock("r", ttl_seconds=TTL)
            await queue.join(heir, wait_seconds=5.0)
            await queue.hand_over(holder, lease, SOON)
            await heir.release_lock(queue.got[-1])


async def test_those_who_die_in_sight_hold_up_nobody_after_they_count_as_dead(places: Places):
    """Waiters that show life and are killed then hold up those behind them for one time of silence in all."""
    async with line(places) as queue:
        managers = [queue.process() for _ in range(4)]
        lease = await managers[0].acquire_lock("r", ttl_seconds=TTL)
        dead = await queue.die(6)
        for each in managers[1:]:
            await queue.join(each)
        await queue.passes(5.0)
        await queue.show_life(dead)
        took = 0.0
        for holder in managers[:3]:
            took += await queue.hand_over(holder, lease, SILENCE)
            lease = queue.got[-1]
        assert took <= SILENCE + 3 * SOON


async def _handovers(places: Places, waiters: int, seconds: float) -> int:
    """How many calls three releases cost where so many wait behind three dead ones, each in a process of its own."""
    async with line(places) as queue:
        holder, *heirs = (queue.process() for _ in range(waiters + 1))
        lease = await holder.acquire_lock("r", ttl_seconds=TTL)
        await queue.die(3)
        for each in heirs:
            await queue.join(each)
        await queue.passes(seconds)
        counting = queue.store.core.engine = CountingEngine(queue.store.core.engine)  # type: ignore[assignment]
        for each in [holder, *heirs[:2]]:
            await queue.hand_over(each, lease, SOON)
            lease = queue.got[-1]
        return counting.counts.calls


@pytest.mark.parametrize("seconds", [WAITER_TTL_SECONDS, 21.0])
async def test_a_release_costs_no_more_in_a_longer_line(places: Places, seconds: float):
    """Four times as many who wait behind the dead cost as much with each release, whatever they know of each other."""
    few, many = await _handovers(places, 5, seconds), await _handovers(places, 20, seconds)
    print(few, many)
    assert many <= 2 * few
