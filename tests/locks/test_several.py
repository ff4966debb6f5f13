"""Several locks at once: all or none."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial

import anyio
import anyio.lowlevel
import pytest

from tai_state import StateStore
from tai_state.engines.api import Capabilities, Scan
from tai_state.errors import CommitTooLarge, LockAlreadyHeld, LockLost
from tai_state.locks.locking import LockManager
from tai_state.testing import ManualClock

from ..support.locks import TTL, Time, asleep, expire, managed, paths, until
from ..support.small_engine import OPERATIONS, SmallEngine
from ..support.stores import GOVERNOR, METADATA, AroundEngine, CountingEngine, collected

pytestmark = pytest.mark.anyio


async def test_all_or_none(store: StateStore, other: StateStore, time: Time):
    """Several locks come together by one commit, with one number, or none of them does."""
    engine = CountingEngine(store.core.engine)
    locks, theirs = managed(store, time, engine), managed(other, time)
    async with locks.lock_all(["b", "a", "b"], ttl_seconds=TTL) as leases:
        assert [lease.resource for lease in leases] == ["b", "a", "b"]
        assert len({lease.fence for lease in leases}) == 1
        await locks.renew_lock(leases[0])
        with pytest.raises(LockAlreadyHeld) as held:
            async with theirs.lock_all(["c", "a"], wait_seconds=0):
                pass
        assert held.value.resource == "a"
        assert await paths(store.core.engine) == ["locks/a", "locks/b", "lockbeats/a", "lockbeats/b"]
    assert engine.counts.reads == 0
    assert len(engine.counts.commits) == 3
    async with theirs.lock_all(["c", "a"], wait_seconds=0):
        pass


async def test_each_of_several_fences_by_itself(store: StateStore, other: StateStore, time: Time):
    """Where one of several locks was taken over, its lease refuses writes, though another of them stands."""
    locks, theirs = managed(store, Time(ManualClock())), managed(other, time)
    with pytest.raises(LockLost):  # noqa: PT012 - it comes out of the block
        async with locks.lock_all(["a", "b"], ttl_seconds=TTL) as (a, b):
            await expire(time, theirs)
            await theirs.acquire_lock("b", wait_seconds=0)
            await store.save_state(GOVERNOR, "s", {}, METADATA, fence=a)
            with pytest.raises(LockLost):
                await store.save_state(GOVERNOR, "t", {}, METADATA, fence=b)


async def test_philosophers(store: StateStore, other: StateStore):
    """Five who each need two of five locks, named in any order, all eat, never two with the same fork."""
    managers = [LockManager(store), LockManager(other)]
    in_hands: set[str] = set()
    eaten: list[int] = []

    async def philosopher(n: int) -> None:
        forks = [str(n), str((n + 1) % 5)]
        for _ in range(3):
            async with managers[n % 2].lock_all(forks[:: 1 if n % 2 else -1], ttl_seconds=60):
                assert in_hands.isdisjoint(forks)
                in_hands.update(forks)
                await anyio.lowlevel.checkpoint()
                in_hands.difference_update(forks)
            eaten.append(n)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for n in range(5):
                tasks.start_soon(philosopher, n)
    assert sorted(eaten) == sorted([*range(5)] * 3)
    assert await paths(store.core.engine, *"01234") == []


MANY = [f"{n:02}" for n in range(OPERATIONS // 3)]
"""As many as an engine takes that takes little in a commit."""


async def test_no_more_locks_than_can_be_kept(store: StateStore):
    """More locks than one commit could take over from the line are refused before anything is sent."""
    engine = CountingEngine(SmallEngine(store.core.engine))
    store.core.engine = engine  # type: ignore[assignment]
    with pytest.raises(CommitTooLarge) as refused:
        async with store.locks.lock_all([*MANY, "one too many"]):
            pass
    assert (refused.value.what, refused.value.size, refused.value.limit) == ("locks", len(MANY) + 1, len(MANY))
    assert engine.counts.calls == 0


async def test_as_many_locks_as_fit_can_be_kept(store: StateStore, other: StateStore, time: Time):
    """What fits can be renewed, released, waited for, and taken over by a waiter whose holders are gone."""
    store.core.engine, other.core.engine = SmallEngine(store.core.engine), SmallEngine(other.core.engine)  # type: ignore[assignment]
    locks, theirs = managed(store, time), managed(other, time)
    stopped = managed(store, Time(ManualClock()), store.core.engine)
    async with locks.lock_all(MANY, ttl_seconds=TTL) as leases:
        await locks.renew_lock(leases[0])
    assert await paths(store.core.engine) == []
    taken: list[int] = []

    async def wait() -> None:
        async with theirs.lock_all(MANY, ttl_seconds=TTL) as leases:
            taken.append(len(leases))

    with suppress(LockLost):
        async with stopped.lock_all(MANY, ttl_seconds=TTL) as leases, anyio.create_task_group() as tasks:
            await stopped.renew_lock(leases[0])
            tasks.start_soon(wait)
            await until(lambda: asleep(theirs))
            await time.pass_until(lambda: taken)
    assert taken == [len(MANY)]
    assert await paths(store.core.engine, *MANY) == []


class Narrow(AroundEngine):
    """Says that it takes few bytes in a commit."""

    @property
    def capabilities(self) -> Capabilities:
        """The other's, with a smaller limit."""
        return replace(self._engine.capabilities, max_bytes_per_commit=20_000)


async def test_long_names_count(store: StateStore):
    """The names of locks count towards what a commit can hold, and whoever may wait names them all in each line."""
    store.core.engine = Narrow(store.core.engine)  # type: ignore[assignment]
    names = [f"{n}{'x' * 1_400}" for n in range(5)]
    for wait_seconds, limit in ((0, 4), (None, 3)):
        with pytest.raises(CommitTooLarge) as refused:
            async with store.locks.lock_all(names, wait_seconds=wait_seconds):
                pass
        assert (refused.value.what, refused.value.size, refused.value.limit) == ("locks", 5, limit)
        async with store.locks.lock_all(names[:limit], wait_seconds=wait_seconds) as leases:
            await store.locks.renew_lock(leases[0])


async def test_what_may_wait_has_room_to_wait_and_to_stay_in_line(store: StateStore, other: StateStore, time: Time):
    """More locks than could be waited for are refused before anything is sent; those that fit are waited for."""
    engine = CountingEngine(SmallEngine(store.core.engine))
    store.core.engine, other.core.engine = engine, SmallEngine(other.core.engine)  # type: ignore[assignment]
    locks, theirs = managed(store, time), managed(other, time)
    names = [f"{n:02}{'x' * 1_400}" for n in range(len(MANY))]
    with pytest.raises(CommitTooLarge) as refused:
        async with locks.lock_all(names):
            pass
    assert (refused.value.what, refused.value.size) == ("locks", len(names))
    assert engine.counts.calls == 0
    fitting = names[: refused.value.limit]
    taken: list[int] = []

    async def wait() -> None:
        async with theirs.lock_all(fitting) as leases:
            taken.append(len(leases))

    async with anyio.create_task_group() as tasks, locks.lock(names[0]):
        tasks.start_soon(wait)
        await until(lambda: asleep(theirs))
        line = f"locks/{names[0]}/waiters"
        await time.pass_until(lambda: False, seconds=12)  # longer than a sign of life takes
        [place] = await collected(store.core.engine.scan(Scan(line)))
        assert place.fields()["n"] > 0
        tasks.start_soon(time.pass_until, lambda: taken)
    assert taken == [len(fitting)]


async def test_what_a_waiter_holds_has_room_in_its_place(store: StateStore, other: StateStore, time: Time):
    """Its place in line also names what it holds: a waiter that holds too much is told so before it waits."""
    engine = store.core.engine
    locks, theirs = managed(store, time, Narrow(engine)), managed(other, time)
    await theirs.acquire_lock("r", ttl_seconds=TTL)
    holding = [await locks.acquire_lock(f"{n}{'x' * 1_400}", ttl_seconds=60) for n in range(15)]
    with pytest.raises(CommitTooLarge) as refused:
        await locks.acquire_lock("r", holding=holding)
    assert (refused.value.what, refused.value.size, refused.value.limit) == ("locks", 16, 14)
    assert await paths(engine, "r") == await paths(engine)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(locks.acquire_lock, "r", holding=holding[:13]))
        await until(lambda: asleep(locks))
        await locks.break_lock("r")
