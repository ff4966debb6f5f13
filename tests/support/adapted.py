"""Machines of other libraries, and adapters of them, for the tests of adapters; as a program, it sends events."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import anyio
from anyio.lowlevel import checkpoint
from pydantic import BaseModel
from statemachine import HistoryState, State, StateChart, StateMachine
from transitions import Machine
from transitions.extensions import HierarchicalMachine
from transitions.extensions.asyncio import AsyncMachine, HierarchicalAsyncMachine

from tai_state import ChangeMetadata, InvalidTransition, StateStore, open_store
from tai_state.adapters import AdaptedMachine, StatemachineAdapter, TransitionsAdapter

GOVERNOR = "bank"
METADATA = ChangeMetadata("tester", "", {"ticket": 7})


class Payments(BaseModel):
    """What is kept of a bill."""

    cents: int = 0


class Bill:
    """The model of a bill: what was paid, and what its machine told it to do."""

    def __init__(self) -> None:
        self.cents = 0
        self.told: list[str] = []


SEEN: list[str] = []
"""What callbacks did, in this process, in order; each test clears it."""


class BillMachine(StateMachine):
    """A bill: it is paid once enough was given, and then closed."""

    unpaid = State(initial=True)
    paid = State()
    closed = State(final=True)
    pay = unpaid.to(paid, cond="is_enough") | unpaid.to.itself(unless="is_enough", on="count")
    close = paid.to(closed)
    remind = unpaid.to.itself(internal=True)

    def is_enough(self, cents: int = 0) -> bool:
        """Whether all is paid with this."""
        return self.model.cents + cents >= 100

    def count(self, cents: int = 0) -> None:
        """Count a part payment."""
        self.model.cents += cents

    def on_enter_paid(self, cents: int = 0) -> None:
        """Count the last payment."""
        SEEN.append(f"paid {cents}")
        self.model.cents += cents

    def on_close(self, fails: bool = False) -> None:  # noqa: FBT001, FBT002
        """Close, or fail."""
        SEEN.append("close")
        if fails:
            raise LookupError("no such book")


class Works(StateChart):
    """Two lines that work side by side, inside a plant that can be stopped and goes on where it was."""

    class running(State.Compound, initial=True):  # noqa: N801
        """Both lines."""

        class lines(State.Parallel, initial=True):  # noqa: N801
            """Side by side."""

            class left(State.Compound):  # noqa: N801
                """The left one."""

                cold = State(initial=True)
                hot = State()
                heat = cold.to(hot)

            class right(State.Compound):  # noqa: N801
                """The right one."""

                empty = State(initial=True)
                full = State()
                fill = empty.to(full)

        last = HistoryState(type="deep")

    stopped = State()
    broken = State(final=True)
    stop = running.to(stopped)
    resume = stopped.to(running.last)  # type: ignore[has-type]
    scrap = stopped.to(broken)


class AsyncBell(StateChart):
    """A bell whose callbacks are asynchronous."""

    silent = State(initial=True)
    ringing = State()
    ring = silent.to(ringing)
    hush = ringing.to(silent)

    async def on_ring(self, times: int = 1) -> None:
        """Ring some times."""
        for _ in range(times):
            await checkpoint()
        SEEN.append("ring")


class Bulb:
    """The model of a bulb."""

    def __init__(self) -> None:
        self.cents = 0

    def may_glow(self, **_: Any) -> bool:
        """Whether it has been paid for."""
        return self.cents >= 0

    def count(self, cents: int = 1) -> None:
        """Count what it costs."""
        SEEN.append(f"count {cents}")
        self.cents += cents

    def burst(self, **_: Any) -> None:
        """Fail."""
        SEEN.append("burst")
        raise LookupError("no such socket")


def bulb_machine(**options: Any) -> Machine:
    """A machine of bulbs, without a model."""
    transitions = [
        {"trigger": "switch", "source": "dark", "dest": "lit", "conditions": "may_glow", "after": "count"},
        {"trigger": "switch", "source": "lit", "dest": "dark"},
        {"trigger": "light", "source": "dark", "dest": "lit", "after": "count"},
        {"trigger": "dim", "source": "lit", "dest": None, "after": "count"},
        {"trigger": "burn", "source": "lit", "dest": "lit", "before": "burst"},
        {"trigger": "never", "source": "*", "dest": "lit", "conditions": lambda **_: False},
    ]
    return Machine(model=None, states=["dark", "lit"], initial="dark", transitions=transitions, **options)


def mill_states() -> list[Any]:
    """The states of a mill: a wheel and a stone, side by side, and a gate that is nested three deep."""
    wheel = {"name": "wheel", "children": ["still", "turning"], "initial": "still"}
    wheel["transitions"] = [["push", "still", "turning"]]
    gate = {"name": "gate", "children": ["shut", {"name": "open", "children": ["half", "wide"], "initial": "half"}]}
    gate |= {"initial": "shut", "transitions": [["lift", "shut", "open"], ["lift", "open_half", "open_wide"]]}
    return ["idle", {"name": "work", "parallel": [wheel, gate]}]


def mill_machine() -> HierarchicalMachine:
    """A machine of mills, without a model."""
    transitions = [["begin", "idle", "work"], ["end", "work", "idle"]]
    return HierarchicalMachine(
        model=None, states=mill_states(), initial="idle", transitions=transitions, auto_transitions=False
    )


def async_mill_machine() -> HierarchicalAsyncMachine:
    """The same, asynchronous."""
    transitions = [["begin", "idle", "work"], ["end", "work", "idle"]]
    return HierarchicalAsyncMachine(
        model=None, states=mill_states(), initial="idle", transitions=transitions, auto_transitions=False
    )


class Clerk:
    """A model whose callbacks are asynchronous."""

    def __init__(self) -> None:
        self.cents = 0

    async def work(self, times: int = 1, **_: Any) -> None:
        """Wait some times."""
        self.cents += 1
        for _ in range(times):
            await checkpoint()
        SEEN.append("work")


def clerk_machine(**options: Any) -> AsyncMachine:
    """A machine of clerks, without a model."""
    transitions = [{"trigger": "call", "source": "free", "dest": "busy", "after": "work"}, ["rest", "busy", "free"]]
    return AsyncMachine(model=None, states=["free", "busy"], initial="free", transitions=transitions, **options)


def bills(store: StateStore, **options: Any) -> StatemachineAdapter[Payments]:
    """The adapter of bills."""
    return StatemachineAdapter(store, BillMachine, model=Bill, context=Payments, metadata=METADATA, **options)


def bulbs(store: StateStore, **options: Any) -> TransitionsAdapter[Payments]:
    """The adapter of bulbs."""
    return TransitionsAdapter(store, bulb_machine, model=Bulb, context=Payments, metadata=METADATA, **options)


async def begun(adapter: Any, state_id: str = "m") -> AdaptedMachine[Any]:
    """A machine of an adapter, once it is stored."""
    machine: AdaptedMachine[Any] = adapter.machine(GOVERNOR, state_id)
    await machine.initialize()
    return machine


ADAPTERS: dict[str, Callable[[StateStore], Any]] = {
    "works": lambda store: StatemachineAdapter(store, Works, metadata=METADATA),
    "mill": lambda store: TransitionsAdapter(store, mill_machine, model=Bulb, context=Payments, metadata=METADATA),
    "bulb": bulbs,
}
"""The adapters that processes of tests use, by name."""


async def _work(url: str, name: str, events: list[str]) -> None:
    """Send events to a machine, one after the other; say what became of each, and how many callbacks have run."""
    async with open_store(url) as store:
        machine = ADAPTERS[name](store).machine(GOVERNOR, "m")
        for event in events:
            try:
                done = await (machine.initialize() if event == "initialize" else machine.send(event))
                print(done.version, done.state, len(SEEN), flush=True)
            except InvalidTransition:
                print("refused", len(SEEN), flush=True)
        print("done", flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(_work, sys.argv[1], sys.argv[2], sys.argv[3:])
