"""The page on parity is true: its names are there, and its tables are those of the code."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import pytest

from tai_state import (
    CommitOutcomeUnknown,
    EventualConsistency,
    StaleRead,
    StateMachinePersister,
    StateStore,
    Transaction,
    VersionConflict,
    errors,
)
from tai_state.testing import AtCalls, Fault, FaultyEngine

from ..support.accounts import grow
from ..support.overtaking import Overtaken
from ..support.pages import DOCS, ROOT, is_there
from ..support.program import COMMANDS
from ..support.stores import GOVERNOR, MEMORY, METADATA, CountingEngine, Places, edit

PAGE = (DOCS / "parity.md").read_text()
FORMAT = (DOCS / "format.md").read_text()


class Row(NamedTuple):
    """A row of a table: the heading above it, and its cells."""

    heading: str
    cells: tuple[str, ...]


def _rows() -> list[Row]:
    """The rows of all tables of the page, without their heads."""
    rows: list[Row] = []
    heading = ""
    for line, following in zip(lines := PAGE.splitlines(), [*lines[1:], ""], strict=True):
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("| ") and not line.startswith("| ---") and not following.startswith("| ---"):
            rows.append(Row(heading, tuple(cell.strip() for cell in line.strip("|").split(" |"))))
    return rows


ROWS = _rows()
COUNTED = "Latencies"
CLASSES = [row.cells for row in ROWS if row.cells[0].startswith("`tai_state.")]


def _under(heading: str) -> list[tuple[str, ...]]:
    return [row.cells for row in ROWS if row.heading == heading]


def _command(name: str) -> bool:
    return name.partition(" ")[0] in COMMANDS


_FORMS: dict[str, Callable[[str], bool]] = {
    r"(tai_state\.[\w.]+(?:\(\w+=\))?)": is_there,
    r"tai-state (.+)": _command,
    r"nox -s (\w+)": lambda name: f"\ndef {name}(" in (ROOT / "noxfile.py").read_text(),
    r"((?:governors|locks|lockbeats)/.+)": lambda path: f"| `{path}` |" in FORMAT,
    r"((?:tests|examples)/[\w/]+\.py)": lambda path: (ROOT / path).is_file(),
    r"([A-Z]+)": lambda level: level in logging.getLevelNamesMapping(),
}
"""What may stand as code in the column of the things here, and how each form is looked up."""


def _resolves(span: str) -> bool:
    for form, is_known in _FORMS.items():
        if found := re.fullmatch(form, span):
            return is_known(found[1])
    return False


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.heading != COUNTED and row.cells not in CLASSES], ids=lambda row: row.cells[0]
)
def test_a_row_says_where_the_thing_is(row: Row) -> None:
    """The last cell says where a thing is, that it is not yet, or why it is different; each name in it resolves."""
    _, here = row.cells
    assert re.match(r"here\b|different on purpose: |not yet\b", here)
    spans = re.findall(r"`([^`]+)`", here)
    assert [span for span in spans if not _resolves(span)] == []
    if here.startswith("here"):
        assert spans or "](" in here, "it names nothing"


def test_what_does_not_resolve_is_seen() -> None:
    """Each form of code that the column may have is refused if what it names is not there."""
    assert _resolves("tai-state stats --size")
    wrong = ["tai_state.Nothing", "tai_state.open_store(nothing=)", "tai-state nothing", "nox -s nothing", "anything"]
    assert not any(map(_resolves, [*wrong, "governors/{g}/nothing", "tests/nothing.py", "LOUD"]))


def test_what_is_not_yet_here_is_not_here() -> None:
    """An error of a row that says "not yet" is none of the library's: once it is built, its row says so."""
    named = {
        name for row in ROWS if row.cells[-1].startswith("not yet") for name in re.findall(r"`(\w+)`", row.cells[0])
    }
    assert {"ConsensusFailed", "HierarchyCycle", "CommandRejected"} <= named
    assert named & {*vars(errors)} == set()


def test_the_table_of_errors_is_the_codes() -> None:
    """Each class of errors but families is in the table, with its ``is_transient`` and its backoff."""
    classes = [
        each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.TaiStateError)
    ]
    families = {
        *("TaiStateError", "NotFound", "Rejected", "Conflict", "TransitionRefused", "Inconsistent", "Unavailable")
    }
    in_code = [
        (each.__name__, "yes" if each.is_transient else "no", f"{each.backoff_seconds:g}")
        for each in classes
        if each.__name__ not in families
    ]
    assert [(name.strip("`").rpartition(".")[2], *said) for name, *said, _ in CLASSES] == in_code


def test_the_documents_have_the_originals_fields() -> None:
    """Each document of the original's data model has its row, and the row of each field names a stored field."""
    rows = _under("The three documents")
    documents = [first for first, _ in rows if " document " in first]
    assert [first.split()[0] for first in documents] == ["state", "event", "snapshot", "lock"]
    fields = ("data", "version", "timestamp", "changed_by", "reason", "parent_version", "context")
    fields += ("action", "from_state", "to_state", "timestamp", "causality", "metadata", "state", "timestamp")
    named = [first.strip("`").rpartition(".")[2] for first, _ in rows if " document " not in first]
    assert named == [*fields]


# Calls -------------------------------------------------------------------------------------------------------------


class Scene(NamedTuple):
    """Where calls are counted.

    Attributes:
        store: the store that does the work; it has seen the state ``second``, and not the state ``first``.
        engine: its engine, which counts.
        overtaken: the engine inside, which lets others act before a call.
        other: another store over the same documents.
    """

    store: StateStore
    engine: CountingEngine
    overtaken: Overtaken
    other: StateStore


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    """A store with two states, and another store beside it."""
    with Places(MEMORY) as places:
        place = places.new()
        overtaken = Overtaken(place.engine())
        engine = CountingEngine(overtaken)  # type: ignore[arg-type]
        async with place.store() as other, place.store(engine) as store:  # type: ignore[arg-type]
            await other.save_state(GOVERNOR, "first", {"n": 0}, METADATA)
            await store.save_state(GOVERNOR, "second", {"n": 0}, METADATA)
            yield Scene(store, engine, overtaken, other)


Operation = Callable[[Scene], Awaitable[Any]]


async def _save(scene: Scene) -> None:
    await scene.store.save_state(GOVERNOR, "alice", {}, METADATA)


async def _get(scene: Scene) -> None:
    await scene.store.get_state(GOVERNOR, "first")


async def _get_many(scene: Scene) -> None:
    assert len(await scene.store.batch_get_states(GOVERNOR, [str(n) for n in range(100)])) == 100


async def _update_seen(scene: Scene) -> None:
    await scene.store.update_state(GOVERNOR, "second", {}, METADATA, expected=1)


async def _update_unseen(scene: Scene) -> None:
    await scene.store.update_state(GOVERNOR, "first", {}, METADATA, expected=1)


async def _update_by_function(scene: Scene) -> None:
    await scene.store.state(GOVERNOR, "second").update(lambda now: {"n": now["n"] + 1}, METADATA)


async def _update_outrun(scene: Scene) -> None:
    rival = scene.other.state(GOVERNOR, "second")
    scene.overtaken.plan(2, lambda: rival.save({"n": 7}, METADATA, expected=1))
    updated = await scene.store.state(GOVERNOR, "second").update(lambda now: {"n": now["n"] + 1}, METADATA)
    assert updated.data == {"n": 8}


async def _update_too_late(scene: Scene) -> None:
    await scene.other.update_state(GOVERNOR, "second", {}, METADATA, expected=1)
    scene.engine.reset()
    with pytest.raises(VersionConflict) as raised:
        await scene.store.update_state(GOVERNOR, "second", {}, METADATA, expected=1)
    assert len(raised.value.events) == 1


async def _transact(scene: Scene) -> None:
    async def move(transaction: Transaction) -> None:
        for state in await transaction.get_all("first", "second"):
            assert state is not None
            transaction.put(state.state_id, {"n": state.data["n"] + 1})

    await scene.store.transactions.execute_transaction(GOVERNOR, move, METADATA)


async def _recover(scene: Scene) -> None:
    await grow(scene.other, "alice", 1_000)
    scene.engine.reset()
    assert not (await StateMachinePersister(scene.store).load_state(GOVERNOR, "alice")).recovered
    assert scene.engine.counts.documents <= 103


async def _recover_edited(scene: Scene) -> None:
    await grow(scene.other, "alice", 1_000)
    await edit(scene.other.core.engine, "governors/bank/states/alice", data={"edited": True})
    scene.engine.reset()
    assert (await StateMachinePersister(scene.store).load_state(GOVERNOR, "alice")).recovered


async def _travel(scene: Scene) -> None:
    await grow(scene.other, "alice", 1_000)
    scene.engine.reset()
    assert (await scene.store.get_state_at(GOVERNOR, "alice", 777)).version == 777


OPERATIONS: dict[str, Operation] = {
    "save a state": _save,
    "get a state": _get,
    "get a hundred states": _get_many,
    "update a state that this store has seen": _update_seen,
    "update a state that this store has not seen": _update_unseen,
    "update by a function": _update_by_function,
    "update by a function, another writer was faster once": _update_outrun,
    "update too late, and be told of the event not seen": _update_too_late,
    "transaction: read two states, write both": _transact,
    "recover a state of 1,000 events": _recover,
    "the same after somebody edited the state": _recover_edited,
    "read a state at one of its 1,000 versions": _travel,
}


@pytest.mark.anyio
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_an_operation_takes_the_calls_that_the_page_says(operation: str, scene: Scene) -> None:
    """The calls of the engine that an operation makes, counted, are those in its row."""
    [said] = [cells[-1] for cells in _under(COUNTED) if cells[0] == operation]
    scene.engine.reset()
    await OPERATIONS[operation](scene)
    counts = scene.engine.counts
    calls = {"read": counts.reads, "scan": counts.scans, "commit": len(counts.commits)}
    assert ", ".join(f"{n} {verb}{'s' if n > 1 else ''}" for verb, n in calls.items() if n) == said


def test_every_operation_of_the_page_is_counted() -> None:
    """Each row of the table of calls has its operation, in the same order."""
    assert [cells[0] for cells in _under(COUNTED)] == [*OPERATIONS]


# Logs --------------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_the_levels_of_logs_are_as_the_page_says(caplog: pytest.LogCaptureFixture) -> None:
    """A replay is logged at DEBUG, a write at INFO, a conflict at WARNING, and an unknown outcome at ERROR."""

    def logged() -> list[tuple[str, str]]:
        records = [
            (record.levelname, record.message) for record in caplog.records if record.name.startswith("tai_state")
        ]
        caplog.clear()
        return records

    caplog.set_level(logging.DEBUG, "tai_state")
    with Places(MEMORY) as places:
        place = places.new()
        engine = FaultyEngine(place.engine(), AtCalls({}))
        async with place.store(engine, timeout_seconds=0.0) as store:
            old = await store.save_state(GOVERNOR, "alice", {}, METADATA)
            new = await store.update_state(GOVERNOR, "alice", {}, METADATA, expected=1)
            assert logged() == [("INFO", "recorded")] * 2
            [event async for event in StateMachinePersister(store).replay(GOVERNOR, "alice")]
            assert ("DEBUG", "a fold begins") in logged()
            with pytest.raises(VersionConflict):
                await store.update_state(GOVERNOR, "alice", {}, METADATA, expected=1)
            assert ("WARNING", "version conflict") in logged()
            with pytest.raises(StaleRead):
                EventualConsistency(store).detect_stale_read(old, [new.causality])
            assert logged() == [("WARNING", "stale read")]
            calls = engine.statistics().calls
            engine.plan = AtCalls({("any", calls + 1 + number): Fault.LOST_BEFORE for number in range(1_000)})
            with pytest.raises(CommitOutcomeUnknown):
                await store.update_state(GOVERNOR, "alice", {}, METADATA, expected=2)
            records = logged()
            assert {level for level, _ in records} == {"WARNING", "ERROR"}
            assert records[-1] == ("ERROR", "the outcome of a commit is unknown")
    assert [first.partition(":")[0] for first, _ in _under("Logs")] == ["DEBUG", "INFO", "WARN", "ERROR"]


def test_the_page_says_the_five_metrics() -> None:
    """Each of the five metrics has its row."""
    named = [first for first, _ in _under("Metrics")]
    assert named == ["updates", "conflict rate", "distribution of retry counts", "recovery time", "storage size"]
