"""Walks of machines, as strategies for Hypothesis."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import find, given
from hypothesis import strategies as st

from tai_state.errors import InvalidData
from tai_state.machines import StateMachine, Timeout
from tai_state.testing.strategies import Walk, walks

from ..support.machine_kit import NODE, Node, OrderState, Paid
from ..support.machine_kit import ORDER as DATA_ORDER
from ..support.machine_kit import PAY as DATA_PAY
from ..support.machine_kit import Order as DataOrder
from ..support.machine_kit import Payment as DataPayment
from ..support.orders import ORDER, Cart, Order

CARTS = st.builds(Cart, cents=st.integers(1, 9))
ORDERS = walks(ORDER, contexts=CARTS)


@given(ORDERS)
def test_each_step_of_a_walk_can_be_taken(walk: Walk[Order, Cart]) -> None:
    """A machine in memory takes the steps of a walk one after the other, and is in the end where the walk ends."""
    machine = StateMachine(ORDER, context=walk.before.context)
    for move in walk.moves:
        assert machine.current_state is move.step.before.state
        if move.event is not None:
            machine.fire(move.event, move.payload)
        elif isinstance(move.step.trigger, Timeout):
            machine.force_state(move.step.after.state, "its time is over")
        else:
            machine.transition_to(move.step.after.state, move.step.trigger)
    assert (machine.current_state, machine.context) == (walk.after.state, walk.after.context)


@pytest.mark.parametrize("state", Order)
def test_walks_come_everywhere(state: Order) -> None:
    """Every state is reached: through events whose guards hold, through plain steps and through time-outs."""
    found = find(ORDERS, lambda walk: walk.after.state is state)
    assert all(move.step.rule is not None for move in found.moves)


def test_walks_take_events_steps_and_time_outs() -> None:
    """A walk is made of all three, and its payloads come from the strategy that is given for them."""
    find(ORDERS, lambda walk: any(isinstance(move.step.trigger, Timeout) for move in walk.moves))
    find(ORDERS, lambda walk: [move.event is None for move in walk.moves] == [False, True, True])
    ones = st.builds(DataPayment, amount=st.just(1), receipt=st.just("r-1"))
    paying = walks(DATA_ORDER, contexts=st.just(DataOrder()), payloads={DATA_PAY: ones})
    found = find(paying, lambda walk: any(isinstance(move.step.after.state, Paid) for move in walk.moves))
    assert found.moves[0].step.after.state == Paid(receipt="r-1")


@given(walks(DATA_ORDER, contexts=st.builds(DataOrder), most=3))
def test_a_walk_has_at_most_so_many_steps(walk: Walk[OrderState, DataOrder]) -> None:
    """The number of steps is bounded, and what carries data begins with it."""
    assert len(walk.moves) <= 3
    assert walk.before.state == DATA_ORDER.initial


@given(walks(NODE))
def test_a_machine_without_a_context_walks_too(walk: Walk[Node, None]) -> None:
    """The epoch goes on with each step that begins one, and with no other."""
    counted = sum(move.step.rule is not None and move.step.rule.advances_epoch for move in walk.moves)
    assert walk.after.epoch == counted


def test_what_is_no_definition_has_no_walks() -> None:
    """Mistakes are named before anything is drawn."""
    with pytest.raises(InvalidData, match="definition must be what define"):
        walks(None)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="most"):
        walks(NODE, most=0)


def test_without_hypothesis_the_extra_is_named() -> None:
    """Where Hypothesis is missing, the error says what to install."""
    code = "import sys; sys.modules['hypothesis'] = None; import tai_state.testing.strategies"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 'pip install "tai-state[hypothesis]"' in done.stderr.splitlines()[-1]
