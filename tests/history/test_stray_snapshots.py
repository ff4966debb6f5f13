"""Kept snapshots that no state lists: a recovery drops them, but none on which something may rest."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from tai_state import EveryEvents, NewEvent, StateMachinePersister, StateStore, open_store
from tai_state.engines.api import Scan
from tai_state.engines.memory import MemoryEngine
from tai_state.history.dropping import stray_snapshots
from tai_state.testing import ManualClock

from ..support.operations import REDUCERS
from ..support.stores import GOVERNOR, METADATA, CountingEngine, edit, fields_at

pytestmark = pytest.mark.anyio

STATE = f"governors/{GOVERNOR}/states/x"
DAYS_US = 2 * 24 * 3_600 * 1_000_000


@pytest.fixture
def anyio_backend() -> str:
    """What is kept does not depend on the event loop."""
    return "asyncio"


@pytest.fixture
async def store(clock: ManualClock) -> AsyncIterator[StateStore]:
    """A store with a state that was cleaned up, and that only its kept snapshots can give back."""
    async with open_store(MemoryEngine(clock), clock=clock, snapshots=EveryEvents(2)) as store:
        persister = StateMachinePersister(store, REDUCERS)
        for n in range(8):
            if n == 4:
                clock.advance_us(DAYS_US)
            await persister.record(GOVERNOR, "x", [NewEvent("add", 1)], METADATA, expected=n)
        assert (await persister.cleanup_old_data(GOVERNOR, keep=timedelta(days=1))).events_deleted
        yield store


def _kept(version: int) -> str:
    return f"governors/{GOVERNOR}/snapshots/x~{version:012d}"


async def _snapshots(store: StateStore) -> list[int]:
    found = store.core.engine.scan(Scan(f"governors/{GOVERNOR}/snapshots"))
    return [int(each.id.rpartition("~")[2]) async for each in found]


async def test_what_a_list_has_lost_is_listed_again(store: StateStore) -> None:
    """The snapshots of a state whose list is wrong are no stray ones: the state is rebuilt on them."""
    before = await fields_at(store.core.engine, STATE)
    await edit(store.core.engine, STATE, kept=[])
    persister = StateMachinePersister(store, REDUCERS)
    assert (await persister.recover()).rebuilt == (STATE,)
    assert await fields_at(store.core.engine, STATE) == before
    assert (await persister.validate_consistency()).consistent


async def test_those_of_a_state_that_cannot_be_recovered_stay(store: StateStore) -> None:
    """They may be what leads out of it; the report names the state, and the check says to restore a backup."""
    kept = await _snapshots(store)
    await edit(store.core.engine, STATE, kept=[])
    await edit(store.core.engine, f"governors/{GOVERNOR}/events/x~000000000008", action="other")
    persister = StateMachinePersister(store, REDUCERS)
    assert not (await persister.recover()).consistent
    assert await _snapshots(store) == kept


async def test_a_recovery_looks_at_strays_alone(store: StateStore) -> None:
    """However many snapshots are listed, finding that none is a stray one takes a scan and a read for a hundred."""
    counting = store.core.engine = CountingEngine(store.core.engine)  # type: ignore[assignment]
    assert [each async for each in stray_snapshots(store.core, GOVERNOR)] == []
    assert counting.counts.calls == 2
