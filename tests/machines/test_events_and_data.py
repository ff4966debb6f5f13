"""Events with payloads, states with data, and the data beside the state."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from tai_state import InvalidData
from tai_state.errors import InvalidTransition, PreconditionFailed
from tai_state.machines import (
    Command,
    Definition,
    Event,
    EventContext,
    MachineEvent,
    Present,
    ProofObligation,
    Refusal,
    StateMachine,
    Timeout,
    allow,
    define,
    forbid,
    time_out,
)
from tai_state.machines.judging import judge_event, judge_time_out

from ..support.machine_kit import (
    CLOSE,
    NODE,
    ORDER,
    PAY,
    Closed,
    Node,
    Open,
    Order,
    OrderState,
    Paid,
    Payment,
    node,
)

GO = Command("go")


def _order(*rules: Any, **more: Any) -> Definition[OrderState, Order]:
    return define("order", [Open, Paid, Closed], initial=Open(), context=Order, rules=rules, **more)


def test_an_event_takes_the_step_with_its_data():
    """The guard and the update see the payload, the state takes its data from it, and the trigger is the event."""
    machine = StateMachine(ORDER, context=Order(total=5))
    record = machine.fire(PAY, Payment(amount=7, receipt="r7"))
    assert (machine.current_state, machine.context) == (Paid(receipt="r7"), Order(total=5, payments=(7,)))
    assert (record.from_state, record.to_state, record.trigger) == (Open(), Paid(receipt="r7"), Event("pay"))
    machine.fire(CLOSE, None)
    assert (machine.current_state, machine.epoch) == (Closed(), 1)


def test_a_guard_that_refuses_an_event_says_why():
    """A payload that the guard does not accept is refused with the guard's reason."""
    machine = StateMachine(ORDER, context=Order(total=5))
    with pytest.raises(InvalidTransition) as raised:
        machine.fire(PAY, Payment(amount=4))
    error = raised.value
    assert (error.reason, error.rule, error.to_state) == ("too little was paid", "OpenToPaid on pay", "Paid")
    assert machine.context == Order(total=5)


def test_an_event_that_no_rule_takes_here_is_refused():
    """The refusal says in which states the event is taken, if there is one."""
    machine = StateMachine(ORDER, context=Order())
    with pytest.raises(InvalidTransition, match="no rule takes the event 'close' in this state; it is taken in Paid"):
        machine.fire(CLOSE, None)
    with pytest.raises(InvalidTransition, match="no rule takes the event 'x' in this state") as raised:
        machine.fire(MachineEvent("x"), None)
    assert "it is taken" not in str(raised.value)
    assert (raised.value.to_state, raised.value.allowed) == ("", ("Paid", "Closed"))


@pytest.mark.parametrize(
    ("event", "payload", "message"),
    [
        (PAY, None, "the event 'pay' brings Payment, not NoneType"),
        (PAY, {"amount": 7}, "the event 'pay' brings Payment, not dict"),
        (PAY, Payment, "the event 'pay' brings Payment, not "),
        (CLOSE, Payment(amount=1), "the event 'close' brings NoneType, not Payment"),
        ("pay", None, "event must be a MachineEvent"),
        (MachineEvent("pay"), None, "brings NoneType, and the machine 'order' expects Payment"),
        (MachineEvent("pay", int), 7, "brings int, and the machine 'order' expects Payment"),
    ],
    ids=repr,
)
def test_a_payload_of_another_event_is_refused(event: Any, payload: Any, message: str):
    """A payload must be the event's, and the event the definition's, or nothing happens."""
    machine = StateMachine(ORDER, context=Order())
    with pytest.raises(InvalidData, match=message):
        machine.fire(event, payload)
    assert machine.current_state == Open()


def test_two_events_of_one_name_and_payload_are_one():
    """An event is known by its name, so a program may make it twice."""
    machine = StateMachine(ORDER, context=Order())
    machine.fire(MachineEvent("pay", Payment), Payment(amount=1))
    assert machine.current_state == Paid(receipt="r")


def test_the_first_rule_for_an_event_whose_guard_holds_takes_it():
    """Rules for one event are tried in their order, and nothing of those behind the first that holds is asked."""
    asked: list[str] = []

    def enter(payment: Payment) -> Closed:
        asked.append("enter")
        return Closed(note=payment.receipt)

    def first(step: EventContext[OrderState, Order, Payment]) -> bool:
        asked.append("first")
        return step.payload.amount > 5

    definition = _order(
        allow(Open, Paid, on=PAY, guard=first, enter=lambda payment: Paid(receipt=payment.receipt)),
        allow(Open, Closed, on=PAY, enter=enter),
        allow(Paid, Closed),
    )
    machine = StateMachine(definition, context=Order())
    machine.fire(PAY, Payment(amount=9))
    assert (machine.current_state, asked) == (Paid(receipt="r"), ["first"])
    machine = StateMachine(definition, context=Order())
    machine.fire(PAY, Payment(amount=1, receipt="n"))
    assert (machine.current_state, asked) == (Closed(note="n"), ["first", "first", "enter"])


@pytest.mark.parametrize("entered", [Closed(), Open(), None, Node.Ready, Paid], ids=repr)
def test_enter_leads_only_where_its_rule_leads(entered: Any):
    """What a rule's function gives must be a state to which the rule leads, or the step is refused."""
    definition = _order(
        allow(Open, Paid, on=PAY, enter=lambda _: entered), allow(Paid, Closed), forbid(Open, Closed, "not paid")
    )
    machine = StateMachine(definition, context=Order())
    with pytest.raises(InvalidTransition, match="to which it does not lead"):
        machine.fire(PAY, Payment(amount=1))
    assert machine.current_state == Open()


def test_enter_chooses_among_the_targets_of_its_rule():
    """A rule with several targets leads to the one whose data its function gives, unless this one is forbidden."""

    def enter(payment: Payment) -> OrderState:
        return Paid(receipt="r") if payment.amount else Closed(note="free")

    machine = StateMachine(
        _order(allow(Open, [Paid, Closed], on=PAY, enter=enter), allow(Paid, Closed)), context=Order()
    )
    machine.fire(PAY, Payment(amount=0))
    assert machine.current_state == Closed(note="free")


def test_a_bare_event_may_also_be_asked_for_by_its_target():
    """A step whose event brings nothing may be asked for, and its guard sees the same: a payload of None."""
    seen: list[Any] = []

    def guard(step: EventContext[Node, None, None]) -> bool:
        seen.append((step.payload, str(step.trigger)))
        return True

    rule = allow(Node.Ready, Node.Committing, on=MachineEvent("skip"), guard=guard)
    for definition in (node([rule]), node([rule, allow(Node.Ready, Node.Committing, name="twice")])):
        StateMachine(definition).transition_to(Node.Committing, GO)
        StateMachine(definition).fire(MachineEvent("skip"), None)
    assert seen == [(None, "Command: go"), (None, "Event: skip")] * 2


def test_an_update_for_a_bare_event_sees_its_payload_however_the_step_is_taken():
    """The data after a step by a bare event is the same, whether the event was fired or the step asked for."""
    rules = [
        allow(Open, Closed, on=CLOSE, update=lambda step: Order(payments=(0 if step.payload is None else 1,))),
        allow(Open, Paid),
        allow(Paid, Closed),
    ]
    asked, fired = (StateMachine(_order(*rules), context=Order()) for _ in range(2))
    asked.transition_to(Closed(), GO)
    fired.fire(CLOSE, None)
    assert asked.context == fired.context == Order(payments=(0,))


def test_obligations_see_the_payload_too():
    """An obligation that asks for more than the step sees what the event brought."""
    small = ProofObligation[OrderState, Order]("small", lambda step: getattr(step, "payload", None) is None)
    machine = StateMachine(
        _order(allow(Open, Closed, on=PAY), allow(Open, Paid), allow(Paid, Closed), obligations=[small]),
        context=Order(),
    )
    with pytest.raises(PreconditionFailed):
        machine.fire(PAY, Payment(amount=1))
    machine.transition_to(Paid(receipt="x"), GO)


def test_data_changes_by_the_rule_or_by_the_caller():
    """The rule's update goes before the caller's, and without either the data stays."""

    def add(order: Order) -> Order:
        return Order(total=order.total + 1)

    rules = [allow(Open, Paid), allow(Paid, Open, update=lambda _: Order(total=100)), allow(Paid, Closed)]
    machine = StateMachine(_order(*rules), context=Order())
    machine.transition_to(Paid(receipt="a"), GO, update=add)
    assert machine.context.total == 1
    machine.transition_to(Open(), GO, update=add)
    assert machine.context.total == 100
    machine.transition_to(Paid(receipt="b"), GO)
    assert (machine.context.total, machine.current_state) == (100, Paid(receipt="b"))


def test_a_forced_step_keeps_the_data():
    """Forcing changes the state alone."""
    machine = StateMachine(ORDER, context=Order(total=3))
    machine.force_state(Closed(note="by hand"), "why")
    assert (machine.current_state, machine.context) == (Closed(note="by hand"), Order(total=3))


def test_a_state_with_other_data_is_another_state():
    """A step between two states of one class needs a rule, like any other."""
    machine = StateMachine(ORDER, context=Order())
    machine.fire(PAY, Payment(amount=1))
    with pytest.raises(InvalidTransition):
        machine.transition_to(Paid(receipt="another"), GO)


def test_a_timer_takes_the_step_of_its_state():
    """The rule of a time-out leads to its target, caused by the time that was over, through obligations as any step."""
    step = judge_time_out(ORDER, Present(Open(), Order()), {})
    assert not isinstance(step, Refusal)
    assert (step.after.state, step.trigger) == (Closed(), Timeout(30_000))
    none = judge_time_out(ORDER, Present(Paid(receipt="x"), Order()), {})
    assert isinstance(none, Refusal)
    assert none.reason == "this state has no time-out"
    never = ProofObligation[Node, None]("never", lambda _: False)
    refused = judge_time_out(
        node([time_out(Node.Ready, Node.Failed, seconds=1)], obligations=[never]), Present(Node.Ready, None), {}
    )
    assert isinstance(refused, Refusal)
    assert refused.error is PreconditionFailed


def test_an_event_is_judged_without_a_machine():
    """Judging is pure: the same machine and payload give the same verdict, and nothing changes."""
    present = Present[OrderState, Order](Open(), Order(total=5))
    one, two = (judge_event(ORDER, present, "pay", Payment(amount=5), {}) for _ in range(2))
    assert one == two
    assert one
    assert present == Present(Open(), Order(total=5))


def test_a_payload_may_be_a_subclass():
    """A payload of a class derived from the event's is one of it."""

    class Cash(Payment):
        coins: int = 0

    machine = StateMachine(ORDER, context=Order())
    machine.fire(PAY, Cash(amount=1))
    assert isinstance(machine.current_state, Paid)
    assert isinstance(Cash(amount=1), BaseModel)
    assert not NODE.knows(machine.current_state)
