"""The doctor of an SQLite file: it names what stands in the way, with what to do, and does not call that healthy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import apsw
import pytest

from tai_state import ChangeMetadata, open_store
from tai_state.cli import doctor
from tai_state.engines.sqlite import engine

from ..support.program import Inside

PAGE = 4096


async def _fill(url: str) -> None:
    async with open_store(url, metadata=ChangeMetadata("tester", "a test")) as store:
        for n in range(30):
            await store.save_state("g", f"s{n}", {"x": "y" * 500})


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of some pages."""
    file = tmp_path_factory.mktemp("filled") / "tai-state.db"
    anyio.run(_fill, f"sqlite:///{file}")
    return file


@pytest.fixture
def inside(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Inside:
    """The program in this process, in a folder with a copy of the store; a lock is waited for but a moment."""
    shutil.copy(filled, tmp_path)
    monkeypatch.setattr(engine, "_BUSY_TIMEOUT_MS", 1)
    return Inside(tmp_path, monkeypatch, capsys)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """A process that has begun to write, and stands still."""
    with closing(apsw.Connection(str(folder / "tai-state.db"))) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


def failed(inside: Inside, code: int) -> dict[str, Any]:
    """The checks that fail, by name; the doctor ends with this code, for people too."""
    ended = inside("doctor", "--json")
    report = json.loads(ended.out)
    assert (ended.code, report["healthy"]) == (code, code == 0)
    said = inside("doctor")
    assert (said.code, "all checks passed" in said.out) == (code, code == 0)
    return {each["check"]: each["message"] for each in report["checks"] if each["status"] == "failed"}


def test_a_file_that_is_kept_locked(inside: Inside) -> None:
    """It says how to find the process, leaves the file as it is, and passes once the lock is free."""
    before = (inside.folder / "tai-state.db").read_bytes()
    with locked(inside.folder):
        found = failed(inside, 5)
    assert (list(found), "`lsof`" in found["lock"]) == (["lock"], True)
    assert failed(inside, 0) == {}
    assert (inside.folder / "tai-state.db").read_bytes() == before


def test_garbage_in_a_file(inside: Inside) -> None:
    """Wherever it is behind the header, whether or not the store still opens."""
    file = inside.folder / "tai-state.db"
    sound = file.read_bytes()
    for begin in range(PAGE, len(sound), 4 * PAGE):
        file.write_bytes(sound[:begin] + b"\xa5" * PAGE + sound[begin + PAGE :])
        found = failed(inside, 4)
        assert (list(found), "restore a backup" in found["file"]) == (["file"], True), begin


def test_much_damage_is_not_all_named(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few findings are named; of the others it says how many they are, and what names them."""
    monkeypatch.setattr(doctor, "_DAMAGE_MAX", 2)
    with closing(apsw.Connection(str(inside.folder / "tai-state.db"))) as connection:
        connection.execute("UPDATE documents SET timestamp = 'x' WHERE timestamp IS NOT NULL AND id < 's14'")
        hidden = connection.changes()
    messages = [each["message"] for each in json.loads(inside("doctor", "--json").out)["checks"]]
    assert sum("queries by time miss it" in each for each in messages) == 2
    assert f"{hidden - 2} findings more: `tai-state verify` names them" in messages


def test_a_warning_is_not_passed_over(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is worth a look is pointed at."""
    monkeypatch.setattr(doctor, "room", lambda _: (0, 1))
    ended = inside("doctor")
    assert (ended.code, ended.out.splitlines()[-1]) == (0, "no check failed, but see the warnings above")
