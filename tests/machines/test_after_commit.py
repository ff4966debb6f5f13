"""What runs in this process once a step is committed: at most once, never before the commit, never instead of it."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

import anyio
import pytest

from tai_state import (
    CommitOutcomeUnknown,
    InvalidTransition,
    StateStore,
    StoreUnavailable,
    Transaction,
    TransactionManager,
)
from tai_state.engines.memory import MemoryEngine
from tai_state.machines import Present, TakenStep, aftermath
from tai_state.testing import AtCalls, Fault, FaultyEngine, ManualClock
from tai_state.testing.faults import Call

from ..support.parcels import ARRIVE, RETURN, SEND, Had, Parcel, packed, parcel, parcel_with
from ..support.stores import GOVERNOR, METADATA, Place, make_store

pytestmark = pytest.mark.anyio

Told = list[TakenStep[Parcel, None]]


async def test_it_runs_after_the_commit_and_knows_the_step(place: Place):
    """Another store sees the step already when it runs, and it is told what the step was."""
    told: Told = []
    async with place.store() as store, place.store() as other:

        async def after(step: TakenStep[Parcel, None]) -> None:
            assert (await parcel(other).get()).state is Parcel.Sent
            told.append(step)

        machine = await packed(store, definition=parcel_with(after))
        await machine.transition_to(Parcel.Sent, SEND, event_id="sent-1")
        await machine.transition_to(Parcel.Arrived, ARRIVE)
        assert told == [
            TakenStep(
                machine=machine.stream.state,
                before=Present(Parcel.Packed, None),
                after=Present(Parcel.Sent, None),
                trigger=SEND,
                rule="PackedToSent",
                governor_id=GOVERNOR,
                state_id="p",
                version=2,
                event_id="sent-1",
            )
        ]


async def test_it_runs_for_no_refusal_no_repetition_and_no_force(store: StateStore):
    """A step that is refused, was taken by an earlier call, or is forced, runs nothing."""
    told: Told = []
    machine = await packed(store, definition=parcel_with(told.append))
    await machine.transition_to(Parcel.Sent, SEND, event_id="sent-1")
    with pytest.raises(InvalidTransition):
        await machine.transition_to(Parcel.Sent, SEND)
    await machine.transition_to(Parcel.Sent, SEND, event_id="sent-1")
    await machine.force_state(Parcel.Packed, "it came back")
    await machine.force_state(Parcel.Sent, "it did not")
    assert len(told) == 1


async def test_of_many_that_ask_only_the_one_that_took_the_step_runs_it(place: Place):
    """Of twenty tasks of two stores that ask for one step, one runs what follows."""
    told: Told = []
    async with place.store() as store, place.store() as other:
        definition = parcel_with(told.append)
        await packed(store, definition=definition)

        async def ask(machine: Any) -> None:
            with suppress(InvalidTransition):
                await machine.transition_to(Parcel.Sent, SEND)

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(ask, parcel(store if number % 2 else other, definition=definition))
        assert [step.version for step in told] == [2]


async def test_the_step_stands_whatever_it_raises(store: StateStore, caplog: pytest.LogCaptureFixture):
    """An error in it is logged with the ids of the step, and the caller gets the step."""

    def broken(_: TakenStep[Parcel, None]) -> None:
        raise RuntimeError("no")

    machine = await packed(store, definition=parcel_with(broken))
    assert (await machine.transition_to(Parcel.Sent, SEND, event_id="sent-1")).version == 2
    [record] = [each for each in caplog.records if each.levelno == logging.ERROR]
    said = vars(record)
    assert (said["governor_id"], said["state_id"], said["version"], said["event_id"]) == (GOVERNOR, "p", 2, "sent-1")
    assert "after_commit of the rule 'PackedToSent' failed" in record.getMessage()


async def test_one_that_never_ends_has_a_limit(
    store: StateStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """An asynchronous one is cancelled at the limit; the step stands."""

    async def endless(_: TakenStep[Parcel, None]) -> None:
        await anyio.sleep_forever()

    monkeypatch.setattr(aftermath, "AFTER_COMMIT_SECONDS_MAX", 0.0)
    machine = await packed(store, definition=parcel_with(endless))
    assert (await machine.transition_to(Parcel.Sent, SEND)).version == 2
    assert [each.levelno for each in caplog.records if each.levelno >= logging.ERROR] == [logging.ERROR]


async def test_it_may_take_the_next_step(store: StateStore):
    """It holds no turn: it takes steps of the same machine, also in a transaction."""

    async def again(step: TakenStep[Parcel, None]) -> None:
        machine = parcel(store)
        await machine.transition_to(Parcel.Packed, RETURN)

        async def note(transaction: Transaction) -> None:
            transaction.machine(machine).force_state(Parcel.Arrived, "it was found")

        await store.transact(note, METADATA)

    definition = parcel_with(again)
    machine = await packed(store, definition=definition)
    await machine.transition_to(Parcel.Sent, SEND)
    assert (await machine.get()).state is Parcel.Arrived
    await machine.transition_to(Parcel.Packed, RETURN)

    async def send(transaction: Transaction) -> None:
        transaction.machine(machine).transition_to(Parcel.Sent, SEND)

    await store.transact(send, METADATA)
    assert ((await machine.get()).state, (await machine.get()).version) == (Parcel.Arrived, 8)


async def test_in_a_transaction_it_runs_once_all_is_committed(store: StateStore):
    """It runs for each step after the commit, once, though the function ran twice; and not if the commit fails."""
    told: Told = []
    committed: list[bool] = []
    runs = 0

    async def after(step: TakenStep[Parcel, None]) -> None:
        committed.append((await parcel(store, "b").get()).state is Parcel.Sent)
        told.append(step)

    definition = parcel_with(after)
    a, b = await packed(store, "a", definition=definition), await packed(store, "b", definition=definition)

    async def send(transaction: Transaction) -> None:
        nonlocal runs
        runs += 1
        await transaction.machine(a).get()
        if runs == 1:
            await store.log_event(GOVERNOR, "a", "looked at", METADATA)
        transaction.machine(a).transition_to(Parcel.Sent, SEND, event_id="sent-a")
        transaction.machine(b).transition_to(Parcel.Sent, SEND)
        assert told == []

    await store.transact(send, METADATA)
    assert (runs, committed) == (2, [True, True])
    assert [(step.state_id, step.version) for step in told] == [("a", 3), ("b", 2)]

    async def refused(transaction: Transaction) -> None:
        transaction.machine(a).transition_to(Parcel.Packed, RETURN)
        transaction.machine(a).transition_to(Parcel.Sent, SEND)
        transaction.machine(b).transition_to(Parcel.Sent, SEND)

    with pytest.raises(InvalidTransition):
        await store.transact(refused, METADATA)
    async with TransactionManager(store).transaction(METADATA) as transaction:
        transaction.machine(a).transition_to(Parcel.Packed, RETURN)
        transaction.machine(a).transition_to(Parcel.Sent, SEND)
        assert len(told) == 2
    assert [(step.state_id, step.version) for step in told[2:]] == [("a", 5)]


async def test_a_repetition_of_what_could_be_done_again_runs_nothing(store: StateStore):
    """A step that is possible again, and a transaction with it, are known by their ids: neither runs anything."""
    told: Told = []
    machine = await packed(store, definition=parcel_with(told.append))

    async def send(transaction: Transaction) -> None:
        await transaction.machine(machine).get()
        transaction.machine(machine).transition_to(Parcel.Sent, SEND, event_id="sent-2")

    await machine.transition_to(Parcel.Sent, SEND, event_id="sent-1")
    await machine.transition_to(Parcel.Packed, RETURN)
    await store.transact(send, METADATA)
    await machine.transition_to(Parcel.Packed, RETURN)
    assert len(told) == 2
    await machine.transition_to(Parcel.Sent, SEND, event_id="sent-1")
    await store.transact(send, METADATA)
    assert len(told) == 2
    assert (await machine.get()).version == 5


class Next:
    """A plan that fails the next commit and, if told so, every read after it.

    Args:
        fault: what goes wrong with the commit.
        is_blind: whether reads fail from then on.
    """

    planned = 1

    def __init__(self, fault: Fault, *, is_blind: bool = False) -> None:
        self._fault = fault
        self._is_blind = is_blind
        self._is_over = False

    def fault(self, call: Call) -> Fault | None:
        """See ``FaultPlan``."""
        if call.verb == "commit" and not self._is_over:
            self._is_over = True
            return self._fault
        return Fault.UNAVAILABLE if self._is_over and self._is_blind else None


FAULTS = [fault for fault in Fault if not fault.name.startswith("CANCELLED")]


@pytest.mark.parametrize("fault", FAULTS)
async def test_faults_neither_lose_an_effect_nor_run_anything_twice(fault: Fault):
    """Whatever becomes of the step's commit, its effects are pending once, and what runs after it ran for success."""
    clock, told = ManualClock(), Told()
    faulty = FaultyEngine(MemoryEngine(clock), AtCalls({}))
    async with make_store(faulty, clock, timeout_seconds=1.0) as store:
        machine = await packed(store, definition=parcel_with(told.append))
        faulty.plan = Next(fault)
        try:
            await machine.transition_to(Parcel.Sent, SEND, event_id="sent-1")
        except StoreUnavailable:
            assert (fault, told) == (Fault.UNAVAILABLE, [])
        else:
            assert len(told) == 1
        assert faulty.statistics().all_hit
        await machine.transition_to(Parcel.Sent, SEND, event_id="sent-1")
        await faulty.settle()
        assert len(told) == 1
        assert [each.id for each in (await machine.get()).effects] == ["sent-1:charge", "sent-1:mail"]
        assert (await machine.get()).version == 2


@pytest.mark.parametrize("fault", FAULTS)
async def test_faults_of_the_record_have_no_effect_forgotten_or_recorded_twice(fault: Fault):
    """Whatever becomes of the commit that an effect is done, in the end it is done, and its event is there once."""
    clock, had = ManualClock(), Had()
    faulty = FaultyEngine(MemoryEngine(clock), AtCalls({}))
    async with make_store(faulty, clock, timeout_seconds=1.0) as store:
        machine = await packed(store)
        await machine.transition_to(Parcel.Sent, SEND, event_id="sent-1")
        faulty.plan = Next(fault)
        report = await machine.run_effects(had.handlers)
        assert faulty.statistics().all_hit
        assert (report.done, report.failed_count) == ((1, 1) if fault is Fault.UNAVAILABLE else (2, 0))
        again = await machine.run_effects(had.handlers)
        await faulty.settle()
        assert report.done + again.done == 2
        assert (await machine.get()).effects == ()
        assert [each.kind async for each in machine.history(after=2)] == ["effect", "effect"]


async def test_an_unknown_outcome_runs_nothing_and_leaves_the_effects():
    """Where the outcome stays unknown nothing runs, also when the call is repeated; named effects are there."""
    clock, told = ManualClock(), Told()
    faulty = FaultyEngine(MemoryEngine(clock), AtCalls({}))
    async with make_store(faulty, clock, timeout_seconds=0.0) as store:
        machine = await packed(store, definition=parcel_with(told.append))
        faulty.plan = Next(Fault.LOST_AFTER, is_blind=True)
        with pytest.raises(CommitOutcomeUnknown):
            await machine.transition_to(Parcel.Sent, SEND, event_id="sent-1")
        faulty.plan = AtCalls({})
        clock.advance_us(1)
        assert (await machine.transition_to(Parcel.Sent, SEND, event_id="sent-1")).state is Parcel.Sent
        assert told == []
        assert [each.id for each in (await machine.get()).effects] == ["sent-1:charge", "sent-1:mail"]
