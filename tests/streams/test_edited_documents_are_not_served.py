"""What was changed in the file of SQLite comes out of no read: each gives what was written, or an error.

The same of Firestore is in ``tests/engines/firestore/test_seals.py``. Nobody can edit past the engine in memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw
import pytest
from anyio import Path as AsyncPath
from anyio import TemporaryDirectory

from tai_state import (
    ANY,
    CorruptDocument,
    EventSourcingError,
    EveryEvents,
    StateMachinePersister,
    StateStore,
    TaiStateError,
    open_store,
    retire_store,
    sync,
)
from tai_state.testing import ManualClock, MemoryEngine

from ..support.program import Inside
from ..support.stores import GOVERNOR, METADATA, SQLITE, collected

pytestmark = pytest.mark.anyio

TIME = datetime(2026, 3, 1, tzinfo=UTC)
UNTIL = datetime(2027, 3, 1, tzinfo=UTC)
ALICE = "governors/bank/{}/alice"
EVENT, SNAPSHOT, STATE = (
    ALICE.format("events") + "~000000000002",
    ALICE.format("snapshots") + "~000000000002",
    ALICE.format("states"),
)
MARKER = "governors/bank/ids/alice-2"
RETIRED = "governors/club/retired/ivy"

Read = Callable[[StateStore], Awaitable[Any]]


def case(kind: str, name: str, read: Read) -> Any:
    """A read of the documents of a kind."""
    return pytest.param(kind, read, id=f"{kind}-{name}")


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: what is checked is checked above the engines."""
    return "asyncio"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[StateStore]:
    """Two states of three versions each, a snapshot kept of the second, every event with an id of the caller's.

    In another governor, the clock of a state stands for a store that was retired.
    """
    clock = ManualClock()
    engine = SQLITE.make(tmp_path, clock)
    async with open_store(engine, clock=clock, snapshots=EveryEvents(2), indexed=["n"]) as store:
        await fill(store)
        yield store


@pytest.fixture
def behind(store: StateStore, tmp_path: Path) -> Iterator[apsw.Connection]:
    """A connection to the store's file past the library: what it edits keeps the checksum that was written with it."""
    with closing(apsw.Connection(str(tmp_path / "store.db"))) as connection:
        yield connection


async def fill(store: StateStore) -> None:
    """Write what the tests edit."""
    for state_id in ("alice", "bob"):
        for n in range(1, 4):
            await write(store, state_id, n)
    clock = ManualClock()
    async with open_store(MemoryEngine(clock), clock=clock) as gone:
        await gone.save_state("club", "ivy", {"n": 1}, METADATA)
        await sync(store, gone)
        assert (await retire_store(store, gone.store_id)).retired == 1


async def write(store: StateStore, state_id: str, n: int) -> Any:
    """One version, the same call each time."""
    data = {"of": state_id, "n": n}
    return await store.save_state(
        GOVERNOR, state_id, data, METADATA, expected=ANY, event_id=f"{state_id}-{n}", timestamp=TIME
    )


async def first_watched(store: StateStore) -> Any:
    """The state as a watch shows it first."""
    async with store.watch(GOVERNOR, "alice") as states:
        return await anext(states)


async def exported(store: StateStore) -> list[str]:
    """The lines of an export of the other governor, without those that differ each time."""
    async with TemporaryDirectory() as folder:
        path = Path(folder) / "export.jsonl"
        await persister(store).export_history("club", path)
        return (await AsyncPath(path).read_text()).splitlines()[1:-1]


async def compared(store: StateStore) -> Any:
    """What a sync of the other governor with an empty store would do."""
    async with open_store("memory://") as other:
        report = await sync(store, other, governor_id="club", dry_run=True)
    if report.failed:
        raise CorruptDocument(RETIRED, report.failed[0][1])
    return report


def persister(store: StateStore) -> StateMachinePersister:
    """The history of the store."""
    return StateMachinePersister(store)


READS = [
    case("event", "get_events", lambda store: collected(store.get_events(GOVERNOR, "alice"))),
    case("event", "get_events_after", lambda store: collected(store.get_events(GOVERNOR, "alice", after=2))),
    case("event", "get_all_events", lambda store: collected(store.get_all_events(GOVERNOR))),
    case("event", "history", lambda store: collected(store.state(GOVERNOR, "alice").history())),
    case("event", "replay", lambda store: collected(persister(store).replay(GOVERNOR, "alice"))),
    case("event", "at_a_version", lambda store: store.state(GOVERNOR, "alice").at(2)),
    case("event", "at_a_time", lambda store: store.state(GOVERNOR, "alice").at(UNTIL)),
    case("event", "the_same_call_again", lambda store: write(store, "alice", 2)),
    case("state", "get_state", lambda store: store.get_state(GOVERNOR, "alice")),
    case("state", "batch_get_states", lambda store: store.batch_get_states(GOVERNOR, ["alice", "bob"])),
    case("state", "list_states", lambda store: collected(store.list_states(GOVERNOR))),
    case("state", "watch", first_watched),
    case("state", "list_snapshots", lambda store: store.list_snapshots(GOVERNOR, "alice")),
    case("snapshot", "at_its_version", lambda store: store.state(GOVERNOR, "alice").at(2)),
    case("snapshot", "at_a_later_version", lambda store: store.state(GOVERNOR, "alice").at(3)),
    case("snapshot", "at_a_time", lambda store: store.state(GOVERNOR, "alice").at(UNTIL)),
    case("marker", "the_same_call_again", lambda store: write(store, "alice", 2)),
    case("retired", "export", exported),
    case("retired", "sync", compared),
]
QUERIES = [
    case("event", "get_events_between", lambda store: collected(store.get_events_between(GOVERNOR, TIME, UNTIL))),
    case("state", "find_states", lambda store: collected(store.find_states(GOVERNOR, {"n": [3, 4]}))),
]
PATHS = {"event": EVENT, "state": STATE, "snapshot": SNAPSHOT, "marker": MARKER, "retired": RETIRED}


def leaves(fields: dict[str, Any], *parents: str) -> Iterator[tuple[str, ...]]:
    """The keys that lead to each value of a document that holds no others."""
    for key, value in fields.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, *parents, key)
        else:
            yield (*parents, key)


def other(value: Any) -> Any:
    """Another value of the same kind: what a flipped bit or a careful hand leaves."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        found = list(re.finditer(r"[0-9a-z]", value))
        if not found:
            return '{"a":1}'
        at = found[-1].start()
        return value[:at] + ("3" if value[at] != "3" else "4") + value[at + 1 :]
    if isinstance(value, list):
        return value[:-1] or [1]
    return {"a": 1}


def edits(fields: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The document with each of its values changed or taken away, and what was done to it."""
    for keys in leaves(fields):
        for what in ("changed", "removed"):
            edited = deepcopy(fields)
            inner = edited
            for key in keys[:-1]:
                inner = inner[key]
            if what == "changed":
                inner[keys[-1]] = other(inner[keys[-1]])
            else:
                del inner[keys[-1]]
            yield f"{'.'.join(keys)} {what}", edited


async def outcome(store: StateStore, read: Read) -> Any:
    """What a read gives, another error than that of damage included; None where the damage is named."""
    try:
        return await read(store)
    except (CorruptDocument, EventSourcingError):
        return None
    except TaiStateError as error:
        return error


def text_at(behind: apsw.Connection, path: str) -> str:
    """The text of a document."""
    [(text,)] = behind.execute("SELECT fields FROM documents WHERE path = ?", (path,))
    return text


def put_text(behind: apsw.Connection, path: str, text: str) -> None:
    """Put another text in its place."""
    behind.execute("UPDATE documents SET fields = ? WHERE path = ?", (text, path))
    assert behind.changes() == 1


async def given_by(store: StateStore, behind: apsw.Connection, kind: str, read: Read) -> dict[str, Any]:
    """What a read gives after each edit of a document of this kind, by what was done; the document is as before then.

    Without those after which the damage is named.
    """
    path = PATHS[kind]
    whole = text_at(behind, path)
    given = {}
    for what, edited in edits(json.loads(whole)):
        put_text(behind, path, json.dumps(edited))
        given[what] = await outcome(store, read)
        put_text(behind, path, whole)
    assert given
    return {what: each for what, each in given.items() if each is not None}


@pytest.mark.parametrize(("kind", "read"), READS)
async def test_an_edited_value_is_not_served(store: StateStore, behind: apsw.Connection, kind: str, read: Read) -> None:
    """Whichever value of a document is changed or removed, a read gives what was written or names the damage."""
    written = await read(store)
    given = await given_by(store, behind, kind, read)
    assert [what for what, each in given.items() if each != written] == []
    assert await read(store) == written


@pytest.mark.parametrize(("kind", "query"), QUERIES)
async def test_an_edited_value_is_not_found(store: StateStore, behind: apsw.Connection, kind: str, query: Read) -> None:
    """A query gives nothing that was not written; it may miss what no longer has the value that it asks for."""
    written = await query(store)
    given = await given_by(store, behind, kind, query)
    strange = {
        what: found
        for what, found in given.items()
        if isinstance(found, TaiStateError) or any(each not in written for each in found)
    }
    assert list(strange) == []
    assert await query(store) == written


def swap(behind: apsw.Connection, first: str, second: str) -> None:
    """Let two documents of one collection change places, whole rows of the table."""
    ids = [path.rpartition("/")[2] for path in (first, second)]
    for old, new in ((ids[0], "between"), (ids[1], ids[0]), ("between", ids[1])):
        behind.execute(
            "UPDATE documents SET id = ? WHERE collection = ? AND id = ?", (new, first.rpartition("/")[0], old)
        )
        assert behind.changes() == 1


@pytest.mark.parametrize("read", [each.values[1] for each in READS if each.id in {"state-get_state", "state-watch"}])
async def test_states_that_changed_places_are_not_served(
    store: StateStore, behind: apsw.Connection, read: Read
) -> None:
    """A state's document that stands in another one's place is not given as that state."""
    swap(behind, STATE, STATE.replace("alice", "bob"))
    assert await outcome(store, read) is None


async def test_a_change_of_a_swapped_state_is_refused(
    store: StateStore, behind: apsw.Connection, tmp_path: Path
) -> None:
    """Nothing is written on top of a state that belongs to another stream, so the chain of events stays whole."""
    swap(behind, STATE, STATE.replace("alice", "bob"))
    clock = ManualClock()
    async with open_store(SQLITE.make(tmp_path, clock), clock=clock) as other_store:
        with pytest.raises((CorruptDocument, EventSourcingError)):
            await other_store.update_state(GOVERNOR, "alice", {"of": "alice", "n": 4}, METADATA, expected=3)
        swap(behind, STATE, STATE.replace("alice", "bob"))
        assert (await persister(other_store).validate_consistency()).findings == ()
    assert (await store.get_state(GOVERNOR, "alice")).version == 3


async def test_an_event_that_changed_places_is_not_served(store: StateStore, behind: apsw.Connection) -> None:
    """Events that changed places are given by no read of either stream."""
    swap(behind, EVENT, EVENT.replace("alice", "bob"))
    for state_id in ("alice", "bob"):
        with pytest.raises((CorruptDocument, EventSourcingError)):
            await collected(store.get_events(GOVERNOR, state_id))


def columns(connection: apsw.Connection) -> list[tuple[str, str]]:
    """The columns of the table of documents beside its key, the fields and the engine's token, and their types."""
    found = connection.execute("SELECT name, type FROM pragma_table_xinfo('documents') WHERE hidden = 0").fetchall()
    return [(name, kind) for name, kind in found if name not in {"collection", "id", "revision", "fields"}]


@pytest.mark.parametrize("path", [EVENT, STATE])
async def test_an_edited_column_is_not_served(tmp_path: Path, path: str) -> None:
    """A value changed in a column beside the document's text comes out of no read of an SQLite file."""
    url = f"sqlite:///{tmp_path}/store.db"
    reads: list[Read] = [each.values[1] for each in READS if each.id.startswith(("event-get", "state-get"))]
    async with open_store(url, indexed=["n"]) as store:
        await fill(store)
        written = [await read(store) for read in reads]
    served = []
    connection = apsw.Connection(str(tmp_path / "store.db"))
    for name, kind in columns(connection):
        [(value,)] = connection.execute(f"SELECT {name} FROM documents WHERE path = ?", (path,))
        if value is None:
            continue
        edited = value + 1_000_000 if kind == "INTEGER" else other(value)
        connection.execute(f"UPDATE documents SET {name} = ? WHERE path = ?", (edited, path))
        async with open_store(url, indexed=["n"]) as store:
            for read, before in zip(reads, written, strict=True):
                given = await outcome(store, read)
                served += [name] if given is not None and given != before else []
        connection.execute(f"UPDATE documents SET {name} = ? WHERE path = ?", (value, path))
    connection.close()
    assert served == []


def test_the_command_line_does_not_print_an_edited_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``history`` ends with the exit code of damage where an event was edited."""
    program = Inside(tmp_path, monkeypatch, capsys)
    rows = "machine,time,status\npump,2026-03-01T12:00:00Z,on\npump,2026-03-02T12:00:00Z,off\n"
    (tmp_path / "log.csv").write_text(rows)
    imported = ("import", "log.csv", "--governor", "g", "--machine", "machine", "--state", "status", "--time", "time")
    assert program(*imported).code == 0
    connection = apsw.Connection(str(tmp_path / "tai-state.db"))
    edit = "UPDATE documents SET fields = replace(fields, 'off', 'on!') WHERE id = 'pump~000000000002'"
    connection.execute(edit)
    assert connection.changes() == 1
    connection.close()
    ended = program("history", "g", "pump", "--json")
    assert ended.code == 4
    assert [each["version"] for each in json.loads(ended.out)] == [1]
