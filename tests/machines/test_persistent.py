"""Stored machines: each step is one commit, judged on what is stored, whoever else is at work."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import anyio
import pytest

from tai_state import (
    ANY,
    ChangeMetadata,
    ConcurrentModification,
    IdempotencyConflict,
    InvalidData,
    InvalidTransition,
    InvariantViolation,
    LockLost,
    PreconditionFailed,
    SerializationError,
    StateNotFound,
    StateStore,
    TaiStateError,
    UnknownMachineState,
    VersionConflict,
)
from tai_state.machines import (
    Command,
    DataState,
    Event,
    Failure,
    MachineEvent,
    PersistentMachine,
    allow,
    define,
    described,
)

from ..support.orders import ORDER, PAY, Cart, Order, Payment
from ..support.stores import GOVERNOR, METADATA, CountingEngine, Place, Places, collected

pytestmark = pytest.mark.anyio

SHIP, ARRIVE = Command("ship"), Event("arrived")
ENOUGH = Payment(cents=100)


def order(store: StateStore, state_id: str = "o") -> PersistentMachine[Order, Cart]:
    """A handle on an order."""
    return store.machine(GOVERNOR, state_id, ORDER, metadata=METADATA)


async def paid_order(store: StateStore) -> PersistentMachine[Order, Cart]:
    """An order that is paid."""
    machine = order(store)
    await machine.initialize(context=Cart())
    await machine.fire(PAY, ENOUGH)
    return machine


async def test_a_machine_goes_its_way(store: StateStore):
    """Each step gives the machine after it, and the history says what caused it and why."""
    machine = order(store)
    begun = await machine.initialize(context=Cart())
    assert (begun.state, begun.context, begun.epoch, begun.version) == (Order.Placed, Cart(), 0, 1)
    assert begun.due is not None
    assert (begun.due - begun.entered_at).total_seconds() == 30
    paid = await machine.fire(PAY, ENOUGH)
    assert (paid.state, paid.context, paid.due) == (Order.Paid, Cart(paid=100), None)
    await machine.transition_to(Order.Shipped, SHIP, ChangeMetadata("Ada", "the van is here"))
    done = await machine.transition_to(Order.Delivered, ARRIVE)
    assert (done.state, done.epoch, done.version) == (Order.Delivered, 1, 4)
    assert await machine.get() == done
    events = await collected(machine.history())
    assert [(each.kind, each.from_state, each.to_state, each.epoch) for each in events] == [
        ("initialize", None, "Placed", 0),
        ("transition", "Placed", "Paid", 0),
        ("transition", "Paid", "Shipped", 0),
        ("transition", "Shipped", "Delivered", 0),
    ]
    assert [each.trigger for each in events] == [Event("Initialization"), Event("pay"), SHIP, ARRIVE]
    assert [each.reason for each in events[1:]] == ["Event: pay", "the van is here", "Event: arrived"]
    assert events[2].changed_by == "Ada"
    [pay] = [each async for each in store.get_events(GOVERNOR, "o", after=1, limit=1)]
    assert pay.payload == {"trigger": {"type": "event", "event": "pay"}, "payload": {"cents": 100}}


async def test_refusals_say_why_and_write_nothing(store: StateStore):
    """Each kind of refusal has its own error, with the step, the rule and what would be allowed."""
    machine = order(store)
    await machine.initialize(context=Cart())
    with pytest.raises(InvalidTransition, match="what is not paid is not shipped") as refused:
        await machine.transition_to(Order.Shipped, SHIP)
    assert (refused.value.from_state, refused.value.to_state) == ("Placed", "Shipped")
    assert (refused.value.rule, refused.value.allowed) == ("PaidToShipped", ("Paid", "Lost"))
    assert refused.value.machine.endswith("states/o")
    with pytest.raises(InvalidTransition, match="skips payment"):
        await machine.transition_to(Order.Delivered, SHIP)
    with pytest.raises(InvalidTransition, match="only the event 'pay'"):
        await machine.transition_to(Order.Paid, SHIP)
    with pytest.raises(InvalidTransition, match="it is too little"):
        await machine.fire(PAY, Payment(cents=99))
    frozen = ChangeMetadata("Ada", "", {"frozen": "yes"})
    with pytest.raises(PreconditionFailed, match="nobody has frozen it"):
        await machine.fire(PAY, ENOUGH, frozen)
    assert (await machine.get()).version == 1
    await machine.fire(PAY, ENOUGH)
    with pytest.raises(InvariantViolation, match="shipped means paid"):
        await machine.transition_to(Order.Shipped, SHIP, update=lambda cart: Cart(cents=cart.cents + 1, paid=cart.paid))
    assert (await machine.get()).version == 2


async def test_what_cannot_be_asked_for_is_refused_before_anything_is_sent(memory_places: Places):
    """A state of another machine, what is no trigger, and a payload of another event never reach the store."""

    class Other(DataState):
        facts = described("Another machine")

    place = memory_places.new()
    engine: Any = CountingEngine(place.engine())
    async with place.store(engine) as store:
        machine: Any = order(store)
        await machine.initialize(context=Cart())
        engine.reset()
        for call in (
            lambda: machine.transition_to(Other(), SHIP),
            lambda: machine.transition_to("Paid", SHIP),
            lambda: machine.transition_to(Order.Paid, "ship"),
            lambda: machine.transition_to(Order.Paid, SHIP, update=5),
            lambda: machine.fire("pay", ENOUGH),
            lambda: machine.fire(PAY, Cart()),
            lambda: machine.fire(MachineEvent("ship"), ENOUGH),
            lambda: machine.force_state(Order.Paid, 7),
            lambda: machine.force_state(Other(), "because"),
            machine.initialize,
            lambda: machine.initialize(initial=Order.Paid, context=Cart()),
        ):
            with pytest.raises(InvalidData):
                await call()
        assert engine.counts.calls == 0
        with pytest.raises(InvalidData, match="define"):
            store.machine(GOVERNOR, "o", Order)  # type: ignore[arg-type]


async def test_what_a_step_costs(memory_places: Places):
    """A step costs one commit if the machine was seen, one read more if not, and one for a refusal."""
    place = memory_places.new()
    engine: Any = CountingEngine(place.engine())
    async with place.store(engine) as store:
        machine = await paid_order(store)

        def counted() -> tuple[int, int, list[int]]:
            counts = engine.counts.reads, engine.counts.scans, [len(each) for each in engine.counts.commits]
            engine.reset()
            return counts

        counted()
        await machine.transition_to(Order.Shipped, SHIP)
        assert counted() == (0, 0, [2])
        with pytest.raises(InvalidTransition):
            await machine.transition_to(Order.Shipped, SHIP)
        assert counted() == (1, 0, [])
        await order(store).transition_to(Order.Delivered, ARRIVE)
        assert counted() == (1, 0, [2])


async def test_of_many_that_ask_for_one_step_one_takes_it(place: Place):
    """Of a hundred tasks of two stores that ask for the same step, one takes it, and the others are told why not."""
    async with place.store() as store, place.store() as other:
        await paid_order(store)
        outcomes: Counter[str] = Counter()

        async def ask(machine: PersistentMachine[Order, Cart]) -> None:
            try:
                outcomes[(await machine.transition_to(Order.Shipped, SHIP)).state.name] += 1
            except InvalidTransition as refused:
                outcomes[f"refused in {refused.from_state}"] += 1

        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(ask, order(store if number % 2 else other))
        assert outcomes == {"Shipped": 1, "refused in Shipped": 99}
        assert (await order(store).get()).version == 3


async def test_a_refusal_rests_on_what_is_stored(place: Place):
    """A handle whose memory would refuse a step looks first: another writer may have made it possible."""
    async with place.store() as store, place.store() as other:
        machine = order(store)
        await machine.initialize(context=Cart())
        await order(other).fire(PAY, ENOUGH)
        assert (await machine.transition_to(Order.Shipped, SHIP)).version == 3


async def test_a_step_rests_on_what_is_stored(place: Place):
    """A step that memory would allow is refused if another writer has moved the machine on."""
    async with place.store() as store, place.store() as other:
        machine = await paid_order(store)
        await order(other).transition_to(Order.Lost, Failure("van", "it burnt"))
        with pytest.raises(InvalidTransition, match="final"):
            await machine.transition_to(Order.Shipped, SHIP)


async def test_a_step_does_not_rest_on_what_a_caller_changed(store: StateStore):
    """A context that a caller got, and changed, is the caller's own: the next step is judged on what is stored."""
    machine = order(store)
    (await machine.initialize(context=Cart())).context.paid = 100
    with pytest.raises(InvalidTransition, match="too little"):
        await machine.fire(PAY, Payment(cents=1))
    (await machine.get()).context.paid = 100
    assert (await machine.fire(PAY, ENOUGH)).context == Cart(paid=100)


async def test_an_expected_version_is_kept(place: Place):
    """Who names a version is told that another writer was faster, even where the step would be allowed."""
    async with place.store() as store, place.store() as other:
        machine = await paid_order(store)
        seen = await machine.get()
        await other.log_event(GOVERNOR, "o", "looked at", METADATA)
        with pytest.raises(ConcurrentModification, match="version 3, not at 2") as overtaken:
            await machine.transition_to(Order.Shipped, SHIP, expected=seen.version)
        assert (overtaken.value.from_state, overtaken.value.actual) == ("Paid", 3)
        assert (await machine.transition_to(Order.Shipped, SHIP, expected=3)).version == 4


@pytest.mark.parametrize("seen_before", [False, True])
async def test_a_version_that_is_still_to_come_is_refused(store: StateStore, *, seen_before: bool):
    """A step at a version that the machine has not reached is refused by name, whether the handle knows it or not."""
    known = await paid_order(store)
    machine = known if seen_before else order(store)
    for call in (
        lambda: machine.transition_to(Order.Shipped, SHIP, expected=7),
        lambda: machine.fire(PAY, ENOUGH, expected=7),
        lambda: machine.force_state(Order.Lost, "burnt", expected=7),
    ):
        with pytest.raises(ConcurrentModification, match="at version 2, not at 7; read it again") as refused:
            await call()
        assert (refused.value.actual, refused.value.from_state) == (2, "")
        assert " from " not in str(refused.value)
    assert (await machine.get()).version == 2


async def test_a_step_with_an_id_is_taken_once(place: Place):
    """The same call again gives the first result, also after a restart, and though the machine has moved on since."""
    async with place.store() as store:
        machine = await paid_order(store)
        first = await machine.transition_to(Order.Shipped, SHIP, event_id="ship-1")
        await machine.transition_to(Order.Delivered, ARRIVE)
    async with place.store() as store:
        again = await order(store).transition_to(Order.Shipped, SHIP, event_id="ship-1")
        assert (again.state, again.version, again.context) == (Order.Shipped, first.version, first.context)
        for call in (
            lambda: order(store).transition_to(Order.Lost, SHIP, event_id="ship-1"),
            lambda: order(store).transition_to(Order.Shipped, ARRIVE, event_id="ship-1"),
            lambda: order(store).force_state(Order.Shipped, "ship", event_id="ship-1"),
        ):
            with pytest.raises(IdempotencyConflict):
                await call()
        assert (await order(store).get()).version == 4


async def test_a_step_is_fenced(store: StateStore):
    """A step with a lease is taken only while its lock is held."""
    machine = await paid_order(store)
    async with store.lock("van") as lease:
        await machine.transition_to(Order.Shipped, SHIP, fence=lease)
    with pytest.raises(LockLost):
        await machine.transition_to(Order.Delivered, ARRIVE, fence=lease)
    assert (await machine.get()).state is Order.Shipped


async def test_force_leads_out_of_anything_and_is_loud(store: StateStore, caplog: pytest.LogCaptureFixture):
    """A forced step leaves a final state, names the invariants that it breaks, and is logged as a warning."""
    machine = order(store)
    await machine.initialize(context=Cart())
    await machine.transition_to(Order.Lost, Failure("van", "it burnt"))
    with caplog.at_level(logging.WARNING, "tai_state.machines"):
        await machine.force_state(Order.Shipped, "it was found")
    [record] = caplog.records
    assert "force from Lost to Shipped (it was found)" in record.getMessage()
    assert (vars(record)["governor_id"], vars(record)["state_id"], vars(record)["version"]) == (GOVERNOR, "o", 3)
    forced = (await collected(machine.history()))[-1]
    assert (forced.kind, forced.reason) == ("force", "it was found")
    assert [str(each) for each in forced.violations] == ["shipped means paid: what is shipped is paid"]


async def test_steps_and_refusals_are_logged(store: StateStore, caplog: pytest.LogCaptureFixture):
    """A step is information, a refusal a warning; ids are fields; a repetition is not told again."""
    with caplog.at_level(logging.INFO, "tai_state.machines"):
        machine = await paid_order(store)
        await machine.transition_to(Order.Shipped, SHIP, event_id="x")
        await machine.transition_to(Order.Shipped, SHIP, event_id="x")
        with pytest.raises(InvalidTransition):
            await machine.transition_to(Order.Paid, SHIP)
    levels = [record.levelname for record in caplog.records]
    assert levels == ["INFO", "INFO", "INFO", "WARNING"]
    assert [vars(record)["version"] for record in caplog.records] == [1, 2, 3, None]


async def test_what_is_no_machine_of_this_kind_is_named(store: StateStore):
    """A state that is no machine, a machine of another kind, and an unknown state are told apart."""
    with pytest.raises(StateNotFound):
        await order(store, "nobody").get()
    await store.save_state(GOVERNOR, "plain", {"n": 1}, METADATA)
    with pytest.raises(SerializationError, match="does not hold a machine"):
        await order(store, "plain").transition_to(Order.Lost, SHIP)
    await paid_order(store)
    other = define("parcel", Order, initial=Order.Placed, rules=[allow(Order.Placed, [*Order][1:])], dead_ends=[*Order])
    with pytest.raises(UnknownMachineState, match=r"'order' version 1 .* 'Paid', which 'parcel' version 1"):
        await store.machine(GOVERNOR, "o", other).get()
    data = (await store.get_state(GOVERNOR, "o")).data
    data["machine"]["state"] = "Gone"
    await store.update_state(GOVERNOR, "o", data, METADATA, expected=ANY)
    with pytest.raises(UnknownMachineState, match="'Gone'") as unknown:
        await order(store).transition_to(Order.Lost, SHIP)
    assert unknown.value.state == "Gone"


async def test_a_machine_is_made_once(store: StateStore):
    """Making a machine that is there is a conflict, and one that was deleted begins anew."""
    machine = await paid_order(store)
    with pytest.raises(VersionConflict):
        await machine.initialize(context=Cart())
    await store.delete_state(GOVERNOR, "o", METADATA, expected=ANY)
    with pytest.raises(StateNotFound):
        await machine.transition_to(Order.Shipped, SHIP)
    assert (await machine.initialize(context=Cart(cents=5))).version == 4


class Job(DataState):
    pass


class Waiting(Job):
    facts = described("Waits for a worker")


class Running(Job):
    facts = described("Runs")
    worker: str
    attempt: int = 1


class Done(Job):
    facts = described("Is done", terminal=True)
    exit_code: int


START = MachineEvent("start", Running)
JOB = define(
    "job",
    (Waiting, Running, Done),
    initial=Waiting(),
    rules=[
        allow(Waiting, Running, on=START, enter=lambda running: running),
        allow(Running, Running),
        allow(Running, Done),
    ],
)


async def test_states_that_carry_data_are_there_after_a_restart(place: Place):
    """What a state carries is stored with it and with nothing else, and the next state does not have it."""
    async with place.store() as store:
        job = store.machine(GOVERNOR, "j", JOB, metadata=METADATA)
        await job.initialize()
        await job.fire(START, Running(worker="w1"))
        await job.transition_to(Running(worker="w2", attempt=2), Command("again"))
    async with place.store() as store:
        job = store.machine(GOVERNOR, "j", JOB, metadata=METADATA)
        assert (await job.get()).state == Running(worker="w2", attempt=2)
        done = await job.transition_to(Done(exit_code=0), Event("exited"))
        assert done.state == Done(exit_code=0)
        data = (await store.get_state(GOVERNOR, "j")).data
        assert data["machine"]["values"] == {"exit_code": 0}
        assert [each.state for each in await collected(job.history())] == [
            Waiting(),
            Running(worker="w1"),
            Running(worker="w2", attempt=2),
            Done(exit_code=0),
        ]


async def test_the_history_reads_whatever_stands_in_the_stream(store: StateStore):
    """Logged events, plain writes, deletions and steps of other definitions are records, and no reason to stop."""
    machine = await paid_order(store)
    await store.log_event(GOVERNOR, "o", "looked at", METADATA, payload=["x"])
    await store.update_state(GOVERNOR, "o", {"machine": 5}, METADATA, expected=ANY, payload={"trigger": 7})
    await store.delete_state(GOVERNOR, "o", METADATA, expected=ANY)
    await store.machine(GOVERNOR, "o", JOB, metadata=METADATA).initialize()
    events = await collected(machine.history())
    assert [(each.kind, each.to_state, each.state) for each in events] == [
        ("initialize", "Placed", Order.Placed),
        ("transition", "Paid", Order.Paid),
        ("looked at", "Paid", Order.Paid),
        ("update", None, None),
        ("delete", None, None),
        ("initialize", "Waiting", None),
    ]
    assert [each.trigger for each in events[2:5]] == [None, None, None]
    newest = await collected(machine.history(limit=2, newest_first=True))
    assert newest == events[:-3:-1]


async def test_can_transition_to_says_what_a_step_would(store: StateStore):
    """The answer is that of the step itself, and nothing is written."""
    machine = await paid_order(store)
    verdicts = {state: bool(await machine.can_transition_to(state)) for state in Order}
    assert verdicts == {state: state in {Order.Shipped, Order.Lost} for state in Order}
    with pytest.raises(TaiStateError, match="states/o"):
        await machine.transition_to(Order.Placed, SHIP)
    assert (await machine.get()).version == 2
