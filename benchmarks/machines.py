"""Machines: a transition of this library and of two others in memory; and a stored one; in one run.

``python benchmarks/machines.py`` drives a machine of three states round and round. Each library does the same for a
transition: it finds the one of three rules that allows it, asks an obligation and an invariant (elsewhere these are
conditions), and keeps a record in a history of a hundred. All work in turn in each round, and the medians of the ratios
of processor time are judged.

A stored transition is compared with ``log_transition`` of the same data, on SQLite and in memory, in chunks that take
turns.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import statemachine
import transitions
from work import GOVERNOR, METADATA, Measured, timed

from tai_state import StateMachinePersister, open_store
from tai_state.machines import (
    Command,
    ComponentState,
    Invariant,
    ProofObligation,
    Severity,
    StateMachine,
    allow,
    define,
    described,
)

ROUNDS = 9
STEPS = 30_000
STEPS_OF = {"python-statemachine": 3_000}
LEAST = {"transitions": 5.0, "python-statemachine": 50.0}
KEPT = 100
STORED_ROUNDS = 40
STORED_STEPS = 200
MOST_STORED = 1.15


class Job(ComponentState):
    """The states of the machine, the same in each library."""

    Waiting = described("Waits for a worker")
    Running = described("A worker runs it")
    Checking = described("Its result is checked")


RING = (Job.Running, Job.Checking, Job.Waiting)
"""The states in the order in which they are entered."""

JOB = define(
    "job",
    Job,
    initial=Job.Waiting,
    rules=[allow(Job.Waiting, Job.Running), allow(Job.Running, Job.Checking), allow(Job.Checking, Job.Waiting)],
    obligations=[ProofObligation("the epoch has begun", lambda step: step.epoch >= 0)],
    invariants=[Invariant("epochs", "epochs count up", Severity.High, lambda machine: machine.epoch >= 0)],
)


@dataclass(frozen=True, slots=True)
class Record:
    """What the other libraries' machines keep of a transition; this library has a record of its own."""

    number: int
    from_state: str
    to_state: str
    trigger: str
    timestamp_ns: int
    wall_time: datetime
    epoch: int


class Kept:
    """What a machine of another library stands on: its epoch, its checks and its history."""

    def __init__(self) -> None:
        self.epoch = 0
        self.number = 0
        self.history = deque[Record](maxlen=KEPT)

    def is_proven(self, *_: object) -> bool:
        """The obligation; ``transitions`` tells it of the event."""
        return self.epoch >= 0

    def holds(self, *_: object) -> bool:
        """The invariant; as above."""
        return self.epoch >= 0

    def record(self, from_state: str, to_state: str, trigger: str) -> None:
        """Keep a record of a transition."""
        self.number += 1
        now = datetime.now(UTC)
        self.history.append(Record(self.number, from_state, to_state, trigger, time.monotonic_ns(), now, self.epoch))


class TransitionsModel(Kept):
    """The model of a machine of ``transitions``."""

    state: str
    start: Callable[[], bool]
    check: Callable[[], bool]
    reset: Callable[[], bool]

    def on_change(self, event: Any) -> None:
        """Called after each transition."""
        self.record(event.transition.source, event.transition.dest, event.event.name)


class TheirMachine(statemachine.StateMachine):
    """A machine of ``python-statemachine``."""

    waiting = statemachine.State(initial=True)
    running = statemachine.State()
    checking = statemachine.State()
    start = waiting.to(running, cond=["is_proven", "holds"])
    check = running.to(checking, cond=["is_proven", "holds"])
    reset = checking.to(waiting, cond=["is_proven", "holds"])

    def after_transition(self, event: str, source: statemachine.State, target: statemachine.State) -> None:
        """Called after each transition."""
        self.model.record(source.id, target.id, event)


def ours(steps: int) -> Measured:
    """This library."""
    machine, trigger = StateMachine(JOB, history_limit=KEPT), Command("go on")
    with timed(steps) as measured:
        for state in islice(cycle(RING), steps):
            machine.transition_to(state, trigger)
    check(len(machine.transition_history), machine.transition_history[-1].id == steps)
    return measured


def with_transitions(steps: int) -> Measured:
    """``transitions``."""
    model = TransitionsModel()
    conditions = ["is_proven", "holds"]
    transitions.Machine(
        model,
        states=["waiting", "running", "checking"],
        transitions=[
            {"trigger": name, "source": source, "dest": target, "conditions": conditions}
            for name, source, target in (
                ("start", "waiting", "running"),
                ("check", "running", "checking"),
                ("reset", "checking", "waiting"),
            )
        ],
        initial="waiting",
        after_state_change="on_change",
        send_event=True,
    )
    events = model.start, model.check, model.reset
    with timed(steps) as measured:
        for event in islice(cycle(events), steps):
            event()
    check(len(model.history), model.number == steps)
    return measured


def with_statemachine(steps: int) -> Measured:
    """``python-statemachine``."""
    model = Kept()
    machine: Any = TheirMachine(model)
    events = machine.start, machine.check, machine.reset
    with timed(steps) as measured:
        for event in islice(cycle(events), steps):
            event()
    check(len(model.history), model.number in {steps, steps + 1})  # entering the first state may count
    return measured


def check(kept: int, all_taken: bool) -> None:  # noqa: FBT001
    """Check that a contestant did its work."""
    if kept != KEPT or not all_taken:
        raise AssertionError(f"{kept} records were kept")


async def stored(url: str, rounds: int) -> dict[str, Any]:
    """A stored transition, and ``log_transition`` of the same data: processor time of each, and the median ratio."""
    cpu_us: dict[str, list[float]] = {"machine": [], "log_transition": []}
    async with open_store(url, metadata=METADATA) as store:
        machine, logged = (store.machine(GOVERNOR, name, JOB) for name in ("machine", "logged"))
        data: list[dict[str, Any]] = []
        for each in (machine, logged):
            await each.initialize()
        for state in RING:
            await machine.transition_to(state, Command("go on"))
            data.append((await store.get_state(GOVERNOR, "machine")).data)
        persister, snapshot = StateMachinePersister(store), await store.get_state(GOVERNOR, "logged")
        states, datas = cycle(RING), cycle(data)
        for number in range(rounds + 1):
            taken: dict[str, float] = {}
            for name in sorted(cpu_us, reverse=bool(number % 2)):
                with timed(STORED_STEPS) as measured:
                    for _ in range(STORED_STEPS):
                        if name == "machine":
                            await machine.transition_to(next(states), Command("go on"))
                        else:
                            after = snapshot.with_data(next(datas))
                            event = await persister.log_transition(GOVERNOR, snapshot, after, "transition")
                            snapshot = msgspec.structs.replace(after, version=event.version)
                taken[name] = measured.cpu_us
            if number:  # the first round warms up
                for name, each in taken.items():
                    cpu_us[name].append(each)
    ratio = statistics.median(a / b for a, b in zip(cpu_us["machine"], cpu_us["log_transition"], strict=True))
    cpu = {name: round(statistics.median(each), 1) for name, each in cpu_us.items()}
    return {"cpu_us": cpu, "ratio": round(ratio, 3), "most": MOST_STORED, "kept": ratio <= MOST_STORED}


def all_stored(rounds: int) -> dict[str, Any]:
    """Stored transitions on both engines."""
    with TemporaryDirectory() as folder:
        urls = {"memory": "memory://", "sqlite": f"sqlite:///{folder}/machines.db"}
        return {name: asyncio.run(stored(url, rounds)) for name, url in urls.items()}


CONTESTANTS: dict[str, Callable[[int], Measured]] = {
    "ours": ours,
    "transitions": with_transitions,
    "python-statemachine": with_statemachine,
}


def main(rounds: int) -> dict[str, Any]:
    """Run all contestants in each round. Returns their medians, and the medians of the ratios within the rounds."""
    cpu_us: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for number in range(rounds + 1):
        names = list(CONTESTANTS)
        for name in names[number % 3 :] + names[: number % 3]:
            measured = CONTESTANTS[name](STEPS_OF.get(name, STEPS))
            if number:  # the first round warms up
                cpu_us[name].append(measured.cpu_us)
    ratios = {
        name: statistics.median(theirs / mine for theirs, mine in zip(cpu_us[name], cpu_us["ours"], strict=True))
        for name in LEAST
    }
    return {
        "rounds": rounds,
        "versions": {"transitions": transitions.__version__, "python-statemachine": statemachine.__version__},
        "cpu_us": {name: round(statistics.median(each), 2) for name, each in cpu_us.items()},
        "ratios": {
            name: {"ratio": round(each, 1), "least": LEAST[name], "kept": each >= LEAST[name]}
            for name, each in ratios.items()
        },
        "stored": all_stored(STORED_ROUNDS),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path, help="where to write the results")
    options = parser.parse_args()
    account = json.dumps(main(options.rounds), indent=2)
    print(account)
    if options.json:
        options.json.write_text(account + "\n")
