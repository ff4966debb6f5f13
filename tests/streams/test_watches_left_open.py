"""Watches that are open still when their store is closed and the event loop ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tai_state.engines.firestore.engine import EMULATOR

# The loop closes generators in whatever order: of many, one is closed before the one that it is closed by.
PROGRAM = """
import asyncio, sys
from tai_state import ChangeMetadata, open_store

left = []

async def main():
    async with open_store(sys.argv[1]) as store:
        await store.save_state("g", "a", {}, ChangeMetadata("tester", "a test"))
        for _ in range(20):
            left.append(store.watch("g"))
            await anext(await left[-1].__aenter__())
    print("closed")

asyncio.run(main())
"""


@pytest.mark.parametrize("engine", ["memory", "sqlite", "firestore"])
def test_watches_left_open_say_nothing_when_the_loop_ends(tmp_path: Path, engine: str, request: pytest.FixtureRequest):
    """A watch that nobody asks any more is closed with the event loop, quietly."""
    environment = dict(os.environ)
    url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/store.db"}.get(engine, "")
    if not url:
        url = f"firestore://{request.getfixturevalue('firestore_project')}"
        environment[EMULATOR] = request.getfixturevalue("firestore_emulator").host
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, url], capture_output=True, text=True, env=environment, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == ("closed\n", "")
