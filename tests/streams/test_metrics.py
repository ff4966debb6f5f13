"""The ready-made observer: its counts are those of what was done."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from itertools import count

import anyio
import pytest

from tai_state import (
    Attempted,
    ChangeMetadata,
    CommitOutcomeUnknown,
    Metrics,
    Observer,
    RecoveryTime,
    Settled,
    StateMachinePersister,
    StateNotFound,
    StateStore,
    StoreUnavailable,
    Transaction,
    VersionConflict,
    open_store,
)
from tai_state.testing import AtCalls, Fault, FaultyEngine

from ..support.observing import Recorder
from ..support.stores import GOVERNOR, METADATA, Place, edit

pytestmark = pytest.mark.anyio

ALICE = "governors/bank/states/alice"


async def test_updates_and_the_conflict_rate(place: Place):
    """Changes that are made count as updates, those that were too late as conflicts, and nothing else counts."""
    metrics = Metrics()
    assert metrics.conflict_rate == 0
    async with place.store(observer=metrics) as store, place.store() as other:
        await store.save_state(GOVERNOR, "alice", {}, METADATA, event_id="once")
        await store.save_state(GOVERNOR, "alice", {}, METADATA, event_id="once")
        await store.log_event(GOVERNOR, "alice", "seen", METADATA)
        await other.update_state(GOVERNOR, "alice", {}, METADATA, expected=2)
        with pytest.raises(VersionConflict):
            await store.update_state(GOVERNOR, "alice", {}, METADATA, expected=2)
        async with store.lock("r"):
            await store.get_state(GOVERNOR, "alice")
        await store.create_snapshot(GOVERNOR, "alice")
        await StateMachinePersister(store).cleanup_old_data(keep=timedelta(0))
    assert (metrics.updates, dict(metrics.errors), metrics.conflict_rate) == (3, {"VersionConflict": 1}, 0.25)
    assert metrics.recovered_states == 0


async def test_retries_are_counted_by_their_number(place: Place):
    """Of each change it counts how many commits it needed beyond the first, whether it was made or not."""
    metrics = Metrics()
    engine = FaultyEngine(place.engine(), AtCalls({}))
    async with place.store(engine, observer=metrics) as store:
        await store.save_state(GOVERNOR, "alice", {"n": 0}, METADATA)
        assert dict(metrics.retries) == {0: 1}
        for planned in ([Fault.REFUSED], [Fault.LOST_BEFORE, Fault.LOST_BEFORE], [Fault.UNAVAILABLE]):
            state = await store.get_state(GOVERNOR, "alice")
            calls = engine.statistics().calls
            # a lost answer is looked up, and a refusal too: one read stands between two commits
            engine.plan = AtCalls({("any", calls + 1 + 2 * each): fault for each, fault in enumerate(planned)})
            with suppress(StoreUnavailable):
                await store.update_state(GOVERNOR, "alice", {"n": 1}, METADATA, expected=state)
    assert dict(metrics.retries) == {0: 2, 1: 1, 2: 1}
    assert (metrics.updates, dict(metrics.errors), metrics.conflict_rate) == (3, {"StoreUnavailable": 1}, 0)


async def test_an_unknown_outcome_is_counted_by_its_name(place: Place):
    """A change of which nobody knows whether it was made is no update."""
    metrics = Metrics()
    engine = FaultyEngine(place.engine(), AtCalls({}))
    async with place.store(engine, observer=metrics, timeout_seconds=0.01) as store:
        await store.save_state(GOVERNOR, "alice", {}, METADATA)
        calls = engine.statistics().calls
        engine.plan = AtCalls({("any", calls + 1 + each): Fault.LOST_BEFORE for each in range(1_000)})
        with pytest.raises(CommitOutcomeUnknown):
            await store.update_state(GOVERNOR, "alice", {}, METADATA, expected=1)
    assert (metrics.updates, dict(metrics.errors)) == (1, {"CommitOutcomeUnknown": 1})


async def test_a_transaction_that_runs_again_counts_each_commit(place: Place):
    """A transaction is one change of all its states; each commit that met a conflict is one more, and a conflict."""
    metrics = Metrics()
    async with place.store(observer=metrics) as store, place.store() as other:
        for name in ("alice", "bob"):
            await store.save_state(GOVERNOR, name, {"n": 0}, METADATA)
        runs = count(1)

        async def move(transaction: Transaction) -> None:
            for name in ("alice", "bob"):
                transaction.put(name, {"n": (await transaction.get(name)).data["n"] + 1})
            if next(runs) == 1:
                await other.update_state(GOVERNOR, "bob", {"n": 7}, METADATA, expected=1)

        await store.transactions.execute_transaction(GOVERNOR, move, METADATA)
        [record] = store.transactions.get_transaction_log()
    assert record.attempts == 2
    assert (metrics.updates, dict(metrics.errors)) == (3, {"VersionConflict": 1})
    assert metrics.conflict_rate == 0.25


async def test_a_conflict_at_a_read_of_a_transaction_is_counted(place: Place):
    """A transaction that sees at its next read that a state has changed met a conflict; it may run again or not."""
    metrics = Metrics()
    async with place.store(observer=metrics) as store, place.store() as other:
        for name in ("alice", "bob"):
            await store.save_state(GOVERNOR, name, {"n": 0}, METADATA)
        runs = count(1)

        async def move(transaction: Transaction) -> None:
            await transaction.get("alice")
            if next(runs) == 1:
                await other.log_event(GOVERNOR, "alice", "seen", METADATA)
            transaction.put("bob", {"n": (await transaction.get("bob")).data["n"] + 1})

        await store.transactions.execute_transaction(GOVERNOR, move, METADATA)
        assert (metrics.updates, dict(metrics.errors), metrics.conflict_rate) == (3, {"VersionConflict": 1}, 0.25)
        assert dict(metrics.retries) == {0: 4}

        async def block() -> None:
            async with store.transactions.transaction(METADATA, governor_id=GOVERNOR) as transaction:
                await transaction.get("alice")
                await other.log_event(GOVERNOR, "alice", "seen", METADATA)
                await transaction.get("bob")

        with pytest.raises(VersionConflict):
            await block()
    assert (metrics.updates, dict(metrics.errors)) == (3, {"VersionConflict": 2})


async def test_a_conflict_with_what_came_from_memory_is_counted(place: Place):
    """A transaction that took its state from memory, and finds at its end that it was out of date, met a conflict."""
    metrics = Metrics()
    async with place.store(observer=metrics) as store, place.store() as other:

        async def look(transaction: Transaction) -> int:
            found = await transaction.find("alice")
            if found is None:
                transaction.put("alice", {"n": 0})
            return 0 if found is None else found.version

        assert await store.transactions.execute_transaction(GOVERNOR, look, METADATA) == 0
        await other.log_event(GOVERNOR, "alice", "seen", METADATA)
        assert await store.transactions.execute_transaction(GOVERNOR, look, METADATA) == 2
    assert (metrics.updates, dict(metrics.errors)) == (1, {"VersionConflict": 1})


async def test_a_conflict_with_what_a_transaction_expects_is_counted(place: Place):
    """A write whose own expected does not hold of what was read counts as a conflict, met once."""
    metrics = Metrics()
    async with place.store(observer=metrics) as store:
        await store.save_state(GOVERNOR, "alice", {"n": 0}, METADATA)

        async def block() -> None:
            async with store.transactions.transaction(METADATA, governor_id=GOVERNOR) as transaction:
                await transaction.get("alice")
                transaction.put("alice", {"n": 1}, expected=7)

        with pytest.raises(VersionConflict):
            await block()
    assert (metrics.updates, dict(metrics.errors)) == (1, {"VersionConflict": 1})


async def test_tasks_that_take_turns_are_no_conflicts(place: Place):
    """Many tasks of one store that change one state by a function all count as updates."""
    metrics = Metrics()
    async with place.store(observer=metrics) as store:
        counter = store.state(GOVERNOR, "alice", metadata=METADATA)
        await counter.save({"n": 0})
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(counter.update, lambda now: {"n": now["n"] + 1})
        assert (await counter.get()).data == {"n": 10}
    assert (metrics.updates, metrics.conflict_rate, dict(metrics.retries)) == (11, 0, {0: 11})


def _tick(store: StateStore) -> None:
    """Measure a store's recoveries by a clock that moves by a second with each look."""
    seconds = count()
    store.core.bounds = replace(store.core.bounds, monotonic=lambda: float(next(seconds)))


async def test_recoveries_are_counted_and_measured(place: Place):
    """Recovered states are counted, with the time that passed; a recovery that fails is not told."""
    metrics = Metrics()
    async with place.store(observer=metrics) as store:
        for name in ("alice", "bob", "carol"):
            await store.save_state(GOVERNOR, name, {}, METADATA)
        _tick(store)
        persister = StateMachinePersister(store)
        assert (await persister.recover()).consistent
        assert (metrics.recovered_states, metrics.recovery_seconds) == (3, 1)
        _tick(store)
        await persister.load_state(GOVERNOR, "alice")
        assert (metrics.recovered_states, metrics.recovery_seconds) == (4, 2)
        with pytest.raises(StateNotFound):
            await persister.load_state(GOVERNOR, "nobody")
        assert (metrics.recovered_states, metrics.recovery_seconds) == (4, 2)
        await edit(store.core.engine, ALICE, data={"edited": 1})
        _tick(store)
        assert (await store.recover(GOVERNOR)).rebuilt == (ALICE,)
    assert metrics.recovered_states == 7
    assert metrics.recovery_seconds > 2
    assert metrics.updates == 3


async def test_each_change_is_told_with_its_kind(place: Place):
    """What is told of a change says whether it was one of states, of locks, or of the store's own upkeep."""
    seen = Recorder()
    async with place.store(observer=seen) as store:
        assert {each.kind for each in seen.outcomes} == {"upkeep"}
        seen.forget()
        await store.save_state(GOVERNOR, "alice", {}, METADATA)
        await store.log_event(GOVERNOR, "alice", "seen", METADATA)
        await store.delete_state(GOVERNOR, "alice", METADATA, expected=2)
        assert [each.kind for each in seen.outcomes] == ["states"] * 3
        seen.forget()
        lease = await store.locks.acquire_lock("r")
        await store.locks.renew_lock(lease)
        await store.locks.release_lock(lease)
        await store.locks.acquire_lock("r")
        await store.locks.break_lock("r")
        assert len(seen.outcomes) >= 5
        assert {each.kind for each in seen.outcomes} == {"locks"}
        seen.forget()
        await store.create_snapshot(GOVERNOR, "alice")
        await edit(store.core.engine, ALICE, data={"edited": 1})
        await store.recover()
        assert {each.kind for each in seen.outcomes} == {"upkeep"}


class Broken(Observer):
    """An observer that cannot stand recoveries."""

    def recovered(self, recovery: RecoveryTime) -> None:
        """Fail."""
        raise ZeroDivisionError(recovery.states)


async def test_an_observer_that_fails_harms_no_recovery(place: Place, caplog: pytest.LogCaptureFixture):
    """What an observer raises about a recovery is logged, and the report is as without it."""
    async with place.store(observer=Broken()) as store:
        await store.save_state(GOVERNOR, "alice", {}, METADATA)
        assert (await store.recover()).checked == 1
        assert (await StateMachinePersister(store).load_state(GOVERNOR, "alice")).snapshot.version == 1
    assert [record.message for record in caplog.records].count("an observer failed") == 2


class Tracing(Metrics):
    """Counts, and does more."""

    def __init__(self) -> None:
        super().__init__()
        self.commits = 0

    def attempt(self, attempted: Attempted) -> None:
        """Count commits, too."""
        self.commits += attempted.outcome == "applied"

    def settled(self, settled: Settled) -> None:
        """Count as always."""
        super().settled(settled)


async def test_metrics_can_be_extended():
    """A subclass adds what it wants to know, and the counts stay."""
    tracing = Tracing()
    async with open_store("memory://", observer=tracing, metadata=ChangeMetadata("me", "")) as store:
        await store.save_state("g", "s", {})
    assert (tracing.updates, tracing.commits) == (1, 2)
