"""The file is removed, moved or replaced while a store has it open: nothing more is acknowledged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tai_state import StoreUnavailable, open_store

from ...support.stores import GOVERNOR, METADATA

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


@pytest.mark.xfail(
    strict=True, reason="the open files are written, whatever stands at their path by now", raises=pytest.fail.Exception
)
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
