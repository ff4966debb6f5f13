"""Checking stored machines: steps that no definition allows, and writes past machines, are found and named."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from tai_state import (
    ChangeMetadata,
    EveryEvents,
    GovernorNotFound,
    InvalidData,
    StateMachinePersister,
    StateStore,
    TransitionRefused,
    sync,
)
from tai_state.engines.api import Delete
from tai_state.machines import (
    Command,
    MachinesReport,
    PersistentMachine,
    ProofObligation,
    Timeout,
    allow,
    check_machines,
    define,
    run_timers,
)
from tai_state.streams import writing
from tai_state.streams.writing import Intent
from tai_state.values.times import format_us

from ..support.order_versions import JOB, ORDER_NOW, Note, Running, Waiting
from ..support.orders import ORDER, PAY, RULES, Cart, Order, Payment
from ..support.stores import GOVERNOR, METADATA, CountingEngine, Places, edit

pytestmark = pytest.mark.anyio

SHIP = Command("ship")
SAID = {"trigger": {"type": "command", "command": "ship"}}


def order(store: StateStore, state_id: str = "o") -> PersistentMachine[Order, Cart]:
    """A handle on an order."""
    return store.machine(GOVERNOR, state_id, ORDER, metadata=METADATA)


async def paid_order(store: StateStore, state_id: str = "o") -> PersistentMachine[Order, Cart]:
    """An order that is paid, at version 2."""
    machine = order(store, state_id)
    await machine.initialize(context=Cart())
    await machine.fire(PAY, Payment(cents=100))
    return machine


def counts(report: MachinesReport) -> dict[str, int]:
    """What a report counts, but nothings."""
    names = [name for name in report.__struct_fields__ if name != "findings"]
    return {name: getattr(report, name) for name in names if getattr(report, name)}


def found(report: MachinesReport) -> list[tuple[int, str]]:
    """The version and kind of each finding."""
    return [(each.version, each.kind) for each in report.findings]


async def wrote(store: StateStore, action: str, payload: Any = None, state_id: str = "o", **changes: Any) -> None:
    """Write an event as a machine would, with a changed machine, and a changed context."""
    stream = store.core.layout.stream(GOVERNOR, state_id)
    state = await store.get_state(GOVERNOR, state_id)
    metadata = changes.pop("metadata", METADATA)
    context = changes.pop("context", state.data.get("context"))
    machine = {key: value for key, value in {**state.data["machine"], **changes}.items() if value is not None}
    intent = Intent(metadata, action, payload=payload)
    await writing.save(store.core, stream, {"machine": machine, "context": context}, intent, state.version, None)


async def test_what_the_library_writes_is_allowed(store: StateStore):
    """Every step by a rule, an event, force or a deletion is told apart, and none is a finding."""
    machine = await paid_order(store)
    await machine.transition_to(Order.Shipped, SHIP)
    await store.log_event(GOVERNOR, "o", "looked", METADATA)
    await machine.transition_to(Order.Delivered, SHIP)
    await machine.force_state(Order.Placed, "a mistake")
    await store.delete_state(GOVERNOR, "o", METADATA, expected=6)
    await machine.initialize(context=Cart(cents=5))
    lost = await paid_order(store, "p")
    await lost.transition_to(Order.Lost, Timeout(5))
    job = store.machine("other", "j", JOB, metadata=METADATA)
    await job.initialize(context=Note(text="a"))
    await job.transition_to(Running(worker="w"), SHIP, update=lambda _: Note(text="b"))
    await job.transition_to(Waiting(), SHIP)
    await store.save_state(GOVERNOR, "plain", {"machine": "none"}, METADATA)
    report = await check_machines(store, [JOB, ORDER])
    assert counts(report) == {"machines": 3, "steps": 11, "forced": 1}
    assert report.consistent
    assert report.findings == ()
    assert counts(await check_machines(store, JOB, governor_id="other")) == {"machines": 1, "steps": 3}


@pytest.mark.parametrize(
    ("action", "payload", "changes", "message"),
    [
        ("transition", SAID, {"state": "Delivered"}, "rule 'ShippedToDelivered' failed"),
        ("transition", SAID, {"state": "Placed"}, "no rule leads there"),
        ("transition", SAID, {"state": "Shipped", "context": {"cents": 100, "paid": 0}}, "shipped means paid"),
        ("transition", SAID, {"state": "Shipped", "epoch": 1}, "its epoch is not what the step gives"),
        ("transition", SAID, {"state": "Lost", "due": "2099-01-01T00:00:00.000000Z"}, "its time-out is due at 2099"),
        ("transition", SAID, {"state": "Lost", "values": {"a": 1}}, "'Lost' carries nothing"),
        (
            "transition",
            SAID,
            {"state": "Shipped", "metadata": ChangeMetadata("ana", "", {"frozen": "yes"})},
            "nobody has frozen it",
        ),
        ("transition", {"trigger": {"type": "event", "event": "pay"}, "payload": {"cents": 5}}, {}, "no rule takes"),
        ("initialize", SAID, {"state": "Shipped"}, "a machine begins in Placed"),
        ("initialize", SAID, {"state": "Placed", "epoch": 4}, "its epoch is not"),
    ],
)
async def test_a_step_that_the_definition_refuses_is_found(
    memory_places: Places, action: str, payload: Any, changes: dict[str, Any], message: str
):
    """A step that rules, an obligation or an invariant refuse, or that gives something else, is named with its why."""
    async with memory_places.new().store() as store:
        await paid_order(store)
        await wrote(store, action, payload, **changes)
        report = await check_machines(store, ORDER)
        assert counts(report)["illegal"] == 1
        assert found(report)[0] == (3, "illegal")
        assert message in report.findings[0].message
        assert report.findings[0].path == f"governors/{GOVERNOR}/states/o"
        assert not report.consistent


@pytest.mark.parametrize(
    ("payload", "context", "facts", "message"),
    [
        ({"cents": 99}, {"cents": 100, "paid": 99}, {}, "it is too little"),
        ({"cents": 100}, {"cents": 100, "paid": 200}, {}, "its context is not what the step gives"),
        ({"cents": 100}, {"cents": 100, "paid": 100}, {"frozen": "yes"}, "nobody has frozen it"),
        (None, {"cents": 100, "paid": 100}, {}, "judging it raised KeyError"),
    ],
)
async def test_a_step_is_judged_by_what_its_event_brought(
    memory_places: Places, payload: Any, context: dict[str, Any], facts: dict[str, str], message: str
):
    """Guard, update and obligations see the payload and the facts that stand in the history."""
    async with memory_places.new().store() as store:
        await order(store).initialize(context=Cart())
        said = {"trigger": {"type": "event", "event": "pay"}, **({} if payload is None else {"payload": payload})}
        who = ChangeMetadata("ana", "", facts)
        await wrote(store, "transition", said, state="Paid", due=None, context=context, metadata=who)
        report = await check_machines(store, ORDER)
        assert found(report) == [(2, "illegal")]
        assert message in report.findings[0].message


async def test_a_timers_step_is_judged_as_one(memory_places: Places):
    """A step that only a timer may take is allowed with its trigger, and refused with another one."""
    kinds = define("order", Order, initial=Order.Placed, rules=RULES[-1:], dead_ends=[*Order], unreached=[*Order])
    async with memory_places.new().store() as store:
        for name, trigger in [
            ("right", {"type": "timeout", "duration_ms": 30_000}),
            ("wrong", {"type": "command", "command": "lose it"}),
        ]:
            await store.machine(GOVERNOR, name, kinds, metadata=METADATA).initialize()
            stream = store.core.layout.stream(GOVERNOR, name)
            data = (await store.get_state(GOVERNOR, name)).data
            lost = {key: value for key, value in data["machine"].items() if key != "due"} | {"state": "Lost"}
            to = {} if name == "right" else {"to": "Lost"}
            intent = Intent(METADATA, "transition", payload={"trigger": trigger, **to})
            await writing.save(store.core, stream, {"machine": lost}, intent, 1, None)
        report = await check_machines(store, kinds)
        assert [(each.path[-5:], each.kind) for each in report.findings] == [("wrong", "illegal")]
        assert "only a timer leads there" in report.findings[0].message


async def test_a_step_that_a_caller_asked_for_is_not_judged_as_a_timers(memory_places: Places):
    """A caller names a time-out as the trigger of a step that a rule allows, too: with its own data, and its facts."""
    agreed = ProofObligation[Order, Cart]("somebody agreed", lambda step: step.metadata.get("by") == "ana")
    kinds = define("order", Order, initial=Order.Placed, context=Cart, rules=RULES, obligations=[agreed])
    place, who = memory_places.new(), ChangeMetadata("ana", "", {"by": "ana"})
    async with place.store() as store:
        asked, timed = (store.machine(GOVERNOR, name, kinds, metadata=who) for name in ("asked", "timed"))
        for machine in (asked, timed):
            await machine.initialize(context=Cart())
        await asked.transition_to(Order.Lost, Timeout(5), update=lambda cart: cart.model_copy(update={"cents": 7}))
        place.clock.advance_us(10**12)
        assert (await run_timers(store, kinds, metadata=who)).fired == 1
        assert (await timed.get()).state is Order.Lost
        assert counts(await check_machines(store, kinds)) == {"machines": 2, "steps": 4}


async def test_a_write_past_the_machine_is_named(store: StateStore):
    """A plain change of a machine's state is found with its version, its action and the id of its event."""
    machine = await paid_order(store)
    data = (await store.get_state(GOVERNOR, "o")).data
    past = {**data, "machine": {**data["machine"], "state": "Shipped"}}
    await store.update_state(GOVERNOR, "o", past, METADATA, expected=2, event_id="by-hand")
    await machine.transition_to(Order.Delivered, SHIP)
    await store.update_state(GOVERNOR, "o", {"n": 1}, METADATA, expected=4)
    await store.save_state(GOVERNOR, "made", data, METADATA, event_id="made-by-hand")
    report = await check_machines(store, ORDER)
    assert [(each.path[-4:], each.version, each.kind) for each in report.findings] == [
        ("made", 1, "past"),
        ("es/o", 3, "past"),
        ("es/o", 5, "past"),
    ]
    assert "event 'made-by-hand'" in report.findings[0].message
    assert "'update'" in report.findings[1].message
    assert "event 'by-hand'" in report.findings[1].message
    assert "from 'Paid' to 'Shipped'" in report.findings[1].message
    assert "left none" in report.findings[2].message
    assert counts(report) == {"machines": 2, "steps": 3, "illegal": 3}


async def test_steps_of_a_definition_that_is_not_at_hand_are_unchecked(store: StateStore):
    """Each is counted and none is taken for allowed; which definition is missing is said once."""
    await paid_order(store)
    await paid_order(store, "p")
    report = await check_machines(store, ORDER_NOW)
    assert counts(report) == {"machines": 2, "unchecked": 4, "stranded": 2}
    unchecked = [each for each in report.findings if each.kind == "unchecked"]
    assert [(each.path[-1], each.version) for each in unchecked] == [("o", 1)]
    assert f"'order' version 1 ({ORDER.hash})" in unchecked[0].message
    await store.machine("other", "o", ORDER, metadata=METADATA).initialize(context=Cart())
    report = await check_machines(store, ORDER_NOW, governor_id="other")
    assert counts(report) == {"machines": 1, "unchecked": 1, "timers_moved": 1}
    assert not report.consistent


async def test_data_that_the_models_do_not_know_is_unchecked(memory_places: Places):
    """A step whose context does not fit its definition's model cannot be judged, and is not taken for allowed."""
    async with memory_places.new().store() as store:
        await paid_order(store)
        await wrote(store, "transition", SAID, state="Shipped", context={"cents": "many"})
        report = await check_machines(store, ORDER)
        assert found(report)[0] == (3, "unchecked")
        assert "does not fit the model at cents" in report.findings[0].message
        assert not report.consistent


async def test_an_unknown_state_is_found(memory_places: Places):
    """A machine in a state that its own definition does not have is named, and nothing can be done with it."""
    async with memory_places.new().store() as store:
        await paid_order(store)
        await wrote(store, "force", SAID, state="Gone")
        report = await check_machines(store, ORDER)
        assert found(report) == [(3, "unknown"), (3, "stranded")]
        assert "'Gone'" in report.findings[0].message


async def test_a_step_is_judged_by_the_definition_of_its_version(memory_places: Places):
    """Of definitions that differ in what a function decides, that of the step's own version judges it."""

    def kind(version: int, *, free: bool) -> Any:
        rules = [
            allow(Order.Placed, Order.Paid, guard=lambda step: free or step.get_metadata("paid") == "yes"),
            *RULES[1:],
        ]
        return define("order", Order, initial=Order.Placed, rules=rules, version=version, context=Cart)

    old, new = kind(1, free=True), kind(2, free=False)
    assert old.hash == new.hash
    async with memory_places.new().store() as store:
        machine = store.machine(GOVERNOR, "o", old, metadata=METADATA)
        await machine.initialize(context=Cart())
        await machine.transition_to(Order.Paid, SHIP)
        assert (await check_machines(store, [new, old])).consistent
        assert found(await check_machines(store, new)) == [(2, "illegal")]


async def test_a_machine_whose_first_events_are_gone(memory_places: Places):
    """The first event that a cleanup left is not judged, since what was before it is not known; the next one is."""
    place = memory_places.new()
    async with place.store(snapshots=EveryEvents(2, keep=2)) as store:
        machine = await paid_order(store)
        for number in range(4):
            await store.log_event(GOVERNOR, "o", f"looked {number}", METADATA)
        place.clock.advance_us(7 * 86_400_000_000)
        await machine.transition_to(Order.Shipped, SHIP)
        await StateMachinePersister(store).cleanup_old_data(GOVERNOR, keep=timedelta(days=1))
        assert (await anext(store.get_events(GOVERNOR, "o"))).version > 2
        assert counts(await check_machines(store, ORDER)) == {"machines": 1, "steps": 1}
        await wrote(store, "transition", SAID, state="Placed")
        assert found(await check_machines(store, ORDER)) == [(8, "illegal"), (8, "timer")]


async def test_damage_in_one_stream_does_not_stop_the_others(memory_places: Places):
    """A damaged event and a lost state are findings; steps whose state before is not known are not judged."""
    place = memory_places.new()
    async with place.store() as store:
        for name in ("a", "b", "c", "d"):
            machine = await paid_order(store, name)
            await machine.transition_to(Order.Shipped, SHIP)
        stream = store.core.layout.stream(GOVERNOR, "a")
        await edit(store.core.engine, stream.event(2), action=5)
        await store.core.engine.commit([Delete(store.core.layout.stream(GOVERNOR, "b").state)])
        await edit(store.core.engine, store.core.layout.stream(GOVERNOR, "c").state, state_hash="0" * 64)
    async with place.store() as store:
        report = await check_machines(store, ORDER)
        assert [(each.path, each.version, each.kind) for each in report.findings] == [
            (stream.event(2), 2, "corrupt"),
            (stream.state.replace("/a", "/b"), 0, "corrupt"),
            (stream.state.replace("/a", "/c"), 0, "corrupt"),
        ]
        assert counts(report) == {"machines": 4, "steps": 10, "corrupt": 3}
        assert not report.consistent


async def test_what_a_merge_did_is_listed(memory_places: Places):
    """A step that a merge took is told apart, with the rule that would have refused it, and is not illegal."""
    one, other = memory_places.new(), memory_places.new()
    async with one.store() as store, other.store() as second:
        await order(store).initialize(context=Cart())
        await sync(store, second)
        await order(second).fire(PAY, Payment(cents=100))
        await order(second).transition_to(Order.Shipped, SHIP)
        one.clock.advance_us(1_000_000)
        await order(store).transition_to(Order.Lost, SHIP)
        await sync(store, second)
        report = await check_machines(second, ORDER)
        assert counts(report) == {"machines": 1, "steps": 3, "merged": 1}
        assert report.consistent
        assert found(report) == [(4, "merged")]
        assert report.findings[0].message == "a merge led from 'Shipped' to 'Lost'"
        for target, by_rule in [
            (Order.Shipped, ", which no rule allows"),
            (Order.Delivered, ", which the rule 'NoPlacedToDelivered' forbids"),
        ]:
            await sync(store, second)
            await order(second).force_state(Order.Placed, "it was never paid")
            one.clock.advance_us(60_000_000)
            await order(store).force_state(target, "it was")
            await sync(store, second)
            report = await check_machines(second, ORDER)
            assert report.findings[-1].message == f"a merge led from 'Placed' to {target.name!r}{by_rule}"
            assert report.consistent


async def test_which_machines_a_new_definition_strands(store: StateStore):
    """Live machines whose state it does not know, whose data it cannot read, or whose state it has no way out of."""
    await paid_order(store)
    shipped = await paid_order(store, "p")
    await shipped.transition_to(Order.Shipped, SHIP)
    gone = await paid_order(store, "q")
    await store.delete_state(GOVERNOR, "q", METADATA, expected=await store.get_state(GOVERNOR, "q"))
    done = await paid_order(store, "r")
    await done.transition_to(Order.Lost, SHIP)
    report = await check_machines(store, [ORDER, ORDER_NOW])
    assert report == await check_machines(store, [ORDER_NOW, ORDER])
    assert [(each.path[-1], each.version, each.kind) for each in report.findings] == [("o", 2, "stranded")]
    assert "which 'order' version 2" in report.findings[0].message
    assert "tai-state machines migrate" in report.findings[0].message
    shut = define(
        "order",
        Order,
        initial=Order.Placed,
        rules=[RULES[0], *RULES[4:5], allow(Order.Shipped, Order.Shipped)],
        version=3,
        context=Cart,
        dead_ends=[Order.Paid, Order.Shipped],
        unreached=[Order.Shipped, Order.Delivered, Order.Lost],
    )
    report = await check_machines(store, [ORDER, shut])
    assert [(each.path[-1], each.kind) for each in report.findings] == [("o", "stranded"), ("p", "stranded")]
    assert "no rule of 'order' version 3" in report.findings[0].message
    assert gone.stream.state.endswith("q")


async def test_which_time_outs_a_new_definition_moves(memory_places: Places):
    """Live machines whose time-out would be due at another time, counted from when they entered their state."""
    place = memory_places.new()
    async with place.store() as store:
        begun = await order(store).initialize(context=Cart())
        place.clock.advance_us(5_000_000)
        report = await check_machines(store, [ORDER, ORDER_NOW])
        assert found(report) == [(1, "timer")]
        due = format_us(int((begun.entered_at + timedelta(seconds=60)).timestamp() * 1_000_000))
        assert due in report.findings[0].message
        assert (report.timers_moved, report.consistent) == (1, True)


async def test_a_report_is_bounded(memory_places: Places, monkeypatch: pytest.MonkeyPatch):
    """All is counted, and as many findings are listed as there is room for."""
    monkeypatch.setattr("tai_state.machines.checking.LISTED_MAX", 3)
    async with memory_places.new().store() as store:
        await paid_order(store)
        for _ in range(5):
            await wrote(store, "transition", SAID, state="Gone")
        report = await check_machines(store, ORDER)
        assert report.illegal == 5
        assert len(report.findings) == 3


async def test_progress_is_told_and_nothing_is_written(memory_places: Places):
    """The progress is what was found so far, after each stream; the engine gets no commit."""
    place = memory_places.new()
    async with place.store() as store:
        for number in range(3):
            await paid_order(store, f"{number}")
    engine: Any = CountingEngine(place.engine())
    seen: list[int] = []

    async def progress(report: MachinesReport) -> None:
        seen.append(report.machines)

    async with place.store(engine) as store:
        engine.reset()
        await check_machines(store, ORDER, progress=progress)
    assert seen == [1, 2, 3]
    assert engine.counts.commits == []


@pytest.mark.parametrize("wrong", [5, None, [], [Order], "order", Order, [ORDER, 5]])
async def test_what_are_no_definitions_is_refused(memory_places: Places, wrong: Any):
    """What is neither a definition nor several is refused, and so is a governor that is not there."""
    async with memory_places.new().store() as store:
        with pytest.raises(InvalidData, match="definition"):
            await check_machines(store, wrong)
        with pytest.raises(InvalidData, match="progress"):
            await check_machines(store, ORDER, progress=5)  # type: ignore[arg-type]
        with pytest.raises(GovernorNotFound):
            await check_machines(store, ORDER, governor_id="nobody")


@pytest.fixture
def seed() -> int:
    """Printed; to be given again as ``TAI_STATE_SEED``."""
    seed = int(os.environ.get("TAI_STATE_SEED") or random.SystemRandom().randrange(2**32))
    print(f"repeat with TAI_STATE_SEED={seed}")
    return seed


async def test_no_walk_of_the_library_is_a_finding(memory_places: Places, seed: int):
    """Whatever steps machines take or are refused, a check allows those that were taken, and counts each."""
    choose, taken, forced = random.Random(seed), 0, 0
    async with memory_places.new().store() as store:
        for number in range(8):
            machine = order(store, f"{number}")
            await machine.initialize(context=Cart(cents=choose.randrange(3)))
            taken += 1
            for _ in range(12):
                facts = ChangeMetadata("ana", "", {"frozen": "yes"} if choose.random() < 0.2 else {})
                state = choose.choice([*Order])
                calls: list[Callable[[], Any]] = [
                    lambda: machine.fire(PAY, Payment(cents=choose.randrange(3)), facts),  # noqa: B023
                    lambda: machine.transition_to(state, SHIP, facts, update=lambda cart: cart),  # noqa: B023
                    lambda: machine.transition_to(state, SHIP, facts),  # noqa: B023
                ]
                if choose.random() < 0.2:
                    await machine.force_state(state, "by hand")
                    forced += 1
                    continue
                with suppress(TransitionRefused):
                    await choose.choice(calls)()
                    taken += 1
        report = await check_machines(store, ORDER)
        assert counts(report) == {"machines": 8, "steps": taken, "forced": forced}
