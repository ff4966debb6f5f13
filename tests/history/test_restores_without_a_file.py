"""A restore was killed, and no export is left at all: what it has written is taken for all there is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tai_state import (
    ANY,
    EveryEvents,
    GovernorExists,
    GovernorNotFound,
    InvalidData,
    StateMachinePersister,
    StateStore,
    StoreUnavailable,
    open_store,
    sync,
)
from tai_state.engines.api import ANYTHING, Put, Write
from tai_state.engines.memory import MemoryDocuments, MemoryEngine
from tai_state.testing import ManualClock

from ..support.overtaking import Overtaken
from ..support.program import Program
from ..support.stores import GOVERNOR, METADATA, AroundEngine, Killed, collected, dump, make_store

pytestmark = pytest.mark.anyio

STATES = ("a", "b", "c")
VERSIONS = 5
LOST = "lost.jsonl"
NOTE = f"meta/store/restores/{GOVERNOR}"

PLACES: dict[str | None, dict[str, int]] = {
    None: {},
    f"governors/{GOVERNOR}": {},
    "ids/b0": {},
    "events/a~000000000003": {"a": 3},
    "states/a": {"a": 5},
    "events/b~000000000003": {"a": 5, "b": 3},
    "snapshots/b~000000000004": {"a": 5, "b": 5},
    "states/c": {"a": 5, "b": 5, "c": 5},
}
"""After which document it was killed (None: its note), and to which versions the states then come."""


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: all of it is decided above the engines."""
    return "asyncio"


def _store(engine: Any, clock: ManualClock) -> StateStore:
    return make_store(engine, clock, snapshots=EveryEvents(2, keep=2))


async def _half(folder: Path, clock: ManualClock, last: str | None) -> MemoryDocuments:
    """The documents of a store in which a restore was killed after this one. Its file is there to be found again."""
    async with _store(MemoryEngine(clock), clock) as origin:
        for state in STATES:
            for n in range(VERSIONS):
                await _call(origin, state, n)
        await StateMachinePersister(origin).export_history(GOVERNOR, folder / LOST)
    documents = MemoryDocuments()
    async with make_store(Killed(MemoryEngine(clock, documents), last or NOTE), clock) as store:  # type: ignore[arg-type]
        with pytest.raises(StoreUnavailable):
            await StateMachinePersister(store).import_history(folder / LOST)
    return documents


async def _call(store: StateStore, state: str, n: int) -> int:
    """A change with an id of its own; its version."""
    saved = await store.save_state(GOVERNOR, state, {"n": n}, METADATA, expected=ANY, event_id=f"{state}{n}")
    return saved.version


async def _versions(store: StateStore) -> dict[str, int]:
    return {each.state_id: each.version async for each in store.list_states(GOVERNOR)}


@pytest.mark.parametrize("last", PLACES)
async def test_what_is_there_is_all_there_is(tmp_path: Path, clock: ManualClock, last: str | None) -> None:
    """States are as far as their events come, the store is sound, and calls that are made again are made once."""
    documents = await _half(tmp_path, clock, last)
    async with _store(MemoryEngine(clock, documents), clock) as store:
        persister = StateMachinePersister(store)
        for _ in range(2):
            assert (await persister.recover(GOVERNOR, end_restore=True)).consistent
            assert (await persister.validate_consistency()).findings == ()
            assert await _versions(store) == PLACES[last]
        for state in STATES:
            for n in range(VERSIONS):
                assert await _call(store, state, n) == n + 1
        assert (await persister.validate_consistency()).findings == ()
        if last is not None:
            await persister.export_history(GOVERNOR, tmp_path / "whole.jsonl")


@pytest.mark.parametrize("last", PLACES)
async def test_it_goes_on_after_a_kill(tmp_path: Path, clock: ManualClock, last: str | None) -> None:
    """Killed after any of its commits, the same call again comes to the same documents."""
    whole: dict[str, Any] = {}
    for commits in range(100):
        documents = await _half(tmp_path, clock, last)
        ending = Ending(MemoryEngine(clock, documents), commits)
        is_killed = False
        async with _store(ending, clock) as store:
            try:
                await StateMachinePersister(store).recover(GOVERNOR, end_restore=True)
            except StoreUnavailable:
                is_killed = True
        async with _store(MemoryEngine(clock, documents), clock) as store:
            await StateMachinePersister(store).recover(GOVERNOR, end_restore=True)
            found = await dump(store.core.engine)
            assert (await StateMachinePersister(store).validate_consistency()).findings == ()
        whole = whole or found
        assert _without_times(found) == _without_times(whole)
        if not is_killed:
            return
    raise AssertionError("it never came to its end")


class Ending(AroundEngine):
    """Fails after so many commits."""

    def __init__(self, engine: Any, commits: int) -> None:
        super().__init__(engine)
        self._left = commits

    async def commit(self, writes: Sequence[Write]) -> Any:  # noqa: D102
        if not self._left:
            raise StoreUnavailable("commit", "TEST")
        self._left -= 1
        return await self._engine.commit(writes)


def _without_times(documents: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What does not depend on when, or by which store, it was written."""
    return {
        path: {name: fields[name] for name in ("version", "data", "event_id", "state_id", "kept") if name in fields}
        for path, fields in documents.items()
    }


async def test_only_a_governor_that_is_named_is_ended(tmp_path: Path, clock: ManualClock) -> None:
    """Nothing is given up of a governor that nobody named, or that is none."""
    documents = await _half(tmp_path, clock, "states/a")
    async with _store(MemoryEngine(clock, documents), clock) as store:
        persister, before = StateMachinePersister(store), await dump(store.core.engine)
        with pytest.raises(InvalidData):
            await persister.recover(end_restore=True)
        with pytest.raises(GovernorNotFound):
            await persister.recover("another", end_restore=True)
        with pytest.raises(InvalidData):
            await persister.recover(GOVERNOR, end_restore="yes")  # type: ignore[arg-type]
        assert await dump(store.core.engine) == before
        assert [each.kind for each in (await persister.validate_consistency()).findings] == ["restore"]


async def test_what_a_service_made_meanwhile_stays(tmp_path: Path, clock: ManualClock) -> None:
    """A state that was made, or changed, since the kill keeps what it has, and so do the ids of its calls."""
    documents = await _half(tmp_path, clock, "events/b~000000000003")
    async with _store(MemoryEngine(clock, documents), clock) as store:
        assert await _call(store, "a", 9) == VERSIONS + 1
        await store.save_state(GOVERNOR, "mine", {"n": 7}, METADATA, event_id="mine")
        assert (await StateMachinePersister(store).recover(GOVERNOR, end_restore=True)).consistent
        assert await _versions(store) == {"a": VERSIONS + 1, "b": 3, "mine": 1}
        assert await _call(store, "a", 9) == VERSIONS + 1


@pytest.mark.parametrize("last", PLACES)
async def test_a_file_that_is_found_after_all_is_synced(tmp_path: Path, clock: ManualClock, last: str | None) -> None:
    """Restored into a store of its own, it brings the rest; a governor of which nothing came takes it at once."""
    documents = await _half(tmp_path, clock, last)
    async with (
        _store(MemoryEngine(clock, documents), clock) as store,
        _store(MemoryEngine(clock), clock) as other,
    ):
        persister = StateMachinePersister(store)
        await persister.recover(GOVERNOR, end_restore=True)
        if PLACES[last]:
            with pytest.raises(GovernorExists):
                await persister.import_history(tmp_path / LOST)
            await StateMachinePersister(other).import_history(tmp_path / LOST)
            assert (await sync(other, store)).complete
        else:
            await persister.import_history(tmp_path / LOST)
        assert await _versions(store) == dict.fromkeys(STATES, VERSIONS)
        assert (await persister.validate_consistency()).findings == ()
        assert await _call(store, "c", 4) == VERSIONS


async def test_a_restore_that_ran_on_does_not_call_itself_finished(tmp_path: Path, clock: ManualClock) -> None:
    """It was not killed after all: when it comes to its end, it is told that it was ended before."""
    await _half(tmp_path, clock, None)
    ends_at = 0
    for _ in range(2):  # the first time to count its calls
        documents = MemoryDocuments()
        engine: Any = Overtaken(MemoryEngine(clock, documents))

        async def end(there: MemoryDocuments = documents) -> None:
            async with _store(MemoryEngine(clock, there), clock) as other:
                await StateMachinePersister(other).recover(GOVERNOR, end_restore=True)

        async with make_store(engine, clock) as store:
            persister = StateMachinePersister(store)
            engine.plan(ends_at, end)
            if not ends_at:
                await persister.import_history(tmp_path / LOST)
                ends_at = engine.calls
                continue
            with pytest.raises(GovernorExists):
                await persister.import_history(tmp_path / LOST)
            assert (await persister.validate_consistency()).findings == ()


async def test_a_damaged_note_can_be_ended(tmp_path: Path, clock: ManualClock) -> None:
    """Nobody knows which file it was."""
    documents = await _half(tmp_path, clock, "states/a")
    async with _store(MemoryEngine(clock, documents), clock) as store:
        await store.core.engine.commit([Put(NOTE, {}, ANYTHING)])
        persister = StateMachinePersister(store)
        assert (await persister.recover(GOVERNOR, end_restore=True)).consistent
        assert (await persister.validate_consistency()).findings == ()


async def test_a_restore_that_was_finished_stays_so(tmp_path: Path, clock: ManualClock) -> None:
    """There is nothing to end, and its file can be restored again without a change."""
    await _half(tmp_path, clock, None)
    async with _store(MemoryEngine(clock), clock) as store:
        persister = StateMachinePersister(store)
        await persister.import_history(tmp_path / LOST)
        before = await dump(store.core.engine)
        assert (await persister.recover(GOVERNOR, end_restore=True)).rebuilt == ()
        await persister.import_history(tmp_path / LOST)
        assert await dump(store.core.engine) == before
        assert len(await collected(store.list_states(GOVERNOR))) == len(STATES)


async def _killed_in_a_file(folder: Path, governor: str) -> str:
    """A store in a file, in which a restore was killed; its address."""
    url = f"sqlite:///{folder}/tai-state.db"
    async with open_store("memory://") as origin:
        for state in STATES:
            await origin.save_state(governor, state, {"n": 1}, METADATA)
        await StateMachinePersister(origin).export_history(governor, folder / LOST)
    async with open_store(url) as store:
        store.core.engine = Killed(store.core.engine, "events/b~000000000001")  # type: ignore[assignment]
        with pytest.raises(StoreUnavailable):
            await StateMachinePersister(store).import_history(folder / LOST)
    return url


async def test_the_command_asks_first(tmp_path: Path) -> None:
    """What is given up does not come again, so it has to be confirmed; and one governor has to be named."""
    url = await _killed_in_a_file(tmp_path, "my plant")
    program = Program(tmp_path, TAI_STATE_STORE=url)
    [finding] = json.loads(program("verify", "--json").out)["findings"]
    assert "`tai-state recover 'my plant' --end-restore`" in finding["message"]
    error = program("recover", "my plant", "--end-restore", "--json").error(2)
    assert "--yes" in error["message"]
    assert "GOVERNOR" in program("recover", "--end-restore", "--yes", "--json").error(2)["message"]
    assert program("verify").code == 4
    assert program("recover", "my plant", "--end-restore", "--yes", "--json").json()["checked"] == 2
    assert program("verify").code == 0
