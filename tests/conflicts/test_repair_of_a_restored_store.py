"""A store that was put back to a backup and written to: what a repair drops of that is on record."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tai_state import Counted, EventualConsistency, StateStore, recorded_conflicts, sync
from tai_state.conflicts.rivals import are_apart

from ..support.stores import GOVERNOR, METADATA, SQLITE, Places, collected

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Which event loop it is decides nothing here."""
    return "asyncio"


async def _synced(store: StateStore, other: StateStore) -> None:
    await sync(store, other)


async def _repaired(store: StateStore, other: StateStore) -> None:
    seen = await EventualConsistency(other).read(GOVERNOR, "s")
    await EventualConsistency(store).read_repair(GOVERNOR, "s", [seen], METADATA)


@pytest.mark.parametrize(
    "bring_up_to_date",
    [
        _synced,
        _repaired,
    ],
)
async def test_what_was_written_after_a_restore_is_dropped_on_record(
    bring_up_to_date: Callable[[StateStore, StateStore], Awaitable[None]],
):
    """What was written after a restore of the file, and loses to what came before it, is recorded as discarded."""
    with Places(SQLITE) as places:
        place, other_place = places.new(), places.new()
        backup = place.folder.with_name("backup")
        async with place.store() as store:
            await store.save_state(GOVERNOR, "s", {"x": 1}, METADATA)
        shutil.copytree(place.folder, backup)
        async with other_place.store() as other:
            async with place.store() as store:
                await store.update_state(GOVERNOR, "s", {"x": 2}, METADATA, expected=1)
                await sync(store, other)
            await other.update_state(GOVERNOR, "s", {"x": 2, "y": 3}, METADATA, expected=2)
            shutil.rmtree(place.folder)
            shutil.copytree(backup, place.folder)
            place.skip_ids()
            async with place.store() as store:
                await store.update_state(GOVERNOR, "s", {"x": "after the restore"}, METADATA, expected=1)
                await bring_up_to_date(store, other)
                assert (await store.get_state(GOVERNOR, "s")).data == {"x": 2, "y": 3}
                conflicts: list[Any] = await collected(recorded_conflicts(store, GOVERNOR))
    discarded = [(each["path"], each["value"]) for conflict in conflicts for each in conflict.discarded]
    assert discarded == [("x", "after the restore")]


async def test_two_changes_with_one_count_are_rivals():
    """The first change after a restore has the count of one that is known elsewhere: a repair drops neither unseen."""
    with Places(SQLITE) as places:
        place, other_place = places.new(), places.new()
        backup = place.folder.with_name("backup")
        async with place.store() as store:
            await store.save_state(GOVERNOR, "s", {"x": 1}, METADATA)
        shutil.copytree(place.folder, backup)
        async with other_place.store() as other:
            async with place.store() as store:
                await store.update_state(GOVERNOR, "s", {"x": 2}, METADATA, expected=1)
                await sync(store, other)
            shutil.rmtree(place.folder)
            shutil.copytree(backup, place.folder)
            place.skip_ids()
            async with place.store() as store:
                await store.update_state(GOVERNOR, "s", {"x": 3}, METADATA, expected=1)
                await _repaired(store, other)
                repaired = await store.get_state(GOVERNOR, "s")
                conflicts: list[Any] = await collected(recorded_conflicts(store, GOVERNOR))
                await _repaired(store, other)
                assert await store.get_state(GOVERNOR, "s") == repaired
    [dropped] = [each["value"] for conflict in conflicts for each in conflict.discarded]
    assert {repaired.data["x"], dropped} == {2, 3}


def test_events_from_before_a_restore_do_not_take_one_place() -> None:
    """A store that was made from an export counted none of the events in it, so two of them are no rivals."""
    earlier, later = (Counted(f"event {count}", "new", {"old": count}) for count in (1, 2))
    assert not are_apart([later], [earlier])
    assert are_apart([Counted("one", "new", {"old": 1, "new": 1})], [Counted("other", "new", {"old": 2, "new": 1})])
