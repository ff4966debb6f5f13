"""A cleanup cleans whatever it can: what it cannot clean is skipped and named."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from tai_state import (
    ANY,
    DocumentTooLarge,
    EveryEvents,
    NewEvent,
    StateMachinePersister,
    StateStore,
    open_store,
)
from tai_state.engines.api import Put
from tai_state.testing import ManualClock, MemoryEngine

from ..support.stores import GOVERNOR, METADATA, edit, fields_at

pytestmark = pytest.mark.anyio

DAYS = timedelta(days=30)
LATER_US = 100 * 86_400_000_000
REDUCERS: Any = {"grow": lambda _, event: {"x": "y" * event.payload}}
LIMIT = 1024 * 1024
"""The bytes of one document in memory."""


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: a cleanup runs above the engines."""
    return "asyncio"


@pytest.fixture
async def store(clock: ManualClock) -> AsyncIterator[StateStore]:
    """Three states with some history each."""
    async with open_store(MemoryEngine(clock), clock=clock, snapshots=EveryEvents(2)) as store:
        for state_id in ("a", "m", "z"):
            for n in range(12):
                await grow(store, state_id, n)
        yield store


async def grow(store: StateStore, state_id: str, size: int) -> None:
    """Give a state data of so many bytes, by an event that does not carry them."""
    persister = StateMachinePersister(store, REDUCERS)
    await persister.record(GOVERNOR, state_id, [NewEvent("grow", size)], METADATA, expected=ANY)


async def left(store: StateStore) -> dict[str, int]:
    """The first version whose event is left, of each state whose events can be read."""
    return {state_id: (await anext(store.get_events(GOVERNOR, state_id))).version for state_id in ("a", "z")}


async def fill_to_the_limit(store: StateStore, state_id: str) -> None:
    """Let a state grow until its document has no room for a byte more."""
    fits, too_large = 900_000, LIMIT
    while too_large - fits > 1:
        size = (fits + too_large) // 2
        try:
            await grow(store, state_id, size)
            fits = size
        except DocumentTooLarge:
            too_large = size
    with pytest.raises(DocumentTooLarge):
        await grow(store, state_id, too_large)


async def clean(store: StateStore, clock: ManualClock) -> Any:
    """Clean up much later."""
    clock.advance_us(LATER_US)
    return await StateMachinePersister(store, REDUCERS).cleanup_old_data(GOVERNOR, keep=DAYS)


def named(caplog: pytest.LogCaptureFixture) -> bool:
    """Whether a warning names the state in the middle."""
    return any("states/m" in str(vars(record)) for record in caplog.records)


async def test_a_damaged_state_does_not_stop_a_cleanup(
    store: StateStore, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """States before and after a damaged one are cleaned, and the damaged one is counted and named."""
    fields = await fields_at(store.core.engine, f"governors/{GOVERNOR}/states/m")
    del fields["kept"]
    await store.core.engine.commit([Put(f"governors/{GOVERNOR}/states/m", fields)])
    with caplog.at_level(logging.WARNING, "tai_state"):
        stats = await clean(store, clock)
    assert (stats.states, stats.skipped, named(caplog)) == (2, 1, True)
    assert min((await left(store)).values()) > 1


async def test_a_state_at_the_limit_does_not_stop_a_cleanup(
    store: StateStore, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """States before and after one whose document cannot grow are cleaned, and that one is counted and named."""
    await fill_to_the_limit(store, "m")
    with caplog.at_level(logging.WARNING, "tai_state"):
        stats = await clean(store, clock)
    assert (stats.states, stats.skipped, named(caplog)) == (2, 1, True)
    assert min((await left(store)).values()) > 1


async def test_a_damaged_event_does_not_stop_a_cleanup(store: StateStore, clock: ManualClock) -> None:
    """States before and after one with damaged events are cleaned."""
    for version in range(2, 10, 2):
        await edit(store.core.engine, f"governors/{GOVERNOR}/events/m~{version:012d}", version="none")
    await clean(store, clock)
    assert min((await left(store)).values()) > 1


async def test_a_damaged_snapshot_does_not_stop_a_cleanup(store: StateStore, clock: ManualClock) -> None:
    """States before and after one all of whose kept snapshots are damaged are cleaned."""
    for version in await store.list_snapshots(GOVERNOR, "m"):
        await edit(store.core.engine, f"governors/{GOVERNOR}/snapshots/m~{version:012d}", version="none")
    await clean(store, clock)
    assert min((await left(store)).values()) > 1


async def test_a_clock_that_jumps_ages_nothing_where_the_engine_has_its_own() -> None:
    """What counts is when the engine recorded an event: a process whose clock is ahead removes nothing for that."""
    clock, ahead = ManualClock(step_us=1), ManualClock(step_us=1)
    ahead.advance_us(LATER_US)
    engine = MemoryEngine(clock)
    async with open_store(engine, clock=clock, snapshots=EveryEvents(2)) as store:
        for n in range(12):
            await store.save_state(GOVERNOR, "a", {"n": n}, METADATA, expected=ANY)
    async with open_store(engine, clock=ahead) as store:
        stats = await StateMachinePersister(store).cleanup_old_data(GOVERNOR, keep=DAYS)
        assert stats.events_deleted == 0
