"""Waiting for a lock: who is next, and what holds nobody up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tai_state import StateStore
from tai_state.engines.api import DocumentChange, Engine, Put, Write
from tai_state.errors import CommitRefused, LockAcquisitionFailed
from tai_state.locks.lease import Lease
from tai_state.locks.queueing import BEAT_SECONDS, WAITER_TTL_SECONDS

from ..support.locks import TTL, Time, asleep, expect, managed, paths, until
from ..support.stores import AroundEngine, CountingEngine, fields_at

pytestmark = pytest.mark.anyio


async def test_who_waits_is_woken_by_the_release(store: StateStore, other: StateStore, time: Time):
    """The next one gets the lock without any time passing and by one commit, and leaves its place with it."""
    engine = CountingEngine(other.core.engine)
    locks, theirs = managed(store, time), managed(other, time, engine)
    lease = await locks.acquire_lock("r", ttl_seconds=TTL)
    got: list[Lease] = []

    async def wait() -> None:
        got.append(await theirs.acquire_lock("r", ttl_seconds=TTL))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await until(lambda: asleep(theirs))
        engine.reset()
        await locks.release_lock(lease)
        await until(lambda: got)
    assert got[0].fence > lease.fence
    assert (len(engine.counts.commits), engine.counts.reads) == (1, 0)
    assert await paths(store.core.engine, "r") == ["locks/r"]


class Forgetful(AroundEngine):
    """Its watch passes over a document that was made and removed again between two of its looks: it tells nothing."""

    @asynccontextmanager
    async def watch(self, *targets: str) -> AsyncIterator[AsyncIterator[DocumentChange]]:  # noqa: D102
        async def told() -> AsyncIterator[DocumentChange]:
            for target in targets:
                yield DocumentChange(target, None)
            await anyio.sleep_forever()

        yield told()


async def test_a_hint_that_never_comes(store: StateStore, other: StateStore, time: Time):
    """Who has seen a lock that the watch never told of does not rely on being told of its release."""
    locks, theirs = managed(store, time), managed(other, time, Forgetful(other.core.engine))
    lease = await locks.acquire_lock("r", ttl_seconds=1_000)
    got: list[Lease] = []

    async def wait() -> None:
        got.append(await theirs.acquire_lock("r", ttl_seconds=TTL))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await time.pass_until(lambda: False, seconds=3)
        assert not got
        await locks.release_lock(lease)
        await time.pass_until(lambda: got, seconds=3)
        assert got
        tasks.cancel_scope.cancel()


class Mute(AroundEngine):
    """Its watches tell what is there when they begin, and nothing more."""

    @asynccontextmanager
    async def watch(self, *targets: str) -> AsyncIterator[AsyncIterator[DocumentChange]]:  # noqa: D102
        async with self._engine.watch(*targets) as changes:
            first = [await anext(changes) for _ in targets]

            async def told() -> AsyncIterator[DocumentChange]:
                for change in first:
                    yield change
                await anyio.sleep_forever()

            yield told()


async def test_who_searches_for_deadlocks_looks_at_the_lock_as_well(store: StateStore, other: StateStore, time: Time):
    """Who holds a lock while it waits, and so searches again and again, notices a release of which no watch told."""
    locks, theirs = managed(store, time), managed(other, time, Mute(other.core.engine))
    lease = await locks.acquire_lock("r", ttl_seconds=1_000)
    own = await theirs.acquire_lock("own", ttl_seconds=1_000)
    got: list[Lease] = []

    async def wait() -> None:
        got.append(await theirs.acquire_lock("r", ttl_seconds=TTL, holding=[own]))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await until(lambda: asleep(theirs))
        await locks.release_lock(lease)
        await time.pass_until(lambda: got, seconds=2 * BEAT_SECONDS)
        assert got
        tasks.cancel_scope.cancel()


async def test_a_dead_holder_is_succeeded(store: StateStore, other: StateStore, time: Time):
    """Who waits gets the lock of one who shows no life when its time has passed, and not before."""
    locks, theirs = managed(store, time), managed(other, time)
    lease = await locks.acquire_lock("r", ttl_seconds=TTL)
    time.advance(TTL / 2)
    await locks.renew_lock(lease)
    got: list[Lease] = []

    async def wait() -> None:
        got.append(await theirs.acquire_lock("r", ttl_seconds=TTL))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await until(lambda: asleep(theirs))
        time.advance(TTL * 0.99)
        await time.settle()
        assert not got
        assert lease.is_held
        time.advance(TTL * 0.2)
        await until(lambda: got)
    assert not lease.is_held


async def test_a_living_holder_is_not(store: StateStore, other: StateStore, time: Time):
    """However long somebody waits, a holder that renews is left alone."""
    locks, theirs = managed(store, time), managed(other, time)
    async with anyio.create_task_group() as tasks, locks.lock("r", ttl_seconds=TTL) as lease:
        tasks.start_soon(expect, LockAcquisitionFailed, lambda: theirs.acquire_lock("r", wait_seconds=5 * TTL))
        await until(lambda: asleep(theirs))
        await time.pass_until(lambda: not theirs.statistics().waiting, seconds=6 * TTL)
        assert lease.is_held
        assert time.monotonic() >= 1_000 + 5 * TTL
    assert await paths(store.core.engine, "r") == []


async def test_first_come_first_served(store: StateStore, other: StateStore, time: Time):
    """Those who wait get the lock in the order in which they came, whichever process they are of."""
    managers = [managed(store, time), managed(other, time)]
    order: list[int] = []

    def know_their_places(count: int, fence: int) -> bool:
        """Whether so many wait, and each has seen who holds the lock now, and counted those ahead."""
        return [(each.ahead, each.fences) for each in asleep(*managers)] == [(n, {"r": fence}) for n in range(count)]

    async def wait(n: int) -> None:
        async with managers[n % 2].lock("r", ttl_seconds=TTL) as lease:
            order.append(n)
            await until(lambda: know_their_places(4 - len(order), lease.fence))

    async with anyio.create_task_group() as tasks, managers[0].lock("r", ttl_seconds=TTL) as lease:
        for n in range(4):
            tasks.start_soon(wait, n)
            await until(lambda n=n: know_their_places(n + 1, lease.fence))
    assert order == [0, 1, 2, 3]
    assert await paths(store.core.engine, "r") == []


async def test_a_place_of_the_dead_holds_nobody_up(store: StateStore, other: StateStore, time: Time):
    """Who died in line is passed over once it gave no sign for too long, and taken out of it."""
    locks, theirs = managed(store, time), managed(other, time)
    dead = {"holder": "x", "holds": [], "wants": ["r"], "ttl": WAITER_TTL_SECONDS, "ticket": 0, "n": 0}
    await store.core.engine.commit([Put("locks/r/waiters/dead", dead)])
    lease = await locks.acquire_lock("r", ttl_seconds=1_000)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(theirs.acquire_lock, "r")
            await until(lambda: asleep(theirs))
            scope.cancel()
    time.advance(WAITER_TTL_SECONDS * 1.2)
    await locks.renew_lock(lease)
    got: list[Lease] = []

    async def wait() -> None:
        got.append(await theirs.acquire_lock("r", ttl_seconds=TTL))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await until(lambda: asleep(theirs))
        assert "locks/r/waiters/dead" not in await paths(store.core.engine, "r")
        await locks.release_lock(lease)
        await until(lambda: got)


async def test_who_waits_shows_life_and_keeps_its_place(store: StateStore, other: StateStore, time: Time):
    """Somebody who waits long says so again and again, under the ticket that it came with."""
    locks, theirs = managed(store, time), managed(other, time)
    async with anyio.create_task_group() as tasks, locks.lock("r", ttl_seconds=1_000):
        tasks.start_soon(theirs.acquire_lock, "r")
        await until(lambda: asleep(theirs))
        [path] = [each for each in await paths(store.core.engine, "r") if "waiters" in each]
        [came] = (await store.core.engine.read([path])).documents
        assert came is not None
        for n in range(1, 4):
            await time.pass_until(lambda: False, seconds=BEAT_SECONDS + 1)
            record = await fields_at(store.core.engine, path)
            assert (record["n"] >= n, record["ticket"]) == (True, came.revision)
        tasks.cancel_scope.cancel()
    assert [each for each in await paths(store.core.engine, "r") if each.startswith("locks/")] == []


class Refusing(AroundEngine):
    """Refuses every sign of life after the first, as an engine does where too many want the same documents at once.

    Attributes:
        refusals: how many there were.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.refusals = 0
        self._is_in_line = False

    async def commit(self, writes: Sequence[Write]) -> Any:  # noqa: D102
        if any("/waiters/" in each.path and isinstance(each, Put) for each in writes):
            if self._is_in_line:
                self.refusals += 1
                raise CommitRefused(writes[0].path)
            self._is_in_line = True
        return await self._engine.commit(writes)


async def test_a_sign_of_life_that_is_refused(store: StateStore, other: StateStore, time: Time):
    """It is given again soon, and who waits goes on waiting."""
    engine = Refusing(other.core.engine)
    locks, theirs = managed(store, time), managed(other, time, engine)
    lease = await locks.acquire_lock("r", ttl_seconds=60)
    got: list[Lease] = []

    async def wait() -> None:
        got.append(await theirs.acquire_lock("r", ttl_seconds=TTL))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await until(lambda: asleep(theirs))
        await time.pass_until(lambda: engine.refusals > 2)
        await locks.release_lock(lease)
        await until(lambda: got)
    assert got[0].fence > lease.fence
