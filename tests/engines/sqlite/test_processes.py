"""Several real processes on one SQLite file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import anyio
import pytest

from tai_state import errors
from tai_state.engines.api import Delete, DocumentChange, Put, Scan
from tai_state.engines.sqlite.engine import SqliteEngine
from tai_state.testing import ManualClock

from ...support.processes import started

_FOLDER = Path(errors.__file__).parents[1]
"""Where the package under test was imported from; the processes import the same."""

_HANG_SECONDS = 60

_PREAMBLE = """
import os, sys, time
import anyio
from tai_state.engines.api import ABSENT, At, Delete, Put, Scan
from tai_state.engines.sqlite.engine import SqliteEngine
from tai_state.errors import CommitRefused

class Clock:
    def now_us(self):
        return time.time_ns() // 1_000

def say(text):
    os.write(1, f"{text}\\n".encode())

engine = SqliteEngine(sys.argv[1], Clock())
"""

_INCREMENTS = """
async def increment():
    [document] = (await engine.read(["c/counter"])).documents
    n, require = (document.fields()["n"] + 1, At(document.revision)) if document else (1, ABSENT)
    try:
        await engine.commit([Put("c/counter", {"n": n}, require), Put(f"log/{n:05}", {}, ABSENT)])
    except CommitRefused:
        return False
    return True

async def main():
    say("ready")
    sys.stdin.readline()
    async with engine:
        done = 0
        while done < 50:
            done += await increment()

anyio.run(main)
"""

_COMMITS_FOR_EVER = """
async def commit_for_ever(task):
    n = 0
    while True:
        name = f"{task}-{n:06}"
        await engine.commit([Put(f"c/{name}", {"n": n}), Put(f"d/{name}", {"n": n})])
        say(name)
        n += 1

async def main():
    async with engine, anyio.create_task_group() as tasks:
        for task in range(4):
            tasks.start_soon(commit_for_ever, task)

anyio.run(main)
"""

_ONE_COMMIT_PER_LINE = """
async def main():
    async with engine:
        say("ready")
        for line in sys.stdin:
            writes = [Delete("c/a")] if line == "delete\\n" else [Put("c/a", {}), Put("d/b", {})]
            say((await engine.commit(writes)).revision)

anyio.run(main)
"""

_FORK = """
async def main():
    async with engine:
        await engine.commit([Put("c/a", {})])
        child = os.fork()
        if child == 0:
            for verb in (engine.read(["c/a"]), engine.commit([Put("c/a", {})]), anext(engine.scan(Scan("c")))):
                try:
                    verb.__await__().send(None)
                    say("no error")
                except RuntimeError as error:
                    say(error)
            try:
                engine.__aexit__(None, None, None).send(None)
            except StopIteration:
                say("left")
            os._exit(0)
        os.waitpid(child, 0)
        committed = await engine.commit([Put("c/a", {})])
        [document] = (await engine.read(["c/a"])).documents
        say(document.revision == committed.revision)

anyio.run(main)
"""


def _started(script: str, file: Path) -> AbstractContextManager[subprocess.Popen[str]]:
    return started(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", _PREAMBLE + script, str(file)],
        env={**os.environ, "PYTHONPATH": str(_FOLDER)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )


def _end(process: subprocess.Popen[str]) -> str:
    """Close its standard input and take what it still says; a process that fails fails the test."""
    said, _ = process.communicate(timeout=_HANG_SECONDS)
    assert process.returncode == 0, said
    return said


def _opened(file: Path) -> SqliteEngine:
    return SqliteEngine(str(file), ManualClock(), create=False)


@pytest.mark.anyio
async def test_increments_of_several_processes_all_count(tmp_path: Path):
    """Four processes that make one new file together and compare and set one document lose no increment."""
    file = tmp_path / "store.db"
    with ExitStack() as running:
        processes = [running.enter_context(_started(_INCREMENTS, file)) for _ in range(4)]
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
        for process in processes:
            _end(process)
    async with _opened(file) as engine:
        [counter] = (await engine.read(["c/counter"])).documents
        assert counter.fields() == {"n": 200}
        log = [(document.id, document.revision) async for document in engine.scan(Scan("log"))]
        assert [each for each, _ in log] == [f"{n:05}" for n in range(1, 201)]
        revisions = [revision for _, revision in log]
        assert revisions == sorted(set(revisions))
        assert revisions[-1] == counter.revision


@pytest.mark.anyio
async def test_watch_sees_the_commits_of_another_process(tmp_path: Path):
    """A watch yields what another process writes and deletes, for documents and for collections."""
    file = tmp_path / "store.db"
    with _started(_ONE_COMMIT_PER_LINE, file) as process, anyio.fail_after(_HANG_SECONDS):
        assert process.stdout.readline() == "ready\n"
        async with _opened(file) as engine, engine.watch("c/a", "d") as changes:
            assert await anext(changes) == DocumentChange("c/a", None)
            for _ in range(3):
                process.stdin.write("put\n")
                revision = int(process.stdout.readline())
                assert {await anext(changes), await anext(changes)} == {
                    DocumentChange("c/a", revision),
                    DocumentChange("d/b", revision),
                }
                process.stdin.write("delete\n")
                process.stdout.readline()
                assert await anext(changes) == DocumentChange("c/a", None)
        _end(process)


@pytest.mark.anyio
@pytest.mark.parametrize("lines", [1, 40, 300])
async def test_what_a_killed_process_acknowledged_is_stored(tmp_path: Path, lines: int):
    """After SIGKILL among many commits, all that were acknowledged are there, and none by half."""
    file = tmp_path / "store.db"
    with _started(_COMMITS_FOR_EVER, file) as process:
        said = [process.stdout.readline() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        said += process.stdout.readlines()
    assert process.returncode == -signal.SIGKILL
    acknowledged = {line.strip() for line in said if line.endswith("\n")}
    async with _opened(file) as engine:
        one = {document.id: document.revision async for document in engine.scan(Scan("c"))}
        other = {document.id: document.revision async for document in engine.scan(Scan("d"))}
        assert one == other
        assert acknowledged <= set(one)
        for task in range(4):
            numbers = [int(each[2:]) for each in one if each.startswith(f"{task}-")]
            assert numbers == list(range(len(numbers)))
        committed = await engine.commit([Put("c/after", {}), Delete("d/0-000000")])
        assert committed.revision > max(one.values())


def test_an_engine_is_not_used_across_a_fork(tmp_path: Path):
    """In a forked child each verb is a RuntimeError that says what to do; the parent's engine works on."""
    with _started(_FORK, tmp_path / "store.db") as process:
        said = _end(process).splitlines()
    told = "the store was opened before a fork: start this process by spawn, or open the store only after the fork"
    assert said == [told, told, told, "left", "True"]
