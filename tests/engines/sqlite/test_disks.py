"""A disk that is full or read-only."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import apsw
import pytest

from tai_state import open_store
from tai_state.engines.api import ABSENT, At, Check, Committed, Put, Scan
from tai_state.engines.sqlite.engine import SqliteEngine
from tai_state.errors import CommitRefused, StoreUnavailable

from ...support.program import Program
from ...support.sqlite import all_in, engine_over, names_in, served, writer_over

if TYPE_CHECKING:
    from collections.abc import Iterator


anyio_test = pytest.mark.anyio


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


def _make_store(folder: Path) -> None:
    async def make() -> None:
        async with open_store(f"sqlite:///{folder}/store.db"):
            pass

    anyio.run(make)


async def _content(engine: SqliteEngine) -> dict[str, Any]:
    return {document.id: document.fields() async for document in engine.scan(Scan("c"))}


@anyio_test
async def test_a_full_disk_refuses_what_does_not_fit_and_nothing_else(small_disk: Path):
    """On a full disk large commits are StoreUnavailable and leave nothing; refusals and reads stay right."""
    async with engine_over(small_disk / "store.db") as engine:
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
    async with engine_over(file) as engine:
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
    assert {document.id for document in await all_in(file)} == {"kept", "new"}


@anyio_test
async def test_a_disk_that_is_full_at_the_opening_is_named(small_disk: Path):
    """An engine that finds no room for what lies beside the file says that the disk is full, and that alone."""
    file = small_disk / "store.db"
    await all_in(file)
    _leave_free(small_disk, 0)
    with pytest.raises(StoreUnavailable, match="the disk is full"):
        await all_in(file)
    (small_disk / "ballast").unlink()
    assert await all_in(file) == []


@pytest.mark.parametrize(
    ("free", "code", "status", "said"), [(0, 5, "failed", "the disk is full"), (200_000, 0, "warning", "make room")]
)
def test_the_doctor_looks_for_room(small_disk: Path, free: int, code: int, status: str, said: str):
    """On a full disk the doctor fails; where a backup would not fit, it warns; it leaves nothing there."""
    _make_store(small_disk)
    _leave_free(small_disk, free)
    ended = Program(small_disk)("doctor", "--json", "--store", "sqlite:///store.db")
    [disk] = [each for each in json.loads(ended.out)["checks"] if each["check"] == "disk"]
    assert (ended.code, disk["status"]) == (code, status)
    assert said in disk["message"]
    assert set(names_in(small_disk)) - {"store.db-wal", "store.db-shm"} == {"ballast", "store.db"}


def test_the_doctor_names_a_disk_that_may_only_be_read(small_disk: Path):
    """Where no right would help, the doctor does not ask for one."""
    _make_store(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    ended = Program(small_disk)("doctor", "--json", "--store", "sqlite:///store.db")
    [failed] = [each for each in json.loads(ended.out)["checks"] if each["status"] != "ok"]
    assert (ended.code, failed["check"]) == (5, "permissions")
    assert "mounted for reading only" in failed["message"]


@anyio_test
async def test_an_engine_closes_on_a_full_disk(small_disk: Path):
    """Closing an engine whose disk is full neither fails nor hangs, and loses nothing acknowledged."""
    file = small_disk / "store.db"
    with anyio.fail_after(60):
        async with engine_over(file) as engine:
            await engine.commit([Put("c/a", {"text": "x" * 200_000})])
            _leave_free(small_disk, 0)
    (small_disk / "ballast").unlink()
    assert [document.id for document in await all_in(file)] == ["a"]


@anyio_test
async def test_one_commit_that_does_not_fit_spares_its_neighbours(small_disk: Path):
    """Of commits that share a transaction, only the one that the disk has no room for fails."""
    with writer_over(small_disk / "store.db") as writer:
        served(writer, [Put("c/first", {})])
        _leave_free(small_disk, 100_000)
        commits = [[Put(f"c/{n}", {"text": "x" * (500_000 if n == 2 else 10)})] for n in range(5)]
        answers = served(writer, *commits, [Put("c/first", {}, ABSENT)])
    assert [type(each) for each in answers] == [
        *(Committed, Committed, StoreUnavailable, Committed, Committed, CommitRefused)
    ]
    assert [each.id for each in await all_in(small_disk / "store.db")] == ["0", "1", "3", "4", "first"]


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
    async with engine_over(protectable) as engine:
        await engine.commit([Put("c/a", {"n": 1})])
    _protect(protectable, writable=False)
    with pytest.raises(StoreUnavailable) as caught:
        async with engine_over(protectable) as engine:
            await engine.commit([Put("c/a", {"n": 2})])
    assert caught.value.code in {"SQLITE_READONLY", "SQLITE_CANTOPEN"}
    _protect(protectable, writable=True)
    assert [document.fields() for document in await all_in(protectable)] == [{"n": 1}]
