"""Queries for states by values that are not plain ones: one answer on every engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tai_state import InvalidData

from ..support.stores import METADATA, collected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tai_state import StateStore

    from ..support.stores import Place

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """What a query finds does not depend on the event loop."""
    return "asyncio"


@pytest.fixture
async def store(place: Place) -> AsyncIterator[StateStore]:
    """A store with states of every kind of value in one field."""
    async with place.store(indexed=("where",)) as store:
        values = {"object": {"on": True}, "list": [1], "int": 1, "true": True, "text": "1", "null": None}
        for state_id, value in values.items():
            await store.save_state("g", state_id, {"where": value}, METADATA)
        yield store


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (1, ["int"]),
        (True, ["true"]),
        ("1", ["text"]),
        (None, ["null"]),
        ([1, "1"], ["int", "text"]),
    ],
    ids=repr,
)
async def test_a_plain_value_finds_its_own_kind(store: StateStore, value: Any, found: list[str]):
    """A number is not a truth value, and neither is text, on any engine."""
    assert [state.state_id for state in await collected(store.find_states("g", {"where": value}))] == found


@pytest.mark.parametrize(
    "value",
    [{"on": True}, {"on": 1}, [{"on": True}], [[1]], {1, 2}, b"1", object()],
    ids=["object", "other_object", "objects", "lists", "set", "bytes", "any_object"],
)
async def test_what_is_not_a_plain_value_is_refused(store: StateStore, value: Any):
    """What no index holds is refused, by the name of the field, before anything is asked of the engine."""
    with pytest.raises(InvalidData, match="where"):
        await collected(store.find_states("g", {"where": value}))
