"""A restore was killed, and its file is lost: another export of the same governor leads out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tai_state import (
    ANY,
    EveryEvents,
    GovernorExists,
    StateMachinePersister,
    StateStore,
    StoreUnavailable,
    sync,
)
from tai_state.engines.api import Engine
from tai_state.engines.memory import MemoryDocuments, MemoryEngine
from tai_state.testing import ManualClock

from ..support.overtaking import Overtaken
from ..support.stores import GOVERNOR, METADATA, Killed, dump, make_store

pytestmark = pytest.mark.anyio

STATES = ("a", "b", "c")
VERSIONS = 5
LOST, OTHER = "lost.jsonl", "other.jsonl"
NOTE = f"meta/store/restores/{GOVERNOR}"
PLACES = [None, "ids/b0", "states/a", "events/b~000000000003", "snapshots/b~000000000004", "states/c"]


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: all of it is decided above the engines."""
    return "asyncio"


@pytest.fixture
async def origin(tmp_path: Path, clock: ManualClock) -> AsyncIterator[StateStore]:
    """A store with a governor whose export will be lost."""
    async with _store(MemoryEngine(clock), clock) as store:
        for state in STATES:
            for n in range(VERSIONS):
                await store.save_state(GOVERNOR, state, {"n": n}, METADATA, expected=ANY, event_id=f"{state}{n}")
        await StateMachinePersister(store).export_history(GOVERNOR, tmp_path / LOST)
        yield store


def _store(engine: Engine, clock: ManualClock) -> StateStore:
    return make_store(engine, clock, snapshots=EveryEvents(2, keep=2))


async def _half(folder: Path, clock: ManualClock, last: str | None) -> Engine:
    """A store in which a restore was killed after this document; after its note, if it is None."""
    engine = MemoryEngine(clock)
    async with make_store(Killed(engine, last or NOTE), clock) as store:  # type: ignore[arg-type]
        with pytest.raises(StoreUnavailable):
            await StateMachinePersister(store).import_history(folder / LOST)
    return engine


async def _goes_on(engine: Engine, clock: ManualClock, folder: Path, source: StateStore) -> None:
    """The other file, a recovery and a sync with its source bring a half-restored governor up to date."""
    async with _store(engine, clock) as store:
        persister = StateMachinePersister(store)
        await persister.import_history(folder / OTHER, keep_changed=True)
        await persister.recover()
        assert (await persister.validate_consistency()).findings == ()
        assert (await sync(source, store)).complete
        for state in STATES:
            assert (await store.get_state(GOVERNOR, state)).data == {"n": VERSIONS - 1}


@pytest.mark.parametrize("last", PLACES)
async def test_the_unfinished_restore_is_named(
    origin: StateStore, tmp_path: Path, clock: ManualClock, last: str | None
) -> None:
    """Without the choice to go on from it nothing is written, and the error says what there is to choose."""
    await StateMachinePersister(origin).export_history(GOVERNOR, tmp_path / OTHER)
    engine = await _half(tmp_path, clock, last)
    async with _store(engine, clock) as store:
        before = await dump(engine)
        with pytest.raises(GovernorExists) as caught:
            await StateMachinePersister(store).import_history(tmp_path / OTHER)
        assert (caught.value.path, caught.value.is_unfinished) == (NOTE, True)
        assert "another file is unfinished" in str(caught.value)
        assert "--keep-changed" in str(caught.value)
        assert await dump(engine) == before


@pytest.mark.parametrize("last", PLACES)
async def test_a_newer_export_goes_on(origin: StateStore, tmp_path: Path, clock: ManualClock, last: str | None) -> None:
    """What is whole stays; all else is restored from the other file, and the store is sound."""
    for state in (*STATES, "d"):
        for n in range(10, 16):
            await origin.save_state(GOVERNOR, state, {"n": n}, METADATA, expected=ANY, event_id=f"{state}{n}")
    await StateMachinePersister(origin).export_history(GOVERNOR, tmp_path / OTHER)
    engine = await _half(tmp_path, clock, last)
    async with _store(engine, clock) as store:
        persister = StateMachinePersister(store)
        whole = {path for path in await dump(engine) if path.startswith(f"governors/{GOVERNOR}/states/")}
        restored = await persister.import_history(tmp_path / OTHER, keep_changed=True)
        assert set(restored.kept) == whole
        assert (await persister.validate_consistency()).findings == ()
        await persister.export_history(GOVERNOR, tmp_path / "whole.jsonl")
        for state in (*STATES, "d"):
            n = 4 if f"governors/{GOVERNOR}/states/{state}" in whole else 15
            assert (await store.get_state(GOVERNOR, state)).data == {"n": n}
        assert (await sync(origin, store)).complete
        assert (await store.get_state(GOVERNOR, "a")).data == {"n": 15}


@pytest.mark.parametrize("last", PLACES)
async def test_an_older_export_sets_nothing_back(tmp_path: Path, clock: ManualClock, last: str | None) -> None:
    """What the killed restore had brought of a state beyond the other file is not hidden."""
    async with _store(MemoryEngine(clock), clock) as origin:
        exports = StateMachinePersister(origin)
        for state in STATES:
            await origin.save_state(GOVERNOR, state, {"n": 0}, METADATA, event_id=f"{state}0")
        await exports.export_history(GOVERNOR, tmp_path / OTHER)
        for state in STATES:
            for n in range(1, VERSIONS):
                await origin.save_state(GOVERNOR, state, {"n": n}, METADATA, expected=ANY, event_id=f"{state}{n}")
        await exports.export_history(GOVERNOR, tmp_path / LOST)
        await _goes_on(await _half(tmp_path, clock, last), clock, tmp_path, origin)


@pytest.mark.parametrize("last", PLACES)
async def test_an_export_of_another_store_goes_on(
    origin: StateStore, tmp_path: Path, clock: ManualClock, last: str | None
) -> None:
    """Its history has other digests: what it does not continue is left to a recovery, and a sync brings the rest."""
    async with _store(MemoryEngine(clock), clock) as twin:
        await sync(origin, twin)
        await StateMachinePersister(twin).export_history(GOVERNOR, tmp_path / OTHER)
        await _goes_on(await _half(tmp_path, clock, last), clock, tmp_path, twin)


async def test_the_restore_that_was_overtaken_does_not_call_itself_finished(
    origin: StateStore, tmp_path: Path, clock: ManualClock
) -> None:
    """It was not killed after all: when it ends, the restore of the other file is still unfinished, and stays so."""
    await StateMachinePersister(origin).export_history(GOVERNOR, tmp_path / OTHER)
    ends_at = 0
    for _ in range(2):  # the first time to count its calls
        documents = MemoryDocuments()
        engine: Any = Overtaken(MemoryEngine(clock, documents))

        async def overtake(there: MemoryDocuments = documents) -> None:
            killed: Any = Killed(MemoryEngine(clock, there), "restores/" + GOVERNOR)
            async with make_store(killed, clock) as other:
                with pytest.raises(StoreUnavailable):
                    await StateMachinePersister(other).import_history(tmp_path / OTHER, keep_changed=True)

        async with make_store(engine, clock) as store:
            persister = StateMachinePersister(store)
            engine.plan(ends_at, overtake)
            if not ends_at:
                await persister.import_history(tmp_path / LOST)
                ends_at = engine.calls
                continue
            with pytest.raises(GovernorExists) as caught:
                await persister.import_history(tmp_path / LOST)
            assert caught.value.is_overtaken
            assert [each.kind for each in (await persister.validate_consistency()).findings] == ["restore"]
