"""Tasks of one process that change one state at once, whatever its version: they do not get in each other's way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from tai_state import ANY, EXISTS, NewEvent, StateMachinePersister, StateStore
from tai_state.engines.memory import MemoryEngine
from tai_state.engines.sqlite.engine import SqliteEngine
from tai_state.streams import turns
from tai_state.testing import ManualClock

from ..support.operations import REDUCERS
from ..support.stores import GOVERNOR, METADATA, CountingEngine, collected, make_store

pytestmark = pytest.mark.anyio

TASKS = 50

Change = Callable[[StateStore], Awaitable[Any]]


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: turns are the same in both."""
    return "asyncio"


@pytest.fixture(params=["memory", "sqlite"])
def counting(request: pytest.FixtureRequest, tmp_path: Any, clock: ManualClock) -> CountingEngine:
    """An engine that answers at once, or one whose answers come from a thread."""
    inner = MemoryEngine(clock) if request.param == "memory" else SqliteEngine(str(tmp_path / "store.db"), clock)
    return CountingEngine(inner)


async def _log(store: StateStore) -> Any:
    return await store.log_event(GOVERNOR, "hot", "tick", METADATA)


async def _save_any(store: StateStore) -> Any:
    return await store.save_state(GOVERNOR, "hot", {"n": 1}, METADATA, expected=ANY)


async def _update_existing(store: StateStore) -> Any:
    return await store.update_state(GOVERNOR, "hot", {"n": 1}, METADATA, expected=EXISTS)


async def _record(store: StateStore) -> Any:
    return await StateMachinePersister(store, REDUCERS).record(
        GOVERNOR, "hot", [NewEvent("add", 1)], METADATA, expected=ANY
    )


async def _save_handle(store: StateStore) -> Any:
    return await store.state(GOVERNOR, "hot").save({"n": 1}, METADATA, expected=ANY)


async def _update_handle(store: StateStore) -> Any:
    return await store.state(GOVERNOR, "hot").update(lambda data: {"n": data["n"] + 1}, METADATA)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(_log, id="log_event"),
        pytest.param(_save_any, id="save_any"),
        pytest.param(_update_existing, id="update_exists"),
        pytest.param(_record, id="record_any"),
        pytest.param(_save_handle, id="handle_save_any"),
        pytest.param(_update_handle, id="handle_update"),
    ],
)
async def test_each_change_is_sent_once(
    counting: CountingEngine, clock: ManualClock, change: Change, monkeypatch: pytest.MonkeyPatch
):
    """Fifty changes of one state at once take fifty commits, a look each at most, and no pause."""
    monkeypatch.setattr(turns, "WAIT_SECONDS_MAX", 60.0)  # on a busy machine fifty turns can take more than a second
    pauses = 0

    def jitter() -> float:
        nonlocal pauses
        pauses += 1
        return 0.0

    async with make_store(counting, clock, jitter=jitter) as store:  # type: ignore[arg-type]
        await store.save_state(GOVERNOR, "hot", {"n": 0}, METADATA)
        counting.reset()
        async with anyio.create_task_group() as tasks:
            for _ in range(TASKS):
                tasks.start_soon(change, store)
        assert len(counting.counts.commits) == TASKS
        assert counting.counts.reads <= TASKS
        assert pauses == 0
        versions = [event.version for event in await collected(store.get_events(GOVERNOR, "hot"))]
        assert versions == list(range(1, TASKS + 2))


async def test_changes_of_different_states_wait_for_nobody(clock: ManualClock):
    """A change of another state is made while one of the first is held up."""
    held, go_on = anyio.Event(), anyio.Event()

    class Held(CountingEngine):
        async def commit(self, writes: Any) -> Any:
            if any(write.path.endswith("/states/hot") for write in writes):
                held.set()
                await go_on.wait()
            return await super().commit(writes)

    async with make_store(Held(MemoryEngine(clock)), clock) as store:  # type: ignore[arg-type]
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_save_any, store)
                await held.wait()
                saved = await store.save_state(GOVERNOR, "cold", {"n": 1}, METADATA, expected=ANY)
                go_on.set()
        assert saved.version == 1
        assert (await store.get_state(GOVERNOR, "hot")).version == 1
