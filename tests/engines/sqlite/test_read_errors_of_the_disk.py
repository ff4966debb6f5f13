"""A disk that fails to read: said as what it is, and never taken for damage or for a change that failed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import apsw
import pytest

from tai_state import (
    CommitOutcomeUnknown,
    CorruptDocument,
    IncompatibleFormat,
    StoreUnavailable,
)
from tai_state.engines.api import Put, Scan, Write
from tai_state.engines.sqlite.engine import SqliteEngine
from tai_state.testing import ManualClock, MemoryEngine

from ...support.stores import GOVERNOR, METADATA, AroundEngine, make_store

if TYPE_CHECKING:
    from pathlib import Path

    from tai_state import TaiStateError

pytestmark = pytest.mark.anyio

SYSTEM = apsw.vfs_names()[0]
HEADER_BYTES = 100
LARGE = "y" * 60_000
"""More pages than SQLite has in memory right after it opened a file."""


@pytest.fixture
def anyio_backend() -> str:
    """A disk does not know the event loop."""
    return "asyncio"


class Disk(apsw.VFS):
    """The system's files, of which reading can be made to fail."""

    def __init__(self) -> None:
        super().__init__("failing disk", SYSTEM, makedefault=True)
        self.fails = False

    def xOpen(self, name: Any, flags: Any) -> Any:  # noqa: D102, N802
        return _File(self, name, flags)


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: Any, flags: Any) -> None:
        super().__init__(SYSTEM, name, flags)
        self._disk = disk

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        if self._disk.fails and amount > HEADER_BYTES:
            raise apsw.exception_for(apsw.SQLITE_IOERR_READ)
        return super().xRead(amount, offset)


@pytest.fixture
def disk() -> Iterator[Disk]:
    """What SQLite reads from and writes to, as long as the test runs."""
    disk = Disk()
    yield disk
    apsw.set_default_vfs(SYSTEM)
    disk.unregister()


@pytest.mark.parametrize("paths", [["c/7"], ["c/7", "c/20"]], ids=["one", "several"])
async def test_a_read_of_documents_says_that_the_disk_fails(disk: Disk, tmp_path: Path, paths: Sequence[str]):
    """A failing disk is ``StoreUnavailable``, however many documents are read; once it works again, they are read."""
    clock = ManualClock()
    async with SqliteEngine(str(tmp_path / "store.db"), clock) as engine:
        for number in range(40):
            await engine.commit([Put(f"c/{number}", {"x": LARGE})])
    async with SqliteEngine(str(tmp_path / "store.db"), clock) as engine:
        disk.fails = True
        with pytest.raises(StoreUnavailable) as told:
            await engine.read(paths)
        disk.fails = False
        assert told.value.is_transient
        assert None not in (await engine.read(paths)).documents


async def test_a_scan_says_that_the_disk_fails(disk: Disk, tmp_path: Path):
    """The same of a scan."""
    clock = ManualClock()
    async with SqliteEngine(str(tmp_path / "store.db"), clock) as engine:
        for number in range(40):
            await engine.commit([Put(f"c/{number}", {"x": LARGE})])
    async with SqliteEngine(str(tmp_path / "store.db"), clock) as engine:
        disk.fails = True
        with pytest.raises(StoreUnavailable):
            async for _ in engine.scan(Scan("c")):
                pass
        disk.fails = False
        assert len([each async for each in engine.scan(Scan("c"))]) == 40


async def test_a_moment_does_not_outlast_a_read_error(disk: Disk, tmp_path: Path):
    """SQLite ends the transaction of a moment with the error: then reads say so, and show no later moment."""
    clock = ManualClock()
    async with SqliteEngine(str(tmp_path / "store.db"), clock) as engine:
        for number in range(40):
            await engine.commit([Put(f"c/{number}", {"x": LARGE})])
    async with SqliteEngine(str(tmp_path / "store.db"), clock) as engine, engine.moment() as moment:
        disk.fails = True
        with pytest.raises(StoreUnavailable):
            await moment.read(["c/7"])
        disk.fails = False
        await engine.commit([Put("c/7", {"x": "new"})])
        for paths in (["c/7"], ["c/7", "c/8"]):
            with pytest.raises(StoreUnavailable) as read:
                await moment.read(paths)
            assert (read.value.code, read.value.is_transient) == ("MOMENT_LOST", True)
        with pytest.raises(StoreUnavailable, match="MOMENT_LOST"):
            await anext(moment.scan(Scan("c")))


class LosesAnswers(AroundEngine):
    """An engine whose next commit is applied and not answered; the looks after it fail so many times."""

    def __init__(self, engine: Any, failure: TaiStateError, looks: int) -> None:
        super().__init__(engine)
        self._failure = failure
        self._looks = looks
        self.is_armed = False
        self._left = 0

    async def commit(self, writes: Sequence[Write]) -> Any:  # noqa: D102
        committed = await self._engine.commit(writes)
        if self.is_armed:
            self.is_armed, self._left = False, self._looks
            raise StoreUnavailable("commit", "LOST", "planned", unknown=True)
        return committed

    async def read(self, paths: Sequence[str]) -> Any:  # noqa: D102
        if self._left:
            self._left -= 1
            raise self._failure
        return await self._engine.read(paths)


FOREVER = 1_000_000


@pytest.mark.parametrize(
    "failure",
    [
        StoreUnavailable("read", "SQLITE_IOERR", "the disk reports an error"),
        CorruptDocument("store.db", "the file is damaged"),
        IncompatibleFormat("store.db", "belongs to another program"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_change_that_cannot_be_looked_up_is_unknown(failure: TaiStateError):
    """Whatever keeps a writer from seeing what became of its change, the change is not reported as failed."""
    clock = ManualClock(step_us=1)
    engine = LosesAnswers(MemoryEngine(clock), failure, FOREVER)
    async with make_store(engine, clock, timeout_seconds=0.0) as store:
        await store.save_state(GOVERNOR, "alice", {"n": 1}, METADATA)
        engine.is_armed = True
        with pytest.raises(CommitOutcomeUnknown):
            await store.update_state(GOVERNOR, "alice", {"n": 2}, METADATA, expected=1)


async def test_a_change_is_found_once_the_disk_works_again(disk: Disk, tmp_path: Path):
    """A read error while a lost answer is looked up is looked up again: the change is stored, and so it is said."""
    clock = ManualClock(step_us=1)
    path = str(tmp_path / "store.db")
    async with make_store(SqliteEngine(path, clock), clock) as store:
        for version in range(60):
            await store.save_state(GOVERNOR, "alice", {"n": version, "fill": LARGE}, METADATA, expected=version)

    class FailsOnce(LosesAnswers):
        async def read(self, paths: Sequence[str]) -> Any:
            disk.fails, self._left = self._left > 0, 0
            try:
                return await self._engine.read(paths)
            finally:
                disk.fails = False

    engine = FailsOnce(SqliteEngine(path, clock), StoreUnavailable("read", ""), 1)
    async with make_store(engine, clock) as store:
        engine.is_armed = True
        updated = await store.update_state(GOVERNOR, "alice", {"n": 60}, METADATA, expected=60)
        assert updated == await store.get_state(GOVERNOR, "alice")
