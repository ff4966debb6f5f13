"""Stores that changed something once and never come back: what they did stays exact, and what they cost is bounded."""

from __future__ import annotations

import pytest

from tai_state import FieldMerge, StateStore, open_store, sync
from tai_state.testing import ManualClock, MemoryEngine

from ..support.stores import GOVERNOR, METADATA, fields_at

pytestmark = pytest.mark.anyio

VISITORS = 40
ENTRY_BYTES = 32
"""What an entry of a vector clock takes as JSON: an id of 16 characters, a count, and what is between them."""
RULE = FieldMerge({"count": "counter", "seen": "union"})
STATE = f"governors/{GOVERNOR}/states/x"


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: what is decided is decided above the engines."""
    return "asyncio"


def new_store(clock: ManualClock) -> StateStore:
    """A store of its own, with an id of its own."""
    return open_store(MemoryEngine(clock), clock=clock)


async def visit(clock: ManualClock, centre: StateStore, number: int, *, writes: bool) -> None:
    """A store that takes over what is there, perhaps changes it, gives it back, and is gone for good."""
    async with new_store(clock) as visitor:
        await sync(centre, visitor, resolver=RULE)
        now = await visitor.get_state(GOVERNOR, "x")
        if writes:
            data = {"count": now.data["count"] + 1, "seen": [*now.data["seen"], number]}
            await visitor.update_state(GOVERNOR, "x", data, METADATA, expected=now)
        await sync(visitor, centre, resolver=RULE)


async def test_what_stores_did_that_are_gone_stays_exact() -> None:
    """Two centres that are joined now and then come to the sum of all visits; a removed field stays removed."""
    clock = ManualClock(step_us=1_000)
    async with new_store(clock) as one, new_store(clock) as other:
        await one.save_state(GOVERNOR, "x", {"count": 0, "seen": [], "secret": "s"}, METADATA)
        await sync(one, other, resolver=RULE)
        for number in range(VISITORS):
            await visit(clock, (one, other)[number % 2], number, writes=True)
            if number == VISITORS // 2:
                now = await one.get_state(GOVERNOR, "x")
                left = {key: value for key, value in now.data.items() if key != "secret"}
                await one.update_state(GOVERNOR, "x", left, METADATA, expected=now)
            if number % 7 == 0:
                await sync(one, other, resolver=RULE)
        await sync(one, other, resolver=RULE)
        for store in (one, other):
            data = (await store.get_state(GOVERNOR, "x")).data
            assert (data["count"], sorted(data["seen"])) == (VISITORS, list(range(VISITORS)))
            assert "secret" not in data
        assert (await sync(one, other, resolver=RULE)).same == 1


async def test_only_a_store_that_changed_a_state_is_in_its_clock() -> None:
    """A store that changed a state has an entry in its clock until it is retired; one that only reads has none."""
    clock = ManualClock(step_us=1_000)
    async with new_store(clock) as centre:
        await centre.save_state(GOVERNOR, "x", {"count": 0, "seen": []}, METADATA)
        await centre.save_state(GOVERNOR, "y", {"n": 0}, METADATA)
        for number in range(VISITORS):
            await visit(clock, centre, number, writes=number % 4 == 0)
        entries = (await fields_at(centre.core.engine, STATE))["causality"]
        assert len(entries) == 1 + VISITORS // 4
        assert len(str(entries)) <= ENTRY_BYTES * len(entries)
        assert len((await centre.get_state(GOVERNOR, "y")).causality) == 1
