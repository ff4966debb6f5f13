"""Meshes of stores in which backups are put back: whatever is counted anew, all that was done is exact."""

from __future__ import annotations

import copy
import os
import random
from contextlib import AsyncExitStack
from itertools import combinations
from typing import Any, NamedTuple

import pytest

from tai_state import EveryEvents, FieldMerge, StateStore, open_store, sync
from tai_state.testing import ManualClock, MemoryEngine

from ..support.stores import GOVERNOR, METADATA
from .test_meshes import FIELDS, RULE, STORES, add, filled

pytestmark = pytest.mark.anyio

STEPS = 30
"""How much happens in a mesh."""

BACKUPS = 3
"""How many backups are put back in a mesh."""

RUNS = 200 if os.environ.get("TAI_STATE_PROOF") == "1" else 60
"""Meshes that live by chance."""


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: what is decided is decided above the engines."""
    return "asyncio"


class Change(NamedTuple):
    """What one event did: it counted, raised the maximum, added or removed a tag, or removed a field."""

    count: int = 0
    most: int = 0
    added: str = ""
    removed: str = ""


class Mesh:
    """Stores that are changed apart, joined in pairs and put back; and which changes each of them knows of.

    Args:
        engines: the stores' engines, on each of which is the state.
        chance: decides what happens.
        stack: keeps the stores open.
        clock: the time in all stores.
    """

    def __init__(
        self, engines: list[MemoryEngine], chance: random.Random, stack: AsyncExitStack, clock: ManualClock
    ) -> None:
        self.engines = engines
        self.chance = chance
        self.stores: list[StateStore] = []
        self.changes: list[Change] = []
        self.known: list[set[int]] = [set() for _ in engines]
        self._stack, self._clock = stack, clock

    async def open(self) -> None:
        """Open the stores."""
        for engine in self.engines:
            self.stores.append(await self._opened(engine))

    async def change(self, index: int) -> None:
        """Count, raise the maximum, add or remove a tag, or remove a field, in one of the stores."""
        store, number = self.stores[index], len(self.changes)
        now = await store.get_state(GOVERNOR, "x")
        data: dict[str, Any] = dict(now.data)
        kind = self.chance.randrange(5)
        left = sorted(set(data) & set(FIELDS))
        if kind == 0 and data["tags"]:
            change = Change(removed=self.chance.choice(data["tags"]))
            data["tags"] = [tag for tag in data["tags"] if tag != change.removed]
        elif kind == 1:
            change = Change(added=f"tag {number}")
            data["tags"] = [*data["tags"], change.added]
        elif kind == 2:
            change = Change(most=data["most"] + self.chance.randrange(1, 1_000))
            data["most"] = change.most
        elif kind == 3 and left:
            change = Change(removed=self.chance.choice(left))
            del data[change.removed]
        else:
            change = Change(count=1 << number)
            data["count"] += change.count
        await store.update_state(GOVERNOR, "x", data, METADATA, expected=now)
        self.changes.append(change)
        self.known[index].add(number)

    async def sync(self, one: int, other: int) -> None:
        """Join two of the stores: each comes to exactly what both of them knew of."""
        report = await sync(self.stores[one], self.stores[other], resolver=RULE)
        assert report.complete, report.failed
        self.known[one] |= self.known[other]
        self.known[other] |= self.known[one]
        for index in (one, other):
            await self.judge(index)

    async def judge(self, index: int) -> None:
        """A store has the sum, the set and the maximum of the changes that it knows of, and no removed field."""
        data = (await self.stores[index].get_state(GOVERNOR, "x")).data
        known = [self.changes[number] for number in self.known[index]]
        gone = {each.removed for each in known}
        assert data["count"] == sum(each.count for each in known)
        assert data["most"] == max((each.most for each in known), default=0)
        assert set(data["tags"]) == {each.added for each in known if each.added} - gone
        assert set(data) & set(FIELDS) == set(FIELDS) - gone

    async def put_back(self, index: int) -> None:
        """Back a store up, let it work and sync, put the backup back, and let it work and sync anew."""
        backup, known = copied(self.engines[index], self._clock), set(self.known[index])
        await self._work(index)
        self.engines[index], self.known[index] = backup, known
        self.stores[index] = await self._opened(backup)
        await self._work(index)

    async def _work(self, index: int) -> None:
        """Some changes in a store, which some others then know of."""
        for _ in range(self.chance.randrange(1, 3)):
            await self.change(index)
        for other in self.others(index, self.chance.randrange(1, 3)):
            await self.sync(index, other)

    def others(self, index: int, number: int) -> list[int]:
        """Some stores beside one."""
        return self.chance.sample([each for each in range(len(self.stores)) if each != index], number)

    async def live(self) -> None:
        """Some time in this mesh, with backups put back at some moments."""
        due = set(self.chance.sample(range(STEPS), BACKUPS))
        for step in range(STEPS):
            index = self.chance.randrange(len(self.stores))
            if step in due:
                await self.put_back(index)
            elif self.chance.random() < 0.5:
                await self.change(index)
            else:
                await self.sync(index, *self.others(index, 1))

    async def settle(self) -> None:
        """Join all of them until they are the same."""
        for _ in range(2):
            for one, other in combinations(range(len(self.stores)), 2):
                await self.sync(one, other)

    async def _opened(self, engine: MemoryEngine) -> StateStore:
        return await self._stack.enter_async_context(opened(engine, self._clock))


def opened(engine: MemoryEngine, clock: ManualClock) -> StateStore:
    """A store, not yet open, that keeps snapshots often."""
    return open_store(engine, clock=clock, snapshots=EveryEvents(5))


def copied(engine: MemoryEngine, clock: ManualClock) -> MemoryEngine:
    """An engine with the same documents, as from a backup."""
    documents = copy.deepcopy(engine._documents)
    documents._revision += 1_000
    return MemoryEngine(clock, documents)


@pytest.mark.parametrize("seed", range(RUNS))
async def test_a_mesh_with_backups_put_back_is_exact(seed: int) -> None:
    """A store that counts its events anew loses none and counts none twice, whoever is joined with whom."""
    clock = ManualClock(step_us=1_000)
    async with AsyncExitStack() as stack:
        mesh = Mesh([MemoryEngine(clock) for _ in range(STORES)], random.Random(seed), stack, clock)
        await mesh.open()
        await filled(mesh.stores)
        await mesh.live()
        await mesh.settle()


async def test_two_events_with_one_count_are_both_in_the_base() -> None:
    """Two joins each know of what a store counted before and after it was put back; both count once."""
    clock = ManualClock(step_us=1_000)
    rule = FieldMerge({"n": "counter"})
    async with AsyncExitStack() as stack:
        engine = MemoryEngine(clock)
        d, c, e, f, g = [
            await stack.enter_async_context(opened(each, clock))
            for each in (engine, *(MemoryEngine(clock) for _ in range(4)))
        ]
        await c.save_state(GOVERNOR, "x", {"n": 0}, METADATA)
        for other in (d, e, f, g):
            await sync(c, other)
        backup = copied(engine, clock)
        await add(d, 8)
        for other in (e, g):
            await sync(d, other)
        d = await stack.enter_async_context(opened(backup, clock))
        await add(d, 16)
        for other in (f, c):
            await sync(d, other)
        await add(g, 128)
        for one, other in ((g, f), (c, e), (c, f)):
            assert (await sync(one, other, resolver=rule)).joined == 1
        for store, total in ((c, 152), (f, 152), (e, 24)):
            assert (await store.get_state(GOVERNOR, "x")).data == {"n": total}


async def test_a_store_that_was_put_back_takes_over_nothing_that_does_not_know_of_its_change() -> None:
    """Its earlier change has a later count: in its stream it would seem to follow the new one, and be a wrong base."""
    clock = ManualClock(step_us=1_000)
    rule = FieldMerge({"n": "counter"})
    async with AsyncExitStack() as stack:
        engine = MemoryEngine(clock)
        d, c, e, f = [
            await stack.enter_async_context(opened(each, clock))
            for each in (engine, *(MemoryEngine(clock) for _ in range(3)))
        ]
        await d.save_state(GOVERNOR, "x", {"n": 0}, METADATA)
        for other in (c, e, f):
            await sync(d, other)
        await add(c, 1)
        backup = copied(engine, clock)
        await add(d, 2)
        await add(d, 4)
        for other in (e, c):
            await sync(d, other, resolver=rule)
        d = await stack.enter_async_context(opened(backup, clock))
        await add(d, 8)
        for one, other in ((d, f), (f, e)):
            await sync(one, other, resolver=rule)
        report = await sync(e, d, resolver=rule)
        assert (report.sent, report.joined) == (1, 0), "it takes over the event that joined its earlier changes"
        await sync(d, c, resolver=rule)
        for store, total in ((c, 15), (d, 15), (e, 14)):
            assert (await store.get_state(GOVERNOR, "x")).data == {"n": total}


async def test_two_joins_with_one_clock_are_two_joins() -> None:
    """They know of different changes with one count; so the store that has the lesser one takes over the other, too."""
    clock = ManualClock(step_us=1_000)
    rule = FieldMerge({"n": "counter"})
    async with AsyncExitStack() as stack:
        engine = MemoryEngine(clock)
        d, c, e, f = [
            await stack.enter_async_context(opened(each, clock))
            for each in (engine, *(MemoryEngine(clock) for _ in range(3)))
        ]
        await d.save_state(GOVERNOR, "x", {"n": 0}, METADATA)
        for other in (c, e, f):
            await sync(d, other)
        await add(c, 1)
        await sync(c, e)
        backup = copied(engine, clock)
        await add(d, 2)
        await sync(d, c, resolver=rule)
        d = await stack.enter_async_context(opened(backup, clock))
        for step in (4, 8):
            await add(d, step)
        for one, other in ((d, f), (d, e), (c, f)):
            await sync(one, other, resolver=rule)
        assert (await e.get_state(GOVERNOR, "x")).causality == (await c.get_state(GOVERNOR, "x")).causality
        await add(c, 16)
        report = await sync(e, c, resolver=rule)
        assert (report.received, report.joined) == (2, 0)
        await sync(f, e, resolver=rule)
        for store in (c, e, f):
            assert (await store.get_state(GOVERNOR, "x")).data == {"n": 31}
