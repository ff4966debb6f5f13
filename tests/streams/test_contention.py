"""Many writers of one state or one governor: each gets on, and nobody fights for what all write first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio
import pytest

from tai_state import ANY, StateStore
from tai_state.engines.api import Engine, Put, Write
from tai_state.engines.memory import MemoryEngine
from tai_state.streams.layout import Layout
from tai_state.testing import Fault, FaultyEngine, ManualClock
from tai_state.testing.faults import Call

from ..support.stores import GOVERNOR, METADATA, AroundEngine, make_store

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Which event loop it is decides nothing here."""
    return "asyncio"


class Log(AroundEngine):
    """Notes the calls that go to the engine inside; a test adds other things that happen."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.happened: list[str] = []

    async def read(self, paths: Sequence[str]) -> Any:  # noqa: D102
        self.happened.append("look")
        return await self._engine.read(paths)

    async def commit(self, writes: Sequence[Write]) -> Any:  # noqa: D102
        self.happened.append("commit")
        return await self._engine.commit(writes)

    def paused(self) -> float:
        """To be the jitter of pauses, of which it makes nothing."""
        self.happened.append("pause")
        return 0.0


Change = Callable[[StateStore], Awaitable[Any]]


async def _any(store: StateStore) -> Any:
    return await store.update_state(GOVERNOR, "hot", {"n": 2}, METADATA, expected=ANY)


async def _exists(store: StateStore) -> Any:
    return await store.log_event(GOVERNOR, "hot", "tick", METADATA)


CHANGES = pytest.mark.parametrize("change", [_any, _exists], ids=["any", "exists"])


class Next:
    """Faults of the next commits, in their order."""

    def __init__(self, *faults: Fault) -> None:
        self.planned = len(faults)
        self._faults = iter(faults)

    def fault(self, call: Call) -> Fault | None:
        """See the plans of ``tai_state.testing``."""
        return next(self._faults, None) if call.verb == "commit" else None


@CHANGES
async def test_what_is_committed_was_just_looked_at(clock: ManualClock, change: Change):
    """After each pause there is a look before the next commit, so that it rests on what stands and not on the past."""
    faulty = FaultyEngine(MemoryEngine(clock), Next())
    log = Log(faulty)
    async with make_store(log, clock, jitter=log.paused) as store:
        await store.save_state(GOVERNOR, "hot", {"n": 1}, METADATA)
        log.happened.clear()
        faulty.plan = Next(*[Fault.REFUSED] * 5)
        await change(store)
    assert faulty.statistics().all_hit
    assert log.happened.count("commit") == 6
    assert "pause" in log.happened
    assert ("pause", "commit") not in zip(log.happened, log.happened[1:], strict=False)


@CHANGES
async def test_tasks_of_one_process_get_on_alike(clock: ManualClock, change: Change):
    """Of three tasks that change one state all the time, none has made fewer than half as many as another."""
    made: Counter[int] = Counter()
    async with make_store(MemoryEngine(clock), clock, jitter=lambda: 1.0) as store:
        await store.save_state(GOVERNOR, "hot", {"n": 1}, METADATA)

        async def write(own: int) -> None:
            while max(made.values(), default=0) < 30:
                await change(store)
                made[own] += 1

        async with anyio.create_task_group() as tasks:
            for own in range(3):
                tasks.start_soon(write, own)
    assert min(made[own] for own in range(3)) >= 15


@CHANGES
async def test_a_last_look(clock: ManualClock, change: Change):
    """A change whose very last try was applied, and its answer lost, is reported as made."""
    faulty = FaultyEngine(MemoryEngine(clock), Next())
    async with make_store(faulty, clock) as store:
        await store.save_state(GOVERNOR, "hot", {"n": 1}, METADATA)
        faulty.plan = Next(*[Fault.REFUSED] * 63, Fault.LOST_AFTER)
        await change(store)
        assert faulty.statistics().all_hit
        assert (await store.get_state(GOVERNOR, "hot")).version == 2


# The governor's own document ------------------------------------------------------------------------------------------


class Governors(AroundEngine):
    """Counts the commits that write a governor's own document."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.written = 0

    async def commit(self, writes: Sequence[Write]) -> Any:  # noqa: D102
        self.written += any(isinstance(each, Put) and each.path == Layout().governor(GOVERNOR) for each in writes)
        return await self._engine.commit(writes)


async def test_first_changes_at_once_write_the_governor_once(clock: ManualClock):
    """Of many tasks that save the first states of a new governor, one writes the governor's document."""
    governors = Governors(MemoryEngine(clock))
    async with make_store(governors, clock) as store:
        async with anyio.create_task_group() as tasks:
            for n in range(20):
                tasks.start_soon(store.save_state, GOVERNOR, f"s{n}", {}, METADATA)
        assert await store.count_states(GOVERNOR) == 20
    assert governors.written == 1


async def test_a_known_governor_is_not_written_again(clock: ManualClock):
    """Once this process has written a governor's document, new states of it write it no more."""
    governors = Governors(MemoryEngine(clock))
    async with make_store(governors, clock) as store:
        for n in range(3):
            await store.save_state(GOVERNOR, f"s{n}", {}, METADATA)
    assert governors.written == 1


async def test_another_process_sees_that_the_governor_is_there(clock: ManualClock):
    """A second store looks whether the governor is there before it would write its document."""
    governors = Governors(MemoryEngine(clock))
    for n in range(2):
        async with make_store(governors, clock) as store:
            await store.save_state(GOVERNOR, f"s{n}", {}, METADATA)
    assert governors.written == 1
