"""What each operation costs on Firestore: calls by method and documents written, counted on the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from tai_state import (
    ANY,
    EveryEvents,
    Lease,
    LockAlreadyHeld,
    NewEvent,
    StateMachinePersister,
    StateStore,
    Transaction,
    VersionConflict,
)
from tai_state.engines.firestore.engine import EMULATOR, FirestoreEngine
from tai_state.testing import ManualClock

from ...support.fault_proxy import FaultProxy
from ...support.operations import REDUCERS
from ...support.stores import GOVERNOR, METADATA, collected, make_store
from ...support.wire_faults import Fault, at_calls

if TYPE_CHECKING:
    import grpc

    from tai_state.testing.emulator import Emulator

pytest.importorskip("grpc")
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The driver knows no other event loop."""
    return "asyncio"


class Meter(FaultProxy):
    """A proxy that also looks into commits.

    Attributes:
        written: of each commit that was sent, how many documents it writes; checks alone write none.
    """

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.written: list[int] = []

    def one_answer(self, method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        """Pass on a unary call."""
        from google.cloud.firestore_v1.types import CommitRequest

        if method == "Commit":
            writes = CommitRequest.pb(CommitRequest.deserialize(request)).writes
            self.written.append(sum(not _is_check(write) for write in writes))
        return super().one_answer(method, request, context)

    def reset_counts(self) -> None:
        """Count from here."""
        super().reset_counts()
        self.written.clear()


def _is_check(write: Any) -> bool:
    """An update of no field, or the removal of what must not be there."""
    if write.HasField("update_mask"):
        return not write.update_mask.field_paths
    return bool(write.delete) and write.current_document.HasField("exists") and not write.current_document.exists


@pytest.fixture
def meter(firestore_emulator: Emulator) -> Iterator[Meter]:
    """A proxy before the emulator, which counts."""
    with Meter(firestore_emulator.host) as meter:
        yield meter


@pytest.fixture
def connect(meter: Meter, firestore_project: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[], StateStore]:
    """Gives a store behind the meter, not yet open, on the same documents at each call."""
    monkeypatch.setenv(EMULATOR, meter.host)
    clock = ManualClock(step_us=1)
    return lambda: make_store(FirestoreEngine(firestore_project), clock, snapshots=EveryEvents(10, keep=1))


@pytest.fixture
async def store(connect: Callable[[], StateStore]) -> AsyncIterator[StateStore]:
    """An open store behind the meter."""
    async with connect() as store:
        yield store


Cost: TypeAlias = tuple[dict[str, int], list[int]]
"""Calls by method, and the documents that each commit writes."""

READ = {"BatchGetDocuments": 1}
QUERY = {"RunQuery": 1}
TWO_READS = {"BatchGetDocuments": 2}
TWO_QUERIES = {"RunQuery": 2}
COMMIT = {"Commit": 1}


async def _cost(meter: Meter, call: Awaitable[Any]) -> Cost:
    meter.reset_counts()
    await call
    return dict(meter.statistics().calls), list(meter.written)


async def _grow(store: StateStore, state_id: str, events: int) -> None:
    for version in range(events):
        await store.save_state(GOVERNOR, state_id, {"n": version}, METADATA, expected=version)


async def test_budget_of_opening(connect: Callable[[], StateStore], meter: Meter):
    """The first time ever, a store looks for its own document, and for any others, and writes it; later it reads it."""

    async def opened() -> None:
        async with connect():
            """Nothing more."""

    looking = {"BatchGetDocuments": 2, "RunQuery": 3, "ListDocuments": 1}
    assert await _cost(meter, opened()) == (looking | COMMIT, [1])
    assert await _cost(meter, opened()) == (READ, [])


async def test_budget_of_reads(store: StateStore, meter: Meter):
    """One state or many are one call, and nothing is written."""
    await _grow(store, "alice", 3)
    assert await _cost(meter, store.get_state(GOVERNOR, "alice")) == (READ, [])
    assert await _cost(meter, store.exists(GOVERNOR, "alice")) == (READ, [])
    assert await _cost(meter, store.exists(GOVERNOR, "nobody")) == (READ, [])
    many = ["alice", *(f"nobody-{n}" for n in range(99))]
    assert await _cost(meter, store.batch_get_states(GOVERNOR, many)) == (READ, [])


async def test_budget_of_changes(store: StateStore, meter: Meter):
    """Save, update, delete and a transition on a head written before are one call with the event and the state."""
    persister = StateMachinePersister(store)
    await store.save_state(GOVERNOR, "first", {}, METADATA)
    assert await _cost(meter, store.save_state(GOVERNOR, "alice", {}, METADATA)) == (COMMIT, [2])
    assert await _cost(meter, store.update_state(GOVERNOR, "alice", {}, METADATA, expected=1)) == (COMMIT, [2])
    before = await store.get_state(GOVERNOR, "alice")
    transition = persister.log_transition(GOVERNOR, before, before.with_data({"n": 1}), "move", METADATA)
    assert await _cost(meter, transition) == (COMMIT, [2])
    assert await _cost(meter, store.delete_state(GOVERNOR, "alice", METADATA, expected=3)) == (COMMIT, [2])
    assert await _cost(meter, store.save_state(GOVERNOR, "alice", {}, METADATA)) == (COMMIT, [2])


async def test_budget_of_changes_that_need_the_state(store: StateStore, meter: Meter):
    """Where what is written depends on what stands, or on no version, one call reads it first."""
    persister = StateMachinePersister(store, REDUCERS)
    await _grow(store, "alice", 1)
    any_version = store.save_state(GOVERNOR, "alice", {"n": 1}, METADATA, expected=ANY)
    event = store.log_event(GOVERNOR, "alice", "ping", METADATA, expected=2)
    folded = persister.record(GOVERNOR, "alice", [NewEvent("add", 1)], METADATA, expected=3)
    for change in (any_version, event, folded):
        assert await _cost(meter, change) == (READ | COMMIT, [2])


async def test_budget_of_a_change_on_a_head_that_was_read(
    store: StateStore, connect: Callable[[], StateStore], meter: Meter
):
    """What another process wrote and this store has read needs no second read before the change."""
    await _grow(store, "alice", 3)
    async with connect() as other:
        before = await other.get_state(GOVERNOR, "alice")
        change = other.update_state(GOVERNOR, "alice", {}, METADATA, expected=before)
        assert await _cost(meter, change) == (COMMIT, [2])


async def test_budget_of_the_first_state(store: StateStore, meter: Meter):
    """The first state of a governor looks whether the governor's document is there, and brings it along."""
    assert await _cost(meter, store.save_state(GOVERNOR, "alice", {}, METADATA)) == (READ | COMMIT, [3])
    assert await _cost(meter, store.save_state(GOVERNOR, "bob", {}, METADATA)) == (COMMIT, [2])


async def test_budget_of_kept_snapshots(store: StateStore, meter: Meter):
    """A snapshot that falls due goes with its event, and an old one leaves with it: one call of four documents."""
    await _grow(store, "alice", 9)
    for version in range(9, 20):
        written = {9: 3, 19: 4}.get(version, 2)
        change = store.update_state(GOVERNOR, "alice", {}, METADATA, expected=version)
        assert await _cost(meter, change) == (COMMIT, [written]), version
    assert await store.list_snapshots(GOVERNOR, "alice") == [20]


async def test_budget_of_a_callers_event_id(store: StateStore, meter: Meter):
    """An event id that the caller gives is one document more in the same call."""
    await _grow(store, "alice", 1)
    change = store.update_state(GOVERNOR, "alice", {}, METADATA, expected=1, event_id="mine")
    assert await _cost(meter, change) == (COMMIT, [3])


async def test_budget_of_transactions(store: StateStore, meter: Meter):
    """A read for all states that are read at once, and a commit; the commit alone for what one wrote before."""
    await _grow(store, "alice", 1)
    await _grow(store, "bob", 1)

    async def transfer(tx: Transaction) -> None:
        giver, _ = await tx.get_all("alice", "bob")
        assert giver is not None
        tx.put("alice", {"n": giver.data["n"] - 1})
        tx.put("bob", {"n": 1})

    async def count(tx: Transaction) -> None:
        tx.put("alice", {"n": (await tx.get("alice")).data["n"] + 1})

    async def look(tx: Transaction) -> None:
        await tx.get("alice")

    execute = store.transactions.execute_transaction
    assert await _cost(meter, execute(GOVERNOR, transfer, METADATA)) == (READ | COMMIT, [4])
    assert await _cost(meter, execute(GOVERNOR, count, METADATA)) == (COMMIT, [2])
    assert await _cost(meter, execute(GOVERNOR, count, METADATA)) == (COMMIT, [2])
    assert await _cost(meter, execute(GOVERNOR, look, METADATA)) == (READ, [])


async def test_budget_of_locks(store: StateStore, connect: Callable[[], StateStore], meter: Meter):
    """A call each to acquire, renew and release; a read more to find a lock held; a fence costs nothing."""
    await _grow(store, "alice", 1)
    lease: Lease | None = None

    async def acquire() -> None:
        nonlocal lease
        lease = await store.locks.acquire_lock("r")

    assert await _cost(meter, acquire()) == (COMMIT, [1])
    assert lease is not None
    async with connect() as other:
        with pytest.raises(LockAlreadyHeld):
            await _cost(meter, other.locks.acquire_lock("r", wait_seconds=0))
        assert (dict(meter.statistics().calls), meter.written) == (READ | COMMIT, [1])
    assert await _cost(meter, store.locks.renew_lock(lease)) == (COMMIT, [1])
    change = store.update_state(GOVERNOR, "alice", {}, METADATA, expected=1, fence=lease)
    assert await _cost(meter, change) == (COMMIT, [2])
    assert await _cost(meter, store.locks.release_lock(lease)) == (COMMIT, [2])


async def test_budget_of_history(store: StateStore, meter: Meter):
    """A stream's events are one call, streamed."""
    await _grow(store, "alice", 30)
    assert await _cost(meter, collected(store.get_events(GOVERNOR, "alice"))) == (QUERY, [])
    assert await _cost(meter, collected(store.get_events(GOVERNOR, "alice", after=20))) == (QUERY, [])


async def test_budget_of_a_long_history(store: StateStore, meter: Meter):
    """A long stream is one call, too."""
    persister = StateMachinePersister(store, REDUCERS)
    events = [NewEvent("add", 1) for _ in range(900)]
    await persister.record(GOVERNOR, "alice", events, METADATA, expected=0)
    assert await _cost(meter, collected(store.get_events(GOVERNOR, "alice"))) == (QUERY, [])


async def test_budget_of_replay_and_time_travel(store: StateStore, meter: Meter):
    """A replay is two calls; a past state one where its event carries it, else two or three; a time takes one more."""
    persister = StateMachinePersister(store, REDUCERS)
    await _grow(store, "alice", 13)
    for _ in range(13):
        await persister.record(GOVERNOR, "bob", [NewEvent("add", 1)], METADATA, expected=ANY)
    assert await _cost(meter, persister.get_state_at(GOVERNOR, "alice", 12)) == (READ, [])
    assert await _cost(meter, persister.get_state_at(GOVERNOR, "bob", 12)) == (READ | QUERY, [])
    assert await _cost(meter, persister.get_state_at(GOVERNOR, "bob", 9)) == (READ | TWO_QUERIES, [])
    for state_id, queries in (("alice", {}), ("bob", QUERY)):
        state = await store.get_state(GOVERNOR, state_id)
        assert await _cost(meter, collected(persister.replay(GOVERNOR, state_id))) == (READ | QUERY, [])
        at_present = persister.get_state_at(GOVERNOR, state_id, state.timestamp)
        assert await _cost(meter, at_present) == (TWO_READS | queries, [])


async def test_budget_of_a_conflict(store: StateStore, connect: Callable[[], StateStore], meter: Meter):
    """A refusal costs one call more, which shows the event that the writer had not seen."""
    await _grow(store, "alice", 3)
    async with connect() as other:
        await other.get_state(GOVERNOR, "alice")
        await store.update_state(GOVERNOR, "alice", {}, METADATA, expected=3)
        meter.reset_counts()
        with pytest.raises(VersionConflict) as conflict:
            await other.update_state(GOVERNOR, "alice", {}, METADATA, expected=3)
        assert meter.statistics().calls == COMMIT | READ
        assert [event.version for event in conflict.value.events] == [4]


@pytest.mark.parametrize(
    ("fault", "commits"),
    [(Fault.LOST, 1), (Fault.DUPLICATED, 1), (Fault.UNAVAILABLE, 2), (Fault.EXHAUSTED, 2)],
    ids=lambda each: each.value if isinstance(each, Fault) else "",
)
@pytest.mark.parametrize("event_id", [None, "mine"], ids=["no_id", "own_id"])
async def test_budget_of_an_unknown_outcome(
    store: StateStore, meter: Meter, event_id: str | None, fault: Fault, commits: int
):
    """One call looks; only where the commit is not there it is sent again."""
    await _grow(store, "alice", 1)
    meter.plan = at_calls({("Commit", 1): fault})
    change = store.update_state(GOVERNOR, "alice", {"n": 9}, METADATA, expected=1, event_id=event_id)
    each = 2 if event_id is None else 3
    assert await _cost(meter, change) == (READ | {"Commit": commits}, [each] * commits)
    assert [event.version async for event in store.get_events(GOVERNOR, "alice")] == [1, 2]
