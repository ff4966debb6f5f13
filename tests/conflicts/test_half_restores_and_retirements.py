"""A restore that was killed, in a store that is synced, and in which others are retired."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tai_state import ANY, StateMachinePersister, StateStore, StoreUnavailable, open_store, retire_store, sync
from tai_state.engines.api import Engine
from tai_state.engines.memory import MemoryEngine
from tai_state.testing import ManualClock

from ..support.stores import GOVERNOR, METADATA, Killed, dump, edit, fields_at

pytestmark = pytest.mark.anyio

FILE = "centre.jsonl"
NOTE = f"meta/store/restores/{GOVERNOR}"
RECORD = f"governors/{GOVERNOR}/retired/x"
OTHER_RECORD = f"governors/{GOVERNOR}/retired/y"


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: what is decided is decided above the engines."""
    return "asyncio"


@pytest.fixture
async def stores(clock: ManualClock) -> AsyncIterator[list[StateStore]]:
    """A centre, and two visitors that have changed its states."""
    async with (
        open_store(MemoryEngine(clock), clock=clock) as centre,
        open_store(MemoryEngine(clock), clock=clock) as one,
        open_store(MemoryEngine(clock), clock=clock) as other,
    ):
        for n, visitor in enumerate((one, other)):
            await sync(centre, visitor)
            for state in "xy":
                await visitor.save_state(GOVERNOR, state, {"n": n}, METADATA, expected=ANY)
            await sync(visitor, centre)
        yield [centre, one, other]


async def _half(clock: ManualClock, path: Path, last: str) -> Engine:
    """A store in which the restore of a file was killed after this document."""
    engine = MemoryEngine(clock)
    async with open_store(Killed(engine, last), clock=clock) as store:  # type: ignore[arg-type]
        with pytest.raises(StoreUnavailable):
            await StateMachinePersister(store).import_history(path)
    return engine


@pytest.mark.parametrize("keep_changed", [False, True])
@pytest.mark.parametrize("last", ["retired/y", "events/x~000000000001", "events/y~000000000002"])
async def test_a_record_that_grew_leaves_nothing_out(
    stores: list[StateStore], clock: ManualClock, tmp_path: Path, last: str, *, keep_changed: bool
) -> None:
    """What a sync put on record beside the file's record stays, and each state is restored."""
    centre, one, other = stores
    await retire_store(centre, one.store_id)
    await StateMachinePersister(centre).export_history(GOVERNOR, tmp_path / FILE)
    engine = await _half(clock, tmp_path / FILE, last)
    await retire_store(centre, other.store_id)
    known = await fields_at(centre.core.engine, RECORD)
    async with open_store(engine, clock=clock) as store:
        for record in (RECORD, OTHER_RECORD):  # as by a sync that could not go on
            await edit(engine, record, **await fields_at(centre.core.engine, record))
        persister = StateMachinePersister(store)
        assert (await persister.import_history(tmp_path / FILE, keep_changed=keep_changed)).kept == ()
        assert await fields_at(engine, RECORD) == known
        assert (await persister.validate_consistency()).findings == ()
        assert (await sync(store, centre)).complete
        assert [(await store.get_state(GOVERNOR, state)).version for state in "xy"] == [4, 4]


@pytest.mark.parametrize("keep_changed", [False, True])
async def test_a_sync_that_fails_does_not_stop_the_restore(
    stores: list[StateStore], clock: ManualClock, tmp_path: Path, *, keep_changed: bool
) -> None:
    """It names the state that is not whole; the restore then brings it, and nothing that is called complete is not."""
    centre, one, other = stores
    await retire_store(centre, one.store_id)
    await StateMachinePersister(centre).export_history(GOVERNOR, tmp_path / FILE)
    engine = await _half(clock, tmp_path / FILE, "events/y~000000000001")
    await retire_store(centre, other.store_id)
    async with open_store(engine, clock=clock) as store:
        assert f"{GOVERNOR} y" in dict((await sync(store, centre)).failed)
        persister = StateMachinePersister(store)
        assert (await persister.import_history(tmp_path / FILE, keep_changed=keep_changed)).kept == ()
        assert (await sync(store, centre)).complete
        assert (await persister.validate_consistency()).findings == ()
        for state in "xy":
            assert (await store.get_state(GOVERNOR, state)).data == (await centre.get_state(GOVERNOR, state)).data


async def test_a_damaged_record_is_the_one_of_the_file(
    stores: list[StateStore], clock: ManualClock, tmp_path: Path
) -> None:
    """So is one that is about another state."""
    centre, one, _ = stores
    await retire_store(centre, one.store_id)
    await StateMachinePersister(centre).export_history(GOVERNOR, tmp_path / FILE)
    for changes in ({"taken_out": 3}, {"state_id": "y"}):
        engine = await _half(clock, tmp_path / FILE, "events/x~000000000001")
        async with open_store(engine, clock=clock) as store:
            await edit(engine, RECORD, **changes)
            await StateMachinePersister(store).import_history(tmp_path / FILE)
            assert await dump(engine) == await dump(centre.core.engine)


async def test_a_retirement_names_an_unfinished_restore(
    stores: list[StateStore], clock: ManualClock, tmp_path: Path
) -> None:
    """States that are not there yet name the store: it is not called retired before they are restored."""
    centre, one, _ = stores
    await StateMachinePersister(centre).export_history(GOVERNOR, tmp_path / FILE)
    engine = await _half(clock, tmp_path / FILE, "states/x")
    async with open_store(engine, clock=clock) as store:
        for governor in (None, GOVERNOR):
            for is_dry in (True, False):
                report = await retire_store(store, one.store_id, governor_id=governor, dry_run=is_dry)
                assert ([path for path, _ in report.failed], report.complete) == ([NOTE], False)
        await store.save_state("another", "z", {}, METADATA)
        assert (await retire_store(store, one.store_id, governor_id="another")).complete
        await StateMachinePersister(store).import_history(tmp_path / FILE)
        report = await retire_store(store, one.store_id)
        assert (report.checked, report.retired, report.complete) == (3, 1, True)
