"""Batches of events of which some have ids of the caller's: the same batch again, and another one under the same id."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tai_state import ANY, IdempotencyConflict, NewEvent, StateMachinePersister

from ..support.operations import REDUCERS
from ..support.stores import GOVERNOR, METADATA, Places

pytestmark = pytest.mark.anyio

STATE_ID = "card"
SALE = NewEvent("add", 5, "sale 1")
BONUS = NewEvent("add", 100)


@pytest.fixture
def anyio_backend() -> str:
    """How a batch is judged does not depend on the event loop."""
    return "asyncio"


async def record_twice(
    places: Places, first: Sequence[NewEvent], second: Sequence[NewEvent], between: Sequence[NewEvent]
) -> tuple[list[int], list[int], int]:
    """Record a batch, perhaps others' events after it, and then another batch: both their versions, and the state."""
    async with places.new().store() as store:
        persister = StateMachinePersister(store, REDUCERS)
        one = await persister.record(GOVERNOR, STATE_ID, first, METADATA, expected=ANY)
        if between:
            await persister.record(GOVERNOR, STATE_ID, between, METADATA, expected=ANY)
        two = await persister.record(GOVERNOR, STATE_ID, second, METADATA, expected=ANY)
        state = await store.get_state(GOVERNOR, STATE_ID)
        return [each.version for each in one], [each.version for each in two], state.data["n"]


@pytest.mark.parametrize("between", [(), (NewEvent("add", 7),)], ids=["at_once", "later"])
@pytest.mark.parametrize("batch", [(SALE,), (SALE, BONUS), (BONUS, SALE)], ids=["alone", "first", "last"])
async def test_the_same_batch_again_is_not_recorded_again(
    memory_places: Places, batch: Sequence[NewEvent], between: Sequence[NewEvent]
):
    """A batch with an id in it, asked for again, returns the events of the first time."""
    first, second, total = await record_twice(memory_places, batch, batch, between)
    assert first == second
    assert total == sum(event.payload for event in (*batch, *between))


@pytest.mark.parametrize(
    ("first", "second", "between"),
    [
        pytest.param((SALE,), (SALE, BONUS), (), id="longer"),
        pytest.param((SALE,), (SALE, BONUS), (NewEvent("add", 7),), id="longer_and_others_followed"),
        pytest.param((SALE, BONUS), (SALE, NewEvent("add", 200)), (), id="other_payload_without_an_id"),
        pytest.param((SALE, BONUS), (SALE, NewEvent("note", 100)), (), id="other_action_without_an_id"),
        pytest.param((SALE,), (NewEvent("add", 6, "sale 1"),), (), id="other_payload_with_the_id"),
        pytest.param((SALE,), (SALE, NewEvent("add", 1, "sale 2")), (), id="a_new_id_beside_it"),
    ],
)
async def test_another_batch_under_the_same_id_is_refused(
    memory_places: Places, first: Sequence[NewEvent], second: Sequence[NewEvent], between: Sequence[NewEvent]
):
    """A batch that is not the one recorded under its id is told so; it is not taken for it, and nothing is recorded."""
    with pytest.raises(IdempotencyConflict):
        await record_twice(memory_places, first, second, between)
