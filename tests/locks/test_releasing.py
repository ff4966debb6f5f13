"""Releasing: what is left of several locks is released, too, and a second release tells the truth."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from typing import Any

import anyio
import pytest

from tai_state import StateStore
from tai_state.engines.api import Scan, Write
from tai_state.errors import LockLost, StoreTimeout, StoreUnavailable
from tai_state.locks.locking import LockManager
from tai_state.testing import AtCalls, Fault, FaultyEngine, ManualClock
from tai_state.testing.faults import Call

from ..support.faults import BeforeReads, NextCommit
from ..support.locks import OVER, TTL, Time, expire, managed, paths
from ..support.stores import AroundEngine, Place, collected

pytestmark = pytest.mark.anyio


class Always:
    """A plan of the same fault at each call of a verb."""

    planned = 0

    def __init__(self, **faults: Fault) -> None:
        self._faults: dict[str, Fault] = faults

    def fault(self, call: Call) -> Fault | None:
        """The fault of a call."""
        return self._faults.get(call.verb)


WELL = Always()
DEAF = Always(commit=Fault.UNAVAILABLE)
DOWN = Always(commit=Fault.UNAVAILABLE, read=Fault.UNAVAILABLE)
FAILING = pytest.mark.parametrize("plan", [DEAF, DOWN], ids=["commits", "all"])
"""What cannot be done is not sent at all."""


# Several locks, one of which is lost ------------------------------------------------------------------------------


async def _break(theirs: LockManager) -> None:
    assert await theirs.break_lock("b") is not None


async def _break_and_take(theirs: LockManager) -> None:
    await _break(theirs)
    await theirs.acquire_lock("b", holder="ben", wait_seconds=0)


async def _break_take_and_return(theirs: LockManager) -> None:
    await _break(theirs)
    await theirs.release_lock(await theirs.acquire_lock("b", wait_seconds=0))


Lose = Callable[[LockManager], Awaitable[None]]


@pytest.mark.parametrize("is_renewed", [False, True], ids=["as acquired", "renewed"])
@pytest.mark.parametrize(
    ("lose", "left"),
    [(_break, []), (_break_and_take, ["locks/b"]), (_break_take_and_return, [])],
    ids=["broken", "taken", "taken and returned"],
)
async def test_the_locks_that_are_left_are_released(
    store: StateStore, other: StateStore, time: Time, lose: Lose, left: list[str], *, is_renewed: bool
):
    """Where one of several locks was broken, the block ends with its loss, and the others are free at once."""
    locks, theirs = managed(store, time), managed(other, time)
    with pytest.raises(LockLost) as lost:  # noqa: PT012 - it comes out of the block
        async with locks.lock_all(["a", "b", "c"], ttl_seconds=TTL) as leases:
            if is_renewed:
                await locks.renew_lock(leases[0])
            await lose(theirs)
    assert lost.value.resource == "b"
    assert await paths(store.core.engine) == left
    async with theirs.lock_all(["a", "c"], wait_seconds=0):
        pass


async def test_the_locks_that_are_left_are_released_after_a_renewal(store: StateStore, other: StateStore, time: Time):
    """The same if a renewal finds the loss, which cancels the block."""
    locks, theirs = managed(store, time), managed(other, time)
    with pytest.raises(LockLost) as lost:  # noqa: PT012 - it comes out of the block
        async with locks.lock_all(["a", "b", "c"], ttl_seconds=TTL):
            await _break_and_take(theirs)
            time.advance(TTL / 2)
            await anyio.sleep_forever()
    assert (lost.value.resource, lost.value.holder) == ("b", "ben")
    assert await paths(store.core.engine) == ["locks/b"]


async def test_a_lock_that_was_taken_over_leaves_the_others_to_be_released(
    store: StateStore, other: StateStore, time: Time
):
    """The same if another caller took over one of them; its lock and its renewals stay."""
    locks, theirs = managed(store, Time(ManualClock())), managed(other, time)
    with pytest.raises(LockLost) as lost:  # noqa: PT012 - it comes out of the block
        async with locks.lock_all(["a", "b", "c"], ttl_seconds=TTL) as leases:
            await locks.renew_lock(leases[0])
            await expire(time, theirs)
            await theirs.renew_lock(await theirs.acquire_lock("b", holder="ben", wait_seconds=0))
    assert (lost.value.resource, lost.value.holder) == ("b", "ben")
    assert await paths(store.core.engine) == ["locks/b", "lockbeats/b"]


@pytest.mark.parametrize("fault", [Fault.LOST_BEFORE, Fault.LOST_AFTER, Fault.DUPLICATED], ids=lambda each: each.value)
async def test_the_locks_that_are_left_are_looked_after(store: StateStore, other: StateStore, time: Time, fault: Fault):
    """Whatever becomes of the answer to their deletion, the loss is told, and the others are released."""
    faulty = FaultyEngine(store.core.engine, AtCalls({("commit", 3): fault}))
    locks, theirs = managed(store, time, faulty), managed(other, time)
    with pytest.raises(LockLost) as lost:
        async with locks.lock_all(["a", "b", "c"], ttl_seconds=TTL):
            await _break(theirs)
    assert lost.value.resource == "b"
    assert faulty.statistics().all_hit
    assert await paths(store.core.engine) == []


async def test_locks_that_are_left_can_be_released_later(store: StateStore, other: StateStore, time: Time):
    """Where they could not be released, the same loss is told, and the next release tries again."""
    faulty = FaultyEngine(store.core.engine, AtCalls({("commit", n): Fault.UNAVAILABLE for n in range(3, 100)}))
    locks, theirs = managed(store, time, faulty), managed(other, time)
    losses: list[LockLost] = []
    with pytest.raises(LockLost) as at_the_end:  # noqa: PT012 - it comes out of the block
        async with locks.lock_all(["a", "b"], ttl_seconds=TTL) as leases:
            await _break(theirs)
            for plan, left in ((faulty.plan, ["locks/a"]), (DOWN, ["locks/a"]), (WELL, [])):
                faulty.plan = plan
                with pytest.raises(LockLost) as lost:
                    await locks.release_lock(leases[0])
                losses.append(lost.value)
                assert await paths(other.core.engine) == left
    assert losses[0].resource == "b"
    assert all(each is losses[0] for each in [*losses, at_the_end.value])


# Releasing again --------------------------------------------------------------------------------------------------


@FAILING
@pytest.mark.parametrize("lose", ["broken", "taken over"])
async def test_a_release_that_failed_hides_no_loss(
    store: StateStore, other: StateStore, time: Time, plan: Always, lose: str
):
    """Where nothing was sent, the next release finds what has become of the lock since."""
    faulty = FaultyEngine(store.core.engine, WELL)
    locks, theirs = managed(store, time, faulty), managed(other, time)
    lease = await locks.acquire_lock("b", ttl_seconds=TTL)
    faulty.plan = plan
    with pytest.raises(StoreUnavailable):
        await locks.release_lock(lease)
    faulty.plan = WELL
    if lose == "broken":
        await _break_take_and_return(theirs)
    else:
        await expire(time, theirs)
        await theirs.acquire_lock("b", ttl_seconds=TTL, wait_seconds=0)
    for _ in range(2):
        with pytest.raises(LockLost):
            await locks.release_lock(lease)
    assert not lease.is_held


@FAILING
async def test_a_release_that_failed_is_tried_again(store: StateStore, time: Time, plan: Always):
    """Where nothing was sent and the lock stands, the next release releases it, and one more does nothing."""
    faulty = FaultyEngine(store.core.engine, WELL)
    locks = managed(store, time, faulty)
    lease = await locks.acquire_lock("b", ttl_seconds=TTL)
    faulty.plan = plan
    with pytest.raises(StoreUnavailable):
        await locks.release_lock(lease)
    faulty.plan = WELL
    await locks.release_lock(lease)
    assert await paths(store.core.engine) == []
    faulty.plan = DOWN
    await locks.release_lock(lease)


@pytest.mark.parametrize("lose", [_break, _break_and_take, _break_take_and_return])
async def test_a_loss_is_told_again(store: StateStore, other: StateStore, time: Time, lose: Lose):
    """A second release after a loss raises the same loss, and asks nobody."""
    faulty = FaultyEngine(store.core.engine, WELL)
    locks, theirs = managed(store, time, faulty), managed(other, time)
    lease = await locks.acquire_lock("b", ttl_seconds=TTL)
    await lose(theirs)
    with pytest.raises(LockLost) as first:
        await locks.release_lock(lease)
    faulty.plan = DOWN
    with pytest.raises(LockLost) as second:
        await locks.release_lock(lease)
    assert second.value is first.value
    assert "lost" in repr(lease)


async def test_a_release_whose_outcome_is_unknown_is_tried_again(store: StateStore, other: StateStore, time: Time):
    """Where it was applied after all, the next release finds that out, although another caller has the lock now."""
    faulty = FaultyEngine(store.core.engine, WELL)
    locks, theirs = managed(store, time, faulty), managed(other, time)
    lease = await locks.acquire_lock("b", ttl_seconds=TTL)
    faulty.plan = Always(commit=Fault.LOST_AFTER, read=Fault.UNAVAILABLE)
    with pytest.raises(StoreTimeout):
        await locks.release_lock(lease)
    faulty.plan = WELL
    await theirs.acquire_lock("b", ttl_seconds=TTL, wait_seconds=0)
    await locks.release_lock(lease)
    assert [each.resource for each in await collected(theirs.list_locks())] == ["b"]


class Mute(AroundEngine):
    """Answers no commit once it is mute."""

    is_mute = False

    async def commit(self, writes: Sequence[Write]) -> Any:  # noqa: D102
        return await (anyio.sleep_forever() if self.is_mute else self._engine.commit(writes))


@pytest.mark.parametrize("is_mute", [False, True], ids=["down", "mute"])
async def test_a_block_says_that_its_lock_was_not_released(
    place: Place, caplog: pytest.LogCaptureFixture, *, is_mute: bool
):
    """A block whose release fails, or is not answered in time, ends as it would, and logs that the lock stands."""
    async with place.store(timeout_seconds=0.01) as store:
        faulty = FaultyEngine(store.core.engine, WELL)
        mute = Mute(faulty)  # type: ignore[arg-type]
        store.core.engine = mute  # type: ignore[assignment]
        async with store.lock("b", ttl_seconds=TTL):
            faulty.plan, mute.is_mute = DOWN, is_mute
        faulty.plan = WELL
        assert [each.resource for each in await collected(store.locks.list_locks())] == ["b"]
    assert [each.name for each in caplog.records if "could not release a lock" in each.message] == ["tai_state.locks"]


# Twice on the way -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("takes", [False, True], ids=["free", "taken"])
async def test_a_release_that_arrives_twice_is_no_loss(
    store: StateStore, other: StateStore, time: Time, *, takes: bool
):
    """Where one copy was applied and the next refused, nothing was lost, though only a shared clock may tell it."""
    theirs = managed(other, time)
    faulty = FaultyEngine(store.core.engine, AtCalls({("commit", 2): Fault.DUPLICATED}))
    taken = BeforeReads(faulty, lambda: theirs.acquire_lock("b", wait_seconds=0)) if takes else None
    locks = managed(store, time, taken or faulty)
    is_untold = takes and not other.core.engine.capabilities.shared_clock
    with pytest.raises(LockLost) if is_untold else nullcontext():
        async with locks.lock("b", ttl_seconds=TTL):
            time.advance(TTL / 2)
    assert faulty.statistics().all_hit
    assert await paths(store.core.engine) == (["locks/b"] if takes else [])


async def test_a_loss_is_told_though_the_note_of_the_break_is_gone(store: StateStore, other: StateStore, time: Time):
    """Where another caller took a broken lock at once and a cleanup came before the release, the loss is told."""
    locks, theirs = managed(store, time), managed(other, time)
    lease = await locks.acquire_lock("b", ttl_seconds=TTL)
    assert await theirs.break_lock("b") is not None
    await theirs.acquire_lock("b", ttl_seconds=TTL * 10, holder="ben", wait_seconds=0)
    await theirs.cleanup_expired_locks()
    time.advance(OVER)
    await theirs.cleanup_expired_locks()
    assert await collected(store.core.engine.scan(Scan("lockbreaks"))) == []
    with pytest.raises(LockLost) as lost:
        await locks.release_lock(lease)
    assert lost.value.holder == "ben"


async def test_a_holder_whose_clock_stood_still_learns_of_its_loss(store: StateStore, other: StateStore, time: Time):
    """Where another caller took the lock over and gave it back meanwhile, a clock that all share tells the holder."""
    locks, theirs = managed(store, Time(ManualClock())), managed(other, time)
    lease = await locks.acquire_lock("b", ttl_seconds=TTL)
    await expire(time, theirs)
    await theirs.release_lock(await theirs.acquire_lock("b", wait_seconds=0))
    assert lease.is_held, "by its own clock it is"
    has_shared_clock = store.core.engine.capabilities.shared_clock
    with pytest.raises(LockLost) if has_shared_clock else nullcontext():
        await locks.release_lock(lease)


@pytest.mark.parametrize("fault", [None, Fault.LOST_AFTER], ids=["answered", "looked up"])
@pytest.mark.parametrize("renewals", [0, 1])
async def test_a_release_that_arrives_twice_after_a_while(
    store: StateStore, time: Time, renewals: int, fault: Fault | None
):
    """The lease counts from when it was acquired or renewed, also if the answers to that were lost."""
    faulty = FaultyEngine(store.core.engine, Always() if fault is None else Always(commit=fault))
    locks = managed(store, time, faulty)
    lease = await locks.acquire_lock("b", ttl_seconds=TTL)
    for _ in range(renewals):
        time.advance(TTL * 0.8)
        await locks.renew_lock(lease)
    time.advance(TTL * 0.8)
    faulty.plan = NextCommit(Fault.DUPLICATED)
    await locks.release_lock(lease)
    assert await paths(store.core.engine) == []
