"""Commands that are broken off: by a reader, a full disk, an interrupt."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import anyio
import apsw
import pytest

from tai_state import StateStore

from ..support.filled import METADATA, on_store, with_removed_state
from ..support.program import SCRIPT, Ended, Program, interrupt

WITH_A_KNOWN_NAME = """
import secrets
secrets.token_hex = lambda _: "known"  # part of the name that a file has until it is whole
from tai_state.cli.program import main
main()
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of 1,200 states of a kilobyte."""
    folder = tmp_path_factory.mktemp("large")

    async def fill(store: StateStore) -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(1_200):
                tasks.start_soon(store.save_state, "g", f"s{number:04d}", {"text": "x" * 1_000}, METADATA)

    on_store(f"sqlite:///{folder}/tai-state.db", fill)
    return folder


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_reader_who_has_seen_enough(large: Path, options: list[str]) -> None:
    """``… | head -1`` ends quietly."""
    with Program(large).started("ls", "g", *options) as process:
        assert process.stdout is not None
        process.stdout.read(10)
        process.stdout.close()
        _, err = process.communicate()
    assert (process.returncode, err) == (141, b"")


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_output_that_cannot_be_written(there: Program, options: list[str]) -> None:
    """A full disk behind stdout, or a closed one, is said in a sentence; a closed stderr puts nothing onto stdout."""
    command = f'exec "$0" show bank alice {" ".join(options)}'
    full = [(">/dev/full", "No space left on device")] if Path("/dev/full").exists() else []
    for redirection, why in (*full, (">&-", "stdout is closed")):
        done = subprocess.run(
            ["sh", "-c", f"{command} {redirection}", SCRIPT],
            cwd=there.folder,
            env=there.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done
        assert f"the output cannot be written: {why}" in done.stderr


def test_a_closed_stderr(there: Program) -> None:
    """What would go to stderr does not go to stdout, where the data is."""
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" show bank nobody 2>&- <&-', SCRIPT],
        cwd=there.folder,
        env=there.environment,
        stdout=subprocess.PIPE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, b"")


@pytest.mark.parametrize(
    ("number", "in_background"), [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGTERM, True)]
)
def test_an_interrupted_export_leaves_no_file(
    large: Path, tmp_path: Path, *, number: signal.Signals, in_background: bool
) -> None:
    """Signals end it with 130 and no traceback, SIGTERM also where Ctrl-C is ignored; nothing half-written stays."""
    program = Program(large, command=(sys.executable, "-c", WITH_A_KNOWN_NAME))
    target, partial = tmp_path / "g.jsonl", tmp_path / "g.jsonl.known.partial"
    os.mkfifo(partial)  # what the export writes to first: here it waits for the reader
    around = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_background else signal.getsignal(signal.SIGINT)
    with ExitStack() as block:
        try:
            process = block.enter_context(program.started("export", "g", str(target), "--json"))
        finally:
            signal.signal(signal.SIGINT, around)
        with os.fdopen(_written_to(partial, process), "rb") as reader:
            reader.read(10)
            process.send_signal(number)
        out, err = process.communicate()
    assert Ended(process.returncode, out.decode(), err.decode()).error(130)["type"] == "Interrupted"
    assert not list(tmp_path.iterdir())
    assert program("export", "g", str(target), "--json").json()["states"] == 1_200


def _written_to(fifo: Path, process: subprocess.Popen[bytes]) -> int:
    """The reading end of a FIFO to which a process writes; if it ends before, it says here why."""
    reader, ended = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK), os.pidfd_open(process.pid)
    ready, _, _ = select.select([reader, ended], [], [])
    assert reader in ready, process.communicate()
    os.close(ended)
    os.set_blocking(reader, True)
    return reader


def test_an_interrupted_recovery_goes_on_when_run_again(large: Path, tmp_path: Path) -> None:
    """Ctrl-C ends a recovery with 130 and no traceback, and the next run completes it."""
    for path in large.glob("*.db"):
        shutil.copy(path, tmp_path)
    program = Program(tmp_path)
    with_removed_state(program, "s1199")
    lock = apsw.Connection(str(tmp_path / "tai-state.db"))
    lock.execute("BEGIN IMMEDIATE")  # the recovery waits for it when it comes to the last state
    with program.started("recover") as process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"1,008 states checked, 0 rebuilt\n"
        interrupt(process)
        lock.execute("ROLLBACK")
        lock.close()
        out, err = process.communicate()
    assert (process.returncode, out, err) == (130, b"", b"tai-state: interrupted; the command can be run again\n")
    assert program("recover", "--json").json()["consistent"]
    assert program("show", "g", "s1199").code == 0
