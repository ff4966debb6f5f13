"""Fencing: a late holder changes nothing, and no lease is taken over past a renewal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest

from tai_state import StateStore
from tai_state.engines.api import Engine, Put, Write
from tai_state.errors import LockAlreadyHeld, LockLost
from tai_state.testing import ManualClock

from ..support.locks import OVER, TTL, Time, expire, managed, paths
from ..support.stores import GOVERNOR, METADATA, AroundEngine, collected, fields_at

pytestmark = pytest.mark.anyio


async def test_a_living_holder_may_write_whatever_it_renews(store: StateStore, time: Time):
    """Renewals do not move the fence: writes fenced by the lease go through before, between and after them."""
    locks = managed(store, time)
    lease = await locks.acquire_lock("r", ttl_seconds=TTL)
    await store.save_state(GOVERNOR, "s", {"n": 0}, METADATA, fence=lease)
    for n in range(1, 4):
        await locks.renew_lock(lease)
        await store.update_state(GOVERNOR, "s", {"n": n}, METADATA, expected=n, fence=lease)
    assert (await store.get_state(GOVERNOR, "s")).version == 4


@pytest.mark.parametrize("end", ["taken over", "released", "removed"])
async def test_a_late_holder_cannot_write(store: StateStore, other: StateStore, time: Time, end: str):
    """A write fenced by a lease that is over is refused, says who has the lock now, and changes nothing."""
    locks, theirs = managed(store, time), managed(other, time)
    lease = await locks.acquire_lock("r", ttl_seconds=TTL)
    if end == "released":
        await locks.release_lock(lease)
    else:
        await expire(time, theirs)
        await (
            theirs.acquire_lock("r", holder="ben", wait_seconds=0)
            if end == "taken over"
            else theirs.cleanup_expired_locks()
        )
    with pytest.raises(LockLost) as lost:
        await store.save_state(GOVERNOR, "s", {"n": 0}, METADATA, fence=lease)
    assert (lost.value.resource, lost.value.holder) == ("r", "ben" if end == "taken over" else None)
    assert not await store.exists(GOVERNOR, "s")


async def test_a_late_holder_harms_no_successor(store: StateStore, other: StateStore, time: Time):
    """Who was stopped and does not know of it can neither renew nor release what is another's by now."""
    stopped = Time(ManualClock())
    locks, theirs = managed(store, stopped), managed(other, time)
    late, later = await locks.acquire_lock("r", ttl_seconds=TTL), await locks.acquire_lock("s", ttl_seconds=TTL)
    await expire(time, theirs)
    leases = [await theirs.acquire_lock(each, ttl_seconds=TTL, wait_seconds=0, holder="ben") for each in ("r", "s")]
    before = {path: await fields_at(store.core.engine, path) for path in await paths(store.core.engine)}
    assert late.is_held, "by its own clock it is"
    with pytest.raises(LockLost) as lost:
        await locks.renew_lock(late)
    assert lost.value.holder == "ben"
    assert not late.is_held
    with pytest.raises(LockLost) as lost:
        await locks.release_lock(later)
    assert lost.value.holder == "ben"
    assert {path: await fields_at(store.core.engine, path) for path in await paths(store.core.engine)} == before
    for lease in leases:
        await theirs.renew_lock(lease)


async def test_an_expired_lease_is_not_revived(store: StateStore, time: Time):
    """Who comes too late to renew has lost the lease, though nobody took the lock; acquiring again is a new tenure."""
    locks = managed(store, time)
    lease = await locks.acquire_lock("r", ttl_seconds=TTL)
    await expire(time, locks)
    assert not lease.is_held
    with pytest.raises(LockLost):
        await locks.renew_lock(lease)
    again = await locks.acquire_lock("r", ttl_seconds=TTL, wait_seconds=0)
    assert again.fence > lease.fence
    with pytest.raises(LockLost):
        await locks.release_lock(lease)
    assert again.is_held
    await locks.renew_lock(again)


class Between(AroundEngine):
    """Does something right before the commits that one is to fall between a look and."""

    def __init__(
        self, engine: Engine, is_it: Callable[[Sequence[Write]], bool], do: Callable[[], Awaitable[Any]]
    ) -> None:
        super().__init__(engine)
        self._is_it = is_it
        self._do = do

    async def commit(self, writes: Sequence[Write]) -> Any:  # noqa: D102
        if self._is_it(writes):
            await self._do()
        return await self._engine.commit(writes)


@pytest.mark.parametrize("was_renewed_before", [False, True])
async def test_no_take_over_past_a_renewal(
    store: StateStore, other: StateStore, time: Time, *, was_renewed_before: bool
):
    """A renewal that falls between the look at an expired lock and its take-over, or removal, refuses these."""
    locks = managed(store, Time(ManualClock()))  # whose time does not pass: it may renew
    lease = await locks.acquire_lock("r", ttl_seconds=TTL)
    if was_renewed_before:
        await locks.renew_lock(lease)
    takes = Between(other.core.engine, lambda writes: len(writes) == 2, lambda: locks.renew_lock(lease))
    theirs = managed(other, time, takes)
    for attempt in (lambda: theirs.acquire_lock("r", wait_seconds=0), theirs.cleanup_expired_locks):
        await expire(time, theirs)
        with suppress(LockAlreadyHeld):
            assert await attempt() == 0
        await store.save_state(GOVERNOR, attempt.__name__, {}, METADATA, fence=lease)
    assert lease.is_held


async def test_a_predecessors_renewal_does_not_count(store: StateStore, other: StateStore, time: Time):
    """A renewal keeps only the tenure alive that it belongs to: what an earlier holder left says nothing of a later."""
    locks, theirs = managed(store, time), managed(other, time)
    lease = await locks.acquire_lock("r", ttl_seconds=TTL)
    await locks.release_lock(lease)
    await locks.acquire_lock("r", ttl_seconds=TTL)
    await collected(theirs.list_locks())
    time.advance(TTL)
    beat = await fields_at(store.core.engine, "lockbeats/r") if "lockbeats/r" in await paths(store.core.engine) else {}
    await store.core.engine.commit([Put("lockbeats/r", {"nonce": "of another", "n": 1, **beat})])
    time.advance(OVER - TTL)
    await theirs.acquire_lock("r", ttl_seconds=TTL, wait_seconds=0)
