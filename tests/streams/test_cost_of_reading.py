"""What reads fetch: as much as the answer needs, however long the stream is."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tai_state import ANY, StateMachinePersister, StateStore, VersionConflict, open_store
from tai_state.engines.api import Document
from tai_state.engines.paging import Paged
from tai_state.testing import ManualClock, MemoryEngine

from ..support.stores import GOVERNOR, METADATA, AroundEngine, CountingEngine

pytestmark = pytest.mark.anyio

START = datetime(2023, 1, 1, tzinfo=UTC)
EVENTS = 1_500
MIB = 1024 * 1024


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: what is read is decided above the engines."""
    return "asyncio"


@pytest.mark.parametrize("second", [EVENTS - 10, EVENTS - 250, EVENTS // 2, 850])
async def test_time_travel_reads_what_a_search_needs(second: int) -> None:
    """A time anywhere in a stream is found by search: a few documents are read, also where no snapshot is near."""
    clock = ManualClock(step_us=1)
    engine: Any = CountingEngine(MemoryEngine(clock))
    async with open_store(engine, clock=clock) as store:
        for n in range(EVENTS):
            when = START + timedelta(seconds=n)
            await store.save_state(GOVERNOR, "x", {"n": n}, METADATA, expected=n, timestamp=when)
        engine.reset()
        found = await StateMachinePersister(store).get_state_at(GOVERNOR, "x", START + timedelta(seconds=second))
        assert found.data == {"n": second}
        assert engine.counts.documents <= 31


class WeighingEngine(AroundEngine):
    """Weighs the documents that are read."""

    bytes_read = 0

    async def read(self, paths: Sequence[str]) -> Any:  # noqa: D102
        reading = await self._engine.read(paths)
        self.bytes_read += sum(each.size for each in reading.documents if each is not None)
        return reading

    def scan(self, *arguments: Any, **bounds: Any) -> Paged[Document]:  # noqa: D102
        scan = self._engine.scan(*arguments, **bounds)

        async def fetch() -> Sequence[Document] | None:
            async for document in scan:
                self.bytes_read += document.size
                return [document]
            return None

        return Paged(fetch)


@pytest.fixture
async def heavy() -> AsyncIterator[StateStore]:
    """A state of 300 KiB with sixty versions: 18 MiB of events."""
    clock = ManualClock(step_us=1)
    engine: Any = WeighingEngine(MemoryEngine(clock))
    async with open_store(engine, clock=clock) as store:
        for n in range(60):
            await store.save_state(GOVERNOR, "x", {"n": n, "blob": "x" * 300_000}, METADATA, expected=ANY)
        engine.bytes_read = 0
        yield store


async def test_a_conflict_reads_a_bounded_number_of_bytes(heavy: StateStore) -> None:
    """A conflict far behind reads no more than a few MiB of the events that were not seen."""
    engine: Any = heavy.core.engine
    with pytest.raises(VersionConflict):
        await heavy.update_state(GOVERNOR, "x", {}, METADATA, expected=1)
    assert engine.bytes_read <= 8 * MIB


async def test_a_conflict_holds_a_bounded_number_of_bytes(heavy: StateStore) -> None:
    """An error that nobody looks into holds no decoded states."""
    tracemalloc.start()
    try:
        with pytest.raises(VersionConflict) as caught:
            await heavy.update_state(GOVERNOR, "x", {}, METADATA, expected=1)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.actual == 60
    assert (held <= 8 * MIB, peak <= 16 * MIB) == (True, True)


async def test_the_events_of_a_conflict_are_all_that_fit(heavy: StateStore) -> None:
    """If all events that a writer had not seen fit, a conflict holds those right after the version it expected."""
    with pytest.raises(VersionConflict) as caught:
        await heavy.update_state(GOVERNOR, "x", {}, METADATA, expected=57)
    assert [(each.version, each.to_state["n"]) for each in caught.value.events] == [(58, 57), (59, 58), (60, 59)]
    assert caught.value.left_out == 0


async def test_a_conflict_holds_the_newest_events(heavy: StateStore) -> None:
    """Of more than fit, a conflict holds the newest ones, each with both states, and says how many it leaves out."""
    with pytest.raises(VersionConflict) as caught:
        await heavy.update_state(GOVERNOR, "x", {}, METADATA, expected=1)
    conflict = caught.value
    assert [(each.version, each.from_state["n"]) for each in conflict.events] == [(58, 56), (59, 57), (60, 58)]
    assert conflict.left_out == 56
    assert str(conflict).endswith("(events leaves out the oldest 56)")


@pytest.mark.parametrize(("sizes", "held"), [([1_000_000], 1), ([10, 700_000, 700_000], 1), ([1_047_500, 10, 10], 2)])
async def test_a_conflict_holds_at_least_the_last_event(sizes: list[int], held: int) -> None:
    """However large an event is, the last one is held; a large one among others ends what is held."""
    clock = ManualClock(step_us=1)
    async with open_store(MemoryEngine(clock), clock=clock) as store:
        await store.save_state(GOVERNOR, "x", {}, METADATA)
        for size in sizes:
            await store.log_event(GOVERNOR, "x", "seen", METADATA, payload="x" * size)
        with pytest.raises(VersionConflict) as caught:
            await store.update_state(GOVERNOR, "x", {}, METADATA, expected=1)
        newest = len(sizes) + 1
        assert [each.version for each in caught.value.events] == [*range(newest - held + 1, newest + 1)]
        assert {str(each.to_state) for each in caught.value.events} == {"{}"}
        assert caught.value.left_out == len(sizes) - held
