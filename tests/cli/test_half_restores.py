"""A restore that was killed: every look at the store names it, and a choice on the command line leads out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import anyio
import apsw
import pytest

from tai_state import ANY, ChangeMetadata, StateMachinePersister, open_store
from tai_state.engines.api import Put

from ..support.program import Inside

WHO = ChangeMetadata("tester", "a test")
NOTE = "meta/store/restores/half"
LEFT = "governors/half/states/b"


async def _fill(folder: Path) -> None:
    async with open_store(f"sqlite:///{folder}/other.db", metadata=WHO) as other:
        for state in "ab":
            for n in range(3):
                await other.save_state("half", state, {"n": n}, expected=ANY)
        await StateMachinePersister(other).export_history("half", folder / "half.jsonl")
    async with open_store(f"sqlite:///{folder}/tai-state.db", metadata=WHO) as store:
        await store.save_state("whole", "s", {"n": 0})
        await StateMachinePersister(store).import_history(folder / "half.jsonl")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store in which a restore was killed before the last state, and the file of the restore."""
    folder = tmp_path_factory.mktemp("filled")
    anyio.run(_fill, folder)
    connection = apsw.Connection(str(folder / "tai-state.db"))
    connection.execute("DELETE FROM documents WHERE collection LIKE 'governors/half/%' AND id LIKE 'b%'")
    assert connection.changes() == 4
    connection.close()

    async def unfinish() -> None:
        async with open_store(f"sqlite:///{folder}/tai-state.db") as store:
            engine = store.core.engine
            [note] = (await engine.read([NOTE])).documents
            assert note is not None
            fields = note.fields()
            del fields["finished"]
            await engine.commit([Put(NOTE, fields)])

    anyio.run(unfinish)
    return folder


@pytest.fixture
def inside(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Inside:
    """The program in this process, in a copy of the folder."""
    for path in filled.iterdir():
        shutil.copy(path, tmp_path)
    return Inside(tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize("command", [["ls"], ["ls", "half"], ["stats"]], ids=" ".join)
def test_lists_name_it(inside: Inside, command: list[str]) -> None:
    """What there is is listed, and the restore is named with what to do."""
    ended = inside(*command, "--json")
    error = json.loads(ended.err)["error"]
    assert (ended.code, error["path"], "`tai-state restore`" in error["message"]) == (4, NOTE, True)
    assert json.loads(ended.out)


def test_a_list_of_another_governor_does_not_name_it(inside: Inside) -> None:
    """Of a governor that is whole there is nothing to say."""
    assert inside("ls", "whole", "--json").json()


def test_the_doctor_names_it(inside: Inside) -> None:
    """As a failure, with what to do, and the exit code of the other commands."""
    ended = inside("doctor", "--json")
    [failed] = [each for each in json.loads(ended.out)["checks"] if each["status"] != "ok"]
    assert (ended.code, failed["check"], failed["status"], NOTE in failed["message"]) == (4, "restore", "failed", True)
    assert "`tai-state restore`" in failed["message"]
    assert "all checks passed" not in inside("doctor").out


def test_verify_counts_what_it_checked(inside: Inside) -> None:
    """The states that are whole are checked."""
    ended = inside("verify", "half")
    assert (ended.code, ended.out.splitlines()[-1]) == (4, "1 state, 3 events: 1 finding")


def test_what_was_moved_is_shown_alike(inside: Inside) -> None:
    """An export and a restore print the same rows; where nothing was kept, there is none about it."""
    rows = inside("export", "whole", "whole.jsonl").out.splitlines()
    assert [row.split()[0] for row in rows] == ["what", "governor", "states", "events", "snapshots", "markers"]
    assert inside("restore", "whole.jsonl", "--store", "sqlite:///new.db").out.splitlines() == rows


def test_a_retirement_names_it(inside: Inside) -> None:
    """States that are still to be restored may name the store, so the retirement is not complete."""
    ended = inside("retire", "gone", "--yes", "--json")
    report = json.loads(ended.out)
    assert (ended.code, [path for path, _ in report["failed"]], report["complete"]) == (4, [NOTE], False)
    assert inside("retire", "gone", "--governor", "whole", "--dry-run").code == 0


def test_another_file_leads_out(inside: Inside) -> None:
    """The file is lost: the error for another one says so, and the choice that it names is the way out."""
    other = ["--store", "sqlite:///other.db"]
    assert inside("export", "half", "newer.jsonl", *other).code == 0
    (inside.folder / "half.jsonl").unlink()
    error = inside("restore", "newer.jsonl", "--json").error(3)
    assert (error["path"], error["is_unfinished"], "--keep-changed" in error["message"]) == (NOTE, True, True)
    assert "--keep-changed" in inside("verify").out
    assert inside("restore", "newer.jsonl", "--keep-changed").code == 0
    assert inside("verify", "--json").json()["consistent"]
    assert inside("show", "half", "b", "--json").json()["version"] == 3


def test_a_choice_leads_out(inside: Inside) -> None:
    """A service made the missing state anew: restore names it, and with --keep-changed all is done."""

    async def make() -> None:
        async with open_store(f"sqlite:///{inside.folder}/tai-state.db", metadata=WHO) as store:
            await store.save_state("half", "b", {"n": "new"})

    anyio.run(make)
    error = inside("restore", "half.jsonl", "--json").error(3)
    assert (error["type"], error["changed"], "--keep-changed" in error["message"]) == ("GovernorExists", [LEFT], True)
    assert inside("restore", "half.jsonl", "--keep-changed", "--json").json()["kept"] == [LEFT]
    assert inside("verify", "--json").json()["consistent"]
    assert inside("stats").code == 0
    shown = inside("show", "half", "b", "--json").json()
    assert (shown["version"], shown["data"]) == (1, {"n": "new"})
