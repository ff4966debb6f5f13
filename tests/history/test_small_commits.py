"""Import, restore, cleanup and sync on an engine that takes 128 writes and 1.5 MiB in a commit."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tai_state import (
    ANY,
    Columns,
    EveryEvents,
    InvalidData,
    Never,
    NewEvent,
    StateMachinePersister,
    StateStore,
    sync,
)

from ..support.operations import REDUCERS
from ..support.small_engine import SmallEngine
from ..support.stores import GOVERNOR, METADATA, Place, Places, collected, dump

pytestmark = pytest.mark.anyio

CELLS = 8
CELL_MAX = 100_000
"""Characters; Python's own reader takes few more in a cell."""
COLUMNS = Columns("machine", tuple(f"text{n}" for n in range(CELLS)), "time")
LARGE = 700_000
"""Characters of which a state is so large that one commit takes it twice, and not a third time."""


def small_store(place: Place, **options: Any) -> StateStore:
    """A store on an engine that takes little in a commit."""
    return place.store(SmallEngine(place.engine()), **options)  # type: ignore[arg-type]


def write_csv(path: Path, rows: Sequence[tuple[str, str]]) -> Path:
    """A file with a row for each machine and text, the text cut into cells."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([COLUMNS.machine, COLUMNS.time, *COLUMNS.states])
        for machine, text in rows:
            cells = [text[n * CELL_MAX : (n + 1) * CELL_MAX] for n in range(CELLS)]
            writer.writerow([machine, "2026-01-31T09:15:00Z", *cells])
    return path


async def _assert_consistent(store: StateStore) -> None:
    report = await StateMachinePersister(store, REDUCERS).validate_consistency()
    assert report.consistent, report.findings


@pytest.mark.parametrize("policy", [EveryEvents(1, keep=2), EveryEvents(1, keep=200), Never()], ids=repr)
@pytest.mark.parametrize("machines", [1, 7, 300])
async def test_an_import(memory_places: Places, tmp_path: Path, machines: int, policy: EveryEvents | Never):
    """Each row of many machines, or of few, becomes its event, whatever snapshots are kept."""
    rows = [(f"m{n % machines}", str(n)) for n in range(300)]
    path = write_csv(tmp_path / "log.csv", rows)
    async with small_store(memory_places.new(), snapshots=policy) as store:
        stats = await StateMachinePersister(store).import_csv(GOVERNOR, path, COLUMNS)
        assert (stats.events, stats.machines) == (300, machines)
        events = await collected(store.get_all_events(GOVERNOR))
        assert sorted((event.state_id, event.to_state["text0"]) for event in events) == sorted(rows)
        await _assert_consistent(store)


async def test_an_import_of_large_rows(memory_places: Places, tmp_path: Path):
    """Rows of which one commit takes only one are imported, without the snapshots that would not fit."""
    path = write_csv(tmp_path / "log.csv", [(f"m{n % 2}", str(n) + "x" * LARGE) for n in range(6)])
    async with small_store(memory_places.new(), snapshots=EveryEvents(1)) as store:
        stats = await StateMachinePersister(store).import_csv(GOVERNOR, path, COLUMNS)
        assert stats.events == 6
        await _assert_consistent(store)


async def test_an_import_refuses_a_row_that_no_commit_takes(memory_places: Places, tmp_path: Path):
    """Where an event and its state do not fit into a commit, the row is named before anything is written."""
    path = write_csv(tmp_path / "log.csv", [("m", "small"), ("m", "x" * 800_000)])
    async with small_store(memory_places.new()) as store:
        with pytest.raises(InvalidData, match=r"row 2 would take .*, but the limit is 786,432"):
            await StateMachinePersister(store).import_csv(GOVERNOR, path, COLUMNS)
        assert await collected(store.list_governors()) == []


async def test_a_restore(memory_places: Places, tmp_path: Path):
    """An export of many states, of long streams and of large states comes back as it was."""
    path = tmp_path / "export.jsonl"
    here, there = memory_places.new(), memory_places.new()
    async with here.store(snapshots=EveryEvents(50)) as store:
        for n in range(200):
            await store.save_state(GOVERNOR, f"s{n}", {"n": n}, METADATA, event_id=f"e{n}")
        for n in range(300):
            await store.save_state(GOVERNOR, "long", {"n": n}, METADATA, expected=n)
        for n in range(4):
            await store.save_state(GOVERNOR, f"large{n}", {"text": "x" * LARGE}, METADATA)
        await StateMachinePersister(store).export_history(GOVERNOR, path)
        expected = await dump(store.core.engine)
    async with small_store(there) as store:
        await StateMachinePersister(store).import_history(path)
        assert await dump(store.core.engine) == expected
        await _assert_consistent(store)


@pytest.mark.parametrize("keep", [2, 300], ids=["few snapshots", "more snapshots than a commit drops"])
async def test_a_cleanup(memory_places: Places, keep: int):
    """All that is old goes, however many events and snapshots that are, and what is left stands for itself."""
    place = memory_places.new()
    async with small_store(place, snapshots=EveryEvents(1, keep=keep)) as store:
        persister = StateMachinePersister(store)
        for n in range(300):
            await store.save_state(GOVERNOR, "long", {"n": n}, METADATA, expected=n)
        await persister.cleanup_old_data(GOVERNOR, keep=timedelta(hours=1))
        place.clock.advance_us(86_400_000_000 * 3)
        for n in range(300, 310):
            await store.save_state(GOVERNOR, "long", {"n": n}, METADATA, expected=n)
        kept = await store.list_snapshots(GOVERNOR, "long")
        old = [version for version in kept if version <= 300]
        stats = await persister.cleanup_old_data(GOVERNOR, keep=timedelta(days=1))
        left = await store.list_snapshots(GOVERNOR, "long")
        assert left[0] == 300
        assert stats.snapshots_deleted == len(set(old) - set(left))
        assert (stats.states, stats.events_deleted) == (1, 299)
        assert [event.version for event in await collected(store.get_events(GOVERNOR, "long"))] == [*range(300, 311)]
        await _assert_consistent(store)


async def test_a_cleanup_that_is_broken_off_leaves_the_floor_its_snapshot(memory_places: Places):
    """Where snapshots are dropped in several commits, the stream stands on a kept one after each of them."""
    place = memory_places.new()
    engine = SmallEngine(place.engine())
    async with place.store(engine, snapshots=EveryEvents(1, keep=400)) as store:  # type: ignore[arg-type]
        persister = StateMachinePersister(store, REDUCERS)
        for version in range(1, 301):
            await persister.record(GOVERNOR, "long", [NewEvent("add", 1)], METADATA, expected=ANY)
            if version == 21:
                place.clock.advance_us(86_400_000_000 * 3)
        await persister.cleanup_old_data(GOVERNOR, keep=timedelta(days=1))
        assert (await store.list_snapshots(GOVERNOR, "long"))[0] == 21
        place.clock.advance_us(86_400_000_000 * 3)
        await persister.record(GOVERNOR, "long", [NewEvent("add", 1)], METADATA, expected=ANY)
        steps = 0
        commit = engine.commit

        async def judged(writes: Any) -> Any:
            nonlocal steps
            committed = await commit(writes)
            [oldest, *_] = await store.list_snapshots(GOVERNOR, "long")
            steps += oldest == 21
            for version in (oldest, oldest + 1, 300):
                assert (await persister.get_state_at(GOVERNOR, "long", version)).data == {"n": version}
            await _assert_consistent(store)
            return committed

        engine.commit = judged  # type: ignore[method-assign]
        stats = await persister.cleanup_old_data(GOVERNOR, keep=timedelta(days=1))
        assert steps > 1
        assert (stats.events_deleted, stats.snapshots_deleted) == (279, 279)


async def test_a_cleanup_of_a_large_state(memory_places: Places):
    """A state of which a commit does not take a snapshot beside it rests on the one that is kept already."""
    place = memory_places.new()
    large = {"text": "x" * 900_000}
    async with place.store(snapshots=EveryEvents(2, keep=4)) as store:
        for n in range(8):
            await store.save_state(GOVERNOR, "large", {**large, "n": n}, METADATA, expected=n)
        place.clock.advance_us(86_400_000_000 * 3)
        for n in range(8, 11):
            await store.save_state(GOVERNOR, "large", {**large, "n": n}, METADATA, expected=n)
    async with small_store(place, snapshots=EveryEvents(2, keep=4)) as store:
        stats = await StateMachinePersister(store).cleanup_old_data(GOVERNOR, keep=timedelta(days=1))
        assert stats.events_deleted == 7
        await _assert_consistent(store)


async def _events_with_ids(store: StateStore) -> None:
    for n in range(300):
        await store.save_state(GOVERNOR, "s", {"n": n}, METADATA, expected=n, event_id=f"e{n}")


async def _events_with_payloads(store: StateStore) -> None:
    events = [NewEvent("add", 1) for _ in range(300)]
    await StateMachinePersister(store, REDUCERS).record(GOVERNOR, "s", events, METADATA, expected=ANY)


async def _large_events(store: StateStore) -> None:
    for n in range(5):
        await store.save_state(GOVERNOR, "s", {"n": n, "text": "x" * LARGE}, METADATA, expected=n)


async def _from_large_to_small(store: StateStore) -> None:
    for n in range(200):
        data = {"n": n, "text": "x" * (LARGE if n == 3 else 1_000 * (n % 5))}
        await store.save_state(GOVERNOR, "s", data, METADATA, expected=n)


@pytest.mark.parametrize("fill", [_events_with_ids, _events_with_payloads, _large_events, _from_large_to_small])
async def test_a_sync(memory_places: Places, fill: Any):
    """A stream longer or larger than a commit is taken over whole."""
    here, there = memory_places.new(), memory_places.new()
    async with here.store() as big, small_store(there, snapshots=EveryEvents(2)) as small:
        await fill(big)
        report = await sync(big, small, reducers=REDUCERS)
        events = await collected(big.get_events(GOVERNOR, "s"))
        assert (report.sent, report.failed) == (len(events), ())
        assert [event.event_id for event in await collected(small.get_events(GOVERNOR, "s"))] == [
            event.event_id for event in events
        ]
        assert (await small.get_state(GOVERNOR, "s")).data == (await big.get_state(GOVERNOR, "s")).data
        await _assert_consistent(small)
