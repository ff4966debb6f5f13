"""The command line gives a long history as it reads it, and does not hold it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from tai_state import ANY, NewEvent, StateMachinePersister, open_store

from ..support.stores import GOVERNOR, METADATA

EVENTS = 3_000
MIB = 1024 * 1024

MEASURED = """
import sys, tracemalloc
from tai_state.cli import main

sys.argv = ["tai-state", *sys.argv[1:]]
tracemalloc.start()
try:
    main()
finally:
    print(tracemalloc.get_traced_memory()[1], file=sys.stderr)
"""


async def fill(url: str) -> None:
    """A state with a long history of 12 MiB."""
    async with open_store(url) as store:
        persister = StateMachinePersister(store)
        for _ in range(0, EVENTS, 500):
            await persister.record(
                GOVERNOR, "x", [NewEvent("seen", "y" * 4_000) for _ in range(500)], METADATA, expected=ANY
            )


@pytest.mark.parametrize("as_json", [True, False])
def test_a_long_history_is_not_held(tmp_path: Path, *, as_json: bool) -> None:
    """``history`` needs no more memory than a few pages of events, however many it prints."""
    url = f"sqlite:///{tmp_path}/store.db"
    anyio.run(fill, url)
    command = [sys.executable, "-c", MEASURED, "history", GOVERNOR, "x", "--store", url]
    done = subprocess.run([*command, *["--json"] * as_json], capture_output=True, text=True, timeout=100, check=False)
    if as_json:
        versions = [each["version"] for each in json.loads(done.stdout)]
    else:
        versions = [int(line.split()[0]) for line in done.stdout.splitlines()[1:]]
    assert versions == list(range(1, EVENTS + 1))
    assert int(done.stderr) <= 12 * MIB
