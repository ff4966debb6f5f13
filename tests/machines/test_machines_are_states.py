"""Whatever works for a state works for a machine: finding, watching, time travel, repair, export, transactions."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from tai_state import (
    EveryEvents,
    InvalidTransition,
    MachineInTransaction,
    StateMachinePersister,
    StateStore,
    Transaction,
    VersionConflict,
    sync,
)
from tai_state.engines.api import Delete
from tai_state.machines import Command, Failure, PersistentMachine

from ..support.orders import ORDER, PAY, Cart, Order, Payment
from ..support.stores import GOVERNOR, METADATA, Place, Places, collected

pytestmark = pytest.mark.anyio

SHIP = Command("ship")


def order(store: StateStore, state_id: str = "o") -> PersistentMachine[Order, Cart]:
    """A handle on an order."""
    return store.machine(GOVERNOR, state_id, ORDER, metadata=METADATA)


async def paid_order(store: StateStore, state_id: str = "o") -> PersistentMachine[Order, Cart]:
    """An order that is paid."""
    machine = order(store, state_id)
    await machine.initialize(context=Cart())
    await machine.fire(PAY, Payment(cents=100))
    return machine


async def test_machines_are_found_by_their_states(place: Place):
    """An index on the state's name finds the machines that are in it."""
    async with place.store(indexed=("machine.state", "machine.name")) as store:
        await paid_order(store, "a")
        await order(store, "b").initialize(context=Cart())
        where = {"machine.state": "Paid", "machine.name": "order"}
        assert [found.state_id for found in await collected(store.find_states(GOVERNOR, where))] == ["a"]


async def test_a_machine_is_watched(store: StateStore):
    """A watch tells of each step."""
    machine = await paid_order(store)
    async with store.watch(GOVERNOR, "o") as changes:
        await anext(changes)
        await machine.transition_to(Order.Shipped, SHIP)
        assert (await anext(changes)).data["machine"]["state"] == "Shipped"


async def test_a_machine_that_lost_its_state_is_recovered(store: StateStore):
    """State, context, epoch and the time of entering come back from the events, and nothing runs twice."""
    machine = await paid_order(store)
    await machine.transition_to(Order.Shipped, SHIP)
    await machine.transition_to(Order.Delivered, SHIP)
    before = await machine.get()
    await store.core.engine.commit([Delete(machine.stream.state)])
    report = await store.recover()
    assert (report.rebuilt, report.failed) == ((machine.stream.state,), ())
    after = await order(store).get()
    assert (after.state, after.context, after.epoch) == (before.state, before.context, before.epoch)
    assert (after.version, after.entered_at) == (before.version, before.entered_at)
    assert (await StateMachinePersister(store).validate_consistency(GOVERNOR)).consistent


async def test_a_machine_goes_on_after_export_and_cleanup(memory_places: Places, tmp_path: Path):
    """A restored machine, and one whose first events are gone, are where they were, and take their next step."""
    place, other = memory_places.new(), memory_places.new()
    async with place.store(snapshots=EveryEvents(2, keep=2)) as store:
        await paid_order(store)
        await StateMachinePersister(store).export_history(GOVERNOR, tmp_path / "orders.jsonl")
        for number in range(4):
            await store.log_event(GOVERNOR, "o", f"looked {number}", METADATA)
        place.clock.advance_us(7 * 86_400_000_000)
        await store.log_event(GOVERNOR, "o", "looked", METADATA)
        await StateMachinePersister(store).cleanup_old_data(GOVERNOR, keep=timedelta(days=1))
        left = await collected(order(store).history())
        assert left[0].version > 1
        assert {each.to_state for each in left} == {"Paid"}
        assert (await order(store).transition_to(Order.Shipped, SHIP)).state is Order.Shipped
    async with other.store() as store:
        await StateMachinePersister(store).import_history(tmp_path / "orders.jsonl")
        assert (await order(store).get()).context == Cart(paid=100)
        assert (await order(store).transition_to(Order.Shipped, SHIP)).version == 3


async def test_a_machine_takes_a_step_in_each_of_two_stores(memory_places: Places):
    """A store that is only behind takes a step over, and the machine goes on there."""
    async with memory_places.new().store() as one, memory_places.new().store() as other:
        await paid_order(one)
        assert (await sync(one, other)).complete
        await order(other).transition_to(Order.Shipped, SHIP)
        assert (await sync(one, other)).complete
        assert (await order(one).get()).state is Order.Shipped
        assert [each.kind for each in await collected(order(one).history())][-1] == "transition"


async def both(store: StateStore, function: Callable[..., None]) -> None:
    """Do something with two machines in one transaction."""

    async def run(transaction: Transaction) -> None:
        function(transaction.machine(order(store, "a")), transaction.machine(order(store, "b")))

    await store.transact(run, METADATA)


async def test_steps_of_several_machines_are_one_commit(store: StateStore):
    """Two machines begin, move and are forced in transactions: all of it, or nothing if one step is refused."""

    def begin(a: MachineInTransaction[Order, Cart], b: MachineInTransaction[Order, Cart]) -> None:
        for each in (a, b):
            each.initialize(context=Cart())

    def pay(a: MachineInTransaction[Order, Cart], b: MachineInTransaction[Order, Cart]) -> None:
        a.fire(PAY, Payment(cents=100))
        a.transition_to(Order.Shipped, SHIP)
        b.force_state(Order.Shipped, "it was sent by mistake")

    def refused(a: MachineInTransaction[Order, Cart], b: MachineInTransaction[Order, Cart]) -> None:
        a.transition_to(Order.Delivered, SHIP)
        b.transition_to(Order.Paid, SHIP)

    await both(store, begin)
    await both(store, pay)
    with pytest.raises(InvalidTransition, match="states/b"):
        await both(store, refused)
    found = {each: await order(store, each).get() for each in "ab"}
    assert {each: (machine.state, machine.version) for each, machine in found.items()} == {
        "a": (Order.Shipped, 3),
        "b": (Order.Shipped, 2),
    }
    with pytest.raises(VersionConflict):
        await both(store, begin)


async def test_a_transaction_sees_the_step_that_it_will_take(store: StateStore):
    """After a step, the transaction reads the machine as it will be; a refusal is told when it is read, too."""
    await paid_order(store)

    async def ship(transaction: Transaction) -> Order:
        machine = transaction.machine(order(store))
        assert (await machine.get()).state is Order.Paid
        machine.transition_to(Order.Shipped, SHIP)
        return (await machine.get()).state

    assert await store.transact(ship, METADATA) is Order.Shipped

    async def lose(transaction: Transaction) -> None:
        machine = transaction.machine(order(store))
        await machine.get()
        machine.transition_to(Order.Placed, SHIP)
        with pytest.raises(InvalidTransition):
            await machine.get()
        raise InvalidTransition("o", "", "", "", "seen", ())

    with pytest.raises(InvalidTransition, match="seen"):
        await store.transact(lose, METADATA)


async def test_a_refusal_in_a_transaction_rests_on_what_is_stored(place: Place):
    """A transaction that remembers a machine from before looks again before it refuses a step."""
    async with place.store() as store, place.store() as other:
        await order(store).initialize(context=Cart())

        async def pay(transaction: Transaction) -> None:
            transaction.machine(order(store)).fire(PAY, Payment(cents=100))

        async def ship(transaction: Transaction) -> None:
            transaction.machine(order(store)).transition_to(Order.Shipped, SHIP)

        await store.transact(pay, METADATA)
        await order(other).force_state(Order.Placed, "a mistake")
        await order(other).fire(PAY, Payment(cents=100))
        await store.transact(ship, METADATA)
        assert (await order(other).get()).state is Order.Shipped
        await order(other).transition_to(Order.Lost, Failure("van", "it burnt"))
        with pytest.raises(InvalidTransition, match="final"):
            await store.transact(ship, METADATA)
