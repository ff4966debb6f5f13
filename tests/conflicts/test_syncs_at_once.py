"""Two syncs of the same two stores at one moment: both would copy the very same events."""

from __future__ import annotations

import pytest

from tai_state import StateMachinePersister, sync

from ..support.overtaking import Overtaken
from ..support.stores import GOVERNOR, METADATA, Place, Places, collected

pytestmark = pytest.mark.anyio

CALLS = range(1, 16)
"""The calls of the engine before which the other sync runs; a sync makes fewer."""


@pytest.mark.parametrize("at", CALLS)
@pytest.mark.parametrize("ids", ["made", "given"])
@pytest.mark.parametrize("later", [0, 2], ids=["same", "longer"])
async def test_two_syncs_at_once_copy_each_event_once(place: Place, places: Places, at: int, ids: str, later: int):
    """Each event that a sync says it copied is there, and is counted by one of the two syncs."""
    engine = Overtaken(place.engine())
    async with places.new().store() as source, place.store() as target, place.store(engine) as same_target:

        async def write(*versions: int) -> None:
            for each in versions:
                event_id = f"given-{each}" if ids == "given" else None
                await source.save_state(GOVERNOR, "alice", {"n": each}, METADATA, expected=each, event_id=event_id)

        await write(0, 1, 2)
        reports = []

        async def overtake() -> None:
            await write(*range(3, 3 + later))
            reports.append(await sync(source, target))

        engine.plan(at, overtake)
        reports.append(await sync(source, same_target))
        if len(reports) == 1:
            assert engine.calls < at
            return
        await sync(source, target)
        events = [each.event_id for each in await collected(target.get_events(GOVERNOR, "alice"))]
        assert events == [each.event_id for each in await collected(source.get_events(GOVERNOR, "alice"))]
        assert (sum(each.sent for each in reports), len(events)) == (3 + later, 3 + later)
        assert (await StateMachinePersister(target).validate_consistency()).consistent


@pytest.mark.parametrize("at", CALLS)
@pytest.mark.parametrize("side", [0, 1], ids=["first", "second"])
async def test_two_syncs_at_once_join_a_state_once(places: Places, side: int, at: int):
    """A state that both stores have changed is joined by one of the two syncs, and is counted by that one."""
    spots = [places.new(), places.new()]
    engine = Overtaken(spots[side].engine())
    async with (
        spots[0].store() as one,
        spots[1].store() as other,
        spots[0].store(None if side else engine) as same_one,
        spots[1].store(engine if side else None) as same_other,
    ):
        for store in (one, other):
            await store.save_state(GOVERNOR, "alice", {"is_one": store is one}, METADATA)
        reports = []

        async def overtake() -> None:
            reports.append(await sync(one, other))

        engine.plan(at, overtake)
        reports.append(await sync(same_one, same_other))
        if len(reports) == 1:
            assert engine.calls < at
            return
        assert sum(each.joined for each in reports) == 1
        assert not any(each.failed for each in reports)
        assert (await sync(one, other)).same == 1
        for store in (one, other):
            assert (await StateMachinePersister(store).validate_consistency()).consistent
