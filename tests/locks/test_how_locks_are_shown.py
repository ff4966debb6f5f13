"""What leases and lock managers say of themselves in a log or a debugger."""

from __future__ import annotations

import anyio
import pytest

from tai_state import Lease, LockLost, LockManager, StateStore
from tai_state.engines.memory import MemoryEngine
from tai_state.testing import ManualClock

from ..support.locks import TTL, Time, asleep, managed, until
from ..support.stores import make_store

pytestmark = pytest.mark.anyio


async def test_a_lease_says_how_long_it_lasts(store: StateStore, time: Time):
    """A lease names its resource, its holder and its fencing number, and how it stands."""
    locks = managed(store, time)
    lease = await locks.acquire_lock("nightly", holder="worker 1", ttl_seconds=TTL)
    shown = f"<Lease 'nightly' by 'worker 1', fence {lease.fence}"
    assert repr(lease) == f"{shown}, 10.0 s left>"
    time.advance(2.75)
    assert repr(lease) == f"{shown}, 7.2 s left>"
    time.advance(TTL)
    assert repr(lease) == f"{shown}, over>"
    with pytest.raises(LockLost):
        await locks.renew_lock(lease)
    assert repr(lease) == f"{shown}, lost>"
    later = await locks.acquire_lock("weekly", holder="worker 1", ttl_seconds=TTL)
    await locks.release_lock(later)
    assert repr(later) == f"<Lease 'weekly' by 'worker 1', fence {later.fence}, released>"


async def test_a_manager_says_what_it_holds_and_who_waits(store: StateStore, other: StateStore, time: Time):
    """A lock manager counts the locks that it holds and the callers that wait for one."""
    locks, theirs = managed(store, time), managed(other, time)
    assert repr(locks) == "<LockManager, 0 held, 0 waiting>"
    async with locks.lock_all(["a", "b"], ttl_seconds=1_000), anyio.create_task_group() as tasks:
        tasks.start_soon(theirs.acquire_lock, "a")
        await until(lambda: asleep(theirs))
        assert [repr(locks), repr(theirs)] == ["<LockManager, 2 held, 0 waiting>", "<LockManager, 0 held, 1 waiting>"]
        tasks.cancel_scope.cancel()


def test_leases_can_be_shown_when_their_event_loop_has_ended(clock: ManualClock):
    """Where the clock by which a lease is counted is gone, it is shown without the time that is left."""

    async def acquired() -> tuple[LockManager, Lease]:
        async with make_store(MemoryEngine(clock), clock) as store:
            return store.locks, await store.locks.acquire_lock("r", holder="me", ttl_seconds=TTL)

    locks, lease = anyio.run(acquired)
    assert repr(lease) == f"<Lease 'r' by 'me', fence {lease.fence}, 10.0 s from each renewal>"
    assert repr(locks) == "<LockManager, 1 leases, 0 waiting>"
