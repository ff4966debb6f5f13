"""Updating by a handle: a pure function of what is there, run again where somebody else was faster."""

from __future__ import annotations

from typing import Any

import pytest

from tai_state import (
    IdempotencyConflict,
    StateNotFound,
    StateStore,
    StoreTimeout,
    VersionConflict,
)

from ..support.accounts import Account
from ..support.overtaking import Overtaken
from ..support.stores import GOVERNOR, METADATA, CountingEngine, Place, collected

pytestmark = pytest.mark.anyio


def increment(data: dict[str, Any]) -> dict[str, Any]:
    """One more."""
    return {"n": data["n"] + 1}


async def test_update_runs_its_function_on_what_is_there(place: Place):
    """When somebody else is faster, the function runs again on the newer state, and only its last result counts."""
    engine = Overtaken(place.engine())
    async with place.store() as one, place.store(engine) as other:
        await one.save_state(GOVERNOR, "alice", {"n": 0}, METADATA)
        seen: list[int] = []

        def function(data: dict[str, Any]) -> dict[str, Any]:
            seen.append(data["n"])
            return increment(data)

        engine.plan(2, lambda: one.update_state(GOVERNOR, "alice", {"n": 10}, METADATA, expected=1))
        await other.state(GOVERNOR, "alice").update(function, METADATA)
        assert seen == [0, 10]
        assert (await one.get_state(GOVERNOR, "alice")).data == {"n": 11}


async def test_an_update_costs_a_read_and_a_commit(place: Place):
    """With an id or without, with an initial value or without: one read, one commit."""
    engine = CountingEngine(place.engine())
    async with place.store(engine) as store:
        alice, bob = store.state(GOVERNOR, "alice"), store.state(GOVERNOR, "bob")
        await alice.save({"n": 0}, METADATA)
        engine.reset()
        for handle, arguments in ((alice, {}), (alice, {"event_id": "once"}), (bob, {"initial": {"n": 5}})):
            await handle.update(increment, METADATA, **arguments)
            assert (engine.counts.reads, len(engine.counts.commits)) == (1, 1)
            engine.reset()


async def test_an_expected_version_is_not_updated_on_another_one(store: StateStore):
    """With ``expected`` the function runs on that version alone, else the conflict comes at once."""
    handle = store.state(GOVERNOR, "alice")
    first = await handle.save({"n": 0}, METADATA)
    second = await handle.update(increment, METADATA, expected=first)
    assert (second.version, second.data) == (2, {"n": 1})
    ran: list[Any] = []
    with pytest.raises(VersionConflict) as conflict:
        await handle.update(lambda data: ran.append(data) or data, METADATA, expected=1)
    assert (ran, conflict.value.expected, conflict.value.actual) == ([], 1, 2)
    assert [event.version for event in conflict.value.events] == [2]
    await handle.delete(METADATA, expected=2)
    with pytest.raises(StateNotFound):
        await handle.update(increment, METADATA, expected=3)


async def test_an_expected_version_that_is_overtaken_is_a_conflict(place: Place):
    """Where somebody else writes between the read and the commit, an update with ``expected`` is not run again."""
    engine = Overtaken(place.engine())
    async with place.store() as one, place.store(engine) as other:
        await one.save_state(GOVERNOR, "alice", {"n": 0}, METADATA)
        engine.plan(2, lambda: one.update_state(GOVERNOR, "alice", {"n": 10}, METADATA, expected=1))
        with pytest.raises(VersionConflict):
            await other.state(GOVERNOR, "alice").update(increment, METADATA, expected=1)
        assert (await one.get_state(GOVERNOR, "alice")).data == {"n": 10}


async def test_an_initial_value_stands_for_what_is_not_there(store: StateStore):
    """Where there is no state, or a deleted one, the function is given the initial value, and else what is there."""
    handle = store.state(GOVERNOR, "alice")
    for version, n in ((1, 6), (2, 7)):
        updated = await handle.update(increment, METADATA, initial={"n": 5})
        assert (updated.version, updated.data) == (version, {"n": n})
    await handle.delete(METADATA, expected=2)
    again = await handle.update(increment, METADATA, initial={"n": 0}, event_id="anew")
    assert (again.version, again.data) == (4, {"n": 1})
    assert await handle.update(increment, METADATA, initial={"n": 9}, event_id="anew") == again


async def test_an_initial_value_stays_as_it_is(store: StateStore):
    """A function that changes what it is given in place does not change the initial value, which others use as well."""
    initial: dict[str, Any] = {"n": 0}

    def function(data: dict[str, Any]) -> dict[str, Any]:
        data["n"] += 1
        return data

    for name in ("alice", "bob"):
        assert (await store.state(GOVERNOR, name).update(function, METADATA, initial=initial)).data == {"n": 1}
    assert initial == {"n": 0}


async def test_an_initial_value_that_is_overtaken(place: Place):
    """When somebody else creates the state meanwhile, the function runs again on that, and loses nothing of it."""
    engine = Overtaken(place.engine())
    async with place.store() as one, place.store(engine) as other:
        engine.plan(2, lambda: one.save_state(GOVERNOR, "alice", {"n": 10}, METADATA))
        updated = await other.state(GOVERNOR, "alice").update(increment, METADATA, initial={"n": 0})
        assert (updated.version, updated.data) == (2, {"n": 11})


async def test_an_update_that_is_always_outrun_ends_in_time(place: Place):
    """Where somebody else is faster each time, the update ends by itself, as something that may work later."""

    class Outrun(Overtaken):
        async def commit(self, writes: Any) -> Any:
            version = (await one.get_state(GOVERNOR, "alice")).version
            await one.update_state(GOVERNOR, "alice", {"n": 0}, METADATA, expected=version)
            return await super().commit(writes)

    async with place.store() as one, place.store(Outrun(place.engine()), timeout_seconds=0.0) as other:
        await one.save_state(GOVERNOR, "alice", {"n": 0}, METADATA)
        with pytest.raises(StoreTimeout) as outrun:
            await other.state(GOVERNOR, "alice").update(increment, METADATA)
        assert outrun.value.code == "CONTENTION"
        assert (await one.get_state(GOVERNOR, "alice")).data == {"n": 0}


async def test_update_with_an_id_happens_once(store: StateStore):
    """An update called again with the same id has the first result, whatever its function would do now."""
    handle = store.state(GOVERNOR, "alice")
    await handle.save({"n": 0}, METADATA)

    first = await handle.update(increment, METADATA, event_id="once")
    await handle.update(increment, METADATA)
    assert await handle.update(increment, METADATA, event_id="once") == first
    assert (await handle.get()).data == {"n": 2}


async def test_update_with_an_id_of_something_else(store: StateStore):
    """An id that stands for another kind of change is refused by update as by everything else."""
    handle = store.state(GOVERNOR, "alice", Account)
    await handle.save(Account(owner="Alice"), METADATA, event_id="created")
    await store.log_event(GOVERNOR, "alice", "ping", METADATA, event_id="logged")
    await store.save_state(GOVERNOR, "bob", {}, METADATA, event_id="bob's")
    for event_id in ("created", "logged", "bob's"):
        with pytest.raises(IdempotencyConflict):
            await handle.update(lambda data: data, METADATA, event_id=event_id)


async def test_update_of_nothing(store: StateStore):
    """There must be a state to update, and a function that raises changes nothing."""
    handle = store.state(GOVERNOR, "alice")
    with pytest.raises(StateNotFound):
        await handle.update(lambda data: data, METADATA)
    await handle.save({"n": 0}, METADATA)

    def failing(data: dict[str, Any]) -> dict[str, Any]:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await handle.update(failing, METADATA)
    assert (await handle.get()).version == 1


async def test_a_handle_logs_and_knows_whether_its_state_is_there(store: StateStore):
    """A logged event has the states as models, moves the version, and happens once for each id."""
    handle = store.state(GOVERNOR, "alice", Account)
    assert not await handle.exists()
    with pytest.raises(StateNotFound):
        await handle.log("seen", METADATA)
    await handle.save(Account(owner="Alice"), METADATA)
    assert await handle.exists()
    event = await handle.log("seen", METADATA, payload={"by": "post"}, event_id="letter")
    assert (event.version, event.action, event.payload) == (2, "seen", {"by": "post"})
    assert (event.from_state, event.to_state) == (Account(owner="Alice"), Account(owner="Alice"))
    assert (await handle.log("seen", METADATA, payload={"by": "post"}, event_id="letter")).event_id == "letter"
    assert len(await collected(handle.history())) == 2
    with pytest.raises(VersionConflict):
        await handle.log("seen", METADATA, expected=1)
    await handle.delete(METADATA, expected=2)
    assert not await handle.exists()


async def test_an_update_and_a_log_under_one_id_are_two_things(store: StateStore):
    """An id of an update is not that of a logged event that says the same, nor the other way round."""
    handle = store.state(GOVERNOR, "alice")
    await handle.save({"n": 0}, METADATA)
    await handle.update(increment, METADATA, event_id="one")
    await handle.log("update", METADATA, event_id="two")
    with pytest.raises(IdempotencyConflict):
        await handle.log("update", METADATA, event_id="one")
    with pytest.raises(IdempotencyConflict):
        await handle.update(increment, METADATA, event_id="two")
