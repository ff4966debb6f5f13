"""Machines that an application has changed since it stored the first of them, for checks and migrations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tai_state.machines import (
    ANY_STATE,
    ComponentState,
    DataState,
    Definition,
    FormerMachine,
    Invariant,
    Migration,
    Rule,
    Severity,
    allow,
    define,
    described,
    time_out,
)

from . import orders
from .orders import ORDER, Cart


class OrderNow(ComponentState):
    """The states of an order since its version 2: what was Paid is Settled."""

    Placed = described("Waits for a payment")
    Settled = described("Is paid and booked")
    Shipped = described("Is on its way")
    Delivered = described("Has arrived", terminal=True)
    Lost = described("Is lost", failure=True, terminal=True)


def is_settled(order: Any) -> bool:
    """Whether an order that is settled is paid."""
    return order.state is not OrderNow.Settled or order.context.paid >= order.context.cents


RULES_NOW: list[Rule[OrderNow, Any]] = [
    allow(OrderNow.Placed, OrderNow.Settled),
    allow(OrderNow.Settled, OrderNow.Shipped),
    allow(OrderNow.Shipped, OrderNow.Delivered, advances_epoch=True),
    allow(ANY_STATE, OrderNow.Lost),
    time_out(OrderNow.Placed, OrderNow.Lost, seconds=60),
    time_out(OrderNow.Settled, OrderNow.Lost, seconds=90),
]
ORDER_NOW: Definition[OrderNow, Cart] = define(
    "order",
    OrderNow,
    initial=OrderNow.Placed,
    version=2,
    rules=RULES_NOW,
    context=Cart,
    invariants=[Invariant("settled means paid", "what is settled is paid", Severity.High, is_settled)],
)
ORDERS = [ORDER, ORDER_NOW]


class Job(DataState):
    """The states of a job in its version 1."""


class Waiting(Job):
    """No data."""

    facts = described("Waits for a worker")


class Running(Job):
    """Data that stays."""

    facts = described("A worker runs it")
    worker: str


class Done(Job):
    """Final."""

    facts = described("Is done", terminal=True)


class Note(BaseModel):
    """What a job keeps."""

    text: str = ""


JOB: Definition[Job, Note] = define(
    "job",
    [Waiting, Running, Done],
    initial=Waiting(),
    context=Note,
    rules=[allow(Waiting, Running), allow(Running, Done), allow(Running, Waiting)],
)


class JobNow(DataState):
    """The states of a job in its version 2."""


class Queued(JobNow):
    """Data that did not exist."""

    facts = described("Waits in a queue")
    priority: int


class Working(JobNow):
    """The data of Running, under another name."""

    facts = described("A worker works on it")
    worker: str


class Over(JobNow):
    """Final."""

    facts = described("Is over", terminal=True)


JOB_NOW: Definition[JobNow, Note] = define(
    "job",
    [Queued, Working, Over],
    initial=Queued(priority=0),
    version=2,
    context=Note,
    rules=[allow(Queued, Working), allow(Working, Over), allow(Working, Queued)],
)


def queued(job: FormerMachine) -> tuple[JobNow, Note]:
    """A job that waited, in the queue."""
    return Queued(priority=len((job.context or {}).get("text", ""))), Note.model_validate(job.context)


JOBS = [JOB, Migration(JOB_NOW, {"Waiting": queued})]


def write_app(folder: Path) -> None:
    """Write these definitions as modules of an application: ``order_versions:ORDERS``, ``order_versions:JOBS``."""
    (folder / "orders.py").write_text(Path(str(orders.__file__)).read_text())
    text = Path(__file__).read_text().replace("from . import", "import").replace("from .orders", "from orders")
    (folder / "order_versions.py").write_text(text)
