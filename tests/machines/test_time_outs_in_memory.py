"""Time-outs of machines in memory, which take their steps when somebody looks."""

from __future__ import annotations

import pytest

from tai_state.errors import InvariantViolation
from tai_state.machines import (
    ComponentState,
    Invariant,
    Severity,
    StateMachine,
    Timeout,
    allow,
    define,
    described,
    time_out,
)
from tai_state.testing import ManualClock


class Lamp(ComponentState):
    Off = described("Dark")
    On = described("Lit")


RULES = [allow(Lamp.Off, Lamp.On), time_out(Lamp.On, Lamp.Off, seconds=2)]
LAMP = define("lamp", Lamp, initial=Lamp.Off, rules=RULES)


def test_a_time_out_takes_its_step_once_its_time_is_over() -> None:
    """A timer that is looked at too early takes no step, at its time it takes one, and then none."""
    clock = ManualClock()
    lamp = StateMachine(LAMP, initial=Lamp.Off, clock=clock)
    lamp.transition_to(Lamp.On, Timeout(0))
    clock.advance(1.999999)
    assert lamp.run_timer() is None
    clock.advance(0.000001)
    record = lamp.run_timer()
    assert record is not None
    assert (record.from_state, record.to_state, record.trigger) == (Lamp.On, Lamp.Off, Timeout(2000))
    assert lamp.run_timer() is None
    assert lamp.current_state is Lamp.Off


def test_a_state_without_a_time_out_stays() -> None:
    """A timer takes no step out of a state that has none, however late it is."""
    clock = ManualClock()
    lamp = StateMachine(LAMP, clock=clock)
    clock.advance(10**6)
    assert lamp.run_timer() is None


def test_a_time_out_keeps_invariants() -> None:
    """A time-out's step that would break an invariant is refused like any other."""
    never = Invariant("stays_lit", "Once lit, it stays so", Severity.High, lambda present: present.state is Lamp.On)
    lamp = StateMachine(
        define("lamp", Lamp, initial=Lamp.On, rules=RULES, invariants=[never]), clock=(clock := ManualClock())
    )
    clock.advance(2)
    with pytest.raises(InvariantViolation):
        lamp.run_timer()
