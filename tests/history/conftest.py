"""Stores with some history."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tai_state import EveryEvents, StateMachinePersister, StateStore

from ..support.histories import HOUR, add
from ..support.operations import REDUCERS
from ..support.stores import GOVERNOR, METADATA, Place


@pytest.fixture
async def store(place: Place) -> AsyncIterator[StateStore]:
    """An open store that keeps a snapshot every three events."""
    async with place.store(snapshots=EveryEvents(3, keep=9)) as store:
        yield store


@pytest.fixture
def persister(store: StateStore) -> StateMachinePersister:
    """The store's persister, with reducers."""
    return StateMachinePersister(store, REDUCERS)


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
