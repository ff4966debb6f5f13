"""Budgets: the calls of the engine that each operation of a store costs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tai_state import ANY, EXISTS, EveryEvents, NewEvent, StateMachinePersister, StateStore, VersionConflict
from tai_state.engines.api import ANYTHING, Delete
from tai_state.history.recovery import Recovery
from tai_state.history.replay import Replay
from tai_state.streams.changes import Append, always
from tai_state.streams.planning import Composition, Draft

from ..support.accounts import grow
from ..support.operations import REDUCERS
from ..support.stores import GOVERNOR, MEMORY, METADATA, CountingEngine, Opened, Places, collected, edit

pytestmark = pytest.mark.anyio


@pytest.fixture
async def counted() -> AsyncIterator[tuple[StateStore, CountingEngine]]:
    """A store on an engine that counts; the counts are made above the waist and are the same for every engine."""
    with Places(MEMORY) as places:
        place = places.new()
        engine = CountingEngine(place.engine())
        async with place.store(engine, snapshots=EveryEvents(10, keep=1)) as store:  # type: ignore[arg-type]
            yield store, engine


Cost = tuple[int, int, list[int]]
"""Reads, scans, and the writes of each commit."""


async def _cost(engine: CountingEngine, call: Any) -> Cost:
    engine.reset()
    await (call() if callable(call) else call)
    counts = engine.counts
    return counts.reads, counts.scans, [len(writes) for writes in counts.commits]


async def test_budget_of_reads(counted: tuple[StateStore, CountingEngine]):
    """One state or many are one read."""
    store, engine = counted
    await grow(store, "alice", 3)
    assert await _cost(engine, store.get_state(GOVERNOR, "alice")) == (1, 0, [])
    assert await _cost(engine, store.exists(GOVERNOR, "alice")) == (1, 0, [])
    assert await _cost(engine, store.batch_get_states(GOVERNOR, ["alice", "bob", "carol"])) == (1, 0, [])
    assert await _cost(engine, lambda: collected(store.get_events(GOVERNOR, "alice"))) == (0, 1, [])


async def test_budget_of_changes(counted: tuple[StateStore, CountingEngine]):
    """A change on a known head is one commit of state and event, and of a check with the first one; more is stated."""
    store, engine = counted
    persister = StateMachinePersister(store)
    await store.save_state(GOVERNOR, "first", {}, METADATA)
    assert await _cost(engine, store.save_state(GOVERNOR, "alice", {}, METADATA)) == (0, 0, [3])
    assert await _cost(engine, store.update_state(GOVERNOR, "alice", {}, METADATA, expected=1)) == (0, 0, [2])
    before = await store.get_state(GOVERNOR, "alice")
    transition = persister.log_transition(GOVERNOR, before, before.with_data({"n": 1}), "move", METADATA)
    assert await _cost(engine, transition) == (0, 0, [2])
    with_id = store.update_state(GOVERNOR, "alice", {}, METADATA, expected=3, event_id="x")
    assert await _cost(engine, with_id) == (0, 0, [3])
    assert await _cost(engine, store.delete_state(GOVERNOR, "alice", METADATA, expected=4)) == (0, 0, [2])
    assert await _cost(engine, store.save_state(GOVERNOR, "alice", {}, METADATA)) == (0, 0, [2])
    assert await _cost(engine, store.save_state(GOVERNOR, "alice", {}, METADATA, expected=ANY)) == (1, 0, [2])
    assert await _cost(engine, store.save_state(GOVERNOR, "alice", {}, METADATA, expected=EXISTS)) == (1, 0, [2])
    assert await _cost(engine, store.log_event(GOVERNOR, "alice", "ping", METADATA)) == (1, 0, [2])


async def test_budget_of_kept_snapshots(counted: tuple[StateStore, CountingEngine]):
    """A snapshot that falls due goes with its event, and an old one leaves with it: one commit of four."""
    store, engine = counted
    await grow(store, "alice", 9)
    assert await _cost(engine, store.update_state(GOVERNOR, "alice", {}, METADATA, expected=9)) == (0, 0, [3])
    for version in range(10, 19):
        assert await _cost(engine, store.update_state(GOVERNOR, "alice", {}, METADATA, expected=version)) == (
            (0, 0, [2])
        )
    assert await _cost(engine, store.update_state(GOVERNOR, "alice", {}, METADATA, expected=19)) == (0, 0, [4])
    assert await store.list_snapshots(GOVERNOR, "alice") == [20]


async def test_budget_of_the_first_state(counted: tuple[StateStore, CountingEngine]):
    """A governor's own document is looked at once, and written by the commit of its first state."""
    store, engine = counted
    assert await _cost(engine, store.save_state(GOVERNOR, "alice", {}, METADATA)) == (1, 0, [4])
    assert await _cost(engine, store.save_state(GOVERNOR, "bob", {}, METADATA)) == (0, 0, [3])


async def test_budget_of_a_conflict(counted: tuple[StateStore, CountingEngine]):
    """A refusal costs a look, which shows the event that the writer had not seen; several cost a scan."""
    store, engine = counted
    await grow(store, "alice", 3)
    other = StateStore(Opened(engine), store.core.layout, store.core.settings)  # type: ignore[arg-type]
    async with other:
        await other.get_state(GOVERNOR, "alice")
        await store.update_state(GOVERNOR, "alice", {}, METADATA, expected=3)
        engine.reset()
        with pytest.raises(VersionConflict):
            await other.update_state(GOVERNOR, "alice", {}, METADATA, expected=3)
        assert (engine.counts.reads, engine.counts.scans, len(engine.counts.commits)) == (1, 0, 1)
        await grow(store, "alice", 2, start=4)
        engine.reset()
        with pytest.raises(VersionConflict) as far:
            await other.update_state(GOVERNOR, "alice", {}, METADATA, expected=4)
        assert [event.version for event in far.value.events] == [5, 6]
        assert (engine.counts.reads, engine.counts.scans, len(engine.counts.commits)) == (1, 1, 1)


async def test_budget_of_a_refreshed_head(counted: tuple[StateStore, CountingEngine]):
    """A head that another store made stale without moving the version costs one look and one more commit."""
    store, engine = counted
    await grow(store, "alice", 3)
    async with StateStore(Opened(engine), store.core.layout, store.core.settings) as other:  # type: ignore[arg-type]
        await other.create_snapshot(GOVERNOR, "alice")
        assert await _cost(engine, store.update_state(GOVERNOR, "alice", {}, METADATA, expected=3)) == (1, 0, [2, 2])


async def test_budget_of_time_travel(counted: tuple[StateStore, CountingEngine]):
    """A past state takes one look where an event carries it; else one or two scans; a time takes one look more."""
    store, engine = counted
    persister = StateMachinePersister(store, REDUCERS)
    await grow(store, "alice", 13)
    for _ in range(13):
        await persister.record(GOVERNOR, "bob", [NewEvent("add", 1)], METADATA, expected=ANY)
    assert await _cost(engine, persister.get_state_at(GOVERNOR, "alice", 12)) == (1, 0, [])
    assert await _cost(engine, lambda: collected(persister.replay(GOVERNOR, "alice", after=12))) == (1, 1, [])
    for state_id, scans in (("alice", 0), ("bob", 1)):
        state = await store.get_state(GOVERNOR, state_id)
        assert await _cost(engine, lambda: collected(persister.replay(GOVERNOR, state_id))) == (1, 1, [])  # noqa: B023
        assert await _cost(engine, persister.get_state_at(GOVERNOR, state_id, state.timestamp)) == (2, scans, [])
    assert await _cost(engine, persister.get_state_at(GOVERNOR, "bob", 12)) == (1, 1, [])
    assert await _cost(engine, persister.get_state_at(GOVERNOR, "bob", 9)) == (1, 2, [])
    assert await _cost(engine, lambda: collected(persister.replay(GOVERNOR, "bob", after=12))) == (1, 1, [])
    store.core.appender.heads.drop("governors/bank/states/bob")
    assert await _cost(engine, persister.get_state_at(GOVERNOR, "bob", 12)) == (2, 1, [])


@pytest.mark.parametrize("length", [1_099, pytest.param(100_099, id="long")])
async def test_recovery_reads_no_more_of_a_long_stream(length: int):
    """At the worst moment, right before a snapshot, a state is checked by one interval, however long its stream."""
    with Places(MEMORY) as places:
        place = places.new()
        engine = CountingEngine(place.engine())
        async with place.store(engine, snapshots=EveryEvents(100)) as store:  # type: ignore[arg-type]
            await _grow_fast(store, "alice", length)

            async def read_by_recovery() -> int:
                engine.reset()
                recovery = Recovery(store.core, Replay(store.core, {}))
                await recovery.recover_one(store.core.layout.stream(GOVERNOR, "alice"))
                return engine.counts.documents

            assert await read_by_recovery() <= 100 + 3
            await edit(store.core.engine, "governors/bank/states/alice", data={})
            assert await read_by_recovery() <= 100 + 3
            # Which snapshots there are is not known any more: all five are looked at, and the first event.
            await store.core.engine.commit([Delete("governors/bank/states/alice", ANYTHING)])
            assert await read_by_recovery() <= 100 + 3 + 5
            assert (await store.get_state(GOVERNOR, "alice")).version == length


async def _grow_fast(store: StateStore, state_id: str, versions: int) -> None:
    """Many events, up to a hundred in one commit, so that snapshots fall due as they do one by one."""
    stream = store.core.layout.stream(GOVERNOR, state_id)
    for start in range(0, versions, 100):
        numbers = range(start, min(start + 100, versions))
        drafts = tuple(
            Draft(
                event_id=f"event-{number}",
                action="grow",
                timestamp="2026-01-01T00:00:00.000000Z",
                changed_by="tester",
                reason="",
                context="{}",
                state=f'{{"n":{number}}}',
            )
            for number in numbers
        )
        composition = Composition(drafts, {"n": numbers[-1]})
        append = Append(stream=stream, expected=start, drafts=drafts)
        await store.core.appender.append_one(append, always(composition))
