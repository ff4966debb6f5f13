"""Migrating stored machines: they are moved once, audited, whatever breaks in the middle."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tai_state import (
    ChangeMetadata,
    GovernorNotFound,
    InvalidData,
    StateMachinePersister,
    StateStore,
    UnknownMachineState,
    VersionConflict,
    open_store,
)
from tai_state.engines.api import Delete
from tai_state.machines import (
    Command,
    Definition,
    FormerMachine,
    Migration,
    MigrationReport,
    PersistentMachine,
    allow,
    check_machines,
    define,
    migrate_machines,
)
from tai_state.testing import AtCalls, Fault, FaultyEngine

from ..support.order_versions import (
    JOB,
    JOB_NOW,
    JOBS,
    ORDER_NOW,
    ORDERS,
    RULES_NOW,
    Done,
    Note,
    OrderNow,
    Queued,
    Running,
    Waiting,
    Working,
    queued,
    write_app,
)
from ..support.orders import ORDER, PAY, Cart, Order, Payment
from ..support.processes import started
from ..support.stores import GOVERNOR, METADATA, CountingEngine, Place, Places, collected, edit

pytestmark = pytest.mark.anyio

SETTLED = {"Paid": "Settled"}
JOB_STATES = {"Waiting": "Queued", "Running": "Working", "Done": "Over"}


async def paid_order(store: StateStore, state_id: str = "o") -> PersistentMachine[Order, Cart]:
    """An order that is paid, at version 2."""
    machine = store.machine(GOVERNOR, state_id, ORDER, metadata=METADATA)
    await machine.initialize(context=Cart())
    await machine.fire(PAY, Payment(cents=100))
    return machine


async def actions(store: StateStore, state_id: str = "o") -> list[str]:
    """What became of a machine."""
    return [event.action for event in await collected(store.get_events(GOVERNOR, state_id))]


@pytest.mark.parametrize(
    "migration", [ORDER_NOW, Migration(ORDER_NOW, {"Paid": lambda _: (OrderNow.Settled, Cart(paid=100))})]
)
async def test_a_machine_is_moved_once(place: Place, migration: Any):
    """It keeps context, epoch and the time of entering, from which its time-out counts; the event says all of it."""
    async with place.store() as store:
        machine = await paid_order(store)
        await machine.transition_to(Order.Shipped, Command("ship"))
        await machine.transition_to(Order.Delivered, Command("deliver"))
        before = await machine.force_state(Order.Paid, "it came back")
        assert before.epoch == 1
        now = store.machine(GOVERNOR, "o", ORDER_NOW, metadata=METADATA)
        with pytest.raises(UnknownMachineState, match="or move it with `tai-state machines migrate`"):
            await now.get()
        place.clock.advance_us(7_000_000)
        assert await migrate_machines(store, migration, SETTLED) == MigrationReport(moved=1)
        after = await now.get()
        assert (after.state, after.context, after.epoch) == (OrderNow.Settled, Cart(paid=100), before.epoch)
        assert (after.version, after.entered_at) == (6, before.entered_at)
        assert after.due == before.entered_at + timedelta(seconds=90)
        [event] = await collected(now.history(after=5))
        assert (event.kind, event.from_state, event.to_state) == ("migrate", "Paid", "Settled")
        assert (event.trigger, event.reason) == (Command("migrate Paid to Settled"), "Command: migrate Paid to Settled")
        assert (event.changed_by, event.definition) == ("migrate_machines", ORDER_NOW.hash)
        assert await migrate_machines(store, migration, SETTLED) == MigrationReport(left=1)
        assert (await now.get()).version == 6
        report = await check_machines(store, ORDERS)
        assert (report.consistent, report.migrated, report.steps, report.stranded) == (True, 1, 4, 0)
        await now.transition_to(OrderNow.Shipped, Command("ship"))
        assert (await StateMachinePersister(store).validate_consistency()).consistent


async def test_what_went_on_under_the_new_definition_is_not_moved_again(memory_places: Places):
    """A machine that has come to a state by the new definition's own rules stays there, though the map names it."""
    final = define(
        "order",
        OrderNow,
        initial=OrderNow.Placed,
        version=3,
        context=Cart,
        rules=[allow(OrderNow.Placed, OrderNow.Shipped), allow(OrderNow.Shipped, OrderNow.Lost)],
        dead_ends=[OrderNow.Settled],
        unreached=[OrderNow.Settled, OrderNow.Delivered],
    )
    states = {"Delivered": "Shipped", "Lost": "Placed"}
    async with memory_places.new().store() as store:
        machine = await paid_order(store)
        await machine.transition_to(Order.Lost, Command("lose"))
        assert (await migrate_machines(store, final, states)).moved == 1
        moved = store.machine(GOVERNOR, "o", final, metadata=METADATA)
        await moved.transition_to(OrderNow.Shipped, Command("ship"))
        await moved.transition_to(OrderNow.Lost, Command("lose"))
        assert await migrate_machines(store, final, states) == MigrationReport(left=1)
        assert (await moved.get()).state is OrderNow.Lost


async def test_what_is_left_and_what_is_refused(memory_places: Places):
    """Known states, other machines, plain and deleted states stay; an unknown state that nothing names is refused."""
    async with memory_places.new().store() as store:
        await paid_order(store, "a")
        await store.machine(GOVERNOR, "b", ORDER, metadata=METADATA).initialize(context=Cart())
        await store.machine(GOVERNOR, "c", JOB, metadata=METADATA).initialize(context=Note())
        await store.save_state(GOVERNOR, "d", {"machine": 5}, METADATA)
        await paid_order(store, "e")
        await store.delete_state(GOVERNOR, "e", METADATA, expected=2)
        report = await migrate_machines(store, ORDER_NOW, {})
        assert (report.moved, report.left, report.complete) == (0, 1, False)
        [(path, why)] = report.refused
        assert path == f"governors/{GOVERNOR}/states/a"
        assert "'Paid', which 'order' version 2" in why
        assert await actions(store, "a") == ["initialize", "transition"]


async def test_a_dry_run_counts_and_writes_nothing(memory_places: Places):
    """It says what a run would do, and leaves the store as it is."""
    place = memory_places.new()
    engine: Any = CountingEngine(place.engine())
    async with place.store(engine) as store:
        await paid_order(store, "a")
        await paid_order(store, "b")
        engine.reset()
        assert (await migrate_machines(store, ORDER_NOW, SETTLED, dry_run=True)).moved == 2
        assert engine.counts.commits == []
        assert (await migrate_machines(store, ORDER_NOW, SETTLED, governor_id=GOVERNOR)).moved == 2
        assert len(engine.counts.commits) == 2


async def test_data_that_differs_takes_a_function(memory_places: Places):
    """Data that fits stays as it is; other data is refused by name, unless a function gives the new one."""
    async with memory_places.new().store() as store:
        for name, state in [("a", Waiting()), ("b", Running(worker="w")), ("c", Done())]:
            machine = store.machine(GOVERNOR, name, JOB, metadata=METADATA)
            await machine.initialize(context=Note(text="four"))
            await machine.force_state(state, "the test begins here")
        report = await migrate_machines(store, JOB_NOW, JOB_STATES)
        assert (report.moved, [path[-1] for path, _ in report.refused]) == (2, ["a"])
        assert "does not fit the model at priority: it takes a function for 'Waiting'" in report.refused[0][1]
        assert (await store.machine(GOVERNOR, "b", JOB_NOW).get()).state == Working(worker="w")
        [_, migration] = JOBS
        assert isinstance(migration, Migration)
        report = await migrate_machines(store, migration, JOB_STATES)
        assert (report.moved, report.left, report.complete) == (1, 2, True)
        moved = await store.machine(GOVERNOR, "a", JOB_NOW).get()
        assert (moved.state, moved.context) == (Queued(priority=4), Note(text="four"))


def _without_context(version: int = 2) -> Definition[Any, None]:
    return define("order", OrderNow, initial=OrderNow.Placed, version=version, rules=RULES_NOW)


def _raising(_: FormerMachine) -> Any:
    return 1 // 0


@pytest.mark.parametrize(
    ("migration", "states", "why"),
    [
        (_without_context(), SETTLED, "it has a context, and 'order' version 2"),
        (Migration(ORDER_NOW, {"Paid": _raising}), SETTLED, "the function for 'Paid' raised ZeroDivisionError"),
        (Migration(ORDER_NOW, {"Paid": lambda _: 5}), SETTLED, "the function for 'Paid' raised TypeError"),  # type: ignore[arg-type, return-value]
        (
            Migration(ORDER_NOW, {"Paid": lambda _: (OrderNow.Placed, Cart())}),
            SETTLED,
            "the function for 'Paid' gave Placed, not Settled",
        ),
        (
            Migration(ORDER_NOW, {"Paid": lambda _: (OrderNow.Settled, Cart(paid=5))}),
            SETTLED,
            "an invariant would not hold: settled means paid",
        ),
        (Migration(ORDER_NOW, {"Paid": lambda _: (OrderNow.Settled, None)}), SETTLED, "it does not fit its model"),  # type: ignore[arg-type, return-value]
    ],
)
async def test_a_machine_that_cannot_be_moved_is_refused_alone(
    memory_places: Places, migration: Any, states: Mapping[str, str], why: str
):
    """Models, functions and invariants refuse one machine, with the reason, and the others are moved."""
    async with memory_places.new().store() as store:
        await paid_order(store)
        report = await migrate_machines(store, migration, states)
        assert (report.moved, len(report.refused)) == (0, 1)
        assert why in report.refused[0][1]
        assert await actions(store) == ["initialize", "transition"]


async def test_what_a_state_carries_is_not_lost(memory_places: Places):
    """A state that carries data is not moved to one that carries none, unless a function says so."""
    bare = define("job", OrderNow, initial=OrderNow.Placed, version=2, rules=RULES_NOW, context=Note)
    async with memory_places.new().store() as store:
        machine = store.machine(GOVERNOR, "j", JOB, metadata=METADATA)
        await machine.initialize(context=Note())
        await machine.transition_to(Running(worker="w"), Command("run"))
        report = await migrate_machines(store, bare, {"Running": "Shipped"})
        assert "'Running' carries data, and 'Shipped' carries none: it takes a function" in report.refused[0][1]
        dropped = Migration(bare, {"Running": lambda _: (OrderNow.Shipped, Note())})
        assert await migrate_machines(store, dropped, {"Running": "Shipped"}) == MigrationReport(moved=1)


async def test_no_field_of_a_context_is_lost(memory_places: Places):
    """A context with a field that the definition's model does not know is refused, as it takes a function."""
    async with memory_places.new().store() as store:
        await paid_order(store)
        data = (await store.get_state(GOVERNOR, "o")).data
        data["context"]["gift"] = True
        await store.update_state(GOVERNOR, "o", data, METADATA, expected=2)
        report = await migrate_machines(store, ORDER_NOW, SETTLED)
        [(_, why)] = report.refused
        known = f"'order' version 2 ({ORDER_NOW.hash})"
        assert why == f"its context has fields that {known} does not know: it takes a function for 'Paid'"


async def test_damage_is_named_and_does_not_stop_the_others(memory_places: Places):
    """A damaged state and one that is lost are refused; the machines beside them are moved."""
    place = memory_places.new()
    async with place.store() as store:
        for name in ("a", "b", "c"):
            await paid_order(store, name)
        layout = store.core.layout
        await edit(store.core.engine, layout.stream(GOVERNOR, "a").state, state_hash="0" * 64)
        await store.core.engine.commit([Delete(layout.stream(GOVERNOR, "b").state)])
    async with place.store() as store:
        report = await migrate_machines(store, ORDER_NOW, SETTLED)
        assert (report.moved, [path[-1] for path, _ in report.refused]) == (1, ["a", "b"])


async def test_a_machine_that_moves_on_meanwhile_is_judged_again(memory_places: Places):
    """A step of another writer between look and commit is not lost: the machine is looked at again, and then left."""
    place = memory_places.new()
    async with place.store() as other:
        machine = await paid_order(other)
        moved: list[MigrationReport] = []

        class Overtaken(CountingEngine):
            async def commit(self, writes: Any) -> Any:
                if not moved:
                    moved.append(MigrationReport())
                    await machine.transition_to(Order.Shipped, Command("ship"))
                return await super().commit(writes)

        async with place.store(Overtaken(place.engine())) as store:  # type: ignore[arg-type]
            assert await migrate_machines(store, ORDER_NOW, SETTLED) == MigrationReport(left=1)
        assert await actions(other) == ["initialize", "transition", "transition"]


async def test_two_migrations_at_once_move_each_machine_once(place: Place):
    """Both end well, and each machine has one event of it."""
    async with place.store() as store, place.store() as other:
        for number in range(10):
            await paid_order(store, f"{number}")

        async def beside(report: MigrationReport) -> None:
            if report.moved == 1:
                await migrate_machines(other, ORDER_NOW, SETTLED)

        report = await migrate_machines(store, ORDER_NOW, SETTLED, progress=beside)
        assert (report.moved + report.left, report.complete) == (10, True)
        for number in range(10):
            assert await actions(store, f"{number}") == ["initialize", "transition", "migrate"]


@pytest.mark.parametrize("fault", [Fault.LOST_BEFORE, Fault.LOST_AFTER, Fault.DUPLICATED], ids=lambda fault: fault.name)
async def test_a_lost_answer_moves_no_machine_twice(memory_places: Places, fault: Fault):
    """Whatever becomes of a commit or its answer, each machine is moved by one event, and counted once."""
    place = memory_places.new()
    async with place.store() as store:
        for number in range(3):
            await paid_order(store, f"{number}")
    engine = FaultyEngine(place.engine(), AtCalls(dict.fromkeys(range(0, 40, 3), fault)))
    async with place.store(engine) as store:
        report = await migrate_machines(store, ORDER_NOW, SETTLED)
    assert report == MigrationReport(moved=3)
    async with place.store() as store:
        for number in range(3):
            assert await actions(store, f"{number}") == ["initialize", "transition", "migrate"]


KILLED = """
import sys, anyio
sys.path.insert(0, "")
from order_versions import ORDER_NOW
from tai_state import open_store
from tai_state.machines import migrate_machines

async def told(report):
    print(report.moved, flush=True)
    sys.stdin.readline()

async def main():
    async with open_store("sqlite:///orders.db") as store:
        await migrate_machines(store, ORDER_NOW, {"Paid": "Settled"}, progress=told)

anyio.run(main)
"""


async def test_a_migration_that_was_killed_is_completed(tmp_path: Path):
    """A process killed in the middle leaves each machine moved or not; the next run moves the rest, each once."""
    write_app(tmp_path)
    url = f"sqlite:///{tmp_path}/orders.db"
    async with open_store(url) as store:
        for number in range(12):
            await paid_order(store, f"{number:02}")
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with started([sys.executable, "-c", KILLED], cwd=tmp_path, **streams) as process:
        for moved in range(1, 6):
            assert process.stdout.readline() == f"{moved}\n"
            process.stdin.write("\n")
            process.stdin.flush()
        process.kill()
        process.wait()
    async with open_store(url) as store:
        dry = await migrate_machines(store, ORDER_NOW, SETTLED, dry_run=True)
        assert dry.left in {5, 6}
        assert await migrate_machines(store, ORDER_NOW, SETTLED) == dry
        for number in range(12):
            assert await actions(store, f"{number:02}") == ["initialize", "transition", "migrate"]
        report = await check_machines(store, ORDERS)
        assert (report.consistent, report.migrated) == (True, 12)


async def test_states_of_another_schema_are_left_to_the_application(memory_places: Places):
    """A store that reads data as it is stored would write another schema's number, so it moves nothing."""
    place = memory_places.new()
    async with place.store() as store:
        await paid_order(store)
        await edit(store.core.engine, store.core.layout.stream(GOVERNOR, "o").state, schema=3)
    async with open_store(place.engine(), schema=None) as store:
        report = await migrate_machines(store, ORDER_NOW, SETTLED, dry_run=True)
        assert report == await migrate_machines(store, ORDER_NOW, SETTLED)
        assert report.moved == 0
        assert "is of the schema 3: call `migrate_machines`" in report.refused[0][1]


@pytest.mark.parametrize(
    ("migration", "states", "more"),
    [
        (5, SETTLED, {}),
        (None, SETTLED, {}),
        (Migration(5), SETTLED, {}),  # type: ignore[arg-type]
        (Migration(ORDER_NOW, 5), SETTLED, {}),  # type: ignore[arg-type]
        (Migration(ORDER_NOW, {"Paid": 5}), SETTLED, {}),  # type: ignore[dict-item]
        (ORDER_NOW, 5, {}),
        (ORDER_NOW, {5: "Settled"}, {}),
        (ORDER_NOW, {"Paid": 5}, {}),
        (ORDER_NOW, {"Paid": "Gone"}, {}),
        (ORDER_NOW, {"Placed": "Settled"}, {}),
        (ORDER_NOW, SETTLED, {"metadata": 5}),
        (ORDER_NOW, SETTLED, {"dry_run": "yes"}),
        (ORDER_NOW, SETTLED, {"progress": 5}),
    ],
)
async def test_what_an_argument_cannot_mean_is_refused(
    memory_places: Places, migration: Any, states: Any, more: dict[str, Any]
):
    """It is refused before the engine is asked anything."""
    place = memory_places.new()
    engine: Any = CountingEngine(place.engine())
    async with place.store(engine) as store:
        engine.reset()
        with pytest.raises(InvalidData):
            await migrate_machines(store, migration, states, **more)
        assert engine.counts.calls == 0
        with pytest.raises(GovernorNotFound):
            await migrate_machines(store, ORDER_NOW, SETTLED, governor_id="nobody")


async def test_who_migrates_and_why_is_kept(memory_places: Places):
    """The metadata of the call stands in each event, its reason too, and a service's older step is refused by name."""
    async with memory_places.new().store() as store:
        machine = await paid_order(store)
        await migrate_machines(store, ORDER_NOW, SETTLED, metadata=ChangeMetadata("Ada", "release 2"))
        [event] = await collected(store.get_events(GOVERNOR, "o", after=2))
        assert (event.metadata.changed_by, event.metadata.reason) == ("Ada", "release 2")
        assert event.payload == {"trigger": {"type": "command", "command": "migrate Paid to Settled"}, "to": "Settled"}
        with pytest.raises((UnknownMachineState, VersionConflict)):
            await machine.transition_to(Order.Shipped, Command("ship"))
        assert queued(FormerMachine("Waiting", {}, {"text": "ab"}, 0, 1)) == (Queued(priority=2), Note(text="ab"))
