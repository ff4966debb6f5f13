"""What an id has led to can be asked for, whatever kind of change was made under it."""

from __future__ import annotations

import pytest

from tai_state import ANY, JsonEvent, NewEvent, ReducerMissing, StateMachinePersister, StateStore

from ..support.stores import GOVERNOR, METADATA

pytestmark = pytest.mark.anyio


def count(state: dict[str, int] | None, _: JsonEvent) -> dict[str, int]:
    """Add one."""
    return {"n": (state or {"n": 0})["n"] + 1}


async def test_every_kind_of_change_has_a_result(store: StateStore):
    """The state after a saved, logged, updated or deleting event is its result; a folded one names the reducer."""
    persister, handle = StateMachinePersister(store, {"count": count}), store.state(GOVERNOR, "a")
    await handle.save({"n": 1}, METADATA, event_id="saved")
    await handle.log("looked", METADATA, event_id="logged")
    await handle.update(lambda data: {"n": data["n"] + 1}, METADATA, event_id="updated")
    await persister.record(GOVERNOR, "a", [NewEvent("count", event_id="counted")], METADATA, expected=ANY)
    await handle.delete(METADATA, expected=ANY, event_id="deleted")

    async def result(event_id: str, action: str) -> tuple[int, object]:
        found = await store.result_of(GOVERNOR, "a", event_id, action, METADATA)
        assert found is not None
        return found.version, found.data

    assert await result("saved", "save") == (1, {"n": 1})
    assert await result("logged", "looked") == (2, {"n": 1})
    assert await result("updated", "update") == (3, {"n": 2})
    assert await result("deleted", "delete") == (5, None)
    with pytest.raises(ReducerMissing, match="the change was made"):
        await result("counted", "count")
