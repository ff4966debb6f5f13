"""A machine that tests share: an order, which carries data, bears events and has a time-out."""

from __future__ import annotations

from pydantic import BaseModel

from tai_state.machines import (
    ANY_STATE,
    ComponentState,
    EventContext,
    Invariant,
    MachineEvent,
    ProofObligation,
    Severity,
    TransitionContext,
    allow,
    define,
    described,
    forbid,
    time_out,
)


class Order(ComponentState):
    """The states of an order."""

    Placed = described("Waits for a payment")
    Paid = described("Is paid", accepts_new_work=True)
    Shipped = described("Is on its way")
    Delivered = described("Has arrived", terminal=True)
    Lost = described("Is lost", failure=True, terminal=True)


class Cart(BaseModel):
    """What an order knows beside its state."""

    cents: int = 100
    paid: int = 0


class Payment(BaseModel):
    """What a payment brings."""

    cents: int


PAY = MachineEvent("pay", Payment)


def is_enough(step: EventContext[Order, Cart, Payment]) -> bool | str:
    """Whether the order is paid in full."""
    return step.context.paid + step.payload.cents >= step.context.cents or "it is too little"


def paid(step: EventContext[Order, Cart, Payment]) -> Cart:
    """The order once a payment has come."""
    return Cart(cents=step.context.cents, paid=step.context.paid + step.payload.cents)


def is_not_frozen(step: TransitionContext[Order, Cart]) -> bool:
    """Whether nobody has frozen the order."""
    return step.get_metadata("frozen") is None


RULES = [
    allow(Order.Placed, Order.Paid, on=PAY, guard=is_enough, update=paid, reason="an order is paid by a payment"),
    allow(Order.Paid, Order.Shipped, reason="what is not paid is not shipped"),
    allow(Order.Shipped, Order.Delivered, advances_epoch=True),
    allow(ANY_STATE, Order.Lost),
    forbid(Order.Placed, Order.Delivered, "skips payment and shipping"),
    time_out(Order.Placed, Order.Lost, seconds=30),
]
ORDER = define(
    "order",
    Order,
    initial=Order.Placed,
    rules=RULES,
    context=Cart,
    obligations=[ProofObligation("nobody has frozen it", is_not_frozen)],
    invariants=[
        Invariant(
            "shipped means paid",
            "what is shipped is paid",
            Severity.High,
            lambda order: order.state is not Order.Shipped or order.context.paid >= order.context.cents,
        )
    ],
)
