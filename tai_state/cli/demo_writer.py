"""The writer of the demonstration: a process that changes machines until it is killed."""

from __future__ import annotations

import sys

import anyio

from tai_state.store.opening import open_store
from tai_state.values.metadata import ChangeMetadata

GOVERNOR = "pumps"
MACHINES = 8
STATES = ("idle", "starting", "running", "stopping")


async def write(url: str) -> None:
    """Change all machines again and again, and print each change once it is acknowledged."""
    metadata = ChangeMetadata("demo", "shows that nothing acknowledged is lost")
    async with open_store(url) as store, anyio.create_task_group() as tasks:

        async def work(machine: str) -> None:
            version = 0
            while True:
                data = {"status": STATES[version % len(STATES)], "cycles": version // len(STATES)}
                version = (await store.update_state(GOVERNOR, machine, data, metadata, expected=version)).version
                sys.stdout.write(f"{machine} {version}\n")
                sys.stdout.flush()

        for number in range(1, MACHINES + 1):
            tasks.start_soon(work, f"pump-{number}")


if __name__ == "__main__":
    anyio.run(write, sys.argv[1])
