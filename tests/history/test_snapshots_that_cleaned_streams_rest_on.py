"""A cleaned stream of events that a reducer folds rests on a kept snapshot; if that is damaged, on the next one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from tai_state import EveryEvents, StateMachinePersister, StateStore, sync
from tai_state.engines.api import Delete, Put
from tai_state.engines.memory import MemoryEngine

from ..support.histories import ALICE, HOUR, add, event_path, grow, snapshot_path
from ..support.operations import REDUCERS
from ..support.stores import GOVERNOR, Place, fields_at, make_store

pytestmark = pytest.mark.anyio

KEEP = timedelta(hours=20)
VERSIONS = 14


def opened(place: Place) -> StateStore:
    """A store that remembers nothing of what was written before."""
    return place.store(snapshots=EveryEvents(4, keep=5))


async def wholly(place: Place, store: StateStore) -> None:
    """Clean up everything before the snapshot at version 8."""
    persister = StateMachinePersister(store, REDUCERS)
    await add(persister, VERSIONS)
    place.clock.advance_us(30 * HOUR)
    assert (await persister.cleanup_old_data(GOVERNOR, keep=KEEP)).events_deleted == 7


async def in_part(place: Place, store: StateStore) -> None:
    """The same, and put events 3 to 7 back: a cleanup was killed before it had removed them."""
    persister, engine = StateMachinePersister(store, REDUCERS), store.core.engine
    await add(persister, VERSIONS)
    last = (await engine.read([event_path(version) for version in range(3, 8)])).documents
    place.clock.advance_us(30 * HOUR)
    assert (await persister.cleanup_old_data(GOVERNOR, keep=KEEP)).events_deleted == 7
    await engine.commit([Put(each.path, each.fields()) for each in last if each is not None])


Cleaned = Callable[[Place, StateStore], Awaitable[None]]

DAMAGE = {
    "state removed": [Delete(ALICE)],
    "state damaged": [Put(ALICE, {"no": "state"})],
    "oldest snapshot removed": [Delete(snapshot_path(8))],
    "oldest snapshot damaged": [Put(snapshot_path(8), {"no": "snapshot"})],
    "newest snapshot removed": [Delete(snapshot_path(12))],
    "newest snapshot damaged": [Put(snapshot_path(12), {"no": "snapshot"})],
    "state removed and oldest snapshot damaged": [Delete(ALICE), Put(snapshot_path(8), {"no": "snapshot"})],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=[each.replace(" ", "_") for each in DAMAGE])
@pytest.mark.parametrize("cleaned", [wholly, in_part])
async def test_a_recovery_leaves_a_stream_that_can_be_read_and_synced(
    place: Place, tmp_path: Path, cleaned: Cleaned, damage: list[Delete | Put]
):
    """Nothing is left to check, nor to say, and another store takes all of it over by a sync and by an export."""
    async with opened(place) as store:
        await cleaned(place, store)
        await store.core.engine.commit(damage)
    async with opened(place) as store, make_store(MemoryEngine(place.clock), place.clock) as other:
        persister = StateMachinePersister(store, REDUCERS)
        report = await persister.recover()
        assert (report.rebuilt, report.failed, report.unchecked) == ((ALICE,), (), ())
        found = await persister.validate_consistency()
        assert (found.findings, found.unchecked) == ((), 0)
        oldest = (await store.list_snapshots(GOVERNOR, "alice"))[0]
        assert [(await persister.get_state_at(GOVERNOR, "alice", n)).data for n in range(oldest, VERSIONS + 1)] == [
            {"n": n} for n in range(oldest, VERSIONS + 1)
        ]
        assert (await sync(store, other, reducers=REDUCERS)).complete
        assert (await other.get_state(GOVERNOR, "alice")).data == {"n": VERSIONS}
        await persister.export_history(GOVERNOR, tmp_path / "bank.jsonl")
    async with make_store(MemoryEngine(place.clock), place.clock) as third:
        restored = StateMachinePersister(third, REDUCERS)
        await restored.import_history(tmp_path / "bank.jsonl")
        assert (await restored.validate_consistency()).consistent


@pytest.mark.parametrize("damage", ["removed", "damaged"])
async def test_a_verification_says_that_only_a_backup_has_it(place: Place, damage: str):
    """A snapshot that nothing can make again is not said to be mended by a recovery; nor do reducers help."""
    async with opened(place) as store:
        await wholly(place, store)
        await store.core.engine.commit([Delete(snapshot_path(8)) if damage == "removed" else Put(snapshot_path(8), {})])
        report = await StateMachinePersister(store, REDUCERS).validate_consistency()
        [finding] = report.findings
        assert (finding.path, report.unchecked) == (snapshot_path(8), 0)
        assert finding.message.endswith(
            "restore a backup; if there is none, run `tai-state recover`, which gives up the versions before the next"
            " snapshot"
        )


async def test_a_snapshot_that_can_be_made_again_is_not_said_to_be_the_last(place: Place):
    """Where events lead to a damaged snapshot, a recovery loses nothing; that holds without reducers, too."""
    async with opened(place) as store:
        await wholly(place, store)
        await store.core.engine.commit([Put(snapshot_path(12), {})])
        for reducers in (REDUCERS, {}):
            [finding] = (await StateMachinePersister(store, reducers).validate_consistency()).findings
            assert finding.path == snapshot_path(12)
            assert finding.message.endswith(": run `tai-state recover`")


async def saved(place: Place, store: StateStore) -> None:
    """Clean up everything before the snapshot at version 8, of events that carry their states."""
    await grow(store, VERSIONS)
    place.clock.advance_us(30 * HOUR)
    assert (await StateMachinePersister(store).cleanup_old_data(GOVERNOR, keep=KEEP)).events_deleted == 7


SNAPSHOTS = [Delete(snapshot_path(version)) for version in (8, 12)]


@pytest.mark.parametrize("also", [[], [Delete(ALICE)]], ids=["snapshots", "snapshots and state"])
async def test_events_that_carry_their_states_need_no_snapshot(place: Place, also: list[Delete]):
    """If all snapshots are lost, the state is built from the first event that is left; nothing is left to say."""
    async with opened(place) as store, make_store(MemoryEngine(place.clock), place.clock) as other:
        await saved(place, store)
        before = await store.get_state(GOVERNOR, "alice")
        await store.core.engine.commit([*SNAPSHOTS, *also])
        persister = StateMachinePersister(store)
        assert (await persister.recover()).rebuilt == (ALICE,)
        assert (await store.get_state(GOVERNOR, "alice")).data == before.data
        assert (await fields_at(store.core.engine, ALICE))["unkept_bytes"] == sum(
            len(f'{{"n":{n}}}') for n in range(8, 15)
        )
        assert (await persister.get_state_at(GOVERNOR, "alice", 8)).data == {"n": 8}
        assert (await persister.validate_consistency()).consistent
        assert (await sync(store, other)).sent == 7


@pytest.mark.parametrize("lost", [[event_path(8)], [event_path(version) for version in (8, 9, 10)]], ids=len)
async def test_a_gap_is_not_taken_for_a_cleanup(place: Place, lost: list[str]):
    """Events that no cleanup may have removed are missing: a recovery does not begin after them."""
    async with opened(place) as store:
        await saved(place, store)
        await store.core.engine.commit([*SNAPSHOTS, *[Delete(path) for path in lost]])
        persister = StateMachinePersister(store)
        for _ in range(2):
            assert (event_path(8), "gap") in {
                (each.path, each.kind) for each in (await persister.validate_consistency()).findings
            }
            assert (await persister.recover()).failed


async def test_a_state_that_nothing_leads_to_is_not_said_to_be_mended(place: Place):
    """Where the state and all snapshots of a reducer's events are lost, only a backup helps, and verify says so."""
    async with opened(place) as store:
        await wholly(place, store)
        await store.core.engine.commit([*SNAPSHOTS, Delete(ALICE)])
        persister = StateMachinePersister(store, REDUCERS)
        assert (await persister.recover()).failed
        [finding] = (await persister.validate_consistency()).findings
        assert (finding.path, finding.message.endswith(": restore a backup")) == (ALICE, True)


async def test_events_that_carry_their_states_are_not_given_up(place: Place):
    """If the snapshot is damaged and its event carries the state, every version from there on is left."""
    async with opened(place) as store, make_store(MemoryEngine(place.clock), place.clock) as other:
        await saved(place, store)
        persister = StateMachinePersister(store)
        await store.core.engine.commit([Put(snapshot_path(8), {})])
        assert (await persister.recover()).rebuilt == (ALICE,)
        assert (await persister.get_state_at(GOVERNOR, "alice", 8)).data == {"n": 8}
        assert (await persister.validate_consistency()).consistent
        assert (await sync(store, other)).sent == 7
