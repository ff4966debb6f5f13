"""What the system cannot read: SQLite calls it damaged, and the engine does not."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from ctypes import CFUNCTYPE, c_int, c_int64, c_size_t, c_ssize_t, c_void_p, cast, set_errno
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import apsw
import pytest

from tai_state import ANY, CorruptDocument, StoreUnavailable
from tai_state.engines.api import ANYTHING, Put, Scan
from tai_state.engines.sqlite import backing_up
from tai_state.engines.sqlite.engine import SqliteEngine
from tai_state.history.cleanup import Cleanup
from tai_state.history.replay import Replay
from tai_state.testing import ManualClock

from ...support.stores import GOVERNOR, METADATA, make_store

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

LARGE = "y" * 60_000
"""More pages than SQLite has in memory right after it opened a file."""
HEADER_BYTES = 100
PAGE_BYTES = 4096


@pytest.fixture
def anyio_backend() -> str:
    """A disk does not know the event loop."""
    return "asyncio"


class Disk(apsw.VFS):
    """Reading by SQLite's own files, of which each call to the system can be made to fail.

    Attributes:
        fails: whether it does: with EIO, and not for what is as short as a header.
    """

    def __init__(self) -> None:
        super().__init__("disk", apsw.vfs_names()[0])
        self.fails = False
        names = list(iter(partial(self._next, []), None))
        self._name = next(each for each in names if each in ("pread64", "pread"))
        self._pread = _Pread(self.xGetSystemCall(self._name) or 0)
        self._call = _Pread(self._read)  # kept: SQLite calls it
        self.xSetSystemCall(self._name, cast(self._call, c_void_p).value or 0)

    def _next(self, names: list[str]) -> str | None:
        name = self.xNextSystemCall(names[-1] if names else None)
        names.extend([name] if name else [])
        return name

    def _read(self, file: int, buffer: int, amount: int, offset: int) -> int:
        if self.fails and amount > HEADER_BYTES:
            set_errno(errno.EIO)
            return -1
        return int(self._pread(file, buffer, amount, offset))

    def mend(self) -> None:
        """Read as before, from now on."""
        self.xSetSystemCall(self._name, 0)
        self.unregister()


_Pread = CFUNCTYPE(c_ssize_t, c_int, c_void_p, c_size_t, c_int64, use_errno=True)


@pytest.fixture
def disk() -> Iterator[Disk]:
    """What SQLite reads from, as long as the test runs."""
    disk = Disk()
    yield disk
    disk.mend()


@pytest.fixture
async def engine(disk: Disk, tmp_path: Path) -> AsyncIterator[SqliteEngine]:
    """A store whose file has just been opened by its reader, its writer and its watcher."""
    clock = ManualClock(step_us=1)
    path = str(tmp_path / "store.db")
    async with SqliteEngine(path, clock) as engine:
        for number in range(40):
            await engine.commit([Put(f"c/{number}", {"x": LARGE}), Put(f"c/{number}/events/1", {"timestamp": ""})])
        await engine.commit([Put("d/1", {"x": 0})])
    async with SqliteEngine(path, clock) as engine:
        async with engine.watch("d/1"):
            await engine.commit([Put("d/1", {"x": 1}, ANYTHING)])
        await engine.read(["d/1"])
        yield engine


async def _watched(engine: SqliteEngine) -> None:
    async with engine.watch("c/7", "c/20") as changes:
        await anext(changes)


VERBS: dict[str, Callable[[SqliteEngine], Awaitable[Any]]] = {
    "read": lambda engine: engine.read(["c/7"]),
    "read_several": lambda engine: engine.read(["c/7", "c/20"]),
    "scan": lambda engine: anext(engine.scan(Scan("c"))),
    "changed": lambda engine: anext(engine.changed("c/7/events")),
    "commit": lambda engine: engine.commit([Put("c/7", {"x": LARGE}, ANYTHING)]),
    "watch": _watched,
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
async def test_a_verb_says_that_the_disk_fails(disk: Disk, engine: SqliteEngine, verb: Any):
    """What cannot be read is ``StoreUnavailable``, as often as it fails, and is read once the disk works again."""
    disk.fails = True
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="the disk reports an error"):
            await verb(engine)
    disk.fails = False
    await verb(engine)
    assert None not in (await engine.read(["c/7", "c/20"])).documents


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
async def test_damage_is_damage_after_the_disk_failed(disk: Disk, engine: SqliteEngine, tmp_path: Path, verb: Any):
    """A failure of the disk that has passed does not hide that the file is damaged."""
    disk.fails = True
    with pytest.raises(StoreUnavailable):
        await verb(engine)
    disk.fails = False
    path = tmp_path / "store.db"
    whole = path.read_bytes()
    path.write_bytes(whole[:PAGE_BYTES] + b"\xff" * (len(whole) - PAGE_BYTES))
    with pytest.raises(CorruptDocument):
        await verb(engine)
    path.write_bytes(whole)


@pytest.mark.parametrize("verb", ["self_check", "backup"])
async def test_a_look_at_the_whole_file_says_that_the_disk_fails(
    disk: Disk, engine: SqliteEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, verb: str
):
    """A check of the file does not call damaged what cannot be read, and no copy is made of it."""
    place: Any = engine._file if verb == "self_check" else backing_up
    name = "connect" if verb == "self_check" else "connect_to_copy"
    connect = getattr(place, name)

    def failing(*arguments: Any) -> apsw.Connection:
        connection: apsw.Connection = connect(*arguments)
        disk.fails = True
        return connection

    monkeypatch.setattr(place, name, failing)
    arguments: Any = () if verb == "self_check" else (str(tmp_path / "copy.db"), lambda *_: None)
    with pytest.raises(StoreUnavailable, match="the disk reports an error"):
        await getattr(engine, verb)(*arguments)


async def test_a_store_that_cannot_be_read_is_not_opened(disk: Disk, tmp_path: Path):
    """The same while a store is opened."""
    clock = ManualClock()
    path = str(tmp_path / "store.db")
    async with SqliteEngine(path, clock) as engine:
        await engine.commit([Put("c/7", {"x": LARGE})])
    disk.fails = True
    with pytest.raises(StoreUnavailable, match="the disk reports an error"):
        async with SqliteEngine(path, clock) as engine:
            await engine.read(["c/7"])


async def test_a_cleanup_skips_no_state_because_the_disk_fails(disk: Disk, tmp_path: Path):
    """A state that a cleanup cannot read for a moment is not taken for a damaged one: the cleanup fails."""
    clock = ManualClock(step_us=1)
    path = str(tmp_path / "store.db")
    async with make_store(SqliteEngine(path, clock), clock) as store:
        for number in range(9):
            await store.save_state(GOVERNOR, "alice", {"n": number, "fill": LARGE}, METADATA, expected=ANY)
        await store.create_snapshot(GOVERNOR, "alice")
    nothing = timedelta(0)
    async with make_store(SqliteEngine(path, clock), clock) as store:
        cleanup = Cleanup(store.core, Replay(store.core, {}), nothing, age_min=nothing)
        stream = store.core.layout.stream(GOVERNOR, "alice")
        disk.fails = True
        with pytest.raises(StoreUnavailable):
            await cleanup._stream_or_skip(stream)
        disk.fails = False
        assert (await cleanup._stream_or_skip(stream)).skipped == 0
