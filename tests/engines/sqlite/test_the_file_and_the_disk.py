"""The file and what lies beside it: full disks, files that can only be read, logs of another file, logs that grew."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import anyio
import apsw
import pytest

from tai_state import ANY, CorruptDocument, StateStore, StoreUnavailable, open_store
from tai_state.engines.sqlite.openfile import OpenFile
from tai_state.engines.sqlite.reader import Reader, select
from tai_state.engines.sqlite.schema import connect_to_read
from tai_state.engines.sqlite.worker import Job

from ...support.program import SCRIPT
from ...support.sqlite import connected
from ...support.stores import GOVERNOR, METADATA

MIB = 1024 * 1024

WRITE = """
import asyncio
from tai_state import ChangeMetadata, TaiStateError, open_store

async def main():
    try:
        async with open_store("sqlite:///store.db", timeout_seconds=1.0) as store:
            await store.save_state("bank", "y", {}, ChangeMetadata("tester", "a test"))
    except TaiStateError as error:
        print(type(error).__name__, getattr(error, "code", ""), "full" in str(error))

asyncio.run(main())
"""


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: files are the engine's."""
    return "asyncio"


async def fill(store: StateStore, first: int, last: int, size: int) -> None:
    """States of so many bytes, scattered over the table."""
    for n in range(first, last):
        await store.save_state(GOVERNOR, f"s{n * 7919 % 10_000}", {"n": n, "x": "y" * size}, METADATA)


def url(folder: Path) -> str:
    """The address of the store in a folder."""
    return f"sqlite:///{folder}/store.db"


async def make_small_store(folder: Path) -> None:
    """A store of one state."""
    async with open_store(url(folder)) as store:
        await fill(store, 0, 1, 10)


def traced(folder: Path, *plan: str, file: str = "store.db-wal") -> subprocess.CompletedProcess[str]:
    """Change the store in a process whose calls about a file go wrong as planned; skips where nobody may trace."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    command = [
        strace,
        "-f",
        "-qq",
        "-o",
        os.devnull,
        "-P",
        str(folder / file),
        *plan,
        sys.executable,
        "-c",
        WRITE,
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    if "ptrace" in done.stderr.lower():
        pytest.skip(done.stderr)
    return done


@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT"])
@pytest.mark.parametrize(
    ("call", "file"),
    [
        ("pwrite64", "store.db-wal"),
        ("openat", "store.db-wal"),
        ("pwrite64", "store.db-shm"),
        ("openat", "store.db-shm"),
        ("ftruncate", "store.db-shm"),
    ],
)
def test_a_full_disk_is_named(tmp_path: Path, call: str, file: str, error: str) -> None:
    """Whatever finds no room, and whatever SQLite makes of that, a change is ``StoreUnavailable`` and says why."""
    anyio.run(make_small_store, tmp_path)
    done = traced(tmp_path, "-e", f"trace={call}", "-e", f"inject={call}:error={error}:when=1+", file=file)
    assert done.stdout == "StoreUnavailable SQLITE_FULL True\n", done.stderr


def test_a_disk_that_fails_is_not_called_full(tmp_path: Path) -> None:
    """Of the same calls, another error of the system is the disk's failure."""
    anyio.run(make_small_store, tmp_path)
    plan = ("-e", "trace=pwrite64", "-e", "inject=pwrite64:error=EIO:when=1+")
    done = traced(tmp_path, *plan, file="store.db-shm")
    assert done.stdout == "StoreUnavailable SQLITE_IOERR False\n", done.stderr


@pytest.fixture(params=[(0o444, 0o555), (0o644, 0o555), (0o444, 0o755)], ids=["both", "folder", "file"])
def read_only(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """The folder of a small store; one of the two, or both, may not be written."""
    anyio.run(make_small_store, tmp_path)
    of_file, of_folder = request.param
    (tmp_path / "store.db").chmod(of_file)
    tmp_path.chmod(of_folder)
    yield tmp_path
    tmp_path.chmod(0o755)


def run_without_the_right_to_write(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program as somebody whom the modes of files bind; skips where the superuser cannot be bound."""
    command = [str(SCRIPT), *arguments, "--json", "--store", url(folder)]
    if os.geteuid() == 0:
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            pytest.skip("the superuser may write everything, and setpriv is not installed")
        command = [setpriv, "--bounding-set", "-dac_override", *command]
    return subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("command", [("ls",), ("show", GOVERNOR, "s0"), ("history", GOVERNOR, "s0"), ("verify",)])
def test_a_store_is_read_without_the_right_to_write(read_only: Path, command: tuple[str, ...]) -> None:
    """Whoever may read the file can look at the store; nothing is written beside it."""
    before = {path.name for path in read_only.iterdir()}
    done = run_without_the_right_to_write(read_only, *command)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in read_only.iterdir()} == before


@pytest.mark.parametrize("is_closed", [False, True])
def test_a_file_that_changes_is_not_read_as_one_that_does_not(tmp_path: Path, *, is_closed: bool) -> None:
    """Without the right to write, reading ends once somebody else has written, whether or not they have ended."""
    anyio.run(make_small_store, tmp_path)
    file = tmp_path / "store.db"
    reader = Reader(OpenFile(str(file), partial(connect_to_read, str(file), 0)))
    jobs = [Job(partial(select, [f"governors/{GOVERNOR}"]), None) for _ in range(2)]
    reader.serve(jobs[:1])
    assert jobs[0].error is None
    writer = connected(file)
    writer.execute("UPDATE counter SET token = token + 1")
    if is_closed:
        writer.close()
    reader.serve(jobs[1:])
    assert isinstance(jobs[1].error, StoreUnavailable)
    reader.close()
    writer.close()


def test_a_store_is_backed_up_without_the_right_to_write(
    read_only: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The copy of a store that may only be read may be written."""
    copy = tmp_path_factory.mktemp("backups") / "copy.db"
    done = run_without_the_right_to_write(read_only, "backup", str(copy))
    assert done.returncode == 0, done.stderr
    assert copy.stat().st_mode & 0o600 == 0o600


def test_the_doctor_names_the_right_that_is_missing(read_only: Path) -> None:
    """Without the right to write, the doctor fails, names the file or else the folder, and changes nothing."""
    before = {path.name: path.read_bytes() for path in read_only.iterdir()}
    done = run_without_the_right_to_write(read_only, "doctor")
    assert done.returncode == 5, done.stderr
    checks = {each["check"]: each for each in json.loads(done.stdout)["checks"]}
    assert {name for name, each in checks.items() if each["status"] != "ok"} == {"permissions"}
    may_write_file = (read_only / "store.db").stat().st_mode & 0o200
    named = f"in the folder {read_only}," if may_write_file else f"{read_only}/store.db:"
    assert named in checks["permissions"]["message"]
    assert {path.name: path.read_bytes() for path in read_only.iterdir()} == before


def test_a_write_without_the_right_to_it_is_refused(read_only: Path) -> None:
    """A command that writes ends with SQLite's code for it."""
    done = run_without_the_right_to_write(read_only, "snapshot", GOVERNOR, "s0")
    assert json.loads(done.stderr)["error"]["code"] == "SQLITE_READONLY"


@pytest.mark.anyio
async def test_a_backup_beside_another_log_is_named(tmp_path: Path) -> None:
    """A backup that was put back beside the log of the file it replaced is not just called damaged."""
    backup = tmp_path / "backup"
    backup.mkdir()
    async with open_store(url(tmp_path)) as store:
        await fill(store, 0, 50, 3_000)
    shutil.copy(tmp_path / "store.db", backup)
    async with open_store(url(tmp_path)) as store:
        await fill(store, 50, 500, 3_000)
        shutil.copy(tmp_path / "store.db-wal", backup)
    with pytest.raises(CorruptDocument) as caught:
        async with open_store(url(backup)) as store:
            await store.count_states(GOVERNOR)
    assert "-wal" in str(caught.value)


@pytest.mark.anyio
async def test_the_log_shrinks_after_a_long_reader(tmp_path: Path) -> None:
    """Once a reader that held the log up has ended, writing on brings it back to a few MiB."""
    async with open_store(url(tmp_path)) as store:

        async def log_after(count: int) -> int:
            for _ in range(count):
                data = {"x": os.urandom(50_000).hex()}
                await store.save_state(GOVERNOR, "x", data, METADATA, expected=ANY)
            return (tmp_path / "store.db-wal").stat().st_size

        reader = apsw.Connection(str(tmp_path / "store.db"))
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM documents").fetchall()
        assert await log_after(60) > 12 * MIB
        reader.execute("COMMIT")
        reader.close()
        await log_after(30)
        assert await log_after(30) <= 8 * MIB
