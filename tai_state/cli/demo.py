"""The demonstration: a writer is killed while it works, and no change that it acknowledged is missing."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from tempfile import TemporaryDirectory
from urllib.parse import quote

import anyio
import typer

from tai_state.cli.common import INCONSISTENT, JsonOption
from tai_state.cli.output import print_json, print_line, say
from tai_state.history.persister import StateMachinePersister
from tai_state.store.opening import open_store
from tai_state.values.counting import counted

ACKNOWLEDGED_BEFORE_KILL = 1_000
_GOVERNOR = "pumps"
_INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM)


def demo(*, as_json: JsonOption = False) -> None:
    """Kill a writer and show that no acknowledged change is lost. Leaves nothing behind."""
    started = time.monotonic()
    with ExitStack() as stack:
        with _uninterrupted():
            folder = stack.enter_context(TemporaryDirectory(prefix="tai-state-demo-"))
        url = f"sqlite:///{quote(folder)}/demo.db"
        versions = _write_and_kill(url)
        acknowledged = sum(versions.values())
        if not as_json:
            made = f"{counted(acknowledged, 'change')} to {counted(len(versions), 'machine')}"
            say(f"the writer was killed after {made} had been acknowledged")
        recovered, consistent = anyio.run(_recover, url, versions)
    consistent = consistent and recovered == acknowledged
    seconds = round(time.monotonic() - started, 3)
    if as_json:
        print_json(
            {
                "acknowledged": acknowledged,
                "recovered": recovered,
                "machines": len(versions),
                "consistent": consistent,
                "seconds": seconds,
            }
        )
    else:
        outcome = "every digest matches" if consistent else "the store is not consistent"
        print_line(f"{recovered:,} of them are in the store, and {outcome} ({seconds} s)")
    if not consistent:
        raise typer.Exit(INCONSISTENT)


@contextmanager
def _uninterrupted() -> Generator[None, None, None]:
    """Let signals wait while something is made that must be cleaned up: the folder, and the writer that works in it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTIONS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPTIONS)


def _write_and_kill(url: str) -> dict[str, int]:
    """Start the writer and kill it while it works. Returns the newest acknowledged version of each machine."""
    command = [sys.executable, "-m", "tai_state.cli.demo_writer", url]
    # The writer runs in a session of its own, so that Ctrl-C does not reach it: it is killed below and prints nothing.
    versions: dict[str, int] = {}
    with ExitStack() as stack:
        with _uninterrupted():
            writer = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True))
            stack.callback(writer.kill)
        for count, line in enumerate(writer.stdout or (), start=1):
            if line.endswith(b"\n"):  # killing the writer may cut off the last line
                machine, version = line.decode().split()
                versions[machine] = int(version)
            if count == ACKNOWLEDGED_BEFORE_KILL:
                writer.kill()
    return versions


async def _recover(url: str, versions: Mapping[str, int]) -> tuple[int, bool]:
    """Recover and verify the store. Returns how many changes up to these versions it holds, and if it is consistent."""
    async with open_store(url, create=False) as store:
        persister = StateMachinePersister(store)
        await persister.recover()
        report = await persister.validate_consistency()
        recovered = 0
        for machine, version in versions.items():
            async for _ in store.get_events(_GOVERNOR, machine, until=version):
                recovered += 1
    return recovered, report.consistent
