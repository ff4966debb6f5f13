"""Eventual consistency: repairs that are written back, stale reads and broken causality."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import permutations
from typing import Any

import msgspec
import pytest

from tai_state import (
    ANY,
    NO_STATE,
    EveryEvents,
    InvalidData,
    NewEvent,
    StateMachinePersister,
    StateNotFound,
    StateStore,
    VersionConflict,
)
from tai_state.conflicts.consistency import EventualConsistency
from tai_state.conflicts.merging import FieldMerge
from tai_state.conflicts.notes import LISTED_MAX, VALUE_BYTES_MAX
from tai_state.conflicts.repairing import REPAIRS_MAX
from tai_state.conflicts.resolvers import Causal, LastWriteWins
from tai_state.conflicts.rivals import Rival
from tai_state.engines.api import ANYTHING, Delete
from tai_state.errors import CausalityViolation, ConflictResolutionFailed, EventSourcingError, StaleRead
from tai_state.values.clocks import ClockOrder, merge

from ..support.operations import REDUCERS
from ..support.rivals import B, C, Data, rivals, version
from ..support.stores import GOVERNOR, METADATA, STORE_ID, AroundEngine, Opened, Place, Places, collected, fix_identity


class Overtaking(AroundEngine):
    """An engine on which somebody else writes right before each of the next commits."""

    def __init__(self, engine: Any) -> None:
        super().__init__(engine)
        self.overtakings = 0
        self.other: StateStore

    async def commit(self, writes: Any) -> Any:  # noqa: D102
        if self.overtakings:
            self.overtakings -= 1
            state = await self.other.get_state(GOVERNOR, "alice")
            await self.other.update_state(
                GOVERNOR, "alice", {**state.data, "m": self.overtakings}, METADATA, expected=ANY
            )
        return await self._engine.commit(writes)


@pytest.fixture
def place(memory_places: Places) -> Place:
    """An empty place in memory."""
    return memory_places.new()


@pytest.fixture
async def store(place: Place) -> AsyncIterator[StateStore]:
    """An open store there, its id known."""
    engine = place.engine()
    async with engine:
        await fix_identity(engine)
        async with place.store(Opened(engine), snapshots=EveryEvents(2, keep=2)) as store:
            yield store


async def written(store: StateStore, *datas: Data) -> Rival:
    """Alice's state after these changes, as it stands then."""
    for data in datas:
        if data is None:
            await store.delete_state(GOVERNOR, "alice", METADATA, expected=ANY)
        else:
            await store.save_state(GOVERNOR, "alice", data, METADATA, expected=ANY)
    return await EventualConsistency(store).read(GOVERNOR, "alice")


def elsewhere(parted: Rival | None, data: Data, store_id: str = B, *, later: int = 1, count: int = 1) -> Rival:
    """A version of Alice's that another store made of the one they parted at."""
    clock = {} if parted is None else parted.clock
    hlc = 0 if parted is None else parted.hlc
    return version(data, {**clock, store_id: clock.get(store_id, 0) + count}, hlc=hlc + later, number=9)


async def stands(store: StateStore) -> tuple[Data, int]:
    """Alice's data and version."""
    found = await EventualConsistency(store).read(GOVERNOR, "alice")
    return found.data, found.snapshot.version


async def last_note(store: StateStore) -> tuple[str, dict[str, Any]]:
    """The action of Alice's last event, and the note in its context."""
    event = (await collected(store.get_events(GOVERNOR, "alice")))[-1]
    return event.action, event.metadata.context["conflict"]


COUNTING = FieldMerge({"n": "counter"})
anyio_test = pytest.mark.anyio


@anyio_test
async def test_a_newer_version_is_written_back(store: StateStore):
    """A version known to be newer is taken over by an ordinary event that says where it came from; once."""
    parted = await written(store, {"n": 1})
    newer = elsewhere(parted, {"n": 2})
    consistency = EventualConsistency(store)
    repaired = await consistency.read_repair(GOVERNOR, "alice", [newer], METADATA)
    assert (repaired.data, repaired.version, repaired.causality) == ({"n": 2}, 2, {STORE_ID: 2})
    assert repaired == await store.get_state(GOVERNOR, "alice")
    assert await last_note(store) == (
        "read_repair",
        {
            "clock": {STORE_ID: 1, B: 1},
            "heads": [newer.tip],
            "strategies": ["causal"],
            "discarded": [],
            "discarded_total": 0,
        },
    )
    assert (repaired.metadata.changed_by, repaired.metadata.context["ticket"]) == ("tester", 7)
    assert await consistency.read_repair(GOVERNOR, "alice", [newer, parted], METADATA) == repaired
    assert consistency.get_stats().repairs == 1
    assert consistency.history.recent(9) == []


@anyio_test
async def test_a_concurrent_version_is_resolved_and_written_back(store: StateStore, caplog: pytest.LogCaptureFixture):
    """Rivals are merged against what they parted from, and what was dropped stands in the event."""
    caplog.set_level(logging.WARNING, "tai_state")
    parted = await written(store, {"n": 10, "by": ""}, {"n": 10, "by": "-"})
    await written(store, {"n": 15, "by": "-"}, {"n": 15, "by": "us"})
    theirs = elsewhere(parted, {"n": 12, "by": "them"}, later=10**9)
    consistency = EventualConsistency(store, COUNTING)
    repaired = await consistency.read_repair(GOVERNOR, "alice", [theirs], METADATA)
    assert (repaired.data, repaired.version) == ({"n": 17, "by": "them"}, 5)
    action, note = await last_note(store)
    assert (action, note["strategies"], note["discarded_total"]) == ("resolve", ["field_merge"], 1)
    [lost] = note["discarded"]
    assert (lost["path"], lost["value"], lost["stores"]) == ("by", "us", [STORE_ID])
    assert [each.event_id for each in await collected(store.get_events(GOVERNOR, "alice"))][3] == lost["head"]
    [record] = consistency.history.recent(9)
    assert record.path == "governors/bank/states/alice"
    assert record.clocks == ({STORE_ID: 4}, {STORE_ID: 2, B: 1})
    assert (record.strategy, record.discarded, record.repaired) == ("field_merge", 1, True)
    [message] = [each for each in caplog.records if each.name == "tai_state.conflicts"]
    assert message.path == record.path  # type: ignore[attr-defined]
    assert "them" not in str(vars(message))


@anyio_test
async def test_what_was_brought_in_once_is_not_brought_in_again(store: StateStore):
    """A version merged before changes nothing, after further changes and for whoever asks; nothing counts twice."""
    parted = await written(store, {"n": 10})
    await written(store, {"n": 11})
    theirs = elsewhere(parted, {"n": 12}, later=10**12)
    for _ in range(2):
        await EventualConsistency(store, COUNTING).read_repair(GOVERNOR, "alice", [theirs, theirs], METADATA)
        assert await stands(store) == ({"n": 13}, 3)
    await written(store, {"n": 14})
    for resolver in (COUNTING, LastWriteWins()):
        await EventualConsistency(store, resolver).read_repair(GOVERNOR, "alice", [theirs], METADATA)
        assert await stands(store) == ({"n": 14}, 4)


@anyio_test
async def test_a_later_change_of_what_was_brought_in(store: StateStore):
    """What went on from a repaired state is merged against it; what went on beside it is not counted twice either."""
    parted = await written(store, {"n": 10})
    await written(store, {"n": 11})
    first = elsewhere(parted, {"n": 12})
    consistency = EventualConsistency(store, COUNTING)
    await consistency.read_repair(GOVERNOR, "alice", [first], METADATA)
    joined = await consistency.read(GOVERNOR, "alice")
    await written(store, {"n": 20})
    onwards = version({"n": 15}, merge(joined.clock, {B: 2}), hlc=joined.hlc + 1)
    assert (await consistency.read_repair(GOVERNOR, "alice", [onwards], METADATA)).data == {"n": 22}
    beside = elsewhere(parted, {"n": 16}, later=10**12, count=3)
    repaired = await consistency.read_repair(GOVERNOR, "alice", [beside], METADATA)
    assert repaired.data == {"n": 16}
    assert [each["value"] for each in (await last_note(store))[1]["discarded"]] == [22]


@anyio_test
async def test_several_versions_at_once(store: StateStore):
    """Whatever the order in which versions are given, all are merged, each step once; older ones are in newer ones."""
    parted = await written(store, {"n": 10})
    await written(store, {"n": 20})
    older = elsewhere(parted, {"n": 11}, B, later=1)
    newer = elsewhere(parted, {"n": 13}, B, later=2, count=2)
    other = elsewhere(parted, {"n": 15}, C, later=3)
    consistency = EventualConsistency(store, COUNTING)
    for seen in permutations([older, newer, other]):
        proposed = await consistency.read_repair(GOVERNOR, "alice", seen, METADATA, dry_run=True)
        assert proposed.data == {"n": 28}
    await consistency.read_repair(GOVERNOR, "alice", [older, newer, other], METADATA)
    action, note = await last_note(store)
    assert (action, note["clock"]) == ("resolve", {STORE_ID: 1, B: 2, C: 1})
    assert (await consistency.read_repair(GOVERNOR, "alice", [older], METADATA)).version == 3


@anyio_test
async def test_versions_that_share_what_we_lack(store: StateStore):
    """Of two rivals that both hold a change unknown here, that change is not counted twice: the later one is taken."""
    parted = await written(store, {"n": 10})
    one = version({"n": 12}, {STORE_ID: 1, B: 2}, hlc=parted.hlc + 2)
    other = version({"n": 16}, {STORE_ID: 1, B: 1, C: 1}, hlc=parted.hlc + 3)
    consistency = EventualConsistency(store, COUNTING)
    assert (await consistency.read_repair(GOVERNOR, "alice", [one, other], METADATA)).data == {"n": 16}
    assert [each["value"] for each in (await last_note(store))[1]["discarded"]] == [12]


@anyio_test
async def test_our_version_wins(store: StateStore):
    """Where ours wins an event records what was discarded, so that the rival is not met again."""
    parted = await written(store, {"n": 1})
    rival = elsewhere(parted, {"n": 2}, later=0)
    await written(store, {"n": 3})
    consistency = EventualConsistency(store)
    assert (await consistency.read_repair(GOVERNOR, "alice", [rival], METADATA)).data == {"n": 3}
    assert [each["value"] for each in (await last_note(store))[1]["discarded"]] == [2]
    assert (await consistency.read_repair(GOVERNOR, "alice", [rival], METADATA)).version == 3
    assert consistency.get_stats().conflicts == 1
    rival = elsewhere(parted, {"n": 3}, C)
    assert (await consistency.read_repair(GOVERNOR, "alice", [rival], METADATA)).version == 3


@anyio_test
@pytest.mark.parametrize("switched_off", [False, True])
async def test_a_dry_run_writes_nothing(store: StateStore, switched_off: bool):  # noqa: FBT001
    """A dry run, and a consistency whose read repair is off, say what would stand and write nothing."""
    parted = await written(store, {"n": 10})
    before = await written(store, {"n": 11})
    consistency = EventualConsistency(store, COUNTING, read_repair=not switched_off)
    theirs = elsewhere(parted, {"n": 12})
    proposed = await consistency.read_repair(GOVERNOR, "alice", [theirs], METADATA, dry_run=not switched_off)
    assert proposed == before.snapshot.with_data({"n": 13})
    assert await stands(store) == ({"n": 11}, 2)
    assert [each.repaired for each in consistency.history.recent(9)] == [False] * switched_off
    assert consistency.get_stats().repairs == 0


@anyio_test
async def test_deletions_are_repaired_too(store: StateStore):
    """A deletion elsewhere is taken over, and a state deleted here comes back when it was changed elsewhere."""
    parted = await written(store, {"n": 1})
    consistency = EventualConsistency(store)
    deleted = await consistency.read_repair(GOVERNOR, "alice", [elsewhere(parted, None)], METADATA)
    assert (deleted.deleted, deleted.data, deleted.version) == (True, None, 2)
    assert not await store.exists(GOVERNOR, "alice")
    rival = elsewhere(parted, {"n": 2}, C, later=0)
    lost = await consistency.read_repair(GOVERNOR, "alice", [rival], METADATA)
    assert (lost.deleted, lost.version) == (True, 2)
    assert [(each.discarded, each.repaired) for each in consistency.history.recent(9)] == [(1, False)]
    merging = EventualConsistency(store, FieldMerge())
    back = await merging.read_repair(GOVERNOR, "alice", [rival], METADATA)
    assert (back.data, back.version, back.deleted) == ({"n": 2}, 3, False)
    [lost] = (await last_note(store))[1]["discarded"]
    assert (lost["path"], lost["removed"]) == ("", True)


@anyio_test
async def test_a_state_that_was_never_here(store: StateStore):
    """A state known from elsewhere only is created; nothing known at all is an error, and so are events without it."""
    consistency = EventualConsistency(store)
    for call in (consistency.read(GOVERNOR, "alice"), consistency.read_repair(GOVERNOR, "alice", [], METADATA)):
        with pytest.raises(StateNotFound):
            await call
    created = await consistency.read_repair(GOVERNOR, "alice", [elsewhere(None, {"n": 1})], METADATA)
    assert (created.data, created.version) == ({"n": 1}, 1)
    rival = elsewhere(None, {"n": 5}, C)
    counting = EventualConsistency(store, COUNTING)
    assert (await counting.read_repair(GOVERNOR, "alice", [rival], METADATA)).data == {"n": 1}
    await store.core.engine.commit([Delete("governors/bank/states/alice", ANYTHING)])
    with pytest.raises(EventSourcingError):
        await consistency.read_repair(GOVERNOR, "alice", [rival], METADATA)


@anyio_test
async def test_repairs_begin_anew_when_others_are_faster(place: Place):
    """A change that slips in is merged as well; after so many, the conflict is passed on."""
    engine = Overtaking(place.engine())
    async with place.store(engine) as store, place.store() as other:
        engine.other = other
        parted = await written(store, {"n": 10})
        await written(store, {"n": 11})
        theirs = elsewhere(parted, {"n": 12})
        consistency = EventualConsistency(store, COUNTING)
        engine.overtakings = 3
        repaired = await consistency.read_repair(GOVERNOR, "alice", [theirs], METADATA)
        assert (repaired.data, repaired.version) == ({"n": 13, "m": 0}, 6)
        assert len(consistency.history.recent(9)) == 1
        engine.overtakings = REPAIRS_MAX
        with pytest.raises(VersionConflict):
            await consistency.read_repair(GOVERNOR, "alice", [elsewhere(parted, {"n": 1}, C)], METADATA)
        assert engine.overtakings == 0


@anyio_test
async def test_a_base_that_cannot_be_had(place: Place):
    """Where the version that both parted at was cleaned up or needs a reducer it is not guessed: the later one wins."""
    async with place.store(snapshots=EveryEvents(2, keep=2)) as store:
        persister = StateMachinePersister(store, REDUCERS)
        consistency = EventualConsistency(store, COUNTING)
        add = [NewEvent("add", 1)]
        await persister.record(GOVERNOR, "alice", add, METADATA, expected=NO_STATE)
        parted = await consistency.read(GOVERNOR, "alice")
        await written(store, {"n": 7})
        theirs = elsewhere(parted, {"n": 2}, later=10**12)
        for seen in (theirs, elsewhere(parted, {"n": 2}, C, later=10**12)):
            proposed = await consistency.read_repair(GOVERNOR, "alice", [seen], METADATA, dry_run=True)
            assert proposed.data == {"n": 2}
        for n in range(8):
            await written(store, {"n": n})
        place.clock.advance_us(10 * 3_600_000_000)
        assert (await persister.cleanup_old_data(GOVERNOR, keep=timedelta(hours=1))).events_deleted > 1
        repaired = await consistency.read_repair(GOVERNOR, "alice", [theirs], METADATA)
        assert (repaired.data, repaired.version) == ({"n": 2}, 11)
        assert (await consistency.read_repair(GOVERNOR, "alice", [theirs], METADATA)).version == 11


@anyio_test
async def test_notes_are_bounded(store: StateStore):
    """A note lists the first changes that were dropped and says how many there were; large values by size only."""
    parted = await written(store, {})
    large = "x" * VALUE_BYTES_MAX
    mine: dict[str, Any] = {f"f{n:03d}": n for n in range(LISTED_MAX + 5)}
    await written(store, {**mine, "a": large})
    theirs = elsewhere(parted, dict.fromkeys([*mine, "a"], "theirs"), later=10**12)
    await EventualConsistency(store).read_repair(GOVERNOR, "alice", [theirs], METADATA)
    _, note = await last_note(store)
    assert note["discarded_total"] == LISTED_MAX + 6
    assert [each["path"] for each in note["discarded"]] == ["a", *list(mine)[: LISTED_MAX - 1]]
    assert (note["discarded"][0]["bytes"], note["discarded"][0].get("value")) == (VALUE_BYTES_MAX + 2, None)
    assert note["discarded"][1]["value"] == 0


@anyio_test
async def test_only_real_notes_are_read(store: StateStore):
    """A context or an action of somebody's own is not taken for the note of a repair, nor is one overwritten."""
    parted = await written(store, {"n": 10})
    forged = {"conflict": {"clock": {B: 99}, "heads": "no list"}}
    await store.save_state(
        GOVERNOR, "alice", {"n": 11}, msgspec.structs.replace(METADATA, context=forged), expected=1, action="resolve"
    )
    await store.save_state(GOVERNOR, "alice", {"n": 11}, METADATA, expected=2, action="read_repair")
    theirs = elsewhere(parted, {"n": 12})
    consistency = EventualConsistency(store, COUNTING)
    own = msgspec.structs.replace(METADATA, context={"conflict": 1})
    with pytest.raises(InvalidData, match="conflict"):
        await consistency.read_repair(GOVERNOR, "alice", [theirs], own)
    assert (await consistency.read_repair(GOVERNOR, "alice", [theirs], METADATA)).data == {"n": 13}


@anyio_test
async def test_versions_of_another_state_are_refused(store: StateStore):
    """Versions are brought together with those of the same state only."""
    alice = await written(store, {"n": 1})
    bob = msgspec.structs.replace(alice, snapshot=msgspec.structs.replace(alice.snapshot, state_id="bob"))
    consistency = EventualConsistency(store)
    with pytest.raises(InvalidData, match="another state"):
        consistency.resolve_conflict(alice, bob)
    with pytest.raises(InvalidData, match="another state"):
        await consistency.read_repair(GOVERNOR, "alice", [bob], METADATA)


@anyio_test
async def test_resolving_by_hand(store: StateStore):
    """Versions in hand are compared and resolved without the store; only conflicts are counted as such."""
    consistency = EventualConsistency(store, COUNTING)
    ours, theirs = rivals({"n": 15}, {"n": 12})
    after = version({"n": 9}, merge(ours.clock, theirs.clock))
    assert consistency.compare(ours, theirs) is ClockOrder.CONCURRENT
    assert consistency.compare(ours, after) is ClockOrder.BEFORE
    assert consistency.resolve_conflict(ours, theirs, {"n": 10}).data == {"n": 17}
    assert consistency.resolve_conflict(ours, theirs).data == {"n": 12}
    assert consistency.resolve_conflict(ours, after).data == {"n": 9}
    assert [(each.discarded, each.repaired) for each in consistency.history.recent(9)] == [(1, False), (0, False)]
    with pytest.raises(ConflictResolutionFailed):
        EventualConsistency(store, Causal()).resolve_conflict(ours, theirs)


@anyio_test
async def test_stale_reads_and_broken_causality(store: StateStore):
    """A read is stale when a known version knew of more, and violates causality when it lacks what was seen."""
    consistency = EventualConsistency(store)
    first = (await written(store, {"n": 1})).snapshot
    second = (await written(store, {"n": 2})).snapshot
    beside = {B: 1}
    consistency.detect_stale_read(first, [first.causality, beside, {}])
    with pytest.raises(StaleRead) as stale:
        consistency.detect_stale_read(first, [beside, second.causality])
    assert stale.value.clocks == ({STORE_ID: 1}, {STORE_ID: 2})
    assert stale.value.is_transient
    consistency.check_causality(second, after=first.causality)
    consistency.check_causality(second, after=second.causality)
    for seen in (beside, consistency.merge_clocks(second.causality, beside), {STORE_ID: 3}):
        with pytest.raises(CausalityViolation) as violation:
            consistency.check_causality(second, after=seen)
        assert violation.value.clocks == ({STORE_ID: 2}, seen)
    assert consistency.merge_clocks() == {}
    stats = consistency.get_stats()
    assert (stats.stale_reads, stats.violations, stats.read_repair) == (1, 3, True)


@anyio_test
async def test_numbers_of_lamport(store: StateStore):
    """The next number is greater than all given and all observed, and the stats tell it."""
    consistency = EventualConsistency(store)
    assert (consistency.next_lamport(), consistency.observe_lamport(9), consistency.next_lamport()) == (1, 10, 11)
    assert consistency.get_stats().lamport_clock == 11
