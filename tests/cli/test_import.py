"""``tai-state import``: killed and run again it loses and doubles nothing; what it cannot read leaves no trace."""

from __future__ import annotations

import gzip
import json
import signal
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import apsw
import pytest

from tai_state import (
    ChangeMetadata,
    Columns,
    EveryEvents,
    ImportConflict,
    StateMachinePersister,
    StateStore,
    open_store,
)
from tai_state.cli import output
from tai_state.testing import ManualClock
from tai_state.values.times import format_time, to_us

from ..support.program import (
    COLUMNS,
    IMPORT,
    MACHINES,
    Ended,
    Inside,
    Program,
    csv_text,
    interrupt,
    make_rows,
    write_csv,
)

BATCH = 250
FIELDS = Columns("machine", ("status", "level"), "when", "who")
METADATA = ChangeMetadata("ana", "a test")


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """The program in an empty folder."""
    return Program(tmp_path)


def read(folder: Path, work: Callable[[StateStore], Any], **options: Any) -> Any:
    """Run asynchronous work on the folder's store."""

    async def run() -> Any:
        async with open_store(f"sqlite:///{folder}/tai-state.db", **options) as store:
            return await work(store)

    return anyio.run(run)


def imported(folder: Path) -> list[list[Any]]:
    """What the store holds of the governor ``g``, as rows: machine, version, time, data, who, context."""

    async def work(store: StateStore) -> list[list[Any]]:
        return [
            [
                each.state_id,
                each.version,
                format_time(each.timestamp),
                each.to_state,
                each.metadata.changed_by,
                each.metadata.context,
            ]
            async for each in store.get_all_events("g")
        ]

    return read(folder, work)


def expected(rows: list[list[str]]) -> list[list[Any]]:
    """What the store must hold once these rows are imported, in the order of :func:`imported`."""
    versions: Counter[str] = Counter()
    found: list[list[Any]] = []
    for machine, when, status, level, who, note in rows:
        versions[machine] += 1
        moment = datetime.fromisoformat(when)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        found.append(
            [
                machine,
                versions[machine],
                moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                {"status": status, "level": level},
                who or "import",
                {"note, free": note},
            ]
        )
    return found


def ordered(rows: list[list[Any]]) -> list[list[Any]]:
    """By machine, then by version."""
    return sorted(rows, key=lambda row: (row[0], row[1]))


def test_each_row_becomes_the_event_it_says(program: Program) -> None:
    """Quotes, commas, line breaks, other scripts, empty cells, repeated rows and offsets arrive exactly."""
    rows = make_rows(600)
    assert any(one == other for one, other in pairwise(rows))
    write_csv(program.folder / "log.csv", rows)
    ended = program("import", "log.csv", "--governor", "g", *IMPORT, "--json")
    assert (ended.code, ended.err) == (0, "")
    machines = len({row[0] for row in rows})
    assert [json.loads(line) for line in ended.out.splitlines()] == [
        {"acknowledged": 250, "skipped": 0},
        {"acknowledged": 500, "skipped": 0},
        {"acknowledged": 600, "skipped": 0},
        {"events": 600, "machines": machines, "skipped": 0},
    ]
    assert ordered(imported(program.folder)) == ordered(expected(rows))
    assert set(MACHINES) <= {row[0] for row in rows}
    event = program("history", "g", "M-1", "--limit", "1", "--json").json()[0]
    assert (event["action"], event["from_state"]) == ("import", None)


def test_progress_and_totals_for_people(program: Program) -> None:
    """Piped, progress is a line now and then on stderr; on a terminal it is one line, rewritten."""
    write_csv(program.folder / "log.csv.gz", make_rows(300))
    first = program("import", "log.csv.gz", "--governor", "g", *IMPORT)
    assert first.err == "250 events recorded, 0 already there\n300 events recorded, 0 already there\n"
    assert first.out.splitlines()[:2] == ["what      count", "events    300"]
    again = program.on_terminal("import", "log.csv.gz", "--governor", "g", *IMPORT)
    assert again.out.startswith("\r0 events recorded, 250 already there\r0 events recorded, 300 already there\nwhat ")
    assert again.code == 0


def test_progress_without_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The first line is said at once, further ones every ten seconds, and the last one in any case."""
    monkeypatch.setattr(output, "time", SimpleNamespace(monotonic=lambda: shown))
    for count in (1, 25):
        with output.Progress() as line:
            for shown in range(count):
                line.show(f"{shown} done")
    assert capsys.readouterr().err.splitlines() == ["0 done", "0 done", "10 done", "20 done", "24 done"]


def test_a_killed_import_loses_and_doubles_nothing(program: Program) -> None:
    """Killed over and over, an import has kept each row that it acknowledged, and ends as if never killed."""
    rows = make_rows(20 * BATCH)
    write_csv(program.folder / "log.csv", rows)
    command = ("import", "log.csv", "--governor", "g", *IMPORT, "--json")
    acknowledged = 0
    for lines_read in (1, 3, 4, 7):
        with program.throttled(*command) as (process, lines):
            said = [lines.readline() for _ in range(lines_read)]
            process.kill()
            said += lines.readlines()
        assert process.returncode == -signal.SIGKILL
        last = json.loads(next(line for line in reversed(said) if line.endswith(b"\n")))
        acknowledged = max(acknowledged, last["acknowledged"] + last["skipped"])
        stored = imported(program.folder)
        assert len(stored) >= acknowledged
        assert ordered(expected(rows[: len(stored)])) == ordered(stored)
    assert acknowledged < len(rows)
    before = len(imported(program.folder))
    totals = json.loads(program(*command).out.splitlines()[-1])
    machines = len({row[0] for row in rows})
    assert totals == {"events": len(rows) - before, "machines": machines, "skipped": before}
    assert ordered(imported(program.folder)) == ordered(expected(rows))
    fits = program("verify", "--json").json()
    assert fits == {"consistent": True, "states": machines, "events": len(rows), "unchecked": 0, "findings": []}
    again = json.loads(program(*command).out.splitlines()[-1])
    assert again == {"events": 0, "machines": machines, "skipped": len(rows)}
    assert program("stats", "--json").json()["versions"] == len(rows)


def test_an_interrupted_import_goes_on_when_run_again(program: Program) -> None:
    """Ctrl-C ends an import with 130 and no traceback; run again, it records the rest."""
    rows = make_rows(20 * BATCH)
    write_csv(program.folder / "log.csv", rows)
    command = ("import", "log.csv", "--governor", "g", *IMPORT, "--json")
    with program.throttled(*command) as (process, lines):
        lines.readline()
        interrupt(process)
        lines.readlines()
        assert process.stderr is not None
        err = process.stderr.read().decode()
        assert Ended(process.wait(), "", err).error(130)["type"] == "Interrupted"
    before = len(imported(program.folder))
    assert 0 < before < len(rows)
    totals = json.loads(program(*command).out.splitlines()[-1])
    assert (totals["events"], totals["skipped"]) == (len(rows) - before, before)


def test_two_imports_of_one_file_at_once(program: Program) -> None:
    """Two processes that import the same file share the work: each row is recorded once."""
    rows = make_rows(8 * BATCH)
    write_csv(program.folder / "log.csv", rows)
    command = ("import", "log.csv", "--governor", "g", *IMPORT, "--json")
    totals = []
    with program.started(*command) as one, program.started(*command) as other:
        for process in (one, other):
            out, err = process.communicate()
            assert (process.returncode, err) == (0, b"")
            totals.append(json.loads(out.splitlines()[-1]))
    assert sum(each["events"] for each in totals) == len(rows)
    assert all(each["events"] + each["skipped"] == len(rows) for each in totals)
    assert ordered(imported(program.folder)) == ordered(expected(rows))


@pytest.mark.parametrize("column", range(len(COLUMNS)))
def test_a_changed_row_is_refused(tmp_path: Path, column: int) -> None:
    """A cell that changed in a row already imported is a conflict that names the row, and nothing more is recorded."""
    rows = [["M", "2026-01-01", "on", "1", "ana", ""], ["M", "2026-01-02", "off", "2", "ana", ""]]
    changed = [list(row) for row in rows] + [["M", "2026-01-03", "on", "3", "ana", ""]]
    changed[1][column] = {0: "N", 1: "2026-01-04"}.get(column, "changed")
    first, second = write_csv(tmp_path / "1.csv", rows), write_csv(tmp_path / "2.csv", changed)

    async def work(store: StateStore) -> None:
        persister = StateMachinePersister(store)
        await persister.import_csv("g", first, FIELDS)
        with pytest.raises(ImportConflict) as caught:
            await persister.import_csv("g", second, FIELDS)
        # Where the machine changed, it is the next row of the old machine that comes to a taken place.
        row = 3 if column == 0 else 2
        assert caught.value.fields() == {"row": row, "path": "governors/g/events/M~000000000002"}
        assert (await store.get_stats()).versions == 2

    read(tmp_path, work)


def test_a_conflict_ends_with_3(program: Program) -> None:
    """The command line reports a conflict with the row and the event in its way."""
    write_csv(program.folder / "log.csv", [["M", "2026-01-01", "on", "1", "ana", ""]])
    assert program("import", "log.csv", "--governor", "g", *IMPORT).code == 0
    write_csv(program.folder / "log.csv", [["M", "2026-01-01", "off", "1", "ana", ""]])
    error = program("import", "log.csv", "--governor", "g", *IMPORT, "--json").error(3)
    assert (error["type"], error["row"], error["path"]) == ("ImportConflict", 1, "governors/g/events/M~000000000001")
    assert "off" not in error["message"]


GOOD = make_rows(900)
TEXT = csv_text(GOOD)
GZIP = gzip.compress(TEXT.encode(), mtime=0)
LAST = GOOD[-1]
BAD: dict[str, tuple[str, bytes, str]] = {
    "missing_column": ("log.csv", csv_text(GOOD, ["machine", "when", "state", *COLUMNS[3:]]).encode(), "'status'"),
    "column_twice": ("log.csv", csv_text(GOOD, [*COLUMNS[:-1], "when"]).encode(), "two columns"),
    "bad_time": ("log.csv", csv_text([*GOOD, [LAST[0], "yesterday", *LAST[2:]]]).encode(), "row 901 has no valid time"),
    "no_time": ("log.csv", csv_text([*GOOD, [LAST[0], "", *LAST[2:]]]).encode(), "row 901 has no valid time"),
    "before_time": (
        "log.csv",
        csv_text([*GOOD, [LAST[0], "0001-01-01T00:00:00+10:00", *LAST[2:]]]).encode(),
        "row 901 has no valid time",
    ),
    "cell_missing": ("log.csv", csv_text([*GOOD, LAST[:-1]]).encode(), "row 901 has 5 cells, but the header has 6"),
    "cell_too_many": ("log.csv", csv_text([*GOOD, [*LAST, "x"]]).encode(), "row 901 has 7 cells"),
    "no_machine": ("log.csv", csv_text([*GOOD, ["", *LAST[1:]]]).encode(), "row 901 does not name a machine"),
    "long_machine": (
        "log.csv",
        csv_text([*GOOD, ["é" * 1_000, *LAST[1:]]]).encode(),
        "the machine of row 901 must be at most 1,480 bytes",
    ),
    "large_row": (
        "log.csv",
        csv_text([*GOOD, [*LAST[:2], *['"' * 120_000] * 3, "x" * 120_000]]).encode(),
        "row 901 would take",
    ),
    "large_cell": ("log.csv", csv_text([*GOOD, [*LAST[:-1], "x" * 1_100_000]]).encode(), "but the limit is"),
    "open_quote": ("log.csv", (TEXT + '"M').encode(), "not a CSV file"),
    "not_utf8": ("log.csv", TEXT.encode() + b"M,2026-01-01,\xff,1,ana,\r\n", "not UTF-8"),
    "cut_gzip": ("log.csv.gz", GZIP[:-100], "damaged"),
    "damaged_gzip": ("log.csv.gz", GZIP[:200] + b"\xff" * 50 + GZIP[250:], "damaged"),
    "no_gzip": ("log.csv.gz", TEXT.encode(), "cannot be read"),
    "empty": ("log.csv", b"", "has no header"),
    "header_only": ("log.csv", csv_text([]).encode(), "has no rows"),
}


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Inside:
    """The program in this process and an empty folder."""
    return Inside(tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_leaves_no_trace(inside: Inside, name: str) -> None:
    """A file that cannot be imported to its last row is refused with 2, and not even a store is made."""
    file, content, message = BAD[name]
    (inside.folder / file).write_bytes(content)
    error = inside("import", file, "--governor", "g", *IMPORT, "--json").error(2)
    assert message in error["message"]
    assert len(error["message"]) < 300
    assert [path.name for path in inside.folder.iterdir()] == [file]


def test_a_bad_row_leaves_an_existing_store_as_it_was(program: Program) -> None:
    """A late bad row keeps all rows before it out of a store that is there."""
    write_csv(program.folder / "log.csv", GOOD[:10])
    program("import", "log.csv", "--governor", "g", *IMPORT)
    (program.folder / "log.csv").write_bytes(BAD["bad_time"][1])
    assert program("import", "log.csv", "--governor", "g", *IMPORT).code == 2
    assert program("stats", "--json").json()["versions"] == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--governor", "g"], "--machine"),
        (["--governor", "", *IMPORT], "governor_id must be"),
        (["--governor", "g", *IMPORT, "--store", "mysql://x"], "not a store address"),
        (["--governor", "g", *IMPORT, "--state", "status,nothing"], "no column 'nothing'"),
    ],
)
def test_bad_arguments_leave_no_trace(inside: Inside, arguments: list[str], message: str) -> None:
    """What is wrong with the command line is said before anything is opened."""
    write_csv(inside.folder / "log.csv", GOOD[:10])
    assert message in inside("import", "log.csv", *arguments, "--json").error(2)["message"]
    assert [path.name for path in inside.folder.iterdir()] == ["log.csv"]


def test_a_file_that_is_not_there(program: Program) -> None:
    """A mistyped file is a usage error that names it."""
    assert program("import", "no.csv", "--governor", "g", *IMPORT, "--json").error(2)["message"].count("no.csv") == 1
    assert not list(program.folder.iterdir())


def test_marks_and_line_ends_of_other_programs(tmp_path: Path) -> None:
    """A byte order mark, line ends of other systems and empty lines are no part of the rows."""
    text = csv_text(GOOD[:20])
    (tmp_path / "log.csv").write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n\r\n")

    async def work(store: StateStore) -> None:
        stats = await StateMachinePersister(store).import_csv("g", tmp_path / "log.csv", FIELDS)
        assert stats.events == 20

    read(tmp_path, work)
    assert ordered(imported(tmp_path)) == ordered(expected(GOOD[:20]))


def test_large_rows_go_in_several_commits(tmp_path: Path) -> None:
    """Rows that would not fit one commit together are recorded all the same, snapshots and all."""
    rows = [["M", "2026-01-01", "x" * 100_000, str(number), "ana", "y" * 100_000] for number in range(60)]
    path = write_csv(tmp_path / "log.csv", rows)
    batches: list[int] = []

    async def count(stats: Any) -> None:
        batches.append(stats.events)

    async def work(store: StateStore) -> None:
        await StateMachinePersister(store).import_csv("g", path, FIELDS, count)
        assert (await store.get_stats()).versions == 60

    read(tmp_path, work, snapshots=EveryEvents(1, keep=2))
    assert len(batches) > 1
    assert batches[-1] == 60


def test_importing_again_after_a_cleanup(tmp_path: Path) -> None:
    """Rows whose events were cleaned up count as imported; a row whose event is lost is an inconsistency."""
    rows = [["M", f"2026-01-0{day}", "on", "1", "ana", ""] for day in range(1, 9)]
    path = write_csv(tmp_path / "log.csv", rows)

    async def first(store: StateStore) -> None:
        for count in (4, 8):
            write_csv(path, rows[:count])
            await StateMachinePersister(store).import_csv("g", path, FIELDS)

    async def clean(store: StateStore) -> Any:
        return await StateMachinePersister(store).cleanup_old_data("g", keep=timedelta(days=1))

    async def again(store: StateStore) -> Any:
        return await StateMachinePersister(store).import_csv("g", path, FIELDS)

    long_ago = ManualClock(to_us(datetime(2026, 1, 9, tzinfo=UTC)))
    read(tmp_path, first, snapshots=EveryEvents(4), clock=long_ago)
    assert read(tmp_path, clean).events_deleted == 3
    assert (read(tmp_path, again).events, read(tmp_path, again).skipped) == (0, 8)
    execute(tmp_path, "DELETE FROM documents WHERE id = 'M~000000000006'")
    program = Program(tmp_path)
    ended = program("import", "log.csv", "--governor", "g", *IMPORT, "--json")
    error = json.loads(ended.err)["error"]
    assert (ended.code, json.loads(ended.out.splitlines()[-1])) == (4, {"events": 0, "machines": 1, "skipped": 0})
    assert error["path"] == "governors/g/events/M~000000000006"


def execute(folder: Path, statement: str) -> None:
    """Change the store's file behind its back."""
    connection = apsw.Connection(str(folder / "tai-state.db"))
    connection.execute(statement)
    connection.close()
