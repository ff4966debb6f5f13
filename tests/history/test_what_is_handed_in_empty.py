"""What a caller hands in is used, also where it is empty or false at that moment."""

from __future__ import annotations

from typing import Any

import pytest

from tai_state import (
    NO_STATE,
    ConflictHistory,
    EventualConsistency,
    NewEvent,
    Reducer,
    StateMachinePersister,
    open_store,
)
from tai_state.testing import ManualClock

from ..support.stores import GOVERNOR, METADATA, Places

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: all of it is decided above the engines."""
    return "asyncio"


def opened(state: Any, event: Any) -> Any:
    """The state once it was opened."""
    return {"owner": event.payload["owner"]}


@pytest.mark.parametrize(
    "others",
    [
        pytest.param({}, id="empty"),
        pytest.param({"other": opened}, id="with_another"),
    ],
)
async def test_reducers_registered_after_the_persister_was_made(memory_places: Places, others: dict[str, Reducer]):
    """A registry of reducers is the caller's own: what is registered later counts, also if it was empty before."""
    reducers = dict(others)
    async with memory_places.new().store() as store:
        persister = StateMachinePersister(store, reducers)
        reducers["opened"] = opened
        event = NewEvent("opened", {"owner": "Alice"})
        await persister.record(GOVERNOR, "s", [event], METADATA, expected=NO_STATE)
        assert await store.exists(GOVERNOR, "s")
        assert (await store.get_state(GOVERNOR, "s")).data == {"owner": "Alice"}
        assert (await persister.validate_consistency()).consistent


class Clock(ManualClock):
    """A clock that is false, as an object with a length of 0 is."""

    def __len__(self) -> int:
        return 0


async def test_a_clock_is_used_whatever_it_is_equal_to():
    """The clock that is given gives the times, also one that Python takes for false."""
    clock = Clock()
    async with open_store("memory://", clock=clock) as store:
        saved = await store.save_state(GOVERNOR, "s", {}, METADATA)
        assert int(saved.timestamp.timestamp()) == clock.now_us() // 1_000_000


class Quiet(ConflictHistory):
    """A history that says how many conflicts it holds: none, to begin with."""

    def __len__(self) -> int:
        return len(self.recent(1))


async def test_a_history_of_conflicts_is_used_while_it_is_empty(memory_places: Places, clock: ManualClock):
    """Conflicts go into the history that is given, though there is none in it yet."""
    history = Quiet(clock)
    async with memory_places.new().store() as store:
        assert EventualConsistency(store, history=history).history is history
