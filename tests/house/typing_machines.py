"""A user's machines, which both type checkers must accept. It is checked, never run.

Beside it lies ``typing_machines_wrong.py``: the same machines, used wrongly.
"""

from typing import assert_type

from pydantic import BaseModel

from tai_state.machines import (
    ANY_STATE,
    Cascade,
    Command,
    ComponentState,
    CustomViolation,
    DataState,
    Definition,
    EventContext,
    Failure,
    Invariant,
    MachineEvent,
    MachineSnapshot,
    PendingEffect,
    PersistentMachine,
    Present,
    ProofObligation,
    QuorumLost,
    Recovery,
    Refusal,
    Severity,
    StateMachine,
    Step,
    TakenStep,
    Timeout,
    TransitionContext,
    TransitionRecord,
    allow,
    define,
    described,
    forbid,
    time_out,
    to_dot,
    to_mermaid,
    to_table,
)


class Door(ComponentState):
    """A machine without data."""

    Shut = described("Nobody can walk in", accepts_new_work=True)
    Ajar = described("A cat can walk in")
    Broken = described("Somebody has to come", failure=True, terminal=True)


class Lamp(ComponentState, component_type="Light"):
    """Another machine."""

    Dark = described("Is dark")
    Lit = described("Is lit", operational=True)


def has_key(step: TransitionContext[Door, None]) -> bool | str:
    """A guard, or an obligation."""
    return step.get_metadata("key") == "mine" or f"the key opens no {step.from_state.component_type}"


def is_sound(machine: Present[Door, None]) -> bool | QuorumLost | CustomViolation:
    """An invariant."""
    return machine.state.is_operational or CustomViolation("sound", "the door is broken")


async def announce(step: TakenStep[Door, None]) -> None:
    """What runs after a commit."""
    assert_type(step.after.state, Door)
    assert_type(step.event_id, str | None)


def ring(effect: PendingEffect, door: MachineSnapshot[Door, None]) -> None:
    """Has an effect."""
    assert_type(effect.id, str)
    assert_type(door.state, Door)


async def ring_later(effect: PendingEffect, door: MachineSnapshot[Door, None]) -> None:
    """Has an effect, and waits."""


async def run(door: PersistentMachine[Door, None]) -> None:
    """Runs effects."""
    report = await door.run_effects({"ring": ring, "later": ring_later})
    assert_type(report.done, int)
    assert_type(await door.complete_effect("e:ring"), MachineSnapshot[Door, None])


BELL: MachineEvent[None] = MachineEvent("bell")

DOOR = define(
    "door",
    Door,
    initial=Door.Shut,
    rules=[
        allow(Door.Shut, Door.Ajar, guard=has_key, reason="it is locked", after_commit=announce),
        allow([Door.Ajar, Door.Shut], Door.Shut, on=BELL, advances_epoch=True, effects=["ring"]),
        allow(ANY_STATE, Door.Broken, name="Break"),
        forbid(Door.Broken, ANY_STATE, "it is broken", unless_from=[Door.Shut]),
        time_out(Door.Ajar, Door.Shut, seconds=30, effects=["ring"], after_commit=announce),
    ],
    obligations=[ProofObligation("has a key", has_key)],
    invariants=[Invariant("sound", "the door works", Severity.High, is_sound)],
    starts=[Door.Ajar],
)
assert_type(DOOR, Definition[Door, None])


def door() -> None:
    """A machine without data knows its states."""
    machine = StateMachine(DOOR, initial=Door.Shut, history_limit=5)
    assert_type(machine, StateMachine[Door, None])
    assert_type(machine.current_state, Door)
    record = machine.transition_to(Door.Ajar, Command("push"), metadata={"key": "mine"})
    assert_type(record, TransitionRecord[Door])
    assert_type(record.to_state, Door)
    machine.transition_to(Door.Broken, Failure("hinge", "noise"))
    machine.transition_to(Door.Broken, Cascade("house", "it fell"))
    machine.transition_to(Door.Broken, Timeout(duration_ms=5))
    machine.transition_to(Door.Shut, Recovery(("hinge",)))
    machine.force_state(Door.Shut, "repaired")
    machine.fire(BELL, None)
    verdict = machine.can_transition_to(Door.Ajar)
    assert_type(verdict, Step[Door, None] | Refusal)
    if isinstance(verdict, Refusal):
        assert_type(verdict.allowed, tuple[str, ...])
    else:
        assert_type(verdict.after.state, Door)
    assert_type(DOOR.allowed(Door.Shut), tuple[str, ...])
    assert_type(to_mermaid(DOOR, Door.Shut, [Door.Shut, "Ajar"]), str)
    assert_type(to_dot(DOOR, "Shut") + to_table(DOOR), str)
    assert_type(bool(DOOR.diff(DOOR)), bool)


class Invoice(BaseModel):
    """What an order keeps beside its state."""

    total: int = 0


class Order(DataState):
    """A machine whose states carry data."""


class Open(Order):
    """A state without data of its own."""

    facts = described("Waits to be paid")


class Paid(Order):
    """A state with data."""

    facts = described("Has been paid")
    receipt: str


class Lost(Order):
    """The end."""

    facts = described("Nobody knows", failure=True, terminal=True)


class Payment(BaseModel):
    """What a payment brings."""

    amount: int
    receipt: str


PAY: MachineEvent[Payment] = MachineEvent("pay", Payment)


def is_enough(step: EventContext[Order, Invoice, Payment]) -> bool | str:
    """A guard that sees the payload and the data."""
    return step.payload.amount >= step.context.total or "too little"


def paid(payment: Payment) -> Order:
    """The state that a payment leads to."""
    return Paid(receipt=payment.receipt)


def settled(step: EventContext[Order, Invoice, Payment]) -> Invoice:
    """The data after a payment."""
    return Invoice(total=step.context.total - step.payload.amount)


def is_sane(step: TransitionContext[Order, Invoice]) -> bool:
    """An obligation."""
    return step.context.total >= 0


ORDER: Definition[Order, Invoice] = define(
    "order",
    [Open, Paid, Lost],
    initial=Open(),
    rules=[
        allow(Open, Paid, on=PAY, guard=is_enough, update=settled, enter=paid),
        allow(ANY_STATE, Lost),
    ],
    context=Invoice,
    obligations=[ProofObligation("is sane", is_sane)],
    dead_ends=[Paid],
)


def order() -> None:
    """A machine with data knows its states, its data and its payloads."""
    machine = StateMachine(ORDER, context=Invoice(total=5), initial=Open())
    assert_type(machine, StateMachine[Order, Invoice])
    assert_type(machine.context.total, int)
    machine.fire(PAY, Payment(amount=5, receipt="r"))
    state = machine.current_state
    assert_type(state, Order)
    if isinstance(state, Paid):
        assert_type(state.receipt, str)
    machine.transition_to(Lost(), Command("lose"), update=lambda invoice: Invoice(total=invoice.total + 1))
