"""Replay and time travel."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from tai_state import (
    ANY,
    NO_STATE,
    ChangeMetadata,
    EventSourcingError,
    InvalidData,
    NewEvent,
    ReducerMissing,
    StateMachinePersister,
    StateNotFound,
    StateSnapshot,
    StateStore,
    VersionConflict,
)
from tai_state.streams.reader import Folded

from ..support.histories import HOUR, add, event_path, grow
from ..support.operations import REDUCERS
from ..support.stores import GOVERNOR, METADATA, Place, collected

pytestmark = pytest.mark.anyio


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
        stream = store.core.layout.stream(GOVERNOR, "alice")
        before, careful = Folded(), []
        for record, recorded_us in await collected(store.core.reader.records(stream, 1)):
            now = before.then(record)
            careful.append(store.core.reader.event(stream, record, recorded_us, before, now))
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
