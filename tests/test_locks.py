"""Locks: who has them, for how long, who is next, and what late holders can no longer do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import product
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tai_state import InvalidData, InvalidId, StateStore, StoreUnavailable, TaiStateError
from tai_state.engines.api import Change, Delete, Document, Engine, Put, Scan, Write
from tai_state.engines.paging import Paged
from tai_state.errors import DeadlockDetected, LockAcquisitionFailed, LockAlreadyHeld, LockLost
from tai_state.locks import queueing
from tai_state.locks.deadlocks import Waiter, circle_through, circles
from tai_state.locks.lease import Lease
from tai_state.locks.locking import LockManager
from tai_state.locks.queueing import WAITER_TTL_SECONDS
from tai_state.locks.records import LockInfo
from tai_state.locks.sighting import Sightings
from tai_state.store.layout import Layout
from tai_state.testing import AtCalls, Fault, FaultyEngine, ManualClock

from .support.stores import GOVERNOR, METADATA, AroundEngine, CountingEngine, Place, Places, collected, fields_at

pytestmark = pytest.mark.anyio

TTL = 10.0
OVER = TTL * 1.2
"""Longer than any lease lasts, with the margin of engines whose users share no clock."""


class Time:
    """Seconds that pass when a test says so, for lock managers and for the engine's clock; wakes those who sleep.

    Attributes:
        calls: of the engine that are under way.
    """

    def __init__(self, clock: ManualClock) -> None:
        self.calls = 0
        self._now = 1_000.0
        self._clock = clock
        self._sleepers: list[tuple[float, anyio.Event]] = []

    def monotonic(self) -> float:
        """The time."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Until so much time has passed."""
        if seconds <= 0:
            await anyio.lowlevel.checkpoint()
            return
        sleeper = (self._now + seconds, anyio.Event())
        self._sleepers.append(sleeper)
        try:
            await sleeper[1].wait()
        finally:
            self._sleepers.remove(sleeper)

    @property
    def sleepers(self) -> int:
        """How many sleep."""
        return len(self._sleepers)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds
        self._clock.advance_us(round(seconds * 1e6))
        for until, event in self._sleepers:
            if until <= self._now:
                event.set()

    async def settle(self) -> None:
        """Let others do all that needs no more time."""
        quiet = 0
        with anyio.fail_after(30):
            while quiet < 50:
                quiet = 0 if self.calls else quiet + 1
                await anyio.lowlevel.checkpoint()

    async def pass_until(self, condition: Callable[[], Any], seconds: float = 60.0) -> None:
        """Let time pass in small steps, and others do what is due, until something is so."""
        for _ in range(round(seconds / 0.5)):
            if condition():
                return
            self.advance(0.5)
            await self.settle()


class Busy(AroundEngine):
    """Tells the time how many calls are under way."""

    def __init__(self, engine: Engine, time: Time) -> None:
        super().__init__(engine)
        self._time = time

    async def read(self, paths: Sequence[str]) -> Any:  # noqa: D102
        return await self._during(self._engine.read(paths))

    async def commit(self, writes: Sequence[Write]) -> Any:  # noqa: D102
        return await self._during(self._engine.commit(writes))

    def scan(self, scan: Scan) -> Paged[Document]:  # noqa: D102
        documents = self._engine.scan(scan)
        return Paged(lambda: self._during(documents.page()))

    async def _during(self, call: Awaitable[Any]) -> Any:
        self._time.calls += 1
        try:
            return await call
        finally:
            self._time.calls -= 1


async def until(condition: Callable[[], Any]) -> None:
    """Let the others run until something is so."""
    with anyio.fail_after(30):
        while not condition():
            await anyio.lowlevel.checkpoint()


@pytest.fixture
def time(place: Place) -> Time:
    """The time at that place."""
    return Time(place.clock)


@pytest.fixture
async def store(place: Place) -> AsyncIterator[StateStore]:
    """An open store at that place."""
    async with place.store() as store:
        yield store


@pytest.fixture
async def other(place: Place, store: StateStore) -> AsyncIterator[StateStore]:
    """Another one at the same place, as of another process."""
    async with place.store() as other:
        yield other


def managed(store: StateStore, time: Time, engine: Any = None) -> LockManager:
    """A manager that goes by that time, and perhaps by another engine than the store's."""
    store.engine = Busy(engine or store.engine, time)  # type: ignore[assignment]
    return LockManager(store, monotonic=time.monotonic, sleep=time.sleep)


async def paths(engine: Engine, *resources: str) -> list[str]:
    """All documents of locks, of renewals and of those who wait for these resources."""
    names = ["locks", "lockbeats", *(f"locks/{each}/waiters" for each in resources)]
    return [document.path for name in names async for document in engine.scan(Scan(name))]


async def expire(time: Time, *managers: LockManager) -> None:
    """Let every lease end that is not renewed, before the eyes of these managers."""
    for manager in managers:
        await collected(manager.list_locks())
    time.advance(OVER)


# One lock -------------------------------------------------------------------------------------------------------


async def test_acquire_extend_release(store: StateStore, time: Time):
    """A lock is held from acquiring to releasing, its lease lasts its time from each renewal, and the list shows it."""
    locks = managed(store, time)
    lease = await locks.acquire_lock("pump 7", ttl=TTL, holder="anna")
    assert (lease.resource, lease.holder, lease.ttl, lease.remaining, lease.is_held) == (
        "pump 7",
        "anna",
        TTL,
        TTL,
        True,
    )
    time.advance(8)
    assert lease.remaining == pytest.approx(2)
    await locks.extend_lock(lease)
    assert lease.remaining == pytest.approx(TTL)
    time.advance(8)
    [info] = await collected(locks.list_locks())
    assert (info.resource, info.holder, info.fence, info.ttl) == ("pump 7", "anna", lease.fence, TTL)
    assert info.last_sign_at > info.acquired_at
    assert 0 < info.remaining <= OVER
    assert not info.is_expired
    await locks.release_lock(lease)
    assert not lease.is_held
    assert await collected(locks.list_locks()) == []
    await locks.release_lock(lease)
    with pytest.raises(LockLost):
        await locks.extend_lock(lease)


async def test_the_documents(store: StateStore, time: Time):
    """What stands in the documents is what the format says, with resources escaped so that none leaves its place."""
    locks = managed(store, time)
    lease = await locks.acquire_lock("a/b ..~", ttl=TTL, holder="anna")
    record = await fields_at(store.engine, "locks/a%2Fb ..%7E")
    assert record == {
        "holder": "anna",
        "nonce": record["nonce"],
        "ttl": TTL,
        "acquired_at": "2023-11-14T22:13:20.000000Z",
    }
    await locks.extend_lock(lease)
    await locks.extend_lock(lease)
    assert await fields_at(store.engine, "lockbeats/a%2Fb ..%7E") == {"nonce": record["nonce"], "n": 2}
    assert [info.resource for info in await collected(locks.list_locks())] == ["a/b ..~"]


async def test_held(store: StateStore, other: StateStore, time: Time):
    """Who does not wait is told at once who has the lock and for how long; who waits is told when the wait ends."""
    locks, theirs = managed(store, time), managed(other, time)
    lease = await locks.acquire_lock("r", ttl=TTL, holder="anna")
    time.advance(4)
    with pytest.raises(LockAlreadyHeld) as held:
        await theirs.acquire_lock("r", wait=0)
    assert (held.value.resource, held.value.holder, held.value.is_transient) == ("r", "anna", True)
    assert held.value.remaining == pytest.approx(6 if store.engine.capabilities.shared_clock else 11)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_expect, LockAcquisitionFailed, lambda: theirs.acquire_lock("r", wait=2, holder="ben"))
        await until(lambda: time.sleepers)
        [path] = [each for each in await paths(store.engine, "r") if "waiters" in each]
        record = await fields_at(store.engine, path)
        assert record | {"ticket": 0} == {
            "holder": "ben",
            "holds": [],
            "wants": ["r"],
            "ttl": 30.0,
            "ticket": 0,
            "n": 0,
        }
        time.advance(2)
    assert await paths(store.engine, "r") == ["locks/r"]
    assert lease.is_held


async def _expect(error: type[TaiStateError], call: Callable[[], Awaitable[Any]]) -> None:
    with pytest.raises(error):
        await call()


@pytest.mark.parametrize(
    "options",
    [{"ttl": 0}, {"ttl": -1}, {"ttl": float("nan")}, {"ttl": float("inf")}, {"wait": -1}, {"wait": float("nan")}],
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
        engine, theirs = CountingEngine(store.engine), CountingEngine(other.engine)
        locks, rivals = managed(store, time, engine), managed(other, time, theirs)
        lease = await locks.acquire_lock("r", ttl=TTL)
        await locks.extend_lock(lease)
        await locks.release_lock(lease)
        assert ([_written(each) for each in engine.counts.commits], engine.counts.calls) == ([1, 1, 1], 3)
        await locks.acquire_lock("r", ttl=TTL)
        with suppress(LockAlreadyHeld):
            await rivals.acquire_lock("r", wait=0)
        assert (len(theirs.counts.commits), theirs.counts.reads, theirs.counts.calls) == (1, 1, 2)
        time.advance(OVER)
        theirs.reset()
        await rivals.acquire_lock("r", wait=0)
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
            lease = await locks.acquire_lock("r", ttl=TTL)
            await locks.release_lock(lease)
            again = await locks.acquire_lock("r", ttl=TTL)
            await locks.extend_lock(again)
            await expire(time, theirs)
            taken = await theirs.acquire_lock("r", ttl=TTL, wait=0)
            await expire(time, locks)
            assert await locks.cleanup_expired_locks() == 1
            last = await locks.acquire_lock("r", ttl=TTL, wait=0)
            fences += [lease.fence, again.fence, taken.fence, last.fence]
            await expire(time, locks)
            own = await locks.acquire_lock("r", ttl=TTL, wait=0)
            fences.append(own.fence)
            await locks.release_lock(own)
    assert fences == sorted(set(fences))


# Fencing --------------------------------------------------------------------------------------------------------


async def test_a_living_holder_may_write_whatever_it_renews(store: StateStore, time: Time):
    """Renewals do not move the fence: writes fenced by the lease go through before, between and after them."""
    locks = managed(store, time)
    lease = await locks.acquire_lock("r", ttl=TTL)
    await store.save_state(GOVERNOR, "s", {"n": 0}, METADATA, fence=lease)
    for n in range(1, 4):
        await locks.extend_lock(lease)
        await store.update_state(GOVERNOR, "s", {"n": n}, METADATA, expected=n, fence=lease)
    assert (await store.get_state(GOVERNOR, "s")).version == 4


@pytest.mark.parametrize("end", ["taken over", "released", "removed"])
async def test_a_late_holder_cannot_write(store: StateStore, other: StateStore, time: Time, end: str):
    """A write fenced by a lease that is over is refused, says who has the lock now, and changes nothing."""
    locks, theirs = managed(store, time), managed(other, time)
    lease = await locks.acquire_lock("r", ttl=TTL)
    if end == "released":
        await locks.release_lock(lease)
    else:
        await expire(time, theirs)
        await (
            theirs.acquire_lock("r", holder="ben", wait=0) if end == "taken over" else theirs.cleanup_expired_locks()
        )
    with pytest.raises(LockLost) as lost:
        await store.save_state(GOVERNOR, "s", {"n": 0}, METADATA, fence=lease)
    assert (lost.value.resource, lost.value.holder) == ("r", "ben" if end == "taken over" else None)
    assert not await store.exists(GOVERNOR, "s")


async def test_a_late_holder_harms_no_successor(store: StateStore, other: StateStore, time: Time):
    """Who was stopped and does not know of it can neither renew nor release what is another's by now."""
    stopped = Time(ManualClock())
    locks, theirs = managed(store, stopped), managed(other, time)
    late, later = await locks.acquire_lock("r", ttl=TTL), await locks.acquire_lock("s", ttl=TTL)
    await expire(time, theirs)
    leases = [await theirs.acquire_lock(each, ttl=TTL, wait=0, holder="ben") for each in ("r", "s")]
    before = {path: await fields_at(store.engine, path) for path in await paths(store.engine)}
    assert late.is_held, "by its own clock it is"
    with pytest.raises(LockLost) as lost:
        await locks.extend_lock(late)
    assert lost.value.holder == "ben"
    assert not late.is_held
    with pytest.raises(LockLost) as lost:
        await locks.release_lock(later)
    assert lost.value.holder == "ben"
    assert {path: await fields_at(store.engine, path) for path in await paths(store.engine)} == before
    for lease in leases:
        await theirs.extend_lock(lease)


async def test_an_expired_lease_is_not_revived(store: StateStore, time: Time):
    """Who comes too late to renew has lost the lease, though nobody took the lock; acquiring again is a new tenure."""
    locks = managed(store, time)
    lease = await locks.acquire_lock("r", ttl=TTL)
    await expire(time, locks)
    assert not lease.is_held
    with pytest.raises(LockLost):
        await locks.extend_lock(lease)
    again = await locks.acquire_lock("r", ttl=TTL, wait=0)
    assert again.fence > lease.fence
    with pytest.raises(LockLost):
        await locks.release_lock(lease)
    assert again.is_held
    await locks.extend_lock(again)


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
    lease = await locks.acquire_lock("r", ttl=TTL)
    if was_renewed_before:
        await locks.extend_lock(lease)
    takes = Between(other.engine, lambda writes: len(writes) == 2, lambda: locks.extend_lock(lease))
    theirs = managed(other, time, takes)
    for attempt in (lambda: theirs.acquire_lock("r", wait=0), theirs.cleanup_expired_locks):
        await expire(time, theirs)
        with suppress(LockAlreadyHeld):
            assert await attempt() == 0
        await store.save_state(GOVERNOR, attempt.__name__, {}, METADATA, fence=lease)
    assert lease.is_held


async def test_a_predecessors_renewal_does_not_count(store: StateStore, other: StateStore, time: Time):
    """A renewal keeps only the tenure alive that it belongs to: what an earlier holder left says nothing of a later."""
    locks, theirs = managed(store, time), managed(other, time)
    lease = await locks.acquire_lock("r", ttl=TTL)
    await locks.release_lock(lease)
    await locks.acquire_lock("r", ttl=TTL)
    await collected(theirs.list_locks())
    time.advance(TTL)
    beat = await fields_at(store.engine, "lockbeats/r") if "lockbeats/r" in await paths(store.engine) else {}
    await store.engine.commit([Put("lockbeats/r", {"nonce": "of another", "n": 1, **beat})])
    time.advance(OVER - TTL)
    await theirs.acquire_lock("r", ttl=TTL, wait=0)


# Answers that are lost ------------------------------------------------------------------------------------------

_FAULTS = (Fault.UNAVAILABLE, Fault.REFUSED, Fault.LOST_BEFORE, Fault.LOST_AFTER, Fault.DELAYED, Fault.DUPLICATED)


@pytest.mark.parametrize("fault", _FAULTS, ids=lambda each: each.value)
@pytest.mark.parametrize("calls", [(1,), (2,), (3,), (4,), (5,), (6,), (1, 2), (2, 3), (3, 4), (1, 2, 3, 4)], ids=str)
async def test_never_two_believers(
    store: StateStore, other: StateStore, time: Time, fault: Fault, calls: Sequence[int]
):
    """Whatever call goes wrong, never do two believe to have the lock, and who believes it has it."""
    faulty = FaultyEngine(store.engine, AtCalls({("any", call): fault for call in calls}))
    locks, theirs = managed(store, time, faulty), managed(other, time)
    leases: list[Lease] = []

    async def judge() -> None:
        [document] = (await other.engine.read(["locks/r"])).documents
        believers = [lease for lease in leases if lease.is_held]
        assert len(believers) <= 1
        assert all(document is not None and document.revision == lease.fence for lease in believers)

    for _ in range(3):
        for manager in (locks, theirs):
            with suppress(TaiStateError):
                leases.append(await manager.acquire_lock("r", ttl=TTL, wait=0))
            await judge()
        for act in (locks.extend_lock, locks.release_lock):
            for lease in leases:
                if lease.is_held:
                    with suppress(TaiStateError):
                        await act(lease)
                    await judge()
    await faulty.settle()
    await judge()
    await expire(time, theirs)
    leases.append(await theirs.acquire_lock("r", ttl=TTL, wait=0))
    await judge()


async def test_a_lost_answer_to_acquiring_is_looked_up(store: StateStore, other: StateStore, time: Time):
    """Where the answer is lost and the lock is ours, we hold it, at the revision that stands; that takes one read."""
    faulty = CountingEngine(FaultyEngine(store.engine, AtCalls({("commit", 1): Fault.LOST_AFTER})))  # type: ignore[arg-type]
    locks, theirs = managed(store, time, faulty), managed(other, time)
    lease = await locks.acquire_lock("r", ttl=TTL, wait=0)
    assert (len(faulty.counts.commits), faulty.counts.reads) == (1, 1)
    await store.save_state(GOVERNOR, "s", {}, METADATA, fence=lease)
    with pytest.raises(LockAlreadyHeld):
        await theirs.acquire_lock("r", wait=0)
    await locks.release_lock(lease)
    await theirs.acquire_lock("r", wait=0)


async def test_a_try_that_arrives_late(store: StateStore, other: StateStore, time: Time):
    """Who waits and finds that an earlier try of its own got through has the lock, counted from when it had not."""
    locks, theirs = managed(store, time), managed(other, time)
    await locks.acquire_lock("r", ttl=TTL)
    got: list[Lease] = []

    async def wait() -> None:
        got.append(await theirs.acquire_lock("r", ttl=TTL, holder="ben"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await until(lambda: time.sleepers == 1)
        [path] = [each for each in await paths(store.engine, "r") if "waiters" in each]
        time.advance(3)
        tried = {"holder": "ben", "nonce": path.rpartition("/")[2], "ttl": TTL, "acquired_at": ""}
        committed = await store.engine.commit([Put("locks/r", tried)])
        await until(lambda: got)
    assert (got[0].fence, got[0].remaining) == (committed.revision, pytest.approx(TTL - 3))
    assert await paths(store.engine, "r") == ["locks/r"]


async def test_a_lost_answer_to_releasing(store: StateStore, other: StateStore, time: Time):
    """Where the answer is lost and somebody has the lock before it is asked again, it was released all the same."""
    releases: list[Sequence[Write]] = []

    def is_again(writes: Sequence[Write]) -> bool:
        releases.extend([writes] if isinstance(writes[0], Delete) else [])
        return len(releases) == 2

    theirs = managed(other, time)
    faulty: Any = FaultyEngine(store.engine, AtCalls({("commit", 2): Fault.LOST_AFTER}))
    locks = managed(store, time, Between(faulty, is_again, lambda: theirs.acquire_lock("r", ttl=TTL, wait=0)))
    lease = await locks.acquire_lock("r", ttl=TTL)
    await locks.release_lock(lease)
    assert len(releases) == 2
    assert await paths(store.engine) == ["locks/r"]


async def test_a_renewal_without_an_answer_is_none(store: StateStore, time: Time):
    """The holder counts from the last renewal that was answered, also where a later one was applied."""
    faulty = FaultyEngine(store.engine, AtCalls({("commit", 2): Fault.LOST_AFTER}))
    locks = managed(store, time, faulty)
    lease = await locks.acquire_lock("r", ttl=TTL)
    time.advance(4)
    with pytest.raises(TaiStateError):
        await locks.extend_lock(lease)
    assert lease.remaining == pytest.approx(6)
    assert faulty.statistics().all_hit


class Slow(AroundEngine):
    """Answers commits late."""

    def __init__(self, engine: Engine, time: Time, seconds: float) -> None:
        super().__init__(engine)
        self._time = time
        self._seconds = seconds

    async def commit(self, writes: Sequence[Write]) -> Any:  # noqa: D102
        committed = await self._engine.commit(writes)
        self._time.advance(self._seconds)
        return committed


async def test_the_lease_counts_from_the_sending(store: StateStore, time: Time):
    """What the answer took on its way is not added to the lease."""
    locks = managed(store, time, Slow(store.engine, time, 3))
    lease = await locks.acquire_lock("r", ttl=TTL)
    assert lease.remaining == pytest.approx(TTL - 3)
    await locks.extend_lock(lease)
    assert lease.remaining == pytest.approx(TTL - 3)


async def test_a_lock_is_not_given_that_is_over(store: StateStore, time: Time):
    """An answer that takes longer than the lease is none, and the lock is given back."""
    locks = managed(store, time, Slow(store.engine, time, TTL))
    with pytest.raises(LockAcquisitionFailed):
        await locks.acquire_lock("r", ttl=TTL)
    assert await paths(store.engine) == []


async def test_an_engine_that_is_gone(store: StateStore, time: Time):
    """An engine that cannot be reached is said to be that; where something was sent, the lock was not acquired."""
    for fault, error in ((Fault.UNAVAILABLE, StoreUnavailable), (Fault.LOST_AFTER, LockAcquisitionFailed)):
        faults = {("commit", 1): fault} | {("read", n): Fault.UNAVAILABLE for n in range(1, 100)}
        inner = store.engine
        locks = managed(store, time, FaultyEngine(inner, AtCalls(faults)))  # type: ignore[arg-type]
        with pytest.raises(error):
            await locks.acquire_lock("r", ttl=TTL)
        store.engine = inner
        await expire(time, managed(store, time))


# Blocks ---------------------------------------------------------------------------------------------------------


async def test_a_block_renews_its_lease(store: StateStore, other: StateStore, time: Time):
    """A block may last much longer than the lease: nobody gets the lock before its end, and then at once."""
    locks, theirs = managed(store, time), managed(other, time)
    async with locks.lock("r", ttl=TTL) as lease:
        await until(lambda: time.sleepers == 2)
        for _ in range(8):
            await time.pass_until(lambda: False, seconds=TTL / 3)
            assert lease.remaining > TTL / 2
            with pytest.raises(LockAlreadyHeld):
                await theirs.acquire_lock("r", wait=0)
    assert not lease.is_held
    await theirs.acquire_lock("r", wait=0)


async def test_losing_the_lease_ends_the_block(store: StateStore, time: Time):
    """When no renewal is answered for the whole lease, the block is cancelled and LockLost comes out of it."""
    faulty = FaultyEngine(store.engine, AtCalls({("commit", n): Fault.UNAVAILABLE for n in range(2, 200)}))
    locks = managed(store, time, faulty)
    steps: list[str] = []
    with pytest.raises(LockLost) as lost:  # noqa: PT012 - it comes out of the block
        async with locks.lock("r", ttl=TTL) as lease:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_pass, time, TTL, lease)
                try:
                    await anyio.sleep_forever()
                finally:
                    steps.append("cancelled")
            steps.append("went on")
    assert (lost.value.resource, steps) == ("r", ["cancelled"])


async def _pass(time: Time, seconds: float, lease: Lease) -> None:
    """Let the time pass in small steps, and the tasks that wait for it take theirs."""
    for _ in range(40):
        await until(lambda: time.sleepers >= 2 or not lease.is_held)
        time.advance(seconds / 40)


async def test_a_lock_that_was_taken_ends_the_block(store: StateStore, other: StateStore, time: Time):
    """When a renewal finds another in possession, the block ends at once, though its own clock had time left."""
    slow = Time(ManualClock())
    locks, theirs = managed(store, slow), managed(other, time)
    with pytest.raises(LockLost) as lost:  # noqa: PT012 - it comes out of the block
        async with locks.lock("r", ttl=TTL):
            await until(lambda: slow.sleepers == 2)
            await expire(time, theirs)
            await theirs.acquire_lock("r", wait=0, holder="ben")
            slow.advance(TTL / 3)
            with anyio.fail_after(30):
                await anyio.sleep_forever()
    assert lost.value.holder == "ben"
    assert (await fields_at(store.engine, "locks/r"))["holder"] == "ben"


async def test_a_block_that_ends_too_late(store: StateStore, time: Time):
    """A block that never lets others run is told at its end that the lease was over before."""
    locks = managed(store, time)
    with pytest.raises(LockLost):
        async with locks.lock("r", ttl=TTL):
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
        async with locks.lock("r", ttl=TTL):
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
    inner = store.engine
    locks = managed(store, time, FaultyEngine(inner, AtCalls(faults)))  # type: ignore[arg-type]
    async with locks.lock("r", ttl=TTL) as lease:
        pass
    assert not lease.is_held
    store.engine = inner
    locks = managed(store, time)
    await expire(time, locks)
    await locks.acquire_lock("r", wait=0)


async def test_a_lease_released_inside_its_block(store: StateStore, other: StateStore, time: Time):
    """A block whose lease is given back early goes on without it, and ends without an error."""
    locks, theirs = managed(store, time), managed(other, time)
    async with locks.lock("r", ttl=TTL) as lease:
        await locks.release_lock(lease)
        await theirs.acquire_lock("r", wait=0)
        time.advance(OVER)
        await until(lambda: not time.sleepers)


# Several at once ------------------------------------------------------------------------------------------------


async def test_all_or_none(store: StateStore, other: StateStore, time: Time):
    """Several locks come together by one commit, with one number, or none of them does."""
    engine = CountingEngine(store.engine)
    locks, theirs = managed(store, time, engine), managed(other, time)
    async with locks.lock_all(["b", "a", "b"], ttl=TTL) as leases:
        assert [lease.resource for lease in leases] == ["b", "a", "b"]
        assert len({lease.fence for lease in leases}) == 1
        await locks.extend_lock(leases[0])
        with pytest.raises(LockAlreadyHeld) as held:
            async with theirs.lock_all(["c", "a"], wait=0):
                pass
        assert held.value.resource == "a"
        assert await paths(store.engine) == ["locks/a", "locks/b", "lockbeats/a", "lockbeats/b"]
    assert engine.counts.reads == 0
    assert len(engine.counts.commits) == 3
    async with theirs.lock_all(["c", "a"], wait=0):
        pass


async def test_each_of_several_fences_by_itself(store: StateStore, other: StateStore, time: Time):
    """Where one of several locks was taken over, its lease refuses writes, though another of them stands."""
    locks, theirs = managed(store, Time(ManualClock())), managed(other, time)
    with pytest.raises(LockLost):  # noqa: PT012 - it comes out of the block
        async with locks.lock_all(["a", "b"], ttl=TTL) as (a, b):
            await expire(time, theirs)
            await theirs.acquire_lock("b", wait=0)
            await store.save_state(GOVERNOR, "s", {}, METADATA, fence=a)
            with pytest.raises(LockLost):
                await store.save_state(GOVERNOR, "t", {}, METADATA, fence=b)


async def test_philosophers(store: StateStore, other: StateStore):
    """Five who each need two of five locks, named in any order, all eat, never two with the same fork."""
    managers = [LockManager(store), LockManager(other)]
    in_hands: set[str] = set()
    eaten: list[int] = []

    async def philosopher(n: int) -> None:
        forks = [str(n), str((n + 1) % 5)]
        for _ in range(3):
            async with managers[n % 2].lock_all(forks[:: 1 if n % 2 else -1], ttl=60):
                assert in_hands.isdisjoint(forks)
                in_hands.update(forks)
                await anyio.lowlevel.checkpoint()
                in_hands.difference_update(forks)
            eaten.append(n)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for n in range(5):
                tasks.start_soon(philosopher, n)
    assert sorted(eaten) == sorted([*range(5)] * 3)
    assert await paths(store.engine, *"01234") == []


# Waiting --------------------------------------------------------------------------------------------------------


async def test_who_waits_is_woken_by_the_release(store: StateStore, other: StateStore, time: Time):
    """The next one gets the lock without any time passing and by one commit, and leaves its place with it."""
    engine = CountingEngine(other.engine)
    locks, theirs = managed(store, time), managed(other, time, engine)
    lease = await locks.acquire_lock("r", ttl=TTL)
    got: list[Lease] = []

    async def wait() -> None:
        got.append(await theirs.acquire_lock("r", ttl=TTL))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await until(lambda: time.sleepers)
        await time.settle()
        engine.reset()
        await locks.release_lock(lease)
        await until(lambda: got)
    assert got[0].fence > lease.fence
    assert (len(engine.counts.commits), engine.counts.reads) == (1, 0)
    assert await paths(store.engine, "r") == ["locks/r"]


class Forgetful(AroundEngine):
    """Its watch passes over a document that was made and removed again between two of its looks: it tells nothing."""

    @asynccontextmanager
    async def watch(self, *targets: str) -> AsyncIterator[AsyncIterator[Change]]:  # noqa: D102
        async def told() -> AsyncIterator[Change]:
            for target in targets:
                yield Change(target, None)
            await anyio.sleep_forever()

        yield told()


async def test_a_hint_that_never_comes(store: StateStore, other: StateStore, time: Time):
    """Who has seen a lock that the watch never told of does not rely on being told of its release."""
    locks, theirs = managed(store, time), managed(other, time, Forgetful(other.engine))
    lease = await locks.acquire_lock("r", ttl=1_000)
    got: list[Lease] = []

    async def wait() -> None:
        got.append(await theirs.acquire_lock("r", ttl=TTL))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await time.pass_until(lambda: False, seconds=3)
        assert not got
        await locks.release_lock(lease)
        await time.pass_until(lambda: got, seconds=3)
        assert got
        tasks.cancel_scope.cancel()


async def test_a_dead_holder_is_succeeded(store: StateStore, other: StateStore, time: Time):
    """Who waits gets the lock of one who shows no life when its time has passed, and not before."""
    locks, theirs = managed(store, time), managed(other, time)
    lease = await locks.acquire_lock("r", ttl=TTL)
    time.advance(TTL / 2)
    await locks.extend_lock(lease)
    got: list[Lease] = []

    async def wait() -> None:
        got.append(await theirs.acquire_lock("r", ttl=TTL))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await until(lambda: time.sleepers)
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
    async with anyio.create_task_group() as tasks, locks.lock("r", ttl=TTL) as lease:
        tasks.start_soon(_expect, LockAcquisitionFailed, lambda: theirs.acquire_lock("r", wait=5 * TTL))
        await until(lambda: time.sleepers == 3)
        await time.pass_until(lambda: time.sleepers < 3, seconds=6 * TTL)
        assert lease.is_held
        assert time.monotonic() >= 1_000 + 5 * TTL
    assert await paths(store.engine, "r") == ["lockbeats/r"]


async def test_first_come_first_served(
    store: StateStore, other: StateStore, time: Time, monkeypatch: pytest.MonkeyPatch
):
    """Those who wait get the lock in the order in which they came, whichever process they are of."""
    managers = [managed(store, time), managed(other, time)]
    order: list[int] = []
    line: list[queueing.Place] = []

    class Listed(queueing.Place):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            line.append(self)

    def know_their_places(fence: int) -> bool:
        """Whether each who waits has seen who holds the lock now, and counted those ahead, and will be told of more."""
        known = [(each._ahead, each._noted, each._is_confirmed) for each in line[len(order) :]]
        return known == [(n, {"r": fence}, True) for n in range(4 - len(order))]

    async def wait(n: int) -> None:
        async with managers[n % 2].lock("r", ttl=TTL) as lease:
            order.append(n)
            await until(lambda: know_their_places(lease.fence))

    monkeypatch.setattr("tai_state.locks.locking.Place", Listed)
    async with anyio.create_task_group() as tasks, managers[0].lock("r", ttl=TTL) as lease:
        for n in range(4):
            tasks.start_soon(wait, n)
            await until(lambda n=n: len(line) == n + 1 and line[n]._noted and time.sleepers == n + 3)
        await until(lambda: know_their_places(lease.fence))
    assert order == [0, 1, 2, 3]
    assert await paths(store.engine, "r") == []


async def test_a_place_of_the_dead_holds_nobody_up(store: StateStore, other: StateStore, time: Time):
    """Who died in line is passed over once it gave no sign for too long, and taken out of it."""
    locks, theirs = managed(store, time), managed(other, time)
    dead = {"holder": "x", "holds": [], "wants": ["r"], "ttl": WAITER_TTL_SECONDS, "ticket": 0, "n": 0}
    await store.engine.commit([Put("locks/r/waiters/dead", dead)])
    lease = await locks.acquire_lock("r", ttl=1_000)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(theirs.acquire_lock, "r")
            await until(lambda: time.sleepers)
            await time.settle()
            scope.cancel()
    time.advance(WAITER_TTL_SECONDS * 1.2)
    await locks.extend_lock(lease)
    got: list[Lease] = []

    async def wait() -> None:
        got.append(await theirs.acquire_lock("r", ttl=TTL))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await until(lambda: time.sleepers)
        await time.settle()
        assert "locks/r/waiters/dead" not in await paths(store.engine, "r")
        await locks.release_lock(lease)
        await until(lambda: got)


async def test_who_waits_shows_life_and_keeps_its_place(store: StateStore, other: StateStore, time: Time):
    """Somebody who waits long says so again and again, under the ticket that it came with."""
    locks, theirs = managed(store, time), managed(other, time)
    async with anyio.create_task_group() as tasks, locks.lock("r", ttl=1_000):
        tasks.start_soon(theirs.acquire_lock, "r")
        await until(lambda: time.sleepers == 3)
        [path] = [each for each in await paths(store.engine, "r") if "waiters" in each]
        [came] = (await store.engine.read([path])).documents
        assert came is not None
        for n in range(1, 4):
            await time.pass_until(lambda: False, seconds=WAITER_TTL_SECONDS / 3 + 1)
            record = await fields_at(store.engine, path)
            assert (record["n"] >= n, record["ticket"]) == (True, came.revision)
        tasks.cancel_scope.cancel()
    assert [each for each in await paths(store.engine, "r") if each.startswith("locks/")] == []


@pytest.mark.parametrize("moment", range(0, 60, 4))
async def test_cancelled_while_waiting(store: StateStore, other: StateStore, time: Time, moment: int):
    """Whenever somebody who acquires or waits is cancelled, nothing of it is left behind."""
    locks, theirs = managed(store, time), managed(other, time)
    lease = await locks.acquire_lock("r", ttl=TTL) if moment % 8 else None

    async def block() -> None:
        async with theirs.lock("r", ttl=TTL):
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(block)
        for _ in range(moment):
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert await paths(store.engine, "r") == (["locks/r"] if lease else [])
    assert time.sleepers == 0


class Late(AroundEngine):
    """A commit takes a while; one that is cancelled on its way is applied all the same, after the next read."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._late: Sequence[Write] = ()

    async def commit(self, writes: Sequence[Write]) -> Any:  # noqa: D102
        try:
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
        except anyio.get_cancelled_exc_class():
            self._late = writes
            raise
        return await self._engine.commit(writes)

    async def read(self, paths: Sequence[str]) -> Any:  # noqa: D102
        reading = await self._engine.read(paths)
        if self._late:
            await self._engine.commit(self._late)
            self._late = ()
        return reading


async def test_cancelled_commits_that_arrive_late(memory_places: Places, anyio_backend: str):
    """Nothing is left either where a cancelled commit would arrive when all was given back, were it let go."""
    place = memory_places.new()
    time = Time(place.clock)
    async with place.store() as store:
        locks = managed(store, time, Late(store.engine))

        async def block() -> None:
            async with locks.lock("r"):
                await anyio.sleep_forever()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(block)
            await until(lambda: time.calls)
            tasks.cancel_scope.cancel()
        if anyio_backend == "asyncio":
            import asyncio

            task = asyncio.create_task(block())
            await until(lambda: time.calls)
            task.cancel()
            await asyncio.wait([task])
        await store.engine.read([])
        assert await paths(store.engine, "r") == []


@pytest.mark.parametrize("fault", [Fault.CANCELLED_BEFORE, Fault.CANCELLED_AFTER])
@pytest.mark.parametrize("call", range(1, 9))
async def test_cancelled_at_each_call(store: StateStore, other: StateStore, time: Time, fault: Fault, call: int):
    """The same where the cancellation falls on a call of the engine."""
    faulty = FaultyEngine(other.engine, AtCalls({("any", call): fault}))
    locks, theirs = managed(store, time), managed(other, time, faulty)
    lease = await locks.acquire_lock("r", ttl=TTL)
    async with anyio.create_task_group() as tasks:

        async def wait() -> None:
            with faulty.cancellable():
                async with theirs.lock("r", ttl=TTL):
                    pass

        tasks.start_soon(wait)
        await until(lambda: time.sleepers == 1 or faulty.statistics().all_hit)
        await locks.release_lock(lease)
    assert await paths(store.engine, "r") == []


async def test_cancelled_natively(store: StateStore, other: StateStore, time: Time, anyio_backend: str):
    """The same for ``task.cancel()`` under asyncio, at any moment."""
    if anyio_backend != "asyncio":
        return
    import asyncio

    locks, theirs = managed(store, time), managed(other, time)
    for moment in range(0, 40, 3):
        lease = await locks.acquire_lock("r", ttl=TTL, wait=0) if moment % 2 else None
        task = asyncio.create_task(theirs.acquire_lock("r", ttl=TTL))
        for _ in range(moment):
            await anyio.lowlevel.checkpoint()
        task.cancel()
        [result] = await asyncio.gather(task, return_exceptions=True)
        if isinstance(result, Lease):
            await theirs.release_lock(result)
        assert await paths(store.engine, "r") == (["locks/r"] if lease else [])
        if lease:
            await locks.release_lock(lease)


async def test_answers_that_are_lost_while_waiting(place: Place, time: Time):
    """Whatever call goes wrong in line, who gets the lock has it, and nobody's place is left."""
    for fault, call in product((each for each in _FAULTS if each is not Fault.REFUSED), range(1, 8)):
        async with place.store() as store, place.store() as other:
            faulty = FaultyEngine(other.engine, AtCalls({("any", call): fault}))
            locks, theirs = managed(store, time), managed(other, time, faulty)
            lease = await locks.acquire_lock("r", ttl=TTL)
            results: list[Lease | TaiStateError] = []

            async def wait(theirs: LockManager = theirs, results: list[Lease | TaiStateError] = results) -> None:
                try:
                    results.append(await theirs.acquire_lock("r", ttl=TTL))
                except TaiStateError as error:
                    results.append(error)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await until(lambda results=results: time.sleepers == 1 or results)
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
            left = await paths(store.engine, "r")
            assert left == [] or fault is Fault.DELAYED, (fault, call, left)


# Deadlocks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", ["ab", "abc"])
async def test_a_deadlock_is_found_and_broken(store: StateStore, other: StateStore, time: Time, names: str):
    """Of two or three who wait for each other, the last to wait gives up, and the others get their locks."""
    managers = [managed(store, time), managed(other, time)]
    turn = -1
    held: list[str] = []
    done: list[str] = []
    failed: list[DeadlockDetected] = []

    async def step(n: int) -> None:
        try:
            async with managers[n % 2].lock(names[n], ttl=60):
                held.append(names[n])
                await until(lambda: turn == n)
                async with managers[n % 2].lock(names[(n + 1) % len(names)], ttl=60):
                    done.append(names[n])
        except DeadlockDetected as error:
            failed.append(error)

    async with anyio.create_task_group() as tasks:
        for n in range(len(names)):
            tasks.start_soon(step, n)
        await until(lambda: len(held) == len(names))
        for turn in range(len(names)):
            await until(lambda turn=turn: time.sleepers == 2 * len(names) + turn + 1)
        found = await managers[0].detect_deadlocks()
        assert found == ([tuple(names)] if store.engine.capabilities.shared_clock else [])
        await time.pass_until(lambda: len(done) == len(names) - 1)
    [error] = failed
    assert (error.cycle, error.is_transient) == (tuple(names), True)
    assert sorted(done) == sorted(names[:-1]), "the last to wait gave up"
    assert not [each for each in await paths(store.engine, *names) if each.startswith("locks/")]
    assert await managers[0].detect_deadlocks() == []


async def test_who_waits_for_itself(store: StateStore, time: Time):
    """A block that locks again what it holds is a deadlock by itself; so is a task that names the block it is of."""
    locks = managed(store, time)
    caught: list[DeadlockDetected] = []

    async def again(*holding: Lease) -> None:
        try:
            await locks.acquire_lock("r", holding=holding)
        except DeadlockDetected as error:
            caught.append(error)

    for is_in_task in (False, True):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(time.pass_until, lambda: caught)
            async with locks.lock("r", ttl=60) as lease:
                if is_in_task:
                    async with anyio.create_task_group() as inner:
                        inner.start_soon(again, lease)
                else:
                    await again()
        assert caught.pop().cycle == ("r",)


async def test_waiting_in_a_row_is_no_deadlock(store: StateStore, other: StateStore, time: Time):
    """Those who wait one behind the other, without a circle, are left alone however often they search."""
    managers = [managed(store, time), managed(other, time)]
    names = "abcd"
    held: list[int] = []
    done: list[int] = []

    async def step(n: int) -> None:
        async with managers[n % 2].lock(names[n], ttl=60):
            held.append(n)
            async with managers[n % 2].lock(names[n + 1], ttl=60):
                done.append(n)

    last = await managers[0].acquire_lock("d", ttl=60)
    async with anyio.create_task_group() as tasks:
        for n in (2, 1, 0):
            tasks.start_soon(step, n)
            await until(lambda n=n: len(held) == 3 - n)
        await time.pass_until(lambda: False, seconds=30)
        assert await managers[1].detect_deadlocks() == []
        await managers[0].extend_lock(last)
        await managers[0].release_lock(last)
        await time.pass_until(lambda: len(done) == 3)
    assert done == [2, 1, 0]


@pytest.mark.parametrize("dead", ["nothing", "waiter", "lease", "claim", "lock"])
async def test_the_dead_are_in_no_circle(store: StateStore, time: Time, dead: str):
    """A circle counts only if each waiter shows life, each lease does, and each lock is still of the tenure named."""
    locks = managed(store, time)
    left = {"waiter": "locks/b/waiters/x", "lease": "lockbeats/a", "claim": "", "nothing": "", "lock": "locks/a"}[dead]
    n = 0

    async def live() -> None:
        nonlocal n
        n += 1
        documents: dict[str, dict[str, Any]] = {}
        for owner, has, wants in (("x", "a", "b"), ("y", "b", "a")):
            nonce = "of before" if dead == "claim" and has == "a" else has
            documents[f"lockbeats/{has}"] = {"nonce": has, "n": n}
            documents[f"locks/{wants}/waiters/{owner}"] = {
                "holder": owner,
                "holds": [{"resource": has, "nonce": nonce}],
                "wants": [wants],
                "ttl": TTL,
                "ticket": 0,
                "n": n,
            }
            if n == 1:
                documents[f"locks/{has}"] = {"holder": owner, "nonce": has, "ttl": TTL, "acquired_at": ""}
        await store.engine.commit([Put(path, each) for path, each in documents.items() if n == 1 or path != left])

    await live()
    found = await locks.detect_deadlocks()
    assert found == ([("a", "b")] if store.engine.capabilities.shared_clock and dead != "claim" else [])
    if dead == "lock":
        await store.engine.commit([Delete("locks/a")])
    time.advance(TTL * 0.6)
    await live()
    await locks.detect_deadlocks()
    time.advance(TTL * 0.6)
    await live()
    assert await locks.detect_deadlocks() == ([("a", "b")] if dead == "nothing" else [])


Graph = Mapping[str, tuple[frozenset[str], frozenset[str]]]


@given(
    st.dictionaries(
        st.sampled_from("wxyz"),
        st.tuples(st.frozensets(st.sampled_from("abc"), max_size=2), st.frozensets(st.sampled_from("abc"), max_size=2)),
    )
)
def test_a_circle_is_found_where_there_is_one(graph: Graph):
    """A circle is found exactly where a waiter can be reached from itself, and each of its steps is a real wait."""
    waiters = {
        owner: Waiter(owner, ticket, tuple(sorted(holds)), tuple(sorted(wants)))
        for ticket, (owner, (holds, wants)) in enumerate(sorted(graph.items()))
    }
    ahead = {a: {b for b in graph if graph[a][1] & graph[b][0]} for a in graph}
    for _ in graph:
        ahead = {a: found.union(*(ahead[b] for b in found)) for a, found in ahead.items()}
    for owner in graph:
        circle = circle_through(owner, waiters)
        assert (circle is not None) == (owner in ahead[owner])
        if circle is not None:
            assert circle.waiters[0].owner == owner
            assert len({each.owner for each in circle.waiters}) == len(circle.waiters)
            for n, (waiter, resource) in enumerate(zip(circle.waiters, circle.resources, strict=True)):
                assert resource in waiter.wants
                assert resource in circle.waiters[(n + 1) % len(circle.waiters)].holds
    found = circles(waiters)
    assert bool(found) == any(owner in ahead[owner] for owner in graph)
    members = [each.owner for circle in found for each in circle.waiters]
    assert len(members) == len(set(members))


# Cleaning up ----------------------------------------------------------------------------------------------------


async def test_cleanup_removes_what_is_dead(store: StateStore, other: StateStore, time: Time):
    """Expired locks go, with their renewals; those that live by their renewal alone stay, and what lies about goes."""
    locks, theirs = managed(store, time), managed(other, time)
    leases = {name: await locks.acquire_lock(name, ttl=TTL) for name in ("dead", "renewed", "living", "given back")}
    for name in ("renewed", "living", "given back"):
        await locks.extend_lock(leases[name])
    await locks.release_lock(leases["given back"])
    await collected(theirs.list_locks())
    time.advance(TTL / 2)
    await locks.extend_lock(leases["living"])
    await collected(theirs.list_locks())
    time.advance(TTL * 0.7)
    infos = {info.resource: info for info in await collected(theirs.list_locks())}
    assert {name: info.is_expired for name, info in infos.items()} == {"dead": True, "living": False, "renewed": True}
    assert await theirs.cleanup_expired_locks() == 2
    assert await paths(store.engine) == ["locks/living", "lockbeats/living"]
    assert await theirs.cleanup_expired_locks() == 0
    assert isinstance(infos["living"], LockInfo)


async def test_many_locks(store: StateStore, time: Time):
    """Listing and cleaning up go through pages."""
    locks = managed(store, time)
    async with locks.lock_all([f"{n:03}" for n in range(230)], ttl=TTL):
        infos = await collected(locks.list_locks())
        assert [info.resource for info in infos] == [f"{n:03}" for n in range(230)]
    await locks.acquire_lock("x", ttl=TTL)
    await expire(time, locks)
    assert await locks.cleanup_expired_locks() == 1


def test_sightings_are_bounded(memory_places: Places, monkeypatch: pytest.MonkeyPatch):
    """What is remembered of documents seen standing still has a bound."""
    monkeypatch.setattr("tai_state.locks.sighting.SIGHTINGS_MAX", 3)
    sightings = Sightings(memory_places.new().engine(), Layout(), lambda: 0.0)
    for n in range(9):
        sightings._sighted(Document("locks", str(n), "{}", 1, 0), 0.0, 0.0)
    assert len(sightings._sightings) == 3
