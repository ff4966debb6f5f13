"""Readers of the endpoint beside writers: each answer is of one committed version, and none fails."""

from __future__ import annotations

from contextlib import suppress
from itertools import count, pairwise
from typing import Any

import anyio
import httpx2
import pytest

from tai_state import InvalidTransition, StateStore
from tai_state.machines import Event, PersistentMachine, ready
from tai_state.web import monitor_app

from ..support.stores import MEMORY, METADATA, SQLITE, Kind, Places
from .conftest import DEFINITIONS, client_of
from .test_machines import HTML

pytestmark = pytest.mark.anyio

STEPS = 200
READERS = 3
MACHINES = 10
STATES = ready.CoordinatorState
ROUND = (STATES.Computing, STATES.Aggregating, STATES.Committing, STATES.Ready)
NAMES = [state.name for state in ROUND]


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: what is asked is whether the store gives one version."""
    return "asyncio"


def version_of(step: dict[str, Any], epoch: int) -> int:
    """The version of the event of a step: a round of four steps is an epoch."""
    return 4 * epoch + 2 + NAMES.index(step["to"])


def check_state(body: dict[str, Any]) -> None:
    """Check that state, epoch and steps of an answer are of one version."""
    steps = body["recent_transitions"]
    assert steps[0]["to"] == body["state"]
    assert all(newer["from"] == older["to"] for newer, older in pairwise(steps))
    began = sum(step["from"] == "Committing" for step in steps)
    assert body["epoch"] >= began
    if len(steps) < 10:
        assert steps[-1]["trigger"] == "Event: Initialization"
        assert body["epoch"] == began
    for step in steps[:-1]:
        assert NAMES.index(step["to"]) == (NAMES.index(step["from"]) + 1) % 4


def check_machine(body: dict[str, Any]) -> None:
    """Check the same of a machine: and its version, and what it may do next."""
    check_state(body)
    rounds, place = divmod(body["version"] - 1, 4)
    assert body["state"] == NAMES[place - 1]
    assert body["epoch"] == rounds
    following = next(each for each in body["allowed"] if each["to"] == NAMES[place])
    assert following["refused_because"] is None


def check_history(body: dict[str, Any]) -> None:
    """Check that a page of history begins at the version that it names, without a gap."""
    versions = [each["version"] for each in body["events"]]
    assert versions == list(range(body["version"], 0, -1))[: len(versions)]
    assert body["problems"] == []


CHECKS = {"": check_machine, "/state": check_state, "/history": check_history}


async def walk(machine: PersistentMachine[STATES, None], taken: list[int]) -> None:
    """Take the step that comes next, and look again where another task was faster."""
    while True:
        now = await machine.get()
        step = ROUND[0] if now.state is STATES.Ready else ROUND[ROUND.index(now.state) + 1]
        with suppress(InvalidTransition):
            await machine.transition_to(step, Event("work"), METADATA)
            taken.append(1)
            return


async def read(client: httpx2.AsyncClient, taken: list[int], seen: set[Any]) -> None:
    """Ask for one machine after the other until all steps are taken, and check each answer."""
    for number in count():
        if len(taken) == STEPS:
            return
        address = f"/machines/cluster/node-{number % MACHINES}"
        for path, check in CHECKS.items():
            answer = await client.get(f"{address}{path}")
            assert answer.status_code == 200, answer.text
            check(answer.json())
            seen.add(answer.headers["ETag"])
        page = ("/machines", address, f"{address}/diagram", f"{address}/history")[number % 4]
        assert (await client.get(page, headers=HTML)).status_code == 200


@pytest.mark.parametrize("kind", [MEMORY, SQLITE], ids=["memory", "sqlite"])
async def test_answers_beside_two_hundred_steps(kind: Kind) -> None:
    """While 200 tasks take a step each, every answer to many readers is of one committed version, and none fails."""
    taken: list[int] = []
    seen: set[Any] = set()
    with Places(kind) as places:
        async with places.new().store() as store, client_of(monitor_app(store, DEFINITIONS)) as client:
            machines = [await _machine(store, number) for number in range(MACHINES)]
            async with anyio.create_task_group() as tasks:
                for _ in range(READERS):
                    tasks.start_soon(read, client, taken, seen)
                for number in range(STEPS):
                    tasks.start_soon(walk, machines[number % MACHINES], taken)
            assert {(await each.get()).version for each in machines} == {STEPS // MACHINES + 1}
    assert seen


async def _machine(store: StateStore, number: int) -> PersistentMachine[STATES, None]:
    """A new coordinator."""
    machine = store.machine("cluster", f"node-{number}", ready.COORDINATOR, metadata=METADATA)
    await machine.initialize(initial=STATES.Ready)
    return machine
