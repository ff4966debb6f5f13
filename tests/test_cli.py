"""The command line, run as users run it: what each command prints, what it ends with, what it leaves alone."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import apsw
import pytest
import typer.main

from tai_state import ChangeMetadata, EveryEvents, NewEvent, StateMachinePersister, StateStore, open_store
from tai_state.cli import inspecting
from tai_state.cli.program import app
from tai_state.testing import ManualClock
from tai_state.values.times import Clock, to_us

from .support.program import SCRIPT, Ended, Inside, Program, interrupt

METADATA = ChangeMetadata("ana", "a test", {"ticket": 7})
START = datetime(2026, 3, 1, 6, tzinfo=UTC)
HOSTILE = "\x1b[31mred\x9b2J\x07\u202eevil\r\n\x7f"
REDUCERS_MODULE = """
print("this module prints when it is imported")

def _add(state, event):
    return {"total": (state or {"total": 0})["total"] + event.payload}

def _fail(state, event):
    raise ZeroDivisionError("inside a reducer")

GOOD = {"add": _add}
BAD = {"add": _fail}
NONE = {"add": 5}
"""


async def _fill(url: str) -> None:
    """A little of everything: a state of five versions, a deleted one, one with a difficult id, one to be folded."""
    async with open_store(url) as store:
        for version in range(5):
            await store.update_state(
                "bank",
                "alice",
                {"balance": 10 * version, "tags": ["new"] if version < 3 else []},
                METADATA,
                expected=version,
                action=f"step {version}",
                timestamp=START + timedelta(hours=version),
            )
        await store.save_state("bank", "bob", {"balance": 1}, METADATA)
        await store.delete_state("bank", "bob", METADATA, expected=1)
        await store.save_state("a/b", "../Zoë", {"x": 1.5, "long": "word " * 40 + "e" * 90 + "nd"}, METADATA)
        await store.save_state("hostile", HOSTILE, {HOSTILE: HOSTILE}, METADATA, action=HOSTILE)
        persister = StateMachinePersister(
            store, {"add": lambda state, event: {"total": (state or {"total": 0})["total"] + event.payload}}
        )
        await persister.record("sums", "s", [NewEvent("add", 2), NewEvent("add", 3)], METADATA, expected=0)


def _store(url: str, work: Any, clock: Clock | None = None) -> None:
    """Run asynchronous work on a store."""

    async def run() -> None:
        async with open_store(url, snapshots=EveryEvents(2), clock=clock) as store:
            await work(store)

    anyio.run(run)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a filled store under the default name, and an application's reducers."""
    folder = tmp_path_factory.mktemp("filled")
    anyio.run(_fill, f"sqlite:///{folder}/tai-state.db")
    (folder / "shop.py").write_text(REDUCERS_MODULE)
    return folder


@pytest.fixture
def there(filled: Path) -> Iterator[Program]:
    """The program in the folder of the filled store, which must not change it."""
    before = {path.name: path.read_bytes() for path in filled.glob("*.db*")}
    yield Program(filled)
    assert {path.name: path.read_bytes() for path in filled.glob("*.db*")} == before


@pytest.fixture
def program(filled: Path, tmp_path: Path) -> Program:
    """The program in a folder with a copy of the filled store, to be changed."""
    for path in filled.glob("*.*"):
        shutil.copy(path, tmp_path)
    return Program(tmp_path)


@pytest.fixture
def inside(there: Program, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Inside:
    """The program in this process, in the folder of the filled store, which must not change it."""
    return Inside(there.folder, monkeypatch, capsys)


def fits(found: dict[str, Any], **expected: Any) -> None:
    """The found object has exactly these keys, in this order; ``...`` stands for any value."""
    assert list(found) == list(expected)
    assert {key: found[key] for key, value in expected.items() if value is not ...} == {
        key: value for key, value in expected.items() if value is not ...
    }


def test_every_argument_and_option_is_explained() -> None:
    """The help of each command says what it does, and what each of its arguments and options means."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert set(commands) == {
        *("cleanup", "conflicts", "demo", "diff", "doctor", "emulator", "export", "history", "import", "indexes"),
        *("locks", "ls", "recover", "restore", "show", "snapshot", "stats", "sync", "unlock", "verify"),
    }
    for name, command in commands.items():
        assert command.help, name
        options = {option for parameter in command.params for option in parameter.opts}
        assert "--json" in options
        assert "--store" in options or name in {"demo", "emulator", "sync"}
        for parameter in command.params:
            assert parameter.help, f"{name} {parameter.name}"


def test_help_and_version(there: Program) -> None:
    """The help goes to stdout on demand and to stderr where no command was given, which is a usage error."""
    asked, bare = there("--help"), there()
    assert (asked.code, asked.err) == (0, "")
    assert "Commands:" in asked.out
    assert "..." not in asked.out.partition("Commands:")[2]
    assert there("-h") == asked
    assert (bare.code, bare.out) == (2, "")
    assert bare.err.rstrip() == asked.out.rstrip()
    shown = there("import", "--help")
    assert (shown.code, shown.err) == (0, "")
    assert "--machine" in shown.out
    assert there("--version").out.startswith("tai-state ")
    assert there("ls", "-h").out.startswith("Usage: tai-state ls ")
    assert "options follow the command" in there("--json", "ls").error(2)["message"]


def test_ls_lists_governors(there: Program) -> None:
    """``ls --json`` is an array of governors with the number of their live states."""
    assert there("ls", "--json").json() == [
        {"governor": "a/b", "states": 1},
        {"governor": "bank", "states": 1},
        {"governor": "hostile", "states": 1},
        {"governor": "sums", "states": 1},
    ]
    assert there("ls").out.splitlines()[:2] == ["governor  states", "a/b       1"]


def test_ls_lists_states(there: Program) -> None:
    """``ls GOVERNOR --json`` is an array of live states."""
    [state] = there("ls", "bank", "--json").json()
    fits(state, state_id="alice", version=5, data={"balance": 40, "tags": []}, timestamp="2026-03-01T10:00:00.000000Z")


def test_show(there: Program, inside: Inside) -> None:
    """``show --json`` is one state, now, at a version or at a time, with exactly the agreed keys."""
    now = there("show", "bank", "alice", "--json").json()
    fits(
        now,
        governor="bank",
        state_id="alice",
        version=5,
        data={"balance": 40, "tags": []},
        timestamp="2026-03-01T10:00:00.000000Z",
        recorded_at=...,
        metadata={"changed_by": "ana", "reason": "a test", "context": {"ticket": 7}, "parent_version": 4},
        deleted=False,
    )
    assert datetime.fromisoformat(now["recorded_at"]).tzinfo is not None
    assert now["recorded_at"].endswith("Z")
    at_version = inside("show", "bank", "alice", "--version", "2", "--json").json()
    assert (at_version["version"], at_version["data"]) == (2, {"balance": 10, "tags": ["new"]})
    for time in ("2026-03-01T08:30:00Z", "2026-03-01T14:00:00+05:30", "2026-03-01T08:30"):
        assert inside("show", "bank", "alice", "--at", time, "--json").json()["version"] == 3


def test_show_what_is_deleted(inside: Inside) -> None:
    """A deleted state is not found, and its versions are still there to be shown."""
    error = inside("show", "bank", "bob", "--json").error(1)
    fits(error, path="governors/bank/states/bob", type="StateNotFound", message=...)
    assert error["message"] == "there is no state at 'governors/bank/states/bob': it was deleted at version 2"
    shown = inside("show", "bank", "bob", "--version", "2", "--json").json()
    assert (shown["deleted"], shown["data"]) == (True, None)


@pytest.mark.parametrize(
    ("arguments", "instead"),
    [
        (["show", "--version", "300"], " at version 300: its newest version is 5"),
        (["diff", "1", "99"], " at version 99: its newest version is 5"),
        (
            ["show", "--at", "2000-01-01T00:00:00Z"],
            " at 2000-01-01T00:00:00.000000Z: it begins at 2026-03-01T06:00:00.000000Z",
        ),
    ],
)
def test_a_version_or_time_out_of_range(inside: Inside, arguments: list[str], instead: str) -> None:
    """It says what there is instead."""
    command, *rest = arguments
    ended = inside(command, "bank", "alice", *rest)
    assert (ended.code, ended.err) == (1, f"tai-state: there is no state at 'governors/bank/states/alice'{instead}\n")


def test_ids_are_taken_as_they_are(there: Program) -> None:
    """Slashes, dots and letters beyond ASCII are part of an id; what is no text at all is refused."""
    assert there("show", "a/b", "../Zoë", "--json").json()["state_id"] == "../Zoë"
    assert there("show", "a/b", b"\xff", "--json").error(2)["type"] == "InvalidId"
    assert there("show", "a/b", "", "--json").error(2)["type"] == "InvalidId"


def test_history(there: Program) -> None:
    """``history --json`` is an array of events with the states around them, bounded by ``--after`` and ``--limit``."""
    events = there("history", "bank", "alice", "--after", "1", "--limit", "2", "--json").json()
    assert [event["version"] for event in events] == [2, 3]
    fits(
        events[0],
        governor_id="bank",
        state_id="alice",
        version=2,
        id=...,
        action="step 1",
        payload=None,
        from_state={"balance": 0, "tags": ["new"]},
        to_state={"balance": 10, "tags": ["new"]},
        timestamp="2026-03-01T07:00:00.000000Z",
        recorded_at=...,
        metadata={"changed_by": "ana", "reason": "a test", "context": {"ticket": 7}, "parent_version": 1},
        causality=...,
        digest=...,
    )
    shown = there("history", "bank", "alice")
    assert shown.out.splitlines()[1:3] == [
        '1        2026-03-01T06:00:00.000000Z  step 0  ana  balance=0, tags=["new"]',
        "2        2026-03-01T07:00:00.000000Z  step 1  ana  balance=10",
    ]


def test_history_of_nothing(inside: Inside) -> None:
    """No events are an empty array; no state is an error."""
    assert inside("history", "bank", "alice", "--after", "5", "--json").json() == []
    assert inside("history", "bank", "carol", "--json").error(1)["type"] == "StateNotFound"


def test_diff(there: Program) -> None:
    """``diff --json`` is a patch of RFC 6902 from the one version to the other, empty where nothing differs."""
    assert there("diff", "bank", "alice", "3", "4", "--json").json() == [
        {"op": "replace", "path": "/balance", "value": 30},
        {"op": "remove", "path": "/tags/0"},
    ]
    assert there("diff", "bank", "alice", "4", "4", "--json").json() == []


def test_stats(there: Program) -> None:
    """``stats --json`` counts governors, states and versions."""
    fits(there("stats", "--json").json(), governors=4, states=4, deleted=1, versions=11, max_version=5, snapshots=0)


def test_verify(there: Program) -> None:
    """``verify`` ends with 0 where all is consistent, and with 4 where something needs a reducer."""
    sound = there("verify", "bank", "--json").json()
    fits(sound, consistent=True, states=2, events=7, unchecked=0, findings=[])
    unchecked = there("verify", "--json")
    assert (unchecked.code, unchecked.err) == (4, "")
    fits(json.loads(unchecked.out), consistent=False, states=5, events=11, unchecked=1, findings=[])
    assert there("verify").out == "5 states, 11 events: 0 findings, 1 state unchecked (give the reducers with --app)\n"


def test_reducers_of_an_application(there: Program) -> None:
    """``verify``, ``show`` and ``recover`` fold with the reducers of ``--app``, whose prints stay out of the JSON."""
    checked = there("verify", "--app", "shop:GOOD", "--json")
    assert (checked.code, checked.err) == (0, "this module prints when it is imported\n")
    assert json.loads(checked.out)["consistent"]
    shown = there("show", "sums", "s", "--version", "1", "--app", "shop:GOOD", "--json")
    assert json.loads(shown.out)["data"] == {"total": 2}
    without = there("show", "sums", "s", "--version", "1", "--json").error(4)
    assert without["type"] == "ReducerMissing"
    assert json.loads(there("recover", "sums", "--app", "shop:GOOD", "--json").out)["sound"] == 1


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("shop", "takes MODULE:ATTRIBUTE"),
        ("nowhere:GOOD", "ModuleNotFoundError"),
        ("shop:MISSING", "AttributeError"),
        ("shop:NONE", "no mapping"),
        ("broken:GOOD", "ZeroDivisionError"),
        ("leaving:GOOD", "SystemExit"),
    ],
)
def test_reducers_that_cannot_be_loaded(program: Program, name: str, what: str) -> None:
    """A module of ``--app`` that is not there, or fails, or holds something else, is a usage error in one line."""
    (program.folder / "broken.py").write_text("1 / 0\n")
    (program.folder / "leaving.py").write_text("raise SystemExit(0)\n")
    ended = program("verify", "--app", name)
    assert (ended.code, ended.out) == (2, "")
    assert what in ended.err.splitlines()[-1]
    assert "Traceback" not in ended.err


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
        resume=None,
        consistent=True,
    )
    assert program("recover", "bank").out == "2 states checked, 2 sound, 0 rebuilt\n"
    assert program("show", "bank", "alice", "--json").json()["data"] == {"balance": 40, "tags": []}


def test_recover_ends_with_4_where_it_could_not(program: Program) -> None:
    """``recover`` names the states that it could not check."""
    ended = program("recover", "--json")
    assert (ended.code, ended.err) == (4, "")
    assert json.loads(ended.out)["unchecked"] == ["governors/sums/states/s"]


def with_removed_state(program: Program, state_id: str) -> None:
    """Remove a state's document behind the store's back."""
    connection = apsw.Connection(str(program.folder / "tai-state.db"))
    connection.execute("DELETE FROM documents WHERE collection GLOB '*/states' AND id = ?", (state_id,))
    assert connection.changes() == 1
    connection.close()


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
    assert "exists already" in refused["message"]
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
    assert "add --yes" in ended.err
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


def test_cleanup_needs_a_yes(program: Program) -> None:
    """``cleanup`` destroys, so it asks, or needs ``--yes`` where nobody can be asked; not about what is not there."""
    assert program("cleanup", "nobody", "--json").error(1)["type"] == "GovernorNotFound"
    refused = program("cleanup", "bank", "--json").error(2)
    assert "add --yes" in refused["message"]
    declined = program.on_terminal("cleanup", "bank", answer="n\n")
    assert declined.code == 130
    assert "nothing was done" in declined.out
    agreed = program.on_terminal("cleanup", "bank", answer="y\n")
    assert agreed.code == 0
    assert "for good? [y/N]" in agreed.out
    fits(
        program("cleanup", "bank", "--yes", "--json").json(),
        states=0,
        events_deleted=0,
        snapshots_deleted=0,
        bytes_deleted=0,
        skipped=0,
    )


def test_cleanup_removes_what_is_old(tmp_path: Path) -> None:
    """``cleanup`` removes old events that a kept snapshot stands for; history and its limit go on from there."""
    program = Program(tmp_path)

    async def fill(store: StateStore) -> None:
        for version in range(8):
            await store.update_state("g", "s", {"n": version}, METADATA, expected=version, timestamp=START)

    _store(f"sqlite:///{tmp_path}/tai-state.db", fill, ManualClock(to_us(START)))
    fits(
        program("cleanup", "g", "--yes", "--json").json(),
        states=1,
        events_deleted=5,
        snapshots_deleted=2,
        bytes_deleted=...,
        skipped=0,
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

    _store(f"sqlite:///{tmp_path}/tai-state.db", fill_long_ago, ManualClock(to_us(START)))
    _store(f"sqlite:///{tmp_path}/tai-state.db", fill)
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


def test_demo_leaves_nothing_behind(tmp_path: Path) -> None:
    """``demo --json`` has exactly the agreed keys, loses nothing, and leaves no file."""
    program = Program(tmp_path, TMPDIR=str(tmp_path))
    shown = program("demo", "--json").json()
    fits(shown, acknowledged=..., recovered=shown["acknowledged"], machines=8, consistent=True, seconds=...)
    assert shown["acknowledged"] >= 1_000
    assert shown["seconds"] > 0
    assert not list(tmp_path.iterdir())


def test_a_terminated_demo_leaves_nothing_behind(tmp_path: Path) -> None:
    """SIGTERM ends it as Ctrl-C does, its writer too, and its folder is removed."""
    process = Program(tmp_path, TMPDIR=str(tmp_path)).start("demo")
    while not list(tmp_path.iterdir()):
        assert process.poll() is None
    process.terminate()
    _, err = process.communicate()
    assert process.returncode == 130
    assert err.endswith(b"tai-state: interrupted; it can be run again\n")
    assert b"Traceback" not in err
    assert not list(tmp_path.iterdir())


READERS = [
    ["ls"],
    ["ls", "g"],
    ["show", "g", "s"],
    ["show", "g", "s", "--version", "1"],
    ["history", "g", "s"],
    ["diff", "g", "s", "1", "2"],
    ["stats"],
    ["verify"],
    ["recover"],
    ["snapshot", "g", "s"],
    ["cleanup", "g", "--yes"],
    ["export", "g", "x.jsonl"],
]


def test_no_command_but_import_and_restore_makes_a_store(tmp_path: Path) -> None:
    """A mistyped address ends with 1, says so, and leaves no file behind."""
    program = Program(tmp_path)
    running = [(command, program.start(*command, "--store", "sqlite:///no.db", "--json")) for command in READERS]
    for command, process in running:
        out, err = process.communicate()
        error = Ended(process.returncode, out.decode(), err.decode()).error(1)
        assert error["type"] == "StoreNotFound", command
        assert "no.db" in error["message"]
    assert not list(tmp_path.iterdir())


def test_where_the_store_is(program: Program) -> None:
    """``--store`` comes before ``TAI_STATE_STORE``, which comes before ``tai-state.db`` in the working directory."""
    elsewhere = Program(program.folder, TAI_STATE_STORE="sqlite:///elsewhere.db")
    assert elsewhere("ls", "--json").error(1)["path"] == str(program.folder / "elsewhere.db")
    assert len(elsewhere("ls", "--store", "sqlite:///tai-state.db", "--json").json()) == 4
    assert len(program("ls", "--json").json()) == 4


@pytest.mark.parametrize(
    ("code", "kind", "arguments"),
    [
        (1, "GovernorNotFound", ["ls", "nobody"]),
        (1, "GovernorNotFound", ["verify", "nobody"]),
        (1, "StateNotFound", ["show", "bank", "alice", "--version", "6"]),
        (2, "UsageError", ["frobnicate"]),
        (2, "UsageError", ["show", "bank"]),
        (2, "UsageError", ["show", "bank", "alice", "--version", "0"]),
        (2, "UsageError", ["show", "bank", "alice", "--version", "1", "--at", "2026-01-01"]),
        (2, "UsageError", ["ls", "--frob"]),
        (2, "InvalidData", ["show", "bank", "alice", "--at", "yesterday"]),
        (2, "UnknownStore", ["ls", "--store", "mysql://x"]),
        (4, "IncompatibleFormat", ["ls", "--store", "sqlite:///shop.py"]),
        (5, "StoreUnavailable", ["ls", "--store", "sqlite:///."]),
    ],
)
def test_exit_codes(inside: Inside, code: int, kind: str, arguments: list[str]) -> None:
    """Each kind of failure has its code, and with ``--json`` one JSON error on stderr and nothing on stdout."""
    assert inside(*arguments, "--json").error(code)["type"] == kind


def test_errors_for_people(there: Program) -> None:
    """Without ``--json`` an error is one line on stderr; a usage error leads to the help."""
    missing = there("show", "bank", "carol")
    assert missing == Ended(1, "", "tai-state: there is no state at 'governors/bank/states/carol'\n")
    assert there("show", "bank") == Ended(2, "", "tai-state: Missing argument 'STATE' (see tai-state show --help)\n")


def test_the_unexpected_ends_with_70(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no command foresees is said in one line and ends with 70."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError("in the middle")

    monkeypatch.setattr(inspecting, "print_json", fail)
    error = inside("ls", "--json").error(70)
    assert (error["type"], error["message"]) == (
        "ZeroDivisionError",
        "an unexpected ZeroDivisionError: in the middle",
    )


def _is_safe(text: str) -> bool:
    return all(char == "\n" or char.isprintable() for char in text)


@pytest.mark.parametrize("arguments", [["ls", "hostile"], ["history", "hostile", HOSTILE]])
def test_stored_text_cannot_drive_a_terminal(there: Program, arguments: list[str]) -> None:
    """Control characters in ids, actions and data come out escaped on a terminal."""
    shown = there.on_terminal(*arguments, columns=200)
    assert shown.code == 0
    assert _is_safe(shown.out)
    assert "\\u001b[31mred\\u009b2J" in shown.out


def test_stored_text_stays_on_its_line(there: Program) -> None:
    """Control characters come out escaped when piped, so that each row is one line; in JSON they are exact."""
    piped = there("ls", "hostile")
    assert _is_safe(piped.out)
    assert len(piped.out.splitlines()) == 2
    exact = there("history", "hostile", HOSTILE, "--json")
    assert _is_safe(exact.out)
    [event] = exact.json()
    assert (event["state_id"], event["action"], event["to_state"]) == (HOSTILE, HOSTILE, {HOSTILE: HOSTILE})


def test_an_error_cannot_drive_a_terminal_either(there: Program) -> None:
    """Control characters that a user pastes come back escaped, on one line."""
    ended = there("show", HOSTILE, "x\n\x1b[2J")
    assert ended.code == 1
    assert _is_safe(ended.err)
    assert ended.err.count("\n") == 1
    assert there("show", HOSTILE, "x", "--json").error(1)["type"] == "StateNotFound"
    assert _is_safe(there("frob\x1b[2J\n\u202e").err)


def test_tables_hold_everything(there: Program) -> None:
    """On a terminal of 80 columns a table wraps, and no part of a cell is cut off; a time stays in one piece."""
    shown = there.on_terminal("ls", "a/b")
    assert max(map(len, shown.out.splitlines())) <= 80
    assert "…" not in shown.out
    assert shown.out.count("word") == 40
    assert "".join(shown.out.split()).count("e" * 20) >= 1
    assert shown.out.count("e") >= 90
    assert there.on_terminal("history", "bank", "alice").out.count("2026-03-01T09:00:00.000000Z") == 1


def test_piped_tables_have_a_line_for_each_row(there: Program) -> None:
    """Piped, each row is one line that holds all of its cells, however wide the terminal is said to be."""
    piped = Program(there.folder, COLUMNS="20")("ls", "a/b").out.splitlines()
    assert len(piped) == 2
    assert "word " * 40 + "e" * 90 + "nd" in piped[1]


def test_no_escape_codes(there: Program) -> None:
    """Output is plain text, whatever the environment says about colours."""
    assert "\x1b" not in Program(there.folder, NO_COLOR="1").on_terminal("stats").out
    assert "\x1b" not in Program(there.folder, TERM="xterm-256color").on_terminal("ls", "a/b").out
    assert "\x1b" not in Program(there.folder, FORCE_COLOR="1")("stats").out


def test_any_encoding_of_the_terminal(there: Program) -> None:
    """Where the terminal's encoding lacks a character it is shown escaped; JSON is UTF-8 all the same."""
    narrow = Program(there.folder, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert "../Zo\\xeb" in narrow("ls", "a/b").out
    assert narrow("ls", "a/b", "--json").json()[0]["state_id"] == "../Zoë"
    assert narrow("import", "--help").code == 0


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of 1,200 states of a kilobyte."""
    folder = tmp_path_factory.mktemp("large")

    async def fill(store: StateStore) -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(1_200):
                tasks.start_soon(store.save_state, "g", f"s{number:04d}", {"text": "x" * 1_000}, METADATA)

    _store(f"sqlite:///{folder}/tai-state.db", fill)
    return folder


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_reader_who_has_seen_enough(large: Path, options: list[str]) -> None:
    """``… | head -1`` ends quietly."""
    process = Program(large).start("ls", "g", *options)
    assert process.stdout is not None
    process.stdout.read(10)
    process.stdout.close()
    _, err = process.communicate()
    assert (process.returncode, err) == (141, b"")


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_output_that_cannot_be_written(there: Program, options: list[str]) -> None:
    """A full disk behind stdout, or a closed one, is said in a sentence; a closed stderr puts nothing onto stdout."""
    command = f'exec "$0" show bank alice {" ".join(options)}'
    full = [(">/dev/full", "No space left on device")] if Path("/dev/full").exists() else []
    for redirection, why in (*full, (">&-", "stdout is closed")):
        done = subprocess.run(
            ["sh", "-c", f"{command} {redirection}", SCRIPT],
            cwd=there.folder,
            env=there.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done
        assert f"the output cannot be written: {why}" in done.stderr


def test_a_closed_stderr(there: Program) -> None:
    """What would go to stderr does not go to stdout, where the data is."""
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" show bank nobody 2>&- <&-', SCRIPT],
        cwd=there.folder,
        env=there.environment,
        stdout=subprocess.PIPE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, b"")


@pytest.mark.parametrize(
    ("number", "in_background"), [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGTERM, True)]
)
def test_an_interrupted_export_leaves_no_file(
    large: Path, tmp_path: Path, *, number: signal.Signals, in_background: bool
) -> None:
    """Ctrl-C and SIGTERM end it with 130 and no traceback; nothing half-written stays, and the next run completes.

    So does SIGTERM where Ctrl-C is ignored.
    """
    program = Program(large)
    target = tmp_path / "g.jsonl"
    os.mkfifo(tmp_path / "g.jsonl.partial")  # what the export writes to first: here it waits for the reader
    around = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_background else signal.getsignal(signal.SIGINT)
    try:
        process = program.start("export", "g", str(target), "--json")
    finally:
        signal.signal(signal.SIGINT, around)
    with os.fdopen(_written_to(tmp_path / "g.jsonl.partial", process), "rb") as reader:
        reader.read(10)
        process.send_signal(number)
    out, err = process.communicate()
    assert Ended(process.returncode, out.decode(), err.decode()).error(130)["type"] == "Interrupted"
    assert not list(tmp_path.iterdir())
    assert program("export", "g", str(target), "--json").json()["states"] == 1_200


def _written_to(fifo: Path, process: subprocess.Popen[bytes]) -> int:
    """The reading end of a FIFO to which a process writes; if it ends before, it says here why."""
    reader, ended = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK), os.pidfd_open(process.pid)
    ready, _, _ = select.select([reader, ended], [], [])
    assert reader in ready, process.communicate()
    os.close(ended)
    os.set_blocking(reader, True)
    return reader


def test_an_interrupted_recovery_goes_on_when_run_again(large: Path, tmp_path: Path) -> None:
    """Ctrl-C ends a recovery with 130 and no traceback, and the next run completes it."""
    for path in large.glob("*.db"):
        shutil.copy(path, tmp_path)
    program = Program(tmp_path)
    with_removed_state(program, "s1199")
    lock = apsw.Connection(str(tmp_path / "tai-state.db"))
    lock.execute("BEGIN IMMEDIATE")  # the recovery waits for it when it comes to the last state
    process = program.start("recover")
    assert process.stderr is not None
    assert process.stderr.readline() == b"1,008 states checked, 0 rebuilt\n"
    interrupt(process)
    lock.execute("ROLLBACK")
    lock.close()
    out, err = process.communicate()
    assert (process.returncode, out, err) == (130, b"", b"tai-state: interrupted; it can be run again\n")
    assert program("recover", "--json").json()["consistent"]
    assert program("show", "g", "s1199").code == 0
