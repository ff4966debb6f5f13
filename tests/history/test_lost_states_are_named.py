"""A state that is lost or set back is named by whatever takes the whole of a history, and not left out in silence."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from tai_state import (
    CorruptDocument,
    EventSourcingError,
    EveryEvents,
    StateMachinePersister,
    StateStore,
    open_store,
    retire_store,
    sync,
)
from tai_state.engines.api import Delete, Put

from ..support.histories import HOUR, grow
from ..support.stores import GOVERNOR, METADATA, Place, dump, edit, fields_at

pytestmark = pytest.mark.anyio

STATES = "governors/bank/states"
KEEP = timedelta(hours=2)


def opened(place: Place) -> StateStore:
    """A store that remembers nothing of what was written before."""
    return place.store(snapshots=EveryEvents(2, keep=2))


def list_of(folder: Path) -> list[Path]:
    """The files in a folder."""
    return [*folder.iterdir()]


async def fill(place: Place, *lost: str, is_cleaned: bool = False) -> None:
    """Four states of six versions each, with ids of which one begins another one; some of their documents are lost."""
    async with opened(place) as store:
        for state_id in ("a", "a0", "b", "é"):
            await grow(store, 6, state_id)
        if is_cleaned:
            place.clock.advance_us(100 * HOUR)
            assert (await StateMachinePersister(store).cleanup_old_data(GOVERNOR, keep=KEEP)).states == 4
        await store.core.engine.commit([Delete(f"{STATES}/{each}") for each in lost])


@pytest.mark.parametrize("is_cleaned", [False, True], ids=["whole", "cleaned"])
@pytest.mark.parametrize("lost", ["a", "a0", "b", "é"])
async def test_an_export_without_a_lost_state_is_refused(place: Place, tmp_path: Path, lost: str, *, is_cleaned: bool):
    """Where a state's document is lost, an export leaves no file and names it; after a recovery it has all of them."""
    await fill(place, lost, is_cleaned=is_cleaned)
    file = tmp_path / "bank.jsonl"
    async with opened(place) as store:
        persister = StateMachinePersister(store)
        with pytest.raises(EventSourcingError, match="tai-state verify") as refused:
            await persister.export_history(GOVERNOR, file)
        assert refused.value.path == f"{STATES}/{lost}"
        assert not list_of(tmp_path)
        await persister.recover(GOVERNOR)
        assert (await persister.export_history(GOVERNOR, file)).states == 4


async def test_an_export_of_a_state_that_is_set_back_is_refused(place: Place, tmp_path: Path):
    """An older document of a state, sound in itself, does not cut the newest events off: the export names the state."""
    async with opened(place) as store:
        await grow(store, 3)
        older = await fields_at(store.core.engine, f"{STATES}/alice")
        for version in range(3, 6):
            await store.save_state(GOVERNOR, "alice", {"n": version + 1}, METADATA, expected=version)
        await store.core.engine.commit([Put(f"{STATES}/alice", older)])
        persister = StateMachinePersister(store)
        with pytest.raises(CorruptDocument, match="tai-state recover") as refused:
            await persister.export_history(GOVERNOR, tmp_path / "bank.jsonl")
        assert refused.value.path == f"{STATES}/alice"
        assert not list_of(tmp_path)
        await persister.recover(GOVERNOR)
        assert (await persister.export_history(GOVERNOR, tmp_path / "bank.jsonl")).events == 6


async def with_ids(place: Place) -> None:
    """A cleaned state all of whose events had ids of the caller's."""
    async with opened(place) as store:
        for n in range(12):
            await store.save_state(GOVERNOR, "a", {"n": n}, METADATA, expected=n, event_id=f"a-{n}")
        place.clock.advance_us(100 * HOUR)
        assert (await StateMachinePersister(store).cleanup_old_data(GOVERNOR, keep=KEEP)).events_deleted == 9


@pytest.mark.parametrize("damage", ["lost", "damaged"])
async def test_one_damaged_state_is_one_finding(place: Place, damage: str):
    """The ids whose events were cleaned up are no findings of their own where a state is lost or damaged."""
    await with_ids(place)
    async with opened(place) as store:
        if damage == "lost":
            await store.core.engine.commit([Delete(f"{STATES}/a")])
        else:
            await edit(store.core.engine, f"{STATES}/a", version="none")
        persister = StateMachinePersister(store)
        assert [each.path for each in (await persister.validate_consistency()).findings] == [f"{STATES}/a"]
        await persister.recover()
        assert (await persister.validate_consistency()).consistent


async def test_the_ids_of_a_stream_that_is_gone_are_one_finding(place: Place):
    """Where nothing is left of a stream but the markers of its ids, one of them is named for all."""
    await with_ids(place)
    async with opened(place) as store:
        gone = [path for path in await dump(store.core.engine) if "/ids/" not in path and path != "governors/bank"]
        await store.core.engine.commit([Delete(path) for path in gone])
        found = (await StateMachinePersister(store).validate_consistency()).findings
        assert [each.path for each in found] == ["governors/bank/ids/a-0"]


Names = Callable[[StateStore], Awaitable[list[str]]]


async def by_cleanup(store: StateStore) -> list[str]:
    """The paths that a cleanup names."""
    stats = await StateMachinePersister(store).cleanup_old_data(GOVERNOR, keep=KEEP)
    assert stats.skipped == len(stats.failed)
    return [path for path, _ in stats.failed]


async def by_sync(store: StateStore) -> list[str]:
    """The paths that a sync to an empty store names."""
    async with open_store("memory://") as other:
        return [path for path, _ in (await sync(store, other)).failed]


async def by_sync_back(store: StateStore) -> list[str]:
    """The paths that a sync from an empty store names."""
    async with open_store("memory://") as other:
        return [path for path, _ in (await sync(other, store, governor_id=GOVERNOR)).failed]


async def by_retirement(store: StateStore) -> list[str]:
    """The paths that the retirement of another store names."""
    return [path for path, _ in (await retire_store(store, "0123456789abcdef")).failed]


@pytest.mark.parametrize("names", [by_cleanup, by_sync, by_sync_back, by_retirement])
async def test_lost_states_are_failures(place: Place, names: Names):
    """What goes through all states of a governor names those whose documents are lost, each once."""
    await fill(place, "a", "b")
    async with opened(place) as store:
        assert await names(store) == [f"{STATES}/a", f"{STATES}/b"]


async def test_a_sync_names_a_state_that_both_stores_have_lost(place: Place):
    """A state whose document is lost in both stores is not the same in both: each of them is named."""
    await fill(place)
    async with opened(place) as store, open_store("memory://") as other:
        await sync(store, other)
        for each in (store, other):
            await each.core.engine.commit([Delete(f"{STATES}/b")])
            each.core.appender.heads.drop(f"{STATES}/b")
        report = await sync(store, other)
        assert [path for path, _ in report.failed] == [f"{STATES}/b"] * 2
