"""Adapters of a user's machines, which both type checkers must accept. It is checked, never run."""

from __future__ import annotations

from typing import assert_type

from pydantic import BaseModel
from statemachine import State, StateMachine
from transitions import Machine

from tai_state import Paged, StateStore
from tai_state.adapters import (
    AdaptedEventRecord,
    AdaptedMachine,
    AdaptedSnapshot,
    AdaptedStep,
    StatemachineAdapter,
    TransitionsAdapter,
)


class Kept(BaseModel):
    """Two attributes."""

    cents: int = 0
    name: str = ""


class Door(StateMachine):
    """Two states."""

    shut = State(initial=True)
    ajar = State()
    push = shut.to(ajar) | ajar.to(shut)


def door() -> Machine:
    """A machine of the other library."""
    return Machine(model=None, states=["shut", "ajar"], initial="shut")


class Model:
    """A model."""

    cents = 0
    name = ""


async def told(step: AdaptedStep[Kept]) -> None:
    """Is told of steps."""
    assert_type(step.machine.context, Kept)


async def use(store: StateStore) -> None:
    """Contexts keep their type from the adapter to what comes after the commit."""
    kept = StatemachineAdapter(store, Door, model=Model, context=Kept, after_commit=told)
    assert_type(kept, StatemachineAdapter[Kept])
    machine = kept.machine("g", "s")
    assert_type(machine, AdaptedMachine[Kept])
    assert_type(await machine.initialize(context=Kept(cents=1)), AdaptedSnapshot[Kept])
    assert_type((await machine.send("push", {"times": 1})).context.cents, int)
    assert_type(machine.history(), Paged[AdaptedEventRecord])
    bare = StatemachineAdapter(store, Door, name="Door")
    assert_type(bare, StatemachineAdapter[None])
    assert_type((await bare.machine("g", "s").get()).context, None)
    other = TransitionsAdapter(store, door, model=Model, context=Kept)
    assert_type((await other.machine("g", "s").get()).context.name, str)
    assert_type(TransitionsAdapter(store, lambda: Machine(states=["a"], initial="a")), TransitionsAdapter[None])
