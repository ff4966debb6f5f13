"""Locks by way of a transaction manager, which are released by their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from tai_state import InvalidData, StateStore, TransactionManager
from tai_state.engines.api import Write
from tai_state.errors import CommitRefused, LockAlreadyHeld, LockLost, StoreTimeout, StoreUnavailable
from tai_state.locks.lease import Tenure
from tai_state.testing import ManualClock, MemoryEngine
from tai_state.transactions import manager as module

from ..support.locks import OVER, TTL
from ..support.stores import GOVERNOR, METADATA, AroundEngine, CountingEngine, collected, make_store

pytestmark = pytest.mark.anyio


async def test_a_lock_is_acquired_and_released_by_its_token(store: StateStore, other: StateStore):
    """It excludes others like any lock, is listed under its client, serves as a fence, and costs a commit each way."""
    engine = CountingEngine(store.core.engine)
    store.core.engine = engine  # type: ignore[assignment]
    manager = TransactionManager(store)
    lease = await manager.acquire_lock("r", "client 1", 30.0)
    assert (lease.holder, lease.ttl_seconds, lease.is_held) == ("client 1", 30.0, True)
    assert [(each.resource, each.holder) for each in await collected(other.locks.list_locks())] == [("r", "client 1")]
    with pytest.raises(LockAlreadyHeld):
        await manager.acquire_lock("r", "client 1", 30.0, wait_seconds=0)
    with pytest.raises(LockAlreadyHeld):
        await other.locks.acquire_lock("r", wait_seconds=0)
    await store.save_state(GOVERNOR, "s", {"n": 1}, METADATA, fence=lease)
    engine.reset()
    await manager.release_lock("r", lease.token)
    assert (engine.counts.calls, len(engine.counts.commits)) == (1, 1)
    assert not lease.is_held
    with pytest.raises(LockLost):
        await manager.release_lock("r", lease.token)
    again = await other.transactions.acquire_lock("r", "client 2", 30.0, wait_seconds=0)
    assert again.token != lease.token
    assert again.fence > lease.fence


async def test_another_token_releases_nothing(store: StateStore, other: StateStore):
    """A token of another lock, of an earlier lease or of none raises, and the lock stays."""
    manager = TransactionManager(store)
    first = await manager.acquire_lock("r", "client", TTL)
    await manager.release_lock("r", first.token)
    lease, elsewhere = await manager.acquire_lock("r", "client", TTL), await manager.acquire_lock("s", "client", TTL)
    for token in (first.token, elsewhere.token, "", "r"):
        with pytest.raises(LockLost):
            await manager.release_lock("r", token)
    with pytest.raises(LockLost):
        await other.transactions.release_lock("r", lease.token)
    with pytest.raises(InvalidData):
        await manager.release_lock("r", lease)  # type: ignore[arg-type]
    assert len(await collected(store.locks.list_locks())) == 2
    await manager.release_lock("r", lease.token)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_lock_costs_the_same_beside_many(monkeypatch: pytest.MonkeyPatch):
    """A manager that holds many leases does not look at all of them for each that it acquires."""
    looks = 0
    may_stand = Tenure.may_stand.fget
    assert may_stand is not None

    def counted(tenure: Tenure) -> bool:
        nonlocal looks
        looks += 1
        return may_stand(tenure)

    clock = ManualClock(step_us=1)
    async with make_store(MemoryEngine(clock), clock) as store:
        monkeypatch.setattr(Tenure, "may_stand", property(counted))
        manager = TransactionManager(store)
        for number in range(1_000):
            await manager.acquire_lock(f"r{number}", "client", TTL)
        assert len(manager._leases) == 1_000
    assert 0 < looks < 2_000


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_is_over_is_lost_and_forgotten(monkeypatch: pytest.MonkeyPatch):
    """A lease that was taken over, or has ended, cannot be released, and a manager does not remember it for ever."""
    monkeypatch.setattr(module, "_LEASES_MAX", 1)
    clock = ManualClock(step_us=1)
    async with make_store(MemoryEngine(clock), clock) as store:
        manager = TransactionManager(store)
        now = 0.0
        manager._locks._common.monotonic = lambda: now
        lease = await manager.acquire_lock("r", "client", TTL)
        now += OVER
        clock.advance_us(int(OVER * 1e6))
        taken = await store.transactions.acquire_lock("r", "other", TTL)
        with pytest.raises(LockLost):
            await manager.release_lock("r", lease.token)
        await manager.acquire_lock("s", "client", TTL)
        assert [resource for resource, _ in manager._leases] == ["s"]
        await store.transactions.release_lock("r", taken.token)


class Down(AroundEngine):
    """Its commits fail while it is down; nothing is sent, or everything is applied and no answer comes.

    Attributes:
        is_down: whether it is.
        sends: whether it applies them.
    """

    is_down = False
    sends = False

    async def commit(self, writes: Sequence[Write]) -> Any:  # noqa: D102
        if self.is_down and self.sends:
            with suppress(CommitRefused):
                await self._engine.commit(writes)
        if self.is_down:
            raise StoreUnavailable("commit", "TEST", unknown=self.sends)
        return await self._engine.commit(writes)

    async def read(self, paths: Sequence[str]) -> Any:  # noqa: D102
        if self.is_down:
            raise StoreUnavailable("read", "TEST")
        return await self._engine.read(paths)


@pytest.mark.parametrize("sends", [False, True], ids=["nothing is sent", "no answer comes"])
async def test_a_release_that_failed_can_be_tried_again(store: StateStore, *, sends: bool):
    """The token counts until the lock is known to be released, whatever else the manager acquires meanwhile."""
    engine = Down(store.core.engine)
    store.core.engine = engine  # type: ignore[assignment]
    manager = TransactionManager(store)
    lease = await manager.acquire_lock("r", "client", TTL)
    engine.is_down, engine.sends = True, sends
    with pytest.raises(StoreTimeout if sends else StoreUnavailable):
        await manager.release_lock("r", lease.token)
    engine.is_down = False
    other = await manager.acquire_lock("s", "client", TTL)
    await manager.release_lock("r", lease.token)
    await manager.release_lock("s", other.token)
    assert await collected(store.locks.list_locks()) == []
    with pytest.raises(LockLost):
        await manager.release_lock("r", lease.token)


async def test_a_loss_is_told_for_each_release_by_its_token(
    store: StateStore, other: StateStore, monkeypatch: pytest.MonkeyPatch
):
    """A second release of a lock that was broken, or was released by its lease, raises as well."""
    monkeypatch.setattr(module, "_LEASES_MAX", 1)
    manager = TransactionManager(store)
    lease = await manager.acquire_lock("r", "client", TTL)
    await other.locks.break_lock("r")
    for _ in range(2):
        with pytest.raises(LockLost):
            await manager.release_lock("r", lease.token)
    await manager.acquire_lock("s", "client", TTL)
    assert [resource for resource, _ in manager._leases] == ["s"], "what is settled is forgotten"
    with pytest.raises(LockLost):
        await manager.release_lock("r", lease.token)
