"""What is deleted is a class of its own, wherever a state may be deleted, and what is there is the other one."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from tai_state import (
    NO_STATE,
    DeletedState,
    IdempotencyConflict,
    InvalidData,
    StateMachinePersister,
    StateNotFound,
    StateSnapshot,
    StateStore,
    VersionConflict,
)

from ..support.stores import GOVERNOR, METADATA, Place, collected

pytestmark = pytest.mark.anyio


class Pump(BaseModel):
    litres: int


async def _deleted(store: StateStore) -> DeletedState:
    """A state of two versions, the second its deletion."""
    await store.save_state(GOVERNOR, "pump", {"litres": 1}, METADATA)
    return await store.delete_state(GOVERNOR, "pump", METADATA, expected=1)


async def test_a_deletion_has_the_facts_of_its_event(place: Place) -> None:
    """What a deletion returns, and what is listed, travelled back to and kept of it, are one and the same."""
    async with place.store() as store:
        deleted = await _deleted(store)
        [event] = await collected(store.get_events(GOVERNOR, "pump", after=1))
        facts = (deleted.governor_id, deleted.state_id, deleted.version, deleted.data, deleted.deleted)
        assert facts == (GOVERNOR, "pump", 2, None, True)
        assert (deleted.timestamp, deleted.recorded_at, deleted.causality, deleted.metadata) == (
            *(event.timestamp, event.recorded_at, event.causality, event.metadata),
        )
        assert await collected(store.list_states(GOVERNOR, deleted=True)) == [deleted]
        assert await store.get_state_at(GOVERNOR, "pump", 2) == deleted
        assert await store.create_snapshot(GOVERNOR, "pump") == deleted
        assert await store.load_snapshot(GOVERNOR, "pump") == deleted


async def test_what_must_be_there_is_no_deleted_state(place: Place) -> None:
    """Where only states that are there are asked for, a deleted one is missing or an error."""
    async with place.store() as store:
        await _deleted(store)
        with pytest.raises(StateNotFound):
            await store.get_state(GOVERNOR, "pump")
        assert await store.batch_get_states(GOVERNOR, ["pump"]) == {"pump": None}
        assert await collected(store.list_states(GOVERNOR)) == []
        assert not await store.exists(GOVERNOR, "pump")


async def test_a_deleted_state_says_what_is_expected(place: Place) -> None:
    """Given as ``expected``, it stands for its version: the state is written anew on it, and on nothing else."""
    async with place.store() as store:
        deleted = await _deleted(store)
        pump = store.state(GOVERNOR, "pump", Pump)
        again = await pump.save(Pump(litres=2), METADATA, expected=deleted)
        assert (type(again), again.version, again.data) == (StateSnapshot, 3, Pump(litres=2))
        with pytest.raises(VersionConflict):
            await pump.save(Pump(litres=3), METADATA, expected=deleted)
        with pytest.raises(InvalidData, match="another state"):
            await store.save_state(GOVERNOR, "other", {}, METADATA, expected=deleted)


async def test_a_handle_tells_them_apart(place: Place) -> None:
    """A handle gives the model of a version that was there, and no model of one that deleted it."""
    async with place.store() as store:
        deleted = await _deleted(store)
        pump = store.state(GOVERNOR, "pump", Pump)
        there, gone = await pump.at(1), await pump.at(2)
        assert (type(there), there.data) == (StateSnapshot, Pump(litres=1))
        assert gone == deleted


async def test_a_transition_out_of_a_deletion(place: Place) -> None:
    """A deleted state with data is a proposal to write it again, from no state to that one."""
    async with place.store() as store:
        deleted = await _deleted(store)
        persister = StateMachinePersister(store)
        event = await persister.log_transition(GOVERNOR, deleted, deleted.with_data({"litres": 5}), "found", METADATA)
        assert (event.version, event.from_state, event.to_state) == (3, None, {"litres": 5})
        with pytest.raises(InvalidData, match="to_state"):
            await persister.log_transition(GOVERNOR, deleted, deleted, "lost", METADATA)  # type: ignore[arg-type]


async def test_an_update_is_no_repetition_of_a_deletion(place: Place) -> None:
    """An update whose id stands for a deletion, made by the same caller under the same name, is refused."""
    async with place.store() as store:
        pump = store.state(GOVERNOR, "pump", Pump)
        await pump.save(Pump(litres=1), METADATA)
        await pump.delete(METADATA, expected=1, action="update", event_id="request 1")
        await pump.save(Pump(litres=2), METADATA, expected=NO_STATE)
        with pytest.raises(IdempotencyConflict):
            await pump.update(lambda now: now, METADATA, event_id="request 1")
