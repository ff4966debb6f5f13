"""Restores of one governor at once: only the last one to begin writes, however long another one stood still."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tai_state import ANY, EveryEvents, GovernorExists, StateMachinePersister, StateStore, StoreUnavailable
from tai_state.engines.api import Capabilities, Delete, Put, Write
from tai_state.engines.memory import MemoryDocuments, MemoryEngine
from tai_state.testing import ManualClock

from ..support.overtaking import Overtaken
from ..support.stores import GOVERNOR, METADATA, AroundEngine, Killed, dump, make_store

pytestmark = pytest.mark.anyio

STATES = ("a", "b", "c")
VERSIONS = 5
FILE, OTHER = "file.jsonl", "other.jsonl"
NOTE = f"meta/store/restores/{GOVERNOR}"


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: all of it is decided above the engines."""
    return "asyncio"


class OneByOne(AroundEngine):
    """An engine for which each document is a commit of its own."""

    @property
    def capabilities(self) -> Capabilities:
        """The engine's, with room for one write."""
        return replace(self._engine.capabilities, max_ops_per_commit=1)


def _store(engine: Any, clock: ManualClock) -> StateStore:
    return make_store(engine, clock, snapshots=EveryEvents(2, keep=2))


async def _export(folder: Path, clock: ManualClock) -> None:
    """An export of two states, and a newer one of three."""
    async with _store(MemoryEngine(clock), clock) as store:
        persister = StateMachinePersister(store)
        for state in STATES:
            if state == STATES[-1]:
                await persister.export_history(GOVERNOR, folder / OTHER)
            for n in range(VERSIONS):
                await store.save_state(GOVERNOR, state, {"n": n}, METADATA, expected=ANY, event_id=f"{state}{n}")
        await persister.export_history(GOVERNOR, folder / FILE)


Rival = Callable[[StateMachinePersister, Path, ManualClock], Awaitable[object]]


async def _same_file(persister: StateMachinePersister, folder: Path, _: ManualClock) -> None:
    await persister.import_history(folder / FILE)


async def _same_file_and_cleanup(persister: StateMachinePersister, folder: Path, clock: ManualClock) -> None:
    await persister.import_history(folder / FILE)
    clock.advance_us(4 * 3_600_000_000)
    await persister.cleanup_old_data(GOVERNOR, keep=timedelta(hours=1))


async def _other_file(persister: StateMachinePersister, folder: Path, _: ManualClock) -> None:
    await persister.import_history(folder / OTHER, keep_changed=True)
    await persister.recover()  # of the third state there is only what the overtaken restore had begun


async def _ends(persister: StateMachinePersister, folder: Path, _: ManualClock) -> None:
    await persister.recover(GOVERNOR, end_restore=True)


@pytest.mark.parametrize("act", [_same_file, _same_file_and_cleanup, _other_file, _ends])
async def test_a_restore_that_stood_still_writes_no_more(tmp_path: Path, clock: ManualClock, act: Rival) -> None:
    """Whatever call it stood still before: what the other one left stays, and the error says so, if it differs."""
    await _export(tmp_path, clock)
    ended = 0
    for at in count(1):
        documents, left = MemoryDocuments(), list[dict[str, Any]]()
        engine: Any = Overtaken(OneByOne(MemoryEngine(clock, documents)))  # type: ignore[arg-type]

        async def overtake(documents: MemoryDocuments = documents, left: list[dict[str, Any]] = left) -> None:
            async with _store(MemoryEngine(clock, documents), clock) as other:
                if (await other.core.engine.read([NOTE])).documents != (None,):
                    await act(StateMachinePersister(other), tmp_path, clock)
                    left.append(await dump(other.core.engine))

        async with _store(engine, clock) as store:
            persister = StateMachinePersister(store)
            engine.plan(at, overtake)
            error: GovernorExists | None = None
            try:
                await persister.import_history(tmp_path / FILE)
            except GovernorExists as raised:
                error, ended = raised, ended + 1
            assert error is None or (error.is_overtaken and "another `restore`" in str(error))
            if left:
                assert [await dump(engine)] == left
            if engine.calls < at:
                break
            assert (await persister.validate_consistency()).findings == ()
    assert ended == 0 if act is _same_file else ended > VERSIONS * len(STATES)


class Before(AroundEngine):
    """Lets somebody else act once, right before a commit that writes the document of this path."""

    def __init__(self, engine: Any, path: str, act: Callable[[], Awaitable[object]]) -> None:
        super().__init__(engine)
        self._path = path
        self._act: Callable[[], Awaitable[object]] | None = act

    async def commit(self, writes: Sequence[Write]) -> Any:  # noqa: D102
        act = self._act
        if act is not None and any(isinstance(each, Put) and each.path == self._path for each in writes):
            self._act = None
            await act()
        return await self._engine.commit(writes)


async def _is_killed(documents: MemoryDocuments, clock: ManualClock, file: Path, last: str) -> None:
    """A restore in the same place is killed after this document."""
    killed: Any = Killed(MemoryEngine(clock, documents), last)
    async with make_store(killed, clock) as other:
        with pytest.raises(StoreUnavailable):
            await StateMachinePersister(other).import_history(file)


async def test_a_note_stays_while_another_restore_works_under_it(tmp_path: Path, clock: ManualClock) -> None:
    """A restore that is refused removes only its own note: one that has gone on from it may still be killed."""
    await _export(tmp_path, clock)
    documents = MemoryDocuments()

    async def overtake() -> None:
        async with _store(MemoryEngine(clock, documents), clock) as service:
            await service.save_state(GOVERNOR, "a", {"n": "service"}, METADATA)
        await _is_killed(documents, clock, tmp_path / FILE, "events/c~000000000003")

    engine: Any = Before(MemoryEngine(clock, documents), f"governors/{GOVERNOR}", overtake)
    async with _store(engine, clock) as store:
        persister = StateMachinePersister(store)
        with pytest.raises(GovernorExists) as caught:
            await persister.import_history(tmp_path / FILE)
        assert caught.value.is_overtaken
        assert [each.kind for each in (await persister.validate_consistency()).findings] == ["restore"]


async def test_a_note_that_is_removed_meanwhile_is_not_written_again(tmp_path: Path, clock: ManualClock) -> None:
    """The restore that wrote it was refused: the other one has not looked whether the governor is there."""
    await _export(tmp_path, clock)
    documents = MemoryDocuments()
    await _is_killed(documents, clock, tmp_path / FILE, NOTE)

    async def overtake() -> None:
        async with _store(MemoryEngine(clock, documents), clock) as service:
            await service.core.engine.commit([Delete(NOTE)])
            await service.save_state(GOVERNOR, "z", {"n": "service"}, METADATA)

    engine: Any = Before(MemoryEngine(clock, documents), NOTE, overtake)
    async with _store(engine, clock) as store:
        persister = StateMachinePersister(store)
        with pytest.raises(GovernorExists):
            await persister.import_history(tmp_path / FILE)
        assert await store.count_states(GOVERNOR) == 1
        assert (await persister.validate_consistency()).findings == ()


async def test_a_recovery_makes_no_state_of_a_restore_that_began_meanwhile(tmp_path: Path, clock: ManualClock) -> None:
    """The events that it has read are only a part: the state is for the restore to write."""
    await _export(tmp_path, clock)
    documents = MemoryDocuments()
    await _is_killed(documents, clock, tmp_path / FILE, "events/b~000000000003")
    async with _store(MemoryEngine(clock, documents), clock) as store:
        [note] = (await store.core.engine.read([NOTE])).documents
        assert note is not None
        await store.core.engine.commit([Delete(NOTE)])

    async def overtake() -> None:
        async with _store(MemoryEngine(clock, documents), clock) as other:
            await other.core.engine.commit([Put(NOTE, note.fields())])

    engine: Any = Before(MemoryEngine(clock, documents), f"governors/{GOVERNOR}/states/b", overtake)
    async with _store(engine, clock) as store:
        persister = StateMachinePersister(store)
        assert (await persister.recover(GOVERNOR)).rebuilt == ()
        assert not await store.exists(GOVERNOR, "b")
        await persister.import_history(tmp_path / FILE)
        assert (await store.get_state(GOVERNOR, "b")).version == VERSIONS


async def test_nothing_makes_way_under_another_restore(tmp_path: Path, clock: ManualClock) -> None:
    """A restore of a cleaned-up export that stood still removes no event that the other one has written, or needs."""
    async with _store(MemoryEngine(clock), clock) as origin:
        exports = StateMachinePersister(origin)
        for n in range(12):
            await origin.save_state(GOVERNOR, "b", {"n": n}, METADATA, expected=ANY)
        await exports.export_history(GOVERNOR, tmp_path / FILE)
        clock.advance_us(4 * 3_600_000_000)
        await exports.cleanup_old_data(GOVERNOR, keep=timedelta(hours=1))
        await exports.export_history(GOVERNOR, tmp_path / OTHER)
    ended = 0
    for at in count(1):
        documents, left = MemoryDocuments(), list[dict[str, Any]]()
        await _is_killed(documents, clock, tmp_path / FILE, "events/b~000000000003")
        engine: Any = Overtaken(OneByOne(MemoryEngine(clock, documents)))  # type: ignore[arg-type]

        async def overtake(documents: MemoryDocuments = documents, left: list[dict[str, Any]] = left) -> None:
            killed: Any = Killed(MemoryEngine(clock, documents), "events/b~000000000005")
            async with make_store(killed, clock) as other:
                with suppress(StoreUnavailable):
                    await StateMachinePersister(other).import_history(tmp_path / FILE, keep_changed=True)
                left.append(await dump(killed))

        async with _store(engine, clock) as store:
            persister = StateMachinePersister(store)
            engine.plan(at, overtake)
            error: GovernorExists | None = None
            try:
                await persister.import_history(tmp_path / OTHER, keep_changed=True)
            except GovernorExists as raised:
                error, ended = raised, ended + 1
            assert error is None or (error.is_overtaken and [await dump(engine)] == left)
            if engine.calls < at:
                break
    assert ended > 3
