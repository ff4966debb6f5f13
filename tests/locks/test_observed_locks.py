"""What an observer is told of locks."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from tai_state import LockAcquisitionFailed, LockAlreadyHeld, StateStore

from ..support.locks import Time, asleep, expect, managed, until
from ..support.observing import Recorder
from ..support.stores import Place

pytestmark = pytest.mark.anyio


@pytest.fixture
def seen() -> Recorder:
    """What the observer of the other store was told."""
    return Recorder()


@pytest.fixture
async def observed(place: Place, store: StateStore, seen: Recorder) -> AsyncIterator[StateStore]:
    """Another store at the same place, with an observer."""
    async with place.store(observer=seen) as other:
        yield other


async def test_a_wait_for_a_lock_is_told_when_it_was_had(
    store: StateStore, observed: StateStore, seen: Recorder, time: Time
):
    """A lock that was waited for is told with the seconds of the wait, once it is had."""
    locks, theirs = managed(store, time), managed(observed, time)
    lease = await locks.acquire_lock("r", ttl_seconds=1_000)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(theirs.acquire_lock, "r")
        await until(lambda: asleep(theirs))
        time.advance(7.5)
        await until(lambda: asleep(theirs))
        assert seen.waits == []
        await locks.release_lock(lease)
        await time.pass_until(lambda: seen.waits)
    [waited] = seen.waits
    assert (waited.kind, waited.paths, waited.is_acquired) == ("lock", ("locks/r",), True)
    assert waited.seconds >= 7.5
    assert "applied" in {each.outcome for each in seen.attempts if "locks/r" in each.paths}


async def test_a_wait_in_vain_is_told(store: StateStore, observed: StateStore, seen: Recorder, time: Time):
    """A lock that was not had in time is told as such; where nobody was to wait, there was no wait."""
    locks, theirs = managed(store, time), managed(observed, time)
    async with locks.lock_all(["a", "b"], ttl_seconds=1_000):
        await expect(LockAlreadyHeld, lambda: theirs.acquire_lock("a", wait_seconds=0))
        assert seen.waits == []

        async def acquire() -> None:
            async with theirs.lock_all(["b", "a"], wait_seconds=3):
                pass

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(expect, LockAcquisitionFailed, acquire)
            await until(lambda: asleep(theirs))
            time.advance(3)
    [waited] = seen.waits
    assert (waited.kind, waited.paths, waited.is_acquired) == ("lock", ("locks/a", "locks/b"), False)
    assert waited.seconds >= 3


async def test_a_lock_that_is_free_is_told_without_a_wait(observed: StateStore, seen: Recorder, time: Time):
    """Acquiring, renewing and releasing a free lock are one commit each, and no wait."""
    locks = managed(observed, time)
    seen.forget()
    lease = await locks.acquire_lock("r")
    await locks.renew_lock(lease)
    await locks.release_lock(lease)
    assert [each.outcome for each in seen.attempts] == ["applied"] * 3
    assert [(each.attempts, each.error) for each in seen.outcomes] == [(1, None)] * 3
    assert all("locks/r" in each.paths for each in seen.outcomes)
    assert seen.waits == []
