"""Several blocks at once on one store object: one works, the others are refused, and nothing is left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BLOCKS_AT_ONCE = """
import asyncio, gc, os, sys, threading
from tai_state import ANY, ChangeMetadata, open_store

METADATA = ChangeMetadata("tester", "a test")

def held():
    for thread in set(threading.enumerate()) - {threading.main_thread()}:
        thread.join(10)  # one that is ending, when its block has ended
    gc.collect()
    return threading.active_count(), len(os.listdir("/proc/self/fd"))

async def main():
    store = open_store("sqlite:///store.db")
    async with store:
        await store.save_state("bank", "x", {}, METADATA)
    before, done = held(), []
    entered, all_in = 0, asyncio.Event()

    async def wait_for_all():
        nonlocal entered
        entered += 1
        if entered == 3:
            all_in.set()
        await all_in.wait()

    async def request(number):
        try:
            async with store:
                await wait_for_all()
                await store.save_state("bank", f"{number}", {}, METADATA)
                done.append("worked")
        except RuntimeError as error:
            done.append("refused")
            await wait_for_all()

    await asyncio.wait_for(asyncio.gather(*[request(n) for n in range(3)], return_exceptions=True), 5)
    print(sorted(done), held() == before, flush=True)
    os._exit(0)

asyncio.run(main())
"""
"""In a process of its own, which ends with what it has left behind."""


def test_blocks_at_once_on_one_store_leave_nothing(tmp_path: Path) -> None:
    """Of three blocks at once on one store one works and two are refused; no thread or descriptor is left."""
    command = [sys.executable, "-c", BLOCKS_AT_ONCE]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "['refused', 'refused', 'worked'] True\n", done.stderr
