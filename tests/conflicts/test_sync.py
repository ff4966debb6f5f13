"""Syncing two stores that were changed apart from one another."""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from datetime import timedelta
from functools import partial
from itertools import count, permutations
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pytest

from tai_state import (
    ANY,
    EventualConsistency,
    EveryEvents,
    InvalidData,
    NewEvent,
    StateMachinePersister,
    StateNotFound,
    StateStore,
    TaiStateError,
    Upcast,
    open_store,
)
from tai_state.conflicts.copying import EVENTS_MAX
from tai_state.conflicts.merging import FieldMerge
from tai_state.conflicts.resolvers import Causal, LastWriteWins, VersionBased
from tai_state.conflicts.sync import SyncReport, sync
from tai_state.testing import AtCalls, Fault, FaultyEngine, ManualClock, MemoryEngine
from tai_state.values.clocks import ClockOrder, compare
from tai_state.values.events import JOIN_ACTION

from ..support.operations import REDUCERS
from ..support.stores import GOVERNOR, METADATA, AroundEngine, Place, collected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tai_state import StateEvent

pytestmark = pytest.mark.anyio

RUNS = 4_000 if os.environ.get("TAI_STATE_PROOF") == "1" else 60
"""Worlds in which three stores are written and synced by chance."""


def memory_store(clock: ManualClock | None = None, engine: Any = None, **options: Any) -> StateStore:
    """A store in memory, not yet open."""
    own = clock or ManualClock(step_us=1_000)
    return open_store(engine or MemoryEngine(own), clock=own, **options)


@pytest.fixture
async def device(place: Place) -> AsyncIterator[StateStore]:
    """A store on the engine under test."""
    async with place.store() as store:
        yield store


@pytest.fixture
async def centre() -> AsyncIterator[StateStore]:
    """A store in memory that it is synced with."""
    async with memory_store() as store:
        yield store


async def events_of(store: StateStore, state_id: str = "pump") -> list[StateEvent[Any]]:
    """All events of a state."""
    return await collected(store.get_events(GOVERNOR, state_id))


async def assert_alike(*stores: StateStore) -> None:
    """Every state has the same data, clock and last event in all of them, each is consistent, and nothing is left."""
    seen = []
    for store in stores:
        states = {}
        async for governor in store.list_governors():
            async for each in store.list_states(governor, deleted=True):
                [head] = await collected(store.get_events(governor, each.state_id, after=each.version - 1))
                states[governor, each.state_id] = (each.data, each.deleted, each.causality, head.event_id)
        seen.append(states)
        assert (await StateMachinePersister(store, REDUCERS).validate_consistency()).consistent
    assert all(each == seen[0] for each in seen)
    for one, other in permutations(stores, 2):
        report = await sync(one, other)
        assert (report.same, report.sent, report.received, report.joined) == (report.checked, 0, 0, 0)


# One side has seen less ------------------------------------------------------------------------------------------


async def test_what_one_side_lacks_is_taken_over(device: StateStore, centre: StateStore):
    """Events keep id, action, time, clock and content; version and digests belong to each stream."""
    for version in range(3):
        await device.save_state(GOVERNOR, "pump", {"n": version}, METADATA, expected=version, action=f"step {version}")
    await centre.save_state(GOVERNOR, "valve", {"open": True}, METADATA)
    report = await sync(device, centre)
    assert report == SyncReport(checked=2, sent=3, received=1)
    here, there = await events_of(device), await events_of(centre)
    for one, other in zip(here, there, strict=True):
        assert msgspec.structs.replace(other, recorded_at=one.recorded_at, digest=one.digest) == one
        assert other.digest != one.digest
    await assert_alike(device, centre)


async def test_each_side_goes_on(device: StateStore, centre: StateStore):
    """After a sync either side can write, and the next sync takes only what is new."""
    await device.save_state(GOVERNOR, "pump", {"n": 1}, METADATA)
    await sync(device, centre)
    await centre.update_state(GOVERNOR, "pump", {"n": 2}, METADATA, expected=1)
    assert await sync(device, centre) == SyncReport(checked=1, received=1)
    await device.delete_state(GOVERNOR, "pump", METADATA, expected=2)
    assert await sync(device, centre) == SyncReport(checked=1, sent=1)
    assert not await centre.exists(GOVERNOR, "pump")
    await assert_alike(device, centre)


async def test_events_that_reducers_fold(device: StateStore, centre: StateStore):
    """Are taken over as they are, and fold to the same states there."""
    persister = StateMachinePersister(device, REDUCERS)
    for _ in range(3):
        await persister.record(GOVERNOR, "pump", [NewEvent("add", 2), NewEvent("add", 3)], METADATA, expected=ANY)
        await device.log_event(GOVERNOR, "pump", "looked", METADATA, payload=[1])
        await sync(device, centre)
    assert (await centre.get_state(GOVERNOR, "pump")).data == {"n": 15}
    replayed = await collected(StateMachinePersister(centre, REDUCERS).replay(GOVERNOR, "pump"))
    assert [each.to_state for each in replayed][-2:] == [{"n": 15}, {"n": 15}]
    await assert_alike(device, centre)


async def test_a_callers_id_is_known_on_both_sides(device: StateStore, centre: StateStore):
    """The call that was made in one store, made again in the other after a sync, changes nothing."""
    first = await device.save_state(GOVERNOR, "pump", {"n": 1}, METADATA, event_id="request-1")
    await sync(device, centre)
    again = await centre.save_state(GOVERNOR, "pump", {"n": 1}, METADATA, event_id="request-1")
    assert (again.version, again.causality) == (1, first.causality)
    assert len(await events_of(centre)) == 1


async def test_a_long_history(device: StateStore, centre: StateStore):
    """More events than go into one commit are taken over in several."""
    await StateMachinePersister(device, REDUCERS).record(
        GOVERNOR, "pump", [NewEvent("add", 1) for _ in range(EVENTS_MAX + 50)], METADATA, expected=ANY
    )
    report = await sync(device, centre, reducers=REDUCERS)
    assert (report.sent, report.failed) == (EVENTS_MAX + 50, ())
    await assert_alike(device, centre)


async def test_without_the_reducers_it_needs(device: StateStore, centre: StateStore):
    """A state that cannot be taken over is reported, and the others are."""
    await StateMachinePersister(device, REDUCERS).record(
        GOVERNOR, "pump", [NewEvent("add", 1) for _ in range(EVENTS_MAX + 50)], METADATA, expected=ANY
    )
    await device.save_state(GOVERNOR, "valve", {}, METADATA)
    report = await sync(device, centre)
    assert [path for path, _ in report.failed] == ["bank pump"]
    assert not report.complete
    assert await centre.exists(GOVERNOR, "valve")
    assert (await sync(device, centre, reducers=REDUCERS)).complete
    await assert_alike(device, centre)


async def test_a_history_that_was_cleaned_up(place: Place, centre: StateStore):
    """What is left of it is taken over; the first event brings the state that its snapshot kept."""
    async with place.store(snapshots=EveryEvents(5, keep=2)) as device:
        persister = StateMachinePersister(device, REDUCERS)
        for _ in range(23):
            await persister.record(GOVERNOR, "pump", [NewEvent("add", 1)], METADATA, expected=ANY)
        place.clock.advance_us(10_000_000_000)
        stats = await persister.cleanup_old_data(GOVERNOR, keep=timedelta(0))
        assert stats.events_deleted > 0
        report = await sync(device, centre, reducers=REDUCERS)
        assert report == SyncReport(checked=1, sent=23 - stats.events_deleted)
        assert (await centre.get_state(GOVERNOR, "pump")).data == {"n": 23}
        await assert_alike(device, centre)


# Both sides were changed -----------------------------------------------------------------------------------------


async def test_one_event_joins_both_sides(device: StateStore, centre: StateStore):
    """It is the same on either side, names what it joins, and records what was dropped."""
    await device.save_state(GOVERNOR, "pump", {"n": 1, "by": "device"}, METADATA)
    await sync(device, centre)
    await device.update_state(GOVERNOR, "pump", {"n": 2, "by": "device, later"}, METADATA, expected=1)
    await centre.update_state(GOVERNOR, "pump", {"n": 1, "by": "centre", "new": 3}, METADATA, expected=1)
    before = [(await events_of(store))[-1] for store in (device, centre)]
    report = await sync(device, centre, resolver=FieldMerge({"by": "last"}))
    [met] = report.conflicts
    assert (report.joined, met.state_id) == (1, "pump")
    joins = [(await events_of(store))[-1] for store in (device, centre)]
    for join in joins:
        assert (join.event_id, join.action, join.version) == (met.event_id, JOIN_ACTION, 3)
        assert join.payload["heads"] == sorted(each.event_id for each in before)
        assert all(compare(join.causality, each.causality) is ClockOrder.AFTER for each in before)
        assert {key: join.to_state[key] for key in ("n", "new")} == {"n": 2, "new": 3}
        [dropped] = join.payload["discarded"]
        assert {join.to_state["by"], dropped["value"]} == {"device, later", "centre"}
    assert joins[0].causality == joins[1].causality
    assert (await device.get_state(GOVERNOR, "pump")).metadata.changed_by == "sync"
    await assert_alike(device, centre)


async def test_what_a_read_repair_brought_in_is_not_counted_again(device: StateStore, centre: StateStore):
    """Its clock does not tell what it knew of: a counter that was merged by it is not merged again."""
    await device.save_state(GOVERNOR, "pump", {"n": 10}, METADATA)
    await sync(device, centre)
    await device.update_state(GOVERNOR, "pump", {"n": 11}, METADATA, expected=1)
    await centre.update_state(GOVERNOR, "pump", {"n": 12}, METADATA, expected=1)
    counters = FieldMerge({"n": "counter"})
    repairing = EventualConsistency(device, counters)
    seen = await EventualConsistency(centre).read(GOVERNOR, "pump")
    repaired = await repairing.read_repair(GOVERNOR, "pump", [seen], METADATA)
    assert repaired.data == {"n": 13}
    await sync(device, centre, resolver=counters)
    assert (await device.get_state(GOVERNOR, "pump")).data == {"n": 13}
    await assert_alike(device, centre)


async def test_a_conflict_that_cannot_be_resolved(device: StateStore, centre: StateStore):
    """Is reported, and both sides stay as they are, until a resolver can decide."""
    for store in (device, centre):
        await store.save_state(GOVERNOR, "pump", {"at": store.store_id}, METADATA)
    report = await sync(device, centre, resolver=Causal())
    assert (report.joined, len(report.failed)) == (0, 1)
    assert len(await events_of(device)) == len(await events_of(centre)) == 1
    assert (await sync(device, centre, resolver=Causal(LastWriteWins()))).joined == 1
    await assert_alike(device, centre)


def copied(engine: MemoryEngine, clock: ManualClock) -> MemoryEngine:
    """An engine with the same documents, as from a backup."""
    documents = copy.deepcopy(engine._documents)
    documents._revision += 1_000
    return MemoryEngine(clock, documents)


async def test_a_store_restored_from_a_backup():
    """It counts anew what it had counted before: clocks that seem to say who knew what hide neither old nor new."""
    clock = ManualClock(step_us=1_000)
    engine = MemoryEngine(clock)
    async with memory_store(clock) as centre:
        async with memory_store(clock, engine) as device:
            await device.save_state(GOVERNOR, "pump", {"n": 1}, METADATA)
            backup = copied(engine, clock)
            for version, text in ((1, "old 2"), (2, "old 3")):
                await device.update_state(GOVERNOR, "pump", {"n": text}, METADATA, expected=version)
            await sync(device, centre)
        for writes in (["new 2"], ["new 2", "new 3"]):
            async with memory_store(clock, copied(backup, clock)) as device, memory_store(clock) as other:
                await sync(centre, other)
                for version, text in enumerate(writes, start=1):
                    await device.update_state(GOVERNOR, "pump", {"n": text}, METADATA, expected=version)
                order = compare((await device.get_state(GOVERNOR, "pump")).causality, {device.store_id: 3})
                assert order is (ClockOrder.BEFORE if len(writes) == 1 else ClockOrder.SAME)
                assert (await sync(device, other)).joined == 1
                join = (await events_of(other))[-1]
                texts = {join.to_state["n"], *(each["value"] for each in join.payload["discarded"])}
                assert texts == {writes[-1], "old 3"}
                await device.update_state(GOVERNOR, "pump", {"n": "on"}, METADATA, expected=ANY)
                assert await sync(device, other) == SyncReport(checked=1, sent=1)
                await assert_alike(device, other)


# Ways in which it can go ------------------------------------------------------------------------------------------


async def test_a_dry_run_writes_nothing(device: StateStore, centre: StateStore):
    """It counts what would be done."""
    await device.save_state(GOVERNOR, "pump", {"n": 1}, METADATA)
    await centre.save_state(GOVERNOR, "valve", {"n": 1}, METADATA)
    for store in (device, centre):
        await store.save_state(GOVERNOR, "tank", {"at": store.store_id}, METADATA)
    report = await sync(device, centre, dry_run=True)
    assert (report.sent, report.received, report.joined) == (1, 1, 1)
    assert not await centre.exists(GOVERNOR, "pump")
    assert not await device.exists(GOVERNOR, "valve")
    assert (await device.get_state(GOVERNOR, "tank")).version == 1
    assert await sync(device, centre) == report


async def test_it_goes_on_where_it_stopped(device: StateStore, centre: StateStore):
    """The states of all governors, whatever their ids, in one order; a report says where to resume."""
    names = ["~", "a", "A", "a/b", "é", "..", "zz", "__x__"]
    for governor in ("g2", "g/1"):
        for number, name in enumerate(names):
            await (device, centre)[number % 2].save_state(governor, name, {"n": number}, METADATA)
    reports: list[SyncReport] = []

    class Enough(Exception):
        """Stop here."""

    async def stop(report: SyncReport) -> None:
        reports.append(report)
        if len(reports) == 3:
            raise Enough

    with pytest.raises(Enough):
        await sync(device, centre, concurrency=3, progress=stop)
    assert [each.checked for each in reports] == [3, 6, 9]
    rest = await sync(device, centre, resume=reports[-1].resume)
    assert (rest.checked, rest.sent + rest.received, rest.resume) == (7, 7, None)
    assert (await sync(device, centre, governor_id="g2")).checked == 8
    await assert_alike(device, centre)


async def test_what_cannot_be_synced(device: StateStore, centre: StateStore):
    """A store with itself, or two that read data in different shapes, is refused before anything is written."""
    await device.save_state(GOVERNOR, "pump", {"n": 1}, METADATA)
    with pytest.raises(InvalidData, match="with itself"):
        await sync(device, device)
    async with memory_store(schema=2, upcasters={1: Upcast(state=lambda data: data)}) as other:
        with pytest.raises(InvalidData, match="different schemas"):
            await sync(device, other)
        assert not await collected(other.list_governors())


class Meddled(AroundEngine):
    """Does something of somebody else's before the first commit that it passes on."""

    meddle: Callable[[], Awaitable[Any]] | None = None

    async def commit(self, writes: Any) -> Any:  # noqa: D102
        if (meddle := self.meddle) is not None:
            self.meddle = None
            await meddle()
        return await self._engine.commit(writes)


async def test_others_write_meanwhile(device: StateStore):
    """A state that moves between looking and writing is looked at again."""
    clock = ManualClock(step_us=1_000)
    engine = MemoryEngine(clock)
    meddled = Meddled(engine)
    async with memory_store(clock, meddled) as centre, memory_store(clock, engine.beside()) as writer:
        await device.save_state(GOVERNOR, "pump", {"n": 1}, METADATA)
        await sync(device, centre)
        await device.update_state(GOVERNOR, "pump", {"n": 2}, METADATA, expected=1)
        await centre.update_state(GOVERNOR, "pump", {"n": 3}, METADATA, expected=1)
        meddled.meddle = partial(writer.update_state, GOVERNOR, "pump", {"n": 4}, METADATA, expected=2)
        report = await sync(device, centre)
        assert meddled.meddle is None
        assert (report.complete, report.joined) == (True, 1)
        assert "update" in [each.action for each in (await events_of(centre))[-2:]]
        await assert_alike(device, centre)


async def apart(one: StateStore, other: StateStore) -> None:
    """Two stores with something new in the first, in the second, and in both."""
    for version in range(2):
        await one.save_state(GOVERNOR, "tank", {"n": version + 1}, METADATA, expected=version)
    await sync(one, other)
    await one.update_state(GOVERNOR, "tank", {"n": 3}, METADATA, expected=2)
    await other.save_state(GOVERNOR, "valve", {"n": 1}, METADATA)
    for store in (one, other):
        await store.save_state(GOVERNOR, "pump", {"at": store.store_id}, METADATA)


@pytest.mark.parametrize("side", [0, 1], ids=["first", "second"])
@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name.lower())
async def test_broken_off_at_every_call(fault: Fault, side: int):
    """Whatever call of either store goes wrong, running it again completes it, and nothing is there twice."""
    for number in count(1):
        clock = ManualClock(step_us=1_000)
        faulty = [FaultyEngine(MemoryEngine(clock), AtCalls({})) for _ in range(2)]
        async with (
            memory_store(clock, faulty[0], timeout_seconds=0.0) as one,
            memory_store(clock, faulty[1], timeout_seconds=0.0) as other,
        ):
            await apart(one, other)
            before = faulty[side].statistics().calls
            faulty[side].plan = AtCalls({("any", before + number): fault})
            with faulty[side].cancellable(), suppress(TaiStateError):
                await sync(one, other)
            calls = faulty[side].statistics().calls - before
            faulty[side].plan = AtCalls({})
            assert (await sync(one, other)).complete
            await assert_alike(one, other)
            assert [each.to_state["n"] for each in await events_of(other, "tank")] == [1, 2, 3]
            assert len(await events_of(one, "valve")) == 1
            assert len(await events_of(one, "pump")) == 2
        if calls < number:
            break


# Any interleaving ------------------------------------------------------------------------------------------------


class Written(NamedTuple):
    """What a write changed: a field; or it deleted the state."""

    field: str | None
    value: int | None


class World:
    """Three stores, written, synced, broken off and restored from backups by chance; and what must be true of it.

    Args:
        seed: of all that is left to chance.
    """

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.clock = ManualClock(step_us=self.chance.choice([1, 1_000]))
        self.engines = [MemoryEngine(self.clock) for _ in range(3)]
        self.backups = list(self.engines)
        self.parents: dict[str, list[str]] = {}
        self.written: dict[str, Written] = {}
        self.resolver = self.chance.choice([LastWriteWins(), VersionBased(), FieldMerge({"a": "last", "b": "last"})])
        self._numbers = count(1)

    def store(self, index: int, engine: Any = None) -> StateStore:
        """One of the stores, not yet open."""
        return memory_store(self.clock, engine or self.engines[index], timeout_seconds=0.0)

    async def write(self, index: int, state_id: str) -> None:
        """A value that stands nowhere else, in one field of a state."""
        async with self.store(index) as store:
            written = Written(self.chance.choice("ab"), next(self._numbers))
            found = (await store.batch_get_states(GOVERNOR, [state_id]))[state_id]
            data = {} if found is None or found.deleted else dict(found.data)
            data[written.field] = written.value
            before = await self.head(store, state_id)
            if found is not None and not found.deleted and self.chance.random() < 0.1:
                await store.delete_state(GOVERNOR, state_id, METADATA, expected=ANY)
                written = Written(None, None)
            else:
                await store.save_state(GOVERNOR, state_id, data, METADATA, expected=ANY)
            event = await self.head(store, state_id)
            assert event is not None
            self.parents[event.event_id] = [] if before is None else [before.event_id]
            self.written[event.event_id] = written

    async def head(self, store: StateStore, state_id: str) -> StateEvent[Any] | None:
        """The last event of a state."""
        try:
            return (await events_of(store, state_id))[-1]
        except StateNotFound:
            return None

    async def sync(self, first: int, second: int, *, breaks: bool = False) -> None:
        """A sync, which may be broken off at some commit."""
        faulty = FaultyEngine(self.engines[first], AtCalls({}))
        async with self.store(first, faulty) as one, self.store(second) as other:
            if breaks:
                fault = self.chance.choice([Fault.UNAVAILABLE, Fault.LOST_AFTER, Fault.LOST_BEFORE])
                faulty.plan = AtCalls({("any", faulty.statistics().calls + self.chance.randint(1, 15)): fault})
            with suppress(TaiStateError) if breaks else nullcontext():
                report = await sync(one, other, resolver=self.resolver)
                assert report.complete

    async def restore(self, index: int) -> None:
        """Go back to the backup. What nobody else has taken over is lost with what was there."""
        self.engines[index] = copied(self.backups[index], self.clock)

    async def live(self) -> None:
        """Some time in this world."""
        for _ in range(self.chance.randint(5, 30)):
            index, other = self.chance.sample(range(3), 2)
            what = self.chance.random()
            if what < 0.55:
                await self.write(index, self.chance.choice(["pump", "tank"]))
            elif what < 0.9:
                await self.sync(index, other, breaks=self.chance.random() < 0.3)
            elif what < 0.95:
                self.backups[index] = copied(self.engines[index], self.clock)
            else:
                await self.restore(index)

    async def settle(self) -> None:
        """Sync until nothing is left to sync."""
        for first, second in [(0, 1), (1, 2), (0, 1), (0, 2)]:
            await self.sync(first, second)

    async def judge(self) -> None:
        """All stores are alike, and every change that is not lost with a store is known, kept or recorded."""
        kept: set[str] = set()
        for index in range(3):
            async with self.store(index) as store:
                for state_id in ("pump", "tank"):
                    head = await self.head(store, state_id)
                    if head is not None:
                        kept |= self.account(head, await events_of(store, state_id))
        async with self.store(0) as one, self.store(1) as other, self.store(2) as third:
            await assert_alike(one, other, third)
            await self.nothing_dropped([one, other, third], kept)

    def account(self, head: StateEvent[Any], events: list[StateEvent[Any]]) -> set[str]:
        """The ids of all events that a stream knows of: its own, and those that were joined to it."""
        for event in events:
            if event.action == JOIN_ACTION:
                self.parents[event.event_id] = list(event.payload["heads"])
        known: set[str] = set()
        left = [head.event_id]
        while left:
            event_id = left.pop()
            if event_id not in known:
                known.add(event_id)
                left += self.parents.get(event_id, [])
        return known

    async def nothing_dropped(self, stores: list[StateStore], known: set[str]) -> None:
        """Each known value stands in a state, or was overwritten by a write that knew of it, or in a record."""
        there: set[Any] = set()
        for store in stores:
            for state_id in ("pump", "tank"):
                head = await self.head(store, state_id)
                if head is None:
                    continue
                there |= set((head.to_state or {}).values())
                for event in await events_of(store, state_id):
                    if event.action == JOIN_ACTION:
                        there |= {value for each in event.payload["discarded"] for value in _leaves(each["value"])}
        for event_id in known & set(self.written):
            value, field = self.written[event_id].value, self.written[event_id].field
            later = [each for each in known & set(self.written) if event_id in self._ancestors(each)]
            overwritten = any(self.written[each].field in (field, None) for each in later)
            assert value is None or value in there or overwritten, f"{value} in {field} is gone"

    def _ancestors(self, event_id: str) -> set[str]:
        found: set[str] = set()
        left = list(self.parents.get(event_id, []))
        while left:
            each = left.pop()
            if each not in found:
                found.add(each)
                left += self.parents.get(each, [])
        return found


def _leaves(value: Any) -> list[Any]:
    return [leaf for each in value.values() for leaf in _leaves(each)] if isinstance(value, dict) else [value]


@pytest.mark.parametrize("seed", range(RUNS))
async def test_any_interleaving_converges(seed: int):
    """Writes, syncs, breaks and restores in any order: in the end all stores agree, and nothing is gone unrecorded."""
    world = World(seed)
    await world.live()
    await world.settle()
    await world.judge()
