"""Locks that an operator breaks: whoever worked without the lock is told so, and no answer is taken for another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from tai_state import LockInfo, LockLost, StateStore
from tai_state.engines.api import Committed, Reading, Scan, Write
from tai_state.testing import AtCalls, Fault, FaultyEngine, ManualClock, MemoryEngine

from ..support.faults import NextCommit
from ..support.stores import AroundEngine, collected, edit, make_store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

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
    "fault", [Fault.LOST_BEFORE, Fault.LOST_AFTER, Fault.DELAYED, Fault.DUPLICATED], ids=lambda each: each.value
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


@pytest.mark.parametrize("is_damaged", [False, True], ids=["sound", "damaged"])
async def test_of_many_who_break_a_lock_at_once_one_has_broken_it(place: Place, *, is_damaged: bool):
    """Only the one that removed it gets it; the others learn that there was nothing left to break."""
    async with place.store() as store:
        await store.locks.acquire_lock("r", ttl_seconds=30.0, holder="A")
        if is_damaged:
            await edit(store.core.engine, "locks/r", ttl="long")
        broken: list[LockInfo | None] = []

        async def break_it() -> None:
            broken.append(await store.locks.break_lock("r"))

        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(break_it)
        assert [each.holder for each in broken if each is not None] == ["" if is_damaged else "A"]
        assert len(broken) == 8


class _Between(AroundEngine):
    """Does something before one of the next calls of a verb, which is then made as if nothing had been."""

    then: Callable[[], Awaitable[Any]] | None = None
    verb = "commit"
    calls = 0

    async def read(self, paths: Sequence[str]) -> Reading:
        await self._before("read")
        return await self._engine.read(paths)

    async def commit(self, writes: Sequence[Write]) -> Committed:
        await self._before("commit")
        return await self._engine.commit(writes)

    async def _before(self, verb: str) -> None:
        then = self.then
        if then is None or verb != self.verb:
            return
        self.calls -= 1
        if self.calls <= 0:
            self.then = None
            await then()


async def test_whoever_acquires_a_lock_meanwhile_keeps_it(place: Place):
    """A lock is taken away from the one who held it at the call, and not from one who came after that one."""
    between = _Between(place.engine())
    async with place.store() as store, place.store(between) as other:  # type: ignore[arg-type]
        first = await store.locks.acquire_lock("r", ttl_seconds=30.0, holder="A")

        async def change_hands() -> None:
            await store.locks.release_lock(first)
            await store.locks.acquire_lock("r", ttl_seconds=30.0, holder="B")

        between.then = change_hands
        assert await other.locks.break_lock("r") is None
        [lock] = await collected(store.locks.list_locks())
        assert lock.holder == "B"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("meanwhile", ["nothing", "taken", "noticed"])
async def test_a_lost_answer_to_a_break(meanwhile: str):
    """By its own note the call knows that it broke the lock, whoever has it now; without the note it claims nothing."""
    clock = ManualClock(step_us=1)
    faulty = FaultyEngine(MemoryEngine(clock), AtCalls({}))
    between = _Between(faulty)
    async with make_store(between, clock) as store:  # type: ignore[arg-type]
        lease = await store.locks.acquire_lock("r", ttl_seconds=30.0, holder="A")

        async def happen() -> None:
            if meanwhile == "taken":
                await store.locks.acquire_lock("r", ttl_seconds=30.0, holder="B")
            if meanwhile == "noticed":
                with pytest.raises(LockLost):
                    await store.locks.release_lock(lease)

        faulty.plan = NextCommit(Fault.LOST_AFTER)
        between.verb, between.calls, between.then = "read", 2, happen  # the look after the answer was lost
        broken = await store.locks.break_lock("r")
        assert (broken and broken.holder) == (None if meanwhile == "noticed" else "A")
        assert [each.holder for each in await collected(store.locks.list_locks())] == ["B"] * (meanwhile == "taken")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("is_applied", [False, True])
async def test_each_call_that_breaks_a_lock_of_several_knows_it(*, is_applied: bool):
    """Also if the answer is lost, and another lock of the same tenure was broken before or meanwhile."""
    clock = ManualClock(step_us=1)
    engine = MemoryEngine(clock)
    faulty = FaultyEngine(engine, AtCalls({}))
    between = _Between(faulty)
    async with make_store(between, clock) as store:  # type: ignore[arg-type]
        leases = store.locks.lock_all(["a", "b", "c"], ttl_seconds=30.0, holder="A")
        await leases.__aenter__()

        async def happen() -> None:
            assert await store.locks.break_lock("b") is not None

        assert await store.locks.break_lock("c") is not None
        faulty.plan = NextCommit(Fault.LOST_AFTER if is_applied else Fault.LOST_BEFORE)
        between.verb, between.calls, between.then = "read", 2, happen  # the look after the answer was lost
        assert await store.locks.break_lock("a") is not None
        assert await collected(store.locks.list_locks()) == []
        with pytest.raises(LockLost):
            await leases.__aexit__(None, None, None)
        assert await collected(engine.scan(Scan("lockbreaks"))) == []
