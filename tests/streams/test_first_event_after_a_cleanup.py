"""The first event that a cleanup has left: what it shows is the same, whichever way it is read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tai_state import EveryEvents, JsonEvent, NewEvent, StateMachinePersister, StateStore, VersionConflict

from ..support.stores import GOVERNOR, METADATA, Place, collected

pytestmark = pytest.mark.anyio

FIRST = 10
"""The version of the first event that is left."""
NEWEST = 26


def count(state: dict[str, Any] | None, event: JsonEvent) -> dict[str, Any]:
    """Add what an event carries."""
    return {"n": (state or {"n": 0})["n"] + event.payload}


async def cleaned(place: Place, store: StateStore, kind: str) -> StateMachinePersister:
    """A state of 26 versions of which the first nine events are gone; of which kind they are."""
    persister = StateMachinePersister(store, {"count": count})
    handle = store.state(GOVERNOR, "a")
    await handle.save({"n": 1}, METADATA)
    for version in range(2, NEWEST + 1):
        if version == NEWEST:
            place.clock.advance_us(10 * 86_400_000_000)
        if kind == "saved":
            await handle.save({"n": version}, METADATA, expected=version - 1)
        elif kind == "logged":
            await handle.log("checked", METADATA)
        else:
            await persister.record(GOVERNOR, "a", [NewEvent("count", 1)], METADATA, expected=version - 1)
    await persister.cleanup_old_data(GOVERNOR, keep=timedelta(days=1))
    return persister


KINDS = {"saved": {"n": FIRST}, "logged": {"n": 1}, "counted": {"n": FIRST}}
"""The state after the first event that is left, by the kind of the events."""


@pytest.mark.parametrize("kind", KINDS)
async def test_it_shows_the_same_by_every_way(place: Place, kind: str):
    """Its state is shown though the one before it is gone, whatever version the reading begins after."""
    async with place.store(snapshots=EveryEvents(10, keep=2)) as store:
        persister = await cleaned(place, store, kind)
        ways = [store.get_events(GOVERNOR, "a", after=after) for after in range(FIRST)]
        ways += [store.get_events(GOVERNOR, "a", after=after, newest_first=True) for after in range(FIRST)]
        ways += [store.get_events(GOVERNOR, "a", until=FIRST, limit=1), store.get_all_events(GOVERNOR)]
        times = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
        ways += [store.get_events_between(GOVERNOR, *times), persister.replay(GOVERNOR, "a", after=FIRST - 1)]
        for way in ways:
            [first] = [event for event in await collected(way) if event.version == FIRST]
            assert (first.from_state, first.to_state) == (None, KINDS[kind])


@pytest.mark.parametrize("newest_first", [False, True])
async def test_a_limit_holds_wherever_the_reading_begins(place: Place, *, newest_first: bool):
    """No more events are given than are asked for, also where the event before the first one is gone."""
    async with place.store(snapshots=EveryEvents(10, keep=2)) as store:
        await cleaned(place, store, "saved")
        for after in range(NEWEST + 1):
            for limit in range(4):
                every = await collected(store.get_events(GOVERNOR, "a", after=after, newest_first=newest_first))
                some = store.get_events(GOVERNOR, "a", after=after, limit=limit, newest_first=newest_first)
                assert await collected(some) == every[:limit]


async def test_a_conflict_shows_no_state_that_never_was(place: Place):
    """The events that a conflict names begin with the first one left, whose state before is not known."""
    async with place.store(snapshots=EveryEvents(10, keep=2)) as store:
        await cleaned(place, store, "saved")
        with pytest.raises(VersionConflict) as conflict:
            await store.state(GOVERNOR, "a").update(lambda data: data, METADATA, expected=3)
        [first, second, *_] = conflict.value.events
        assert (first.version, first.from_state, first.to_state) == (FIRST, None, {"n": FIRST})
        assert (second.from_state, second.to_state) == ({"n": FIRST}, {"n": FIRST + 1})
