"""One damaged document stops no command: it is named once, the others are shown, and the command ends with 4."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import anyio
import apsw
import pytest

from tai_state import ANY, ChangeMetadata, EveryEvents, StoreUnavailable, open_store, sync
from tai_state.cli.output import print_items

from ..support.program import IMPORT, Inside, write_csv

WHO = ChangeMetadata("tester", "a test")
STATES = "governors/g1/states"
EVENTS = "governors/g1/events"
KEYS = {"history": "version", "conflicts": "state_id", "ls g1": "state_id", "locks": "resource"}
EDITED = "fields = replace(fields, 'changed_by', 'changed_bY')"


async def _fill(folder: Path) -> None:
    async with (
        open_store(f"sqlite:///{folder}/tai-state.db", snapshots=EveryEvents(2), metadata=WHO) as store,
        open_store(f"sqlite:///{folder}/other.db", metadata=WHO) as other,
    ):
        for governor in ("g1", "g2"):
            for state in "abc":
                for n in range(4):
                    await store.save_state(governor, state, {"n": n}, expected=ANY)
        await sync(store, other)
        for state in "abc":
            for one in (store, other):
                await one.save_state("g1", state, {"n": str(one)}, expected=ANY)
        await sync(store, other)
        for resource in ("r1", "r2", "r3"):
            await store.locks.renew_lock(await store.locks.acquire_lock(resource, ttl_seconds=3_600, holder="ana"))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store: two governors with three states, each with a conflict, and three locks."""
    folder = tmp_path_factory.mktemp("whole")
    anyio.run(_fill, folder)
    return folder


@pytest.fixture
def inside(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Inside:
    """The program in this process, in a folder with a copy of the store."""
    for path in filled.iterdir():
        shutil.copy(path, tmp_path)
    return Inside(tmp_path, monkeypatch, capsys)


def damage(folder: Path, change: str, path: str) -> None:
    """Change a document behind the store's back."""
    connection = apsw.Connection(str(folder / "tai-state.db"))
    collection, _, document_id = path.rpartition("/")
    connection.execute(f"UPDATE documents SET {change} WHERE collection = ? AND id = ?", (collection, document_id))
    assert connection.changes() == 1
    connection.close()


def event(state: str, version: int) -> str:
    """The path of an event."""
    return f"{EVENTS}/{state}~{version:012}"


@pytest.mark.parametrize(
    ("change", "path", "named", "command", "shown"),
    [
        (EDITED, f"{STATES}/b", "", ["ls"], [{"governor": "g1", "states": 2}, {"governor": "g2", "states": 3}]),
        (EDITED, f"{STATES}/b", "", ["ls", "g1"], ["a", "c"]),
        ("id = 'b~'", f"{STATES}/b", f"{STATES}/b~", ["ls", "g1"], ["a", "c"]),
        ("id = '%FF'", f"{STATES}/b", f"{STATES}/%FF", ["ls", "g1"], ["a", "c"]),
        ("id = '%FF'", "governors/g1", "governors/%FF", ["ls"], [{"governor": "g2", "states": 3}]),
        ("id = 'g~'", "governors/g1", "governors/g~", ["ls"], [{"governor": "g2", "states": 3}]),
        (EDITED, f"{STATES}/b", "", ["conflicts", "g1"], ["a", "c"]),
        (EDITED, event("b", 2), "", ["conflicts", "g1"], ["a", "c"]),
        (EDITED, event("b", 1), "", ["history", "g1", "b"], [2, 3, 4, 5, 6]),
        (EDITED, event("b", 2), "", ["history", "g1", "b"], [1, 3, 4, 5, 6]),
        (EDITED, event("b", 2), "", ["history", "g1", "b", "--limit", "3"], [1, 3, 4]),
        (EDITED, event("b", 2), "", ["history", "g1", "b", "--after", "2"], [3, 4, 5, 6]),
        (EDITED, event("b", 6), "", ["history", "g1", "b"], [1, 2, 3, 4, 5]),
        ("id = 'z'", event("b", 3), event("b", 3), ["history", "g1", "b"], [1, 2, 4, 5, 6]),
        ("fields = '{'", "locks/r2", "", ["locks"], ["r1", "r3"]),
        ("id = '%FF'", "locks/r2", "locks/%FF", ["locks"], ["r1", "r3"]),
        ("fields = '{'", "lockbeats/r2", "", ["locks"], ["r1", "r2", "r3"]),
    ],
)
def test_lists_go_on(
    inside: Inside, change: str, path: str, named: str, command: Sequence[str], shown: Sequence[object]
) -> None:
    """A list shows all that is sound, as JSON and as a table."""
    damage(inside.folder, change, path)
    ended = inside(*command, "--json")
    assert ended.code == 4
    assert json.loads(ended.err)["error"]["path"] == (named or path)
    found, key = json.loads(ended.out), KEYS.get(command[0]) or KEYS.get(" ".join(command))
    assert [each[key] if key else each for each in found] == shown
    ended = inside(*command)
    assert (ended.code, ended.err.count(named or path), ended.err.count("\n")) == (4, 1, 1 + (command == ["locks"]) * 2)
    assert ended.out.count("\n") == len(shown) + 1


def test_stats_go_on(inside: Inside) -> None:
    """The numbers are those of all that is sound."""
    damage(inside.folder, EDITED, f"{STATES}/b")
    ended = inside("stats", "--json")
    assert (ended.code, json.loads(ended.err)["error"]["path"]) == (4, f"{STATES}/b")
    assert json.loads(ended.out) == {
        "governors": 2,
        "states": 5,
        "deleted": 0,
        "versions": 24,
        "max_version": 6,
        "snapshots": 12,
    }


def test_cleanup_goes_on(inside: Inside) -> None:
    """A cleanup names the state that it cannot clean."""
    damage(inside.folder, EDITED, f"{STATES}/b")
    ended = inside("cleanup", "g1", "--yes", "--json")
    report = json.loads(ended.out)
    assert (ended.code, report["skipped"], [path for path, _ in report["failed"]]) == (4, 1, [f"{STATES}/b"])
    ended = inside("cleanup", "g1", "--yes")
    assert (ended.code, ended.out.count("failed"), f"{STATES}/b" in ended.out) == (4, 1, True)


@pytest.mark.parametrize(
    ("change", "path", "named", "states"),
    [
        (EDITED, f"{STATES}/b", "g1 b", 6),
        ("id = 'b~'", f"{STATES}/b", f"{STATES}/b~", 5),
        ("id = '%FF'", f"{STATES}/b", f"{STATES}/%FF", 5),
        ("id = '%FF'", "governors/g1", "governors/%FF", 3),
    ],
)
def test_sync_goes_on(inside: Inside, change: str, path: str, named: str, states: int) -> None:
    """A sync names what it cannot sync, and syncs the rest."""
    damage(inside.folder, change, path)
    ended = inside("sync", "sqlite:///tai-state.db", "sqlite:///new.db", "--json")
    report = json.loads(ended.out)
    assert (ended.code, report["checked"], [each for each, _ in report["failed"]]) == (4, states, [named])
    assert json.loads(inside("stats", "--store", "sqlite:///new.db", "--json").out)["states"] == states - (states == 6)


@pytest.mark.parametrize(
    ("change", "path"),
    [(EDITED, f"{STATES}/b"), (EDITED, event("b", 1)), ("collection = 'elsewhere'", f"{STATES}/b")],
    ids=["state", "event", "state gone"],
)
def test_import_goes_on(inside: Inside, change: str, path: str) -> None:
    """An import leaves out the rows of a damaged machine, names it once, and records the others."""
    log = inside.folder / "log.csv"
    rows = [[each, f"2026-03-01T00:00:{n:02}Z", "on", str(n), "ana", ""] for n in range(3) for each in "abcd"]
    arguments = ["import", str(write_csv(log, rows)), "--governor", "g3", *IMPORT, "--json"]
    assert inside(*arguments).code == 0
    write_csv(log, rows + [[*row[:1], f"2026-03-02T00:00:0{row[3]}Z", *row[2:]] for row in rows])
    damage(inside.folder, change, path.replace("g1", "g3"))
    ended = inside(*arguments)
    assert (ended.code, json.loads(ended.err)["error"]["path"]) == (4, path.replace("g1", "g3"))
    assert json.loads(ended.out.splitlines()[-1]) == {"events": 9, "machines": 4, "skipped": 9}


@pytest.mark.parametrize(("as_json", "printed"), [(True, '["one", "two"]\n'), (False, "what\none\ntwo\n")])
def test_what_came_before_an_error_is_printed(
    capsys: pytest.CaptureFixture[str], *, as_json: bool, printed: str
) -> None:
    """If an error ends a list, what came before it is there, and JSON is closed."""

    async def items() -> AsyncGenerator[str, None]:
        yield "one"
        yield "two"
        raise StoreUnavailable("scan", "TEST")

    async def show() -> None:
        await print_items(items(), as_json=as_json, fields=str, columns=["what"], row=lambda each: [each])

    with pytest.raises(StoreUnavailable):
        anyio.run(show)
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize(
    "path",
    ["governors/g2", f"{STATES}/b", event("b", 2), "governors/g1/snapshots/b~000000000002", "meta/store/restores/r1"],
)
@pytest.mark.parametrize("document_id", ["%FF", "b~", "__x__", "a\x01", "b~1"])
def test_verify_and_recover_go_on_past_a_document_in_a_wrong_place(inside: Inside, path: str, document_id: str) -> None:
    """Whatever the id of a document was changed to, the check of the others goes on to its end."""
    if path.startswith("meta"):
        damage(inside.folder, "collection = 'meta/store/restores'", "locks/r1")
    damage(inside.folder, f"id = '{document_id}'", path)
    report = json.loads(inside("verify", "--json").out)
    assert (report["consistent"], report["states"] >= 5) == (False, True)
    recovered = inside("recover", "--json")
    found = json.loads(recovered.out)
    assert (recovered.code, recovered.err, found["checked"] >= 5) == (0 if found["consistent"] else 4, "", True)


DAMAGED_LOCK = "r2: taken away from whoever held it: its document was damaged\n"


@pytest.mark.parametrize(
    ("change", "path", "said"),
    [
        ("fields = '{'", "locks/r2", DAMAGED_LOCK),
        ("fields = replace(fields, '3600', '360X')", "locks/r2", DAMAGED_LOCK),
        ("revision = 7", "locks/r2", DAMAGED_LOCK),
        ("updated_us = 1 << 62", "locks/r2", DAMAGED_LOCK),
        ("fields = '{'", "lockbeats/r2", "r2: taken away from ana\n"),
        ("updated_us = 1 << 62", "lockbeats/r2", "r2: taken away from ana\n"),
        ("revision = 7", "lockbeats/r2", "r2: taken away from ana\n"),
        ("fields = '{'", "locks/r1", "r2: taken away from ana\n"),
    ],
)
def test_unlock_goes_on(inside: Inside, change: str, path: str, said: str) -> None:
    """A lock is taken away whatever of it, or beside it, is damaged; once it was, nothing of it is left."""
    damage(inside.folder, change, path)
    [finding] = json.loads(inside("verify", "--json").out)["findings"]
    assert finding["path"] == path
    ended = inside("unlock", "r2", "--yes")
    assert (ended.code, ended.err, ended.out) == (0, "", said)
    assert inside("unlock", "r2", "--yes").code == 1
    assert inside("verify").code == (4 if path == "locks/r1" else 0)
