"""One damaged document stops no command: it is named once, the others are shown, and the command ends with 4."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncGenerator, Sequence
from datetime import timedelta
from pathlib import Path

import anyio
import apsw
import pytest

from tai_state import ANY, ChangeMetadata, EveryEvents, StoreUnavailable, open_store, sync
from tai_state.cli.output import print_items
from tai_state.history.cleanup import Cleanup

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
        (EDITED, f"{STATES}/b", ["g1 b"], 6),
        ("id = 'b~'", f"{STATES}/b", [f"{STATES}/b~", f"{STATES}/b"], 5),
        ("id = '%FF'", f"{STATES}/b", [f"{STATES}/%FF", f"{STATES}/b"], 5),
        ("id = '%FF'", "governors/g1", ["governors/%FF"], 6),
    ],
)
def test_sync_goes_on(inside: Inside, change: str, path: str, named: list[str], states: int) -> None:
    """A sync names what it cannot sync, the state that a damaged name hides included, and syncs the rest."""
    damage(inside.folder, change, path)
    ended = inside("sync", "sqlite:///tai-state.db", "sqlite:///new.db", "--json")
    report = json.loads(ended.out)
    assert (ended.code, report["checked"], [each for each, _ in report["failed"]]) == (4, states, named)
    there = json.loads(inside("stats", "--store", "sqlite:///new.db", "--json").out)["states"]
    assert there == states - (named == ["g1 b"])


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


DAMAGED_LOCK = "r2: taken away from its holder, whom the damaged document does not name\n"


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


@pytest.mark.parametrize(
    ("change", "path", "named"),
    [
        (EDITED, f"{STATES}/b", f"{STATES}/b"),
        (EDITED, event("b", 1), event("b", 1)),
        ("fields = '{'", "governors/g1", "governors/g1"),
        ("id = 'g~'", "governors/g1", "governors/g~"),
    ],
)
def test_stats_with_sizes_go_on(inside: Inside, change: str, path: str, named: str) -> None:
    """A document whose size is not known is named once, and the command ends with 4."""
    damage(inside.folder, change, path)
    ended = inside("stats", "--size", "--json")
    assert (ended.code, ended.err.count(f'"{named}"')) == (4, 1)
    counts = json.loads(ended.out)
    assert (counts["governors"], counts["damaged"]) == (2, 1)
    assert counts["event_bytes"] > 0 < counts["state_bytes"]


def _forget_governor(folder: Path) -> None:
    connection = apsw.Connection(str(folder / "tai-state.db"))
    connection.execute("DELETE FROM documents WHERE collection = 'governors' AND id = 'g1'")
    assert connection.changes() == 1
    connection.close()


@pytest.mark.parametrize("command", [["ls"], ["stats"], ["stats", "--size"]], ids=" ".join)
def test_a_governor_without_its_document_is_listed_and_named(inside: Inside, command: Sequence[str]) -> None:
    """Its states count like all others."""
    sound = inside(*command, "--json").json()
    _forget_governor(inside.folder)
    ended = inside(*command, "--json")
    error = json.loads(ended.err)["error"]
    assert (ended.code, error["path"], "tai-state recover" in error["message"]) == (4, "governors/g1", True)
    found = json.loads(ended.out)
    if "--size" not in command:
        assert found == sound
    else:
        assert (found["states"], found["event_bytes"]) == (sound["states"], sound["event_bytes"])


@pytest.mark.parametrize(
    "command",
    [
        ["verify", "g1"],
        ["recover", "g1"],
        ["ls", "g1"],
        ["cleanup", "g1", "--yes"],
        ["export", "g1", "out.jsonl"],
        ["sync", "sqlite:///tai-state.db", "sqlite:///new.db", "--governor", "g1"],
        ["sync", "sqlite:///tai-state.db", "sqlite:///new.db"],
    ],
    ids=" ".join,
)
def test_a_governor_without_its_document_is_found(inside: Inside, command: Sequence[str]) -> None:
    """A command that names it works on its states."""
    _forget_governor(inside.folder)
    ended = inside(*command, "--json")
    assert (ended.code, ended.err) == (4 if command[0] == "verify" else 0, "")
    found = json.loads(ended.out)
    if command[0] == "sync":
        assert found["checked"] == (3 if "--governor" in command else 6)
    if command[0] == "recover":
        assert found["rebuilt"] == ["governors/g1"]
    if command[0] == "verify":
        assert [each["path"] for each in found["findings"]] == ["governors/g1"]


@pytest.mark.parametrize("gone", [False, True], ids=["damaged", "missing"])
@pytest.mark.parametrize(
    "command",
    [["show", "g1", "b", "--version", "3"], ["show", "g1", "b", "--at", "2999-01-01"], ["diff", "g1", "b", "2", "6"]],
    ids=" ".join,
)
def test_the_past_is_shown_by_the_events_alone(inside: Inside, command: Sequence[str], *, gone: bool) -> None:
    """Where a state's own document is damaged or missing, what its events say is shown."""
    sound = inside(*command, "--json").json()
    damage(inside.folder, "collection = 'elsewhere'" if gone else EDITED, f"{STATES}/b")
    assert inside(*command, "--json").json() == sound


def test_the_past_of_a_damaged_state_ends_where_its_events_end(inside: Inside) -> None:
    """A version that there is not is not made up."""
    damage(inside.folder, EDITED, f"{STATES}/b")
    assert inside("show", "g1", "b", "--version", "7", "--json").error(1)["newest"] == 6
    assert inside("show", "g1", "b", "--at", "2001-01-01", "--json").error(1)["type"] == "StateNotFound"
    damage(inside.folder, EDITED, event("b", 2))
    assert inside("show", "g1", "b", "--version", "2", "--json").error(4)["path"] == event("b", 2)


def test_what_cannot_be_recovered_is_named_where_it_is_damaged(inside: Inside) -> None:
    """Not at the state, and with advice other than to recover."""
    damage(inside.folder, EDITED, f"{STATES}/b")
    damage(inside.folder, EDITED, event("b", 6))
    ended = inside("recover", "--json")
    [(path, why)] = json.loads(ended.out)["failed"]
    assert (ended.code, path, "restore a backup" in why, "tai-state recover" in why) == (4, event("b", 6), True, False)
    assert json.loads(ended.out)["failed_count"] == 1
    assert inside("recover").out.splitlines()[-1] == "6 states checked, 5 sound, 0 rebuilt, 0 unchecked, 1 failed"


@pytest.mark.parametrize("change", [EDITED, "collection = 'elsewhere'"], ids=["damaged", "missing"])
def test_an_export_says_what_leads_out(inside: Inside, change: str) -> None:
    """An event that is damaged or missing stops it; its advice, taken word for word, exports all that is sound."""
    damage(inside.folder, change, event("b", 2))
    error = inside("export", "g1", "g1.jsonl", "--json").error(4)
    assert (error["path"], "restore a backup" in error["message"]) == (event("b", 2), True)
    assert all(f"`tai-state {each}`" in error["message"] for each in ("sync", "verify"))
    here, there = "sqlite:///tai-state.db", "sqlite:///sound.db"
    synced = inside("sync", here, there, "--json")
    assert (synced.code, [path for path, _ in json.loads(synced.out)["failed"]]) == (4, ["g1 b"])
    assert inside("export", "g1", "g1.jsonl", "--store", there, "--json").json()["states"] == 2


@pytest.mark.parametrize("path", [f"{STATES}/b", "governors/g1", "governors/g1/snapshots/b~000000000002"])
def test_an_export_says_to_recover_what_can_be_recovered(inside: Inside, path: str) -> None:
    """What follows from the events stops it no longer after that."""
    damage(inside.folder, "fields = '{'", path)
    error = inside("export", "g1", "g1.jsonl", "--json").error(4)
    assert (error["path"], "run `tai-state recover`" in error["message"]) == (path, True)
    assert inside("recover", "g1").code == 0
    assert inside("export", "g1", "g1.jsonl").code == 0


@pytest.mark.parametrize("path", [f"{STATES}/b", event("b", 2)], ids=["state", "event"])
def test_the_last_events_of_a_damaged_state(inside: Inside, path: str) -> None:
    """What is sound of the last versions is shown."""
    damage(inside.folder, EDITED, path)
    ended = inside("history", "g1", "b", "--last", "5", "--json")
    assert [each["version"] for each in json.loads(ended.out)] == [2, 3, 4, 5, 6][path == event("b", 2) :]


@pytest.mark.parametrize("command", [["show", "g1", "b"], ["ls", "g1"], ["stats"]], ids=" ".join)
def test_a_damaged_state_is_to_be_recovered_first(inside: Inside, command: Sequence[str]) -> None:
    """Only if its events cannot give it back, a backup is to be restored."""
    damage(inside.folder, EDITED, f"{STATES}/b")
    said = json.loads(inside(*command, "--json").err)["error"]["message"]
    assert 0 < said.index("tai-state recover") < said.index("restore a backup")


def test_a_damaged_marker_is_recovered(inside: Inside) -> None:
    """A recovery makes it again from its event; where that is gone too, it says what is left to do."""

    async def mark() -> None:
        async with open_store(f"sqlite:///{inside.folder}/tai-state.db", metadata=WHO) as store:
            for n in range(2):
                await store.save_state("g2", f"m{n}", {"n": n}, event_id=f"id{n}")

    anyio.run(mark)
    damage(inside.folder, "fields = '{'", "governors/g2/ids/id0")
    [finding] = json.loads(inside("verify", "--json").out)["findings"]
    assert (finding["path"], "tai-state recover" in finding["message"]) == ("governors/g2/ids/id0", True)
    assert inside("recover", "--json").json()["rebuilt"] == ["governors/g2/ids/id0"]
    assert inside("verify", "--json").json()["consistent"]
    damage(inside.folder, "fields = '{'", "governors/g2/ids/id1")
    damage(inside.folder, "collection = 'elsewhere'", "governors/g2/events/m1~000000000001")
    damage(inside.folder, "collection = 'elsewhere'", "governors/g2/states/m1")
    ended = inside("recover", "--json")
    [(path, why)] = json.loads(ended.out)["failed"]
    assert (ended.code, path, "restore a backup" in why) == (4, "governors/g2/ids/id1", True)


def test_a_version_that_was_cleaned_up_names_the_oldest_one_left(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By version and by time, in words that a person can go on from."""
    monkeypatch.setattr("tai_state.history.cleanup.AGE_MIN", timedelta(0))
    monkeypatch.setattr(Cleanup.__init__, "__defaults__", (timedelta(0),))
    assert inside("cleanup", "g1", "--keep-days", "0", "--yes", "--json").json()["events_deleted"] > 0
    oldest = inside("history", "g1", "b", "--json").json()[0]["version"]
    assert oldest > 1
    for when in (["--version", "1"], ["--at", "2026-01-01"]):
        ended = inside("show", "g1", "b", *when, "--json")
        said = json.loads(ended.err)["error"]["message"]
        assert (ended.code, f"the oldest version left is {oldest}" in said) == (4, True), said
    assert inside("show", "g1", "b", "--version", str(oldest), "--json").json()["version"] == oldest
