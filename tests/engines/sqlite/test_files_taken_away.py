"""The file is removed, moved or replaced while a store has it open: nothing more is acknowledged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import anyio
import pytest

from tai_state import StoreUnavailable, StoreUnusable, open_store
from tai_state.engines.sqlite.openfile import OpenFile
from tai_state.engines.sqlite.schema import connect
from tai_state.testing.checking import HANG_SECONDS

from ...support.sqlite import bytes_of, names_in
from ...support.stores import GOVERNOR, METADATA, collected

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: files are the engine's."""
    return "asyncio"


def _remove_all(folder: Path) -> None:
    for path in folder.glob("store.db*"):
        path.unlink()


def _remove_log(folder: Path) -> None:
    (folder / "store.db-wal").unlink()


def _move_away(folder: Path) -> None:
    (folder / "store.db").rename(folder / "moved.db")


def _move_folder(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def _replace(folder: Path) -> None:
    (folder.parent / "restored.db").replace(folder / "store.db")


@pytest.mark.parametrize("take", [_remove_all, _remove_log, _move_away, _move_folder, _replace])
@pytest.mark.parametrize("written", [["before"], []], ids=["written", "unwritten"])
async def test_a_change_is_not_acknowledged(tmp_path: Path, take: Callable[[Path], None], written: list[str]):
    """A change that nobody who opens the path would find is ``StoreUnavailable``, the first one and later ones."""
    folder = tmp_path / "here"
    folder.mkdir()
    async with open_store(f"sqlite:///{tmp_path}/restored.db") as restored:
        await restored.save_state(GOVERNOR, "of the backup", {}, METADATA)
    async with open_store(f"sqlite:///{folder}/store.db") as store:
        await store.exists(GOVERNOR, "before")
        for state_id in written:
            await store.save_state(GOVERNOR, state_id, {}, METADATA)
        take(folder)
        for state_id in ("after", "later"):
            with pytest.raises(StoreUnavailable):
                await store.save_state(GOVERNOR, state_id, {}, METADATA)


async def test_nothing_is_read_or_watched_after_it(tmp_path: Path):
    """A watch ends, and so does reading once a change was refused: what could be read is no longer at the path."""
    async with open_store(f"sqlite:///{tmp_path}/store.db") as store:
        await store.save_state(GOVERNOR, "s", {}, METADATA)
        async with store.watch(GOVERNOR, "s") as states:
            await anext(states)
            _move_away(tmp_path)
            with anyio.fail_after(HANG_SECONDS), pytest.raises(StoreUnavailable):
                await anext(states)
        with pytest.raises(StoreUnavailable):
            await store.get_state(GOVERNOR, "s")
        (tmp_path / "moved.db").rename(tmp_path / "store.db")
        with pytest.raises(StoreUnavailable) as caught:
            await store.save_state(GOVERNOR, "t", {}, METADATA)
        assert not caught.value.is_transient
    async with open_store(f"sqlite:///{tmp_path}/store.db") as store:
        assert [state.state_id for state in await collected(store.list_states(GOVERNOR))] == ["s"]


async def test_a_link_leads_to_another_file(tmp_path: Path):
    """A path that is a link counts as it is now: where it leads elsewhere, the file is no longer at the path."""
    link = tmp_path / "link.db"
    link.symlink_to("store.db")
    async with open_store(f"sqlite:///{link}") as store:
        await store.save_state(GOVERNOR, "before", {}, METADATA)
        link.unlink()
        link.symlink_to("other.db")
        with pytest.raises(StoreUnavailable):
            await store.save_state(GOVERNOR, "after", {}, METADATA)


async def test_closing_leaves_anothers_log_alone(tmp_path: Path):
    """A store whose log was taken away does not remove the log that somebody else has put there, when it closes."""
    log = tmp_path / "store.db-wal"
    async with open_store(f"sqlite:///{tmp_path}/store.db") as store:
        await store.save_state(GOVERNOR, "s", {}, METADATA)
        log.rename(tmp_path / "away")
        log.touch()
    assert log.exists()


def test_a_lost_file_is_not_made_again(file: Path) -> None:
    """A connection that is opened anew, as after an error of the disk, makes no empty file in place of a lost one."""
    opened = OpenFile(str(file), partial(connect, str(file), create=True, busy_timeout_ms=0))
    with closing(opened.connect()):
        file.unlink()
        with pytest.raises(StoreUnavailable):
            opened.connect()
    assert not file.exists()


async def test_a_log_that_others_fold_in_is_not_missed(tmp_path: Path):
    """A store that opens while another one closes goes on: files that come and go by the rules are not taken away."""
    url = f"sqlite:///{tmp_path}/store.db"
    for n in range(3):
        async with open_store(url) as store:
            async with open_store(url) as other:
                await other.save_state(GOVERNOR, f"other-{n}", {}, METADATA)
            await store.save_state(GOVERNOR, f"own-{n}", {}, METADATA)
    async with open_store(url) as store:
        assert await store.count_states(GOVERNOR) == 6


@pytest.fixture
async def crashed(tmp_path: Path) -> Path:
    """The file of a store whose process ended without closing it: the newest change is only in the log."""
    folder = tmp_path / "crashed"
    folder.mkdir()
    async with open_store(f"sqlite:///{tmp_path}/store.db") as store:
        await store.save_state(GOVERNOR, "s", {}, METADATA)
        for name in names_in(tmp_path):
            if name.startswith("store.db"):
                shutil.copy(tmp_path / name, folder)
    return folder / "store.db"


def _lose(file: Path) -> None:
    file.unlink()


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _leave_a_link(file: Path) -> None:
    file.symlink_to(file.rename(file.with_name("there.db")))
    file.with_name("store.db-wal").rename(file.with_name("there.db-wal"))
    file.with_name("there.db").unlink()


@pytest.mark.parametrize("lose", [_lose, _empty, _leave_a_link])
@pytest.mark.parametrize("create", [True, False])
async def test_a_log_without_its_file_is_left_alone(crashed: Path, lose: Callable[[Path], None], *, create: bool):
    """Where the file is lost but its log is not, opening says so and makes nothing: the log has the newest changes."""
    away = crashed.with_name("away")
    shutil.copy(crashed, away)
    lose(crashed)
    before = {name: bytes_of(crashed.with_name(name)) for name in names_in(crashed.parent) if name.endswith("-wal")}
    with pytest.raises(StoreUnusable) as caught:
        async with open_store(f"sqlite:///{crashed}", create=create):
            pass
    assert caught.value.code == "FILE_LOST"
    [log] = before
    assert str(crashed.with_name(log).resolve()) in caught.value.what
    assert {name: bytes_of(crashed.with_name(name)) for name in before} == before
    shutil.copy(away, crashed.with_name(log.removesuffix("-wal")))
    async with open_store(f"sqlite:///{crashed}", create=False) as store:
        assert await store.exists(GOVERNOR, "s")


async def test_an_empty_log_does_not_stop_a_new_store(tmp_path: Path):
    """A log without a byte holds nothing: a store can be made beside it."""
    (tmp_path / "store.db-wal").touch()
    async with open_store(f"sqlite:///{tmp_path}/store.db") as store:
        await store.save_state(GOVERNOR, "s", {}, METADATA)
