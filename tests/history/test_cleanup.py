"""Cleanup: it removes what is old and stood for by a snapshot, and nothing else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tai_state import (
    ANY,
    CleanupStats,
    EveryEvents,
    IdempotencyConflict,
    JsonEvent,
    NewEvent,
    NotRetained,
    StateMachinePersister,
    StateNotFound,
    StateStore,
)
from tai_state.engines.api import ANYTHING, Delete, Engine, Write
from tai_state.errors import Unavailable
from tai_state.testing.faults import AtCalls, Fault, FaultyEngine
from tai_state.values.digests import state_hash
from tai_state.values.times import from_us

from ..support.histories import ALICE, HOUR, event_path, grow_old, snapshot_path
from ..support.operations import REDUCERS
from ..support.stores import GOVERNOR, METADATA, AroundEngine, Place, Places, collected, dump, edit, fix_identity

pytestmark = pytest.mark.anyio


async def versions_left(store: StateStore) -> list[int]:
    """The versions of the events that are still there."""
    return [event.version for event in await collected(store.get_events(GOVERNOR, "alice"))]


async def test_cleanup_keeps_what_it_promises(place: Place, store: StateStore, persister: StateMachinePersister):
    """Old events go up to a snapshot that stays, its own event stays as the anchor, and younger times come back."""
    await grow_old(place, store)
    now = from_us(place.clock.now_us())
    times = {hours: await persister.get_state_at(GOVERNOR, "alice", now - timedelta(hours=hours)) for hours in (1, 4)}
    stats = await persister.cleanup_old_data(GOVERNOR, keep=timedelta(hours=4))
    assert (stats.states, stats.events_deleted, stats.snapshots_deleted) == (1, 5, 1)
    assert stats.bytes_deleted > 0
    assert await store.list_snapshots(GOVERNOR, "alice") == [6, 9]
    assert await versions_left(store) == [6, 7, 8, 9, 10]
    for hours, state in times.items():
        assert await persister.get_state_at(GOVERNOR, "alice", now - timedelta(hours=hours)) == state
    assert (await persister.get_state_at(GOVERNOR, "alice", 6)).data == {"n": 6}
    assert [event.from_state for event in await collected(persister.replay(GOVERNOR, "alice", after=6))] == [
        {"n": 6},
        {"n": 7},
        {"n": 8},
        {"n": 9},
    ]
    assert (await persister.validate_consistency(GOVERNOR)).consistent
    assert await persister.cleanup_old_data(GOVERNOR, keep=timedelta(hours=4)) == type(stats)()
    assert (await store.save_state(GOVERNOR, "alice", {"n": 11}, METADATA, expected=10)).version == 11


async def test_without_a_governor_all_are_cleaned(place: Place):
    """A cleanup that names no governor counts what it removed under all of them."""
    async with place.store(snapshots=EveryEvents(2, keep=2)) as store:
        for governor_id in ("bank", "shop"):
            for version in range(6):
                await store.save_state(governor_id, "alice", {"n": version}, METADATA, expected=version)
        place.clock.advance_us(48 * HOUR)
        stats = await StateMachinePersister(store).cleanup_old_data(keep=timedelta(days=1))
        assert (stats.states, stats.events_deleted) == (2, 6)
        for governor_id in ("bank", "shop"):
            left = await collected(store.get_events(governor_id, "alice"))
            assert [event.version for event in left] == [4, 5, 6]


@pytest.mark.parametrize("is_asked_for", [False, True], ids=["by policy", "asked for"])
async def test_what_a_cleanup_left_keeps_its_base(place: Place, *, is_asked_for: bool):
    """The snapshot that the remaining events rest on outlives newer ones, until a cleanup moves the floor."""
    async with place.store(snapshots=EveryEvents(2, keep=2)) as store:
        persister = StateMachinePersister(store)
        await grow_old(place, store, 5)
        await persister.cleanup_old_data(GOVERNOR, keep=timedelta(hours=3, minutes=30))
        moment = from_us(place.clock.now_us()) - timedelta(hours=2, minutes=30)
        for version in range(5, 13):
            await store.save_state(GOVERNOR, "alice", {"n": version + 1}, METADATA, expected=version)
            if is_asked_for:
                await store.create_snapshot(GOVERNOR, "alice")
        newest = [12, 13] if is_asked_for else [10, 12]
        assert await store.list_snapshots(GOVERNOR, "alice") == [2, *newest]
        assert (await persister.get_state_at(GOVERNOR, "alice", moment)).data == {"n": 3}
        assert [path for path in await dump(store.core.engine) if "/snapshots/" in path] == [
            snapshot_path(version) for version in (2, *newest)
        ]
        assert (await persister.validate_consistency(GOVERNOR)).consistent
        await edit(store.core.engine, ALICE, data={"n": "damaged"})
        assert (await persister.recover(GOVERNOR)).consistent
        assert await store.list_snapshots(GOVERNOR, "alice") == [2, *newest]
        place.clock.advance_us(48 * HOUR)
        await persister.cleanup_old_data(GOVERNOR, keep=timedelta(0))
        assert await store.list_snapshots(GOVERNOR, "alice") == newest
        assert (await persister.validate_consistency(GOVERNOR)).consistent


BUSY = EveryEvents(2, keep=2)
"""Keeps snapshots of the last two to four hours only, where one event comes each hour."""


async def test_cleanup_where_every_kept_snapshot_is_young(place: Place):
    """It makes the snapshot that it needs, removes what is before, and younger times come back as they were."""
    async with place.store(snapshots=BUSY) as store:
        persister = StateMachinePersister(store, REDUCERS)
        for version in range(30):
            await persister.record(GOVERNOR, "alice", [NewEvent("add", 1)], METADATA, expected=version)
            place.clock.advance_us(HOUR)
        now = from_us(place.clock.now_us())
        times = [now - timedelta(hours=hours, minutes=minutes) for hours in range(10) for minutes in (0, 30)]
        states = [await persister.get_state_at(GOVERNOR, "alice", each) for each in times]
        assert await store.list_snapshots(GOVERNOR, "alice") == [28, 30]
        stats = await persister.cleanup_old_data(GOVERNOR, keep=timedelta(hours=10))
        assert (stats.states, stats.events_deleted, stats.snapshots_deleted) == (1, 20, 0)
        assert await versions_left(store) == list(range(21, 31))
        assert await store.list_snapshots(GOVERNOR, "alice") == [21, 28, 30]
        assert [await persister.get_state_at(GOVERNOR, "alice", each) for each in times] == states
        assert (await persister.validate_consistency(GOVERNOR)).consistent
        assert (await persister.recover(GOVERNOR)).rebuilt == ()
        assert await persister.cleanup_old_data(GOVERNOR, keep=timedelta(hours=10)) == type(stats)()


async def _damage(store: StateStore) -> None:
    await edit(store.core.engine, event_path(15), to_state='{"n":1000}', state_hash=state_hash('{"n":1000}'))


async def _cut(store: StateStore) -> None:
    await store.core.engine.commit([Delete(event_path(15), ANYTHING)])


@pytest.mark.parametrize("damage", [_damage, _cut])
async def test_cleanup_makes_no_snapshot_of_what_does_not_add_up(
    memory_places: Places, damage: Callable[[StateStore], Any], caplog: pytest.LogCaptureFixture
):
    """Where an event is edited or missing on the way to the snapshot it would make, it removes nothing, and warns."""
    place = memory_places.new()
    async with place.store(snapshots=BUSY) as store:
        await grow_old(place, store, 15)
        await damage(store)
        await grow_old(place, store, 30, after=15)
        before = await dump(store.core.engine)
        stats = await StateMachinePersister(store).cleanup_old_data(GOVERNOR, keep=timedelta(hours=10))
        assert (stats.events_deleted, await dump(store.core.engine)) == (0, before)
        assert "cleanup cannot make a snapshot" in caplog.text


def _quote(_: dict[str, Any] | None, event: JsonEvent) -> dict[str, Any]:
    """A state that takes twice its bytes as JSON, and four times as JSON in a text, as snapshots hold it."""
    return {"text": '"' * event.payload}


@pytest.mark.parametrize(
    ("reducers", "why"), [({}, "needs the reducer of the action 'quote'"), ({"quote": _quote}, "it is too large")]
)
async def test_cleanup_where_no_snapshot_can_be_made(
    memory_places: Places, reducers: dict[str, Any], why: str, caplog: pytest.LogCaptureFixture
):
    """A state whose reducer was not given, or that is too large to be kept, is left as it is, with a warning."""
    place = memory_places.new()
    async with place.store(snapshots=BUSY) as store:
        persister = StateMachinePersister(store, {"quote": _quote})
        for version in range(29):
            count = 400_000 if version == 10 else 1
            await persister.record(GOVERNOR, "alice", [NewEvent("quote", count)], METADATA, expected=version)
            place.clock.advance_us(HOUR)
        before = await dump(store.core.engine)
        stats = await StateMachinePersister(store, reducers).cleanup_old_data(GOVERNOR, keep=timedelta(hours=19))
        assert (stats.events_deleted, await dump(store.core.engine)) == (0, before)
        [warning] = [record.getMessage() for record in caplog.records if "cleanup cannot make" in record.getMessage()]
        assert why in warning
        place.clock.advance_us(HOUR)
        stats = await persister.cleanup_old_data(GOVERNOR, keep=timedelta(hours=19))
        assert (stats.events_deleted, await store.list_snapshots(GOVERNOR, "alice")) == (11, [12, 26, 28])


async def test_what_was_cleaned_up_is_said_to_be(place: Place, store: StateStore, persister: StateMachinePersister):
    """Asking for a past that was cleaned up says so, by version, by time and in replay."""
    await grow_old(place, store)
    start = from_us(place.clock.now_us()) - timedelta(hours=10)
    await persister.cleanup_old_data(GOVERNOR, keep=timedelta(hours=4))
    calls: list[Callable[[], Any]] = [
        lambda: persister.get_state_at(GOVERNOR, "alice", 1),
        lambda: persister.get_state_at(GOVERNOR, "alice", 5),
        lambda: persister.get_state_at(GOVERNOR, "alice", start),
        lambda: collected(persister.replay(GOVERNOR, "alice")),
        lambda: collected(persister.replay(GOVERNOR, "alice", until=3)),
        lambda: store.state(GOVERNOR, "alice").at(2),
    ]
    for call in calls:
        with pytest.raises(NotRetained) as error:
            await call()
        assert error.value.path.startswith("governors/bank/events/alice~")
    with pytest.raises(StateNotFound):
        await persister.get_state_at(GOVERNOR, "alice", 11)


async def test_an_id_whose_event_was_cleaned_up(place: Place, store: StateStore, persister: StateMachinePersister):
    """A change made again after its event was cleaned up is not made twice: the answer says that it was made."""
    alice = store.state(GOVERNOR, "alice")
    await alice.save({"n": 0}, METADATA, event_id="first")
    await alice.update(lambda data: data, METADATA, event_id="second")
    for version in range(2, 10):
        await store.save_state(GOVERNOR, "alice", {"n": version}, METADATA, expected=version)
    place.clock.advance_us(2 * HOUR)
    assert (await persister.cleanup_old_data(GOVERNOR, keep=timedelta(hours=1))).events_deleted == 5
    calls: list[Callable[[], Any]] = [
        lambda: alice.save({"n": 0}, METADATA, event_id="first"),
        lambda: alice.update(lambda data: data, METADATA, event_id="second"),
    ]
    for call in calls:
        with pytest.raises(NotRetained):
            await call()
    with pytest.raises(IdempotencyConflict):
        await alice.save({"n": 1}, METADATA, event_id="first")
    assert (await store.get_state(GOVERNOR, "alice")).version == 10
    assert (await persister.validate_consistency(GOVERNOR)).consistent


async def test_an_id_whose_event_is_the_first_one_left(
    place: Place, store: StateStore, persister: StateMachinePersister
):
    """The first event that a cleanup leaves has lost the state before it: the same call again shows the one after."""

    async def record(number: int) -> JsonEvent:
        events = [NewEvent("add", number, f"add-{number}")]
        [event] = await persister.record(GOVERNOR, "alice", events, METADATA, expected=ANY)
        return event

    await store.save_state(GOVERNOR, "alice", {"n": 0}, METADATA)
    for number in range(9):
        await record(number)
    place.clock.advance_us(2 * HOUR)
    await persister.cleanup_old_data(GOVERNOR, keep=timedelta(hours=1))
    first = (await versions_left(store))[0]
    assert first > 2
    again = await record(first - 2)
    assert (again.version, again.from_state, again.to_state) == (first, None, {"n": sum(range(first - 1))})
    await record(first - 1)
    assert (await store.get_state(GOVERNOR, "alice")).version == 10


async def test_nothing_young_is_cleaned_up(place: Place, store: StateStore, persister: StateMachinePersister):
    """However little is asked to be kept, no event younger than an hour goes, nor the last two snapshots."""
    await grow_old(place, store, 3)
    for version in range(3, 12):
        await store.save_state(GOVERNOR, "alice", {}, METADATA, expected=version)
    stats = await persister.cleanup_old_data(GOVERNOR, keep=timedelta(0))
    assert await versions_left(store) == list(range(3, 13))
    assert (stats.events_deleted, await store.list_snapshots(GOVERNOR, "alice")) == (2, [3, 6, 9, 12])
    place.clock.advance_us(48 * HOUR)
    await persister.cleanup_old_data(GOVERNOR, keep=timedelta(0))
    assert await store.list_snapshots(GOVERNOR, "alice") == [9, 12]
    assert await versions_left(store) == [9, 10, 11, 12]
    assert (await persister.validate_consistency(GOVERNOR)).consistent


class Outrunning(AroundEngine):
    """Lets others write so many times just before a commit without events arrives, as cleanup's first one is."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.times = 0
        self.others: Callable[[], Awaitable[object]]

    async def commit(self, writes: Sequence[Write]) -> Any:  # noqa: D102
        if self.times and not any("/events/" in write.path for write in writes):
            self.times -= 1
            await self.others()
        return await self._engine.commit(writes)


@pytest.mark.parametrize("events", [1, 12])
async def test_cleanup_of_a_state_in_use(memory_places: Places, events: int, caplog: pytest.LogCaptureFixture):
    """It looks again and goes on, whatever others keep meanwhile; what it had to leave alone it counts and logs."""
    place = memory_places.new()
    engine = Outrunning(place.engine())
    async with place.store(engine, snapshots=EveryEvents(2, keep=3)) as store:
        persister = StateMachinePersister(store)

        async def others() -> None:
            for _ in range(events):
                await store.log_event(GOVERNOR, "alice", "beat", METADATA)

        engine.others = others
        await grow_old(place, store)
        engine.times = 1_000
        stats = await persister.cleanup_old_data(GOVERNOR, keep=timedelta(hours=3))
        assert stats == CleanupStats(skipped=1)
        assert engine.times > 900
        assert "a state in use was not cleaned up" in caplog.text
        caplog.clear()
        engine.times = 5
        stats = await persister.cleanup_old_data(GOVERNOR, keep=timedelta(hours=3))
        assert (stats.events_deleted, stats.skipped, engine.times) == (7, 0, 0)
        version = (await store.get_state(GOVERNOR, "alice")).version
        newest = [each for each in range(version - 5, version + 1) if each % 2 == 0]
        assert await store.list_snapshots(GOVERNOR, "alice") == [8, *newest]
        assert await versions_left(store) == list(range(8, version + 1))
        assert (await persister.validate_consistency(GOVERNOR)).consistent
        assert "in use" not in caplog.text


@pytest.mark.parametrize("keep", [timedelta(days=700_000), timedelta(days=900_000), timedelta.max], ids=repr)
async def test_keeping_for_longer_than_there_is_time(memory_places: Places, keep: timedelta):
    """Whoever keeps all that there can be loses nothing."""
    place = memory_places.new()
    async with place.store(snapshots=EveryEvents(2)) as store:
        await grow_old(place, store)
        persister = StateMachinePersister(store)
        before = await dump(store.core.engine)
        assert await persister.cleanup_old_data(GOVERNOR, keep=keep) == CleanupStats()
        assert await dump(store.core.engine) == before


async def test_old_times_do_not_make_events_old(place: Place, store: StateStore, persister: StateMachinePersister):
    """Events imported just now stay for their hour, however long ago they happened."""
    for version in range(8):
        moment = datetime(2001, 1, 1 + version, tzinfo=UTC)
        await store.save_state(GOVERNOR, "alice", {}, METADATA, expected=version, timestamp=moment)
    stats = await persister.cleanup_old_data(GOVERNOR, keep=timedelta(days=1))
    assert stats.events_deleted == 0
    assert len(await collected(store.get_events(GOVERNOR, "alice"))) == 8
    assert (await persister.validate_consistency(GOVERNOR)).consistent


async def test_cleanup_without_a_sound_snapshot(place: Place, store: StateStore, persister: StateMachinePersister):
    """A snapshot that is damaged is no reason to delete the events before it."""
    await grow_old(place, store)
    await edit(store.core.engine, snapshot_path(6), state='{"n":1000}')
    stats = await persister.cleanup_old_data(GOVERNOR, keep=timedelta(hours=1))
    assert stats.events_deleted == 2
    assert await versions_left(store) == list(range(3, 11))
    assert (await persister.get_state_at(GOVERNOR, "alice", 7)).data == {"n": 7}


@pytest.mark.parametrize("policy", [EveryEvents(3, keep=9), BUSY], ids=["kept", "made"])
async def test_interrupted_cleanup(memory_places: Places, policy: EveryEvents):
    """Stopped at any call and run again, a cleanup leaves what it would have left, and never a hole on the way."""
    done = memory_places.new()
    expected: dict[str, Any] = {}
    for number in range(30):
        place = memory_places.new() if number else done
        async with place.store() as store:
            await fix_identity(store.core.engine)
        async with place.store(snapshots=policy) as store:
            await grow_old(place, store)
        faulty = FaultyEngine(place.engine(), AtCalls({}))
        async with place.store(faulty, snapshots=policy) as store:
            persister = StateMachinePersister(store)
            if number:
                faulty.plan = AtCalls({("any", faulty.statistics().calls + number): Fault.UNAVAILABLE})
                try:
                    await persister.cleanup_old_data(GOVERNOR, keep=timedelta(hours=4))
                except Unavailable:
                    assert (await persister.validate_consistency(GOVERNOR)).consistent
                else:
                    break
            await persister.cleanup_old_data(GOVERNOR, keep=timedelta(hours=4))
            assert (await versions_left(store))[0] > 5
            assert (await persister.validate_consistency(GOVERNOR)).consistent
            expected = expected or await dump(store.core.engine)
            assert await dump(store.core.engine) == expected
    assert number > 4
