"""Writes that take a lease as fence: they happen only as long as its lock is held, whatever the holder believes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tai_state import (
    ANY,
    Guard,
    InvalidData,
    LockLost,
    NewEvent,
    StateMachinePersister,
    StateSnapshot,
    StateStore,
    StoreUnavailable,
    open_store,
)
from tai_state.engines.api import PRESENT
from tai_state.testing import AtCalls, Fault, FaultyEngine, ManualClock, MemoryEngine

from ..support.operations import REDUCERS
from ..support.stores import GOVERNOR, METADATA, CountingEngine, Place, collected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tai_state import Lease, Transaction

pytestmark = pytest.mark.anyio


async def _transition(store: StateStore, lease: Lease) -> Any:
    before = await store.get_state(GOVERNOR, "pump")
    after = before.with_data({"n": 2})
    return await StateMachinePersister(store).log_transition(GOVERNOR, before, after, "move", METADATA, fence=lease)


async def _record(store: StateStore, lease: Lease) -> Any:
    persister = StateMachinePersister(store, REDUCERS)
    return await persister.record(GOVERNOR, "pump", [NewEvent("add", 1)], METADATA, expected=ANY, fence=lease)


async def _transact(store: StateStore, lease: Lease) -> Any:
    async def function(tx: Transaction) -> None:
        tx.put(store.state(GOVERNOR, "pump"), {"n": 2})
        tx.put(store.state(GOVERNOR, "valve"), {"n": 2})

    return await store.transact(function, METADATA, fence=lease)


async def _block(store: StateStore, lease: Lease) -> None:
    async with store.transactions.transaction(METADATA, governor_id=GOVERNOR, fence=lease) as tx:
        tx.put("pump", {"n": 2}, expected=1)


WRITES: dict[str, Any] = {
    "save": lambda store, lease: store.save_state(GOVERNOR, "new", {"n": 2}, METADATA, fence=lease),
    "update": lambda store, lease: store.update_state(GOVERNOR, "pump", {"n": 2}, METADATA, expected=1, fence=lease),
    "update_any": lambda store, lease: store.save_state(
        GOVERNOR, "pump", {"n": 2}, METADATA, expected=ANY, fence=lease
    ),
    "delete": lambda store, lease: store.delete_state(GOVERNOR, "pump", METADATA, expected=1, fence=lease),
    "log_event": lambda store, lease: store.log_event(GOVERNOR, "pump", "looked", METADATA, fence=lease),
    "handle_save": lambda store, lease: store.state(GOVERNOR, "new").save({"n": 2}, METADATA, fence=lease),
    "handle_update": lambda store, lease: store.state(GOVERNOR, "pump").update(
        lambda data: data | {"n": 2}, METADATA, fence=lease
    ),
    "handle_delete": lambda store, lease: store.state(GOVERNOR, "pump").delete(METADATA, expected=1, fence=lease),
    "transition": _transition,
    "record": _record,
    "transact": _transact,
    "transaction": _block,
}


@pytest.fixture
async def store(place: Place) -> AsyncIterator[StateStore]:
    """An open store with one state."""
    async with place.store() as store:
        await store.save_state(GOVERNOR, "pump", {"n": 1}, METADATA)
        yield store


async def history(store: StateStore) -> list[Any]:
    """All events of the governor."""
    return await collected(store.get_all_events(GOVERNOR))


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
async def test_every_write_takes_a_fence(store: StateStore, write: Any):
    """With the lock held it is made; with the lock lost it is refused, and nothing is there that was not before."""
    stale = await store.locks.acquire_lock("pump", holder="slow")
    assert await store.locks.break_lock("pump") is not None
    async with store.lock("pump", holder="next") as lease:
        assert lease.fence > stale.fence
        before = await history(store)
        with pytest.raises(LockLost) as lost:
            await write(store, stale)
        assert (lost.value.resource, lost.value.holder) == ("pump", "next")
        assert await history(store) == before
        await write(store, lease)
        assert len(await history(store)) > len(before)
    with pytest.raises(LockLost) as lost:
        await store.save_state(GOVERNOR, "other", {}, METADATA, fence=lease)
    assert lost.value.holder is None


async def test_a_fence_costs_no_call(place: Place):
    """It is checked in the write's own commit."""
    engine = CountingEngine(place.engine())
    async with place.store(engine) as store:
        await store.save_state(GOVERNOR, "pump", {"n": 1}, METADATA)
        lease = await store.locks.acquire_lock("pump")
        engine.reset()
        await store.update_state(GOVERNOR, "pump", {"n": 2}, METADATA, expected=1, fence=lease)
        assert (engine.counts.reads, engine.counts.scans) == (0, 0)
        assert [len(each) for each in engine.counts.commits] == [3]


async def test_a_fence_of_another_store(store: StateStore):
    """Is refused before anything is sent: it would protect nothing."""
    async with open_store("memory://") as other:
        lease = await other.locks.acquire_lock("pump")
        with pytest.raises(InvalidData, match="belongs to another store"):
            await store.update_state(GOVERNOR, "pump", {"n": 2}, METADATA, expected=1, fence=lease)
        with pytest.raises(InvalidData, match="belongs to another store"):
            await store.transact(lambda tx: _put(tx, store), METADATA, fence=lease)
    assert len(await history(store)) == 1


class _OfOurs:
    """A fence of the application's own."""

    def __init__(self, store: StateStore, guard: Guard | None) -> None:
        self.store_id = store.store_id
        self._guard = guard

    def guard(self) -> Any:
        """The check."""
        return self._guard


async def test_what_is_no_fence(store: StateStore):
    """A store is none, nor is what has no guard."""
    for nonsense in (store, _OfOurs(store, None)):
        with pytest.raises(InvalidData, match="fence"):
            await store.update_state(GOVERNOR, "pump", {"n": 2}, METADATA, expected=1, fence=nonsense)  # type: ignore[arg-type]
    assert len(await history(store)) == 1


async def test_a_fence_over_what_the_change_itself_names(store: StateStore):
    """A guard of a state that the change writes, or that its transaction reads, is refused, and nothing is written."""
    fence = _OfOurs(store, Guard(store.state(GOVERNOR, "pump").stream.state, PRESENT, lambda _: LockLost("pump")))

    async def read_one(tx: Transaction) -> None:
        await tx.get(store.state(GOVERNOR, "pump"))
        tx.put(store.state(GOVERNOR, "new"), {})

    for change in (
        store.update_state(GOVERNOR, "pump", {"n": 2}, METADATA, expected=1, fence=fence),
        store.update_state(GOVERNOR, "pump", {"n": 2}, METADATA, expected=ANY, fence=fence),
        store.transact(read_one, METADATA, fence=fence),
    ):
        with pytest.raises(InvalidData, match="the change itself"):
            await change
    assert len(await history(store)) == 1
    await store.save_state(GOVERNOR, "new", {}, METADATA, fence=fence)


async def _put(tx: Transaction, store: StateStore) -> None:
    tx.put(store.state(GOVERNOR, "pump"), {"n": 2})


@pytest.mark.parametrize("fault", [Fault.LOST_AFTER, Fault.LOST_BEFORE, Fault.DUPLICATED, Fault.UNAVAILABLE])
async def test_a_fenced_write_whose_answer_is_lost(fault: Fault):
    """Is settled like any other: done once, or known not to be done."""
    clock = ManualClock(step_us=1)
    faulty = FaultyEngine(MemoryEngine(clock), AtCalls({}))
    async with open_store(faulty, clock=clock, timeout_seconds=5.0) as store:
        await store.save_state(GOVERNOR, "pump", {"n": 1}, METADATA)
        lease = await store.locks.acquire_lock("pump")
        faulty.plan = AtCalls({("any", faulty.statistics().calls + 1): fault})
        try:
            written = await store.update_state(GOVERNOR, "pump", {"n": 2}, METADATA, expected=1, fence=lease)
        except StoreUnavailable:
            assert fault is Fault.UNAVAILABLE
            written = await store.update_state(GOVERNOR, "pump", {"n": 2}, METADATA, expected=1, fence=lease)
        assert isinstance(written, StateSnapshot)
        assert written.version == 2
        assert len(await history(store)) == 2


async def test_breaking_a_lock(store: StateStore):
    """The holder's block ends with LockLost, others can have it, and breaking what nobody holds does nothing."""
    lease = await store.locks.acquire_lock("pump", holder="stuck")
    broken = await store.locks.break_lock("pump")
    assert broken is not None
    assert (broken.resource, broken.holder, broken.fence) == ("pump", "stuck", lease.fence)
    assert await store.locks.break_lock("pump") is None
    with pytest.raises(LockLost):
        await store.locks.renew_lock(lease)
    async with store.lock("pump", wait_seconds=0):
        pass
