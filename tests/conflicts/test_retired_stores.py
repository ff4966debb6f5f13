"""Stores that are retired: clocks stay short, and what they did is neither lost nor counted twice."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from tai_state import (
    ChangeMetadata,
    CorruptDocument,
    EventualConsistency,
    FieldMerge,
    GovernorNotFound,
    InvalidData,
    Rejected,
    StateMachinePersister,
    StateNotFound,
    StateStore,
    Unavailable,
    open_store,
    recorded_conflicts,
    retire_store,
    sync,
)
from tai_state.engines.api import ANYTHING, Delete, Put
from tai_state.engines.memory import MemoryDocuments
from tai_state.testing import AtCalls, Fault, FaultyEngine, ManualClock, MemoryEngine
from tai_state.values.clocks import ClockOrder

from ..support.overtaking import Overtaken
from ..support.stores import GOVERNOR, METADATA, Place, Places, collected, dump, edit, fields_at

pytestmark = pytest.mark.anyio

VISITS = 60
RULE = FieldMerge({"n": "counter"})
STATE = f"governors/{GOVERNOR}/states/x"
RECORD = f"governors/{GOVERNOR}/retired/x"


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: what is decided is decided above the engines."""
    return "asyncio"


@pytest.fixture
async def stores(clock: ManualClock) -> AsyncIterator[list[StateStore]]:
    """Four stores with one state, which the second one has changed after the first."""
    async with AsyncExitStack() as stack:
        made = [await stack.enter_async_context(open_store(MemoryEngine(clock), clock=clock)) for _ in range(4)]
        await made[0].save_state(GOVERNOR, "x", {"n": 0}, METADATA)
        await sync(made[0], made[1])
        await add(made[1], 1)
        for other in (made[0], *made[2:]):
            await sync(made[1], other)
        yield made


async def add(store: StateStore, step: int) -> None:
    """Count further."""
    now = await store.get_state(GOVERNOR, "x")
    await store.update_state(GOVERNOR, "x", {"n": now.data["n"] + step}, METADATA, expected=now)


async def counted(stores: Sequence[StateStore]) -> list[int]:
    """What the stores have counted."""
    return [(await store.get_state(GOVERNOR, "x")).data["n"] for store in stores]


async def clock_of(store: StateStore) -> dict[str, int]:
    """The state's clock as it is stored."""
    found: dict[str, int] = (await fields_at(store.core.engine, STATE))["causality"]
    return found


async def joined(one: StateStore, other: StateStore) -> int:
    """How many states a sync has to join."""
    report = await sync(one, other, resolver=RULE)
    assert report.complete, report.failed
    return report.joined


async def test_clocks_stay_short_however_many_stores_come_and_go(clock: ManualClock) -> None:
    """A new store for each visit, retired after it, adds nothing to the clocks of later events."""
    async with open_store(MemoryEngine(clock), clock=clock) as centre:
        await centre.save_state(GOVERNOR, "x", {"n": 0}, METADATA)
        for number in range(VISITS):
            async with open_store(MemoryEngine(clock), clock=clock) as visit:
                assert await joined(centre, visit) == 0
                await add(visit, 1)
                if number % 2:
                    await add(centre, 1)
                assert await joined(centre, visit) == number % 2
                report = await retire_store(centre, visit.store_id)
                assert (report.checked, report.retired, report.complete) == (1, 1, True)
        assert await counted([centre]) == [VISITS + VISITS // 2]
        events = await collected(centre.get_events(GOVERNOR, "x"))
        assert max(len(event.causality) for event in events) <= 4
        assert len(await clock_of(centre)) == 2
        assert (await StateMachinePersister(centre).validate_consistency()).consistent


async def test_a_retirement_changes_no_data_and_says_who_and_why(stores: list[StateStore]) -> None:
    """It is one event with an ordinary place in the stream; a second call, or a call for nobody, writes nothing."""
    centre, visitor, *_ = stores
    before, stored = await centre.get_state(GOVERNOR, "x"), await dump(centre.core.engine)
    assert (await retire_store(centre, visitor.store_id, dry_run=True)).retired == 1
    assert (await retire_store(centre, "nobody")).retired == 0
    assert await dump(centre.core.engine) == stored
    who = ChangeMetadata("ana", "the phone was lost")
    assert (await retire_store(centre, visitor.store_id, governor_id=GOVERNOR, metadata=who)).retired == 1
    after = await centre.get_state(GOVERNOR, "x")
    assert (after.data, after.version) == (before.data, before.version + 1)
    assert visitor.store_id not in after.causality
    event = (await collected(centre.get_events(GOVERNOR, "x")))[-1]
    assert (event.action, event.metadata.changed_by) == ("retire", "ana")
    assert event.payload == {"taken_out": {visitor.store_id: before.causality[visitor.store_id]}}
    stored = await dump(centre.core.engine)
    assert (await retire_store(centre, visitor.store_id)).retired == 0
    assert await dump(centre.core.engine) == stored


async def test_a_store_that_is_only_behind_takes_over(stores: list[StateStore]) -> None:
    """Stores that still name the retired one are behind, whoever of them is synced with whom."""
    centre, visitor, third, fourth = stores
    await retire_store(centre, visitor.store_id)
    await add(centre, 10)
    assert await joined(third, centre) == 0
    await add(third, 100)
    assert await joined(fourth, third) == 0
    assert await joined(centre, fourth) == 0
    assert await counted([centre, third, fourth]) == [111] * 3


async def test_changes_that_the_retirement_had_not_seen_are_joined(stores: list[StateStore]) -> None:
    """A version that knows more of the retired store is a rival; once retired again, the clock is short again."""
    centre, visitor, third, fourth = stores
    await add(visitor, 10)
    assert await joined(visitor, third) == 0
    await retire_store(centre, visitor.store_id)
    await add(centre, 100)
    assert await joined(centre, third) == 1
    assert await counted([centre, third]) == [111] * 2
    assert (await clock_of(centre))[visitor.store_id] == 2
    assert (await retire_store(third, visitor.store_id)).retired == 1
    assert visitor.store_id not in await clock_of(third)
    assert (await joined(third, centre), await joined(fourth, centre)) == (0, 0)
    assert await counted([centre, third, fourth]) == [111] * 3


async def test_a_retired_store_that_writes_after_all_is_named(
    stores: list[StateStore], clock: ManualClock, tmp_path: Path
) -> None:
    """It is not synced any more, and told what to do; as a new store it brings what it has done."""
    centre, visitor, third, _ = stores
    await retire_store(centre, visitor.store_id)
    await add(visitor, 10)
    await add(centre, 100)
    assert await joined(centre, third) == 0
    for other in (centre, third):
        [(path, why)] = (await sync(other, visitor, resolver=RULE)).failed
        assert path == f"{GOVERNOR} x"
        assert f"store {visitor.store_id} was retired" in why
        assert "restore that into a new store" in why
    assert await counted([centre, visitor, third]) == [101, 11, 101]
    exported = tmp_path / "visitor.jsonl"
    await StateMachinePersister(visitor).export_history(GOVERNOR, exported)
    async with open_store(MemoryEngine(clock), clock=clock) as new:
        await StateMachinePersister(new).import_history(exported)
        assert await joined(new, third) == 1
        assert await joined(centre, third) == 0
        assert await counted([centre, new, third]) == [111] * 3


async def test_stores_that_retire_each_other(stores: list[StateStore]) -> None:
    """They are not synced with each other any more, and all that they did comes together in the others."""
    one, other, third, fourth = stores
    await add(one, 10)
    assert await joined(one, other) == 0
    await retire_store(one, other.store_id)
    await retire_store(other, one.store_id)
    await add(one, 100)
    await add(other, 1_000)
    assert await joined(one, third) == 0
    assert await joined(other, fourth) == 0
    assert not (await sync(one, other, resolver=RULE)).complete
    assert not (await sync(one, fourth, resolver=RULE)).complete
    assert await joined(third, fourth) == 1
    assert await counted([third, fourth]) == [1_111] * 2


async def test_two_stores_retire_the_same_one(stores: list[StateStore]) -> None:
    """Two retirements are two changes to be joined, and a later one takes the place of both."""
    centre, visitor, third, fourth = stores
    await add(visitor, 10)
    assert await joined(visitor, third) == 0
    for store in (centre, third):
        assert (await retire_store(store, visitor.store_id)).retired == 1
        await add(store, 100)
    assert await joined(centre, third) == 1
    assert await counted([centre, third]) == [211] * 2
    assert visitor.store_id not in await clock_of(centre)
    await add(fourth, 1_000)
    assert await joined(fourth, centre) == 1
    await retire_store(centre, fourth.store_id)
    assert len([each for each in await clock_of(centre) if each.startswith("~")]) == 1
    assert await joined(centre, third) == 0
    assert await counted([centre, third]) == [1_211] * 2


async def test_what_is_on_record_is_in_an_export(stores: list[StateStore], clock: ManualClock, tmp_path: Path) -> None:
    """A store that was restored knows what its clocks stand for."""
    centre, visitor, third, fourth = stores
    await retire_store(centre, visitor.store_id)
    path = tmp_path / "centre.jsonl"
    await StateMachinePersister(centre).export_history(GOVERNOR, path)
    async with open_store(MemoryEngine(clock), clock=clock) as new:
        await StateMachinePersister(new).import_history(path)
        assert await dump(new.core.engine) == await dump(centre.core.engine)
        await add(new, 10)
        assert await joined(new, third) == 0
        assert await counted([new, third]) == [11] * 2
        assert not (await sync(new, visitor)).complete
        assert await joined(fourth, third) == 0


async def test_an_export_is_not_restored_into_a_store_that_is_retired_in_it(
    stores: list[StateStore], clock: ManualClock, tmp_path: Path
) -> None:
    """A retired store that was put back to a time before it had the governor would count from 1 again."""
    centre, visitor, *_ = stores
    await retire_store(centre, visitor.store_id)
    path = tmp_path / "centre.jsonl"
    await StateMachinePersister(centre).export_history(GOVERNOR, path)
    documents = MemoryDocuments()
    async with MemoryEngine(clock, documents) as engine:
        await engine.commit([Put("meta/store", await fields_at(visitor.core.engine, "meta/store"))])
    async with open_store(MemoryEngine(clock, documents), clock=clock) as again:
        assert again.store_id == visitor.store_id
        before = await dump(again.core.engine)
        with pytest.raises(InvalidData, match="new store"):
            await StateMachinePersister(again).import_history(path)
        assert await dump(again.core.engine) == before


async def test_a_deleted_state_is_retired_too(stores: list[StateStore]) -> None:
    """The document of a deleted state stays, and its clock with it."""
    centre, visitor, third, _ = stores
    await centre.delete_state(GOVERNOR, "x", METADATA, expected=2)
    assert (await retire_store(centre, visitor.store_id)).retired == 1
    assert visitor.store_id not in await clock_of(centre)
    assert await joined(centre, third) == 0
    with pytest.raises(StateNotFound):
        await third.get_state(GOVERNOR, "x")
    assert (await StateMachinePersister(centre).validate_consistency()).consistent


@pytest.mark.parametrize("at", range(1, 12))
@pytest.mark.parametrize("is_new", [False, True], ids=["behind", "new"])
async def test_a_store_is_retired_during_a_sync(clock: ManualClock, at: int, *, is_new: bool) -> None:
    """Whenever that happens: whoever gets the event has what it stands for on record before."""
    engine = Overtaken(MemoryEngine(clock))
    async with (
        open_store(engine, clock=clock) as centre,
        open_store(MemoryEngine(clock), clock=clock) as visitor,
        open_store(MemoryEngine(clock), clock=clock) as third,
        open_store(MemoryEngine(clock), clock=clock) as fourth,
    ):
        await centre.save_state(GOVERNOR, "x", {"n": 0}, METADATA)
        assert await joined(centre, visitor) == 0
        await add(visitor, 1)
        for other in (centre, fourth) if is_new else (centre, third, fourth):
            assert await joined(visitor, other) == 0
        await add(centre, 10)
        engine.plan(at, lambda: retire_store(centre, visitor.store_id))
        assert await joined(centre, third) == 0
        assert await joined(third, fourth) == 0
        assert await counted([third, fourth]) == [11] * 2
        assert (await StateMachinePersister(third).validate_consistency()).consistent


@pytest.mark.parametrize("fault", [Fault.LOST_BEFORE, Fault.LOST_AFTER, Fault.UNAVAILABLE, Fault.REFUSED])
@pytest.mark.parametrize("number", range(1, 6))
async def test_a_lost_answer_does_not_retire_twice(
    stores: list[StateStore], clock: ManualClock, fault: Fault, number: int
) -> None:
    """The change is looked up, as any other."""
    _, visitor, third, _ = stores
    engine = FaultyEngine(MemoryEngine(clock), AtCalls({}))
    async with open_store(engine, clock=clock) as centre:
        assert await joined(centre, third) == 0
        before = (await centre.get_state(GOVERNOR, "x")).version
        engine.plan = AtCalls({("any", engine.statistics().calls + number): fault})
        with suppress(Unavailable):
            await retire_store(centre, visitor.store_id)
        engine.plan = AtCalls({})
        await retire_store(centre, visitor.store_id)
        assert (await centre.get_state(GOVERNOR, "x")).version == before + 1
        await add(third, 10)
        assert await joined(centre, third) == 1
        assert await counted([centre, third]) == [11] * 2


async def test_a_plain_store_reads_no_record(stores: list[StateStore]) -> None:
    """Where no clock knows of a retirement, a sync makes the calls that it always made."""
    centre, visitor, third, _ = stores
    await add(centre, 1)
    read: list[str] = []
    for store in (centre, third):
        engine = store.core.engine
        plain = engine.read

        async def noting(paths: Sequence[str], plain: Any = plain) -> Any:
            read.extend(paths)
            return await plain(paths)

        engine.read = noting  # type: ignore[method-assign]
    await sync(centre, third)
    assert STATE in read
    assert RECORD not in read
    await retire_store(centre, visitor.store_id)
    await sync(centre, third)
    assert RECORD in read


async def test_versions_read_elsewhere_are_compared_with_what_is_on_record(stores: list[StateStore]) -> None:
    """``read`` names all that a version knows of, so that an older one is seen to be older."""
    centre, visitor, third, _ = stores
    await retire_store(centre, visitor.store_id)
    await add(centre, 10)
    here, there = EventualConsistency(centre), EventualConsistency(third)
    newer, older = await here.read(GOVERNOR, "x"), await there.read(GOVERNOR, "x")
    assert here.compare(older, newer) is ClockOrder.BEFORE
    here.check_causality(newer.snapshot, after=older.clock)
    assert (await there.read_repair(GOVERNOR, "x", [newer], METADATA)).data == {"n": 11}
    assert there.get_stats().conflicts == 0
    assert (await here.read_repair(GOVERNOR, "x", [older], METADATA)).version == newer.snapshot.version
    assert here.get_stats().conflicts == 0
    await add(third, 100)
    assert await joined(centre, third) <= 1
    assert await counted([centre, third]) == [111] * 2


async def test_a_repair_finds_the_base_of_two_versions(stores: list[StateStore]) -> None:
    """Both sides know of the retirement: the counter is exact, and the note names no retired store."""
    centre, visitor, third, _ = stores
    await retire_store(centre, visitor.store_id)
    assert await joined(centre, third) == 0
    await add(centre, 10)
    await add(third, 100)
    here, there = EventualConsistency(centre, RULE), EventualConsistency(third)
    assert (await here.read_repair(GOVERNOR, "x", [await there.read(GOVERNOR, "x")], METADATA)).data == {"n": 111}
    event = (await collected(centre.get_events(GOVERNOR, "x")))[-1]
    assert visitor.store_id not in event.metadata.context["conflict"]["clock"]
    assert await joined(centre, third) == 1
    assert await counted([centre, third]) == [111] * 2


async def test_what_was_dropped_is_not_ascribed_to_a_retired_store(stores: list[StateStore]) -> None:
    """The record of a conflict names the stores whose changes the other side did not know."""
    centre, visitor, third, _ = stores
    await retire_store(centre, visitor.store_id)
    await add(third, 100)
    await add(centre, 10)
    assert (await sync(centre, third)).joined == 1
    [conflict] = await collected(recorded_conflicts(centre, GOVERNOR))
    assert [each["stores"] for each in conflict.discarded] == [[third.store_id]]


async def test_a_store_is_retired_on_every_engine(place: Place, places: Places, tmp_path: Path) -> None:
    """What is on record is stored, passed on, exported and restored as all else."""
    places_of_others = [places.new() for _ in range(3)]
    async with AsyncExitStack() as stack:
        centre, visitor, third, new = [
            await stack.enter_async_context(each.store()) for each in (place, *places_of_others)
        ]
        await centre.save_state(GOVERNOR, "x", {"n": 0}, METADATA)
        assert await joined(centre, visitor) == 0
        await add(visitor, 1)
        assert (await joined(centre, visitor), await joined(third, visitor)) == (0, 0)
        assert (await retire_store(centre, visitor.store_id)).retired == 1
        await add(centre, 10)
        path = tmp_path / "centre.jsonl"
        await StateMachinePersister(centre).export_history(GOVERNOR, path)
        await StateMachinePersister(new).import_history(path)
        assert (await joined(new, third), await joined(third, centre)) == (0, 0)
        assert await counted([centre, third, new]) == [11] * 3
        for store in (centre, third, new):
            assert (await StateMachinePersister(store).validate_consistency()).consistent


async def test_a_record_that_is_lost_or_damaged(stores: list[StateStore]) -> None:
    """It is a finding, and a recovery makes it anew from the events."""
    centre, visitor, third, _ = stores
    await retire_store(centre, visitor.store_id)
    engine, persister = centre.core.engine, StateMachinePersister(centre)
    whole = await fields_at(engine, RECORD)
    await engine.commit([Delete(RECORD, ANYTHING)])
    [finding] = (await persister.validate_consistency()).findings
    assert (finding.path, finding.kind) == (RECORD, "retired")
    assert "tai-state recover" in finding.message
    report = await persister.recover()
    assert (report.rebuilt, report.consistent) == ((RECORD,), True)
    assert await fields_at(engine, RECORD) == whole
    await edit(engine, RECORD, taken_out=3)
    assert [each.path for each in (await persister.validate_consistency()).findings] == [RECORD]
    [(path, why)] = (await sync(centre, third)).failed
    assert (path, "taken_out" in why) == (f"{GOVERNOR} x", True)
    assert (await persister.recover()).consistent
    assert await joined(centre, third) == 0


@pytest.mark.parametrize("is_needed", [True, False], ids=["needed", "stray"])
@pytest.mark.parametrize("changes", [{"state_id": "y"}, {"taken_out": 3}], ids=["of another state", "damaged"])
async def test_a_record_that_is_not_that_of_its_state(
    stores: list[StateStore], tmp_path: Path, changes: dict[str, Any], *, is_needed: bool
) -> None:
    """It keeps an export away, so a check names it; a recovery makes it anew, or removes it where no state needs it."""
    centre, visitor, third, _ = stores
    await retire_store(centre, visitor.store_id)
    engine, persister = centre.core.engine, StateMachinePersister(centre)
    path = RECORD if is_needed else RECORD.replace("x", "z")
    whole = await fields_at(engine, RECORD)
    await engine.commit([Put(path, {**whole, **changes})])
    with pytest.raises(CorruptDocument):
        await persister.export_history(GOVERNOR, tmp_path / "centre.jsonl")
    assert bool((await sync(centre, third, dry_run=True)).failed) == is_needed
    [finding] = (await persister.validate_consistency()).findings
    assert (finding.path, finding.kind) == (path, "retired")
    assert "tai-state recover" in finding.message
    report = await persister.recover()
    assert (report.rebuilt, report.failed) == ((path,), ())
    assert await fields_at(engine, RECORD) == whole
    assert (await persister.validate_consistency()).consistent
    await persister.export_history(GOVERNOR, tmp_path / "centre.jsonl")
    assert await joined(centre, third) == 0


async def test_arguments_are_refused_where_they_enter(stores: list[StateStore]) -> None:
    """Nothing is written, and the error says what to do."""
    centre, visitor, *_ = stores
    calls: list[dict[str, Any]] = [
        {"store_id": centre.store_id},
        {"store_id": "~mark"},
        {"store_id": ""},
        {"store_id": 3},
        {"store_id": visitor.store_id, "metadata": 3},
        {"store_id": visitor.store_id, "dry_run": 1},
        {"store_id": visitor.store_id, "governor_id": ""},
    ]
    for call in calls:
        with pytest.raises(Rejected):
            await retire_store(centre, **call)
    with pytest.raises(InvalidData, match="open store"):
        await retire_store(3, "x")  # type: ignore[arg-type]
    with pytest.raises(GovernorNotFound):
        await retire_store(centre, visitor.store_id, governor_id="nobody's")
