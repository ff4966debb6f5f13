"""What the documentation of transitions shows, written anew, and stored: each event in a store opened anew."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

import pytest
from pydantic import BaseModel
from transitions import Machine
from transitions.extensions import HierarchicalMachine
from transitions.extensions.asyncio import AsyncMachine

from tai_state import InvalidTransition, StateStore
from tai_state.adapters import AdaptedMachine, AdaptedSnapshot, TransitionsAdapter

from ..support.stores import GOVERNOR, METADATA, Place, Places

pytestmark = pytest.mark.anyio

Sent = str | tuple[str, dict[str, Any]]


class Thing:
    """A model without anything of its own."""


def opened(store: StateStore, machine: Any, **options: Any) -> AdaptedMachine[Any]:
    """The handle on the machine."""
    adapter: TransitionsAdapter[Any] = TransitionsAdapter(store, machine, metadata=METADATA, **options)
    return adapter.machine(GOVERNOR, "m")


async def played(place: Place, machine: Any, events: Sequence[Sent], **options: Any) -> list[AdaptedSnapshot[Any]]:
    """What became of a machine after each event, each in a store of its own, so that nothing stays in memory."""
    async with place.store() as store:
        found = [await opened(store, machine, **options).initialize()]
    for event in events:
        name, arguments = (event, {}) if isinstance(event, str) else event
        async with place.store() as store:
            found.append(await opened(store, machine, **options).send(name, arguments))
    return found


async def test_a_lump_of_matter(memory_places: Places):
    """Four states of aggregation, a wildcard, and a callback that is found by its name."""
    said: list[str] = []

    class Lump:
        def on_enter_fluid(self, degrees: int = 0) -> None:
            said.append(f"fluid at {degrees}")

    def machine() -> Machine:
        transitions = [
            ["melt", "solid", "fluid"],
            ["boil", "fluid", "vapour"],
            ["sublime", "solid", "vapour"],
            ["freeze", "*", "solid"],
        ]
        return Machine(model=None, states=["solid", "fluid", "vapour"], transitions=transitions, initial="solid")

    events: list[Sent] = [("melt", {"degrees": 1}), "boil", "freeze", "sublime"]
    found = await played(memory_places.new(), machine, events, model=Lump)
    assert [each.state for each in found] == ["solid", "fluid", "vapour", "solid", "vapour"]
    assert said == ["fluid at 1"]


class Rescues(BaseModel):
    """What a guard has done."""

    saved: int = 0
    is_tired: bool = False


class Guard:
    """A model that makes its machine, as many do."""

    def __init__(self) -> None:
        self.saved = 0
        self.is_tired = False
        self.machine = Machine(model=self, states=["asleep", "ready", "out", "home"], initial="asleep")
        self.machine.add_transition("wake", "asleep", "ready")
        self.machine.add_transition("call", "ready", "out", unless=["is_tired"], after="save")
        self.machine.add_transition("call", "ready", "home")
        self.machine.add_transition("back", "out", "ready", before="tire")
        self.machine.add_transition("sleep", "*", "asleep", before="recover")

    def save(self) -> None:
        """Save somebody."""
        self.saved += 1

    def tire(self) -> None:
        """Get tired after two."""
        self.is_tired = self.saved >= 2

    def recover(self) -> None:
        """Be fresh."""
        self.is_tired = False


async def test_a_guard_who_tires(memory_places: Places):
    """A model that makes its own machine, with conditions on its attributes, which outlive the process."""
    place = memory_places.new()
    events = ["wake", "call", "back", "call", "back", "call", "sleep", "wake"]
    found = await played(place, lambda: Guard().machine, events, context=Rescues)
    states = ["asleep", "ready", "out", "ready", "out", "ready", "home", "asleep", "ready"]
    assert [each.state for each in found] == states
    assert found[6].context == Rescues(saved=2, is_tired=True)
    assert found[-1].context == Rescues(saved=2)
    async with place.store() as store:
        with pytest.raises(InvalidTransition, match="'back' leads nowhere from here; allowed: call, sleep"):
            await opened(store, lambda: Guard().machine, context=Rescues).send("back")


async def test_states_in_a_fixed_order(memory_places: Places):
    """One trigger that leads from each state to the next, around."""

    def machine() -> Machine:
        made = Machine(model=None, states=["spring", "summer", "autumn", "winter"], initial="spring")
        made.add_ordered_transitions(trigger="pass_on")
        return made

    found = await played(memory_places.new(), machine, ["pass_on"] * 5, model=Thing)
    assert [each.state for each in found] == ["spring", "summer", "autumn", "winter", "spring", "summer"]


async def test_triggers_that_wait_in_a_queue(memory_places: Places):
    """A callback that triggers the next step; queued, it runs after the first one, in the same commit."""
    order: list[str] = []

    class Chain:
        state: Any
        second: Any

        def go_on(self) -> None:
            order.append("asks")
            self.second()
            order.append(f"still in {self.state}")

        def on_enter_end(self) -> None:
            order.append("ends")

    def machine() -> Machine:
        transitions = [
            {"trigger": "first", "source": "begin", "dest": "middle", "after": "go_on"},
            ["second", "middle", "end"],
        ]
        return Machine(
            model=None, states=["begin", "middle", "end"], transitions=transitions, initial="begin", queued=True
        )

    [begun, done] = await played(memory_places.new(), machine, ["first"], model=Chain)
    assert (begun.state, done.state, done.version) == ("begin", "end", 2)
    assert order == ["asks", "still in middle", "ends"]


async def test_states_within_states(memory_places: Places):
    """Children, a nested trigger, and one that leaves from wherever it is."""

    def machine() -> HierarchicalMachine:
        coffee = {"name": "awake", "children": ["sitting", {"name": "running", "children": ["fast", "slow"]}]}
        transitions = [
            ["drink", "drowsy", "awake_sitting"],
            ["run", "awake_sitting", "awake_running_slow"],
            ["speed_up", "awake_running_slow", "awake_running_fast"],
            ["relax", "awake", "drowsy"],
        ]
        return HierarchicalMachine(model=None, states=["drowsy", coffee], transitions=transitions, initial="drowsy")

    found = await played(memory_places.new(), machine, ["drink", "run", "speed_up", "relax"], model=Thing)
    states = ["drowsy", "awake_sitting", "awake_running_slow", "awake_running_fast", "drowsy"]
    assert [each.state for each in found] == states


async def test_a_machine_inside_a_machine(memory_places: Places):
    """A counter that several machines use is put into another machine, and hands over at its end."""

    def machine() -> HierarchicalMachine:
        counter = HierarchicalMachine(
            model=None,
            states=["one", "two", "done"],
            initial="one",
            transitions=[["up", "one", "two"], ["up", "two", "done"]],
        )
        states = ["waiting", {"name": "counting", "children": counter, "remap": {"done": "finished"}}, "finished"]
        return HierarchicalMachine(
            model=None, states=states, initial="waiting", transitions=[["count", "waiting", "counting"]]
        )

    found = await played(memory_places.new(), machine, ["count", "up", "up"], model=Thing)
    assert [each.state for each in found] == ["waiting", "counting_one", "counting_two", "finished"]


async def test_states_side_by_side(memory_places: Places):
    """One trigger moves both regions, and each goes its own way otherwise."""
    finals: list[str] = []

    def machine() -> HierarchicalMachine:
        left = {"name": "left", "children": ["a", {"name": "b", "final": True}], "initial": "a"}
        left["transitions"] = [["both", "a", "b"]]
        right = {"name": "right", "children": ["c", "d", {"name": "e", "final": True}], "initial": "c"}
        right["transitions"] = [["both", "c", "d"], ["last", "d", "e"]]
        twins = {"name": "twins", "parallel": [left, right], "on_final": lambda: finals.append("ended")}
        return HierarchicalMachine(
            model=None, states=["off", twins], initial="off", transitions=[["on", "off", "twins"]]
        )

    found = await played(memory_places.new(), machine, ["on", "both", "last"], model=Thing)
    assert [each.configuration for each in found] == [
        ("off",),
        ("twins_left_a", "twins_right_c"),
        ("twins_left_b", "twins_right_d"),
        ("twins_left_b", "twins_right_e"),
    ]
    assert finals == ["ended"]


async def test_members_of_an_enum_as_states(memory_places: Places):
    """States, sources and targets are members; what is stored is their names."""

    class Light(Enum):
        DARK = 0
        BRIGHT = 1

    def machine() -> Machine:
        transitions = [["press", Light.DARK, Light.BRIGHT], ["press", Light.BRIGHT, Light.DARK]]
        return Machine(model=None, states=Light, transitions=transitions, initial=Light.DARK)

    found = await played(memory_places.new(), machine, ["press", "press"], model=Thing)
    assert [each.state for each in found] == ["DARK", "BRIGHT", "DARK"]


async def test_asynchronous_callbacks(memory_places: Places, anyio_backend: str):
    """Conditions and callbacks that are awaited."""
    if anyio_backend != "asyncio":
        return

    class Courier:
        async def is_there(self, door: int) -> bool:
            return door == 3

        async def knock(self, door: int) -> None:
            self.door = door

    def machine() -> AsyncMachine:
        transitions = [
            {"trigger": "arrive", "source": "away", "dest": "inside", "conditions": "is_there", "before": "knock"},
            {"trigger": "arrive", "source": "away", "dest": "lost"},
        ]
        return AsyncMachine(model=None, states=["away", "inside", "lost"], transitions=transitions, initial="away")

    for door, state in ((3, "inside"), (4, "lost")):
        found = await played(memory_places.new(), machine, [("arrive", {"door": door})], model=Courier)
        assert found[-1].state == state
