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


@pytest.mark.parametrize("expected", [ANY, 0, 1], ids=["any", "the_version_of_then", "the_present_version"])
async def test_nothing_comes_before_a_first_event(memory_places: Places, expected: Expected):
    """A batch with new events before a known one that made version 1 is refused: it is not taken for recorded."""
    async with memory_places.new().store() as store:
        persister = StateMachinePersister(store, REDUCERS)
        await persister.record(GOVERNOR, "s", [KNOWN], METADATA, expected=0)
        for batch in ([NewEvent("add", 1), KNOWN], [NewEvent("add", 1), NewEvent("add", 2), KNOWN]):
            with pytest.raises(IdempotencyConflict):
                await persister.record(GOVERNOR, "s", batch, METADATA, expected=expected)
        assert (await store.get_state(GOVERNOR, "s")).version == 1


async def test_the_id_that_is_taken_is_named(memory_places: Places):
    """The error names the id that stands for something else, and not a new one beside it, which is free."""
    async with memory_places.new().store() as store:
        persister = StateMachinePersister(store, REDUCERS)
        await persister.record(GOVERNOR, "s", [KNOWN], METADATA, expected=0)
        with pytest.raises(IdempotencyConflict) as told:
            await persister.record(GOVERNOR, "s", [KNOWN, NewEvent("add", 1, "sale 2")], METADATA, expected=ANY)
        assert told.value.event_id == KNOWN.event_id
