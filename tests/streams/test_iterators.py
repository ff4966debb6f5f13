"""What a store gives one by one: nothing is lost to a cancelled step or another task, or passed over after damage."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tai_state import EXISTS, CorruptDocument, StateMachinePersister, StateStore, sync
from tai_state.conflicts.recorded import recorded_conflicts
from tai_state.engines.api import Document, Reading, Scan
from tai_state.engines.paging import Paged, resized
from tai_state.locks.locking import LockManager
from tai_state.values.times import from_us

from ..support.stores import GOVERNOR, METADATA, AroundEngine, Place, Places, collected, edit

pytestmark = pytest.mark.anyio

STATES = [f"s{n:02}" for n in range(12)]
EVENTS = 4

Read = Callable[[StateStore], AsyncIterator[Any]]

READS: dict[str, Read] = {
    "between": lambda store: store.get_events_between(GOVERNOR, from_us(0), datetime(2999, 1, 1, tzinfo=UTC)),
    "all": lambda store: store.get_all_events(GOVERNOR),
    "events": lambda store: store.get_events(GOVERNOR, STATES[3]),
    "replay": lambda store: StateMachinePersister(store).replay(GOVERNOR, STATES[3]),
    "history": lambda store: store.state(GOVERNOR, STATES[3]).history(),
    "states": lambda store: store.list_states(GOVERNOR),
    "found": lambda store: store.find_states(GOVERNOR, {}),
}
IN_ORDER: dict[str, Read] = READS | {
    "governors": lambda store: store.list_governors(),
    "locks": lambda store: LockManager(store).list_locks(),
}


class SmallPages(AroundEngine):
    """Scans in pages of three, and lets others run before and after each read."""

    async def read(self, paths: Sequence[str]) -> Reading:
        """As the engine inside."""
        await anyio.lowlevel.checkpoint()
        reading = await self._engine.read(paths)
        await anyio.lowlevel.checkpoint()
        return reading

    def scan(self, scan: Scan) -> Paged[Document]:
        """As the engine inside."""
        return resized(self._engine.scan(scan), 3)


async def _fill(store: StateStore) -> None:
    for state_id in STATES:
        await store.save_state(GOVERNOR, state_id, {"n": 0}, METADATA)
        for n in range(1, EVENTS):
            await store.update_state(GOVERNOR, state_id, {"n": n}, METADATA, expected=EXISTS)


async def _take_one(items: AsyncIterator[Any], seen: list[Any]) -> None:
    seen.append(await anext(items))


@pytest.mark.parametrize("read", READS.values(), ids=READS)
async def test_a_damaged_document_is_never_passed_over(place: Place, read: Read):
    """From the damaged one on each step raises: what comes after it is not given, and no end is reported."""
    async with place.store() as store:
        await _fill(store)
        engine = store.core.engine
        sound = await collected(read(store))
        layout = store.core.layout.stream(GOVERNOR, STATES[3])
        await edit(engine, layout.event(2), version="two")
        await edit(engine, layout.state, version="two")
    async with place.store(SmallPages(place.engine())) as store:
        items, seen, errors = read(store), [], 0
        for _ in range(len(sound) + 10):
            try:
                await _take_one(items, seen)
            except CorruptDocument:
                errors += 1
        assert errors >= 10
        assert seen == sound[: len(seen)]


@pytest.mark.parametrize("read", IN_ORDER.values(), ids=IN_ORDER)
async def test_a_cancelled_step_loses_nothing(place: Place, read: Read):
    """Somebody who gives up and asks again, at any moment of any step, gets all there is."""
    async with place.store() as store:
        await _fill(store)
        async with store.lock("one", ttl_seconds=60), store.lock("two", ttl_seconds=60):
            expected = await collected(read(store))
    async with (
        place.store(SmallPages(place.engine())) as store,
        store.lock("one", ttl_seconds=60),
        store.lock("two", ttl_seconds=60),
    ):
        await _judge_cancelled_steps(lambda: read(store), expected)


async def test_a_cancelled_step_loses_no_recorded_conflict(places: Places):
    """The same of the conflicts that two stores have on record."""
    here, there = places.new(), places.new()
    async with here.store() as one, there.store() as other:
        for state_id in STATES:
            for store in (one, other):
                await store.save_state(GOVERNOR, state_id, {"of": store.store_id}, METADATA)
        await sync(one, other)
        expected = await collected(recorded_conflicts(one, GOVERNOR))
    assert len(expected) == len(STATES)
    async with here.store(SmallPages(here.engine())) as store:
        await _judge_cancelled_steps(lambda: recorded_conflicts(store, GOVERNOR), expected)


async def _judge_cancelled_steps(read: Callable[[], AsyncIterator[Any]], expected: Sequence[Any]) -> None:
    for moments in (2, 5, 11):
        items, seen, step = read(), [], 0
        while len(seen) < len(expected):
            step += 1
            if step % 20 == 0:
                await _take_one(items, seen)
                continue
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_take_one, items, seen)
                for _ in range(step % moments):
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
        assert list(map(_name, seen)) == list(map(_name, expected))


@pytest.mark.parametrize("read", IN_ORDER.values(), ids=IN_ORDER)
async def test_two_tasks_share_an_iterator(place: Place, read: Read):
    """Two tasks that take from one iterator get together what one would have got."""
    async with place.store(SmallPages(place.engine())) as store:
        await _fill(store)
        async with store.lock("one", ttl_seconds=60), store.lock("two", ttl_seconds=60):
            expected = await collected(read(store))
            items, seen = read(store), []

            async def take() -> None:
                async for item in items:
                    seen.append(item)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(take)
                tasks.start_soon(take)
    assert sorted(map(_name, seen)) == sorted(map(_name, expected))


def _name(item: Any) -> str:
    """What tells the items of one iterator apart, and stays the same when they are read again."""
    for name in ("digest", "state_id", "resource", "event_id"):
        if hasattr(item, name):
            return str(getattr(item, name))
    return str(item)
