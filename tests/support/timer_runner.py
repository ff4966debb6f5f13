"""A process that takes the time-outs of kettles until it is killed. Started as a program: ``timer_runner.py URL``."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

from tai_state import open_store
from tai_state.machines import run_timers

sys.path.append(str(Path(__file__).parent))
from kettles import KETTLE


async def main(url: str) -> None:
    """Take them, two at once."""
    async with open_store(url) as store:
        await run_timers(store, KETTLE, concurrency=2, every_seconds=0.01)


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
