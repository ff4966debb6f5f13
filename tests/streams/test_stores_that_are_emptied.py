"""A store that somebody else empties while it is open: what is written afterwards is found again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from tai_state import ANY, StateMachinePersister, StateStore, Transaction
from tai_state.engines.api import Delete
from tai_state.engines.ordering import commit_ordered

from ..support.stores import GOVERNOR, METADATA, Place, collected, dump

pytestmark = pytest.mark.anyio


async def _save(store: StateStore) -> None:
    await store.save_state(GOVERNOR, "new", {"n": 1}, METADATA)


async def _save_any(store: StateStore) -> None:
    await store.save_state(GOVERNOR, "new", {"n": 1}, METADATA, expected=ANY)


async def _save_once(store: StateStore) -> None:
    await store.save_state(GOVERNOR, "new", {"n": 1}, METADATA, event_id="once")


async def _save_again(store: StateStore) -> None:
    await store.save_state(GOVERNOR, "old", {"n": 1}, METADATA)


async def _transact(store: StateStore) -> None:
    async def function(tx: Transaction) -> None:
        tx.put(store.state(GOVERNOR, "new"), {"n": 1})
        tx.put(store.state("another", "new"), {"n": 1})

    await store.transact(function, METADATA)


@pytest.mark.parametrize("change", [_save, _save_any, _save_once, _save_again, _transact])
async def test_the_next_state_brings_its_governor_again(
    place: Place, change: Callable[[StateStore], Awaitable[None]]
) -> None:
    """The first state after the store was emptied brings the governor's own document, so that it is listed."""
    async with place.store() as store, place.store() as other:
        await store.save_state(GOVERNOR, "old", {"n": 1}, METADATA)
        await other.core.engine.commit([Delete(path) for path in await dump(other.core.engine)])
        await change(store)
        if commit_ordered(store.core.engine) is None:  # there, writers that check one document wait for each other
            await other.save_state(GOVERNOR, "theirs", {}, METADATA)
        assert GOVERNOR in await collected(store.list_governors())
        assert (await StateMachinePersister(store).validate_consistency()).consistent
