"""A batch in which one id is known and the rest is new: it is not the batch that was recorded."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tai_state import ANY, Expected, IdempotencyConflict, NewEvent, StateMachinePersister

from ..support.operations import REDUCERS
from ..support.stores import GOVERNOR, METADATA, Places, collected

pytestmark = pytest.mark.anyio

KNOWN = NewEvent("add", 20, "sale 1")


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: all of it is decided above the engines."""
    return "asyncio"


@pytest.mark.parametrize(
    "batch",
    [
        pytest.param((NewEvent("add", 777), NewEvent("add", 888), KNOWN), id="last"),
        pytest.param((NewEvent("add", 777), KNOWN, NewEvent("add", 888)), id="in_the_middle"),
        pytest.param((NewEvent("add", 777), KNOWN), id="last_of_two"),
        pytest.param((NewEvent("add", 777, "sale 2"), KNOWN), id="beside_a_new_id"),
    ],
)
@pytest.mark.parametrize("expected", [ANY, 7, 5], ids=["any", "the_present_version", "the_version_of_then"])
async def test_the_new_events_are_not_swallowed(memory_places: Places, batch: Sequence[NewEvent], expected: Expected):
    """Other events around one that was recorded before are refused, and the stream stays as it is."""
    async with memory_places.new().store() as store:
        persister = StateMachinePersister(store, REDUCERS)
        for n in range(5):
            await persister.record(GOVERNOR, "s", [NewEvent("add", 1)], METADATA, expected=n)
        await persister.record(GOVERNOR, "s", [NewEvent("add", 10), KNOWN], METADATA, expected=5)
        with pytest.raises(IdempotencyConflict):
            await persister.record(GOVERNOR, "s", batch, METADATA, expected=expected)
        assert [each.payload for each in await collected(persister.replay(GOVERNOR, "s"))] == [1, 1, 1, 1, 1, 10, 20]
