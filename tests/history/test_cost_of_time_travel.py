"""Time travel: a search by time, as much as it needs to read and no more, and the right version for every moment."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from tai_state import (
    ANY,
    EventSourcingError,
    EveryEvents,
    NewEvent,
    NotRetained,
    StateMachinePersister,
    StateNotFound,
    StateStore,
    open_store,
)
from tai_state.engines.api import Delete, Document, Put, Reading
from tai_state.streams.records import EVENT, STATE
from tai_state.testing import ManualClock, MemoryEngine

from ..support.stores import GOVERNOR, METADATA, AroundEngine, CountingEngine

pytestmark = pytest.mark.anyio

START = datetime(2023, 1, 1, tzinfo=UTC)
N = 1_000
REDUCERS = {"add": lambda state, event: {"n": (state or {"n": 0})["n"] + event.payload}}


def bound(count: int) -> float:
    """How many documents the search of a stream of so many events may read."""
    return 2 * math.log2(count) + 10


def second(number: float) -> datetime:
    """A time so many seconds after the start."""
    return START + timedelta(seconds=number)


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: what is read is decided above the engines."""
    return "asyncio"


async def filled(store: StateStore, count: int = N) -> StateMachinePersister:
    """Save a state so often, once a second."""
    for n in range(count):
        await store.save_state(GOVERNOR, "x", {"n": n}, METADATA, expected=n, timestamp=second(n))
    return StateMachinePersister(store, REDUCERS)


def counting(clock: ManualClock) -> Any:
    """A memory engine that counts."""
    return CountingEngine(MemoryEngine(clock))


async def test_any_moment_of_a_stream_that_carries_its_states(clock: ManualClock) -> None:
    """Of a thousand events, each moment and each version takes at most 2·log2(n) + 10 documents."""
    engine = counting(clock)
    async with open_store(engine, clock=clock) as store:
        persister = await filled(store)
        for n in [*range(0, N, 17), 1, 2, 3, N // 2, N - 3, N - 2, N - 1]:
            for when in (second(n), second(n + 0.5), n + 1):
                engine.reset()
                assert (await persister.get_state_at(GOVERNOR, "x", when)).data == {"n": n}
                assert engine.counts.documents <= bound(N)


async def test_any_moment_among_logged_events(clock: ManualClock) -> None:
    """Logged events carry no state; the search goes back to the last one that does, and not to a snapshot."""
    engine = counting(clock)
    async with open_store(engine, clock=clock) as store:
        for n in range(N):
            if n % 4 == 0:
                await store.save_state(GOVERNOR, "x", {"n": n}, METADATA, expected=ANY, timestamp=second(n))
            else:
                await store.log_event(GOVERNOR, "x", "seen", METADATA, timestamp=second(n))
        persister = StateMachinePersister(store)
        for n in range(0, N, 13):
            engine.reset()
            assert (await persister.get_state_at(GOVERNOR, "x", second(n))).data == {"n": n // 4 * 4}
            assert engine.counts.documents <= bound(N)


class Sparse(AroundEngine):
    """A stream of very many events, made as they are read from those of a short one; event n has the time of second n.

    Every event of it carries the state. Scans are not answered.
    """

    def __init__(self, engine: Any, count: int, state: Document, event: Document) -> None:
        super().__init__(engine)
        self.documents = 0
        self._count = count
        self._state = state
        self._event = event.decode(EVENT)
        self._prefix = event.path.rpartition("~")[0]

    def _made(self, path: str) -> Document | None:
        if path == self._state.path:
            time = self._time(self._count)
            made: Any = msgspec.structs.replace(
                self._state.decode(STATE), version=self._count, kept=(), as_of=time, timestamp=time
            )
        elif path.startswith(self._prefix) and 1 <= (version := int(path.rpartition("~")[2])) <= self._count:
            time = self._time(version)
            made = msgspec.structs.replace(self._event, version=version, timestamp=time, as_of=time)
        else:
            return None
        self.documents += 1
        collection, _, name = path.rpartition("/")
        return Document(collection, name, msgspec.json.encode(made), self._state.revision, self._state.updated_us)

    def _time(self, version: int) -> str:
        return second(version).strftime("%Y-%m-%dT%H:%M:%S.000000Z")

    async def read(self, paths: Sequence[str]) -> Any:  # noqa: D102
        reading = await self._engine.read([])
        return Reading(tuple(map(self._made, paths)), reading.time_us)


@pytest.mark.parametrize("count", [N, 1_000_000, 10**9])
async def test_any_moment_of_a_very_long_stream(clock: ManualClock, count: int) -> None:
    """Of a million events, and of a thousand million, each moment takes at most 2·log2(n) + 10 documents, too."""
    engine: Any = MemoryEngine(clock)
    async with open_store(engine, clock=clock) as store:
        await filled(store, 2)
        layout = store.core.layout.stream(GOVERNOR, "x")
        state, event = (await engine.read([layout.state, layout.event(2)])).documents
        store.core.engine = sparse = Sparse(engine, count, state, event)
        store.core.reader._engine = sparse  # type: ignore[assignment]
        persister = StateMachinePersister(store)
        dice = random.Random(1)
        for version in [1, 2, 3, count // 2, count - 1, count, *[dice.randint(1, count) for _ in range(200)]]:
            sparse.documents = 0
            assert (await persister.get_state_at(GOVERNOR, "x", second(version + 0.25))).version == version
            assert sparse.documents <= bound(count)
        with pytest.raises(StateNotFound):
            await persister.get_state_at(GOVERNOR, "x", second(0.5))


@pytest.mark.parametrize("keep", [5, 100])
async def test_any_moment_of_a_folded_stream(clock: ManualClock, keep: int) -> None:
    """Where a function folds the events, those since the nearest older kept snapshot are read, too."""
    engine = counting(clock)
    async with open_store(engine, clock=clock, snapshots=EveryEvents(100, keep=keep)) as store:
        persister = StateMachinePersister(store, REDUCERS)
        for n in range(N):
            await persister.record(GOVERNOR, "x", [NewEvent("add", 1, timestamp=second(n))], METADATA, expected=ANY)
        kept = [0, *await store.list_snapshots(GOVERNOR, "x")]
        for n in [*range(0, N, 37), N - 1]:
            engine.reset()
            assert (await persister.get_state_at(GOVERNOR, "x", second(n))).data == {"n": n + 1}
            nearest = max(version for version in kept if version <= n + 1)
            assert engine.counts.documents <= bound(N) + n + 1 - nearest


@pytest.mark.parametrize("seed", range(20))
async def test_each_moment_has_the_version_that_stood_then(clock: ManualClock, seed: int) -> None:
    """Whatever the order of the times and the kinds of events, it is the last version with no later event up to it."""
    dice = random.Random(seed)
    async with open_store(MemoryEngine(clock), clock=clock, snapshots=EveryEvents(7, keep=2)) as store:
        persister = StateMachinePersister(store, REDUCERS)
        times: list[int] = []
        states: list[dict[str, Any]] = []
        for _ in range(dice.randint(1, 40)):
            times.append(dice.randint(0, 30))
            when, kind = second(times[-1]), dice.choice(["save", "log", "record"]) if states else "save"
            if kind == "save":
                await store.save_state(GOVERNOR, "x", {"n": len(times)}, METADATA, expected=ANY, timestamp=when)
            elif kind == "log":
                await store.log_event(GOVERNOR, "x", "seen", METADATA, timestamp=when)
            else:
                await persister.record(GOVERNOR, "x", [NewEvent("add", 1, timestamp=when)], METADATA, expected=ANY)
            states.append((await store.get_state(GOVERNOR, "x")).data)
        for moment in range(-1, 32):
            stood = next((n for n, time in enumerate(times) if time > moment), len(times))
            if stood == 0:
                with pytest.raises(StateNotFound):
                    await persister.get_state_at(GOVERNOR, "x", second(moment))
            else:
                found = await persister.get_state_at(GOVERNOR, "x", second(moment))
                assert (found.version, found.data) == (stood, states[stood - 1])


async def without(engine: Any, path: str) -> None:
    """Remove a document behind the store's back."""
    await engine.commit([Delete(path)])


async def test_a_lost_event_stops_only_the_moments_that_it_decides(clock: ManualClock) -> None:
    """An event that the search would read and that is gone is gone around; where it decides, the error names it."""
    engine = MemoryEngine(clock)
    async with open_store(engine, clock=clock) as store:
        persister = await filled(store, 40)
        middle = store.core.layout.stream(GOVERNOR, "x").event(20)
        await without(engine, middle)
        for n in [*range(19), *range(20, 40)]:
            if n == 18:
                with pytest.raises(EventSourcingError, match="is missing") as caught:
                    await persister.get_state_at(GOVERNOR, "x", second(n))
                assert caught.value.path == middle
            else:
                assert (await persister.get_state_at(GOVERNOR, "x", second(n))).data == {"n": n}


async def test_an_event_of_format_1_does_not_show_what_stood_before(clock: ManualClock) -> None:
    """Events without ``as_of`` are folded in order, as far as they go; the events after them are searched."""
    engine = MemoryEngine(clock)
    times = [5, 1, 7, 3, 8, 2, 9]
    async with open_store(engine, clock=clock) as store:
        for n, time in enumerate(times):
            await store.save_state(GOVERNOR, "x", {"n": n}, METADATA, expected=n, timestamp=second(time))
        stream = store.core.layout.stream(GOVERNOR, "x")
        for document in (await engine.read([stream.event(version) for version in range(1, 5)])).documents:
            assert document is not None
            record = msgspec.structs.replace(document.decode(EVENT), as_of="")
            await engine.commit([Put(document.path, record)])
        persister = StateMachinePersister(store)
        for moment in range(5, 11):
            stood = next((n for n, time in enumerate(times) if time > moment), len(times))
            assert (await persister.get_state_at(GOVERNOR, "x", second(moment))).version == stood
        with pytest.raises(StateNotFound):
            await persister.get_state_at(GOVERNOR, "x", second(4))


async def test_after_a_cleanup(clock: ManualClock) -> None:
    """What a cleanup has left is found by time; for a moment before it, the error says that it is not retained."""
    async with open_store(MemoryEngine(clock), clock=clock, snapshots=EveryEvents(10, keep=50)) as store:
        persister = await filled(store, 35)
        clock.advance_us(10 * 24 * 3600 * 1_000_000)
        for n in range(35, 60):
            await store.save_state(GOVERNOR, "x", {"n": n}, METADATA, expected=n)
        await persister.cleanup_old_data(GOVERNOR, keep=timedelta(days=1))
        floor = (await store.list_snapshots(GOVERNOR, "x"))[0]
        assert floor > 1
        assert (await persister.get_state_at(GOVERNOR, "x", second(floor - 1))).version == floor
        with pytest.raises(NotRetained):
            await persister.get_state_at(GOVERNOR, "x", second(floor - 2))


class CleanedMeanwhile(AroundEngine):
    """Removes events, and moves the floor, right before the first read of events."""

    stream: Any = None

    async def read(self, paths: Sequence[str]) -> Any:  # noqa: D102
        stream = self.stream
        if stream is not None and paths[0] != stream.state:
            self.stream = None
            [state] = (await self._engine.read([stream.state])).documents
            assert state is not None
            await self._engine.commit([Put(state.path, msgspec.structs.replace(state.decode(STATE), floor=80))])
            await self._engine.commit([Delete(stream.event(version)) for version in range(1, 80)])
        return await self._engine.read(paths)


async def test_a_cleanup_during_the_search(clock: ManualClock) -> None:
    """If all events that the search has asked for are cleaned up meanwhile, it goes on with those that are left."""
    engine: Any = CleanedMeanwhile(MemoryEngine(clock))
    async with open_store(engine, clock=clock) as store:
        persister = await filled(store, 90)
        engine.stream = store.core.layout.stream(GOVERNOR, "x")
        assert (await persister.get_state_at(GOVERNOR, "x", second(84))).version == 85
