"""Verifying sees whatever a store needs and no longer has; recovering mends what follows from the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import apsw
import pytest

from tai_state import (
    ANY,
    ConsistencyReport,
    CorruptDocument,
    EveryEvents,
    Finding,
    StateMachinePersister,
    StateStore,
    TaiStateError,
    open_store,
)
from tai_state.engines.api import Delete
from tai_state.testing import AtCalls, FaultyEngine, ManualClock, MemoryEngine

from ..support.sqlite import flip_a_bit_in_an_index
from ..support.stores import GOVERNOR, METADATA, SQLITE, collected, edit, fields_at

pytestmark = pytest.mark.anyio

TIME = datetime(2026, 3, 1, tzinfo=UTC)
EVENT = "governors/bank/events/alice~000000000002"
FAR_AWAY_US = 9_000_000_000_000_000_000
"""In the year 287,000, which no time of Python's can be."""


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: what is checked is checked above the engines."""
    return "asyncio"


async def fill(store: StateStore, count: int = 3) -> None:
    """One state with an id for each of its changes, and a second governor."""
    for n in range(1, count + 1):
        await call(store, n)
    await store.save_state("shop", "x", {}, METADATA)


async def call(store: StateStore, n: int) -> Any:
    """A change with an id, the same call each time."""
    return await store.save_state(
        GOVERNOR, "alice", {"n": n}, METADATA, expected=ANY, event_id=f"id-{n}", timestamp=TIME
    )


@asynccontextmanager
async def without(*paths: str) -> AsyncIterator[StateStore]:
    """A filled store in memory from which documents were removed."""
    clock = ManualClock(step_us=1)
    engine = MemoryEngine(clock)
    async with open_store(engine, clock=clock) as store:
        await fill(store)
    async with engine:
        await engine.commit([Delete(path) for path in paths])
    async with open_store(engine, clock=clock) as store:
        yield store


async def verify(store: StateStore) -> ConsistencyReport:
    """What verifying says."""
    return await StateMachinePersister(store).validate_consistency()


def paths(report: ConsistencyReport) -> list[str]:
    """The documents that are named."""
    return [each.path for each in report.findings]


async def test_a_removed_governor_is_found() -> None:
    """A governor whose own document was removed is named, and its states are checked nevertheless."""
    async with without("governors/bank") as store:
        report = await verify(store)
        assert (report.consistent, report.states) == (False, 2)
        assert paths(report) == ["governors/bank"]


async def test_a_removed_governor_is_mended() -> None:
    """Recovering the whole store makes a removed governor's document anew, so that it is listed and checked again."""
    async with without("governors/bank") as store:
        report = await StateMachinePersister(store).recover()
        assert report.checked == 2
        assert await collected(store.list_governors()) == ["bank", "shop"]
        assert (await verify(store)).consistent


async def test_a_removed_marker_is_found() -> None:
    """The marker of a caller's event id that was removed is named: the same call would be applied again."""
    async with without("governors/bank/ids/id-2") as store:
        report = await verify(store)
        assert (report.consistent, paths(report)) == (False, ["governors/bank/ids/id-2"])


async def test_a_call_whose_marker_was_removed_is_not_applied_again() -> None:
    """After recovering, the same call with the same id changes nothing: it gives its first result or is refused."""
    async with without("governors/bank/ids/id-2") as store:
        await StateMachinePersister(store).recover()
        with suppress(TaiStateError):
            assert (await call(store, 2)).version == 2
        assert [each.event_id for each in await collected(store.get_events(GOVERNOR, "alice"))] == [
            "id-1",
            "id-2",
            "id-3",
        ]


async def test_a_marker_that_names_a_place_that_was_cleaned_up_is_found_and_mended() -> None:
    """There is no event in that place to compare it with; but the event that has the marker's id is another one."""
    marker = "governors/bank/ids/id-1"
    clock = ManualClock(step_us=1)
    async with open_store(MemoryEngine(clock), clock=clock, snapshots=EveryEvents(2)) as store:
        for n in range(4):
            await store.save_state(GOVERNOR, "dave", {"n": n}, METADATA, expected=n)
        clock.advance_us(2 * 86_400_000_000)
        await store.save_state(GOVERNOR, "dave", {"n": 4}, METADATA, expected=4)
        assert (await StateMachinePersister(store).cleanup_old_data(GOVERNOR, keep=timedelta(days=1))).events_deleted
        await fill(store)
        whole = await fields_at(store.core.engine, marker)
        await edit(store.core.engine, marker, state_id="dave")
        [found] = (await verify(store)).findings
        assert (found.path, found.kind) == (marker, "marker")
        assert "tai-state recover" in found.message
        assert (await StateMachinePersister(store).recover()).rebuilt == (marker,)
        assert await fields_at(store.core.engine, marker) == whole
        assert (await verify(store)).consistent
        assert (await call(store, 1)).version == 1


async def test_a_marker_that_names_another_event_is_one_finding() -> None:
    """Both the event that has the id and the one that is named show it; it is said once, and mended."""
    async with without() as store:
        marker = "governors/bank/ids/id-1"
        await edit(store.core.engine, marker, version=2)
        assert paths(await verify(store)) == [marker]
        assert (await StateMachinePersister(store).recover()).rebuilt == (marker,)
        assert (await verify(store)).consistent


async def test_an_event_id_that_stands_twice_is_found() -> None:
    """Two events of one stream with one id are named: a change was applied twice."""
    async with without("governors/bank/ids/id-2") as store:
        await call(store, 2)
        ids = [each.event_id for each in await collected(store.get_events(GOVERNOR, "alice"))]
        assert ids == ["id-1", "id-2", "id-3", "id-2"], "the marker is what kept the second one away"
        report = await verify(store)
        assert not report.consistent
        assert any("id-2" in each.path or "id" in each.message for each in report.findings)


@asynccontextmanager
async def edited(tmp_path: Path, statement: str) -> AsyncIterator[StateStore]:
    """A filled store on SQLite whose table was edited by hand."""
    url = f"sqlite:///{tmp_path}/store.db"
    async with open_store(url) as store:
        await fill(store)
    connection = apsw.Connection(str(tmp_path / "store.db"))
    connection.execute(statement)
    assert connection.changes() == 1
    connection.close()
    async with open_store(url) as store:
        yield store


COLUMNS = [
    "UPDATE documents SET timestamp = NULL WHERE id = 'alice~000000000002'",
    "UPDATE documents SET timestamp = '2026-03-02T00:00:00.000000Z' WHERE id = 'alice~000000000002'",
    pytest.param(
        f"UPDATE documents SET updated_us = {FAR_AWAY_US} WHERE id = 'alice~000000000002'",
    ),
    f"UPDATE documents SET updated_us = {FAR_AWAY_US} WHERE collection LIKE '%/states' AND id = 'alice'",
]


@pytest.mark.parametrize("statement", COLUMNS)
async def test_an_edited_column_is_found(tmp_path: Path, statement: str) -> None:
    """A column beside the text that does not fit the document is found, and the document is named."""
    async with edited(tmp_path, statement) as store:
        report = await verify(store)
        named = "governors/bank/states/alice" if "states" in statement else EVENT
        assert (report.consistent, paths(report)) == (False, [named])


async def read_events(store: StateStore) -> Any:
    """The events of the state."""
    return await collected(store.get_events(GOVERNOR, "alice"))


async def read_state(store: StateStore) -> Any:
    """The state."""
    return await store.get_state(GOVERNOR, "alice")


@pytest.mark.parametrize(("collection", "read"), [("events", read_events), ("states", read_state)])
async def test_an_impossible_recorded_time_is_damage(
    tmp_path: Path, collection: str, read: Callable[[StateStore], Awaitable[Any]]
) -> None:
    """A time beside a document that no clock can show makes a read name the document."""
    url = f"sqlite:///{tmp_path}/store.db"
    async with open_store(url) as store:
        await fill(store, 1)
    connection = apsw.Connection(str(tmp_path / "store.db"))
    columns = [name for (name,) in connection.execute("SELECT name FROM pragma_table_info('documents')")]
    times = ", ".join(f"{name} = {FAR_AWAY_US}" for name in columns if name.endswith("_us"))
    connection.execute(f"UPDATE documents SET {times} WHERE collection = 'governors/bank/{collection}'")
    assert connection.changes() == 1
    connection.close()
    async with open_store(url) as store:
        with pytest.raises(CorruptDocument) as caught:
            await read(store)
        assert f"/{collection}/alice" in caught.value.path


async def test_a_stream_that_begins_with_a_logged_event_is_checked() -> None:
    """After a cleanup whose first remaining event carries no state, the kept snapshot stands for it."""
    clock = ManualClock(step_us=1_000)
    async with open_store(MemoryEngine(clock), clock=clock, snapshots=EveryEvents(3)) as store:
        persister = StateMachinePersister(store)
        for n in (1, 2):
            await store.save_state(GOVERNOR, "alice", {"n": n}, METADATA, expected=ANY)
        await store.log_event(GOVERNOR, "alice", "inspected", METADATA)
        for n in range(4, 8):
            await store.save_state(GOVERNOR, "alice", {"n": n}, METADATA, expected=ANY)
        assert (await persister.validate_consistency()).consistent
        clock.advance_us(round(timedelta(days=100).total_seconds() * 1e6))
        cleaned = await persister.cleanup_old_data(GOVERNOR, keep=timedelta(days=30))
        assert cleaned.events_deleted == 2
        report = await persister.validate_consistency()
        assert (report.consistent, report.unchecked, report.findings) == (True, 0, ())


async def test_a_wrapped_engine_checks_its_storage(tmp_path: Path) -> None:
    """Damage below the documents is found through an engine that wraps the one whose file it is."""
    clock = ManualClock(step_us=1)
    async with open_store(SQLITE.make(tmp_path, clock), clock=clock) as store:
        await fill(store)
    flip_a_bit_in_an_index(tmp_path / "store.db")
    found = []
    for engine in (SQLITE.make(tmp_path, clock), FaultyEngine(SQLITE.make(tmp_path, clock), AtCalls({}))):
        async with open_store(engine, clock=clock) as store:
            found.append(paths(await verify(store)))
    assert found[0]
    assert found[1] == found[0]


async def comparisons(monkeypatch: pytest.MonkeyPatch, count: int) -> int:
    """How often verifying a stream of so many edited events compares two of its findings."""
    compared = 0

    class Counted(Finding):
        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return (self.path, self.kind, self.message) == (other.path, other.kind, other.message)  # type: ignore[attr-defined]

        def __hash__(self) -> int:
            return hash((self.path, self.kind, self.message))

    monkeypatch.setattr("tai_state.history.checking.Finding", Counted)
    async with open_store("memory://") as store:
        await call(store, 1)
        for _ in range(count - 1):
            await store.log_event(GOVERNOR, "alice", "seen", METADATA)
        for version in range(1, count + 1):
            await edit(store.core.engine, f"governors/bank/events/alice~{version:012d}", action="unseen")
        assert len((await verify(store)).findings) >= count
    return compared


async def test_verifying_costs_a_stream_no_more_for_each_further_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four times the damaged events cost about four times the comparisons of findings, not sixteen times."""
    few, many = await comparisons(monkeypatch, 25), await comparisons(monkeypatch, 100)
    assert many <= 6 * max(few, 1)
