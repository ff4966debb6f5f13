"""Faults at every call of the engine: what callers are told is true, and what they are promised holds."""

from __future__ import annotations

from itertools import count

import pytest

from tai_state.testing import ManualClock
from tai_state.testing.faults import Fault

from .support.judging import at_call, attempt, judge
from .support.operations import CHANGES, EVENT_ID, Change
from .support.stores import Places

pytestmark = pytest.mark.anyio

FAULTS = [
    pytest.param(fault, 1, id=fault.value.replace(" ", "_")) for fault in Fault if fault is not Fault.DELAYED
] + [pytest.param(Fault.DELAYED, calls, id=f"delayed_{calls}") for calls in (1, 2, 3, 1_000)]


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still, so that two runs give the same documents."""
    return ManualClock()


@pytest.fixture
def places(engine_under_test, tmp_path, clock) -> Places:
    """Empty places, as many as wanted."""
    return Places(engine_under_test, tmp_path, clock)


@pytest.fixture
def anyio_backend() -> str:
    """One event loop is enough here: the engines' own tests run under both."""
    return "asyncio"


@pytest.mark.parametrize("event_id", [EVENT_ID, None], ids=["own_id", "no_id"])
@pytest.mark.parametrize(("fault", "delay_calls"), FAULTS)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
async def test_fault_at_every_call_of_a_change(
    places: Places, clock: ManualClock, change: Change, fault: Fault, delay_calls: int, event_id: str | None
):
    """Whatever call goes wrong in whatever way, the caller is told the truth and may call again."""
    hit = 0
    for number in count(1):
        place = places.new()
        seen = await attempt(place, clock, change, at_call(number, fault), event_id, delay_calls=delay_calls)
        if seen.calls < number:
            break
        hit += sum(seen.statistics.hit.values())
        try:
            await judge(place, clock, change, seen, event_id)
        except AssertionError as error:
            error.add_note(f"{fault} at call {number} of {seen.calls}: {seen}")
            raise
    assert hit > 0
