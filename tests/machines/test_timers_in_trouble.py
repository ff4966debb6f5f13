"""Time-outs are taken once, whatever happens to runners, answers and files."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from tai_state import LastWriteWins, StateMachinePersister, StateStore, StoreUnavailable, open_store, sync
from tai_state.engines.sqlite.engine import SqliteEngine
from tai_state.machines import TimersReport, run_timers
from tai_state.streams.settings import SystemClock
from tai_state.testing import AtCalls, Fault, FaultyEngine, ManualClock

from ..support.kettles import KETTLE, Kettle
from ..support.processes import started
from ..support.stores import METADATA, Places, collected, make_store
from ..support.timers import SECOND_US, check_index, later, switched_on

pytestmark = pytest.mark.anyio

FAULTS = (Fault.REFUSED, Fault.LOST_BEFORE, Fault.LOST_AFTER, Fault.DELAYED, Fault.DUPLICATED)
MACHINES = 40
RUNNER = Path(__file__).parents[1] / "support" / "timer_runner.py"


def plan(faulty: FaultyEngine, *faults: tuple[int, Fault]) -> None:
    """Let calls that are to come fail, by their number from now on."""
    calls = faulty.statistics().calls
    faulty.plan = AtCalls({("any", calls + number): fault for number, fault in faults})


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: what is shown is decided above it."""
    return "asyncio"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda each: each.value)
async def test_an_answer_that_is_lost_makes_no_second_step(memory_places: Places, fault: Fault):
    """Whatever happens to the commit of a step, it is taken once, and its next time-out stands in the index."""
    place = memory_places.new()
    faulty = FaultyEngine(place.engine(), AtCalls({}))
    async with place.store(faulty) as store:
        machine = await switched_on(store)
        later(place, 30)
        plan(faulty, (3, fault))
        report = await run_timers(store, KETTLE)
        assert faulty.statistics().hit == {fault: 1}
        assert report == TimersReport(fired=1)
        await run_timers(store, KETTLE)
        now = await machine.get()
        assert (now.state, now.version) == (Kettle.Hot, 3)
        assert await check_index(store) == 1


async def test_a_store_that_cannot_be_reached_ends_a_look_and_not_a_runner(memory_places: Places):
    """A single look raises, and the machine keeps its time-out; a runner that goes on looks again, and takes it."""
    place = memory_places.new()
    faulty = FaultyEngine(place.engine(), AtCalls({}))
    async with place.store(faulty) as store, place.store() as beside:
        machine = await switched_on(store)
        later(place, 30)
        plan(faulty, (3, Fault.UNAVAILABLE))
        with pytest.raises(StoreUnavailable):
            await run_timers(store, KETTLE)
        assert await check_index(store) == 1
        plan(faulty, (1, Fault.UNAVAILABLE), (4, Fault.UNAVAILABLE))
        async with anyio.create_task_group() as tasks, beside.watch("bank", "k") as changes:

            async def run() -> None:
                await run_timers(store, KETTLE, every_seconds=0.001)

            tasks.start_soon(run)
            async for change in changes:
                if change.data["machine"]["state"] == "Hot":
                    break
            tasks.cancel_scope.cancel()
        assert (await machine.get()).version == 3


async def test_one_machine_that_cannot_be_written_stops_no_other(memory_places: Places):
    """The steps of the others are taken, though the look ends with the error."""
    place = memory_places.new()
    faulty = FaultyEngine(place.engine(), AtCalls({}))
    async with place.store(faulty) as store:
        for n in range(6):
            await switched_on(store, f"k{n}")
        later(place, 30)
        plan(faulty, (4, Fault.UNAVAILABLE))
        with pytest.raises(StoreUnavailable):
            await run_timers(store, KETTLE, concurrency=1)
        assert await run_timers(store, KETTLE) == TimersReport(fired=1)


async def test_a_runner_that_is_killed_leaves_no_step_by_half(tmp_path: Path):
    """Two runners are killed in the middle: afterwards each machine took its step once, or still has its time-out."""
    url = f"sqlite:///{tmp_path}/kettles.db"
    clock = ManualClock()
    async with open_store(SqliteEngine(f"{tmp_path}/kettles.db", clock), clock=clock) as store:
        for n in range(MACHINES):
            await switched_on(store, f"{n:03}")
    command = [sys.executable, str(RUNNER), url]
    async with open_store(url) as store, store.watch("bank", "005") as changes:
        await anext(changes)
        with started(command) as one, started(command) as other:
            await anext(changes)
            for process in (one, other):
                process.send_signal(signal.SIGKILL)
                await anyio.to_thread.run_sync(process.wait)
    clock = ManualClock(SystemClock().now_us() + 3_600 * SECOND_US)
    async with open_store(SqliteEngine(f"{tmp_path}/kettles.db", clock), clock=clock) as store:
        assert (await StateMachinePersister(store).validate_consistency()).findings == ()
        await check_index(store)
        while (await run_timers(store, KETTLE)).fired:
            clock.advance_us(3_600 * SECOND_US)
        for n in range(MACHINES):
            machine = store.machine("bank", f"{n:03}", KETTLE, metadata=METADATA)
            steps = [event.to_state async for event in machine.history()]
            assert steps == ["Off", "On", "Hot", "Off"]
        assert await check_index(store) == 0


async def test_a_backup_that_is_put_back_takes_its_time_outs_again(tmp_path: Path):
    """The copy knows nothing of the step that was taken after it: it takes it, and a sync joins what both did."""
    clock = ManualClock()
    engine = SqliteEngine(f"{tmp_path}/kettles.db", clock)
    async with make_store(engine, clock) as store:
        await switched_on(store)
        await engine.backup(f"{tmp_path}/backup.db", lambda *_: None)
        clock.advance_us(30 * SECOND_US)
        assert (await run_timers(store, KETTLE)).fired == 1
        ahead = ManualClock(clock.now_us() + SECOND_US)
        async with open_store(SqliteEngine(f"{tmp_path}/backup.db", ahead), clock=ahead) as other:
            assert await check_index(other) == 1
            assert (await run_timers(other, KETTLE)).fired == 1
            report = await sync(store, other, resolver=LastWriteWins())
            assert report.failed == ()
            for each in (store, other):
                assert await check_index(each) == 1
                assert (await StateMachinePersister(each).validate_consistency()).findings == ()
            assert await _data(store) == await _data(other)


async def _data(store: StateStore) -> Any:
    return [state.data for state in await collected(store.list_states("bank"))]
