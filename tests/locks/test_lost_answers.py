"""Locks whose answers are lost: never do two believe to have one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import product
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tai_state import StateStore, StoreTimeout, StoreUnavailable, TaiStateError
from tai_state.engines.api import Engine, Put, Write
from tai_state.errors import LockAcquisitionFailed, LockAlreadyHeld
from tai_state.locks.lease import Lease
from tai_state.locks.locking import LockManager
from tai_state.locks.queueing import WAITER_TTL_SECONDS
from tai_state.testing import AtCalls, Fault, FaultyEngine

from ..support.faults import BeforeReads, NextCommit
from ..support.locks import TTL, Time, asleep, expire, managed, paths, until
from ..support.stores import GOVERNOR, METADATA, AroundEngine, CountingEngine, Place, collected

pytestmark = pytest.mark.anyio


# Answers that are lost ------------------------------------------------------------------------------------------


_FAULTS = (Fault.UNAVAILABLE, Fault.REFUSED, Fault.LOST_BEFORE, Fault.LOST_AFTER, Fault.DELAYED, Fault.DUPLICATED)


@pytest.mark.parametrize("fault", _FAULTS, ids=lambda each: each.value)
@pytest.mark.parametrize("calls", [(1,), (2,), (3,), (4,), (5,), (6,), (1, 2), (2, 3), (3, 4), (1, 2, 3, 4)], ids=str)
async def test_never_two_believers(
    store: StateStore, other: StateStore, time: Time, fault: Fault, calls: Sequence[int]
):
    """Whatever call goes wrong, never do two believe to have the lock, and who believes it has it."""
    faulty = FaultyEngine(store.core.engine, AtCalls({("any", call): fault for call in calls}))
    locks, theirs = managed(store, time, faulty), managed(other, time)
    leases: list[Lease] = []

    async def judge() -> None:
        [document] = (await other.core.engine.read(["locks/r"])).documents
        believers = [lease for lease in leases if lease.is_held]
        assert len(believers) <= 1
        assert all(document is not None and document.revision == lease.fence for lease in believers)

    for _ in range(3):
        for manager in (locks, theirs):
            with suppress(TaiStateError):
                leases.append(await manager.acquire_lock("r", ttl_seconds=TTL, wait_seconds=0))
            await judge()
        for act in (locks.renew_lock, locks.release_lock):
            for lease in leases:
                if lease.is_held:
                    with suppress(TaiStateError):
                        await act(lease)
                    await judge()
    await faulty.settle()
    await judge()
    await expire(time, theirs)
    leases.append(await theirs.acquire_lock("r", ttl_seconds=TTL, wait_seconds=0))
    await judge()


async def test_a_lost_answer_to_acquiring_is_looked_up(store: StateStore, other: StateStore, time: Time):
    """Where the answer is lost and the lock is ours, we hold it, at the revision that stands; that takes one read."""
    faulty = CountingEngine(FaultyEngine(store.core.engine, AtCalls({("commit", 1): Fault.LOST_AFTER})))  # type: ignore[arg-type]
    locks, theirs = managed(store, time, faulty), managed(other, time)
    lease = await locks.acquire_lock("r", ttl_seconds=TTL, wait_seconds=0)
    assert (len(faulty.counts.commits), faulty.counts.reads) == (1, 1)
    await store.save_state(GOVERNOR, "s", {}, METADATA, fence=lease)
    with pytest.raises(LockAlreadyHeld):
        await theirs.acquire_lock("r", wait_seconds=0)
    await locks.release_lock(lease)
    await theirs.acquire_lock("r", wait_seconds=0)


async def test_a_try_that_arrives_late(store: StateStore, other: StateStore, time: Time):
    """Who waits and finds that an earlier try of its own got through has the lock, counted from when it had not."""
    locks, theirs = managed(store, time), managed(other, time)
    await locks.acquire_lock("r", ttl_seconds=TTL)
    got: list[Lease] = []

    async def wait() -> None:
        got.append(await theirs.acquire_lock("r", ttl_seconds=TTL, holder="ben"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await until(lambda: asleep(theirs))
        [path] = [each for each in await paths(store.core.engine, "r") if "waiters" in each]
        time.advance(3)
        tried = {"holder": "ben", "nonce": path.rpartition("/")[2].partition("-")[2], "ttl": TTL, "acquired_at": ""}
        committed = await store.core.engine.commit([Put("locks/r", tried)])
        await until(lambda: got)
    assert (got[0].fence, got[0].remaining_seconds) == (committed.revision, pytest.approx(TTL - 3))
    assert await paths(store.core.engine, "r") == ["locks/r"]


async def test_a_short_lease_after_a_long_wait(store: StateStore, other: StateStore, time: Time):
    """Who has waited for longer than its lease lasts, and misses the answer to its try, counts from that try."""
    faulty = FaultyEngine(other.core.engine, AtCalls({}))
    locks, theirs = managed(store, time), managed(other, time, faulty)
    lease = await locks.acquire_lock("r", ttl_seconds=TTL)
    got: list[Lease] = []

    async def wait() -> None:
        got.append(await theirs.acquire_lock("r", ttl_seconds=0.3))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await until(lambda: asleep(theirs))
        time.advance(3)
        await time.settle()
        faulty.plan = NextCommit(Fault.LOST_AFTER)
        await locks.release_lock(lease)
        await until(lambda: got)
    assert got[0].remaining_seconds == pytest.approx(0.3)
    await store.save_state(GOVERNOR, "s", {}, METADATA, fence=got[0])


@pytest.mark.parametrize("faults", [(Fault.LOST_AFTER,), (Fault.LOST_AFTER, Fault.LOST_BEFORE)], ids=str)
@pytest.mark.parametrize("wait_seconds", [None, 0, 5])
async def test_a_lease_that_is_over_before_it_is_known(
    store: StateStore, time: Time, faults: Sequence[Fault], wait_seconds: float | None
):
    """It is acquired again, also where the answer to that is lost, too, and counts no longer than in the store."""

    async def pass_by() -> None:
        time.advance(0.4)

    faulty: Any = FaultyEngine(store.core.engine, AtCalls({("commit", n): each for n, each in enumerate(faults, 1)}))
    locks = managed(store, time, BeforeReads(faulty, pass_by))
    lease = await locks.acquire_lock("r", ttl_seconds=0.3, wait_seconds=wait_seconds)
    assert faulty.statistics().all_hit
    [info] = await collected(locks.list_locks())
    assert 0 < lease.remaining_seconds <= info.remaining_seconds
    await store.save_state(GOVERNOR, "s", {}, METADATA, fence=lease)
    await locks.release_lock(lease)
    assert await paths(store.core.engine, "r") == []


async def test_an_answer_that_comes_too_late_once(store: StateStore, time: Time):
    """Where the lease is over when the answer comes, the lock is acquired again."""
    locks = managed(store, time, Slow(store.core.engine, time, TTL, times=1))
    lease = await locks.acquire_lock("r", ttl_seconds=TTL, wait_seconds=TTL)
    assert lease.remaining_seconds == TTL
    await store.save_state(GOVERNOR, "s", {}, METADATA, fence=lease)


async def test_a_lost_answer_to_releasing(store: StateStore, other: StateStore, time: Time):
    """Where the answer is lost and somebody has the lock before it is asked again, it was released all the same."""
    theirs = managed(other, time)
    faulty: Any = FaultyEngine(store.core.engine, AtCalls({("commit", 2): Fault.LOST_AFTER}))
    looked = BeforeReads(faulty, lambda: theirs.acquire_lock("r", ttl_seconds=TTL, wait_seconds=0))
    locks = managed(store, time, looked)
    lease = await locks.acquire_lock("r", ttl_seconds=TTL)
    await locks.release_lock(lease)
    assert looked.calls == 1
    assert await paths(store.core.engine) == ["locks/r"]


@pytest.mark.parametrize("fault", [Fault.LOST_AFTER, Fault.LOST_BEFORE])
async def test_a_lost_answer_to_a_renewal(store: StateStore, time: Time, fault: Fault):
    """It is looked up, and sent again where it was not applied: the holder counts from when it was sent."""
    faulty = FaultyEngine(store.core.engine, AtCalls({("commit", 2): fault}))
    locks = managed(store, time, faulty)
    lease = await locks.acquire_lock("r", ttl_seconds=TTL)
    time.advance(4)
    await locks.renew_lock(lease)
    assert lease.remaining_seconds == pytest.approx(TTL)
    assert len(await paths(store.core.engine)) == 2
    assert faulty.statistics().all_hit


class Overtaken(AroundEngine):
    """Loses two copies of a renewal; the first one arrives while the look after it is under way, whose answer is slow.

    Args:
        engine: the one that does the work.
        time: passes while the answer is under way.
        after: whether the look sees the renewal.
    """

    def __init__(self, engine: Engine, time: Time, *, after: bool) -> None:
        super().__init__(engine)
        self._time = time
        self._after = after
        self._copies: list[Sequence[Write]] = []

    async def commit(self, writes: Sequence[Write]) -> Any:  # noqa: D102
        if len(self._copies) == 2 or not any(each.path.startswith("lockbeats/") for each in writes):
            return await self._engine.commit(writes)
        self._copies.append(writes)
        raise StoreTimeout("commit", "TEST", unknown=True)

    async def read(self, paths: Sequence[str]) -> Any:  # noqa: D102
        if len(self._copies) != 1:
            return await self._engine.read(paths)
        self._time.advance(1)  # it takes a while until the copy arrives
        before = await self._engine.read(paths)
        await self._engine.commit(self._copies[0])
        reading = await self._engine.read(paths) if self._after else before
        self._time.advance(3)
        return reading


@pytest.mark.parametrize("after", [False, True])
async def test_a_renewal_counts_from_the_earliest_copy_that_may_have_arrived(
    store: StateStore, other: StateStore, time: Time, *, after: bool
):
    """Where a second copy is sent and lost, and the first one arrived, the holder believes no longer than it may."""
    locks, theirs = managed(store, time, Overtaken(store.core.engine, time, after=after)), managed(other, time)
    lease = await locks.acquire_lock("r", ttl_seconds=TTL)
    await locks.renew_lock(lease)
    [info] = await collected(theirs.list_locks())
    assert 0 < lease.remaining_seconds <= TTL - 3
    if store.core.engine.capabilities.shared_clock:
        assert lease.remaining_seconds <= info.remaining_seconds


class Slow(AroundEngine):
    """Answers commits late, all of them or so many."""

    def __init__(self, engine: Engine, time: Time, seconds: float, times: int = 10**6) -> None:
        super().__init__(engine)
        self._time = time
        self._seconds = seconds
        self._times = times

    async def commit(self, writes: Sequence[Write]) -> Any:  # noqa: D102
        committed = await self._engine.commit(writes)
        if self._times:
            self._times -= 1
            self._time.advance(self._seconds)
        return committed


async def test_the_lease_counts_from_the_sending(store: StateStore, time: Time):
    """What the answer took on its way is not added to the lease."""
    locks = managed(store, time, Slow(store.core.engine, time, 3))
    lease = await locks.acquire_lock("r", ttl_seconds=TTL)
    assert lease.remaining_seconds == pytest.approx(TTL - 3)
    await locks.renew_lock(lease)
    assert lease.remaining_seconds == pytest.approx(TTL - 3)


async def test_a_lock_is_not_given_that_is_over(store: StateStore, time: Time):
    """An answer that takes longer than the lease is none, and the lock is given back."""
    locks = managed(store, time, Slow(store.core.engine, time, TTL))
    with pytest.raises(LockAcquisitionFailed):
        await locks.acquire_lock("r", ttl_seconds=TTL)
    assert await paths(store.core.engine) == []


async def test_an_engine_that_is_gone(store: StateStore, time: Time):
    """An engine that cannot be reached is said to be that; where something was sent, the lock was not acquired."""
    for fault, error in ((Fault.UNAVAILABLE, StoreUnavailable), (Fault.LOST_AFTER, LockAcquisitionFailed)):
        faults = {("commit", 1): fault} | {("read", n): Fault.UNAVAILABLE for n in range(1, 100)}
        inner = store.core.engine
        locks = managed(store, time, FaultyEngine(inner, AtCalls(faults)))  # type: ignore[arg-type]
        with pytest.raises(error):
            await locks.acquire_lock("r", ttl_seconds=TTL)
        store.core.engine = inner
        await expire(time, managed(store, time))


# Waiting --------------------------------------------------------------------------------------------------------


async def test_answers_that_are_lost_while_waiting(place: Place, time: Time):
    """Whatever call goes wrong in line, who gets the lock has it, and nobody's place is left."""
    for fault, call in product((each for each in _FAULTS if each is not Fault.REFUSED), range(1, 11)):
        async with place.store() as store, place.store() as other:
            faulty = FaultyEngine(other.core.engine, AtCalls({("any", call): fault}))
            locks, theirs = managed(store, time), managed(other, time, faulty)
            lease = await locks.acquire_lock("r", ttl_seconds=TTL)
            results: list[Lease | TaiStateError] = []

            async def wait(theirs: LockManager = theirs, results: list[Lease | TaiStateError] = results) -> None:
                try:
                    results.append(await theirs.acquire_lock("r", ttl_seconds=TTL))
                except TaiStateError as error:
                    results.append(error)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await until(lambda theirs=theirs, results=results: asleep(theirs) or results)
                await locks.release_lock(lease)
                await until(lambda results=results: results)
            await faulty.settle()
            [result] = results
            if isinstance(result, Lease):
                await store.save_state(GOVERNOR, f"{fault}-{call}", {}, METADATA, fence=result)
                await theirs.release_lock(result)
            await expire(time, locks)
            await locks.cleanup_expired_locks()
            time.advance(WAITER_TTL_SECONDS * 2)
            left = await paths(store.core.engine, "r")
            assert left == [] or fault is Fault.DELAYED, (fault, call, left)
