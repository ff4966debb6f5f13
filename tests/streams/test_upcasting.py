"""Data of an older release of the application, brought up to date as it is read."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tai_state import (
    ANY,
    EveryEvents,
    IncompatibleFormat,
    NewEvent,
    StateMachinePersister,
    StateNotFound,
    StateSnapshot,
    Upcast,
    open_store,
)
from tai_state.engines.api import ANYTHING, Delete
from tai_state.streams.upcasting import Upcasting

from ..support.stores import GOVERNOR, METADATA, Place, collected, dump

pytestmark = pytest.mark.anyio


def _to_two(state: dict[str, Any]) -> dict[str, Any]:
    return {"amount": state["n"]}


def _to_three(state: dict[str, Any]) -> dict[str, Any]:
    return {"cents": state["amount"] * 100}


def _payload_to_two(action: str, payload: Any) -> Any:
    return {"by": payload} if action == "add" else payload


def _payload_to_three(action: str, payload: Any) -> Any:
    return {"cents": payload["by"] * 100} if action == "add" else payload


STEPS = {1: Upcast(_to_two, _payload_to_two), 2: Upcast(_to_three, _payload_to_three)}
SCHEMAS = {
    1: Upcasting(1, {}),
    2: Upcasting(2, {1: STEPS[1]}),
    3: Upcasting(3, STEPS),
    None: Upcasting(None, {}),
}

REDUCERS: dict[int, dict[str, Any]] = {
    1: {"add": lambda state, event: {"n": (state or {"n": 0})["n"] + event.payload}},
    2: {"add": lambda state, event: {"amount": (state or {"amount": 0})["amount"] + event.payload["by"]}},
    3: {"add": lambda state, event: {"cents": (state or {"cents": 0})["cents"] + event.payload["cents"]}},
}
"""What each release of the application makes of its events."""


def release(place: Place, schema: int | None, **options: Any) -> Any:
    """The store as a release of the application opens it."""
    return place.store(upcasting=SCHEMAS[schema], snapshots=EveryEvents(3), **options)


async def _write_with_all_releases(place: Place) -> None:
    """Version 1 and 2 by the first release, 3 and 4 by the second, 5 and 6 by the third."""
    for schema, payloads in ((1, [1, 2]), (2, [{"by": 3}, {"by": 4}]), (3, [{"cents": 500}, {"cents": 600}])):
        async with release(place, schema) as store:
            persister = StateMachinePersister(store, REDUCERS[schema])
            for payload in payloads:
                await persister.record(GOVERNOR, "alice", [NewEvent("add", payload)], METADATA, expected=ANY)


CENTS = [100, 300, 600, 1_000, 1_500, 2_100]


async def test_a_history_of_three_releases(place: Place):
    """The newest release reads and folds what all releases wrote, in its own shape, from any place on."""
    await _write_with_all_releases(place)
    async with release(place, 3) as store:
        persister = StateMachinePersister(store, REDUCERS[3])
        assert (await store.get_state(GOVERNOR, "alice")).data == {"cents": 2_100}
        events = await collected(persister.replay(GOVERNOR, "alice"))
        assert [event.to_state for event in events] == [{"cents": cents} for cents in CENTS]
        assert [event.payload for event in events] == [{"cents": cents * 100} for cents in range(1, 7)]
        for version, cents in enumerate(CENTS, start=1):
            assert (await persister.get_state_at(GOVERNOR, "alice", version)).data == {"cents": cents}
        later = await collected(persister.replay(GOVERNOR, "alice", after=4))
        assert later == events[4:]
        report = await persister.validate_consistency(GOVERNOR)
        assert report.consistent, report.findings
        assert await persister.recover(GOVERNOR) == type(await persister.recover(GOVERNOR))(checked=1, sound=1)


async def test_recovery_after_the_shape_changed(place: Place):
    """A lost state is rebuilt from events of older shapes, and is sound afterwards."""
    await _write_with_all_releases(place)
    async with release(place, 3) as store:
        persister = StateMachinePersister(store, REDUCERS[3])
        before = await dump(store.core.engine)
        await store.core.engine.commit([Delete("governors/bank/states/alice", ANYTHING)])
        assert (await persister.recover(GOVERNOR)).rebuilt == ("governors/bank/states/alice",)
        assert await dump(store.core.engine) == before


async def test_an_older_release_leaves_newer_snapshots_alone(place: Place):
    """Recovery by a release that does not know a kept snapshot's schema finds it sound, and deletes nothing."""
    async with release(place, 1) as older, release(place, 2) as newer:
        for version in range(7):
            store, data = (older, {"n": version}) if version < 3 else (newer, {"amount": version})
            await store.save_state(GOVERNOR, "alice", data, METADATA, expected=version)
        before = await dump(newer.core.engine)
        report = await StateMachinePersister(older).recover(GOVERNOR)
        assert (report.sound, report.rebuilt, report.failed) == (1, (), ())
        assert await newer.list_snapshots(GOVERNOR, "alice") == [3, 6]
        assert await dump(newer.core.engine) == before


async def test_states_are_read_in_the_present_shape(place: Place):
    """Whichever way a state is read, it has the shape that the application knows."""
    async with release(place, 1) as store:
        for version in range(4):
            await store.save_state(GOVERNOR, "alice", {"n": version}, METADATA, expected=version)
        moment = (await store.get_state(GOVERNOR, "alice")).timestamp
    async with release(place, 3) as store:
        three = {"cents": 300}
        assert (await store.get_state(GOVERNOR, "alice")).data == three
        batch = await store.batch_get_states(GOVERNOR, ["alice"])
        assert batch["alice"] == await store.get_state(GOVERNOR, "alice")
        assert [state.data for state in await collected(store.list_states(GOVERNOR))] == [three]
        assert (await store.get_state_at(GOVERNOR, "alice", 1)).data == {"cents": 0}
        assert (await store.get_state_at(GOVERNOR, "alice", moment)).data == three
        loaded = await store.load_snapshot(GOVERNOR, "alice")
        assert loaded is not None
        assert loaded.data == {"cents": 200}
        events = await collected(store.get_events(GOVERNOR, "alice"))
        assert [event.to_state for event in events] == [{"cents": cents} for cents in (0, 100, 200, 300)]
        assert [event.from_state for event in events[1:]] == [event.to_state for event in events[:-1]]
        assert await collected(store.get_all_events(GOVERNOR)) == events
        start = datetime(2020, 1, 1, tzinfo=UTC)
        assert await collected(store.get_events_between(GOVERNOR, start, moment)) == events
        handle = store.state(GOVERNOR, "alice")
        assert (await handle.update(lambda data: {"cents": data["cents"] + 1}, METADATA)).data == {"cents": 301}


async def test_states_are_found_by_their_present_shape(place: Place):
    """What is found is what would be found if all data had the present shape, each state once, older ones first."""
    async with release(place, 1) as store:
        for state_id, n in (("a", 1), ("b", 2), ("c", 1), ("d", 1)):
            await store.save_state(GOVERNOR, state_id, {"n": n}, METADATA)
        await store.delete_state(GOVERNOR, "d", METADATA, expected=1)
    async with release(place, 2) as store:
        await store.save_state(GOVERNOR, "e", {"amount": 1}, METADATA)
    async with release(place, 3, indexed=("cents", "n")) as store:
        for state_id, cents in (("f", 100), ("g", 200)):
            await store.save_state(GOVERNOR, state_id, {"cents": cents}, METADATA)
        found = await collected(store.find_states(GOVERNOR, {"cents": 100}))
        assert [(state.state_id, state.data) for state in found] == [
            (state_id, {"cents": 100}) for state_id in ("a", "c", "e", "f")
        ]
        assert await collected(store.find_states(GOVERNOR, {"n": 1})) == []
    async with release(place, None, indexed=("n",)) as store:
        assert [state.state_id for state in await collected(store.find_states(GOVERNOR, {"n": 1}))] == ["a", "c"]


async def test_an_event_that_leaves_the_state_brings_it_up_to_date(place: Place):
    """An event logged by a newer release carries the state in its shape, so that the stream can be read from there."""
    async with release(place, 1) as store:
        await store.save_state(GOVERNOR, "alice", {"n": 1}, METADATA)
    async with release(place, 3) as store:
        event = await store.log_event(GOVERNOR, "alice", "ping", METADATA)
        assert (event.from_state, event.to_state) == ({"cents": 100}, {"cents": 100})
        second = await store.log_event(GOVERNOR, "alice", "ping", METADATA)
        assert (second.from_state, second.to_state) == ({"cents": 100}, {"cents": 100})
        persister = StateMachinePersister(store, {})
        recorded = await persister.record(GOVERNOR, "alice", [NewEvent("note", "x")], METADATA, expected=ANY)
        assert recorded[0].to_state == {"cents": 100}
        report = await persister.validate_consistency(GOVERNOR)
        assert report.consistent, report.findings


async def test_a_transition_from_an_older_shape(place: Place):
    """A transition starts from the state as it is read, whatever shape it is stored in."""
    async with release(place, 1) as store:
        await store.save_state(GOVERNOR, "alice", {"n": 1}, METADATA)
    async with release(place, 2) as store:
        before = await store.get_state(GOVERNOR, "alice")
        event = await StateMachinePersister(store).log_transition(
            GOVERNOR, before, before.with_data({"amount": 5}), "raise", METADATA
        )
        assert (event.from_state, event.to_state) == ({"amount": 1}, {"amount": 5})


async def test_a_deleted_state_has_no_shape(place: Place):
    """Deletions are not brought up to date: there is nothing in them."""
    async with release(place, 1) as store:
        await store.save_state(GOVERNOR, "alice", {"n": 1}, METADATA)
        await store.delete_state(GOVERNOR, "alice", METADATA, expected=1)
    async with release(place, 3) as store:
        with pytest.raises(StateNotFound):
            await store.get_state(GOVERNOR, "alice")
        [state] = await collected(store.list_states(GOVERNOR, deleted=True))
        assert state.data is None
        persister = StateMachinePersister(store, REDUCERS[3])
        [event] = await persister.record(GOVERNOR, "alice", [NewEvent("add", {"cents": 5})], METADATA, expected=2)
        assert (event.from_state, event.to_state) == (None, {"cents": 5})
        assert (await persister.validate_consistency(GOVERNOR)).consistent


async def test_data_of_a_newer_release(place: Place):
    """An older release does not guess: what a newer one wrote is an error that says to upgrade."""
    async with release(place, 2) as store:
        await store.save_state(GOVERNOR, "alice", {"amount": 1}, METADATA)
        await store.save_state(GOVERNOR, "gone", {"amount": 1}, METADATA)
        await store.delete_state(GOVERNOR, "gone", METADATA, expected=1)
    async with release(place, 1) as store:
        persister = StateMachinePersister(store, REDUCERS[1])
        for call in (
            lambda: store.get_state(GOVERNOR, "alice"),
            lambda: store.log_event(GOVERNOR, "alice", "ping", METADATA),
            lambda: collected(store.get_events(GOVERNOR, "alice")),
            lambda: persister.record(GOVERNOR, "alice", [NewEvent("add", 1)], METADATA, expected=1),
            lambda: persister.get_state_at(GOVERNOR, "alice", 1),
        ):
            with pytest.raises(IncompatibleFormat, match="upgrade"):
                await call()
        assert (await store.save_state(GOVERNOR, "gone", {"n": 1}, METADATA)).version == 3


async def test_reading_everything_as_it_is_stored(place: Place):
    """Without a schema, as tools open a store, every version is read as it is stored, and can be verified."""
    await _write_with_all_releases(place)
    async with release(place, 3) as store:
        await store.save_state(GOVERNOR, "bob", {"cents": 1}, METADATA)
    async with release(place, None) as store:
        assert (await store.get_state(GOVERNOR, "bob")).data == {"cents": 1}
        assert (await store.get_state(GOVERNOR, "alice")).data == {"cents": 2_100}
        report = await StateMachinePersister(store).validate_consistency(GOVERNOR)
        assert (report.findings, report.unchecked) == ((), 1)


@pytest.mark.parametrize(
    ("schema", "steps"),
    [
        (2, {}),
        (3, {1: STEPS[1]}),
        (3, {2: STEPS[2]}),
        (1, {1: STEPS[1]}),
        (2, {1: STEPS[1], 2: STEPS[2]}),
        (2, {0: STEPS[1]}),
    ],
)
def test_steps_without_a_gap(schema: int, steps: dict[int, Upcast]):
    """There must be exactly one step from each older version to the next."""
    with pytest.raises(ValueError, match=f"schema {schema}"):
        Upcasting(schema, steps)


async def test_opening_with_upcasters(tmp_path: Path):
    """A store is opened by address with the application's version and its steps."""
    address = f"sqlite:///{tmp_path}/store.db"
    async with open_store(address) as store:
        await store.save_state(GOVERNOR, "alice", {"n": 7}, METADATA)
    async with open_store(address, schema=3, upcasters=STEPS) as store:
        assert (await store.get_state(GOVERNOR, "alice")).data == {"cents": 700}
        snapshot: StateSnapshot[Any] = await store.state(GOVERNOR, "alice").at(1)
        assert snapshot.data == {"cents": 700}
