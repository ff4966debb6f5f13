"""Syncing a state of which a cleanup has removed events."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tai_state import EveryEvents, FieldMerge, StateMachinePersister, open_store, sync
from tai_state.engines.api import Put
from tai_state.testing import MemoryEngine

from ..support.histories import HOUR, event_path
from ..support.stores import GOVERNOR, METADATA, Place, collected, fields_at

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("has_older", [False, True], ids=["new", "older"])
async def test_what_a_broken_off_cleanup_has_left_is_passed_over(place: Place, *, has_older: bool):
    """An event below the floor, whose state nobody can tell any more, is as good as gone."""
    apart = open_store(MemoryEngine(place.clock), clock=place.clock)
    async with place.store(snapshots=EveryEvents(4, keep=2)) as store, apart as other:
        for version in range(2):
            await store.save_state(GOVERNOR, "alice", {"n": version}, METADATA, expected=version)
        if has_older:
            await sync(store, other)
            await other.update_state(GOVERNOR, "alice", {"n": 1, "theirs": True}, METADATA, expected=2)
        await store.log_event(GOVERNOR, "alice", "seen", METADATA)
        for version in range(3, 9):
            await store.save_state(GOVERNOR, "alice", {"n": version}, METADATA, expected=version)
        path = event_path(3)
        left = await fields_at(store.core.engine, path)
        place.clock.advance_us(2 * HOUR)
        await StateMachinePersister(store).cleanup_old_data(GOVERNOR, keep=timedelta(hours=1))
        assert (await collected(store.get_events(GOVERNOR, "alice")))[0].version == 4
        await store.core.engine.commit([Put(path, left)])
        report = await sync(store, other, resolver=FieldMerge({"n": "maximum"}))
        assert (report.failed, report.joined) == ((), has_older)
        for each in (store, other):
            assert (await each.get_state(GOVERNOR, "alice")).data["n"] == 8
            assert (await StateMachinePersister(each).validate_consistency()).consistent
