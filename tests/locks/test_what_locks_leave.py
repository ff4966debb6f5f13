"""What locks leave behind is removed: renewals with the lock, and what those who were killed left by a cleanup."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tai_state import LockManager, StateStore, open_store
from tai_state.engines.api import Engine, Put, Scan
from tai_state.testing import ManualClock, MemoryEngine

from ..support.stores import AroundEngine, Place, collected, fields_at

pytestmark = pytest.mark.anyio

MONTH_SECONDS = 30 * 86_400.0
MANY = 17_000
"""Locks, more than twice as many as a manager remembers to have seen."""


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: what is left behind are documents."""
    return "asyncio"


@pytest.mark.parametrize("end", ["released", "broken"])
async def test_renewals_go_with_the_lock(place: Place, end: str) -> None:
    """A resource that was renewed, and released or broken, leaves no document."""
    async with place.store() as store:
        lease = await store.locks.acquire_lock("r")
        await store.locks.renew_lock(lease)
        assert await collected(store.core.engine.scan(Scan("lockbeats"))) != []
        await (store.locks.release_lock(lease) if end == "released" else store.locks.break_lock("r"))
        assert await collected(store.core.engine.scan(Scan("locks"))) == []
        assert await collected(store.core.engine.scan(Scan("lockbeats"))) == []


async def test_renewals_of_an_earlier_holder_go_with_a_takeover(clock: ManualClock) -> None:
    """Who takes over an expired lock leaves no document of the renewals before, without a renewal of its own."""
    async with open_store(MemoryEngine(clock), clock=clock) as store:
        await store.locks.renew_lock(await store.locks.acquire_lock("r", ttl_seconds=1.0))
        clock.advance_us(2_000_000)
        await store.locks.release_lock(await store.locks.acquire_lock("r"))
        assert await collected(store.core.engine.scan(Scan("locks"))) == []
        assert await collected(store.core.engine.scan(Scan("lockbeats"))) == []


class OwnClock(AroundEngine):
    """An engine whose users share no clock, so that what stands still must be seen to."""

    @property
    def capabilities(self) -> Any:  # noqa: D102
        return replace(self._engine.capabilities, shared_clock=False)


class Time:
    """Seconds that pass when a test says so."""

    def __init__(self, clock: ManualClock) -> None:
        self.now = 1_000.0
        self._clock = clock

    def monotonic(self) -> float:
        """The time."""
        return self.now

    def pass_(self, seconds: float) -> None:
        """Let time pass, also by the engine's clock."""
        self.now += seconds
        self._clock.advance_us(round(seconds * 1e6))


@pytest.fixture
def time(clock: ManualClock) -> Time:
    """The time of the managers here."""
    return Time(clock)


@pytest.fixture(params=[True, False], ids=["one clock", "clocks of their own"])
async def store(request: pytest.FixtureRequest, clock: ManualClock) -> AsyncIterator[StateStore]:
    """A store whose users share a clock, or do not."""
    engine: Any = MemoryEngine(clock)
    async with open_store(engine if request.param else OwnClock(engine), clock=clock) as store:
        yield store


async def test_many_expired_locks_are_removed(store: StateStore, time: Time) -> None:
    """However many locks have expired, two cleanups a month apart remove them all."""
    manager = LockManager(store, monotonic=time.monotonic)
    await manager.acquire_lock("r0", ttl_seconds=1.0)
    fields = await fields_at(store.core.engine, "locks/r0")
    for start in range(0, MANY, 1_000):
        await store.core.engine.commit([Put(f"locks/r{n}", fields) for n in range(start, start + 1_000)])
    removed = 0
    for _ in range(2):
        removed += await manager.cleanup_expired_locks()
        time.pass_(MONTH_SECONDS)
    assert removed == MANY
    assert await collected(store.core.engine.scan(Scan("locks"))) == []


async def test_the_note_of_a_break_is_removed_though_nobody_asked_for_it(store: StateStore, time: Time) -> None:
    """Cleanups remove the note for a holder that never came back, but not before its lease has ended by itself."""
    manager = LockManager(store, monotonic=time.monotonic)
    await manager.acquire_lock("job", ttl_seconds=60.0)
    await manager.break_lock("job")
    for seconds, left in ((50.0, 1), (MONTH_SECONDS, 0)):
        await manager.cleanup_expired_locks()
        time.pass_(seconds)
        await manager.cleanup_expired_locks()
        assert len(await collected(store.core.engine.scan(Scan("lockbreaks")))) == left


async def waiters(engine: Engine) -> list[str]:
    """The documents of those who wait for the lock."""
    return [document.path for document in await collected(engine.scan(Scan("locks/job/waiters")))]


async def kill_a_waiter(store: StateStore) -> None:
    """Leave behind what a process leaves that was killed while it waited."""
    async with anyio.create_task_group() as tasks:

        async def wait() -> None:
            async with store.lock("job"):
                pass

        tasks.start_soon(wait)
        while not await waiters(store.core.engine):
            await anyio.lowlevel.checkpoint()
        [path] = await waiters(store.core.engine)
        fields = await fields_at(store.core.engine, path)
        tasks.cancel_scope.cancel()
    assert await waiters(store.core.engine) == [], "who is cancelled leaves by itself"
    await store.core.engine.commit([Put(path, fields)])


@pytest.mark.parametrize("lock", ["expired", "gone", "held"])
async def test_what_a_killed_waiter_left_is_removed(store: StateStore, time: Time, lock: str) -> None:
    """Cleanups a month apart remove the place in line of one that was killed, whatever has become of the lock."""
    manager = LockManager(store, monotonic=time.monotonic)
    lease = await manager.acquire_lock("job", ttl_seconds=2 * MONTH_SECONDS if lock == "held" else 1.0)
    await kill_a_waiter(store)
    if lock == "gone":
        await manager.release_lock(lease)
    for _ in range(3):
        if lock == "held":
            await manager.renew_lock(lease)
        await manager.cleanup_expired_locks()
        time.pass_(MONTH_SECONDS)
    assert await waiters(store.core.engine) == []
    assert lease.is_held == (lock == "held")
