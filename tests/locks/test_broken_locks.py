"""Locks that an operator breaks: whoever worked without the lock is told so, and no answer is taken for another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tai_state import LockLost, StateStore
from tai_state.engines.api import Scan
from tai_state.testing import AtCalls, Fault, FaultyEngine, ManualClock, MemoryEngine

from ..support.faults import NextCommit
from ..support.stores import collected, make_store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..support.stores import Place

pytestmark = pytest.mark.anyio


async def _break(other: StateStore) -> None:
    assert await other.locks.break_lock("r") is not None


async def _break_and_take(other: StateStore) -> None:
    await _break(other)
    await other.locks.acquire_lock("r", holder="B", wait_seconds=0)


async def _break_take_and_return(other: StateStore) -> None:
    await _break(other)
    async with other.lock("r", holder="B", wait_seconds=0):
        pass


BROKEN = pytest.mark.parametrize(
    "break_it",
    [_break, _break_and_take, _break_take_and_return],
    ids=["broken", "taken", "taken_and_returned"],
)


@BROKEN
async def test_a_block_whose_lock_was_broken_ends_with_that(place: Place, break_it: Callable[[StateStore], Any]):
    """At the end of the block its caller learns that its steps may have happened without the lock."""
    async with place.store() as store, place.store() as other:
        with pytest.raises(LockLost):
            async with store.lock("r", ttl_seconds=30.0, holder="A"):
                await break_it(other)


@BROKEN
async def test_a_lease_whose_lock_was_broken_cannot_be_given_back(
    place: Place, break_it: Callable[[StateStore], Awaitable[None]]
):
    """The same of a lease that is given back by hand."""
    async with place.store() as store, place.store() as other:
        lease = await store.locks.acquire_lock("r", ttl_seconds=30.0)
        await break_it(other)
        with pytest.raises(LockLost):
            await store.locks.release_lock(lease)


@BROKEN
async def test_nothing_tells_of_a_break_for_ever(place: Place, break_it: Callable[[StateStore], Awaitable[None]]):
    """The note by which a holder learns of it is gone once the holder knows."""
    async with place.store() as store, place.store() as other:
        lease = await store.locks.acquire_lock("r", ttl_seconds=30.0)
        await break_it(other)
        assert len(await collected(store.core.engine.scan(Scan("lockbreaks")))) == 1
        with pytest.raises(LockLost):
            await store.locks.release_lock(lease)
        assert await collected(store.core.engine.scan(Scan("lockbreaks"))) == []


async def test_one_broken_lock_of_several_is_enough(place: Place):
    """Of locks that are held together, none counts as kept once one of them was broken, taken and given back."""
    async with place.store() as store, place.store() as other:
        with pytest.raises(LockLost):
            async with store.locks.lock_all(["a", "r", "z"], ttl_seconds=30.0):
                await _break_take_and_return(other)


async def test_a_lease_can_be_given_back_twice(place: Place):
    """Giving back what was given back is not a loss, and a block that kept its lock ends without one."""
    async with place.store() as store:
        lease = await store.locks.acquire_lock("r", ttl_seconds=30.0)
        await store.locks.release_lock(lease)
        await store.locks.release_lock(lease)
        async with store.lock("r", ttl_seconds=30.0, wait_seconds=0):
            pass


LOST = pytest.mark.parametrize(
    "fault", [Fault.LOST_BEFORE, Fault.LOST_AFTER, Fault.DELAYED], ids=lambda each: each.value
)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@LOST
async def test_breaking_a_lock_is_looked_after(fault: Fault):
    """Whatever becomes of the answer, the lock is broken, and the operator is told which one it was."""
    clock = ManualClock(step_us=1)
    faulty = FaultyEngine(MemoryEngine(clock), AtCalls({}))
    async with make_store(faulty, clock) as store:
        lease = await store.locks.acquire_lock("r", ttl_seconds=30.0, holder="A")
        faulty.plan = NextCommit(fault)
        broken = await store.locks.break_lock("r")
        await faulty.settle()
        assert broken is not None
        assert (broken.holder, broken.fence) == ("A", lease.fence)
        assert await collected(store.locks.list_locks()) == []


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@LOST
async def test_removing_locks_whose_time_has_passed_is_looked_after(fault: Fault):
    """The same of the removal of expired locks: it goes on, and all of them are gone and counted."""
    clock = ManualClock(step_us=1)
    faulty = FaultyEngine(MemoryEngine(clock), AtCalls({}))
    async with make_store(faulty, clock) as store:
        for resource in ("a", "b", "c"):
            await store.locks.acquire_lock(resource, ttl_seconds=1.0)
        clock.advance_us(60_000_000)
        faulty.plan = NextCommit(fault)
        removed = await store.locks.cleanup_expired_locks()
        await faulty.settle()
        assert removed == 3
        assert await collected(store.locks.list_locks()) == []
