"""Streams whose state is missing or damaged are reported, and not built upon."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tai_state import (
    ANY,
    EXISTS,
    NO_STATE,
    EventSourcingError,
    NewEvent,
    StateMachinePersister,
    StateStore,
    TaiStateError,
)
from tai_state.engines.api import ANYTHING, Delete

from ..support.accounts import grow
from ..support.operations import REDUCERS
from ..support.stores import GOVERNOR, METADATA, Place, collected, edit

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("expected", [NO_STATE, EXISTS, ANY, 2], ids=str)
async def test_events_without_a_state_are_reported(place: Place, expected: Any):
    """A state whose document is gone is not written anew over its events: the error names the way out."""
    async with place.store() as store:
        await grow(store, "alice", 2)
        await store.core.engine.commit([Delete("governors/bank/states/alice", ANYTHING)])
    async with place.store() as store:
        with pytest.raises(EventSourcingError, match="tai-state verify"):
            await store.save_state(GOVERNOR, "alice", {}, METADATA, expected=expected)
        assert (await store.recover(GOVERNOR)).rebuilt == ("governors/bank/states/alice",)
        assert (await store.save_state(GOVERNOR, "alice", {}, METADATA, expected=2)).version == 3


async def test_events_after_the_first_place_are_found_too(place: Place):
    """Where the state and event 1 are gone, several events in one commit are refused by those that are left."""
    async with place.store() as store:
        await grow(store, "alice", 3)
        gone = ("governors/bank/states/alice", "governors/bank/events/alice~000000000001")
        await store.core.engine.commit([Delete(path, ANYTHING) for path in gone])
    async with place.store() as store:
        events = [NewEvent("add", n) for n in range(5)]
        with pytest.raises(EventSourcingError, match="tai-state verify"):
            await StateMachinePersister(store, REDUCERS).record(GOVERNOR, "alice", events, METADATA, expected=0)


async def test_a_damaged_state_is_not_built_upon(place: Place, store: StateStore):
    """What reads the state to write it anew refuses damaged data instead of making it the truth."""
    persister = StateMachinePersister(store, REDUCERS)
    await store.save_state(GOVERNOR, "alice", {"n": 1}, METADATA)

    await edit(store.core.engine, "governors/bank/states/alice", data={"n": 100})
    changes: list[Callable[[], Any]] = [
        lambda: persister.record(GOVERNOR, "alice", [NewEvent("add", 1)], METADATA, expected=ANY),
        lambda: store.log_event(GOVERNOR, "alice", "ping", METADATA),
        lambda: store.state(GOVERNOR, "alice").update(lambda data: data, METADATA),
        lambda: store.get_state(GOVERNOR, "alice"),
        lambda: store.batch_get_states(GOVERNOR, ["alice"]),
        lambda: collected(store.list_states(GOVERNOR)),
        lambda: store.create_snapshot(GOVERNOR, "alice"),
    ]
    for change in changes:
        with pytest.raises(TaiStateError, match="tai-state verify"):
            await change()
    await store.recover(GOVERNOR)
    assert (await store.get_state(GOVERNOR, "alice")).data == {"n": 1}
