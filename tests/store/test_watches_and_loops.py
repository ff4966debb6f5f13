"""A watch that is left, a store in a loop that is a guest of another one: each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LEFT = """
import anyio, gc, sys
from tai_state import ANY, ChangeMetadata, open_store

METADATA = ChangeMetadata("tester", "a test")

async def main():
    async with open_store(sys.argv[1]) as store:
        await store.save_state("bank", "x", {}, METADATA)
        async with store.watch("bank") as changes:
            async for _ in changes:
                break
        await store.save_state("bank", "x", {}, METADATA, expected=ANY)
    gc.collect()

anyio.run(main, backend=sys.argv[2])
gc.collect()
print("done")
"""

GUEST = """
import asyncio, os, sys, trio
from tai_state import ANY, ChangeMetadata, open_store

METADATA = ChangeMetadata("tester", "a test")

async def guest():
    async with open_store(sys.argv[1]) as store:
        await store.save_state("bank", "x", {}, METADATA, expected=ANY)
        return (await store.get_state("bank", "x")).version

async def host():
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    outcomes = []

    def done(outcome):
        outcomes.append(outcome)
        ended.set()

    trio.lowlevel.start_guest_run(guest, run_sync_soon_threadsafe=loop.call_soon_threadsafe, done_callback=done)
    await asyncio.wait_for(ended.wait(), 30)
    print(outcomes[0].unwrap(), flush=True)
    os._exit(0)

try:
    asyncio.run(host())
except BaseException as error:
    print(repr(error), flush=True)
    os._exit(1)
"""


def run(folder: Path, code: str, *arguments: str) -> tuple[str, str]:
    """What a program says on its two outputs; warnings come on the second.

    Not in Python's development mode: there asyncio also says which steps took long, and on a busy machine some do.
    """
    command = [sys.executable, "-W", "always", "-c", code, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout, done.stderr


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
@pytest.mark.parametrize("url", ["memory://", "sqlite:///store.db"])
def test_a_watch_that_is_left_warns_of_nothing(tmp_path: Path, url: str, loop: str) -> None:
    """Leaving a watch by ``break`` is allowed: nothing is said about it when it is collected."""
    assert run(tmp_path, LEFT, url, loop) == ("done\n", "")


@pytest.mark.parametrize("url", ["memory://", "sqlite:///store.db"])
def test_a_store_in_a_guest_loop(tmp_path: Path, url: str) -> None:
    """A store that is used under trio works where trio is a guest of asyncio's loop."""
    said, errors = run(tmp_path, GUEST, url)
    assert said == "1\n", errors


def test_a_store_on_firestore_in_a_guest_loop(tmp_path: Path) -> None:
    """A store that needs asyncio says so to a task of trio, whoever the host of trio is."""
    said, _ = run(tmp_path, GUEST, "firestore://no-project")
    assert "works with asyncio only" in said
