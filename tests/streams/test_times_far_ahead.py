"""A time far in the future is refused from a caller, and holds nothing up where one is stored already."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tai_state import (
    ANY,
    Columns,
    EveryInterval,
    InvalidData,
    NewEvent,
    StateMachinePersister,
    StateStore,
    open_store,
)
from tai_state.testing import ManualClock, MemoryEngine

from ..support.stores import GOVERNOR, METADATA, collected

pytestmark = pytest.mark.anyio

HOUR_US = 3_600_000_000
DECADES_US = 73 * 365 * 24 * HOUR_US
AHEAD = timedelta(days=1, hours=1)
NEARLY_AHEAD = timedelta(hours=23)

Change = Callable[[StateStore, datetime], Awaitable[Any]]


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: times are judged above the engines."""
    return "asyncio"


@pytest.fixture
def now(clock: ManualClock) -> datetime:
    """The time of the stores' clock."""
    return datetime.fromtimestamp(clock.now_us() / 1e6, UTC)


@pytest.fixture
async def store(clock: ManualClock) -> AsyncIterator[StateStore]:
    """A store with one state."""
    async with open_store(MemoryEngine(clock), clock=clock) as store:
        await store.save_state(GOVERNOR, "x", {"n": 0}, METADATA)
        yield store


async def logged_transition(store: StateStore, when: datetime) -> None:
    """A transition from the state as it stands."""
    before = await store.get_state(GOVERNOR, "x")
    await StateMachinePersister(store).log_transition(
        GOVERNOR, before, before.with_data({"n": 1}), "moved", METADATA, timestamp=when
    )


async def recorded(store: StateStore, when: datetime) -> None:
    """An event among others."""
    events = [NewEvent("seen"), NewEvent("seen", timestamp=when)]
    await StateMachinePersister(store).record(GOVERNOR, "x", events, METADATA, expected=ANY)


CHANGES: dict[str, Change] = {
    "save": lambda store, when: store.save_state(GOVERNOR, "y", {}, METADATA, timestamp=when),
    "update": lambda store, when: store.update_state(GOVERNOR, "x", {}, METADATA, expected=1, timestamp=when),
    "delete": lambda store, when: store.delete_state(GOVERNOR, "x", METADATA, expected=1, timestamp=when),
    "log_event": lambda store, when: store.log_event(GOVERNOR, "x", "seen", METADATA, timestamp=when),
    "handle": lambda store, when: store.state(GOVERNOR, "x").update(lambda data: data, METADATA, timestamp=when),
    "log_transition": logged_transition,
    "record": recorded,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_time_more_than_a_day_ahead_is_refused(store: StateStore, now: datetime, change: Change) -> None:
    """A change that is said to happen the day after tomorrow is ``InvalidData``, and nothing is written."""
    with pytest.raises(InvalidData):
        await change(store, now + AHEAD)
    assert [each.version for each in await collected(store.get_all_events(GOVERNOR))] == [1]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_time_within_a_day_is_taken(store: StateStore, now: datetime, change: Change) -> None:
    """A sender's clock may be some hours ahead: such a time is taken as it is."""
    await change(store, now + NEARLY_AHEAD)
    last = max(await collected(store.get_all_events(GOVERNOR)), key=lambda each: each.timestamp)
    assert last.timestamp == now + NEARLY_AHEAD


def write_log(path: Path, when: datetime) -> Path:
    """A log of one change."""
    path.write_text(f"machine,time,status\npump,{when.isoformat()},on\n")
    return path


async def test_a_row_with_a_time_more_than_a_day_ahead_is_refused(
    store: StateStore, now: datetime, tmp_path: Path
) -> None:
    """A log with a time far ahead is refused as a whole, and the row is named."""
    log = write_log(tmp_path / "log.csv", now + AHEAD)

    async def acknowledged(_: Any) -> None:
        pass

    with pytest.raises(InvalidData, match="row 1"):
        await StateMachinePersister(store).import_csv(
            GOVERNOR, log, Columns("machine", ("status",), "time"), acknowledged
        )
    assert not await store.exists(GOVERNOR, "pump")


@asynccontextmanager
async def with_a_time_far_ahead(hours: int) -> AsyncIterator[tuple[StateStore, ManualClock]]:
    """A state written once by a clock decades ahead, and then every hour by one that is right."""
    clock, ahead = ManualClock(step_us=1), ManualClock(step_us=1)
    ahead.advance_us(DECADES_US)
    engine = MemoryEngine(clock)
    policy = EveryInterval(timedelta(hours=5))
    async with open_store(engine, clock=ahead, snapshots=policy) as store:
        await store.save_state(GOVERNOR, "x", {"hour": 0}, METADATA)
    async with open_store(engine, clock=clock, snapshots=policy) as store:
        for hour in range(1, hours):
            clock.advance_us(HOUR_US)
            await store.save_state(GOVERNOR, "x", {"hour": hour}, METADATA, expected=ANY)
        yield store, clock


async def test_snapshots_go_on_after_a_time_far_ahead() -> None:
    """A policy by intervals keeps snapshots of what came after an event whose time is decades ahead."""
    async with with_a_time_far_ahead(hours=50) as (store, _):
        kept = await store.list_snapshots(GOVERNOR, "x")
        assert len(kept) >= 3
        assert kept[-1] >= 40


async def test_cleanup_goes_on_after_a_time_far_ahead() -> None:
    """A cleanup removes what was recorded long ago, whatever time one of the events says."""
    async with with_a_time_far_ahead(hours=50) as (store, clock):
        for _ in range(2):
            await store.create_snapshot(GOVERNOR, "x")
            await store.log_event(GOVERNOR, "x", "seen", METADATA)
        clock.advance_us(100 * 24 * HOUR_US)
        cleaned = await StateMachinePersister(store).cleanup_old_data(GOVERNOR, keep=timedelta(days=30))
        assert cleaned.events_deleted > 30


async def test_a_stored_time_far_ahead_is_named() -> None:
    """Verifying names an event whose time is decades ahead of when it was recorded."""
    async with with_a_time_far_ahead(hours=3) as (store, _):
        report = await StateMachinePersister(store).validate_consistency()
        assert [each.path for each in report.findings] == [f"governors/{GOVERNOR}/events/x~000000000001"]
