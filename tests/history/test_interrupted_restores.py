"""A restore that was interrupted: whoever looks is told so, and nobody makes a truncated history a sound one."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tai_state import ANY, ConsistencyReport, Never, StateMachinePersister, StoreUnavailable, TaiStateError
from tai_state.engines.api import Capabilities, Engine, Put, Write
from tai_state.engines.memory import MemoryEngine
from tai_state.testing import ManualClock

from ..support.stores import GOVERNOR, METADATA, AroundEngine, make_store

pytestmark = pytest.mark.anyio

STATES = f"governors/{GOVERNOR}/states/"
EVENTS = f"governors/{GOVERNOR}/events/"

CUTS = pytest.mark.parametrize("where", ["between states", "within a stream"])


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: all of it is decided above the engines."""
    return "asyncio"


class Cut(AroundEngine):
    """Fails once what was committed last ends where it is to be cut.

    Args:
        engine: the one that does the work.
        where: after a state with all of its events ("between states"), or after an event whose state is still to
            come ("within a stream").
    """

    def __init__(self, engine: Engine, where: str) -> None:
        super().__init__(engine)
        self._cut_after = {"between states": STATES, "within a stream": EVENTS}[where]
        self._last = ""

    @property
    def capabilities(self) -> Capabilities:
        """The engine's, but that a commit takes few writes, so that the restore needs several."""
        return replace(self._engine.capabilities, max_ops_per_commit=200)

    async def commit(self, writes: Sequence[Write]) -> Any:  # noqa: D102
        if self._last.startswith(self._cut_after):
            raise StoreUnavailable("commit", "TEST")
        committed = await self._engine.commit(writes)
        self._last = next((each.path for each in reversed(writes) if isinstance(each, Put)), "")
        return committed


async def _make_export(path: Path, where: str) -> int:
    """An export of many states; how many documents of states it holds. What is cut within a stream has a long one."""
    clock = ManualClock(step_us=1)
    async with make_store(MemoryEngine(clock), clock, snapshots=Never()) as store:
        if where == "within a stream":
            for state_id, versions in (("a", 1), ("b", 500), ("c", 1)):
                for n in range(versions):
                    await store.save_state(GOVERNOR, state_id, {"n": n}, METADATA, expected=ANY)
        else:
            for n in range(300):
                # With the governor's own document and this id's marker, an even number of lines precedes the states.
                event_id = "the caller's" if n == 0 else None
                await store.save_state(GOVERNOR, f"s{n:03}", {"n": n}, METADATA, event_id=event_id)
        return (await StateMachinePersister(store).export_history(GOVERNOR, path)).states


async def _interrupt(folder: Path, clock: ManualClock, where: str) -> tuple[Engine, int]:
    """Where a restore of ``folder / "backup.jsonl"`` was interrupted, and how many states are in that file."""
    path = folder / "backup.jsonl"
    states = await _make_export(path, where)
    engine = MemoryEngine(clock)
    async with make_store(Cut(engine, where), clock) as store:  # type: ignore[arg-type]
        with pytest.raises(StoreUnavailable):
            await StateMachinePersister(store).import_history(path)
    return engine, states


def names_it(text: str) -> bool:
    """Whether a message is about the restore, and not the advice to restore a backup."""
    return "restore" in text.replace("restore a backup", "")


def says_so(report: ConsistencyReport) -> bool:
    """Whether a report names the restore."""
    return not report.consistent and any(names_it(each.message) for each in report.findings)


@CUTS
async def test_verify_says_that_a_restore_is_unfinished(tmp_path: Path, clock: ManualClock, where: str):
    """Wherever a restore was cut, the governor is not consistent, and a finding says what to do: restore again."""
    engine, _ = await _interrupt(tmp_path, clock, where)
    async with make_store(engine, clock) as store:
        assert says_so(await StateMachinePersister(store).validate_consistency(GOVERNOR))
        assert says_so(await StateMachinePersister(store).validate_consistency())


@CUTS
async def test_recovery_leaves_an_unfinished_restore_alone(tmp_path: Path, clock: ManualClock, where: str):
    """A recovery in between neither makes states of half their events nor stands in the way of the restore."""
    engine, states = await _interrupt(tmp_path, clock, where)
    async with make_store(engine, clock) as store:
        persister = StateMachinePersister(store)
        assert (await persister.recover(GOVERNOR)).rebuilt == ()
        assert says_so(await persister.validate_consistency(GOVERNOR))
        assert (await persister.import_history(tmp_path / "backup.jsonl")).states == states
        assert (await persister.validate_consistency(GOVERNOR)).consistent
        assert await store.count_states(GOVERNOR) == states


async def refusal(awaitable: Awaitable[object]) -> str:
    """What somebody who is refused is told; nothing where they are not refused."""
    try:
        await awaitable
    except TaiStateError as error:
        return str(error)
    return ""


async def test_a_state_is_not_rebuilt_from_half_its_events(tmp_path: Path, clock: ManualClock):
    """A state that a restore has only begun to write is not served as it was in the middle of its history."""
    engine, _ = await _interrupt(tmp_path, clock, "within a stream")
    async with make_store(engine, clock) as store:
        assert names_it(await refusal(StateMachinePersister(store).load_state(GOVERNOR, "b")))
        assert not await store.exists(GOVERNOR, "b")


@CUTS
async def test_an_unfinished_restore_is_not_exported(tmp_path: Path, clock: ManualClock, where: str):
    """There is no export of a part that would pass for the whole."""
    engine, _ = await _interrupt(tmp_path, clock, where)
    part = tmp_path / "part.jsonl"
    async with make_store(engine, clock) as store:
        assert names_it(await refusal(StateMachinePersister(store).export_history(GOVERNOR, part)))
    assert not part.exists()


@CUTS
async def test_an_interrupted_restore_goes_on(tmp_path: Path, clock: ManualClock, where: str):
    """Run again with the same file, it writes the rest, and all is as in the file."""
    engine, states = await _interrupt(tmp_path, clock, where)
    async with make_store(engine, clock) as store:
        persister = StateMachinePersister(store)
        assert (await persister.import_history(tmp_path / "backup.jsonl")).states == states
        assert (await persister.validate_consistency(GOVERNOR)).consistent
        assert await store.count_states(GOVERNOR) == states
