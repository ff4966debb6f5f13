"""One lock: acquired, extended, released, and who is told that it is held."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tai_state import InvalidData, InvalidId, StateStore
from tai_state.engines.api import Delete, Put, Write
from tai_state.errors import LockAcquisitionFailed, LockAlreadyHeld, LockLost
from tai_state.locks.locking import LockManager
from tai_state.locks.queueing import WAITER_TTL_SECONDS

from ..support.locks import OVER, TTL, Time, asleep, expect, expire, managed, paths, until
from ..support.stores import CountingEngine, Place, Places, collected, fields_at

pytestmark = pytest.mark.anyio


async def test_acquire_extend_release(store: StateStore, time: Time):
    """A lock is held from acquiring to releasing, its lease lasts its time from each renewal, and the list shows it."""
    locks = managed(store, time)
    lease = await locks.acquire_lock("pump 7", ttl_seconds=TTL, holder="anna")
    assert (lease.resource, lease.holder, lease.ttl_seconds, lease.remaining_seconds, lease.is_held) == (
        "pump 7",
        "anna",
        TTL,
        TTL,
        True,
    )
    time.advance(8)
    assert lease.remaining_seconds == pytest.approx(2)
    await locks.renew_lock(lease)
    assert lease.remaining_seconds == pytest.approx(TTL)
    time.advance(8)
    [info] = await collected(locks.list_locks())
    assert (info.resource, info.holder, info.fence, info.ttl_seconds) == ("pump 7", "anna", lease.fence, TTL)
    assert info.last_sign_at > info.acquired_at
    assert 0 < info.remaining_seconds <= OVER
    assert not info.is_expired
    await locks.release_lock(lease)
    assert not lease.is_held
    assert await collected(locks.list_locks()) == []
    await locks.release_lock(lease)
    with pytest.raises(LockLost):
        await locks.renew_lock(lease)


async def test_the_documents(store: StateStore, time: Time):
    """What stands in the documents is what the format says, with resources escaped so that none leaves its place."""
    locks = managed(store, time)
    lease = await locks.acquire_lock("a/b ..~", ttl_seconds=TTL, holder="anna")
    record = await fields_at(store.core.engine, "locks/a%2Fb ..%7E")
    assert record == {
        "holder": "anna",
        "nonce": record["nonce"],
        "ttl": TTL,
        "acquired_at": "2026-09-21T14:13:20.000000Z",
    }
    await locks.renew_lock(lease)
    await locks.renew_lock(lease)
    assert await fields_at(store.core.engine, "lockbeats/a%2Fb ..%7E") == {"nonce": record["nonce"], "n": 2}
    assert [info.resource for info in await collected(locks.list_locks())] == ["a/b ..~"]


async def test_held(store: StateStore, other: StateStore, time: Time):
    """Who does not wait is told at once who has the lock and for how long; who waits is told when the wait ends."""
    locks, theirs = managed(store, time), managed(other, time)
    lease = await locks.acquire_lock("r", ttl_seconds=TTL, holder="anna")
    time.advance(4)
    with pytest.raises(LockAlreadyHeld) as held:
        await theirs.acquire_lock("r", wait_seconds=0)
    assert (held.value.resource, held.value.holder, held.value.is_transient) == ("r", "anna", True)
    assert held.value.remaining == pytest.approx(6 if store.core.engine.capabilities.shared_clock else 11)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(expect, LockAcquisitionFailed, lambda: theirs.acquire_lock("r", wait_seconds=2, holder="ben"))
        await until(lambda: asleep(theirs))
        [path] = [each for each in await paths(store.core.engine, "r") if "waiters" in each]
        record = await fields_at(store.core.engine, path)
        assert record | {"ticket": 0} == {
            "holder": "ben",
            "holds": [],
            "wants": ["r"],
            "ttl": WAITER_TTL_SECONDS,
            "ticket": 0,
            "n": 0,
        }
        time.advance(2)
    assert await paths(store.core.engine, "r") == ["locks/r"]
    assert lease.is_held


@pytest.mark.parametrize(
    "options",
    [
        {"ttl_seconds": 0},
        {"ttl_seconds": -1},
        {"ttl_seconds": float("nan")},
        {"ttl_seconds": float("inf")},
        {"wait_seconds": -1},
        {"wait_seconds": float("nan")},
    ],
)
async def test_times_that_mean_nothing(memory_places: Places, options: dict[str, float]):
    """A lease without an end, or a wait that cannot be, is refused."""
    async with memory_places.new().store() as store:
        with pytest.raises(InvalidData):
            await LockManager(store).acquire_lock("r", **options)


@pytest.mark.parametrize("resources", [[], "abc", [""], ["a", 1]])
async def test_resources_that_are_none(memory_places: Places, resources: Any):
    """What is no name cannot be locked, and a name is not taken for a sequence of letters."""
    async with memory_places.new().store() as store:
        with pytest.raises(InvalidId):
            async with LockManager(store).lock_all(resources):
                pass


async def test_budgets(place: Place, time: Time):
    """Acquiring, renewing and releasing take a commit each; a lock that is held a read more; taking over a commit."""
    async with place.store() as store, place.store() as other:
        engine, theirs = CountingEngine(store.core.engine), CountingEngine(other.core.engine)
        locks, rivals = managed(store, time, engine), managed(other, time, theirs)
        lease = await locks.acquire_lock("r", ttl_seconds=TTL)
        await locks.renew_lock(lease)
        await locks.release_lock(lease)
        assert ([_written(each) for each in engine.counts.commits], engine.counts.calls) == ([1, 1, 2], 3)
        await locks.acquire_lock("r", ttl_seconds=TTL)
        with suppress(LockAlreadyHeld):
            await rivals.acquire_lock("r", wait_seconds=0)
        assert (len(theirs.counts.commits), theirs.counts.reads, theirs.counts.calls) == (1, 1, 2)
        time.advance(OVER)
        theirs.reset()
        await rivals.acquire_lock("r", wait_seconds=0)
        assert (len(theirs.counts.commits), theirs.counts.reads, theirs.counts.calls) == (2, 1, 3)
        engine.reset()
        async with locks.lock("s"):
            pass
        assert engine.counts.calls == 2


def _written(writes: Sequence[Write]) -> int:
    return sum(isinstance(each, Put | Delete) for each in writes)


async def test_fences_only_grow(place: Place, time: Time):
    """Each tenure's number is greater than all before, over release, take-over, removal and reopening."""
    fences: list[int] = []
    for _ in range(2):
        async with place.store() as store, place.store() as other:
            locks, theirs = managed(store, time), managed(other, time)
            lease = await locks.acquire_lock("r", ttl_seconds=TTL)
            await locks.release_lock(lease)
            again = await locks.acquire_lock("r", ttl_seconds=TTL)
            await locks.renew_lock(again)
            await expire(time, theirs)
            taken = await theirs.acquire_lock("r", ttl_seconds=TTL, wait_seconds=0)
            await expire(time, locks)
            assert await locks.cleanup_expired_locks() == 1
            last = await locks.acquire_lock("r", ttl_seconds=TTL, wait_seconds=0)
            fences += [lease.fence, again.fence, taken.fence, last.fence]
            await expire(time, locks)
            own = await locks.acquire_lock("r", ttl_seconds=TTL, wait_seconds=0)
            fences.append(own.fence)
            await locks.release_lock(own)
    assert fences == sorted(set(fences))
