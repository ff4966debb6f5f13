"""Machines of other libraries and real processes: killed, opened again, and several at once on one file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tai_state import StateMachinePersister, open_store

from ..support import adapted
from ..support.adapted import ADAPTERS, GOVERNOR, Payments
from ..support.processes import started
from ..support.stores import collected

pytestmark = pytest.mark.anyio

PROCESSES = 4
TIMES = 10


@pytest.fixture
def anyio_backend() -> str:
    """One loop will do: the processes have their own."""
    return "asyncio"


def sender(url: str, name: str, *events: str) -> Sequence[str]:
    """The command of a process that sends events."""
    return [sys.executable, str(adapted.__file__), url, name, *events]


@pytest.mark.parametrize(
    ("name", "before", "configuration", "after", "state"),
    [
        (
            "works",
            ["heat", "stop", "resume", "fill"],
            {"running", "lines", "left", "hot", "right", "full"},
            ["stop", "resume"],
            "hot|full",
        ),
        ("mill", ["begin", "lift"], {"work_wheel_still", "work_gate_open_half"}, ["push", "lift"], None),
    ],
)
async def test_a_killed_process_leaves_a_machine_at_its_configuration(
    name: str, before: list[str], configuration: set[str], after: list[str], state: str | None, tmp_path: Path
):
    """Nested and parallel states, and what history states remember, are there after a kill; the machine goes on."""
    url = f"sqlite:///{tmp_path}/store.db"
    with started(sender(url, name, "initialize", *before), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().split() for _ in range(len(before) + 2)]
        assert [line[0] for line in lines] == [*map(str, range(1, len(before) + 2)), "done"]
        process.kill()
        process.wait()
    async with open_store(url) as store:
        machine = ADAPTERS[name](store).machine(GOVERNOR, "m")
        found = await machine.get()
        assert (found.version, set(found.configuration)) == (len(before) + 1, configuration)
        for event in after:
            done = await machine.send(event)
        assert done.state == (state or "work_wheel_turning|work_gate_open_wide")
        events = await collected(machine.history(after=1))
        assert [each.event for each in events] == [*before, *after]
        assert (await StateMachinePersister(store).validate_consistency()).consistent


async def test_several_processes_send_to_one_machine(tmp_path: Path):
    """Of those that ask for a step that is taken once, one takes it; no count of the others is lost."""
    url = f"sqlite:///{tmp_path}/store.db"
    async with open_store(url) as store:
        machine = ADAPTERS["bulb"](store).machine(GOVERNOR, "m")
        await machine.initialize()
    with ExitStack() as processes:
        command = sender(url, "bulb", "light", *["dim"] * TIMES)
        all_of_them = [
            processes.enter_context(started(command, stdout=subprocess.PIPE, text=True)) for _ in range(PROCESSES)
        ]
        said: list[list[str]] = []
        for process in all_of_them:
            assert process.stdout is not None
            said.append([process.stdout.readline().strip() for _ in range(TIMES + 2)])
    firsts = [lines[0].split()[0] for lines in said]
    assert sorted(firsts) == ["2", *["refused"] * (PROCESSES - 1)]
    async with open_store(url) as store:
        machine = ADAPTERS["bulb"](store).machine(GOVERNOR, "m")
        done = await machine.get()
        assert done.version == 2 + PROCESSES * TIMES
        assert done.context == Payments(cents=1 + PROCESSES * TIMES)
        events = await collected(machine.history(after=1))
        assert [each.event for each in events] == ["light", *["dim"] * PROCESSES * TIMES]
