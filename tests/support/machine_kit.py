"""Small machines for tests of machines in memory, and a clock that is set by hand."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel

from tai_state.machines import (
    ANY_STATE,
    ComponentState,
    DataState,
    Definition,
    MachineEvent,
    Rule,
    allow,
    define,
    described,
    forbid,
    time_out,
)


class Times:
    """A clock that moves only when it is told to: 2026, noon, and any number of nanoseconds since some moment."""

    def __init__(self) -> None:
        self.ns = 5_000_000_000

    def monotonic_ns(self) -> int:
        """The nanoseconds."""
        return self.ns

    def now(self) -> datetime:
        """The time of the day, as many nanoseconds after noon."""
        return datetime(2026, 1, 2, 12, tzinfo=UTC) + timedelta(microseconds=self.ns // 1000)


class Node(ComponentState, component_type="Coordinator"):
    """A coordinator, as the seed has it, shortened."""

    Ready = described("Waits for work", accepts_new_work=True)
    Computing = described("Coordinates a computation")
    Committing = described("Finalises an agreement")
    Degraded = described("Works with reduced capacity", operational=False)
    Failed = described("Has failed", failure=True, terminal=True)


NODE_RULES: tuple[Rule[Node, Any], ...] = (
    allow(Node.Ready, Node.Computing, reason="work begins when the node is ready"),
    allow(Node.Computing, Node.Committing),
    allow(Node.Committing, Node.Ready, advances_epoch=True),
    allow([Node.Ready, Node.Computing], Node.Degraded, name="Degrade"),
    allow(Node.Degraded, Node.Ready),
    allow(ANY_STATE, Node.Failed),
    forbid(Node.Computing, Node.Ready, "skips the commitment"),
)


def node(rules: Sequence[Rule[Node, Any]] = (), **more: Any) -> Definition[Node, None]:
    """The definition of a coordinator, with more rules before its own, and whatever else."""
    return define("node", Node, initial=Node.Ready, rules=[*rules, *NODE_RULES], **more)


NODE = node()


class Lamp(ComponentState):
    """Another machine's states, one of them with a name that the first has, too."""

    Ready = described("Is dark")
    Lit = described("Is lit")


class Order(BaseModel):
    """What an order keeps beside its state."""

    total: int = 0
    payments: tuple[int, ...] = ()


class OrderState(DataState):
    """An order, whose states carry data."""


class Open(OrderState):
    """No data."""

    facts = described("Waits to be paid", accepts_new_work=True)


class Paid(OrderState):
    """Data that must be there."""

    facts = described("Has been paid")
    receipt: str


class Closed(OrderState):
    """Data that may be there."""

    facts = described("Is over", terminal=True)
    note: str = ""


class Payment(BaseModel):
    """What a payment brings."""

    amount: int
    receipt: str = "r"


PAY = MachineEvent("pay", Payment)
CLOSE = MachineEvent("close")

ORDER: Definition[OrderState, Order] = define(
    "order",
    [Open, Paid, Closed],
    initial=Open(),
    context=Order,
    rules=[
        allow(
            Open,
            Paid,
            on=PAY,
            guard=lambda step: step.payload.amount >= step.context.total or "too little was paid",
            update=lambda step: Order(total=step.context.total, payments=(*step.context.payments, step.payload.amount)),
            enter=lambda payment: Paid(receipt=payment.receipt),
        ),
        allow(Paid, Closed, on=CLOSE, advances_epoch=True),
        time_out(Open, Closed, seconds=30),
    ],
)
