"""Three stores that are changed apart and joined in any order: no change is undone, and none counts twice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import pytest

from tai_state import (
    EveryEvents,
    FieldMerge,
    LastWriteWins,
    Resolver,
    StateMachinePersister,
    StateStore,
    open_store,
    sync,
)
from tai_state.testing import ManualClock, MemoryEngine

from ..support.stores import GOVERNOR, METADATA

pytestmark = pytest.mark.anyio

DAY_US = 86_400_000_000
DECADES_US = 70 * 365 * DAY_US


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: what is decided is decided above the engines."""
    return "asyncio"


@pytest.fixture
async def stores() -> AsyncIterator[tuple[StateStore, StateStore, StateStore]]:
    """Three empty stores with one clock."""
    clock = ManualClock(step_us=1_000)
    async with AsyncExitStack() as stack:
        a, b, c = [await stack.enter_async_context(open_store(MemoryEngine(clock), clock=clock)) for _ in range(3)]
        yield a, b, c


async def change(store: StateStore, **fields: Any) -> None:
    """Change some fields of the state, and leave the others."""
    now = await store.get_state(GOVERNOR, "x")
    await store.update_state(GOVERNOR, "x", {**now.data, **fields}, METADATA, expected=now)


async def add(store: StateStore, step: int) -> None:
    """Count further."""
    await change(store, n=(await data_of(store))["n"] + step)


async def data_of(store: StateStore) -> Any:
    """The state's data."""
    return (await store.get_state(GOVERNOR, "x")).data


async def test_edits_of_three_fields_all_stay(stores: tuple[StateStore, StateStore, StateStore]) -> None:
    """Three stores edit a field each; after two joins along different ways all three edits stand."""
    a, b, c = stores
    rule = FieldMerge()
    await a.save_state(GOVERNOR, "x", {"name": 0, "phone": 0, "mail": 0}, METADATA)
    await sync(a, b)
    await sync(a, c)
    await change(b, name=1)
    await sync(b, c, resolver=rule)
    await change(a, phone=1)
    await sync(a, b, resolver=rule)
    await change(c, mail=1)
    await sync(a, c, resolver=rule)
    assert await data_of(a) == await data_of(c) == {"name": 1, "phone": 1, "mail": 1}


async def test_counters_add_up(stores: tuple[StateStore, StateStore, StateStore]) -> None:
    """Three stores count apart; a counter joined along different ways is the sum of all steps."""
    a, b, c = stores
    rule = FieldMerge({"n": "counter"})
    await a.save_state(GOVERNOR, "x", {"n": 0}, METADATA)
    await sync(a, b)
    await sync(a, c)
    await add(b, 1)
    await sync(b, c)
    await add(c, 10)
    await add(a, 100)
    await sync(a, b, resolver=rule)
    await sync(a, c, resolver=rule)
    assert await data_of(a) == await data_of(c) == {"n": 111}


ORDERS = [
    "a b c ab bc ca ab",
    "a b c bc ab ac bc a b c ab bc ca ab",
    "a b ab c bc ca ab",
    "b bc c a ab ca ab bc",
    "a ab b bc c ca a ab bc ca",
    "b a ca c ab ab bc ca ab",
    "ca a ca a b bc ab bc ca ab",
]
"""Who counts, one letter, and who is joined with whom, two letters; in the end every pair has been."""


@pytest.mark.parametrize("order", ORDERS)
async def test_counters_add_up_in_every_order(stores: tuple[StateStore, StateStore, StateStore], order: str) -> None:
    """Whoever counts and whoever is joined with whom meanwhile, all end with the sum of all steps."""
    by_name = dict(zip("abc", stores, strict=True))
    await stores[0].save_state(GOVERNOR, "x", {"n": 0}, METADATA)
    for other in stores[1:]:
        await sync(stores[0], other)
    total = 0
    for place, step in enumerate(order.split()):
        if len(step) == 1:
            await add(by_name[step], 1 << place)
            total += 1 << place
        else:
            await sync(by_name[step[0]], by_name[step[1]], resolver=FieldMerge({"n": "counter"}))
    assert [await data_of(each) for each in stores] == [{"n": total}] * 3


@pytest.mark.parametrize("resolver", [LastWriteWins(), FieldMerge()], ids=["last_write_wins", "field_merge"])
async def test_a_store_that_is_only_behind_takes_over_after_a_cleanup(resolver: Resolver) -> None:
    """Where the clocks order the sides the newer one stands in both, so that a removed field stays removed."""
    clock = ManualClock(step_us=1)

    def store() -> StateStore:
        return open_store(MemoryEngine(clock), clock=clock, snapshots=EveryEvents(2))

    async with store() as a, store() as b:
        await a.save_state(GOVERNOR, "x", {"keep": 1, "secret": "to be removed"}, METADATA)
        await sync(a, b)
        for n in range(2, 12):
            await a.update_state(GOVERNOR, "x", {"keep": n}, METADATA, expected=n - 1)
        clock.advance_us(3 * DAY_US)
        await a.update_state(GOVERNOR, "x", {"keep": 12}, METADATA, expected=11)
        cleaned = await StateMachinePersister(a).cleanup_old_data(GOVERNOR, keep=timedelta(hours=2))
        assert cleaned.events_deleted > 2, "the events right after those that the other store has are gone"
        report = await sync(a, b, resolver=resolver)
        assert (report.joined, report.conflicts) == (0, ())
        assert await data_of(a) == await data_of(b) == {"keep": 12}


async def test_a_clock_that_was_far_ahead_does_not_decide() -> None:
    """After a store whose clock was decades ahead the later change wins, or the sync refused what it met."""
    phone, centre = ManualClock(step_us=1), ManualClock(step_us=1)
    phone.advance_us(DECADES_US)
    async with (
        open_store(MemoryEngine(phone), clock=phone) as a,
        open_store(MemoryEngine(centre), clock=centre) as b,
    ):
        await a.save_state(GOVERNOR, "x", {"by": "start"}, METADATA)
        met = await sync(a, b)
        phone.advance_us(3_600_000_000 - DECADES_US)
        if met.failed:
            return
        for version in (1, 2):
            await b.update_state(GOVERNOR, "x", {"by": "at noon"}, METADATA, expected=version)
        await a.update_state(GOVERNOR, "x", {"by": "an hour later"}, METADATA, expected=1)
        await sync(a, b)
        assert await data_of(a) == await data_of(b) == {"by": "an hour later"}


@pytest.mark.parametrize(("hours", "is_refused"), [(23, False), (25, True)])
async def test_a_clock_that_is_ahead_of_the_other_store(hours: int, *, is_refused: bool) -> None:
    """Up to a day it is taken over; beyond that the state is named and stays as it is, and all others are synced."""
    fast, right = ManualClock(step_us=1), ManualClock(step_us=1)
    async with (
        open_store(MemoryEngine(fast), clock=fast) as a,
        open_store(MemoryEngine(right), clock=right) as b,
    ):
        await a.save_state(GOVERNOR, "both", {"n": 1}, METADATA)
        await sync(a, b)
        await a.save_state(GOVERNOR, "behind", {"n": 1}, METADATA)
        await b.update_state(GOVERNOR, "both", {"n": 2}, METADATA, expected=1)
        fast.advance_us(hours * DAY_US // 24)
        await a.update_state(GOVERNOR, "both", {"n": 3}, METADATA, expected=1)
        await a.save_state(GOVERNOR, "new", {"n": 1}, METADATA)
        for one, other in ((a, b), (b, a)):
            report = await sync(one, other, dry_run=True)
            assert [path for path, _ in report.failed] == (["bank both", "bank new"] if is_refused else [])
        report = await sync(a, b)
        assert all("ahead of the clock of store " + b.store_id in reason for _, reason in report.failed)
        assert await b.exists(GOVERNOR, "behind")
        assert await b.exists(GOVERNOR, "new") is not is_refused
        assert (await b.get_state(GOVERNOR, "both")).data == {"n": 2 if is_refused else 3}


async def test_clocks_that_are_ahead_in_both_stores_are_synced() -> None:
    """What both have already spreads no further by a sync of the two; so they can be synced."""
    clock = ManualClock(step_us=1)
    clock.advance_us(DECADES_US)
    async with (
        open_store(MemoryEngine(clock), clock=clock) as a,
        open_store(MemoryEngine(clock), clock=clock) as b,
    ):
        await a.save_state(GOVERNOR, "x", {"n": 1}, METADATA)
        await sync(a, b)
        clock.advance_us(-DECADES_US)
        await change(a, n=2)
        assert (await sync(a, b)).complete
        assert await data_of(b) == {"n": 2}
