"""The commands that change: recover, export and restore, snapshot, cleanup."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import apsw
import pytest

from tai_state import NewEvent, StateMachinePersister, StateStore
from tai_state.testing import ManualClock
from tai_state.values.times import to_us

from ..support.filled import METADATA, REDUCERS_MODULE, START, fits, on_store, with_removed_state
from ..support.program import Inside, Program


def test_recover(program: Program) -> None:
    """``recover --json`` is the report: what was lost is rebuilt, and a second run finds all sound."""
    with_removed_state(program, "alice")
    report = program("recover", "bank", "--json").json()
    fits(
        report,
        checked=2,
        sound=1,
        rebuilt=["governors/bank/states/alice"],
        unchecked=[],
        failed=[],
        rebuilt_count=1,
        unchecked_count=0,
        failed_count=0,
        new_store_id=None,
        resume=None,
        consistent=True,
    )
    assert program("recover", "bank").out == "2 states checked, 2 sound, 0 rebuilt, 0 unchecked, 0 failed\n"
    assert program("show", "bank", "alice", "--json").json()["data"] == {"balance": 40, "tags": []}


def test_recover_ends_with_4_where_it_could_not(program: Program) -> None:
    """``recover`` names the states that it could not check."""
    ended = program("recover", "--json")
    assert (ended.code, ended.err) == (4, "")
    report = json.loads(ended.out)
    assert (report["unchecked"], report["unchecked_count"]) == (["governors/sums/states/s"], 1)
    assert program("recover", "sums").out.endswith("1 state checked, 0 sound, 0 rebuilt, 1 unchecked, 0 failed\n")


def test_export_and_restore(program: Program) -> None:
    """An export restored elsewhere is the same history; both give the same counts."""
    counts = {"governor": "bank", "states": 2, "events": 7, "snapshots": 0, "markers": 0}
    fits(program("export", "bank", "bank.jsonl", "--json").json(), **counts)
    fits(program("restore", "bank.jsonl", "--store", "sqlite:///copy.db", "--json").json(), **counts)
    original = program("history", "bank", "alice", "--json").json()
    copy = program("history", "bank", "alice", "--store", "sqlite:///copy.db", "--json").json()
    assert [event["digest"] for event in copy] == [event["digest"] for event in original]
    assert program("verify", "--store", "sqlite:///copy.db").code == 0


def test_restore_into_what_exists(program: Program) -> None:
    """Restoring a governor that is there changes nothing, ends with 3, and says in plain words why."""
    program("export", "bank", "bank.jsonl")
    refused = program("restore", "bank.jsonl", "--json").error(3)
    assert refused["type"] == "GovernorExists"
    assert "already exists" in refused["message"]
    assert program("verify", "bank").code == 0


def test_a_damaged_governor_is_not_exported(program: Program) -> None:
    """An export that could not be restored ends with 4 and names the document; the last one stays as it was."""
    program("export", "bank", "bank.jsonl")
    before = (program.folder / "bank.jsonl").read_bytes()
    connection = apsw.Connection(str(program.folder / "tai-state.db"))
    connection.execute("DELETE FROM documents WHERE collection GLOB '*/events' AND id = 'alice~000000000002'")
    connection.close()
    error = program("export", "bank", "bank.jsonl", "--yes", "--json").error(4)
    assert (error["type"], error["path"]) == ("EventSourcingError", "governors/bank/events/alice~000000000002")
    assert (program.folder / "bank.jsonl").read_bytes() == before
    assert not list(program.folder.glob("*.partial"))


def test_a_damaged_export_leaves_no_trace(program: Program) -> None:
    """An export that was cut off or edited is refused before a store is made for it."""
    program("export", "bank", "bank.jsonl")
    lines = (program.folder / "bank.jsonl").read_text().splitlines(keepends=True)
    for damaged in ("".join(lines[:-1]), "".join(lines).replace('"step 2"', '"step 9"'), "".join(lines)[:-20]):
        (program.folder / "bank.jsonl").write_text(damaged)
        error = program("restore", "bank.jsonl", "--store", "sqlite:///new.db", "--json").error(4)
        assert error["type"] == "CorruptDocument"
        assert error["path"] == "bank.jsonl"
    assert not (program.folder / "new.db").exists()


def test_export_replaces_a_file_only_when_told_to(program: Program) -> None:
    """A file that exists is replaced after a yes or with ``--yes``, and never half."""
    target = program.folder / "notes.txt"
    target.write_text("precious")
    ended = program("export", "bank", "notes.txt")
    assert (ended.code, ended.out) == (2, "")
    assert "pass --yes" in ended.err
    assert program("export", "nobody", "notes.txt", "--yes").code == 1
    assert target.read_text() == "precious"
    assert program("export", "bank", "notes.txt", "--yes").code == 0
    assert target.read_text().startswith('{"tai_state_export"')
    assert not list(program.folder.glob("*.partial"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "bank", "nowhere/x"],
        ["export", "bank", "."],
        ["export", "bank", "-"],
        ["restore", "."],
        ["restore", "x"],
        ["restore", "shop.py"],
    ],
)
def test_files_that_cannot_be_used(inside: Inside, arguments: list[str]) -> None:
    """A file that cannot be read or written, or is no export, is a bad input, named in the message."""
    error = inside(*arguments, "--json").error(2)
    assert arguments[-1] in error["message"]


def test_snapshot(program: Program) -> None:
    """``snapshot --json`` tells the version kept and all that are kept; the state's version does not move."""
    fits(program("snapshot", "bank", "alice", "--json").json(), version=5, kept=[5])
    assert program("stats", "--json").json()["snapshots"] == 1
    assert program("show", "bank", "alice", "--json").json()["version"] == 5


def test_stats_with_sizes(program: Program) -> None:
    """``stats --size`` adds the number of documents and their sizes to the counts, in JSON and in the table."""
    counts, sizes = program("stats", "--json").json(), program("stats", "--size", "--json").json()
    assert {name: sizes[name] for name in counts} == counts
    assert sizes.keys() - counts.keys() == {
        *("documents", "damaged", "total_bytes"),
        *("state_bytes", "event_bytes", "snapshot_bytes", "marker_bytes", "other_bytes"),
    }
    assert sizes["total_bytes"] > sizes["event_bytes"] > 0
    assert str(sizes["total_bytes"]) in program("stats", "--size").out


def test_cleanup_needs_a_yes(program: Program) -> None:
    """``cleanup`` destroys, so it asks, or needs ``--yes`` where nobody can be asked; not about what is not there."""
    assert program("cleanup", "nobody", "--json").error(1)["type"] == "GovernorNotFound"
    refused = program("cleanup", "bank", "--json").error(2)
    assert "pass --yes" in refused["message"]
    declined = program.on_terminal("cleanup", "bank", answer="n\n")
    assert declined.code == 130
    assert "nothing was changed" in declined.out
    agreed = program.on_terminal("cleanup", "bank", answer="y\n")
    assert agreed.code == 0
    assert "older than 30 days? [y/N]" in agreed.out
    fits(
        program("cleanup", "bank", "--yes", "--json").json(),
        states=0,
        events_deleted=0,
        snapshots_deleted=0,
        bytes_deleted=0,
        skipped=0,
        failed=[],
    )


def test_cleanup_removes_what_is_old(tmp_path: Path) -> None:
    """``cleanup`` removes old events that a kept snapshot stands for; history and its limit go on from there."""
    program = Program(tmp_path)

    async def fill(store: StateStore) -> None:
        for version in range(8):
            await store.update_state("g", "s", {"n": version}, METADATA, expected=version, timestamp=START)

    on_store(f"sqlite:///{tmp_path}/tai-state.db", fill, ManualClock(to_us(START)))
    fits(
        program("cleanup", "g", "--yes", "--json").json(),
        states=1,
        events_deleted=5,
        snapshots_deleted=2,
        bytes_deleted=...,
        skipped=0,
        failed=[],
    )
    events = program("history", "g", "s", "--limit", "2", "--json").json()
    assert [event["version"] for event in events] == [6, 7]
    assert program("show", "g", "s", "--version", "2", "--json").error(4)["type"] == "NotRetained"


def test_cleanup_folds_with_the_reducers_of_an_application(tmp_path: Path) -> None:
    """Where ``cleanup`` has to make the snapshot that it needs, it says that it lacks a reducer, or takes ``--app``."""
    program = Program(tmp_path)
    (tmp_path / "shop.py").write_text(REDUCERS_MODULE)

    def add(state: Any, event: Any) -> Any:
        return {"total": (state or {"total": 0})["total"] + event.payload}

    async def fill_long_ago(store: StateStore) -> None:
        old = [NewEvent("add", 1)] * 150
        await StateMachinePersister(store, {"add": add}).record("g", "s", old, METADATA, expected=0)

    async def fill(store: StateStore) -> None:
        for version in range(150, 170):
            event = NewEvent("add", 1)
            await StateMachinePersister(store, {"add": add}).record("g", "s", [event], METADATA, expected=version)

    on_store(f"sqlite:///{tmp_path}/tai-state.db", fill_long_ago, ManualClock(to_us(START)))
    on_store(f"sqlite:///{tmp_path}/tai-state.db", fill)
    assert program("cleanup", "g", "--yes", "--json").json()["events_deleted"] == 0
    stats = program("cleanup", "g", "--yes", "--app", "shop:GOOD", "--json")
    assert json.loads(stats.out)["events_deleted"] == 149
    assert json.loads(program("verify", "g", "--app", "shop:GOOD", "--json").out)["consistent"]


@pytest.mark.parametrize("days", ["inf", "nan", "1e300", "1e9", "-1"])
def test_cleanup_takes_a_number_of_days(program: Program, days: str) -> None:
    """What is no length of time is a mistake in the call, before anybody is asked."""
    refused = program("cleanup", "bank", "--keep-days", days, "--json").error(2)
    assert "--keep-days" in refused["message"]


def test_cleanup_keeps_for_ever(program: Program) -> None:
    """More days than the calendar has keep everything."""
    stats = program("cleanup", "bank", "--keep-days", "800000", "--yes", "--json").json()
    assert (stats["states"], stats["events_deleted"]) == (0, 0)
