"""An event's states are the states before and after it, wherever reading began."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from tai_state import StateStore, VersionConflict, open_store
from tai_state.testing import ManualClock, MemoryEngine

from ..support.stores import GOVERNOR, METADATA, collected

pytestmark = pytest.mark.anyio

DATA = {"a": 1}
TIME = datetime(2000, 1, 1, tzinfo=UTC)
UNTIL = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: events are made above the engines."""
    return "asyncio"


@pytest.fixture
async def store() -> AsyncIterator[StateStore]:
    """A state, saved once and then the subject of three notes, which leave it as it is."""
    clock = ManualClock(step_us=1)
    async with open_store(MemoryEngine(clock), clock=clock) as store:
        await store.save_state(GOVERNOR, "x", DATA, METADATA)
        for n in range(1, 4):
            await note(store, n)
        yield store


async def note(store: StateStore, n: int) -> Any:
    """Note something about the state; the same call each time."""
    return await store.log_event(GOVERNOR, "x", f"note {n}", METADATA, event_id=f"n{n}")


def states(events: list[Any]) -> dict[int, tuple[Any, Any]]:
    """The states before and after each event, by version."""
    return {each.version: (each.from_state, each.to_state) for each in events}


NOTES = dict.fromkeys((2, 3, 4), (DATA, DATA))
EVENTS = {1: (None, DATA), **NOTES}


@pytest.mark.parametrize(
    "after",
    [
        0,
        1,
        *[pytest.param(n) for n in (2, 3)],
    ],
)
async def test_events_after_a_version(store: StateStore, after: int) -> None:
    """Events read from any version on have the states that they have when all are read."""
    events = await collected(store.get_events(GOVERNOR, "x", after=after))
    assert states(events) == {version: each for version, each in EVENTS.items() if version > after}


async def test_events_between_two_times(store: StateStore) -> None:
    """Events found by their time have the states that they have when the stream is read."""
    assert states(await collected(store.get_events_between(GOVERNOR, TIME, UNTIL))) == EVENTS


async def test_all_events(store: StateStore) -> None:
    """All events of a governor have the states that they have when the stream is read."""
    assert states(await collected(store.get_all_events(GOVERNOR))) == EVENTS


async def test_the_answer_to_a_logged_event(store: StateStore) -> None:
    """Logging an event gives the state that it left as it is."""
    assert states([await store.log_event(GOVERNOR, "x", "note 4", METADATA)]) == {5: (DATA, DATA)}


async def test_the_answer_to_the_same_call_again(store: StateStore) -> None:
    """A call made again gives the event with the states that its first answer had."""
    assert states([await note(store, 3)]) == {4: (DATA, DATA)}


async def test_the_events_of_a_conflict(store: StateStore) -> None:
    """The events that a conflict shows have the states between which they stand."""
    with pytest.raises(VersionConflict) as caught:
        await store.update_state(GOVERNOR, "x", {"a": 2}, METADATA, expected=2)
    assert states(list(caught.value.events)) == {3: (DATA, DATA), 4: (DATA, DATA)}
