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
