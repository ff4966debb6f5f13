"""Finding states by their fields."""

from __future__ import annotations

from typing import Any

import pytest

from tai_state import InvalidId, StateStore, UnindexedField

from ..support.stores import GOVERNOR, METADATA, Place, collected

pytestmark = pytest.mark.anyio


async def test_find_states(place: Place):
    """States are found by the fields that the store indexes, one value or any of several, exactly by type."""
    async with place.store(indexed=("status", "address.city", "n")) as store:
        data: dict[str, dict[str, Any]] = {
            "a": {"status": "failed", "address": {"city": "Ulm"}, "n": 1},
            "b": {"status": "done", "address": {"city": "Ulm"}, "n": True},
            "c": {"status": "failed", "address": "Ulm", "n": None},
            "d": {"status": None},
            "e": {"status": "failed"},
        }
        for state_id, each in data.items():
            await store.save_state(GOVERNOR, state_id, each, METADATA)
        await store.delete_state(GOVERNOR, "e", METADATA, expected=1)

        async def found(where: dict[str, Any]) -> list[str]:
            return [state.state_id for state in await collected(store.find_states(GOVERNOR, where))]

        assert await found({"status": "failed"}) == ["a", "c"]
        assert await found({"status": ["done", None]}) == ["b", "d"]
        assert await found({"address.city": "Ulm"}) == ["a", "b"]
        assert await found({"status": "failed", "address.city": "Ulm"}) == ["a"]
        assert await found({"n": 1}) == ["a"]
        assert await found({"n": True}) == ["b"]
        assert await found({"n": None}) == ["c"]
        assert await found({"status": []}) == []
        assert await found({"status": "no such"}) == []
        assert await found({}) == ["a", "b", "c", "d"]


async def test_find_by_a_field_that_is_not_indexed(place: Place):
    """A field that the store was not opened with is refused, on every engine, before anything is read."""
    async with place.store(indexed=("status",)) as store:
        with pytest.raises(UnindexedField) as error:
            await collected(store.find_states(GOVERNOR, {"status": 1, "other": 1}))
        assert error.value.fields() == {"what": "other", "indexed": ("status",)}


async def test_one_str_is_no_sequence_of_ids(store: StateStore):
    """Ids given as one str are refused; its letters are not what was meant."""
    with pytest.raises(InvalidId):
        await store.batch_get_states(GOVERNOR, "abc")
