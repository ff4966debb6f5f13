"""A transaction whose writes have ids, asked for again: the first result, whatever has become of the states."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tai_state import (
    IdempotencyConflict,
    NewEvent,
    StateHandle,
    StateMachinePersister,
    StateStore,
    Transaction,
    TransactionManager,
    VersionConflict,
)
from tai_state.streams.layout import Layout

from ..support.stores import GOVERNOR, METADATA, Place, Places

pytestmark = pytest.mark.anyio


def closed(state: Any, _event: Any) -> Any:
    """Folds a closing; a second one is refused."""
    if state["closed"]:
        raise ValueError("it is closed")
    return {"closed": True}


@pytest.fixture
async def store(place: Place) -> AsyncIterator[StateStore]:
    """An open store with a state at version 1."""
    async with place.store() as store:
        await store.save_state(GOVERNOR, "s", {"closed": False}, METADATA)
        yield store


@pytest.fixture
def state(store: StateStore) -> StateHandle[dict[str, Any]]:
    """The handle of that state."""
    return store.state(GOVERNOR, "s")


@pytest.mark.parametrize("is_moved", [False, True], ids=["at_once", "later"])
async def test_what_was_expected_then_is_no_matter(
    store: StateStore,
    state: StateHandle[dict[str, Any]],
    is_moved: bool,  # noqa: FBT001
):
    """A state that was read, and written with an expectation that held at the time, is not written again."""

    async def function(tx: Transaction) -> None:
        await tx.find(state)
        tx.put(state, {"closed": False, "n": 1}, expected=1, event_id="one")
        tx.put(state, {"closed": False, "n": 2}, expected=2, event_id="two")

    await store.transact(function, METADATA)
    if is_moved:
        await state.delete(METADATA, expected=3)
    await store.transact(function, METADATA)
    assert (await state.at(3)).data == {"closed": False, "n": 2}
    assert [each.version async for each in state.history(after=3)] == [4] * is_moved


async def test_another_transaction_with_a_wrong_expectation(store: StateStore, state: StateHandle[dict[str, Any]]):
    """An expectation that does not hold is told once the ids are found to be new; the function runs once."""
    runs = 0

    async def function(tx: Transaction) -> None:
        nonlocal runs
        runs += 1
        await tx.get(state)
        tx.put(state, {"closed": True}, expected=7, event_id="one")

    with pytest.raises(VersionConflict) as told:
        await store.transact(function, METADATA)
    assert (told.value.expected, told.value.actual, runs) == (7, 1, 1)
    assert (await state.get()).version == 1


async def test_reducers_that_refuse_what_stands_now(store: StateStore, state: StateHandle[dict[str, Any]]):
    """What was recorded is not folded again, although the state was read."""

    async def function(tx: Transaction) -> None:
        await tx.get(state)
        tx.record(state, [NewEvent("close", {}, "closing")])

    manager = TransactionManager(store, {"close": closed})
    await manager.transact(function, METADATA)
    await manager.transact(function, METADATA)
    assert (await state.get()).version == 2


async def test_a_new_event_before_the_first_one_is_not_swallowed(store: StateStore):
    """A transaction that puts something before what an id made of a state is refused, and not taken for done."""
    fresh = store.state(GOVERNOR, "fresh")
    await fresh.save({"n": 1}, METADATA, action="update", event_id="first")

    async def function(tx: Transaction) -> None:
        tx.put(fresh, {"n": 0})
        tx.put(fresh, {"n": 1}, event_id="first")

    with pytest.raises(IdempotencyConflict):
        await store.transact(function, METADATA)
    assert (await fresh.get()).version == 1


async def test_after_a_restore_under_another_root(memory_places: Places, tmp_path: Path):
    """The ids of a governor that was moved stand for what they stood for, states beside them included."""

    async def run(store: StateStore) -> None:
        async def function(tx: Transaction) -> None:
            tx.put(store.state(GOVERNOR, "named"), {"n": 1}, event_id="one")
            tx.put(store.state(GOVERNOR, "beside"), {"n": 1})

        await store.transact(function, METADATA)

    async with memory_places.new().store(layout=Layout("acme", "test")) as store:
        await run(store)
        await StateMachinePersister(store).export_history(GOVERNOR, tmp_path / "bank.jsonl")
    async with memory_places.new().store() as store:
        await StateMachinePersister(store).import_history(tmp_path / "bank.jsonl")
        await run(store)
        assert (await store.get_state(GOVERNOR, "beside")).version == 1
