"""One file, opened again by a forked child or by another SQLite library: what was acknowledged stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tai_state import open_store

from ...support.program import SCRIPT
from ...support.stores import GOVERNOR, collected

pytestmark = pytest.mark.anyio

HANG_SECONDS = 60

_COMMON = """
import asyncio, os, shutil, sqlite3, subprocess, sys
from contextlib import closing
from tai_state import ChangeMetadata, StoreUnavailable, TaiStateError, open_store

def say(text):
    os.write(1, f"{text}\\n".encode())

async def save(store, state_id):
    await store.save_state("bank", state_id, {}, ChangeMetadata("tester", "a test"))
    say(f"saved {state_id}")
"""

_FORK = """
own, childs, first_to_close, childs_end = sys.argv[1:]
has_opened, opened = os.pipe()
may_go_on, go_on = os.pipe()

async def child():
    try:
        async with open_store(f"sqlite:///{childs}") as store:
            await save(store, "child-1")
            os.close(opened)
            if first_to_close == "parent":
                os.read(may_go_on, 1)  # until the parent has closed its store
                await save(store, "child-2")
            if childs_end == "killed":
                os._exit(0)
    except (TaiStateError, RuntimeError) as error:
        say(f"refused {error}")

async def main():
    async with open_store(f"sqlite:///{own}") as store:
        await save(store, "parent-1")
        pid = os.fork()
        if pid == 0:
            os.close(go_on)
            try:
                asyncio.run(child())
            finally:
                os._exit(0)
        os.close(opened)
        os.read(has_opened, 1)  # until the child has opened its store, or was refused
        if first_to_close == "child":
            os.waitpid(pid, 0)
            await save(store, "parent-2")
            os._exit(0)
    os.close(go_on)
    os.waitpid(pid, 0)

asyncio.run(main())
"""

_OTHER_FILES = """
own, closed, other = sys.argv[1:]

async def use(file, state_id):
    try:
        async with open_store(f"sqlite:///{file}") as store:
            await save(store, state_id)
    except TaiStateError as error:
        say(f"refused {state_id}: {type(error).__name__}, {error.is_transient}")

def in_child(function):
    pid = os.fork()
    if pid == 0:
        try:
            function()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)

def child():
    asyncio.run(use(closed, "closed before"))
    asyncio.run(use(other, "another file"))
    in_child(lambda: asyncio.run(use(own, "by a grandchild")))

async def main():
    await use(closed, "first")
    async with open_store(f"sqlite:///{own}") as store:
        await save(store, "own")
        in_child(child)
    in_child(lambda: asyncio.run(use(own, "after the end")))

asyncio.run(main())
"""

_SECOND_LIBRARY = """
own, program, look = sys.argv[1:]

def read():
    with closing(sqlite3.connect(own)) as connection:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()

def back_up():
    with closing(sqlite3.connect(own)) as connection, closing(sqlite3.connect(own + ".backup")) as target:
        connection.backup(target)

def copy(*suffixes):
    for suffix in suffixes:
        shutil.copyfile(own + suffix, own + ".copy" + suffix)
    subprocess.run([program, "ls", "--store", f"sqlite:///{own}"], check=True, stdout=subprocess.DEVNULL)

LOOKS = {
    "not at all": copy,
    "read": read,
    "backup": back_up,
    "copy": lambda: copy(""),
    "copy of all files": lambda: copy("", "-wal", "-shm"),
}

async def main():
    async with open_store(f"sqlite:///{own}") as store:
        await save(store, "before")
        LOOKS[look]()
        try:
            await save(store, "after")
        except StoreUnavailable as error:
            say(f"refused {error}")
        os._exit(0)

asyncio.run(main())
"""


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: files are the engine's."""
    return "asyncio"


def run(script: str, *arguments: str | os.PathLike[str]) -> list[str]:
    """What a script in a process of its own says, line by line; one that fails fails the test."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", _COMMON + script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS, check=True).stdout.splitlines()


def saved(lines: list[str]) -> set[str]:
    """The states whose changes were acknowledged."""
    return {line.removeprefix("saved ") for line in lines if line.startswith("saved ")}


def refused(lines: list[str]) -> list[str]:
    """What was said instead."""
    return [line.removeprefix("refused ") for line in lines if line.startswith("refused ")]


async def stored(file: Path) -> set[str]:
    """The states that are there afterwards."""
    async with open_store(f"sqlite:///{file}") as store:
        return {state.state_id for state in await collected(store.list_states(GOVERNOR))}


@pytest.mark.parametrize("name", ["store.db", "link.db"])
@pytest.mark.parametrize(
    ("first_to_close", "childs_end"),
    [
        ("parent", "killed"),
        ("parent", "closed"),
        ("child", "closed"),
    ],
)
async def test_a_forked_child_opens_its_parents_file(tmp_path: Path, name: str, first_to_close: str, childs_end: str):
    """Whatever a child of a fork and its parent are told is saved stays, or the child is told what to do instead."""
    file = tmp_path / "store.db"
    (tmp_path / "link.db").symlink_to(file)
    lines = run(_FORK, file, tmp_path / name, first_to_close, childs_end)
    assert saved(lines) <= await stored(file)
    assert "parent-1" in saved(lines)
    assert "child-1" in saved(lines) or any("fork" in error for error in refused(lines))


def test_only_files_that_were_open_are_refused_after_a_fork(tmp_path: Path) -> None:
    """A child may open any other file; its own children may not open that one either; and nobody should try again."""
    lines = run(_OTHER_FILES, tmp_path / "own.db", tmp_path / "closed.db", tmp_path / "other.db")
    assert lines == [
        *("saved first", "saved own", "saved closed before", "saved another file"),
        *("refused by a grandchild: StoreUnusable, False", "saved after the end"),
    ]


@pytest.mark.parametrize(
    "look",
    [
        "not at all",
        "read",
        "backup",
        "copy",
        "copy of all files",
    ],
)
async def test_the_process_looks_at_its_file_by_other_means(tmp_path: Path, look: str):
    """A change after the process itself read, backed up or copied its file is kept, or is not acknowledged."""
    file = tmp_path / "store.db"
    lines = run(_SECOND_LIBRARY, file, SCRIPT, look)
    assert saved(lines) <= await stored(file)
    assert "before" in saved(lines)
    assert len(lines) == 2
    assert look != "not at all" or not refused(lines)
