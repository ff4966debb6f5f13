"""Kept snapshots that are damaged, older ones too: each is one finding, and a recovery leaves nothing to say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tai_state import EveryEvents, StateMachinePersister, StateStore, open_store
from tai_state.engines.api import ANYTHING, Delete, Put

from ..support.stores import GOVERNOR, METADATA, edit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

VERSIONS = 9


@pytest.fixture
def anyio_backend() -> str:
    """What is found does not depend on the event loop."""
    return "asyncio"


@pytest.fixture
async def store() -> AsyncIterator[StateStore]:
    """A state at version 9, with snapshots at 2, 4, 6 and 8."""
    async with open_store("memory://", snapshots=EveryEvents(2, keep=9)) as store:
        for n in range(VERSIONS):
            await store.save_state(GOVERNOR, "s", {"n": n}, METADATA, expected=n)
        yield store


async def _unreadable(store: StateStore, path: str) -> None:
    await store.core.engine.commit([Put(path, {"no": "snapshot"})])


async def _gone(store: StateStore, path: str) -> None:
    await store.core.engine.commit([Delete(path, ANYTHING)])


async def _wrong(store: StateStore, path: str) -> None:
    await edit(store.core.engine, path, state='{"n":77}')


async def _of_another_time(store: StateStore, path: str) -> None:
    await edit(store.core.engine, path, as_of="2001-01-01T00:00:00.000000Z")


@pytest.mark.parametrize("version", [2, 6, 8])
@pytest.mark.parametrize("damage", [_unreadable, _gone, _wrong, _of_another_time])
async def test_a_damaged_snapshot_is_one_finding_and_is_dropped(store: StateStore, damage: Any, version: int):
    """Whichever of them it is, recovering is what helps, as is said; the others stay."""
    stream, persister = store.core.layout.stream(GOVERNOR, "s"), StateMachinePersister(store)
    await damage(store, stream.snapshot(version))
    [finding] = (await persister.validate_consistency()).findings
    assert (finding.path, "`tai-state recover`" in finding.message) == (stream.snapshot(version), True)
    assert (await persister.recover()).rebuilt == (stream.state,)
    assert (await persister.validate_consistency()).consistent
    assert await store.list_snapshots(GOVERNOR, "s") == [each for each in (2, 4, 6, 8) if each != version]
    assert (await persister.recover()).rebuilt == ()
    await store.save_state(GOVERNOR, "s", {"n": VERSIONS}, METADATA, expected=VERSIONS)
    assert (await persister.validate_consistency()).consistent


async def test_a_snapshot_of_a_damaged_event_stays(store: StateStore):
    """It is what is left of that version."""
    stream, persister = store.core.layout.stream(GOVERNOR, "s"), StateMachinePersister(store)
    await edit(store.core.engine, stream.event(4), timestamp="2001-01-01T00:00:00.000000Z")
    await persister.recover()
    assert await store.list_snapshots(GOVERNOR, "s") == [2, 4, 6, 8]
