"""Ids that callers give: an event's id stands for one change, and two spellings are two states."""

from __future__ import annotations

import unicodedata
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from tai_state import ANY, IdempotencyConflict, InvalidData, NewEvent, StateMachinePersister, StateStore, open_store

from ..support.operations import REDUCERS
from ..support.stores import GOVERNOR, METADATA, collected

pytestmark = pytest.mark.anyio


async def test_an_event_without_a_callers_id_gets_a_random_one():
    """It is a UUID of version 4, and no two events share one, also beyond those that are drawn at a time."""
    async with open_store("memory://") as store:
        for n in range(600):
            await store.save_state(GOVERNOR, "alice", {"n": n}, METADATA, expected=ANY)
        ids = [event.event_id async for event in store.get_events(GOVERNOR, "alice")]
    found = [uuid.UUID(each) for each in ids]
    assert len(set(found)) == 600
    assert {(each.version, each.variant) for each in found} == {(4, uuid.RFC_4122)}
    assert [str(each) for each in found] == ids
    assert all(len({text[place] for text in ids}) > 1 for place in range(36) if place not in (8, 13, 14, 18, 23))


# Ids of callers ------------------------------------------------------------------------------------------------


async def test_an_id_stands_for_one_change_of_one_state(store: StateStore):
    """The same id for other content, on the same state or another, is refused; in another governor it is free."""
    await store.save_state(GOVERNOR, "alice", {"n": 1}, METADATA, event_id="once")
    refused: list[Callable[[], Any]] = [
        lambda: store.save_state(GOVERNOR, "alice", {"n": 2}, METADATA, expected=ANY, event_id="once"),
        lambda: store.save_state(GOVERNOR, "alice", {"n": 1}, METADATA, expected=ANY, event_id="once", action="other"),
        lambda: store.save_state(GOVERNOR, "bob", {"n": 1}, METADATA, event_id="once"),
        lambda: store.delete_state(GOVERNOR, "alice", METADATA, expected=1, event_id="once"),
        lambda: store.log_event(GOVERNOR, "alice", "save", METADATA, event_id="once"),
    ]
    for call in refused:
        with pytest.raises(IdempotencyConflict) as conflict:
            await call()
        assert conflict.value.event_id == "once"
    await store.save_state("another", "alice", {"n": 2}, METADATA, event_id="once")
    assert (await store.get_state(GOVERNOR, "alice")).version == 1
    assert not await store.exists(GOVERNOR, "bob")


async def test_the_same_call_again_has_the_first_result_much_later(store: StateStore):
    """An id keeps its meaning when the state has moved on, was deleted and has come back."""
    first = await store.save_state(GOVERNOR, "alice", {"n": 1}, METADATA, event_id="create")
    second = await store.update_state(GOVERNOR, "alice", {"n": 2}, METADATA, expected=1, event_id="update")
    gone = await store.delete_state(GOVERNOR, "alice", METADATA, expected=2, event_id="delete")
    await store.save_state(GOVERNOR, "alice", {"n": 4}, METADATA)
    assert await store.save_state(GOVERNOR, "alice", {"n": 1}, METADATA, event_id="create") == first
    again = await store.update_state(GOVERNOR, "alice", {"n": 2}, METADATA, expected=1, event_id="update")
    assert again == second
    assert await store.delete_state(GOVERNOR, "alice", METADATA, expected=2, event_id="delete") == gone
    assert (gone.deleted, gone.data) == (True, None)
    assert (await store.get_state(GOVERNOR, "alice")).version == 4


async def test_a_batch_with_and_without_ids_can_be_recorded_again(store: StateStore):
    """Of a batch, the ids that the caller gave are enough to find it again."""
    persister = StateMachinePersister(store, REDUCERS)
    batch = [NewEvent("add", 1), NewEvent("add", 2, "middle"), NewEvent("add", 3)]
    await store.save_state(GOVERNOR, "alice", {"n": 0}, METADATA)
    first = await persister.record(GOVERNOR, "alice", batch, METADATA, expected=ANY)
    assert await persister.record(GOVERNOR, "alice", batch, METADATA, expected=ANY) == first
    assert (await store.get_state(GOVERNOR, "alice")).data == {"n": 6}


async def test_a_batch_never_mixes_with_another(store: StateStore):
    """A batch that shares ids with earlier ones without being one of them is refused as a whole."""
    persister = StateMachinePersister(store, REDUCERS)
    one, two = NewEvent("add", 1, "one"), NewEvent("add", 1, "two")
    await persister.record(GOVERNOR, "alice", [one], METADATA, expected=ANY)
    await persister.record(GOVERNOR, "alice", [NewEvent("add", 1)], METADATA, expected=ANY)
    await persister.record(GOVERNOR, "alice", [two], METADATA, expected=ANY)
    for batch in ([one, two], [two, one], [one, NewEvent("add", 1, "three")]):
        with pytest.raises(IdempotencyConflict):
            await persister.record(GOVERNOR, "alice", batch, METADATA, expected=ANY)
    assert (await store.get_state(GOVERNOR, "alice")).data == {"n": 3}


async def test_a_batch_names_each_id_once(store: StateStore):
    """Two events of one batch cannot have one id."""
    persister = StateMachinePersister(store, REDUCERS)
    with pytest.raises(InvalidData):
        await persister.record(
            GOVERNOR, "alice", [NewEvent("add", 1, "x"), NewEvent("add", 1, "x")], METADATA, expected=ANY
        )


# What is the caller's stays the caller's -----------------------------------------------------------------------


async def test_two_spellings_are_two_states(store: StateStore):
    """Ids are not normalised: the composed and the decomposed form of a letter are two states, also in lists."""
    composed = unicodedata.normalize("NFC", "é")
    decomposed = unicodedata.normalize("NFD", "é")
    await store.save_state(composed, composed, {"n": 1}, METADATA)
    await store.save_state(composed, decomposed, {"n": 2}, METADATA)
    await store.save_state(decomposed, composed, {"n": 3}, METADATA)
    assert (await store.get_state(composed, composed)).data == {"n": 1}
    assert (await store.get_state(composed, decomposed)).data == {"n": 2}
    assert {state.state_id for state in await collected(store.list_states(composed))} == {composed, decomposed}
    assert set(await collected(store.list_governors())) == {composed, decomposed}
