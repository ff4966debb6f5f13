"""Meshes of stores: changed and joined by chance, they end with exactly what was done to them."""

from __future__ import annotations

import os
import random
from contextlib import AsyncExitStack
from datetime import timedelta
from itertools import combinations
from typing import Any

import pytest

from tai_state import EveryEvents, FieldMerge, StateMachinePersister, StateStore, open_store, retire_store, sync
from tai_state.testing import ManualClock, MemoryEngine

from ..support.stores import GOVERNOR, METADATA

pytestmark = pytest.mark.anyio

STORES = 5
STEPS = 250
"""How much happens in a mesh. A base that is older than what both sides have seen passes in fewer than one of a million
meshes: of meshes with 35 steps, it failed 52 of 60."""

RUNS = 200 if os.environ.get("TAI_STATE_PROOF") == "1" else 12
"""Meshes that live by chance."""

RULE = FieldMerge({"count": "counter", "tags": "union", "most": "maximum"})
FIELDS = [f"secret{number}" for number in range(8)]
DAY_US = 86_400_000_000


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: what is decided is decided above the engines."""
    return "asyncio"


class Mesh:
    """Stores that are changed apart and joined in pairs; and what their one state must come to.

    Args:
        stores: the stores, all of which have the state.
        chance: decides what happens.
    """

    def __init__(self, stores: list[StateStore], chance: random.Random) -> None:
        self.stores = stores
        self.chance = chance
        self.total = 0
        self.most = 0
        self.tags: set[str] = set()
        self.fields = set(FIELDS)
        self.steps = 0

    async def change(self) -> None:
        """Count, add or remove a tag, raise the maximum, or remove a field, in one of the stores."""
        store = self.chance.choice(self.stores)
        now = await store.get_state(GOVERNOR, "x")
        data: dict[str, Any] = dict(now.data)
        self.steps += 1
        kind = self.chance.randrange(4)
        if kind == 0:
            data["count"] += self.steps
            self.total += self.steps
        elif kind == 1 and data["tags"] and self.chance.random() < 0.5:
            gone = self.chance.choice(data["tags"])
            data["tags"] = [tag for tag in data["tags"] if tag != gone]
            self.tags.discard(gone)
        elif kind == 1:
            data["tags"] = [*data["tags"], f"tag {self.steps}"]
            self.tags.add(f"tag {self.steps}")
        elif kind == 2:
            data["most"] = max(data["most"], self.chance.randrange(1_000))
            self.most = max(self.most, data["most"])
        elif left := sorted(set(data) & set(FIELDS)):
            gone = self.chance.choice(left)
            del data[gone]
            self.fields.discard(gone)
        else:
            return
        await store.update_state(GOVERNOR, "x", data, METADATA, expected=now)

    async def sync(self, one: StateStore, other: StateStore) -> None:
        """Join two of the stores."""
        report = await sync(one, other, resolver=RULE)
        assert report.complete, report.failed

    async def live(self) -> None:
        """Some time in this mesh."""
        for _ in range(STEPS):
            if self.chance.random() < 0.75:
                await self.change()
            else:
                await self.sync(*self.chance.sample(self.stores, 2))

    async def settle(self) -> None:
        """Join all of them until they are the same."""
        for _ in range(2):
            for one, other in combinations(self.stores, 2):
                await self.sync(one, other)

    async def judge(self) -> None:
        """All stores have the sum, the set and the maximum of all changes, and no removed field."""
        for store in self.stores:
            data = (await store.get_state(GOVERNOR, "x")).data
            assert data["count"] == self.total
            assert set(data["tags"]) == self.tags
            assert data["most"] == self.most
            assert set(data) & set(FIELDS) == self.fields


def make_store(clock: ManualClock) -> StateStore:
    """An empty store, not yet open, that keeps snapshots often."""
    return open_store(MemoryEngine(clock), clock=clock, snapshots=EveryEvents(5))


async def filled(stores: list[StateStore]) -> None:
    """Give all stores one state."""
    start = {"count": 0, "tags": [], "most": 0, **dict.fromkeys(FIELDS, "to be removed")}
    await stores[0].save_state(GOVERNOR, "x", start, METADATA)
    for other in stores[1:]:
        await sync(stores[0], other)


@pytest.mark.parametrize("seed", range(RUNS))
async def test_a_mesh_of_five_stores_is_exact(seed: int) -> None:
    """Counters, sets and maxima are exact, and what was removed stays removed, whoever is joined with whom."""
    clock = ManualClock(step_us=1_000)
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(make_store(clock)) for _ in range(STORES)]
        await filled(stores)
        mesh = Mesh(stores, random.Random(seed))
        await mesh.live()
        await mesh.settle()
        await mesh.judge()


@pytest.mark.parametrize("seed", range(RUNS // 4))
async def test_a_store_that_slept_catches_up_with_a_mesh(seed: int) -> None:
    """A store that is only behind takes over what the others came to, although they were cleaned up meanwhile."""
    clock = ManualClock(step_us=1_000)
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(make_store(clock)) for _ in range(STORES)]
        await filled(stores)
        mesh = Mesh(stores[1:], random.Random(seed))
        await mesh.live()
        await mesh.settle()
        clock.advance_us(2 * DAY_US)
        for store in mesh.stores:
            cleaned = await StateMachinePersister(store).cleanup_old_data(GOVERNOR, keep=timedelta(hours=2))
            assert cleaned.events_deleted
        mesh.stores = stores
        for other in stores[1:]:
            report = await sync(stores[0], other, resolver=RULE)
            assert (report.joined, report.failed) == (0, ())
        await mesh.judge()
        await mesh.live()
        await mesh.settle()
        await mesh.judge()


@pytest.mark.parametrize("is_retired", [False, True], ids=["plain", "retired"])
async def test_what_two_stores_took_over_by_other_ways_counts_once(*, is_retired: bool) -> None:
    """Two stores have seen one change in joins of which they took over only the last: it is in the base of both."""
    clock = ManualClock(step_us=1_000)
    rule = FieldMerge({"n": "counter"})
    async with AsyncExitStack() as stack:
        gone, root, *copies = [await stack.enter_async_context(make_store(clock)) for _ in range(6)]
        await gone.save_state(GOVERNOR, "x", {"n": 0}, METADATA)
        await sync(gone, root)
        ends: list[StateStore] = []
        total = 1
        groups = [[await stack.enter_async_context(make_store(clock)) for _ in range(3)] for _ in range(2)]
        for store in (store for group in groups for store in group):
            await sync(root, store)
        await add(root, 1)
        for copy in copies:
            await sync(root, copy)
        for number, (one, other, last) in enumerate(groups):
            for store in (one, other):
                step = 10 ** (number * 2 + 1 + (store is other))
                await add(store, step)
                total += step
            await sync(other, last)
            await sync(one, copies[2 * number], resolver=rule)
            await sync(other, copies[2 * number + 1], resolver=rule)
            if is_retired:
                await retire_store(one, gone.store_id)
            await sync(one, other, resolver=rule)
            assert (await sync(one, last, resolver=rule)).joined == 0
            ends.append(last)
        await sync(*ends, resolver=rule)
        for store in ends:
            assert (await store.get_state(GOVERNOR, "x")).data == {"n": total}


async def add(store: StateStore, step: int) -> None:
    """Count further."""
    now = await store.get_state(GOVERNOR, "x")
    await store.update_state(GOVERNOR, "x", {"n": now.data["n"] + step}, METADATA, expected=now)
