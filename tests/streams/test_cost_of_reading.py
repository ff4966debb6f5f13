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
async def test_time_travel_reads_what_lies_between_snapshots(second: int) -> None:
    """A time anywhere in a stream is found by search: about a hundred documents are read, as between two snapshots."""
    clock = ManualClock(step_us=1)
    engine: Any = CountingEngine(MemoryEngine(clock))
    async with open_store(engine, clock=clock) as store:
        for n in range(EVENTS):
            when = START + timedelta(seconds=n)
            await store.save_state(GOVERNOR, "x", {"n": n}, METADATA, expected=n, timestamp=when)
        engine.reset()
        found = await StateMachinePersister(store).get_state_at(GOVERNOR, "x", START + timedelta(seconds=second))
        assert found.data == {"n": second}
        assert engine.counts.documents <= 130


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


@pytest.mark.xfail(strict=True, reason="up to a hundred events are read, however large they are")
async def test_a_conflict_reads_a_bounded_number_of_bytes(heavy: StateStore) -> None:
    """A conflict far behind reads no more than a few MiB of the events that were not seen."""
    engine: Any = heavy.core.engine
    with pytest.raises(VersionConflict):
        await heavy.update_state(GOVERNOR, "x", {}, METADATA, expected=1)
    assert engine.bytes_read <= 8 * MIB


@pytest.mark.xfail(strict=True, reason="each event is decoded, with the state before and after it")
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


async def test_the_events_of_a_conflict_are_the_next_ones(heavy: StateStore) -> None:
    """However many events a conflict holds, they are those right after the version that was expected."""
    with pytest.raises(VersionConflict) as caught:
        await heavy.update_state(GOVERNOR, "x", {}, METADATA, expected=57)
    assert [(each.version, each.to_state["n"]) for each in caught.value.events] == [(58, 57), (59, 58), (60, 59)]
