"""Machines of other libraries are states like every other one, and are never taken for something else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from statemachine import State, StateChart

from tai_state import (
    ANY,
    DeletedState,
    InvalidData,
    InvalidTransition,
    SerializationError,
    StateHandle,
    StateMachinePersister,
    StateStore,
    UnknownMachineState,
    sync,
)
from tai_state.adapters import StatemachineAdapter, TransitionsAdapter
from tai_state.machines.envelope import read_envelope

from ..support.adapted import BillMachine, Bulb, Payments, Works, begun, bills, bulb_machine, bulbs, mill_machine
from ..support.orders import ORDER, Cart
from ..support.stores import GOVERNOR, METADATA, Places, collected, edit

pytestmark = pytest.mark.anyio


async def test_what_stands_in_a_state(memory_places: Places):
    """One object for the machine and one for its attributes, as the format says."""
    async with memory_places.new().store() as store:
        bill = await begun(bills(store))
        await bill.send("pay", {"cents": 100})
        assert (await store.get_state(GOVERNOR, "m")).data == {
            "chart": {
                "library": "python-statemachine",
                "name": "BillMachine",
                "state": "paid",
                "configuration": ["paid"],
            },
            "context": {"cents": 100},
        }
        [event] = await collected(store.get_events(GOVERNOR, "m", after=1))
        assert (event.action, event.payload) == (
            "transition",
            {"trigger": {"type": "event", "event": "pay"}, "payload": {"cents": 100}},
        )
        await bill.send("close")
        assert (await store.get_state(GOVERNOR, "m")).data["chart"]["is_final"] is True
        mill = await begun(TransitionsAdapter(store, mill_machine, model=Bulb, metadata=METADATA), "mill")
        await mill.send("begin")
        assert (await store.get_state(GOVERNOR, "mill")).data == {
            "chart": {
                "library": "transitions",
                "name": "Bulb",
                "state": "work_wheel_still|work_gate_shut",
                "configuration": ["work_wheel_still", "work_gate_shut"],
            }
        }


async def test_what_works_for_states_works_for_these_machines(memory_places: Places):
    """They are found by their states, watched, read at a past version, verified, recovered, exported and restored."""
    place, other = memory_places.new(), memory_places.new()
    other.skip_ids()
    async with place.store(indexed=("chart.state",)) as store, other.store() as elsewhere:
        bill = await begun(bills(store))
        await begun(bills(store), "n")
        await bill.send("pay", {"cents": 100})
        found = await collected(store.find_states(GOVERNOR, {"chart.state": "paid"}))
        assert [each.state_id for each in found] == ["m"]
        persister = StateMachinePersister(store)
        past = await persister.get_state_at(GOVERNOR, "m", 1)
        assert not isinstance(past, DeletedState)
        assert past.data["chart"]["state"] == "unpaid"
        async with store.watch(GOVERNOR, "m") as changes:
            seen = await anext(changes)
            assert seen.version == 2
        path = place.folder / "export.jsonl"
        await persister.export_history(GOVERNOR, path)
        await StateMachinePersister(elsewhere).import_history(path)
        moved = bills(elsewhere).machine(GOVERNOR, "m")
        assert (await moved.send("close")).version == 3
        assert (await StateMachinePersister(elsewhere).validate_consistency()).consistent
        await sync(store, elsewhere)
        assert (await bill.get()).state == "closed"
        stream = bill.stream
        [document] = (await store.core.engine.read([stream.state])).documents
        assert document is not None
        await edit(store.core.engine, stream.state, data={})
        await persister.recover(GOVERNOR)
        assert (await bill.get()).state == "closed"


async def test_a_history_reads_what_others_have_written(memory_places: Places):
    """Logged events, plain changes and deletions are records without an event, and raise nothing."""
    async with memory_places.new().store() as store:
        bill = await begun(bills(store))
        plain: StateHandle[dict[str, Any]] = store.state(GOVERNOR, "m")
        await plain.log("noted", METADATA, payload=5)
        await plain.update(lambda data: {**data, "context": {"cents": 1}}, METADATA, action="transition", payload=[])
        await plain.save({"other": 1}, METADATA, expected=ANY)
        await plain.delete(METADATA, expected=ANY)
        await bill.initialize()
        records = await collected(bill.history())
        assert [(each.kind, each.event, each.to_configuration) for each in records] == [
            ("initialize", None, ("unpaid",)),
            ("noted", None, ("unpaid",)),
            ("transition", None, ("unpaid",)),
            ("save", None, None),
            ("delete", None, None),
            ("initialize", None, ("unpaid",)),
        ]
        assert [each.version for each in await collected(bill.history(newest_first=True, limit=2))] == [6, 5]


async def test_typed_machines_and_adapted_ones_are_never_taken_for_each_other(memory_places: Places):
    """Each refuses the other by name, in reading and in a step."""
    async with memory_places.new().store() as store:
        typed = store.machine(GOVERNOR, "typed", ORDER, metadata=METADATA)
        await typed.initialize(context=Cart())
        bill = bills(store).machine(GOVERNOR, "typed")
        with pytest.raises(SerializationError, match="does not hold a machine of another library"):
            await bill.get()
        with pytest.raises(SerializationError, match="does not hold a machine of another library"):
            await bill.send("pay")
        await begun(bills(store))
        with pytest.raises(SerializationError, match="does not hold a machine"):
            await store.machine(GOVERNOR, "m", ORDER).get()
        with pytest.raises(SerializationError):
            read_envelope((await store.get_state(GOVERNOR, "m")).data, "p")
        assert [each.state for each in await collected(store.machine(GOVERNOR, "m", ORDER).history())] == [None]


class Smaller(StateChart):
    """The works, after somebody has built them smaller."""

    class running(State.Compound, initial=True):  # noqa: N801
        """One line."""

        class left(State.Compound, initial=True):  # noqa: N801
            """The only one."""

            cold = State(initial=True)
            hot = State()
            heat = cold.to(hot)

    stopped = State()
    stop = running.to(stopped)
    resume = stopped.to(running)


async def test_a_configuration_that_the_machine_does_not_have(memory_places: Places):
    """Another library, another name, states that are gone or nest otherwise: the error names both, and nothing runs."""
    async with memory_places.new().store() as store:
        works = await begun(StatemachineAdapter(store, Works, metadata=METADATA))
        await works.send("stop")
        cases: list[tuple[Any, str]] = [
            (bills(store), "is of another one"),
            (bulbs(store), "is of another one"),
            (StatemachineAdapter(store, Smaller, name="Works", metadata=METADATA), "has no empty, last, lines, right"),
        ]
        for adapter, what in cases:
            with pytest.raises(UnknownMachineState, match=what) as unknown:
                await adapter.machine(GOVERNOR, "m").get()
            error = unknown.value
            assert (error.state, error.stored) == ("stopped", "python-statemachine machine 'Works'")
            assert "adapter of the" in error.known
            with pytest.raises(UnknownMachineState):
                await adapter.machine(GOVERNOR, "m").send("to_lit" if adapter is cases[1][0] else "resume")
        assert (await works.get()).version == 2
        nested = {
            "not nested so": ["running", "left", "cold"],
            "without its parent": ["lines", "left", "cold", "right", "empty"],
            "without its child": ["running", "lines", "left", "right", "empty"],
            "in no state": [],
        }
        plain = store.state(GOVERNOR, "m")
        for configuration in nested.values():
            chart = {"library": "python-statemachine", "name": "Works", "state": "x", "configuration": configuration}
            await plain.save({"chart": chart}, METADATA, expected=ANY)
            with pytest.raises(UnknownMachineState):
                await works.get()
        for name, states in (("Bulb", ["lit", "dark"]), ("Bulb", []), ("Bulb", ["gone"])):
            chart = {"library": "transitions", "name": name, "state": "x", "configuration": states}
            await plain.save({"chart": chart}, METADATA, expected=ANY)
            with pytest.raises(UnknownMachineState):
                await bulbs(store).machine(GOVERNOR, "m").get()


async def test_the_context_and_the_model_may_grow_apart(memory_places: Places):
    """New fields get their defaults, unknown ones are kept, and a context without a model is refused."""

    class More(BaseModel):
        cents: int = 0
        watts: int = 40

    class Bright(Bulb):
        watts = 40

    async with memory_places.new().store() as store:
        bulb = await begun(bulbs(store))
        await bulb.send("switch", {"cents": 7})
        grown = TransitionsAdapter(store, bulb_machine, model=Bright, name="Bulb", context=More, metadata=METADATA)
        more = await grown.machine(GOVERNOR, "m").send("dim", {"cents": 1})
        assert more.context == More(cents=8, watts=40)
        await bulb.send("dim", {"cents": 2})
        assert (await store.get_state(GOVERNOR, "m")).data["context"] == {"cents": 10, "watts": 40}
        without = TransitionsAdapter(store, bulb_machine, model=Bulb, metadata=METADATA).machine(GOVERNOR, "m")
        with pytest.raises(SerializationError, match="holds a context"):
            await without.get()
        with pytest.raises(SerializationError, match="holds a context"):
            await without.send("dim")
        added = await begun(TransitionsAdapter(store, bulb_machine, model=Bulb, metadata=METADATA), "added")
        await added.send("switch")
        assert (await bulbs(store).machine(GOVERNOR, "added").get()).context == Payments(cents=0)


async def test_arguments_and_contexts_are_checked_before_anything_happens(memory_places: Places):
    """What is not JSON, what is no object, and a context of another model."""
    async with memory_places.new().store() as store:
        bill: Any = await begun(bills(store))
        for arguments in (5, [], {"cents": {1}}, {"cents": float("nan")}, {1: 2}):
            with pytest.raises(InvalidData):
                await bill.send("pay", arguments)
        works: Any = StatemachineAdapter(store, Works, metadata=METADATA).machine(GOVERNOR, "n")
        for machine, context in ((works, Payments()), (bills(store).machine(GOVERNOR, "n"), Cart())):
            with pytest.raises(InvalidData):
                await machine.initialize(context=context)
        assert (await bill.get()).version == 1
        assert not await works.exists()


@pytest.mark.parametrize("library", ["statemachine", "transitions"])
def test_a_library_that_is_missing_names_the_extra(library: str, tmp_path: Path):
    """Importing the adapters needs neither library; making an adapter says what to install."""
    name = f"{library.capitalize()}Adapter"
    code = f"""
import sys
sys.modules[{library!r}] = None
import anyio, tai_state
from tai_state.adapters import {name}
assert not {{"transitions", "statemachine"}} & {{each for each, found in sys.modules.items() if found}}
async def main():
    async with tai_state.open_store("memory://") as store:
        {name}(store, lambda *_: None)
anyio.run(main)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (
        f'ModuleNotFoundError: its adapter needs the extra {library}; run: pip install "tai-state[{library}]"'
        in done.stderr
    )


async def test_an_adapter_needs_an_open_store(memory_places: Places):
    """It is refused without one, and a handle that outlives its store says so."""
    store: StateStore = memory_places.new().store()
    with pytest.raises(RuntimeError, match="not open"):
        bills(store)
    untyped: Any = StatemachineAdapter
    with pytest.raises(InvalidData, match="an open store is needed"):
        untyped(5, BillMachine)
    async with store:
        bill = await begun(bills(store))
        assert repr(bills(store)) == "<StatemachineAdapter 'BillMachine'>"
        with pytest.raises(InvalidTransition):
            await bill.send("close")
    with pytest.raises(RuntimeError):
        await bill.send("close")
