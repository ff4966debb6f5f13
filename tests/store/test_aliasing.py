"""What is the caller's stays the caller's."""

from __future__ import annotations

from typing import Any

import pytest

from tai_state import ChangeMetadata, StateMachinePersister, StateStore

from ..support.stores import GOVERNOR, METADATA, Place, collected

pytestmark = pytest.mark.anyio


async def test_nothing_aliases_the_callers_data(place: Place):
    """Neither what goes in nor what comes out shares anything with what the store holds."""
    async with place.store() as store:
        data: dict[str, Any] = {"list": [1], "map": {"k": []}}
        context: dict[str, Any] = {"c": [1]}
        payload: list[Any] = [{"p": 1}]
        saved = await store.save_state(GOVERNOR, "alice", data, ChangeMetadata("ann", "why", context))
        event = await store.log_event(GOVERNOR, "alice", "ping", METADATA, payload=payload)
        data["list"].append("changed")
        context["c"].append("changed")
        payload[0]["p"] = "changed"
        for given in (saved, event, await store.get_state(GOVERNOR, "alice")):
            given.causality["changed"] = 9
            given.metadata.context["changed"] = 9
        saved.data["list"].append("changed")
        event.from_state["map"]["k"].append("changed")
        event.to_state["map"]["k"].append("changed")
        event.payload.append("changed")
        seen = await collected(store.get_events(GOVERNOR, "alice"))
        seen[0].to_state["list"].append("changed")
        assert seen[1].from_state == {"list": [1], "map": {"k": []}}
        await store.log_event(GOVERNOR, "alice", "ping", METADATA)
        state = await store.get_state(GOVERNOR, "alice")
        assert state.data == {"list": [1], "map": {"k": []}}
        assert state.causality == {store.store_id: 3}
        events = await collected(store.get_events(GOVERNOR, "alice"))
        assert [each.causality for each in events] == [{store.store_id: n} for n in (1, 2, 3)]
        assert events[0].metadata.context == {"c": [1]}
        assert events[1].payload == [{"p": 1}]
        assert events[1].metadata.context == METADATA.context
        assert (await StateMachinePersister(store).validate_consistency()).consistent


async def test_a_function_may_change_what_it_is_given(store: StateStore):
    """An update's function may change its argument in place: it is nobody else's."""
    handle = store.state(GOVERNOR, "alice")
    await handle.save({"list": []}, METADATA)

    def append(data: dict[str, Any]) -> dict[str, Any]:
        data["list"].append(1)
        return data

    await handle.update(append, METADATA)
    await handle.update(append, METADATA)
    assert [event.to_state for event in await collected(handle.history())] == [
        {"list": []},
        {"list": [1]},
        {"list": [1, 1]},
    ]
