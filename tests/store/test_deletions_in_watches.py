"""A watch shows a deletion, and the types say that it may."""

from __future__ import annotations

from typing import get_args, get_type_hints

import pytest
from pydantic import BaseModel

from tai_state import StateHandle, StateStore

from ..support.stores import GOVERNOR, METADATA, Place

pytestmark = pytest.mark.anyio


class Order(BaseModel):
    status: str


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: what a watch gives is made above the engines."""
    return "asyncio"


async def test_a_deleted_state_is_shown_as_deleted(place: Place) -> None:
    """The watch of a deleted state shows its deletion, and no data."""
    async with place.store() as store:
        order = store.state(GOVERNOR, "x", Order)
        await order.save(Order(status="new"), METADATA)
        await order.delete(METADATA, expected=1)
        async with order.watch() as states:
            shown = await anext(states)
        assert (shown.version, shown.deleted, shown.data) == (2, True, None)


@pytest.mark.parametrize("watch", [StateHandle.watch, StateStore.watch], ids=["handle", "store"])
def test_the_types_of_a_watch_tell_of_deletions(watch: object) -> None:
    """What a watch is said to give names the case of a deleted state, whose data is None."""
    shown = str(get_args(get_type_hints(watch)["return"])[0])
    assert "None" in shown or "Deleted" in shown
