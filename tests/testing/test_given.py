"""Given, when, then: of machines, and of stores."""

from __future__ import annotations

import re

import pytest

from tai_state import (
    ChangeMetadata,
    InvalidTransition,
    PreconditionFailed,
    StateNotFound,
    StateStore,
    VersionConflict,
    open_store,
)
from tai_state.errors import InvalidData
from tai_state.machines import Command
from tai_state.testing import given, given_store

from ..support.machine_kit import CLOSE, NODE, Node, Open
from ..support.machine_kit import ORDER as DATA_ORDER
from ..support.machine_kit import Order as DataOrder
from ..support.orders import ORDER, PAY, Cart, Order, Payment

WHO = ChangeMetadata("test", "to see")
PLACED = given(ORDER, context=Cart(cents=500))


def test_a_machine_goes_on_from_what_a_step_made_of_it() -> None:
    """Each outcome leads to the machine after it, with its context and its epoch."""
    paid = PLACED.when_fired(PAY, Payment(cents=500)).then(Order.Paid, context=Cart(cents=500, paid=500), epoch=0)
    shipped = paid.when(Order.Shipped, Command("ship")).then(Order.Shipped)
    assert shipped.when(Order.Delivered).then(Order.Delivered, epoch=1).present.context.paid == 500


def test_a_machine_is_taken_to_be_anywhere() -> None:
    """A test begins in any state, in which a machine need not begin."""
    given(ORDER, Order.Shipped, context=Cart(), epoch=4).when(Order.Delivered).then(Order.Delivered, epoch=5)
    given(NODE, Node.Committing).when(Node.Ready).then(Node.Ready, epoch=1)


def test_a_time_out_is_tried_without_waiting() -> None:
    """The time of a state runs out when the test says so; a state without a time-out refuses."""
    PLACED.when_timed_out().then(Order.Lost)
    given(ORDER, Order.Paid, context=Cart()).when_timed_out().then_refused("no time-out")


def test_a_refusal_is_told_by_its_reason_its_error_and_its_rule() -> None:
    """What refuses a step is compared in all its parts, and the machine stands as before."""
    again = PLACED.when_fired(PAY, Payment(cents=1)).then_refused("too little", error=InvalidTransition)
    assert again.present == PLACED.present
    PLACED.when(Order.Shipped).then_refused(rule="PaidToShipped")
    frozen = PLACED.when(Order.Lost, metadata={"frozen": "yes"})
    frozen.then_refused(error=PreconditionFailed, rule="nobody has frozen it")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (lambda: PLACED.when(Order.Lost).then(Order.Paid), "the state is Order.Lost, not Order.Paid"),
        (
            lambda: PLACED.when_fired(PAY, Payment(cents=500)).then(Order.Paid, context=Cart()),
            "after the event 'pay', the context is Cart(cents=500, paid=500), not Cart(cents=100, paid=0)",
        ),
        (lambda: PLACED.when(Order.Lost).then(Order.Lost, epoch=1), "the epoch is 0, not 1"),
        (lambda: PLACED.when(Order.Shipped).then(Order.Shipped), "was refused: it: invalid transition from Placed"),
        (lambda: PLACED.when(Order.Lost).then_refused(), "the step to Order.Lost was taken, to Order.Lost"),
        (lambda: PLACED.when(Order.Shipped).then_refused("by mistake"), "not by TransitionRefused, 'by mistake'"),
        (lambda: PLACED.when(Order.Shipped).then_refused(error=PreconditionFailed), "not by PreconditionFailed"),
        (lambda: PLACED.when(Order.Shipped).then_refused(rule="other"), "not by TransitionRefused, rule 'other'"),
    ],
)
def test_what_a_test_got_wrong_is_said(said: object, message: str) -> None:
    """An assertion that fails names the machine, what was asked for, and what became of it."""
    assert callable(said)
    with pytest.raises(AssertionError, match=re.escape(message)) as raised:
        said()
    assert str(raised.value).startswith("order in Order.Placed, epoch 0 with Cart(cents=500, paid=0): ")


def test_what_is_no_machine_is_refused() -> None:
    """A state of another machine, a context that does not fit and a trigger that is none are errors of the test."""
    untyped: object = given
    assert callable(untyped)
    for arguments, more in (
        ((None,), {}),
        ((ORDER, Node.Ready), {"context": Cart()}),
        ((ORDER,), {}),
        ((NODE,), {"context": Cart()}),
    ):
        with pytest.raises(InvalidData):
            untyped(*arguments, **more)
    with pytest.raises(ValueError, match="epoch"):
        given(NODE, epoch=-1)
    with pytest.raises(InvalidData):
        PLACED.when(Order.Lost, None)  # type: ignore[arg-type]
    with pytest.raises(InvalidData):
        PLACED.when_fired(PAY, None)  # type: ignore[arg-type]


def test_states_with_data_are_compared_with_their_data() -> None:
    """A state that carries data is another one if its data differs."""
    opened = given(DATA_ORDER, Open(), context=DataOrder())
    closed = opened.when_timed_out()
    assert closed.then(closed.verdict.after.state).present.state.name == "Closed"  # type: ignore[union-attr]
    opened.when_fired(CLOSE, None).then_refused()


async def change(store: StateStore) -> str:
    """What a service does: one state is new, one is changed, one is deleted."""
    await store.save_state("b", "new", {}, WHO)
    await store.update_state("a", "old", {"n": 2}, WHO, expected=1)
    await store.delete_state("a", "gone", WHO, expected=1)
    return "done"


@pytest.mark.anyio
async def test_what_code_wrote_is_listed() -> None:
    """Only what was written by the code under test is seen: new states, changes and deletions; and its result."""
    async with open_store("memory://") as store:
        past = [store.save_state("a", state_id, {"n": 1}, WHO) for state_id in ("old", "gone", "still")]
        happened = await given_store(store, *past).when(change(store))
        happened.then_wrote(("b", "new", "save"), ("a", "gone", "delete"), ("a", "old", "update"))
        assert happened.result == "done"
        assert [event.version for event in happened.events] == [2, 2, 1]
        with pytest.raises(AssertionError, match=r"written were \[\('a', 'gone', 'delete'\)"):
            happened.then_wrote(("b", "new", "save"))


@pytest.mark.anyio
async def test_code_that_must_raise_is_held_to_it() -> None:
    """The error and its text are compared; another error goes on; what was written before it is listed."""
    async with open_store("memory://") as store:
        await store.save_state("a", "old", {}, WHO)
        case = given_store(store)
        happened = await case.when_refused(change(store), StateNotFound, "gone")
        happened.then_wrote(("a", "old", "update"), ("b", "new", "save"))
        with pytest.raises(AssertionError, match="without 'else'"):
            await case.when_refused(change(store), VersionConflict, "else")
        with pytest.raises(AssertionError, match="nothing was raised, but VersionConflict was expected; it returned"):
            await case.when_refused(store.save_state("c", "x", {}, WHO), VersionConflict)
        with pytest.raises(VersionConflict):
            await case.when_refused(change(store), KeyError)
        with pytest.raises(VersionConflict):
            await case.when(change(store))
