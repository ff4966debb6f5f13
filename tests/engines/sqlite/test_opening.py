"""Opening and closing a file: durable, by one event loop, and without traces where it fails."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import threading
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import anyio.to_thread
import apsw
import pytest

from tai_state.engines.api import Put, Scan
from tai_state.engines.sqlite.engine import SqliteEngine
from tai_state.engines.sqlite.schema import APPLICATION_ID, FORMAT, connect
from tai_state.errors import StoreNotFound, StoreUnavailable
from tai_state.testing import ManualClock

from ...support.sqlite import all_in, bytes_of, engine_over, hooked, names_in

if TYPE_CHECKING:
    from collections.abc import Iterator


anyio_test = pytest.mark.anyio


@pytest.fixture
def empty(file: Path) -> Path:
    """A file without a byte."""
    file.touch()
    return file


@anyio_test
async def test_every_connection_is_durable(file: Path):
    """The file is in WAL mode, and each connection to it waits for the disk at every commit."""
    async with engine_over(file):
        with closing(connect(str(file), create=False, busy_timeout_ms=0)) as connection:
            assert connection.pragma("journal_mode") == "wal"
            assert connection.pragma("synchronous") == 2
            assert connection.pragma("application_id") == APPLICATION_ID
            assert connection.pragma("user_version") == FORMAT


@anyio_test
async def test_each_connection_of_the_engine_is_durable(file: Path):
    """The engine's own connections are in WAL mode and wait for the disk at each commit."""
    opened: list[apsw.Connection] = []
    with hooked(opened.append):
        for _ in range(2):
            async with engine_over(file) as engine:
                await engine.commit([Put("c/a", {})])
                modes = {(each.pragma("journal_mode"), each.pragma("synchronous")) for each in opened}
                assert modes == {("wal", 2)}
                assert len(opened) >= 2
            opened.clear()


@anyio_test
async def test_reading_makes_no_store(file: Path, tmp_path: Path):
    """Where no store may be made, a missing file or folder is StoreNotFound, and nothing is left behind."""
    for missing in (file, tmp_path / "no folder" / "store.db"):
        with pytest.raises(StoreNotFound) as caught:
            await all_in(missing, create=False)
        assert caught.value.path == str(missing)
    assert names_in(tmp_path) == []


@anyio_test
async def test_reading_makes_no_store_of_an_empty_file(empty: Path):
    """Where no store may be made, an empty file is StoreNotFound and stays empty; else it becomes a store."""
    with pytest.raises(StoreNotFound):
        await all_in(empty, create=False)
    assert bytes_of(empty) == b""
    assert names_in(empty.parent) == ["store.db"]
    assert await all_in(empty) == []
    assert await all_in(empty, create=False) == []


@anyio_test
async def test_a_file_that_cannot_be_opened_is_not_called_missing(file: Path):
    """What is there but cannot be opened is StoreUnavailable, whether or not a store may be made."""
    os.symlink(file, file)  # noqa: PTH211 - a link to itself, which nobody can open
    for create in (True, False):
        with pytest.raises(StoreUnavailable):
            await all_in(file, create=create)


@anyio_test
async def test_a_place_where_no_file_can_be_is_unavailable(tmp_path: Path):
    """A missing folder, or a folder in the file's place, is StoreUnavailable and says what to check."""
    for place in (tmp_path / "no folder" / "store.db", tmp_path):
        with pytest.raises(StoreUnavailable) as caught:
            await all_in(place)
        assert caught.value.code == "SQLITE_CANTOPEN"
        assert "folder" in caught.value.what


@anyio_test
async def test_a_failed_opening_leaves_no_thread(tmp_path: Path):
    """An engine that could not be opened has ended its threads."""
    before = set(threading.enumerate())
    with pytest.raises(StoreUnavailable):
        await all_in(tmp_path)
    _see_the_end_of(set(threading.enumerate()) - before)


def _see_the_end_of(threads: set[threading.Thread]) -> None:
    for thread in threads:
        if thread.name.startswith("tai-state"):
            thread.join(timeout=30)
            assert not thread.is_alive()


@anyio_test
@pytest.mark.parametrize("free", range(7))
async def test_without_descriptors_nothing_is_left_behind(made: Path, free: int):
    """Where a process may open no more files, opening says so, and leaves neither a thread nor a descriptor."""
    gc.collect()
    threads, descriptors = set(threading.enumerate()), len(names_in(Path("/proc/self/fd")))
    with _few_descriptors(free), pytest.raises(StoreUnavailable) as caught:
        await all_in(made)
    assert caught.value.code in {"EMFILE", "SQLITE_CANTOPEN"}
    assert str(made) in caught.value.what
    del caught
    _see_the_end_of(set(threading.enumerate()) - threads)
    gc.collect()
    assert len(names_in(Path("/proc/self/fd"))) <= descriptors


@contextmanager
def _few_descriptors(free: int) -> Iterator[None]:
    """So many more files can be opened."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    held: list[int] = []
    try:
        with suppress(OSError):
            while True:
                held.append(os.dup(0))
        for _ in range(free):
            os.close(held.pop())
        yield
    finally:
        for each in held:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@anyio_test
async def test_a_relative_path_is_of_the_folder_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Who changes the current folder later still writes to the file that it reads."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    async with SqliteEngine("store.db", ManualClock()) as engine:
        monkeypatch.chdir(elsewhere)
        await engine.commit([Put("c/a", {"n": 1})])
        assert (await engine.read(["c/a"])).documents[0] is not None
    assert names_in(elsewhere) == []


@anyio_test
async def test_many_may_make_one_file_at_once(file: Path):
    """Engines that open a new file at the same moment all succeed, on one store."""

    async def open_and_commit(name: int) -> None:
        async with engine_over(file) as engine:
            await engine.commit([Put(f"c/{name}", {})])

    async with anyio.create_task_group() as tasks:
        for name in range(12):
            tasks.start_soon(open_and_commit, name)
    documents = await all_in(file)
    assert len(documents) == 12
    assert len({document.revision for document in documents}) == 12


@anyio_test
async def test_who_else_makes_the_file_is_waited_for(file: Path):
    """An engine that finds another one writing the new file waits for it, as for every other write."""
    with closing(apsw.Connection(str(file))) as other:

        def write_meanwhile(_: object, sql: str, __: object) -> bool:
            if other.in_transaction:
                other.execute("ROLLBACK")
            elif not held and "journal_mode" in sql:
                other.execute("BEGIN IMMEDIATE")
                held.append(sql)
            return True

        held: list[str] = []
        with hooked(lambda connection: setattr(connection, "exec_trace", write_meanwhile)):
            assert await all_in(file) == []
        assert held


@anyio_test
async def test_an_engine_belongs_to_one_event_loop(file: Path, anyio_backend_name: str):
    """In another one it says so, before anything is written."""
    async with engine_over(file) as engine:
        commit = partial(anyio.run, engine.commit, [Put("c/a", {})], backend=anyio_backend_name)
        with pytest.raises(RuntimeError, match="opened in another event loop"):
            await anyio.to_thread.run_sync(commit)
        assert (await engine.read(["c/a"])).documents == (None,)


@anyio_test
async def test_a_closed_engine_says_so(file: Path):
    """After closing, each verb is a RuntimeError that says what to do; closing again and reopening work."""
    engine = engine_over(file)
    async with engine:
        await engine.commit([Put("c/a", {})])
    for verb in (
        engine.commit([Put("c/a", {})]),
        engine.read(["c/a"]),
        anext(engine.scan(Scan("c"))),
        _first_change(engine),
    ):
        with pytest.raises(RuntimeError, match="not open: use it inside"):
            await verb
    await engine.__aexit__(None, None, None)
    async with engine:
        assert (await engine.read(["c/a"])).documents[0] is not None


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_cancelled_closing_is_completed(made: Path):
    """A task that is cancelled while it closes leaves no thread."""
    before = set(threading.enumerate())
    engine = await engine_over(made).__aenter__()
    await engine.commit([Put("c/a", {})])
    threads = set(threading.enumerate()) - before
    assert len(threads) == 2
    closing_ = asyncio.create_task(engine.__aexit__(None, None, None))
    await anyio.lowlevel.checkpoint()
    closing_.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing_
    _see_the_end_of(threads)


async def _first_change(engine: SqliteEngine) -> object:
    async with engine.watch("c/a") as changes:
        return await anext(changes)
