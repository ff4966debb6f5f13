"""A restore was killed and its file is lost; what it has begun and another export join, though one was cleaned up."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from tai_state import (
    ANY,
    EveryEvents,
    NotRetained,
    StateMachinePersister,
    StateStore,
    StoreUnavailable,
    sync,
)
from tai_state.engines.api import Delete, Engine
from tai_state.engines.memory import MemoryEngine
from tai_state.testing import ManualClock

from ..support.histories import HOUR
from ..support.stores import GOVERNOR, METADATA, Killed, make_store

pytestmark = pytest.mark.anyio

STATES = ("a", "b")
EARLY, WHOLE, CLEANED = "early.jsonl", "whole.jsonl", "cleaned.jsonl"
"""Exports of versions 1 to 6, of 1 to 12, and of what a cleanup left of these: 10 to 12."""

VERSIONS = {EARLY: range(1, 7), WHOLE: range(1, 13), CLEANED: range(10, 13)}
KEEP = timedelta(hours=2)


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: all of it is decided above the engines."""
    return "asyncio"


def opened(engine: Engine, clock: ManualClock) -> StateStore:
    """A store on an engine."""
    return make_store(engine, clock, snapshots=EveryEvents(2, keep=2))


async def exported(clock: ManualClock, folder: Path) -> Engine:
    """The source of the three exports, whose events all have ids of the caller's."""
    engine = MemoryEngine(clock)
    async with opened(engine, clock) as store:
        persister = StateMachinePersister(store)
        for first, until, name in ((0, 6, EARLY), (6, 12, WHOLE)):
            for state_id in STATES:
                for n in range(first, until):
                    await store.save_state(
                        GOVERNOR, state_id, {"n": n}, METADATA, expected=ANY, event_id=f"{state_id}{n}"
                    )
            await persister.export_history(GOVERNOR, folder / name)
        clock.advance_us(100 * HOUR)
        await persister.cleanup_old_data(GOVERNOR, keep=KEEP)
        await persister.export_history(GOVERNOR, folder / CLEANED)
    return engine.beside()


def places(lost: str) -> list[str]:
    """Documents of a file's second stream after which its restore is killed."""
    first, *_, last = VERSIONS[lost]
    return ["states/a", f"events/b~{first:012d}", f"events/b~{last - 1:012d}", f"snapshots/b~{last:012d}"]


CASES = [(lost, other, last) for lost in VERSIONS for other in VERSIONS if lost != other for last in places(lost)]


@pytest.mark.parametrize(("lost", "other", "last"), CASES)
async def test_another_export_goes_on_without_a_gap(
    tmp_path: Path, clock: ManualClock, lost: str, other: str, last: str
) -> None:
    """The other file, and a recovery where that is said, leave a sound store that forgets no id it has recorded."""
    source = await exported(clock, tmp_path)
    engine = MemoryEngine(clock)
    async with make_store(Killed(engine, last), clock) as store:
        with pytest.raises(StoreUnavailable):
            await StateMachinePersister(store).import_history(tmp_path / lost)
    async with opened(engine, clock) as store, opened(source, clock) as origin:
        persister = StateMachinePersister(store)
        await persister.import_history(tmp_path / other, keep_changed=True)
        await persister.recover()
        assert (await persister.validate_consistency()).findings == ()
        for state_id in STATES:
            version = (await store.get_state(GOVERNOR, state_id)).version
            for n in range(version):
                await once(store, state_id, n)
            assert (await store.get_state(GOVERNOR, state_id)).version == version
        assert (await sync(origin, store)).complete
        assert (await persister.validate_consistency()).findings == ()
        for state_id in STATES:
            assert (await store.get_state(GOVERNOR, state_id)).data == {"n": 11}


async def once(store: StateStore, state_id: str, n: int) -> None:
    """Make a call again that was made, and whose event may have been cleaned up."""
    with suppress(NotRetained):
        await store.save_state(GOVERNOR, state_id, {"n": n}, METADATA, expected=ANY, event_id=f"{state_id}{n}")


async def test_events_of_another_history_stay(tmp_path: Path, clock: ManualClock) -> None:
    """What a service has made of a state before the file's first event of it is named and left, though it is lost."""
    await exported(clock, tmp_path)
    engine = MemoryEngine(clock)
    async with make_store(Killed(engine, "states/a"), clock) as store:
        with pytest.raises(StoreUnavailable):
            await StateMachinePersister(store).import_history(tmp_path / EARLY)
    async with opened(engine, clock) as store:
        for n in range(2):
            await store.save_state(GOVERNOR, "b", {"service": n}, METADATA, expected=n)
        await engine.commit([Delete("governors/bank/states/b")])
    async with opened(engine, clock) as store:
        persister = StateMachinePersister(store)
        stats = await persister.import_history(tmp_path / CLEANED, keep_changed=True)
        assert "governors/bank/states/b" in stats.kept
        assert "governors/bank/states/b" in (await persister.recover()).rebuilt
        assert (await store.get_state(GOVERNOR, "b")).data == {"service": 1}
        assert (await persister.validate_consistency()).findings == ()
