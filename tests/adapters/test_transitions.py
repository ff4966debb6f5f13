"""Machines of transitions, stored: their own conditions and callbacks, one commit for each event."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any

import pytest
from pydantic import BaseModel
from transitions import Machine, MachineError, State
from transitions.extensions import GraphMachine, HierarchicalMachine, LockedMachine
from transitions.extensions.nesting import NestedState
from transitions.extensions.states import Retry, Tags, Timeout, Volatile, add_state_features

from tai_state import InvalidData, InvalidDefinition, InvalidTransition, StateStore
from tai_state.adapters import TransitionsAdapter
from tai_state.adapters.transitions import IDLE_MAX

from ..support.adapted import (
    SEEN,
    Bulb,
    Clerk,
    Payments,
    async_mill_machine,
    begun,
    bulb_machine,
    bulbs,
    clerk_machine,
    mill_machine,
)
from ..support.stores import GOVERNOR, METADATA, Places, collected

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _seen() -> Iterator[None]:
    SEEN.clear()
    yield
    SEEN.clear()


async def test_a_bulb_goes_its_way(store: StateStore):
    """Each event is one version, with the state and the attributes that are kept; inner transitions, too."""
    bulb = await begun(bulbs(store))
    lit = await bulb.send("switch", {"cents": 3})
    assert (lit.version, lit.state, lit.configuration, lit.context) == (2, "lit", ("lit",), Payments(cents=3))
    dim = await bulb.send("dim")
    assert (dim.version, dim.state, dim.context) == (3, "lit", Payments(cents=4))
    assert (await bulb.send("to_dark")).state == "dark"
    assert [(each.event, each.arguments) for each in await collected(bulb.history(after=1))] == [
        ("switch", {"cents": 3}),
        ("dim", {}),
        ("to_dark", {}),
    ]
    assert SEEN == ["count 3", "count 1"]


async def test_refusals_name_the_machine_and_the_events_that_lead_on(memory_places: Places):
    """What no transition takes, and conditions that do not hold, are refused, and nothing is written."""
    async with memory_places.new().store() as store:
        bulb = await begun(bulbs(store))
        with pytest.raises(InvalidTransition, match="'dim' leads nowhere from here") as refused:
            await bulb.send("dim")
        assert (refused.value.from_state, refused.value.allowed) == ("dark", ("switch", "light", "never"))
        assert isinstance(refused.value.__cause__, MachineError)
        with pytest.raises(InvalidTransition, match="no condition of the event 'never' holds"):
            await bulb.send("never")
        tolerant = TransitionsAdapter(
            store, lambda: bulb_machine(ignore_invalid_triggers=True, queued=True), model=Bulb, metadata=METADATA
        )
        other = await begun(tolerant, "other")
        for event in ("dim", "never"):
            with pytest.raises(InvalidTransition):
                await other.send(event)
        assert [(await each.get()).version for each in (bulb, other)] == [1, 1]
        for event in ("blink", "", "__init__", "model"):
            with pytest.raises(InvalidData, match="has no event"):
                await bulb.send(event)
        for name in ("model", "trigger", "self"):
            with pytest.raises(InvalidData, match=f"cannot be named {name}"):
                await bulb.send("switch", {name: 1})


async def test_an_error_of_a_callback_reaches_the_caller_and_nothing_is_written(memory_places: Places):
    """It is the callback's own error, also if it is one of the library's."""

    class Angry(Bulb):
        def count(self, **_: Any) -> None:
            raise MachineError("no more")

    async with memory_places.new().store() as store:
        bulb = await begun(bulbs(store))
        await bulb.send("switch")
        with pytest.raises(LookupError, match="no such socket"):
            await bulb.send("burn")
        assert ((await bulb.get()).state, (await bulb.get()).version) == ("lit", 2)
        angry = await begun(TransitionsAdapter(store, bulb_machine, model=Angry, metadata=METADATA), "angry")
        with pytest.raises(MachineError, match="no more"):
            await angry.send("switch")
        assert (await angry.get()).version == 1


class Careful(Bulb):
    """A model that is told of errors."""

    def __init__(self) -> None:
        super().__init__()
        self.is_kept = False

    def rescue(self, event: Any) -> None:
        """Go dark, or keep still."""
        SEEN.append(str(event.error))
        if not event.kwargs.get("is_kept"):
            event.model.to_dark()

    def count(self, _event: Any) -> None:
        """Do nothing."""

    def may_glow(self, _event: Any) -> bool:
        """Always."""
        return True

    def burst(self, _event: Any) -> None:
        """Fail."""
        raise LookupError("no such socket")


async def test_errors_that_only_the_machine_is_told_of(memory_places: Places):
    """If ``on_exception`` leads on, what became of the machine is stored; otherwise the caller gets the error."""
    async with memory_places.new().store() as store:
        adapter = TransitionsAdapter(
            store, lambda: bulb_machine(on_exception="rescue", send_event=True), model=Careful, metadata=METADATA
        )
        bulb = await begun(adapter)
        await bulb.send("switch")
        assert (await bulb.send("burn")).state == "dark"
        await bulb.send("switch")
        with pytest.raises(LookupError, match="no such socket"):
            await bulb.send("burn", {"is_kept": True})
        assert SEEN == ["no such socket", "no such socket"]
        assert ((await bulb.get()).state, (await bulb.get()).version) == ("lit", 4)


async def test_nested_and_parallel_states_are_restored_without_a_callback(memory_places: Places):
    """Each event finds the whole configuration, in the order and the nesting that the library had."""
    async with memory_places.new().store() as store:
        mill = await begun(TransitionsAdapter(store, mill_machine, model=Bulb, metadata=METADATA))
        assert (await mill.send("begin")).configuration == ("work_wheel_still", "work_gate_shut")
        assert (await mill.send("lift")).state == "work_wheel_still|work_gate_open_half"
        assert (await mill.send("push")).state == "work_wheel_turning|work_gate_open_half"
        assert (await mill.send("lift")).state == "work_wheel_turning|work_gate_open_wide"
        with pytest.raises(InvalidTransition) as refused:
            await mill.send("push")
        assert refused.value.allowed == ("end",)
        assert (await mill.send("end")).configuration == ("idle",)


async def test_the_shape_that_callbacks_see_is_the_one_that_the_library_had(memory_places: Places):
    """A list of lists, as the library nests parallel states in parallel states."""
    inner = {"name": "b", "parallel": ["x", "y"]}
    shapes: list[Any] = []

    def machine() -> HierarchicalMachine:
        transitions = [["go", "start", "p"], {"trigger": "look", "source": "p", "dest": None, "after": "look_at"}]
        return HierarchicalMachine(
            model=None,
            states=["start", {"name": "p", "parallel": ["a", inner]}],
            initial="start",
            transitions=transitions,
        )

    class Model:
        state: Any

        def look_at(self) -> None:
            shapes.append(self.state)

    async with memory_places.new().store() as store:
        nested = await begun(TransitionsAdapter(store, machine, model=Model, metadata=METADATA))
        await nested.send("go")
        await nested.send("look")
    once = machine()
    model: Any = Model()
    once.add_model(model)
    model.go()
    assert shapes == [model.state] == [["p_a", ["p_b_x", "p_b_y"]]]


class Colour(Enum):
    """States as members."""

    RED = 1
    GREEN = 2


class Gear(Enum):
    """States that hold others."""

    PARKED = "parked"
    DRIVING = Colour


async def test_states_may_be_members_and_other_names_may_be_used(memory_places: Places):
    """Members of an Enum are stored by their names; the attribute and the separator are the machine's own."""

    class Arrow(NestedState):
        separator = "↦"

    class Arrows(HierarchicalMachine):
        state_cls = Arrow

    class Lamp:
        colour: Any = None

    async with memory_places.new().store() as store:
        lamp = await begun(
            TransitionsAdapter(
                store,
                lambda: Machine(
                    model=None,
                    states=Colour,
                    initial=Colour.RED,
                    transitions=[["go", Colour.RED, Colour.GREEN]],
                    model_attribute="colour",
                ),
                model=Lamp,
                metadata=METADATA,
            )
        )
        assert (await lamp.send("go")).state == "GREEN"
        assert (await lamp.send("to_colour_RED")).state == "RED"
        transitions = [["start", "PARKED", "DRIVING↦RED"], ["go", "DRIVING↦RED", "DRIVING↦GREEN"]]
        gear = await begun(
            TransitionsAdapter(
                store,
                lambda: Arrows(model=None, states=Gear, initial=Gear.PARKED, transitions=transitions),
                model=Bulb,
                metadata=METADATA,
            ),
            "gear",
        )
        assert (await gear.send("start")).state == "DRIVING↦RED"
        assert (await gear.send("go")).state == "DRIVING↦GREEN"


async def test_a_machine_may_be_its_own_model(memory_places: Places):
    """A class that is both, and a model that makes its machine: one is made for each event."""

    class Hits(BaseModel):
        hits: int

    class Target(Machine):
        def __init__(self) -> None:
            self.hits = 0
            super().__init__(states=["up", "down"], initial="up", transitions=[["hit", "up", "down"]])
            self.add_transition("reset", "down", "up", before="count")

        def count(self) -> None:
            self.hits += 1

    class Goal:
        def __init__(self) -> None:
            self.hits = 0
            self.machine = Machine(model=self, states=["open", "shut"], initial="open")

    async with memory_places.new().store() as store:
        target = await begun(TransitionsAdapter(store, Target, context=Hits, metadata=METADATA))
        await target.send("hit")
        assert (await target.send("reset")).context == Hits(hits=1)
        goal = TransitionsAdapter(store, lambda: Goal().machine, context=Hits, metadata=METADATA)
        assert repr(goal) == "<TransitionsAdapter 'Goal'>"
        shut = await (await begun(goal, "goal")).send("to_shut")
        assert (shut.state, shut.context) == ("shut", Hits(hits=0))


@pytest.mark.parametrize(
    "make", [clerk_machine, lambda: clerk_machine(queued=True), lambda: clerk_machine(queued="model")]
)
async def test_asynchronous_machines_are_awaited(make: Any, memory_places: Places, anyio_backend: str):
    """On asyncio they run, queued or not; elsewhere the adapter says that the library needs asyncio."""
    async with memory_places.new().store() as store:
        if anyio_backend != "asyncio":
            with pytest.raises(InvalidData, match="needs asyncio"):
                TransitionsAdapter(store, make, model=Clerk, metadata=METADATA)
            return
        clerk = await begun(TransitionsAdapter(store, make, model=Clerk, context=Payments, metadata=METADATA))
        assert (await clerk.send("call", {"times": 3})).context == Payments(cents=1)
        assert SEEN == ["work"]
        with pytest.raises(InvalidTransition):
            await clerk.send("call")
        assert (await clerk.send("rest")).version == 3


async def test_asynchronous_nested_machines(memory_places: Places, anyio_backend: str):
    """They are restored as the others are."""
    if anyio_backend != "asyncio":
        return
    async with memory_places.new().store() as store:
        mill = await begun(TransitionsAdapter(store, async_mill_machine, model=Bulb, metadata=METADATA))
        for event in ("begin", "push", "lift"):
            done = await mill.send(event)
        assert done.state == "work_wheel_turning|work_gate_open_half"


async def test_machines_are_used_again_and_one_that_failed_is_not(memory_places: Places):
    """Machines that are made without a model serve one event after the other."""
    made: list[Machine] = []

    def make() -> Machine:
        made.append(bulb_machine())
        return made[-1]

    async with memory_places.new().store() as store:
        bulb = await begun(TransitionsAdapter(store, make, model=Bulb, metadata=METADATA))
        await bulb.send("switch")
        for event in ("switch", "dim", "never"):
            if event == "switch":
                await bulb.send(event)
            else:
                with pytest.raises(InvalidTransition):
                    await bulb.send(event)
        assert (len(made), made[0].models) == (1, [])
        await bulb.send("switch")
        with pytest.raises(LookupError):
            await bulb.send("burn")
        assert (await bulb.send("dim")).version == 5
        assert len(made) == 2
        assert IDLE_MAX > 1


async def test_other_machines_of_the_library(memory_places: Places):
    """One that locks, one that draws, and one whose states have tags."""

    @add_state_features(Tags)
    class Tagged(Machine):
        pass

    states = ["a", "b"]
    kinds: list[Any] = [
        lambda: LockedMachine(model=None, states=states, initial="a"),
        lambda: GraphMachine(model=None, states=states, initial="a", graph_engine="mermaid"),
        lambda: Tagged(model=None, states=[{"name": "a", "tags": ["first"]}, "b"], initial="a"),
    ]
    async with memory_places.new().store() as store:
        for number, kind in enumerate(kinds):
            machine = await begun(TransitionsAdapter(store, kind, model=Bulb, metadata=METADATA), str(number))
            assert (await machine.send("to_b")).state == "b"
            assert (await machine.send("to_a")).state == "a"


async def test_what_lives_in_memory_alone_is_refused_by_name(memory_places: Places):
    """Time-outs, counted retries and volatile states, also deep inside."""

    def machine(feature: type[State], base: type[Machine] = Machine, **options: Any) -> Any:
        kind: Any = add_state_features(feature)(type("Featured", (base,), {}))
        second: dict[str, Any] = {"name": "b", **options}
        states = ["a", second if base is Machine else {"name": "outer", "children": [second]}]
        return lambda: kind(states=states, initial="a")

    cases = [
        (machine(Timeout, timeout=1, on_timeout="to_a"), "'b' has a time-out"),
        (machine(Timeout, HierarchicalMachine, timeout=1, on_timeout="to_a"), "'outer_b' has a time-out"),
        (machine(Retry, retries=2, on_failure="to_a"), "'b' counts retries"),
        (machine(Volatile), "is volatile"),
    ]
    async with memory_places.new().store() as store:
        for make, what in cases:
            with pytest.raises(InvalidDefinition, match=f"{what}, which lives in memory alone"):
                TransitionsAdapter(store, make)
        await begun(TransitionsAdapter(store, machine(Timeout), metadata=METADATA))


async def test_what_is_no_machine_is_refused(memory_places: Places):
    """What makes no machine, and one with too many models or too few."""
    two = [Bulb(), Bulb()]
    wrong: list[Any] = [5, lambda: 5, Bulb, bulb_machine, lambda: Machine(model=two, states=["a"], initial="a")]
    async with memory_places.new().store() as store:
        for machine in wrong:
            with pytest.raises(InvalidData):
                TransitionsAdapter(store, machine)
        with pytest.raises(InvalidData, match="no model, since the adapter makes them, and it has 1"):
            TransitionsAdapter(store, lambda: Machine(states=["a"], initial="a"), model=Bulb)
        untyped: Any = TransitionsAdapter
        with pytest.raises(InvalidData):
            untyped(store, bulb_machine, model=5)
        with pytest.raises(InvalidData):
            untyped(store, bulb_machine, model=Bulb, after_commit=5)
        with pytest.raises(TypeError):
            untyped(store, bulb_machine, model=Bulb, timeout_seconds="5")


async def test_an_attribute_that_is_missing_or_does_not_fit_is_refused(memory_places: Places):
    """The error names it, and nothing is written."""

    class Worse(Bulb):
        def count(self, **_: Any) -> None:
            self.cents: Any = "many"

    class Bare:
        pass

    async with memory_places.new().store() as store:
        adapter = TransitionsAdapter(store, bulb_machine, model=Worse, context=Payments, metadata=METADATA)
        with pytest.raises(InvalidData, match="Worse does not fit Payments at cents"):
            await (await begun(adapter)).send("switch")
        bare = TransitionsAdapter(
            store,
            lambda: Machine(model=None, states=["a"], initial="a"),
            model=Bare,
            context=Payments,
            metadata=METADATA,
        )
        with pytest.raises(InvalidData, match="Bare has no attribute 'cents'"):
            await bare.machine(GOVERNOR, "bare").initialize()
        assert not await bare.machine(GOVERNOR, "bare").exists()
        given = await bare.machine(GOVERNOR, "bare").initialize(context=Payments(cents=4))
        assert given.context == Payments(cents=4)
