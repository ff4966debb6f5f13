"""Effects of machines in memory, and what definitions say of effects."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import pytest

from tai_state import InvalidData, InvalidDefinition, PreconditionFailed
from tai_state.machines import (
    ComponentState,
    PendingEffect,
    StateMachine,
    TakenStep,
    Timeout,
    allow,
    define,
    described,
    time_out,
)
from tai_state.machines.effects import EFFECTS_MAX

from ..support.parcels import ARRIVE, PARCEL, RETURN, SEND, Parcel, parcel_with


def test_effects_are_pending_until_they_are_completed() -> None:
    """A machine in memory lists the effects of its steps, and forgets each when it is told that it was had."""
    machine = StateMachine(PARCEL)
    machine.transition_to(Parcel.Sent, SEND)
    machine.transition_to(Parcel.Arrived, ARRIVE)
    charge, mail, there = (
        PendingEffect("1:charge", "charge"),
        PendingEffect("1:mail", "mail"),
        PendingEffect("2:mail", "mail"),
    )
    assert machine.pending_effects == (charge, mail, there)
    assert machine.complete_effect("1:mail")
    assert not machine.complete_effect("1:mail")
    assert machine.pending_effects == (charge, there)


def test_pending_effects_are_bounded() -> None:
    """A step that would leave more than a hundred is refused, and the machine stays where it is."""
    machine = StateMachine(PARCEL)
    for _ in range(EFFECTS_MAX // 2):
        machine.transition_to(Parcel.Sent, SEND)
        machine.transition_to(Parcel.Packed, RETURN)
    with pytest.raises(PreconditionFailed, match="100 effects are pending"):
        machine.transition_to(Parcel.Sent, SEND)
    assert machine.current_state is Parcel.Packed
    machine.complete_effect("1:charge")
    machine.complete_effect("1:mail")
    machine.transition_to(Parcel.Sent, SEND)


def test_after_commit_runs_after_the_step(caplog: pytest.LogCaptureFixture) -> None:
    """It finds the machine in its new state, may take a step itself, and is logged and no more if it raises."""
    told: list[TakenStep[Parcel, None]] = []

    def after(step: TakenStep[Parcel, None]) -> None:
        told.append(step)
        assert machine.current_state is Parcel.Sent
        machine.transition_to(Parcel.Packed, RETURN)
        raise RuntimeError("no")

    machine = StateMachine(parcel_with(after))
    record = machine.transition_to(Parcel.Sent, SEND)
    assert (record.to_state, machine.current_state) == (Parcel.Sent, Parcel.Packed)
    [step] = told
    assert (step.machine, step.rule, step.after.state, step.version) == ("parcel", "PackedToSent", Parcel.Sent, None)
    assert [each.levelno for each in caplog.records if each.levelno >= logging.ERROR] == [logging.ERROR]


def test_an_asynchronous_after_commit_needs_a_store(caplog: pytest.LogCaptureFixture) -> None:
    """A machine in memory cannot wait for one: it refuses the definition, or else logs that nothing waits."""

    async def after(_: TakenStep[Parcel, None]) -> None:
        raise AssertionError("nothing runs it")

    with pytest.raises(InvalidData, match="'PackedToSent' is asynchronous"):
        StateMachine(parcel_with(after))
    machine = StateMachine(parcel_with(lambda step: after(step)))  # noqa: PLW0108 - not known to be asynchronous
    machine.transition_to(Parcel.Sent, SEND)
    assert [each.levelno for each in caplog.records if each.levelno >= logging.ERROR] == [logging.ERROR]


class Lamp(ComponentState):
    Off = described("Dark")
    On = described("Lit")


def test_a_time_out_has_effects_too() -> None:
    """The step of a timer leaves its effects, and runs what follows it."""
    told: list[Any] = []
    over = time_out(Lamp.On, Lamp.Off, seconds=0, effects=["note"], after_commit=told.append)
    lamp = StateMachine(define("lamp", Lamp, initial=Lamp.On, rules=[over], dead_ends=[Lamp.Off]))
    assert lamp.run_timer() is not None
    assert [each.trigger for each in told] == [Timeout(0)]
    assert [each.name for each in lamp.pending_effects] == ["note"]


def test_effects_that_cannot_be_are_no_definition() -> None:
    """An effect named twice, too many of them, and what is no function, are refused."""
    lamp: Any = partial(define, "lamp", Lamp, initial=Lamp.On, dead_ends=[Lamp.Off])
    with pytest.raises(InvalidDefinition, match="effects of the rule"):
        lamp(rules=[allow(Lamp.On, Lamp.Off, effects=["note", "note"])])
    with pytest.raises(InvalidDefinition, match="100 effects at most"):
        lamp(rules=[allow(Lamp.On, Lamp.Off, effects=[str(number) for number in range(101)])])
    with pytest.raises(InvalidDefinition, match="after_commit of the rule 'OnToOff' must be a function"):
        lamp(rules=[allow(Lamp.On, Lamp.Off, after_commit="note")])  # type: ignore[call-overload]


def test_after_commit_is_a_part_of_a_definition_and_decides_nothing() -> None:
    """Definitions that differ in it alone are not equal, and share their hash; their difference names it."""
    one, other = parcel_with(), parcel_with(print)
    assert one != other
    assert one.hash == other.hash
    assert "after_commit" in str(one.diff(other))
