"""What is particular to the SQLite engine: its file, its errors, and commits that share a transaction."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import shutil
import sqlite3
import subprocess
import threading
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import apsw
import msgspec
import pytest

from tai_state.engines.api import ABSENT, PRESENT, At, Check, Committed, Delete, Document, Put, Scan, Shape, Where
from tai_state.engines.sqlite import errors as table
from tai_state.engines.sqlite.engine import SqliteEngine
from tai_state.engines.sqlite.schema import APPLICATION_ID, FORMAT, connect
from tai_state.engines.sqlite.worker import Job, Worker
from tai_state.engines.sqlite.writer import Writer, prepare
from tai_state.errors import (
    CommitRefused,
    CorruptDocument,
    IncompatibleFormat,
    StoreNotFound,
    StoreTimeout,
    StoreUnavailable,
    Unavailable,
)
from tai_state.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tai_state.engines.api import Write

anyio_test = pytest.mark.anyio


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a store is, or will be."""
    return tmp_path / "store.db"


def _engine(file: Path, *, create: bool = True) -> SqliteEngine:
    return SqliteEngine(str(file), ManualClock(0, step_us=1), create=create)


@pytest.fixture
async def made(file: Path) -> Path:
    """A closed store that holds four hundred documents of a kilobyte."""
    async with _engine(file) as engine:
        await engine.commit([Put(f"c/{n:03}", {"n": n, "text": "x" * 1_000}) for n in range(400)])
    return file


def _change(file: Path, sql: str) -> None:
    """Do to the file what another program might."""
    with closing(apsw.Connection(str(file))) as connection:
        connection.execute(sql)


def _names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def _bytes(file: Path) -> bytes:
    return file.read_bytes()


async def _all(file: Path, *, create: bool = True) -> list[Document]:
    async with _engine(file, create=create) as engine:
        return [document async for document in engine.scan(Scan("c"))]


@pytest.fixture
def empty(file: Path) -> Path:
    """A file without a byte."""
    file.touch()
    return file


# Errors of the driver

_NO_ERRORS = {"SQLITE_OK", "SQLITE_ROW", "SQLITE_DONE", "SQLITE_NOTICE", "SQLITE_WARNING"}
_TABLES = (table.UNAVAILABLE, table.TIMEOUT, table.CORRUPT, table.INCOMPATIBLE, table.MISUSE)
_CODES = {name: code for code, name in apsw.mapping_result_codes.items() if isinstance(code, int)}
_MISTAKES_IN_USING_APSW = {
    *("BindingsError", "ConnectionClosedError", "ConnectionNotClosedError", "CursorClosedError"),
    *("ExecTraceAbort", "ExecutionCompleteError", "ExtensionLoadingError", "ForkingViolationError"),
    *("IncompleteExecutionError", "InvalidContextError", "NoFTS5Error", "ThreadingViolationError"),
    *("VFSFileClosedError", "VFSNotImplementedError"),
}


def test_each_code_of_sqlite_is_in_exactly_one_table():
    """A result code that a new SQLite brings is noticed, and none has two meanings."""
    listed = sorted(name for each in _TABLES for name in each)
    assert listed == sorted(set(_CODES) - _NO_ERRORS)


def test_each_exception_of_the_driver_stands_for_a_code():
    """An exception class that a new driver brings is noticed."""
    named = {type(apsw.exception_for(code)).__name__ for name, code in _CODES.items() if name not in _NO_ERRORS}
    classes = {each.__name__ for each in vars(apsw).values() if isinstance(each, type) and issubclass(each, apsw.Error)}
    assert classes - {"Error"} == named | _MISTAKES_IN_USING_APSW


@pytest.mark.parametrize(
    "code", [*_CODES.values(), *filter(lambda key: isinstance(key, int), apsw.mapping_extended_result_codes)]
)
def test_codes_are_mapped_with_their_cause(code: int):
    """Every code, extended ones by their primary one, becomes the error of its table, and keeps its cause."""
    name = apsw.mapping_result_codes[code & 0xFF]
    if name in _NO_ERRORS:
        return
    error = apsw.exception_for(code)
    found = table.mapped(error, "commit", "the file", unknown=True)
    if name in table.MISUSE:
        assert found is error
        return
    assert found.__cause__ is error
    if isinstance(found, Unavailable):
        assert (found.operation, found.code, found.unknown, found.is_transient) == (
            "commit",
            name,
            True,
            True,
        )
        assert type(found) is (StoreTimeout if name in table.TIMEOUT else StoreUnavailable)
    else:
        assert type(found) is (CorruptDocument if name in table.CORRUPT else IncompatibleFormat)
        assert found.path == "the file"


def test_mistakes_in_using_the_driver_are_not_disguised():
    """An exception that carries no code of SQLite stays what it is."""
    for name in _MISTAKES_IN_USING_APSW:
        error = getattr(apsw, name)("text")
        assert table.mapped(error, "read", "the file") is error


# Opening


@anyio_test
async def test_every_connection_is_durable(file: Path):
    """The file is in WAL mode, and each connection to it waits for the disk at every commit."""
    async with _engine(file):
        with closing(connect(str(file), create=False, busy_timeout_ms=0)) as connection:
            assert connection.pragma("journal_mode") == "wal"
            assert connection.pragma("synchronous") == 2
            assert connection.pragma("application_id") == APPLICATION_ID
            assert connection.pragma("user_version") == FORMAT


@anyio_test
async def test_each_connection_of_the_engine_is_durable(file: Path):
    """The engine's own connections are in WAL mode and wait for the disk at each commit."""
    opened: list[apsw.Connection] = []
    with _hooked(opened.append):
        for _ in range(2):
            async with _engine(file) as engine:
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
            await _all(missing, create=False)
        assert caught.value.path == str(missing)
    assert _names(tmp_path) == []


@anyio_test
async def test_reading_makes_no_store_of_an_empty_file(empty: Path):
    """Where no store may be made, an empty file is StoreNotFound and stays empty; else it becomes a store."""
    with pytest.raises(StoreNotFound):
        await _all(empty, create=False)
    assert _bytes(empty) == b""
    assert _names(empty.parent) == ["store.db"]
    assert await _all(empty) == []
    assert await _all(empty, create=False) == []


@anyio_test
async def test_a_file_that_cannot_be_opened_is_not_called_missing(file: Path):
    """What is there but cannot be opened is StoreUnavailable, whether or not a store may be made."""
    os.symlink(file, file)  # noqa: PTH211 - a link to itself, which nobody can open
    for create in (True, False):
        with pytest.raises(StoreUnavailable):
            await _all(file, create=create)


@anyio_test
async def test_a_place_where_no_file_can_be_is_unavailable(tmp_path: Path):
    """A missing folder, or a folder in the file's place, is StoreUnavailable and says what to check."""
    for place in (tmp_path / "no folder" / "store.db", tmp_path):
        with pytest.raises(StoreUnavailable) as caught:
            await _all(place)
        assert caught.value.code == "SQLITE_CANTOPEN"
        assert "folder" in caught.value.what


@anyio_test
async def test_a_failed_opening_leaves_no_thread(tmp_path: Path):
    """An engine that could not be opened has ended its threads."""
    before = set(threading.enumerate())
    with pytest.raises(StoreUnavailable):
        await _all(tmp_path)
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
    threads, descriptors = set(threading.enumerate()), len(_names(Path("/proc/self/fd")))
    with _few_descriptors(free), pytest.raises(StoreUnavailable) as caught:
        await _all(made)
    assert caught.value.code in {"EMFILE", "SQLITE_CANTOPEN"}
    assert str(made) in caught.value.what
    del caught
    _see_the_end_of(set(threading.enumerate()) - threads)
    gc.collect()
    assert len(_names(Path("/proc/self/fd"))) <= descriptors


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
    assert _names(elsewhere) == []


@anyio_test
async def test_many_may_make_one_file_at_once(file: Path):
    """Engines that open a new file at the same moment all succeed, on one store."""

    async def open_and_commit(name: int) -> None:
        async with _engine(file) as engine:
            await engine.commit([Put(f"c/{name}", {})])

    async with anyio.create_task_group() as tasks:
        for name in range(12):
            tasks.start_soon(open_and_commit, name)
    documents = await _all(file)
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
        with _hooked(lambda connection: setattr(connection, "exec_trace", write_meanwhile)):
            assert await _all(file) == []
        assert held


_FOREIGN = {
    "tables of another program": "CREATE TABLE notes (text); INSERT INTO notes VALUES ('mine')",
    "another application id": "PRAGMA application_id = 252006675; CREATE TABLE documents (id)",
    "another application id, no tables": "PRAGMA application_id = 252006675",
}


@anyio_test
@pytest.mark.parametrize("sql", _FOREIGN.values(), ids=_FOREIGN.keys())
@pytest.mark.parametrize("create", [True, False])
async def test_a_file_of_another_program_is_left_alone(file: Path, sql: str, *, create: bool):
    """Another program's database is refused, and not a byte of it changes."""
    _change(file, sql)
    before = _bytes(file)
    with pytest.raises(IncompatibleFormat, match="another program"):
        await _all(file, create=create)
    assert _bytes(file) == before
    assert _names(file.parent) == ["store.db"]


@pytest.fixture(params=[b"hello", b"a diary, not a database\n" * 500, bytes(range(256)) * 32])
def no_database(request: pytest.FixtureRequest, file: Path) -> Path:
    """A file that SQLite did not write."""
    file.write_bytes(request.param)
    return file


@anyio_test
async def test_what_is_no_database_is_refused(no_database: Path):
    """A file that SQLite did not write is IncompatibleFormat, and stays as it is."""
    before = _bytes(no_database)
    with pytest.raises(IncompatibleFormat, match="no SQLite file"):
        await _all(no_database)
    assert _bytes(no_database) == before


@anyio_test
async def test_a_newer_format_is_refused(made: Path):
    """A store written by a newer release is IncompatibleFormat, and the message says what to do."""
    _change(made, f"PRAGMA user_version = {FORMAT + 1}")
    with pytest.raises(IncompatibleFormat, match=rf"format {FORMAT + 1}.*upgrade"):
        await _all(made)


_DAMAGE = {
    "no column updated_us": ("ALTER TABLE documents RENAME COLUMN updated_us TO changed", "no column updated_us"),
    "no table documents": ("DROP TABLE documents", "no column collection"),
    "no table counter": ("DROP TABLE counter", "counter"),
    "no row in counter": ("DELETE FROM counter", "counter"),
}


@anyio_test
@pytest.mark.parametrize(("sql", "named"), _DAMAGE.values(), ids=_DAMAGE.keys())
async def test_missing_tables_and_columns_are_named(made: Path, sql: str, named: str):
    """A store without one of its tables or columns, or its counter, is CorruptDocument, which names it, at once."""
    _change(made, sql)
    with pytest.raises(CorruptDocument, match=named) as caught:
        await _engine(made).__aenter__()
    assert caught.value.path == str(made)


def _overwrite(file: Path) -> None:
    with file.open("r+b") as raw:
        raw.seek(6 * 4096)
        raw.write(b"\xa5" * (file.stat().st_size - 20 * 4096))


def _truncate(file: Path) -> None:
    os.truncate(file, 12 * 4096)


@anyio_test
@pytest.mark.parametrize("damage", [_overwrite, _truncate])
async def test_damaged_pages_are_reported(made: Path, damage: Callable[[Path], None]):
    """Overwritten or missing pages are CorruptDocument with the file's path, and never documents."""
    damage(made)
    with pytest.raises(CorruptDocument) as caught:
        await _all(made)
    assert caught.value.path == str(made)


@anyio_test
@pytest.mark.parametrize("text", ["no JSON", "", '{"n": 1', "[1]", "null", '{"n": "\\ud800"}'])
async def test_a_row_that_is_no_json_object_is_reported(made: Path, text: str):
    """Fields that are no JSON object are CorruptDocument wherever they are looked at; others are served."""
    with closing(apsw.Connection(str(made))) as connection:
        connection.execute("UPDATE documents SET fields = ? WHERE id = '100'", (text,))
    async with _engine(made) as engine:
        good, bad = (await engine.read(["c/099", "c/100"])).documents
        assert good.fields()["n"] == 99
        with pytest.raises(CorruptDocument) as caught:
            bad.fields()
        assert caught.value.path == "c/100"
        with pytest.raises(CorruptDocument):
            [document async for document in engine.scan(Scan("c", where=[Where("n", (1,))]))]
        await engine.commit([Put("c/100", {"n": 100})])
        assert len([document async for document in engine.scan(Scan("c", by="text"))]) == 399


@anyio_test
async def test_a_row_that_sqlite_cannot_parse_is_reported_by_a_scan_by_field(made: Path):
    """Where SQLite itself looks into the fields, text that is no JSON is CorruptDocument too."""
    _change(made, "UPDATE documents SET fields = 'no JSON' WHERE id = '100'")
    async with _engine(made) as engine:
        with pytest.raises(CorruptDocument):
            [document async for document in engine.scan(Scan("c", by="text"))]


@anyio_test
async def test_fields_that_do_not_fit_their_shape_are_reported(made: Path):
    """Decoding into a struct names the field at fault, and not its value."""

    class Shaped(msgspec.Struct):
        n: str

    async with _engine(made) as engine:
        [document] = (await engine.read(["c/123"])).documents
        with pytest.raises(CorruptDocument, match=r"Shaped.*\$\.n") as caught:
            document.decode(Shape(Shaped))
        assert "123" not in caught.value.what


@anyio_test
async def test_an_engine_belongs_to_one_event_loop(file: Path, anyio_backend_name: str):
    """In another one it says so, before anything is written."""
    async with _engine(file) as engine:
        commit = partial(anyio.run, engine.commit, [Put("c/a", {})], backend=anyio_backend_name)
        with pytest.raises(RuntimeError, match="opened in another event loop"):
            await anyio.to_thread.run_sync(commit)
        assert (await engine.read(["c/a"])).documents == (None,)


@anyio_test
async def test_a_closed_engine_says_so(file: Path):
    """After closing, each verb is a RuntimeError that says what to do; closing again and reopening work."""
    engine = _engine(file)
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
    engine = await _engine(made).__aenter__()
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


# A disk that is full or read-only


def _mount(folder: Path, *options: str) -> None:
    """Mount a small disk of its own, or skip the test where that is not allowed (never in CI)."""
    command = ["mount", "-t", "tmpfs", "-o", ",".join(("size=1m", *options)), "tmpfs", str(folder)]
    if shutil.which("mount") is None:
        reason = "there is no mount"
    else:
        reason = subprocess.run(command, capture_output=True, text=True, check=False).stderr.strip()
    if reason:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no small disk can be mounted: {reason}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    _mount(folder)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _leave_free(disk: Path, size: int) -> None:
    """Fill the disk up to so many bytes."""
    with (disk / "ballast").open("ab", buffering=0) as ballast:
        more = os.statvfs(disk).f_bavail * 4096 - size
        ballast.write(b"x" * max(0, more))


async def _content(engine: SqliteEngine) -> dict[str, Any]:
    return {document.id: document.fields() async for document in engine.scan(Scan("c"))}


@anyio_test
async def test_a_full_disk_refuses_what_does_not_fit_and_nothing_else(small_disk: Path):
    """On a full disk large commits are StoreUnavailable and leave nothing; refusals and reads stay right."""
    async with _engine(small_disk / "store.db") as engine:
        kept = await engine.commit([Put("c/kept", {"n": 1})])
        _leave_free(small_disk, 64 * 1024)
        for _ in range(3):
            with pytest.raises(StoreUnavailable) as caught:
                await engine.commit([Put("c/large", {"text": "x" * 500_000}), Put("c/kept", {"n": 2})])
            assert (caught.value.code, caught.value.operation) == ("SQLITE_FULL", "commit")
            assert isinstance(caught.value.__cause__, apsw.FullError)
            with pytest.raises(CommitRefused):
                await engine.commit([Put("c/kept", {"text": "x" * 500_000}, At(kept.revision + 77))])
            with pytest.raises(CommitRefused):
                await engine.commit([Check("c/kept", ABSENT)])
            assert await _content(engine) == {"kept": {"n": 1}}
        small = await engine.commit([Put("c/small", {"n": 3}), Put("c/kept", {"n": 4}, At(kept.revision))])
        assert small.revision > kept.revision
        assert await _content(engine) == {"kept": {"n": 4}, "small": {"n": 3}}


@anyio_test
async def test_space_that_returns_is_used(small_disk: Path):
    """Without a byte left nothing is stored but all is readable; once there is space, the engine goes on."""
    file = small_disk / "store.db"
    async with _engine(file) as engine:
        await engine.commit([Put("c/kept", {"n": 1})])
        _leave_free(small_disk, 0)
        with pytest.raises(StoreUnavailable) as caught:
            await engine.commit([Put("c/new", {"text": "x" * 100_000})])
        assert caught.value.code == "SQLITE_FULL"
        with pytest.raises(CommitRefused):
            await engine.commit([Put("c/new", {}, At(1)), Check("c/kept", ABSENT)])
        assert await _content(engine) == {"kept": {"n": 1}}
        (small_disk / "ballast").unlink()
        await engine.commit([Put("c/new", {"text": "x" * 100_000})])
        assert set(await _content(engine)) == {"kept", "new"}
    assert {document.id for document in await _all(file)} == {"kept", "new"}


@anyio_test
async def test_an_engine_closes_on_a_full_disk(small_disk: Path):
    """Closing an engine whose disk is full neither fails nor hangs, and loses nothing acknowledged."""
    file = small_disk / "store.db"
    with anyio.fail_after(60):
        async with _engine(file) as engine:
            await engine.commit([Put("c/a", {"text": "x" * 200_000})])
            _leave_free(small_disk, 0)
    (small_disk / "ballast").unlink()
    assert [document.id for document in await _all(file)] == ["a"]


@anyio_test
async def test_one_commit_that_does_not_fit_spares_its_neighbours(small_disk: Path):
    """Of commits that share a transaction, only the one that the disk has no room for fails."""
    with _writer(small_disk / "store.db") as writer:
        _serve(writer, [Put("c/first", {})])
        _leave_free(small_disk, 100_000)
        commits = [[Put(f"c/{n}", {"text": "x" * (500_000 if n == 2 else 10)})] for n in range(5)]
        answers = _serve(writer, *commits, [Put("c/first", {}, ABSENT)])
    assert [type(each) for each in answers] == [
        *(Committed, Committed, StoreUnavailable, Committed, Committed, CommitRefused)
    ]
    assert [each.id for each in await _all(small_disk / "store.db")] == ["0", "1", "3", "4", "first"]


@pytest.fixture
def protectable(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A store's place that can be made read-only: for root, whom no permission stops, a disk of its own."""
    folder = request.getfixturevalue("small_disk") if os.geteuid() == 0 else tmp_path
    return folder / "store.db"


def _protect(file: Path, *, writable: bool) -> None:
    if os.geteuid() == 0:
        mode = "remount,rw" if writable else "remount,ro"
        subprocess.run(["mount", "-o", mode, str(file.parent)], check=True)
    else:
        file.chmod(0o600 if writable else 0o400)


@anyio_test
async def test_a_read_only_file_is_unavailable(protectable: Path):
    """A store that may not be written is StoreUnavailable, and unharmed."""
    async with _engine(protectable) as engine:
        await engine.commit([Put("c/a", {"n": 1})])
    _protect(protectable, writable=False)
    with pytest.raises(StoreUnavailable) as caught:
        async with _engine(protectable) as engine:
            await engine.commit([Put("c/a", {"n": 2})])
    assert caught.value.code in {"SQLITE_READONLY", "SQLITE_CANTOPEN"}
    _protect(protectable, writable=True)
    assert [document.fields() for document in await _all(protectable)] == [{"n": 1}]


# The writer: commits that share a transaction, and its failures


def _open(file: Path, busy_timeout_ms: int = 0) -> apsw.Connection:
    return connect(str(file), create=True, busy_timeout_ms=busy_timeout_ms)


@contextmanager
def _writer(file: Path, open_: Callable[[], Any] | None = None, clock: Any = None) -> Iterator[Writer]:
    """A writer by itself, whose commits are served in this thread."""
    writer = Writer(str(file), open_ or (lambda: _open(file)), clock or ManualClock(0, step_us=1))
    try:
        yield writer
    finally:
        writer.close()


def _serve(writer: Writer, *commits: Sequence[Write]) -> list[Any]:
    """What the writer answers to commits that it gets together."""
    jobs = [Job([prepare(write) for write in commit], None) for commit in commits]
    writer.serve(jobs)
    return [job.error if job.error is not None else job.result for job in jobs]


@contextmanager
def _hooked(hook: Callable[[apsw.Connection], object]) -> Iterator[None]:
    """Show each new connection to this function."""
    apsw.connection_hooks.append(hook)
    try:
        yield
    finally:
        apsw.connection_hooks.remove(hook)


@contextmanager
def _statements() -> Iterator[list[tuple[str, Any]]]:
    """All that connections opened from now on execute: SQL and bindings."""
    seen: list[tuple[str, Any]] = []

    def trace(_: object, sql: str, bindings: Any) -> bool:
        seen.append((sql, bindings))
        return True

    with _hooked(lambda connection: setattr(connection, "exec_trace", trace)):
        yield seen


@anyio_test
async def test_commits_that_wait_share_a_transaction(file: Path):
    """Sixty-four commits that wait for another writer take two transactions, and each its own revision."""
    async with _engine(file):
        pass
    revisions: list[int] = []
    with _statements() as statements, closing(_open(file)) as other:
        async with _engine(file) as engine:

            async def commit(n: int) -> None:
                revisions.append((await engine.commit([Put(f"c/{n}", {})])).revision)

            other.execute("BEGIN IMMEDIATE")
            async with anyio.create_task_group() as tasks:
                for n in range(64):
                    tasks.start_soon(commit, n)
                await anyio.wait_all_tasks_blocked()
                statements.clear()
                other.execute("ROLLBACK")
            begun = [sql for sql, _ in statements if sql.startswith("BEGIN")]
    assert len(begun) <= 2
    assert len(set(revisions)) == 64
    assert len(await _all(file)) == 64


@anyio_test
async def test_tasks_that_were_answered_together_are_served_together():
    """Sixty-four tasks that go on after one answer are one batch again, and not the first of them and then the rest."""
    sizes: list[int] = []
    begun, gate = threading.Event(), threading.Event()

    def serve(jobs: Sequence[Job[Any]]) -> None:
        sizes.append(len(jobs))
        begun.set()
        gate.wait()

    async def ask() -> None:
        for _ in range(5):
            await worker.do(None)

    worker = Worker("together", serve, lambda: None)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.do, None)
        await anyio.to_thread.run_sync(begun.wait)
        for _ in range(64):
            tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        gate.set()
    worker.close()
    await worker.closed()
    assert sizes == [1, 64, 64, 64, 64, 64]


@anyio_test
async def test_a_file_put_back_gives_no_revision_again(file: Path, monkeypatch: pytest.MonkeyPatch):
    """A backup put back under a running process: nobody gives a revision that was given after the backup was made."""
    monkeypatch.setattr("tai_state.engines.sqlite.writer.RESERVED", 3)
    backup = file.with_name("backup.db")
    async with SqliteEngine(str(file), ManualClock(step_us=1_000)) as engine:
        await engine.commit([Put("c/a", {"n": 0})])
        _copy(file, backup)
        given = {(await engine.commit([Put("c/a", {"n": n})])).revision for n in range(8)}
        _copy(backup, file)
        async with SqliteEngine(str(file), ManualClock(1_700_000_000_500_000, step_us=1_000)) as other:
            again = {(await other.commit([Put("c/a", {"n": n})])).revision for n in range(8)}
            again |= {(await engine.commit([Put("c/a", {"n": n})])).revision for n in range(8)}
    assert not given & again


def _copy(source: Path, target: Path) -> None:
    with (
        closing(apsw.Connection(str(source))) as one,
        closing(apsw.Connection(str(target))) as other,
        other.backup("main", one, "main") as backup,
    ):
        backup.step()


@anyio_test
async def test_closing_answers_the_commits_that_wait(file: Path):
    """Commits that wait for another writer when the engine is closed are applied, and answered, first."""
    async with _engine(file):
        pass
    revisions: list[int] = []
    with closing(_open(file)) as other, _statements() as statements, anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            engine = await _engine(file).__aenter__()

            async def commit(n: int) -> None:
                revisions.append((await engine.commit([Put(f"c/{n}", {})])).revision)

            other.execute("BEGIN IMMEDIATE")
            tasks.start_soon(commit, 0)
            while not any(sql.startswith("BEGIN") for sql, _ in statements):
                await anyio.lowlevel.checkpoint()
            for n in range(1, 8):
                tasks.start_soon(commit, n)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(engine.__aexit__, None, None, None)
            await anyio.wait_all_tasks_blocked()
            other.execute("ROLLBACK")
    assert len(revisions) == 8
    assert {each.revision for each in await _all(file)} == set(revisions)


@anyio_test
async def test_commits_in_one_transaction_see_each_other(file: Path):
    """Commits served together are decided one after the other, as if each had been alone."""
    with _writer(file) as writer:
        made, second, at_first, gone, again, checked = _serve(
            writer,
            [Put("c/a", {"n": 1}, ABSENT)],
            [Put("c/a", {"n": 2}, ABSENT), Put("c/b", {})],
            [Put("c/a", {"n": 3}, At(2))],
            [Delete("c/a"), Put("c/c", {})],
            [Put("c/a", {"n": 4}, ABSENT)],
            [Check("c/a", ABSENT)],
        )
    assert made.revision < gone.revision < again.revision
    assert isinstance(second, CommitRefused)
    assert isinstance(checked, CommitRefused)
    assert (second.path, checked.path) == ("c/a", "c/a")
    assert isinstance(at_first, Committed if made.revision == 2 else CommitRefused)
    found = {document.path: document.revision for document in await _all(file)}
    assert found == {"c/a": again.revision, "c/c": gone.revision}


@anyio_test
@pytest.mark.parametrize(
    "refused",
    [
        Put("c/a", {}, At(999)),
        Put("c/a", {}, ABSENT),
        Put("c/none", {}, PRESENT),
        Delete("c/a", At(999)),
        Delete("c/none", PRESENT),
        Check("c/a", ABSENT),
    ],
    ids=repr,
)
async def test_a_commit_refused_at_a_later_write_writes_nothing(file: Path, refused: Write):
    """What is already written of it when it turns out refused is gone, and those around it are not."""
    with _writer(file) as writer:
        answers = _serve(
            writer,
            [Put("c/a", {"n": 1}, ABSENT)],
            [Put("c/new", {"n": 2}, ABSENT), Put("c/other", {"n": 2}), refused],
            [Put("c/new", {"n": 3}, ABSENT), Delete("c/none")],
            [Put("c/a", {"n": 4}, ABSENT), Put("c/other", {"n": 4})],
        )
    first, second, third, fourth = answers
    assert isinstance(second, CommitRefused)
    assert isinstance(fourth, CommitRefused)
    assert (second.path, fourth.path) == (refused.path, "c/a")
    found = {document.path: (document.revision, document.fields()) for document in await _all(file)}
    assert found == {"c/a": (first.revision, {"n": 1}), "c/new": (third.revision, {"n": 3})}


@anyio_test
async def test_a_file_held_by_another_process_is_a_timeout(file: Path):
    """A writer that gets no turn answers StoreTimeout, which may be tried again, and then succeeds."""
    with _writer(file) as writer, closing(_open(file)) as other:
        other.execute("BEGIN IMMEDIATE")
        answers = _serve(writer, [Put("c/a", {})], [Put("c/b", {}, ABSENT)])
        assert [type(each) for each in answers] == [StoreTimeout] * 2
        assert {(each.code, each.unknown, each.is_transient) for each in answers} == {("SQLITE_BUSY", False, True)}
        other.execute("ROLLBACK")
        [committed] = _serve(writer, [Put("c/a", {})])
        assert isinstance(committed, Committed)


@anyio_test
async def test_a_connection_that_may_not_write_is_unavailable(file: Path):
    """A write that SQLite refuses as read-only is StoreUnavailable, and stores nothing."""

    def open_read_only() -> apsw.Connection:
        connection = _open(file)
        connection.pragma("query_only", True)
        return connection

    with _writer(file, open_read_only) as writer:
        answers = _serve(writer, [Put("c/a", {})], [Delete("c/a")])
    assert {(type(each), each.code, each.unknown) for each in answers} == {(StoreUnavailable, "SQLITE_READONLY", False)}
    assert await _all(file) == []


class _Lossy:
    """Opens connections whose next COMMITs fail as planned; ``between`` runs before opening anew."""

    def __init__(self, file: Path, *plan: str, between: Callable[[], object] | None = None) -> None:
        self._file = file
        self._between = between
        self.plan = list(plan)
        self.opened = 0

    def __call__(self) -> _LossyConnection:
        self.opened += 1
        if self.opened > 1 and self._between is not None:
            self._between()
        return _LossyConnection(_open(self._file), self.plan)


class _LossyConnection:
    """A connection as the writer sees it. A COMMIT planned as "lost" is not done, one as "applied" is."""

    def __init__(self, connection: apsw.Connection, plan: list[str]) -> None:
        self._connection = connection
        self._plan = plan

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str, *args: Any) -> Any:
        fault = self._plan.pop(0) if sql == "COMMIT" and self._plan else ""
        if fault != "lost":
            result = self._connection.execute(sql, *args)
        if fault:
            raise apsw.exception_for(apsw.SQLITE_IOERR_FSYNC)
        return result


def _is_said_not_applied(answer: object) -> bool:
    return isinstance(answer, Unavailable) and not answer.unknown


@anyio_test
async def test_a_commit_that_was_lost_is_reported_so(file: Path):
    """Where COMMIT fails and the file shows nothing of it, the answer is StoreUnavailable, for certain."""
    with _writer(file, _Lossy(file, "", "lost")) as writer:
        _serve(writer, [Put("c/a", {"n": 1})])
        [answer] = _serve(writer, [Put("c/a", {"n": 2}), Put("c/b", {})])
        assert (type(answer), answer.code, answer.unknown) == (StoreUnavailable, "SQLITE_IOERR", False)
        assert [each.fields() for each in await _all(file)] == [{"n": 1}]
        [committed] = _serve(writer, [Put("c/a", {"n": 3}), Put("c/b", {})])
    assert {each.revision for each in await _all(file)} == {committed.revision}


@anyio_test
@pytest.mark.parametrize(
    "writes",
    [[Put("c/a", {"n": 2})], [Delete("c/a")], [Check("c/a", At(1)), Put("c/b", {})]],
    ids=lambda w: type(w[0]).__name__,
)
async def test_a_commit_that_was_applied_is_answered(file: Path, writes: Sequence[Write]):
    """Where COMMIT reports an error and the file shows its commit, the caller gets its result."""
    with _writer(file, _Lossy(file, "", "applied")) as writer:
        [first] = _serve(writer, [Put("c/a", {"n": 1})])
        assert first.revision == 1
        [answer] = _serve(writer, writes)
        assert isinstance(answer, Committed)
        [later] = _serve(writer, [Put("c/later", {}, ABSENT)])
    assert later.revision > answer.revision > first.revision
    puts = {write.path for write in writes if isinstance(write, Put)}
    assert {each.path for each in await _all(file) if each.revision == answer.revision} == puts


@anyio_test
async def test_an_outcome_that_cannot_be_seen_is_unknown(file: Path):
    """Where COMMIT fails and the file cannot be looked at, the answer says that the commit may be applied."""

    def broken() -> None:
        raise apsw.exception_for(apsw.SQLITE_CANTOPEN)

    opener = _Lossy(file, "", "applied", between=broken)
    with _writer(file, opener) as writer:
        _serve(writer, [Put("c/a", {})])
        [answer] = _serve(writer, [Put("c/a", {"n": 2})])
        assert (type(answer), answer.unknown) == (StoreUnavailable, True)
        assert answer.code == "SQLITE_IOERR"


@anyio_test
async def test_an_outcome_behind_a_damaged_file_is_unknown(file: Path):
    """Where COMMIT fails and the file is then found damaged or foreign, the commit is not said to be lost."""

    def broken() -> None:
        raise CorruptDocument(str(file), "is damaged")

    with _writer(file, _Lossy(file, "", "applied", between=broken)) as writer:
        _serve(writer, [Put("c/a", {})])
        [answer] = _serve(writer, [Put("c/a", {"n": 2})])
    assert getattr(answer, "unknown", False), f"answered with {answer!r}"


@anyio_test
async def test_a_whole_transaction_was_applied_or_lost(file: Path):
    """Where COMMIT failed after all, commits that rewrote each other's documents are all applied."""
    with _writer(file, _Lossy(file, "", "applied")) as writer:
        _serve(writer, [Put("c/a", {"n": 0})])
        answers = _serve(
            writer,
            [Put("c/a", {"n": 1}), Put("c/b", {"n": 1})],
            [Put("c/a", {"n": 2})],
            [Delete("c/b")],
            [Put("c/b", {"n": 3}, ABSENT)],
        )
    assert [each.fields() for each in await _all(file)] == [{"n": 2}, {"n": 3}]
    assert [type(each) for each in answers] == [Committed] * 4, answers


@anyio_test
async def test_a_refusal_by_a_lost_commit_is_not_given(file: Path):
    """A commit that was refused because of one that then got lost is not told that it was refused."""
    with _writer(file, _Lossy(file, "", "lost")) as writer:
        _serve(writer, [Put("c/first", {})])
        answers = _serve(writer, [Put("c/a", {"n": 1}, ABSENT)], [Put("c/a", {"n": 2}, ABSENT)])
    stored = [each.fields() for each in await _all(file) if each.id == "a"]
    applied = [n for n, each in enumerate(answers, 1) if isinstance(each, Committed)]
    assert stored == [{"n": n} for n in applied]
    assert applied or not any(isinstance(each, CommitRefused) for each in answers), answers


def _others_commit(file: Path, *writes: Write) -> Callable[[], None]:
    """Another process that commits these writes."""

    def commit() -> None:
        with _writer(file, clock=ManualClock(5)) as other:
            [committed] = _serve(other, writes)
            assert isinstance(committed, Committed)

    return commit


@anyio_test
async def test_an_applied_commit_that_others_have_replaced_is_not_called_lost(file: Path):
    """A commit that was applied, reported an error and was then overwritten by others is not called lost."""
    between = _others_commit(file, Put("c/a", {"by": "other"}))
    with _writer(file, _Lossy(file, "", "applied", between=between)) as writer:
        _serve(writer, [Put("c/a", {})])
        [answer] = _serve(writer, [Put("c/a", {"by": "us"})])
    assert not _is_said_not_applied(answer), f"the commit was applied, and answered with {answer!r}"


@anyio_test
async def test_a_lost_commit_is_not_taken_for_another_processes(file: Path):
    """A commit that got lost while another process's took its revision and document is not called applied."""
    between = _others_commit(file, Put("c/a", {"by": "other"}, At(1)))
    with _writer(file, _Lossy(file, "", "lost", between=between)) as writer:
        _serve(writer, [Put("c/a", {})])
        [answer] = _serve(writer, [Put("c/a", {"by": "us"}, At(1))])
    assert [each.fields() for each in await _all(file)] == [{"by": "other"}]
    assert not isinstance(answer, Committed), "two writers won at one revision"


class _BrokenOnce(ManualClock):
    """A clock that fails once, at its third look."""

    looks = 0

    def now_us(self) -> int:
        self.looks += 1
        if self.looks == 3:
            raise ValueError("no time")
        return super().now_us()


@anyio_test
async def test_an_unforeseen_error_does_not_disable_the_writer(file: Path):
    """After an error that is none of SQLite's, within a commit, the next commits go through."""
    with anyio.fail_after(60):
        async with SqliteEngine(str(file), _BrokenOnce()) as engine:
            for n in range(2):
                await engine.commit([Put(f"c/{n}", {})])
            with pytest.raises(ValueError, match="no time"):
                await engine.commit([Put("c/2", {})])
            await engine.commit([Put("c/3", {})])
    assert [each.id for each in await _all(file)] == ["0", "1", "3"]


# Queries


@anyio_test
async def test_a_scan_by_timestamp_uses_the_index(file: Path):
    """Events are found by the index on their timestamp, and in its order, on every page."""
    async with _engine(file) as engine:
        await engine.commit([Put(f"g/b/events/a~{n}", {"timestamp": f"2026-{n:04}"}) for n in range(600)])
        await engine.commit([Put(f"g/c/events/a~{n}", {"timestamp": f"2026-{n:04}"}) for n in range(600)])
    with _statements() as statements:
        async with _engine(file) as engine:
            statements.clear()
            found = [
                document.fields()["timestamp"]
                async for document in engine.scan(
                    Scan("g/b/events", by="timestamp", start="2026-0010", end="2026-0590")
                )
            ]
    assert found == [f"2026-{n:04}" for n in range(10, 590)]
    pages = [(sql, bindings) for sql, bindings in statements if "SELECT" in sql]
    assert len(pages) == 2
    with closing(_open(file)) as connection:
        for sql, bindings in pages:
            plan = [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + sql, bindings)]
            assert len(plan) == 1, plan
            assert "SEARCH documents USING INDEX documents_by_timestamp (collection=? AND " in plan[0]


@anyio_test
async def test_scans_and_reads_use_the_primary_key(file: Path):
    """Reading a document and scanning a range of ids search the key, and sort nothing."""
    with _statements() as statements:
        async with _engine(file) as engine:
            statements.clear()
            await engine.read(["c/a", "c/b"])
            [document async for document in engine.scan(Scan("c", start="a", end="b"))]
            await engine.commit([Put("c/a", {}, ABSENT), Delete("c/b")])
    queries = [(sql, bindings) for sql, bindings in statements if "documents" in sql]
    assert len(queries) >= 5
    with closing(_open(file)) as connection:
        for sql, bindings in queries:
            for row in connection.execute("EXPLAIN QUERY PLAN " + sql, bindings):
                assert row[3].startswith("SEARCH documents USING"), (sql, row[3])


@anyio_test
async def test_the_file_is_plain_sqlite(made: Path):
    """Any SQLite of this century's third decade reads the documents, and finds the file sound."""
    async with _engine(made) as engine:
        await engine.commit([Put("g/b/events/a~1", {"timestamp": "2026"}), Delete("c/000")])
    with closing(sqlite3.connect(made)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        [row] = connection.execute("SELECT collection, id, revision, fields FROM documents WHERE path = 'c/001'")
        assert row == ("c", "001", 1, '{"n":1,"text":"' + "x" * 1_000 + '"}')
        [(reserved,)] = connection.execute("SELECT revision FROM counter")
        assert reserved >= connection.execute("SELECT max(revision) FROM documents").fetchone()[0]
