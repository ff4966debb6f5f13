"""The history of machines: replay, time travel, recovery, cleanup, verification, export and restore."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tai_state import (
    ANY,
    EXISTS,
    NO_STATE,
    ChangeMetadata,
    CleanupStats,
    ConsistencyReport,
    CorruptDocument,
    EventSourcingError,
    EveryEvents,
    GovernorNotFound,
    IncompatibleFormat,
    InvalidData,
    NewEvent,
    NotRetained,
    RecoveryReport,
    ReducerMissing,
    StateMachinePersister,
    StateNotFound,
    StateSnapshot,
    StateStore,
    StoreTimeout,
    TaiStateError,
    VersionConflict,
)
from tai_state.engines.api import ANYTHING, Committed, Delete, Document, Engine, Put, Scan, Write, after
from tai_state.engines.paging import Paged, taken
from tai_state.errors import Conflict, GovernorExists, Inconsistent, Unavailable
from tai_state.store.streams import Folded
from tai_state.testing.faults import AtCalls, Fault, FaultyEngine
from tai_state.values.digests import state_hash
from tai_state.values.events import JsonEvent
from tai_state.values.times import from_us

from .support.operations import REDUCERS
from .support.stores import (
    GOVERNOR,
    METADATA,
    SQLITE,
    AroundEngine,
    Place,
    Places,
    collected,
    dump,
    edit,
    fields_at,
    fix_identity,
)

pytestmark = pytest.mark.anyio

ALICE = "governors/bank/states/alice"
HOUR = 3_600_000_000


def event_path(version: int, state_id: str = "alice") -> str:
    """The path of an event."""
    return f"governors/bank/events/{state_id}~{version:012d}"


def snapshot_path(version: int, state_id: str = "alice") -> str:
    """The path of a kept snapshot."""
    return f"governors/bank/snapshots/{state_id}~{version:012d}"


@pytest.fixture
async def store(place: Place) -> AsyncIterator[StateStore]:
    """An open store that keeps a snapshot every three events."""
    async with place.store(snapshots=EveryEvents(3, keep=9)) as store:
        yield store


@pytest.fixture
def persister(store: StateStore) -> StateMachinePersister:
    """The store's persister, with reducers."""
    return StateMachinePersister(store, REDUCERS)


async def grow(store: StateStore, versions: int, state_id: str = "alice", governor_id: str = GOVERNOR) -> None:
    """States ``{"n": 1}``, ``{"n": 2}`` and so on."""
    for version in range(versions):
        await store.save_state(governor_id, state_id, {"n": version + 1}, METADATA, expected=version)


async def add(persister: StateMachinePersister, count: int, state_id: str = "alice") -> None:
    """The same states, each by a payload-carrying event."""
    for _ in range(count):
        await persister.record(GOVERNOR, state_id, [NewEvent("add", 1)], METADATA, expected=ANY)


# Replay and time travel ----------------------------------------------------------------------------------------


async def test_replay_folds_payloads(store: StateStore, persister: StateMachinePersister):
    """Events that carry payloads come back with the states before and after them, from the very first."""
    await persister.record(GOVERNOR, "alice", [NewEvent("add", 1), NewEvent("add", 2)], METADATA, expected=NO_STATE)
    await store.save_state(GOVERNOR, "alice", {"n": 10}, METADATA, expected=2)
    await persister.record(GOVERNOR, "alice", [NewEvent("note", "x"), NewEvent("add", 5)], METADATA, expected=3)
    await store.delete_state(GOVERNOR, "alice", METADATA, expected=5)
    await add(persister, 1)
    events = await collected(persister.replay(GOVERNOR, "alice"))
    states = [None, {"n": 1}, {"n": 3}, {"n": 10}, {"n": 10}, {"n": 15}, None, {"n": 1}]
    assert [(event.from_state, event.to_state) for event in events] == list(pairwise(states))
    assert [event.payload for event in events] == [1, 2, None, "x", 5, None, 1]
    for version, state in enumerate(states[1:], start=1):
        assert (await persister.get_state_at(GOVERNOR, "alice", version)).data == state
    between = await collected(persister.replay(GOVERNOR, "alice", after=3, until=5))
    assert between == events[3:5]


async def test_both_ways_of_making_events_give_the_same(place: Place):
    """The events that the walk makes in its loop are those that the reader makes from the same records."""
    plain, with_context = ChangeMetadata("tester", "a test"), METADATA
    async with place.store() as store:
        for version, metadata in enumerate([plain, plain, with_context, plain]):
            await store.save_state(GOVERNOR, "alice", {"n": version, "deep": [{"x": None}]}, metadata, expected=version)
        await store.log_event(GOVERNOR, "alice", "ping", plain, payload={"a": [1]})
        await store.delete_state(GOVERNOR, "alice", plain, expected=5)
        await store.save_state(GOVERNOR, "alice", {"n": "again"}, plain, expected=6)
        stream = store.layout.stream(GOVERNOR, "alice")
        before, careful = Folded(), []
        for record, recorded_us in await collected(store.streams.records(stream, 1)):
            now = before.then(record)
            careful.append(store.streams.event(stream, record, recorded_us, before, now))
            before = now
        assert await collected(store.get_events(GOVERNOR, "alice")) == careful
        assert [event.to_state for event in careful[-3:]] == [careful[3].to_state, None, {"n": "again"}]


async def test_replay_with_a_reducer_of_ones_own(store: StateStore, persister: StateMachinePersister):
    """A reducer given to replay folds the actions that have none, and only those."""
    await add(persister, 2)
    bare = StateMachinePersister(store)
    with pytest.raises(ReducerMissing) as error:
        await collected(bare.replay(GOVERNOR, "alice"))
    assert error.value.path == event_path(1)
    events = await collected(bare.replay(GOVERNOR, "alice", reducer=REDUCERS["add"]))
    assert [event.to_state for event in events] == [{"n": 1}, {"n": 2}]
    with pytest.raises(ReducerMissing):
        await bare.get_state_at(GOVERNOR, "alice", 1)
    assert (await store.get_state(GOVERNOR, "alice")).data == {"n": 2}


async def test_a_reducer_that_changed_its_mind(store: StateStore, persister: StateMachinePersister):
    """A fold that gives another state than was recorded is reported, not served."""
    await add(persister, 2)
    changed = StateMachinePersister(store, {"add": lambda *_: {"n": 100}})
    calls: list[Callable[[], Any]] = [
        lambda: collected(changed.replay(GOVERNOR, "alice")),
        lambda: changed.get_state_at(GOVERNOR, "alice", 2),
    ]
    for call in calls:
        with pytest.raises(EventSourcingError, match="another state"):
            await call()
    report = await changed.validate_consistency(GOVERNOR)
    assert {finding.kind for finding in report.findings} == {"fold"}
    assert not report.consistent


async def test_a_reducer_that_returns_no_state(store: StateStore):
    """A reducer must return a JSON object or None; anything else is refused before it is written."""
    persister = StateMachinePersister(store, {"bad": lambda *_: [1], "gone": lambda *_: None})
    with pytest.raises(InvalidData, match="'bad'"):
        await persister.record(GOVERNOR, "alice", [NewEvent("bad")], METADATA, expected=ANY)
    assert not await store.exists(GOVERNOR, "alice")
    await persister.record(GOVERNOR, "alice", [NewEvent("gone")], METADATA, expected=ANY)
    assert [state.deleted for state in await collected(store.list_states(GOVERNOR, deleted=True))] == [True]


async def test_a_reducer_sees_what_every_replay_sees(place: Place):
    """What a reducer is given depends on nothing that is only known once the event is stored."""
    seen: list[Any] = []

    def spy(state: dict[str, Any] | None, event: Any) -> dict[str, Any]:
        seen.append((state, event))
        return {"n": event.payload}

    async with place.store() as store:
        persister = StateMachinePersister(store, {"spy": spy})
        metadata = ChangeMetadata("ann", "why", {"c": 1})
        await persister.record(GOVERNOR, "alice", [NewEvent("spy", 1), NewEvent("spy", 2)], metadata, expected=ANY)
        first, seen[:] = list(seen), []
        place.clock.advance_us(HOUR)
        await collected(persister.replay(GOVERNOR, "alice"))
        assert seen == first
        assert [event.metadata.parent_version for _, event in seen] == [0, 1]


async def test_time_travel_goes_by_what_had_happened(store: StateStore, persister: StateMachinePersister):
    """At a time the state is that of the last version with which everything had happened by then."""

    def at(hour: int) -> datetime:
        return datetime(2026, 1, 1, hour, tzinfo=UTC)

    for version, hour in enumerate([8, 10, 9, 9, 12, 11, 12]):
        await store.save_state(GOVERNOR, "alice", {"n": version + 1}, METADATA, expected=version, timestamp=at(hour))
    versions = {8: 1, 9: 1, 10: 4, 11: 4, 12: 7, 23: 7}
    for hour, version in versions.items():
        assert (await persister.get_state_at(GOVERNOR, "alice", at(hour))).version == version
    with pytest.raises(StateNotFound):
        await persister.get_state_at(GOVERNOR, "alice", at(7))
    late = await persister.get_state_at(GOVERNOR, "alice", at(10) - timedelta(microseconds=1))
    assert (late.version, late.data, late.timestamp) == (1, {"n": 1}, at(8))


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5, "1", None])
async def test_time_travel_to_nowhere(store: StateStore, persister: StateMachinePersister, wrong: Any):
    """What is neither a version nor a time is refused; a version to come was not written yet."""
    await grow(store, 2)
    with pytest.raises(InvalidData):
        await persister.get_state_at(GOVERNOR, "alice", wrong)
    with pytest.raises(StateNotFound):
        await persister.get_state_at(GOVERNOR, "alice", 3)
    with pytest.raises(StateNotFound):
        await persister.get_state_at(GOVERNOR, "nobody", 1)


async def test_log_transition(store: StateStore, persister: StateMachinePersister):
    """A transition is asserted to start from what stands, and makes one event with both states."""
    first = await persister.log_transition(
        GOVERNOR, None, StateSnapshot.unsaved(GOVERNOR, "alice", {"s": "new"}), "create", METADATA
    )
    assert (first.version, first.from_state, first.to_state) == (1, None, {"s": "new"})
    before = await store.get_state(GOVERNOR, "alice")
    event = await persister.log_transition(GOVERNOR, before, before.with_data({"s": "paid"}), "pay", METADATA)
    assert (event.version, event.action, event.from_state, event.to_state) == (2, "pay", {"s": "new"}, {"s": "paid"})
    with pytest.raises(VersionConflict):
        await persister.log_transition(GOVERNOR, before, before.with_data({}), "pay", METADATA)
    with pytest.raises(InvalidData):
        await persister.log_transition(GOVERNOR, before, StateSnapshot.unsaved(GOVERNOR, "bob", {}), "pay", METADATA)
    deleted = await store.delete_state(GOVERNOR, "alice", METADATA, expected=2)
    again = await persister.log_transition(
        GOVERNOR, deleted, StateSnapshot.unsaved(GOVERNOR, "alice", {"s": "again"}), "create", METADATA
    )
    assert (again.version, again.from_state) == (4, None)


async def test_a_transition_recorded_before(store: StateStore, persister: StateMachinePersister):
    """The same id again gives the first event, with the state it started from then, whatever the second call says."""
    await grow(store, 1)
    before = await store.get_state(GOVERNOR, "alice")
    after = before.with_data({"s": "paid"})
    first = await persister.log_transition(GOVERNOR, before, after, "pay", METADATA, event_id="e")
    assert first.from_state == before.data
    assert await persister.log_transition(GOVERNOR, None, after, "pay", METADATA, event_id="e") == first


# Recovery ------------------------------------------------------------------------------------------------------


async def test_recovery_rebuilds_what_was_lost(place: Place, persister: StateMachinePersister, store: StateStore):
    """Lost, damaged and unreadable states come back exactly as they were, and sound ones are left alone."""
    await grow(store, 7)
    await add(persister, 5, "bob")
    await add(persister, 2, "carol")
    await store.save_state(GOVERNOR, "dave", {"n": 1}, METADATA)
    await store.delete_state(GOVERNOR, "dave", METADATA, expected=1)
    await grow(store, 2, "erin")
    before = await dump(store.engine)
    paths = [f"governors/bank/states/{name}" for name in ("alice", "bob", "carol", "dave")]
    await store.engine.commit([Delete(paths[0], ANYTHING)])
    await edit(store.engine, paths[1], data={"n": 1_000})
    await store.engine.commit([Put(paths[2], {"nonsense": True})])
    await store.engine.commit([Delete(paths[3], ANYTHING)])
    assert not (await persister.validate_consistency()).consistent
    report = await persister.recover(concurrency=2)
    assert report == RecoveryReport(checked=5, sound=1, rebuilt=tuple(paths))
    assert report.consistent
    assert await dump(store.engine) == before
    assert await persister.recover() == RecoveryReport(checked=5, sound=5)
    assert (await store.save_state(GOVERNOR, "alice", {}, METADATA, expected=7)).version == 8


@pytest.mark.parametrize("is_behind", [True, False], ids=["behind", "ahead"])
async def test_recovery_of_a_state_from_another_time(
    store: StateStore,
    persister: StateMachinePersister,
    is_behind: bool,  # noqa: FBT001
):
    """A state that was set back is brought forward; one whose events are gone is not invented."""
    await grow(store, 2)
    old = await fields_at(store.engine, ALICE)
    await store.save_state(GOVERNOR, "alice", {"n": 3}, METADATA, expected=2)
    new = await fields_at(store.engine, ALICE)
    if is_behind:
        await store.engine.commit([Put(ALICE, old)])
        assert (await persister.recover(GOVERNOR)).rebuilt == (ALICE,)
        assert await fields_at(store.engine, ALICE) == new
    else:
        await store.engine.commit([Delete(event_path(3), ANYTHING)])
        report = await persister.recover(GOVERNOR)
        assert [path for path, _ in report.failed] == [ALICE]
        assert not report.consistent
        assert await fields_at(store.engine, ALICE) == new


async def test_recovery_says_what_it_cannot_do(store: StateStore, persister: StateMachinePersister):
    """Streams that need a reducer are unchecked, never sound; damaged ones are failed; the others go on."""
    await add(persister, 2, "needs")
    await grow(store, 4, "gap")
    await grow(store, 4, "edited")
    await grow(store, 1, "sound")
    for state_id in ("needs", "gap", "edited", "sound"):
        await store.engine.commit([Delete(f"governors/bank/states/{state_id}", ANYTHING)])
    await store.engine.commit([Delete(event_path(2, "gap"), ANYTHING), Delete(snapshot_path(3, "gap"), ANYTHING)])
    await edit(store.engine, event_path(4, "edited"), action="edited")
    report = await StateMachinePersister(store).recover(GOVERNOR)
    assert report.rebuilt == ("governors/bank/states/sound",)
    assert report.unchecked == ("governors/bank/states/needs",)
    assert sorted(path for path, _ in report.failed) == [
        "governors/bank/states/edited",
        "governors/bank/states/gap",
    ]
    assert all("CANARY" not in reason and reason for _, reason in report.failed)
    assert (report.checked, report.sound, report.consistent) == (4, 0, False)


async def test_recovery_reports_an_event_that_it_cannot_mend(place: Place):
    """A state in an event that is not what the event's hash says fails the recovery, as it fails the verification."""
    async with place.store() as store:
        await grow(store, 3)
        await edit(store.engine, event_path(1), to_state='{"n":9}')
        persister = StateMachinePersister(store)
        report = await persister.recover(GOVERNOR)
        assert not report.consistent
        assert [path for path, _ in report.failed] == [ALICE]
        assert not (await persister.validate_consistency(GOVERNOR)).consistent
        with pytest.raises(EventSourcingError, match="restore a backup") as error:
            await persister.get_state_at(GOVERNOR, "alice", 1)
        assert error.value.path == event_path(1)


@pytest.mark.parametrize(
    "place_of_none", ["events/aaa", "events/%FF~000000000001", "states/%FF", "snapshots/alice~00000000001x"]
)
async def test_recovery_goes_on_after_what_stands_in_no_place(store: StateStore, place_of_none: str):
    """A document that belongs to no state is reported, and the states are recovered all the same."""
    await grow(store, 2)
    path = f"governors/bank/{place_of_none}"
    await store.engine.commit([Put(path, {"x": 1}), Delete(ALICE, ANYTHING)])
    report = await StateMachinePersister(store).recover(GOVERNOR)
    assert report.rebuilt == (ALICE,)
    assert [each for each, _ in report.failed] == ([] if "snapshots" in path else [path])
    paths = [each.path for each in (await StateMachinePersister(store).validate_consistency(GOVERNOR)).findings]
    assert paths == [path]


async def test_recovery_reports_progress_and_resumes(store: StateStore, persister: StateMachinePersister):
    """A recovery that was stopped goes on after what it had reported, whatever order the ids' escapes sort in."""
    places = [(governor, state) for governor in ("__x__", "a/b", "a-b", "Z", "%") for state in ("s/1", "s-1", "é")]
    for governor, state in places:
        await grow(store, 1, state, governor)
        await store.engine.commit([Delete(store.layout.stream(governor, state).state, ANYTHING)])
    seen: list[RecoveryReport] = []

    class Stop(Exception):
        """The operator has seen enough."""

    async def progress(report: RecoveryReport) -> None:
        seen.append(report)
        if len(seen) == 3:
            raise Stop

    with pytest.raises(Stop):
        await persister.recover(concurrency=2, progress=progress)
    assert [report.checked for report in seen] == [2, 4, 6]
    assert seen[-1].resume is not None
    rest = await persister.recover(concurrency=4, resume=seen[-1].resume)
    assert (rest.checked, len(rest.rebuilt), rest.sound, rest.resume) == (9, 9, 0, None)
    assert await persister.recover() == RecoveryReport(checked=15, sound=15)
    last: list[RecoveryReport] = []

    async def note(report: RecoveryReport) -> None:
        last.append(report)

    await persister.recover(concurrency=1, progress=note)
    for index, report in enumerate(last, start=1):
        assert (await persister.recover(resume=report.resume)).checked == len(places) - index


async def test_recovery_when_the_engine_fails(place: Place):
    """An engine that is unavailable ends the recovery with its own error, not with a group of them."""
    async with place.store() as store:
        await grow(store, 2)
        await grow(store, 2, "bob")
    faulty = FaultyEngine(place.engine(), AtCalls({}))
    async with place.store(faulty) as store:
        number = 0
        while True:
            number += 1
            before = faulty.statistics().calls
            faulty.plan = AtCalls({("any", before + number): Fault.UNAVAILABLE})
            try:
                await store.recover()
            except Unavailable:
                continue
            break
        assert number > 4


async def test_load_state_mends_on_the_way(store: StateStore, persister: StateMachinePersister):
    """Loading a state gives one that agrees with its stream, and tells whether it had to be rebuilt."""
    await add(persister, 4)
    loaded = await persister.load_state(GOVERNOR, "alice")
    assert (loaded.recovered, loaded.snapshot) == (False, await store.get_state(GOVERNOR, "alice"))
    await edit(store.engine, ALICE, data={"n": 99})
    again = await persister.load_state(GOVERNOR, "alice")
    assert (again.recovered, again.snapshot.data) == (True, {"n": 4})
    await store.engine.commit([Delete(ALICE, ANYTHING)])
    assert (await persister.load_state(GOVERNOR, "alice")).recovered
    with pytest.raises(StateNotFound):
        await persister.load_state(GOVERNOR, "nobody")
    await store.delete_state(GOVERNOR, "alice", METADATA, expected=4)
    with pytest.raises(StateNotFound):
        await persister.load_state(GOVERNOR, "alice")


async def test_what_has_no_governor(persister: StateMachinePersister, tmp_path: Path):
    """Work on a governor under which nothing was ever written is an error that names it."""
    calls: list[Callable[[], Any]] = [
        lambda: persister.recover("nobody"),
        lambda: persister.validate_consistency("nobody"),
        lambda: persister.cleanup_old_data("nobody", keep=timedelta(hours=1)),
        lambda: persister.export_history("nobody", tmp_path / "export.jsonl"),
    ]
    for call in calls:
        with pytest.raises(GovernorNotFound) as error:
            await call()
        assert error.value.path == "governors/nobody"
    assert await persister.recover() == RecoveryReport()
    assert (await persister.validate_consistency()).consistent


# Cleanup -------------------------------------------------------------------------------------------------------


async def _old(place: Place, store: StateStore, versions: int = 10, *, after: int = 0) -> None:
    """One version every hour."""
    for version in range(after, versions):
        await store.save_state(GOVERNOR, "alice", {"n": version + 1}, METADATA, expected=version)
        place.clock.advance_us(HOUR)


async def versions_left(store: StateStore) -> list[int]:
    """The versions of the events that are still there."""
    return [event.version for event in await collected(store.get_events(GOVERNOR, "alice"))]


async def test_cleanup_keeps_what_it_promises(place: Place, store: StateStore, persister: StateMachinePersister):
    """Old events go up to a snapshot that stays, its own event stays as the anchor, and younger times come back."""
    await _old(place, store)
    now = from_us(place.clock.now_us())
    times = {hours: await persister.get_state_at(GOVERNOR, "alice", now - timedelta(hours=hours)) for hours in (1, 4)}
    stats = await persister.cleanup_old_data(GOVERNOR, keep=timedelta(hours=4))
    assert (stats.states, stats.events_deleted, stats.snapshots_deleted) == (1, 5, 1)
    assert stats.bytes_deleted > 0
    assert await store.list_snapshots(GOVERNOR, "alice") == [6, 9]
    assert await versions_left(store) == [6, 7, 8, 9, 10]
    for hours, state in times.items():
        assert await persister.get_state_at(GOVERNOR, "alice", now - timedelta(hours=hours)) == state
    assert (await persister.get_state_at(GOVERNOR, "alice", 6)).data == {"n": 6}
    assert [event.from_state for event in await collected(persister.replay(GOVERNOR, "alice", after=6))] == [
        {"n": 6},
        {"n": 7},
        {"n": 8},
        {"n": 9},
    ]
    assert (await persister.validate_consistency(GOVERNOR)).consistent
    assert await persister.cleanup_old_data(GOVERNOR, keep=timedelta(hours=4)) == type(stats)()
    assert (await store.save_state(GOVERNOR, "alice", {"n": 11}, METADATA, expected=10)).version == 11


@pytest.mark.parametrize("is_asked_for", [False, True], ids=["by policy", "asked for"])
async def test_what_a_cleanup_left_keeps_its_base(place: Place, *, is_asked_for: bool):
    """The snapshot that the remaining events rest on outlives newer ones, until a cleanup moves the floor."""
    async with place.store(snapshots=EveryEvents(2, keep=2)) as store:
        persister = StateMachinePersister(store)
        await _old(place, store, 5)
        await persister.cleanup_old_data(GOVERNOR, keep=timedelta(hours=3, minutes=30))
        moment = from_us(place.clock.now_us()) - timedelta(hours=2, minutes=30)
        for version in range(5, 13):
            await store.save_state(GOVERNOR, "alice", {"n": version + 1}, METADATA, expected=version)
            if is_asked_for:
                await store.create_snapshot(GOVERNOR, "alice")
        newest = [12, 13] if is_asked_for else [10, 12]
        assert await store.list_snapshots(GOVERNOR, "alice") == [2, *newest]
        assert (await persister.get_state_at(GOVERNOR, "alice", moment)).data == {"n": 3}
        assert [path for path in await dump(store.engine) if "/snapshots/" in path] == [
            snapshot_path(version) for version in (2, *newest)
        ]
        assert (await persister.validate_consistency(GOVERNOR)).consistent
        await edit(store.engine, ALICE, data={"n": "damaged"})
        assert (await persister.recover(GOVERNOR)).consistent
        assert await store.list_snapshots(GOVERNOR, "alice") == [2, *newest]
        place.clock.advance_us(48 * HOUR)
        await persister.cleanup_old_data(GOVERNOR, keep=timedelta(0))
        assert await store.list_snapshots(GOVERNOR, "alice") == newest
        assert (await persister.validate_consistency(GOVERNOR)).consistent


BUSY = EveryEvents(2, keep=2)
"""Keeps snapshots of the last two to four hours only, where one event comes each hour."""


async def test_cleanup_where_every_kept_snapshot_is_young(place: Place):
    """It makes the snapshot that it needs, removes what is before, and younger times come back as they were."""
    async with place.store(snapshots=BUSY) as store:
        persister = StateMachinePersister(store, REDUCERS)
        for version in range(30):
            await persister.record(GOVERNOR, "alice", [NewEvent("add", 1)], METADATA, expected=version)
            place.clock.advance_us(HOUR)
        now = from_us(place.clock.now_us())
        times = [now - timedelta(hours=hours, minutes=minutes) for hours in range(10) for minutes in (0, 30)]
        states = [await persister.get_state_at(GOVERNOR, "alice", each) for each in times]
        assert await store.list_snapshots(GOVERNOR, "alice") == [28, 30]
        stats = await persister.cleanup_old_data(GOVERNOR, keep=timedelta(hours=10))
        assert (stats.states, stats.events_deleted, stats.snapshots_deleted) == (1, 20, 0)
        assert await versions_left(store) == list(range(21, 31))
        assert await store.list_snapshots(GOVERNOR, "alice") == [21, 28, 30]
        assert [await persister.get_state_at(GOVERNOR, "alice", each) for each in times] == states
        assert (await persister.validate_consistency(GOVERNOR)).consistent
        assert (await persister.recover(GOVERNOR)).rebuilt == ()
        assert await persister.cleanup_old_data(GOVERNOR, keep=timedelta(hours=10)) == type(stats)()


async def _damage(store: StateStore) -> None:
    await edit(store.engine, event_path(15), to_state='{"n":1000}', state_hash=state_hash('{"n":1000}'))


async def _cut(store: StateStore) -> None:
    await store.engine.commit([Delete(event_path(15), ANYTHING)])


@pytest.mark.parametrize("damage", [_damage, _cut])
async def test_cleanup_makes_no_snapshot_of_what_does_not_add_up(
    memory_places: Places, damage: Callable[[StateStore], Any], caplog: pytest.LogCaptureFixture
):
    """Where an event is edited or missing on the way to the snapshot it would make, it removes nothing, and warns."""
    place = memory_places.new()
    async with place.store(snapshots=BUSY) as store:
        await _old(place, store, 15)
        await damage(store)
        await _old(place, store, 30, after=15)
        before = await dump(store.engine)
        stats = await StateMachinePersister(store).cleanup_old_data(GOVERNOR, keep=timedelta(hours=10))
        assert (stats.events_deleted, await dump(store.engine)) == (0, before)
        assert "no snapshot is made for a cleanup" in caplog.text


def _quote(_: dict[str, Any] | None, event: JsonEvent) -> dict[str, Any]:
    """A state that takes twice its bytes as JSON, and four times as JSON in a text, as snapshots hold it."""
    return {"text": '"' * event.payload}


@pytest.mark.parametrize(
    ("reducers", "why"), [({}, "needs the reducer of the action 'quote'"), ({"quote": _quote}, "it is too large")]
)
async def test_cleanup_where_no_snapshot_can_be_made(
    memory_places: Places, reducers: dict[str, Any], why: str, caplog: pytest.LogCaptureFixture
):
    """A state whose reducer was not given, or that is too large to be kept, is left as it is, with a warning."""
    place = memory_places.new()
    async with place.store(snapshots=BUSY) as store:
        persister = StateMachinePersister(store, {"quote": _quote})
        for version in range(29):
            count = 400_000 if version == 10 else 1
            await persister.record(GOVERNOR, "alice", [NewEvent("quote", count)], METADATA, expected=version)
            place.clock.advance_us(HOUR)
        before = await dump(store.engine)
        stats = await StateMachinePersister(store, reducers).cleanup_old_data(GOVERNOR, keep=timedelta(hours=19))
        assert (stats.events_deleted, await dump(store.engine)) == (0, before)
        [warning] = [record.getMessage() for record in caplog.records if "for a cleanup" in record.getMessage()]
        assert why in warning
        place.clock.advance_us(HOUR)
        stats = await persister.cleanup_old_data(GOVERNOR, keep=timedelta(hours=19))
        assert (stats.events_deleted, await store.list_snapshots(GOVERNOR, "alice")) == (11, [12, 26, 28])


async def test_what_was_cleaned_up_is_said_to_be(place: Place, store: StateStore, persister: StateMachinePersister):
    """Asking for a past that was cleaned up says so, by version, by time and in replay."""
    await _old(place, store)
    start = from_us(place.clock.now_us()) - timedelta(hours=10)
    await persister.cleanup_old_data(GOVERNOR, keep=timedelta(hours=4))
    calls: list[Callable[[], Any]] = [
        lambda: persister.get_state_at(GOVERNOR, "alice", 1),
        lambda: persister.get_state_at(GOVERNOR, "alice", 5),
        lambda: persister.get_state_at(GOVERNOR, "alice", start),
        lambda: collected(persister.replay(GOVERNOR, "alice")),
        lambda: collected(persister.replay(GOVERNOR, "alice", until=3)),
        lambda: store.state(GOVERNOR, "alice").at(2),
    ]
    for call in calls:
        with pytest.raises(NotRetained) as error:
            await call()
        assert error.value.path.startswith("governors/bank/events/alice~")
    with pytest.raises(StateNotFound):
        await persister.get_state_at(GOVERNOR, "alice", 11)


async def test_an_id_whose_event_was_cleaned_up(place: Place, store: StateStore, persister: StateMachinePersister):
    """A change made again after its event was cleaned up is not made twice: the answer says that it was made."""
    await store.save_state(GOVERNOR, "alice", {"n": 0}, METADATA, event_id="first")
    for version in range(1, 10):
        await store.save_state(GOVERNOR, "alice", {"n": version}, METADATA, expected=version)
    place.clock.advance_us(2 * HOUR)
    assert (await persister.cleanup_old_data(GOVERNOR, keep=timedelta(hours=1))).events_deleted == 5
    calls: list[Callable[[], Any]] = [
        lambda: store.save_state(GOVERNOR, "alice", {"n": 0}, METADATA, event_id="first"),
        lambda: store.state(GOVERNOR, "alice").update(lambda data: data, METADATA, event_id="first"),
    ]
    for call in calls:
        with pytest.raises(NotRetained):
            await call()
    assert (await store.get_state(GOVERNOR, "alice")).version == 10
    assert (await persister.validate_consistency(GOVERNOR)).consistent


async def test_nothing_young_is_cleaned_up(place: Place, store: StateStore, persister: StateMachinePersister):
    """However little is asked to be kept, no event younger than an hour goes, nor the last two snapshots."""
    await _old(place, store, 3)
    for version in range(3, 12):
        await store.save_state(GOVERNOR, "alice", {}, METADATA, expected=version)
    stats = await persister.cleanup_old_data(GOVERNOR, keep=timedelta(0))
    assert await versions_left(store) == list(range(3, 13))
    assert (stats.events_deleted, await store.list_snapshots(GOVERNOR, "alice")) == (2, [3, 6, 9, 12])
    place.clock.advance_us(48 * HOUR)
    await persister.cleanup_old_data(GOVERNOR, keep=timedelta(0))
    assert await store.list_snapshots(GOVERNOR, "alice") == [9, 12]
    assert await versions_left(store) == [9, 10, 11, 12]
    assert (await persister.validate_consistency(GOVERNOR)).consistent


class Outrunning(AroundEngine):
    """Lets others write so many times just before a commit without events arrives, as cleanup's first one is."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.times = 0
        self.others: Callable[[], Awaitable[object]]

    async def commit(self, writes: Sequence[Write]) -> Any:  # noqa: D102
        if self.times and not any("/events/" in write.path for write in writes):
            self.times -= 1
            await self.others()
        return await self._engine.commit(writes)


@pytest.mark.parametrize("events", [1, 12])
async def test_cleanup_of_a_state_in_use(memory_places: Places, events: int, caplog: pytest.LogCaptureFixture):
    """It looks again and goes on, whatever others keep meanwhile; what it had to leave alone it counts and logs."""
    place = memory_places.new()
    engine = Outrunning(place.engine())
    async with place.store(engine, snapshots=EveryEvents(2, keep=3)) as store:
        persister = StateMachinePersister(store)

        async def others() -> None:
            for _ in range(events):
                await store.log_event(GOVERNOR, "alice", "beat", METADATA)

        engine.others = others
        await _old(place, store)
        engine.times = 1_000
        stats = await persister.cleanup_old_data(GOVERNOR, keep=timedelta(hours=3))
        assert stats == CleanupStats(skipped=1)
        assert engine.times > 900
        assert "a state in use is not cleaned up" in caplog.text
        caplog.clear()
        engine.times = 5
        stats = await persister.cleanup_old_data(GOVERNOR, keep=timedelta(hours=3))
        assert (stats.events_deleted, stats.skipped, engine.times) == (7, 0, 0)
        version = (await store.get_state(GOVERNOR, "alice")).version
        newest = [each for each in range(version - 5, version + 1) if each % 2 == 0]
        assert await store.list_snapshots(GOVERNOR, "alice") == [8, *newest]
        assert await versions_left(store) == list(range(8, version + 1))
        assert (await persister.validate_consistency(GOVERNOR)).consistent
        assert "in use" not in caplog.text


@pytest.mark.parametrize("keep", [timedelta(days=700_000), timedelta(days=900_000), timedelta.max], ids=repr)
async def test_keeping_for_longer_than_there_is_time(memory_places: Places, keep: timedelta):
    """Whoever keeps all that there can be loses nothing."""
    place = memory_places.new()
    async with place.store(snapshots=EveryEvents(2)) as store:
        await _old(place, store)
        persister = StateMachinePersister(store)
        before = await dump(store.engine)
        assert await persister.cleanup_old_data(GOVERNOR, keep=keep) == CleanupStats()
        assert await dump(store.engine) == before


async def test_old_times_do_not_make_events_old(place: Place, store: StateStore, persister: StateMachinePersister):
    """Events imported just now stay for their hour, however long ago they happened."""
    for version in range(8):
        moment = datetime(2001, 1, 1 + version, tzinfo=UTC)
        await store.save_state(GOVERNOR, "alice", {}, METADATA, expected=version, timestamp=moment)
    stats = await persister.cleanup_old_data(GOVERNOR, keep=timedelta(days=1))
    assert stats.events_deleted == 0
    assert len(await collected(store.get_events(GOVERNOR, "alice"))) == 8
    assert (await persister.validate_consistency(GOVERNOR)).consistent


async def test_cleanup_without_a_sound_snapshot(place: Place, store: StateStore, persister: StateMachinePersister):
    """A snapshot that is damaged is no reason to delete the events before it."""
    await _old(place, store)
    await edit(store.engine, snapshot_path(6), state='{"n":1000}')
    stats = await persister.cleanup_old_data(GOVERNOR, keep=timedelta(hours=1))
    assert stats.events_deleted == 2
    assert await versions_left(store) == list(range(3, 11))
    assert (await persister.get_state_at(GOVERNOR, "alice", 7)).data == {"n": 7}


@pytest.mark.parametrize("policy", [EveryEvents(3, keep=9), BUSY], ids=["kept", "made"])
async def test_interrupted_cleanup(memory_places: Places, policy: EveryEvents):
    """Stopped at any call and run again, a cleanup leaves what it would have left, and never a hole on the way."""
    done = memory_places.new()
    expected: dict[str, Any] = {}
    for number in range(30):
        place = memory_places.new() if number else done
        async with place.store() as store:
            await fix_identity(store.engine)
        async with place.store(snapshots=policy) as store:
            await _old(place, store)
        faulty = FaultyEngine(place.engine(), AtCalls({}))
        async with place.store(faulty, snapshots=policy) as store:
            persister = StateMachinePersister(store)
            if number:
                faulty.plan = AtCalls({("any", faulty.statistics().calls + number): Fault.UNAVAILABLE})
                try:
                    await persister.cleanup_old_data(GOVERNOR, keep=timedelta(hours=4))
                except Unavailable:
                    assert (await persister.validate_consistency(GOVERNOR)).consistent
                else:
                    break
            await persister.cleanup_old_data(GOVERNOR, keep=timedelta(hours=4))
            assert (await versions_left(store))[0] > 5
            assert (await persister.validate_consistency(GOVERNOR)).consistent
            expected = expected or await dump(store.engine)
            assert await dump(store.engine) == expected
    assert number > 4


# Verification --------------------------------------------------------------------------------------------------


def changed(name: str, value: Any) -> list[Any]:
    """Other values of a field, each of the right type."""
    if isinstance(value, dict):
        result: list[Any] = [{**value, key: other} for key, inner in value.items() for other in changed(key, inner)]
        return [*result, {**value, "extra": 1}] if name in ("data", "causality") else result
    if isinstance(value, list):
        return [value[:-1], [*value, 7]]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1]
    if name in ("timestamp", "as_of", "kept_as_of"):
        return ["2001-02-03T04:05:06.000007Z", "2099-02-03T04:05:06.000007Z"]
    if name in ("to_state", "state"):
        return ['{"n":1000}']
    if name in ("digest", "previous", "state_hash", "content"):
        return [value[:-1] + ("0" if value[-1] != "0" else "1")]
    if name in ("payload", "context"):
        return ['{"other":1}']
    assert isinstance(value, str)
    return [value + "x", ""]


@pytest.fixture
async def written(place: Place) -> AsyncIterator[StateStore]:
    """A store with events of every kind, snapshots and markers."""
    async with place.store(snapshots=EveryEvents(3, keep=2)) as store:
        persister = StateMachinePersister(store, REDUCERS)
        for version in range(4):
            await store.save_state(
                GOVERNOR,
                "alice",
                {"n": version, "deep": {"x": [1]}},
                METADATA,
                expected=version,
                event_id=f"a{version}",
            )
            place.clock.advance_us(HOUR)
        await store.log_event(GOVERNOR, "alice", "ping", METADATA, payload=[1], event_id="logged")
        place.clock.advance_us(HOUR)
        await add(persister, 5, "bob")
        await store.save_state(GOVERNOR, "carol", {}, METADATA)
        await store.delete_state(GOVERNOR, "carol", METADATA, expected=1)
        yield store


async def _verify(store: StateStore) -> ConsistencyReport:
    return await StateMachinePersister(store, REDUCERS).validate_consistency()


DOCUMENTS = {
    "event": event_path(2),
    "first event": event_path(1),
    "last event": event_path(5),
    "payload event": event_path(2, "bob"),
    "deletion": event_path(2, "carol"),
    "state": ALICE,
    "folded state": "governors/bank/states/bob",
    "tombstone": "governors/bank/states/carol",
    "snapshot": snapshot_path(3),
    "folded snapshot": snapshot_path(3, "bob"),
    "marker": "governors/bank/ids/a1",
    "marker of an event that carries no state": "governors/bank/ids/logged",
}
ABSENT_BY_DEFAULT: dict[str, dict[str, Any]] = {
    "state": {"deleted": True, "floor": 3},
    "folded state": {"deleted": True, "floor": 2},
    "event": {"payload": "1"},
    "payload event": {"to_state": '{"n":2}'},
    "deletion": {"payload": "1"},
}
"""Fields that the document does not have, with values that it then must not get."""

HARMLESS = {("state", "floor"), ("folded state", "floor")}
"""A floor that allows events to be missing that are not: nothing is wrong with what is there."""


@pytest.mark.parametrize("kind", DOCUMENTS)
async def test_every_field_counts(written: StateStore, kind: str):
    """Whichever field of a document is changed, verification names the document; and it was clean before."""
    assert (await _verify(written)).consistent
    path = DOCUMENTS[kind]
    before = await fields_at(written.engine, path)
    edits = [
        (name, other)
        for name, value in before.items()
        if value is not None
        for other in changed(name, value)
        if other != value
    ]
    edits += list(ABSENT_BY_DEFAULT.get(kind, {}).items())
    edits += [(name, None) for name, value in before.items() if value is not None and name != "data"]
    missed = []
    for name, other in edits:
        await written.engine.commit([Put(path, {**before, name: other})])
        found = {finding.path for finding in (await _verify(written)).findings}
        # A list of kept snapshots that is too short shows as snapshots that nobody lists.
        named = found & ({path} | {each for each in found if name == "kept" and "/snapshots/" in each})
        if not named and (kind, name) not in HARMLESS:
            missed.append((name, other, found))
    await written.engine.commit([Put(path, before)])
    assert not missed
    assert (await _verify(written)).consistent


@pytest.mark.parametrize("kind", ["state", "folded state", "tombstone"])
async def test_recovery_mends_every_field_of_a_state(written: StateStore, kind: str):
    """Whichever field of a state is changed, recovery brings back the document as it was."""
    path = DOCUMENTS[kind]
    before = await fields_at(written.engine, path)
    persister = StateMachinePersister(written, REDUCERS)
    for name, value in before.items():
        others = [None] if value is None else [*changed(name, value), None]
        for other in others:
            if other == value:
                continue
            await written.engine.commit([Put(path, {**before, name: other})])
            report = await persister.recover()
            assert report.rebuilt == (path,), (name, other, report)
            assert await fields_at(written.engine, path) == before, (name, other)
    assert (await _verify(written)).consistent


@pytest.mark.parametrize("kind", DOCUMENTS)
async def test_a_document_that_is_gone_is_missed(written: StateStore, kind: str):
    """Whichever document is removed, verification is not content; a marker's absence alone cannot be seen."""
    path = DOCUMENTS[kind]
    await written.engine.commit([Delete(path, ANYTHING)])
    found = {finding.path for finding in (await _verify(written)).findings}
    assert (path in found) == ("/ids/" not in path)


async def test_documents_in_each_others_places(written: StateStore):
    """Events swapped within a stream or between two, and snapshots and states likewise, are found."""
    pairs = [
        (event_path(2), event_path(3)),
        (event_path(2), event_path(2, "bob")),
        (event_path(1), event_path(1, "carol")),
        (snapshot_path(3), snapshot_path(3, "bob")),
        (ALICE, "governors/bank/states/bob"),
        ("governors/bank/ids/a1", "governors/bank/ids/a2"),
    ]
    for one, other in pairs:
        first, second = await fields_at(written.engine, one), await fields_at(written.engine, other)
        await written.engine.commit([Put(one, second), Put(other, first)])
        found = {finding.path for finding in (await _verify(written)).findings}
        assert {one, other} <= found, (one, other, found)
        await written.engine.commit([Put(one, first), Put(other, second)])
    assert (await _verify(written)).consistent


async def test_strangers_are_found(written: StateStore):
    """Documents that no stream explains are named: an event too many, a snapshot too many, a place that is none."""
    event, snapshot = await fields_at(written.engine, event_path(5)), await fields_at(written.engine, snapshot_path(3))
    strangers = {
        event_path(6): {**event, "version": 6, "previous": event["digest"]},
        "governors/bank/events/alice": event,
        "governors/bank/events/nobody~000000000001": {**event, "state_id": "nobody"},
        snapshot_path(5): {**snapshot, "version": 5},
        snapshot_path(1, "nobody"): snapshot,
        "governors/bank/ids/unheard": {"state_id": "alice", "version": 99, "content": "0" * 64},
        "governors/bank/states/nobody": await fields_at(written.engine, ALICE),
    }
    for path, fields in strangers.items():
        await written.engine.commit([Put(path, fields)])
        report = await _verify(written)
        assert not report.consistent, path
        await written.engine.commit([Delete(path, ANYTHING)])
    assert (await _verify(written)).consistent


async def test_streams_that_need_a_reducer_are_unchecked(written: StateStore):
    """Without the application's reducers a store is never called consistent: the report counts what is unchecked."""
    report = await StateMachinePersister(written).validate_consistency()
    assert (report.consistent, report.unchecked, report.findings) == (False, 1, ())
    assert (report.states, report.events) == (3, 12)
    assert (await StateMachinePersister(written).validate_consistency()) == report


# Export and restore --------------------------------------------------------------------------------------------


async def test_an_export_is_the_whole_history(written: StateStore, memory_places: Places, tmp_path: Path):
    """Restored elsewhere, a governor has the same documents, digests included, and goes on from there."""
    file = tmp_path / "export.jsonl"
    exported = await StateMachinePersister(written).export_history(GOVERNOR, file)
    assert (exported.governor, exported.states, exported.events, exported.snapshots, exported.markers) == (
        (GOVERNOR, 3, 12, 2, 5)
    )
    async with memory_places.new().store() as fresh:
        persister = StateMachinePersister(fresh, REDUCERS)
        assert await persister.import_history(file) == exported
        assert await dump(fresh.engine) == await dump(written.engine)
        assert (await persister.validate_consistency(GOVERNOR)).consistent
        assert (await fresh.save_state(GOVERNOR, "alice", {}, METADATA, expected=5)).causality == {
            written.store_id: 5,
            fresh.store_id: 1,
        }
        again = await fresh.save_state(
            GOVERNOR, "alice", {"n": 1, "deep": {"x": [1]}}, METADATA, expected=1, event_id="a1"
        )
        assert again.version == 2
        with pytest.raises(Conflict):
            await persister.import_history(file)
    with pytest.raises(Conflict):
        await StateMachinePersister(written).import_history(file)


async def test_a_file_is_named_as_python_users_name_it(written: StateStore, memory_places: Places, tmp_path: Path):
    """A plain str will do for a path."""
    file = str(tmp_path / "export.jsonl")
    exported = await StateMachinePersister(written).export_history(GOVERNOR, file)
    async with memory_places.new().store() as fresh:
        assert await StateMachinePersister(fresh).import_history(file) == exported


async def test_a_governor_moved_to_another_engine_and_back(place: Place, tmp_path: Path):
    """From a SQLite file to each engine and to a SQLite file again: every document is the same, digests included."""
    there, back_again = tmp_path / "there.jsonl", tmp_path / "back.jsonl"
    with Places(SQLITE) as files:
        async with files.new().store(snapshots=EveryEvents(3, keep=2)) as first:
            persister = StateMachinePersister(first, REDUCERS)
            await grow(first, 7)
            await add(persister, 5, "bob")
            await first.save_state(GOVERNOR, "carol", {"deep": [{"x": None}], "__odd__": 2**70}, METADATA, event_id="c")
            await first.delete_state(GOVERNOR, "carol", METADATA, expected=1)
            await persister.export_history(GOVERNOR, there)
            expected = await dump(first.engine)
        async with place.store() as away:
            persister = StateMachinePersister(away, REDUCERS)
            await persister.import_history(there)
            assert (await persister.validate_consistency()).consistent
            assert await dump(away.engine) == expected
            await persister.export_history(GOVERNOR, back_again)
        async with files.new().store() as back:
            persister = StateMachinePersister(back, REDUCERS)
            await persister.import_history(back_again)
            assert await dump(back.engine) == expected


async def test_an_export_after_cleanup(place: Place, store: StateStore, memory_places: Places, tmp_path: Path):
    """A stream that begins with its anchor can be exported, restored and verified as well."""
    await _old(place, store)
    persister = StateMachinePersister(store)
    await persister.cleanup_old_data(GOVERNOR, keep=timedelta(hours=1))
    await persister.export_history(GOVERNOR, tmp_path / "export.jsonl")
    async with memory_places.new().store() as fresh:
        other = StateMachinePersister(fresh)
        await other.import_history(tmp_path / "export.jsonl")
        assert await dump(fresh.engine) == await dump(store.engine)
        assert (await other.validate_consistency(GOVERNOR)).consistent
        with pytest.raises(NotRetained):
            await other.get_state_at(GOVERNOR, "alice", 1)


async def test_an_export_that_fails_leaves_no_file(written: StateStore, tmp_path: Path):
    """A file of that name is either the whole export or not there."""
    await edit(written.engine, ALICE, version="no number")
    with pytest.raises(CorruptDocument):
        await StateMachinePersister(written).export_history(GOVERNOR, tmp_path / "export.jsonl")
    assert _names_in(tmp_path) == []


class _InPages(AroundEngine):
    """Scans two documents at a time; once the first events are read, what is to happen meanwhile happens."""

    def __init__(self, engine: Engine, meanwhile: Callable[[], Awaitable[Any]]) -> None:
        super().__init__(engine)
        self._meanwhile = meanwhile

    def scan(self, scan: Scan) -> Paged[Document]:
        """Pages, each a scan of its own."""
        place, pages = scan.start, 0

        async def fetch() -> list[Document] | None:
            nonlocal place, pages
            pages += 1
            if pages == 2 and scan.collection.endswith("/events"):
                await self._meanwhile()
            page = await taken(self._engine.scan(msgspec.structs.replace(scan, start=place, limit=2)), 2)
            place = after(page[-1].id) if page else place
            return page or None

        return Paged(fetch)


async def test_an_export_while_cleanup_runs(place: Place, store: StateStore, memory_places: Places, tmp_path: Path):
    """Events that cleanup removes under an export are no gap in its file: it is begun again."""
    await _old(place, store)
    cleanup = StateMachinePersister(store).cleanup_old_data
    engine = _InPages(place.engine(), lambda: cleanup(GOVERNOR, keep=timedelta(hours=1)))
    async with place.store(engine) as exporting:
        exported = await StateMachinePersister(exporting).export_history(GOVERNOR, tmp_path / "export.jsonl")
    async with memory_places.new().store() as fresh:
        other = StateMachinePersister(fresh)
        assert await other.import_history(tmp_path / "export.jsonl") == exported
        assert await dump(fresh.engine) == await dump(store.engine)
        assert (await other.validate_consistency(GOVERNOR)).consistent


async def test_an_export_that_cleanup_never_lets_finish(place: Place, store: StateStore, tmp_path: Path):
    """Where each try is overtaken by a cleanup, the export ends, by name and without a file."""
    await _old(place, store)
    tries: list[int] = []

    async def meanwhile() -> None:
        tries.append(1)
        version = (await store.get_state(GOVERNOR, "alice")).version
        for expected in range(version, version + 6):
            await store.save_state(GOVERNOR, "alice", {"n": expected}, METADATA, expected=expected)
        place.clock.advance_us(2 * HOUR)
        await StateMachinePersister(store).cleanup_old_data(GOVERNOR, keep=timedelta(hours=1))

    async with place.store(_InPages(place.engine(), meanwhile)) as exporting:
        with pytest.raises(StoreTimeout) as error:
            await StateMachinePersister(exporting).export_history(GOVERNOR, tmp_path / "export.jsonl")
    assert (error.value.operation, error.value.code) == ("export", "CONTENTION")
    assert 1 < len(tries) < 10
    assert _names_in(tmp_path) == []


LOST = {"first event": event_path(1), "event": event_path(2), "last event": event_path(5), "snapshot": snapshot_path(3)}


@pytest.mark.parametrize("kind", LOST)
async def test_a_document_that_is_gone_ends_the_export(written: StateStore, tmp_path: Path, kind: str):
    """What could not be restored is not exported: the error names the document, and there is no file."""
    await written.engine.commit([Delete(LOST[kind], ANYTHING)])
    with pytest.raises(Inconsistent) as error:
        await StateMachinePersister(written).export_history(GOVERNOR, tmp_path / "export.jsonl")
    assert error.value.path == (ALICE if kind == "snapshot" else LOST[kind])
    assert _names_in(tmp_path) == []


EDITED: dict[str, tuple[str, dict[str, Any]]] = {
    "event": (event_path(2), {"action": "edited"}),
    "order": (event_path(2), {"version": 3}),
    "state": (ALICE, {"data": {"n": 1_000}}),
    "snapshot": (snapshot_path(3), {"state": '{"n":1000}'}),
    "marker": ("governors/bank/ids/a1", {"version": "no number"}),
}


@pytest.mark.parametrize("kind", EDITED)
async def test_a_damaged_document_ends_the_export(written: StateStore, tmp_path: Path, kind: str):
    """What a restore would refuse is found by the export: the error names the document, and there is no file."""
    path, changes = EDITED[kind]
    await edit(written.engine, path, **changes)
    with pytest.raises(Inconsistent) as error:
        await StateMachinePersister(written).export_history(GOVERNOR, tmp_path / "export.jsonl")
    assert error.value.path == path
    assert _names_in(tmp_path) == []


def _names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


Lines = list[dict[str, Any]]


def _edit_event(lines: Lines) -> None:
    lines[_index(lines, "event")]["fields"]["action"] = "edited"


def _edit_state(lines: Lines) -> None:
    lines[_index(lines, "state")]["fields"]["data"] = {"n": 1_000}


def _edit_snapshot(lines: Lines) -> None:
    lines[_index(lines, "snapshot")]["fields"]["state"] = '{"n":1000}'


def _edit_kind(lines: Lines) -> None:
    lines[-2]["kind"] = "something"


def _drop_event(lines: Lines) -> None:
    del lines[_index(lines, "event") + 1]


def _drop_state(lines: Lines) -> None:
    del lines[_index(lines, "state")]


def _drop_the_end(lines: Lines) -> None:
    del lines[-3:]


def _swap_events(lines: Lines) -> None:
    index = _index(lines, "event")
    lines[index], lines[index + 1] = lines[index + 1], lines[index]


def _rename_governor(lines: Lines) -> None:
    lines[0]["governor_id"] = "another"


def _another_id(kind: str, identifier: str) -> Callable[[Lines], None]:
    def damage(lines: Lines) -> None:
        lines[_index(lines, kind)]["id"] = identifier

    damage.__name__ = f"{kind} at {identifier}"
    return damage


def _another_place(lines: Lines) -> None:
    last = max(index for index, line in enumerate(lines) if line.get("kind") == "event")
    lines[last]["id"] = "carol~000000000007"


def _two_of_one(lines: Lines) -> None:
    index = _index(lines, "marker")
    lines.insert(index, lines[index])
    lines[-1]["fields"]["lines"] += 1


def _drop_snapshot(lines: Lines) -> None:
    del lines[_index(lines, "snapshot")]
    lines[-1]["fields"]["lines"] -= 1


def _drop_first_event(lines: Lines) -> None:
    del lines[_index(lines, "event")]
    lines[-1]["fields"]["lines"] -= 1


def _index(lines: Lines, kind: str) -> int:
    return next(index for index, line in enumerate(lines) if line.get("kind") == kind)


@pytest.mark.parametrize(
    "damage",
    [
        _edit_event,
        _edit_state,
        _edit_snapshot,
        _edit_kind,
        _drop_event,
        _drop_state,
        _drop_the_end,
        _swap_events,
        _rename_governor,
        _another_place,
        _two_of_one,
        _drop_snapshot,
        _drop_first_event,
        *(
            _another_id(kind, identifier)
            for kind in ("governor", "marker", "event", "snapshot", "state")
            for identifier in ("../../locks/x", "x/y", "", "zoe", "..")
            if (kind, identifier) != ("marker", "zoe")
        ),
    ],
)
async def test_a_damaged_export_is_refused_whole(
    written: StateStore, memory_places: Places, tmp_path: Path, damage: Callable[[Lines], None]
):
    """The whole file is checked before anything is written."""
    file = tmp_path / "export.jsonl"
    await StateMachinePersister(written).export_history(GOVERNOR, file)
    _rewrite(file, damage)
    async with memory_places.new().store() as fresh:
        with pytest.raises((CorruptDocument, InvalidData)) as error:
            await StateMachinePersister(fresh).import_history(file)
        assert file.name in str(error.value)
        assert await collected(fresh.list_governors()) == []
        assert await dump(fresh.engine) == {}


def _rewrite(file: Path, damage: Callable[[Lines], None]) -> None:
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    damage(lines)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    ("content", "error_type"),
    [
        (None, InvalidData),
        (b"", InvalidData),
        (b"a,b,c\n1,2,3\n", InvalidData),
        (b"\xff\xfe\x00", InvalidData),
        (b'{"tai_state_export": 99, "export_id": "", "governor_id": "g", "store_id": "", "exported_at": ""}\n',
         IncompatibleFormat),
    ],
)  # fmt: skip
async def test_a_file_that_is_no_export(
    store: StateStore, tmp_path: Path, content: bytes | None, error_type: type[TaiStateError]
):
    """What is no export, or one of a newer release, is refused by name."""
    file = tmp_path / "file.jsonl"
    if content is not None:
        _write(file, content)
    with pytest.raises(error_type):
        await StateMachinePersister(store).import_history(file)


def _write(file: Path, content: bytes) -> None:
    file.write_bytes(content)


async def test_a_restore_goes_on_where_it_was_interrupted(written: StateStore, memory_places: Places, tmp_path: Path):
    """Stopped at any call, a restore of the same file completes; another file is not let in between."""
    persister = StateMachinePersister(written)
    file, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    await persister.export_history(GOVERNOR, file)
    await persister.export_history(GOVERNOR, other)
    expected = await dump(written.engine)
    for number in range(1, 30):
        place = memory_places.new()
        faulty = FaultyEngine(place.engine(), AtCalls({}))
        async with place.store(faulty) as store:
            restoring = StateMachinePersister(store)
            faulty.plan = AtCalls({("any", faulty.statistics().calls + number): Fault.UNAVAILABLE})
            try:
                await restoring.import_history(file)
            except Unavailable:
                if await dump(store.engine):
                    with pytest.raises(Conflict):
                        await restoring.import_history(other)
                await restoring.import_history(file)
                assert await dump(store.engine) == expected
            else:
                break
    assert number > 4


async def test_a_governor_that_exists_is_not_restored_over(written: StateStore, memory_places: Places, tmp_path: Path):
    """A governor of the same name with a single state is enough to refuse, and nothing is mixed in."""
    file = tmp_path / "export.jsonl"
    await StateMachinePersister(written).export_history(GOVERNOR, file)
    async with memory_places.new().store() as fresh:
        await grow(fresh, 1, "zoe")
        before = await dump(fresh.engine)
        with pytest.raises(Conflict):
            await StateMachinePersister(fresh).import_history(file)
        assert await dump(fresh.engine) == before


async def test_a_governor_with_nothing_below_it_is_restored_over(
    written: StateStore, memory_places: Places, tmp_path: Path
):
    """A governor's own document, left by a first write that was refused, gives way to the one of the export."""
    file = tmp_path / "export.jsonl"
    await StateMachinePersister(written).export_history(GOVERNOR, file)
    async with memory_places.new().store() as fresh:
        left = {"created_at": "2001-02-03T04:05:06.000007Z", "labels": {}}
        await fresh.engine.commit([Put("governors/bank", left)])
        await StateMachinePersister(fresh).import_history(file)
        assert await dump(fresh.engine) == await dump(written.engine)


class _Obstructed(AroundEngine):
    """Does something right after the first commit, which is the note of a restore."""

    def __init__(self, engine: Engine, obstruct: Callable[[], Awaitable[Any]]) -> None:
        super().__init__(engine)
        self.obstruct: Callable[[], Awaitable[Any]] | None = obstruct

    async def commit(self, writes: Sequence[Write]) -> Committed:
        """Commit, then obstruct what follows."""
        committed = await self._engine.commit(writes)
        if self.obstruct is not None:
            obstruct, self.obstruct = self.obstruct, None
            await obstruct()
        return committed


async def test_a_restore_refused_before_it_wrote_leaves_no_note(
    written: StateStore, memory_places: Places, tmp_path: Path
):
    """Somebody else's first write comes between: the restore is refused, and nothing of it stays."""
    file = tmp_path / "export.jsonl"
    await StateMachinePersister(written).export_history(GOVERNOR, file)
    place = memory_places.new()
    async with place.store() as other:
        first = partial(other.save_state, GOVERNOR, "alice", {}, METADATA, event_id="a1")
        async with place.store(_Obstructed(place.engine(), first)) as store:
            with pytest.raises(GovernorExists):
                await StateMachinePersister(store).import_history(file)
        assert (await other.engine.read([other.layout.restore(GOVERNOR)])).documents == (None,)
        assert [state.data async for state in other.list_states(GOVERNOR)] == [{}]


# The stored form -----------------------------------------------------------------------------------------------


GOLDEN_DIGESTS = (
    "38b25eca86a65e91890ebe9e8b9fc7f9c02411635b79434c65e0125f66f2af6c",
    "65cd3248dfaa333675b240803ed987b07bf0f6e7e0b5282b97b9793cc03327f5",
    "7b37e9068a351a0d6e57fc9b619d6227b91d5194b1aeacc3ad9f2fb39943ae95",
    "cc9c1b13aea7c3c58b769fc2cfe0312f7e20c75da160cd6c91edcee899340c7e",
)


async def test_golden_history(place: Place):
    """The stored form is the format: these digests, computed without the library, must never change."""
    async with place.store() as store:
        await fix_identity(store.engine)
    async with place.store() as store:
        persister = StateMachinePersister(store, REDUCERS)
        await store.save_state(
            GOVERNOR,
            "a/lice",
            {"n": 1, "é": [1.5, None]},
            METADATA,
            event_id="first",
            timestamp=datetime(2026, 1, 1, tzinfo=UTC),
        )
        await persister.record(GOVERNOR, "a/lice", [NewEvent("add", 2)], METADATA, expected=EXISTS)
        await store.log_event(GOVERNOR, "a/lice", "ping", METADATA, payload={"x": "y"})
        await store.delete_state(GOVERNOR, "a/lice", METADATA, expected=3)
        events = await collected(store.get_events(GOVERNOR, "a/lice"))
        assert tuple(event.digest for event in events) == GOLDEN_DIGESTS
        assert [event.causality for event in events] == [{"00000000000000aa": number} for number in range(1, 5)]


async def test_skipped_snapshots_are_logged(
    store: StateStore, persister: StateMachinePersister, caplog: pytest.LogCaptureFixture
):
    """A snapshot that cannot be used is a warning with its path, and the answer is right all the same."""
    await add(persister, 7)
    await edit(store.engine, snapshot_path(6), state='{"n":1000}')
    caplog.set_level(logging.WARNING, "tai_state")
    assert (await persister.get_state_at(GOVERNOR, "alice", 7)).data == {"n": 7}
    assert [vars(record)["path"] for record in caplog.records] == [snapshot_path(6)]
