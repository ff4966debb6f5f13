"""Blocks that hold a lock: they renew its lease, and end when it is lost."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import anyio.lowlevel
import pytest

from tai_state import StateStore, StoreUnavailable
from tai_state.engines.api import Committed, Engine, Write
from tai_state.errors import LockAlreadyHeld, LockLost
from tai_state.testing import AtCalls, Fault, FaultyEngine, ManualClock

from ..support.locks import OVER, TTL, Time, expire, managed, until
from ..support.stores import AroundEngine, collected, fields_at

pytestmark = pytest.mark.anyio


async def test_a_block_renews_its_lease(store: StateStore, other: StateStore, time: Time):
    """A block may last much longer than the lease: nobody gets the lock before its end, and then at once."""
    locks, theirs = managed(store, time), managed(other, time)
    async with locks.lock("r", ttl_seconds=TTL) as lease:
        await time.settle()
        for _ in range(8):
            await time.pass_until(lambda: False, seconds=TTL / 3)
            assert lease.remaining_seconds > TTL / 2
            with pytest.raises(LockAlreadyHeld):
                await theirs.acquire_lock("r", wait_seconds=0)
    assert not lease.is_held
    await theirs.acquire_lock("r", wait_seconds=0)


async def test_losing_the_lease_ends_the_block(store: StateStore, time: Time):
    """When no renewal is answered for the whole lease, the block is cancelled and LockLost comes out of it."""
    faulty = FaultyEngine(store.core.engine, AtCalls({("commit", n): Fault.UNAVAILABLE for n in range(2, 200)}))
    locks = managed(store, time, faulty)
    steps: list[str] = []
    with pytest.raises(LockLost) as lost:  # noqa: PT012 - it comes out of the block
        async with locks.lock("r", ttl_seconds=TTL):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_pass, time, TTL)
                try:
                    with anyio.fail_after(30):
                        await anyio.sleep_forever()
                finally:
                    steps.append("cancelled")
            steps.append("went on")
    assert (lost.value.resource, steps) == ("r", ["cancelled"])


async def _pass(time: Time, seconds: float) -> None:
    """Let the time pass in small steps, and the tasks that wait for it take theirs."""
    for _ in range(40):
        await time.settle()
        time.advance(seconds / 40)


class Hanging(AroundEngine):
    """Answers no renewal until a test lets it."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.answers = anyio.Event()
        self.hanging = 0

    async def commit(self, writes: Sequence[Write]) -> Committed:  # noqa: D102
        if not any(each.path.startswith("lockbeats/") for each in writes):
            return await self._engine.commit(writes)
        self.hanging += 1
        try:
            await self.answers.wait()
        finally:
            self.hanging -= 1
        raise StoreUnavailable("commit", "TEST")


async def test_a_lease_that_ends_ends_the_block_whatever_a_renewal_does(store: StateStore, time: Time):
    """The block is cancelled when the lease is over, and not when the renewal that is under way is answered."""
    hanging = Hanging(store.core.engine)
    locks = managed(store, time, hanging)
    cancelled_beside: list[int] = []

    async def hold() -> None:
        with pytest.raises(LockLost):  # noqa: PT012 - it comes out of the block
            async with locks.lock("r", ttl_seconds=TTL):
                try:
                    await anyio.sleep_forever()
                finally:
                    cancelled_beside.append(hanging.hanging)
                    hanging.answers.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hold)
        await time.settle()
        time.advance(TTL * 0.9)
        await until(lambda: hanging.hanging)
        time.advance(TTL * 0.1)
    assert cancelled_beside == [1]


async def test_a_lock_that_was_taken_ends_the_block(store: StateStore, other: StateStore, time: Time):
    """When a renewal finds another in possession, the block ends at once, though its own clock had time left."""
    slow = Time(ManualClock())
    locks, theirs = managed(store, slow), managed(other, time)
    with pytest.raises(LockLost) as lost:  # noqa: PT012 - it comes out of the block
        async with locks.lock("r", ttl_seconds=TTL):
            await slow.settle()
            await expire(time, theirs)
            await theirs.acquire_lock("r", wait_seconds=0, holder="ben")
            slow.advance(TTL / 3)
            with anyio.fail_after(30):
                await anyio.sleep_forever()
    assert lost.value.holder == "ben"
    assert (await fields_at(store.core.engine, "locks/r"))["holder"] == "ben"


async def test_a_block_that_ends_too_late(store: StateStore, time: Time):
    """A block that never lets others run is told at its end that the lease was over before."""
    locks = managed(store, time)
    with pytest.raises(LockLost):
        async with locks.lock("r", ttl_seconds=TTL):
            time.advance(TTL)
    assert await collected(locks.list_locks()) == []


@pytest.mark.parametrize("is_lost", [False, True])
@pytest.mark.parametrize("error", [ValueError("mine"), SystemExit(3), StoreUnavailable("x", "y")], ids=repr)
async def test_an_error_of_the_block_is_not_hidden(
    store: StateStore, time: Time, error: BaseException, *, is_lost: bool
):
    """What the block raises comes out as it is, in no group; a loss besides is noted on it."""
    locks = managed(store, time)
    with pytest.raises(type(error)) as raised:  # noqa: PT012 - it comes out of the block
        async with locks.lock("r", ttl_seconds=TTL):
            if is_lost:
                time.advance(TTL)
            raise error
    assert raised.value is error
    if isinstance(error, Exception):
        assert bool(getattr(error, "__notes__", [])) == is_lost
        error.__notes__ = []
    assert await collected(locks.list_locks()) == []


async def test_a_block_whose_lock_cannot_be_released(store: StateStore, time: Time):
    """That the release fails is no error of the block: what it did is done, and the lock ends by itself."""
    faults = {("commit", n): Fault.UNAVAILABLE for n in range(2, 100)}
    inner = store.core.engine
    locks = managed(store, time, FaultyEngine(inner, AtCalls(faults)))  # type: ignore[arg-type]
    async with locks.lock("r", ttl_seconds=TTL) as lease:
        pass
    assert not lease.is_held
    store.core.engine = inner
    locks = managed(store, time)
    await expire(time, locks)
    await locks.acquire_lock("r", wait_seconds=0)


async def test_a_lease_released_inside_its_block(store: StateStore, other: StateStore, time: Time):
    """A block whose lease is given back early goes on without it, and ends without an error."""
    locks, theirs = managed(store, time), managed(other, time)
    async with locks.lock("r", ttl_seconds=TTL) as lease:
        await locks.release_lock(lease)
        await theirs.acquire_lock("r", wait_seconds=0)
        time.advance(OVER)
        await time.settle()
