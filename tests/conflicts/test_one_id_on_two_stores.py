"""One request made on two stores that were apart: it is one change once they are joined."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tai_state import FieldMerge, IdempotencyConflict, StateMachinePersister, StateStore, open_store, sync
from tai_state.testing import ManualClock, MemoryEngine

from ..support.stores import METADATA
from .test_meshes_with_backups import copied, opened

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

COUNTER = FieldMerge({"balance": "counter"})


@pytest.fixture
def anyio_backend() -> str:
    """What is joined does not depend on the event loop."""
    return "asyncio"


@pytest.fixture
async def stores() -> AsyncIterator[tuple[StateStore, StateStore]]:
    """Two stores that have one account."""
    async with open_store("memory://") as a, open_store("memory://") as b:
        await a.save_state("bank", "alice", {"balance": 100}, METADATA)
        await sync(a, b)
        yield a, b


async def pay(store: StateStore, event_id: str | None) -> None:
    """Pay thirty in."""
    account = store.state("bank", "alice")
    await account.update(lambda now: {"balance": now["balance"] + 30}, METADATA, event_id=event_id)


@pytest.mark.parametrize(
    ("ids", "balance"),
    [
        pytest.param(("payment 1", "payment 1"), 130, id="one_request"),
        pytest.param(("payment 1", "payment 2"), 160, id="two_requests"),
        pytest.param((None, None), 160, id="without_ids"),
    ],
)
async def test_a_request_made_on_both_stores_counts_once(
    stores: tuple[StateStore, StateStore], ids: tuple[str | None, str | None], balance: int
):
    """Where both streams show the same id for the same change, a counter has it once; two requests count twice."""
    for store, event_id in zip(stores, ids, strict=True):
        await pay(store, event_id)
    await sync(*stores, resolver=COUNTER)
    for store in stores:
        assert (await store.get_state("bank", "alice")).data == {"balance": balance}


async def test_a_request_that_came_by_a_sync_is_known(stores: tuple[StateStore, StateStore]):
    """After a sync, the other store knows the request as its own: it is not made again."""
    first, second = stores
    await pay(first, "payment 1")
    await sync(first, second)
    await pay(second, "payment 1")
    assert (await second.get_state("bank", "alice")).data == {"balance": 130}
    with pytest.raises(IdempotencyConflict):
        await second.update_state("bank", "alice", {}, METADATA, expected=2, event_id="payment 1")


async def test_a_request_made_again_after_a_join_stands_once_in_each_stream(stores: tuple[StateStore, StateStore]):
    """A join passes no ids on, so the other store makes the request, too, and the next sync joins the two once more."""
    first, second = stores
    await pay(first, "payment 1")
    await pay(second, None)
    async with open_store("memory://") as third:
        await sync(first, third)
        await sync(first, second, resolver=COUNTER)
        await pay(second, "payment 1")
        await pay(second, None)
        for one, other in ((first, second), (third, second), (third, first), (first, second)):
            report = await sync(one, other, resolver=COUNTER)
            assert report.failed == ()
        assert (report.same, report.checked) == (1, 1)
        for store in (first, second, third):
            ids = [event.event_id async for event in store.get_events("bank", "alice")]
            assert len(ids) == len(set(ids))
            assert (await StateMachinePersister(store).validate_consistency()).consistent
            assert (await store.get_state("bank", "alice")).data == (await first.get_state("bank", "alice")).data


async def test_a_request_made_on_both_sides_of_two_joins_counts_once(stores: tuple[StateStore, StateStore]) -> None:
    """Two joins each have it once, and so does what they have in common: their own join keeps it."""
    first, second = stores
    async with open_store("memory://") as third, open_store("memory://") as fourth:
        for one, other in ((first, third), (second, fourth)):
            await pay(one, "payment 1")
            await sync(one, other)
        for store in (first, fourth):
            await pay(store, None)
        for one, other in ((first, second), (third, fourth), (first, third)):
            assert (await sync(one, other, resolver=COUNTER)).joined == 1
        for store in (first, third):
            assert (await store.get_state("bank", "alice")).data == {"balance": 190}


async def test_a_request_made_again_after_a_backup_was_put_back_is_not_the_one_that_was_joined() -> None:
    """The id of the last event is that of an event that a join knows of; but what came before it is not."""
    clock = ManualClock(step_us=1_000)
    engine = MemoryEngine(clock)
    async with opened(engine, clock) as first, opened(MemoryEngine(clock), clock) as second:
        await first.save_state("bank", "alice", {"balance": 100}, METADATA)
        await sync(first, second)
        await pay(second, "payment 1")
        backup = copied(engine, clock)
        for _ in range(2):
            await pay(first, None)
        await sync(first, second, resolver=COUNTER)
        async with opened(backup, clock) as again:
            await pay(again, None)
            await pay(again, "payment 1")
            await sync(again, second, resolver=COUNTER)
            for store in (again, second):
                assert (await store.get_state("bank", "alice")).data == {"balance": 220}
