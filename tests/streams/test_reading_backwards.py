"""A history from its newest event on: the same events as from the oldest, and never more of them than are asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import anyio
import pytest

from tai_state import (
    CorruptDocument,
    EventSourcingError,
    EveryEvents,
    InvalidData,
    JsonEvent,
    StateMachinePersister,
    StateNotFound,
    StateStore,
    StoreUnavailable,
)
from tai_state.engines.api import Delete
from tai_state.streams import backwards
from tai_state.streams.layout import Stream
from tai_state.testing import AtCalls, Fault, FaultyEngine

from ..support.accounts import Account
from ..support.stores import GOVERNOR, METADATA, CountingEngine, Place, Places, collected, edit

pytestmark = pytest.mark.anyio

VERSIONS = 23


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of few events, so that a short history has several."""
    monkeypatch.setattr(backwards, "EVENTS_MAX", 5)


async def grow(store: StateStore, versions: int = VERSIONS) -> None:
    """A state of so many versions."""
    for version in range(versions):
        await store.save_state(GOVERNOR, "alice", {"n": version + 1}, METADATA, expected=version)


def stream_of(store: StateStore) -> Stream:
    """Its paths."""
    return store.core.layout.stream(GOVERNOR, "alice")


async def newest_until(failure: type[Exception], events: AsyncIterator[JsonEvent]) -> list[int]:
    """The versions that are given before a failure, which comes at each further step."""
    found: list[int] = []
    for _ in range(2):
        with pytest.raises(failure):
            await take(events, found)
    return found


async def take(events: AsyncIterator[JsonEvent], found: list[int]) -> None:
    """Note the versions of all further events."""
    async for event in events:
        found.append(event.version)


async def versions(store: StateStore, **bounds: Any) -> list[int]:
    """The versions of the events that are given, the newest first."""
    return [
        event.version for event in await collected(store.get_events(GOVERNOR, "alice", newest_first=True, **bounds))
    ]


@pytest.mark.parametrize("after", [0, 1, 5, 17, VERSIONS - 1, VERSIONS, VERSIONS + 9])
@pytest.mark.parametrize("until", [None, 0, 1, 10, VERSIONS, VERSIONS + 9])
@pytest.mark.parametrize("limit", [None, 0, 1, 5, 6, 99])
async def test_it_is_the_same_history(memory_places: Places, after: int, until: int | None, limit: int | None):
    """Within any bounds, the events are those that are given oldest first, in reverse; a limit keeps the newest."""
    async with memory_places.new().store() as store:
        await grow(store)
        forwards = await collected(store.get_events(GOVERNOR, "alice", after=after, until=until))
        found = await collected(
            store.get_events(GOVERNOR, "alice", after=after, until=until, limit=limit, newest_first=True)
        )
        assert found == forwards[::-1][:limit]
        first = await collected(store.get_events(GOVERNOR, "alice", after=after, until=until, limit=limit))
        assert first == forwards[:limit]


async def test_on_every_engine(place: Place):
    """Every engine gives the newest events, and a handle gives them as models."""
    async with place.store() as store:
        await grow(store, 8)
        assert await versions(store) == [8, 7, 6, 5, 4, 3, 2, 1]
        assert await versions(store, limit=2, until=7) == [7, 6]
        handle = store.state(GOVERNOR, "bob", Account)
        await handle.save(Account(owner="Bob"), METADATA)
        await handle.save(Account(owner="Bo"), METADATA, expected=1)
        [newest] = await collected(handle.history(limit=1, newest_first=True))
        assert (newest.from_state, newest.to_state) == (Account(owner="Bob"), Account(owner="Bo"))


async def test_it_reads_no_more_than_is_asked_for(memory_places: Places):
    """The newest two of many events cost the state, those two, and the one before them."""
    place = memory_places.new()
    engine = CountingEngine(place.engine())
    async with place.store(engine) as store:
        await grow(store)
        engine.reset()
        assert await versions(store, limit=2) == [VERSIONS, VERSIONS - 1]
        assert (engine.counts.reads, engine.counts.scans, engine.counts.documents) == (1, 1, 4)


async def test_what_was_never_written(store: StateStore):
    """Without a state there is no history, in either order, and nothing is no number of events."""
    with pytest.raises(StateNotFound):
        await versions(store)
    for limit in (-1, 1.5, True, "1"):
        with pytest.raises(InvalidData, match="limit"):
            store.get_events(GOVERNOR, "alice", limit=limit)  # type: ignore[arg-type]


async def test_it_ends_where_events_were_cleaned_up(place: Place):
    """After a cleanup the last event given is the oldest that is left."""
    async with place.store(snapshots=EveryEvents(4, keep=2)) as store:
        await grow(store)
        place.clock.advance_us(48 * 3_600_000_000)
        await StateMachinePersister(store).cleanup_old_data(GOVERNOR, keep=timedelta(days=1))
        left = [event.version for event in await collected(store.get_events(GOVERNOR, "alice"))]
        assert 1 < left[0] < VERSIONS
        assert await versions(store) == left[::-1]


@pytest.mark.parametrize("gone", [1, 7, 13, 14, 18])
async def test_a_missing_event_is_an_error_in_its_place(memory_places: Places, gone: int):
    """What is newer than a missing event is given, and then the error comes, at every further step."""
    async with memory_places.new().store() as store:
        await grow(store)
        await store.core.engine.commit([Delete(stream_of(store).event(gone))])
        events = store.get_events(GOVERNOR, "alice", newest_first=True)
        # The event after the missing one begins with a state that nobody knows any more, and is given all the same.
        assert await newest_until(EventSourcingError, events) == list(range(VERSIONS, gone, -1))


async def test_a_damaged_event_is_an_error_in_its_place(memory_places: Places):
    """What is newer than a damaged event and does not begin with its state is given, and then the error comes."""
    async with memory_places.new().store() as store:
        await grow(store)
        await edit(store.core.engine, stream_of(store).event(12), version="twelve")
        events = store.get_events(GOVERNOR, "alice", newest_first=True)
        assert await newest_until(CorruptDocument, events) == list(range(VERSIONS, 13, -1))


async def test_it_goes_on_where_there_was_no_answer(memory_places: Places):
    """After an error that passes, or a cancelled step, the next step gives what comes next."""
    place = memory_places.new()
    async with place.store() as store:
        await grow(store)
    calls = {("scan", n): Fault.UNAVAILABLE for n in (1, 3)} | {("read", 2): Fault.UNAVAILABLE}
    async with place.store(FaultyEngine(place.engine(), AtCalls(calls))) as store:
        events = store.get_events(GOVERNOR, "alice", newest_first=True)
        found: list[int] = []
        for _ in calls:
            with pytest.raises(StoreUnavailable):
                await take(events, found)
            with anyio.CancelScope() as scope:
                scope.cancel()
                await take(events, found)
        await take(events, found)
        assert found == list(range(VERSIONS, 0, -1))
