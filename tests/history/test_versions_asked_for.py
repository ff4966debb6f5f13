"""Versions that are asked for: those that are there are given, and of others it is said which there are."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tai_state import (
    EveryEvents,
    NotRetained,
    StateMachinePersister,
    StateNotFound,
    StateStore,
    open_store,
)
from tai_state.testing import ManualClock, MemoryEngine

from ..support.program import Program
from ..support.stores import METADATA, collected

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

pytestmark = pytest.mark.anyio

VERSIONS = 37


@pytest.fixture
def anyio_backend() -> str:
    """What is there does not depend on the event loop."""
    return "asyncio"


async def write(store: StateStore) -> None:
    """A state at version 37."""
    for version in range(VERSIONS):
        await store.save_state("g", "s", {"n": version}, METADATA, expected=version)


@pytest.mark.parametrize(
    "look",
    [
        lambda store: store.state("g", "s").at(99),
        lambda store: StateMachinePersister(store).get_state_at("g", "s", 99),
    ],
    ids=["handle", "persister"],
)
async def test_a_version_that_is_not_reached_is_told_from_a_state_that_is_not_there(
    look: Callable[[StateStore], Awaitable[object]],
):
    """Who asks for a version beyond the newest one is told which that is."""
    async with open_store("memory://") as store:
        await write(store)
        with pytest.raises(StateNotFound) as told:
            await look(store)
        assert "99" in str(told.value)
        assert str(VERSIONS) in str(told.value)


def test_the_command_line_says_which_versions_there_are(tmp_path: Path):
    """The same of ``show --version``: nothing to be found, and the newest version is named."""
    import anyio

    async def prepare() -> None:
        async with open_store(f"sqlite:///{tmp_path}/tai-state.db") as store:
            await write(store)

    anyio.run(prepare)
    error = Program(tmp_path)("show", "g", "s", "--version", "99", "--json").error(1)
    assert str(VERSIONS) in error["message"]


async def cleaned_up(store: StateStore, clock: ManualClock) -> int:
    """Make a state whose older events were cleaned up; the version of the oldest event that is left."""
    persister = StateMachinePersister(store)
    for version in range(10):
        await store.save_state("g", "s", {"n": version}, METADATA, expected=version)
    clock.advance_us(100_000_000_000)
    for version in range(10, 14):
        await store.save_state("g", "s", {"n": version}, METADATA, expected=version)
    await persister.cleanup_old_data("g", keep=timedelta(hours=1))
    floor = (await collected(store.get_events("g", "s")))[0].version
    assert floor > 2
    return floor


async def test_a_replay_gives_all_that_is_retained():
    """All events after the version before the oldest one are there, so they are given."""
    clock = ManualClock(step_us=1)
    async with open_store(MemoryEngine(clock), clock=clock, snapshots=EveryEvents(2, keep=3)) as store:
        floor = await cleaned_up(store, clock)
        events = await collected(StateMachinePersister(store).replay("g", "s", after=floor - 1))
        assert [event.version for event in events] == list(range(floor, 15))
        assert [event.to_state for event in events] == [{"n": version - 1} for version in range(floor, 15)]


@pytest.mark.parametrize("before", [2, None], ids=["one_before", "from_the_start"])
async def test_a_replay_of_more_than_is_retained_is_refused(before: int | None):
    """Where an event that was asked for is gone, nothing is given in its place."""
    clock = ManualClock(step_us=1)
    async with open_store(MemoryEngine(clock), clock=clock, snapshots=EveryEvents(2, keep=3)) as store:
        floor = await cleaned_up(store, clock)
        after = 0 if before is None else floor - before
        with pytest.raises(NotRetained):
            await collected(StateMachinePersister(store).replay("g", "s", after=after))
