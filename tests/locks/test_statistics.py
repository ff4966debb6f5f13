"""What a lock manager says that it is doing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from tai_state import LockManager, LockStatistics, StateStore
from tai_state.engines.api import Engine, Write
from tai_state.errors import LockAcquisitionFailed

from ..support.locks import OVER, TTL, Time, asleep, expect, managed, until
from ..support.stores import AroundEngine

pytestmark = pytest.mark.anyio

NOTHING = LockStatistics(held={}, waiting={}, renewals=0)


async def test_leases_are_told_as_long_as_they_last(store: StateStore, other: StateStore, time: Time):
    """A lease is told with its fencing number until it is over, by the manager that acquired it and by no other."""
    locks, theirs = managed(store, time), managed(other, time)
    lease = await locks.acquire_lock("r", ttl_seconds=TTL)
    async with locks.lock_all(["b", "a"], ttl_seconds=TTL) as (b, _):
        assert locks.statistics() == LockStatistics(
            held={"a": b.fence, "b": b.fence, "r": lease.fence}, waiting={}, renewals=0
        )
    assert locks.statistics().held == {"r": lease.fence}
    await locks.renew_lock(lease)
    time.advance(TTL)
    assert locks.statistics() == NOTHING
    later = await locks.acquire_lock("s", ttl_seconds=TTL)
    await locks.release_lock(later)
    assert [locks.statistics(), theirs.statistics()] == [NOTHING, NOTHING]


async def test_those_who_wait_are_told_by_resource(store: StateStore, other: StateStore, time: Time):
    """Each is listed under all that it wants, in the order of coming, with those ahead of it and who was the holder."""
    locks, theirs = managed(store, time), managed(other, time)
    fences = {each: (await locks.acquire_lock(each, ttl_seconds=1_000)).fence for each in "ab"}

    async def wait(holder: str, *resources: str) -> None:
        async with theirs.lock_all(resources, holder=holder):
            pass

    async with anyio.create_task_group() as tasks:
        for count, (holder, *resources) in enumerate([("anna", "a"), ("ben", "a", "b"), ("carla", "b")], start=1):
            tasks.start_soon(wait, holder, *resources)
            await until(lambda count=count: len({each.holder for each in asleep(theirs)}) == count)
        waiting = theirs.statistics().waiting
        assert {each: [waiter.holder for waiter in line] for each, line in waiting.items()} == {
            "a": ["anna", "ben"],
            "b": ["ben", "carla"],
        }
        ben, carla = waiting["b"]
        assert (ben.resources, ben.ahead, ben.fences) == (("a", "b"), 1, fences)
        assert (carla.resources, carla.ahead, carla.fences) == (("b",), 1, {"b": fences["b"]})
        assert locks.statistics().waiting == {}, "it tells of its own callers alone"
        tasks.cancel_scope.cancel()
    assert theirs.statistics() == NOTHING


async def test_who_is_due_is_not_asleep(store: StateStore, other: StateStore, time: Time):
    """Who waits counts as asleep until something is due or the watch has told something, and again once it is done."""
    locks, theirs = managed(store, time), managed(other, time)
    lease = await locks.acquire_lock("r", ttl_seconds=1_000)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(expect, LockAcquisitionFailed, lambda: theirs.acquire_lock("r", wait_seconds=OVER + TTL))
        await until(lambda: asleep(theirs))
        time.advance(OVER)
        assert not asleep(theirs), "a sign of life is due"
        await until(lambda: asleep(theirs))
        await locks.renew_lock(lease)
        time.advance(TTL)
        assert not asleep(theirs), "its wait is over"
    assert theirs.statistics() == NOTHING


class Gate(AroundEngine):
    """Commits wait until it is opened."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.opened = anyio.Event()
        self.opened.set()

    async def commit(self, writes: Sequence[Write]) -> Any:  # noqa: D102
        await self.opened.wait()
        return await self._engine.commit(writes)


async def test_renewals_are_told_until_they_are_answered(store: StateStore):
    """A renewal is under way from its call to its answer."""
    gate = Gate(store.core.engine)
    store.core.engine = gate  # type: ignore[assignment]
    locks = LockManager(store)
    lease = await locks.acquire_lock("r", ttl_seconds=1_000)
    gate.opened = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(locks.renew_lock, lease)
        await until(lambda: locks.statistics().renewals == 1)
        gate.opened.set()
    assert locks.statistics() == LockStatistics(held={"r": lease.fence}, waiting={}, renewals=0)
