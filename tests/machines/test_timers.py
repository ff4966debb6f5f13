"""Time-outs of stored machines are taken once, when they are due, by whoever looks first."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from pydantic import model_validator

from tai_state import InvalidData, Transaction
from tai_state.machines import (
    DataState,
    Failure,
    Timeout,
    TimersReport,
    allow,
    define,
    described,
    run_timers,
    time_out,
)
from tai_state.testing import ManualClock

from ..conftest import EngineUnderTest
from ..support.kettles import KETTLE, ON, STUCK, Kettle, kettle
from ..support.stores import GOVERNOR, METADATA, CountingEngine, Place, Places, collected, make_store
from ..support.timers import SECOND_US, check_index, entries, later, switched_on

pytestmark = pytest.mark.anyio

OTHER = kettle("another kettle")


async def test_a_time_out_is_taken_when_it_is_due(place: Place):
    """It is not taken a microsecond early, once it is due it is taken, and the next one counts from there."""
    async with place.store() as store:
        machine = await switched_on(store)
        due = (await machine.get()).due
        later(place, 29.999_999)
        assert await run_timers(store, KETTLE) == TimersReport()
        later(place, 0.000_001)
        assert await run_timers(store, KETTLE) == TimersReport(fired=1)
        hot = await machine.get()
        assert (hot.state, hot.entered_at, hot.version) == (Kettle.Hot, due, 3)
        assert await run_timers(store, KETTLE) == TimersReport()
        later(place, 5)
        assert await run_timers(store, KETTLE) == TimersReport(fired=1)
        assert (await machine.get()).state is Kettle.Off
        later(place, 3600)
        assert await run_timers(store, KETTLE) == TimersReport()
        assert await check_index(store) == 0


async def test_the_step_says_that_a_time_out_took_it(place: Place):
    """Its trigger is the time-out, which is the reason, too, unless the runner gives one."""
    async with place.store() as store:
        machine = await switched_on(store)
        later(place, 30)
        await run_timers(store, [KETTLE])
        later(place, 5)
        await run_timers(store, [KETTLE], metadata=METADATA)
        hot, off = (await collected(machine.history()))[-2:]
        assert (hot.trigger, hot.changed_by, hot.reason) == (Timeout(30_000), "timers", str(Timeout(30_000)))
        assert (off.trigger, off.changed_by, off.reason) == (Timeout(5_000), "tester", "a test")


async def test_a_late_look_takes_one_step_only(place: Place):
    """A machine that was left alone for an hour takes the step that was due; the next one is due later."""
    async with place.store() as store:
        machine = await switched_on(store)
        later(place, 3600)
        assert await run_timers(store, KETTLE) == TimersReport(fired=1)
        assert (await machine.get()).state is Kettle.Hot


async def test_an_idle_look_is_one_call(place: Place):
    """Where nothing is due, a look is one scan, which finds nothing, however many time-outs are to come."""
    async with place.store(engine := CountingEngine(place.engine())) as store:
        for n in range(3):
            await switched_on(store, f"k{n}")
        engine.reset()
        await run_timers(store, KETTLE)
        assert (engine.counts.calls, engine.counts.scans, engine.counts.documents) == (1, 1, 0)


async def test_what_is_due_is_all_that_is_read(place: Place):
    """A look reads the entries of what is due and the machines in them, all in one call; each step is one commit."""
    async with place.store(engine := CountingEngine(place.engine())) as store:
        for n in range(7):
            await switched_on(store, f"k{n}")
            later(place, 10)
        engine.reset()
        assert (await run_timers(store, KETTLE)).fired == 5
        counts = engine.counts
        assert (counts.scans, counts.reads, len(counts.commits), counts.documents) == (1, 1, 5, 10)
        assert {len(writes) for writes in counts.commits} == {4}  # the event, the state, two entries of the index


async def test_a_look_among_many_machines_reads_what_is_due(place: Place, engine_under_test: EngineUnderTest):
    """Among many machines with time-outs, a look reads the entries and the states of the few that are due."""
    many, due = (1_000 if engine_under_test.name in ("memory", "sqlite") else 60), 10
    definition = define("kettle", Kettle, initial=Kettle.On, rules=KETTLE.rules, unreached=[Kettle.Off])
    async with place.store(engine := CountingEngine(place.engine())) as store:

        async def make(first: int, last: int) -> None:
            async with anyio.create_task_group() as tasks:
                for n in range(first, last):
                    machine = store.machine(GOVERNOR, f"k{n}", definition, metadata=METADATA)
                    tasks.start_soon(machine.initialize)

        await make(0, 1)
        await make(1, due)
        later(place, 10)
        await make(due, many)
        later(place, 20)
        engine.reset()
        assert await run_timers(store, definition) == TimersReport(fired=due)
        counts = engine.counts
        assert (counts.scans, counts.reads, counts.documents, len(counts.commits)) == (1, 1, 2 * due, due)
        assert len(await entries(store)) == many


async def test_a_machine_that_entered_its_state_again_counts_anew(place: Place):
    """The time-out of the first time is gone with its entry; that of the second time is taken."""
    async with place.store() as store:
        machine = await switched_on(store)
        later(place, 20)
        await machine.transition_to(Kettle.On, ON)
        later(place, 20)
        assert await run_timers(store, KETTLE) == TimersReport()
        later(place, 10)
        assert await run_timers(store, KETTLE) == TimersReport(fired=1)


async def test_the_same_moment_twice_is_two_time_outs(place: Place):
    """A machine that enters a state again at the same time, by a clock that was set back, takes both time-outs."""
    async with place.store() as store:
        machine = await switched_on(store)
        later(place, 30)
        await run_timers(store, KETTLE)
        later(place, -30)
        await machine.transition_to(Kettle.Off, ON)
        await machine.transition_to(Kettle.On, ON)
        later(place, 30)
        assert await run_timers(store, KETTLE) == TimersReport(fired=1)
        assert (await machine.get()).state is Kettle.Hot


async def test_an_event_that_is_logged_leaves_the_time_out(place: Place):
    """What leaves the state of a machine as it is does not put its time-out off."""
    async with place.store() as store:
        machine = await switched_on(store)
        later(place, 20)
        await store.log_event(GOVERNOR, "k", "seen", METADATA)
        later(place, 10)
        assert await run_timers(store, KETTLE) == TimersReport(fired=1)
        assert (await machine.get()).version == 4


async def test_a_timestamp_does_not_move_a_time_out(place: Place):
    """A time-out counts from the clock, and not from when the caller says that the step happened."""
    async with place.store() as store:
        machine = store.machine(GOVERNOR, "k", KETTLE, metadata=METADATA)
        await machine.initialize()
        long_ago = (await machine.get()).entered_at.replace(year=2001)
        await machine.transition_to(Kettle.On, ON, timestamp=long_ago)
        later(place, 29)
        assert await run_timers(store, KETTLE) == TimersReport()


async def test_two_runners_at_once_take_each_step_once(place: Place):
    """Of two runners, one takes the step of a machine, and the other one finds that it has moved on."""
    async with place.store() as store, place.store() as other:
        machines = [await switched_on(store, f"k{n}") for n in range(12)]
        later(place, 30)
        reports: list[TimersReport] = []

        async def run(one: Any) -> None:
            reports.append(await run_timers(one, KETTLE, concurrency=4))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, store)
            tasks.start_soon(run, other)
        assert sum(report.fired for report in reports) == 12
        assert all(not (report.failed or report.refused or report.undefined) for report in reports)
        assert {(await machine.get()).version for machine in machines} == {3}
        assert await check_index(store) == 12


async def test_a_step_that_is_refused_is_left_and_hinders_no_other(place: Place, caplog: pytest.LogCaptureFixture):
    """The machine stays as it is, with its time-out, and every look tells of it; the others take their steps."""
    async with place.store() as store:
        stuck = await switched_on(store, "a", STUCK)
        await switched_on(store, "b")
        later(place, 30)
        for fired in (1, 0):
            report = await run_timers(store, [STUCK, KETTLE])
            assert (report.fired, report.undefined, report.failed) == (fired, (), ())
            [(path, reason)] = report.refused
            assert path == stuck.stream.state
            assert "it is stuck" in reason
        assert (await stuck.get()).state is Kettle.On
        assert "it is stuck" in caplog.text
        await stuck.transition_to(Kettle.Off, ON)
        assert await run_timers(store, [STUCK, KETTLE]) == TimersReport()


async def test_a_machine_of_another_definition_is_told_and_left(place: Place):
    """A machine whose definition was not given stays as it is; a runner that has it takes the step."""
    async with place.store() as store:
        await switched_on(store, "a", OTHER)
        await switched_on(store, "b")
        later(place, 30)
        report = await run_timers(store, KETTLE)
        assert (report.fired, report.refused, report.failed) == (1, (), ())
        [(path, reason)] = report.undefined
        assert path == f"governors/{GOVERNOR}/states/a"
        assert "'another kettle'" in reason
        assert await run_timers(store, OTHER) == TimersReport(fired=1)


async def test_the_definition_counts_under_which_a_machine_was_written(place: Place):
    """Of two versions, the older one takes the steps of its machines; without it, the newer one does."""
    slow = define("kettle", Kettle, version=2, initial=Kettle.Off, rules=[
        allow(Kettle.Off, Kettle.On), allow(Kettle.On, Kettle.Broken), allow(Kettle.Hot, Kettle.Off),
        time_out(Kettle.On, Kettle.Broken, seconds=60),
    ], unreached=[Kettle.Hot])  # fmt: skip
    async with place.store() as store:
        old = await switched_on(store, "old")
        new = await switched_on(store, "new", slow)
        later(place, 30)
        assert await run_timers(store, [slow, KETTLE]) == TimersReport(fired=1)
        assert (await old.get()).state is Kettle.Hot
        left = await switched_on(store, "left")
        later(place, 30)
        report = await run_timers(store, slow)
        assert (report.fired, report.undefined) == (2, ())
        assert [(await each.get()).state for each in (new, left)] == [Kettle.Broken, Kettle.Broken]
        [(path, reason)] = report.refused
        assert (path, "this state has no time-out" in reason) == (old.stream.state, True)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda store: store.delete_state(GOVERNOR, "k", METADATA, expected=2),
        lambda store: store.save_state(GOVERNOR, "k", {"plain": True}, METADATA, expected=2),
        lambda store: store.machine(GOVERNOR, "k", KETTLE, metadata=METADATA).force_state(Kettle.Off, "it is needed"),
    ],
    ids=["deleted", "overwritten", "forced"],
)
async def test_a_machine_that_is_gone_has_no_time_out(place: Place, spoil: Callable[[Any], Any]):
    """Whatever takes a machine out of its state takes its time-out with it."""
    async with place.store() as store:
        await switched_on(store)
        await spoil(store)
        assert await entries(store) == {}
        later(place, 30)
        assert await run_timers(store, KETTLE) == TimersReport()


async def test_what_is_no_machine_is_told_and_left(place: Place):
    """Data that has a time where a machine has its own is no machine: it is named, and hinders no other one."""
    async with place.store() as store:
        await store.save_state(GOVERNOR, "a", {"machine": {"due": "2020-01-01T00:00:00.000000Z"}}, METADATA)
        await store.save_state(GOVERNOR, "b", {"machine": {"due": "soon"}}, METADATA)
        await switched_on(store)
        later(place, 30)
        report = await run_timers(store, KETTLE)
        assert (report.fired, [path for path, _ in report.failed]) == (1, [f"governors/{GOVERNOR}/states/a"])


class Pot(DataState):
    """A pot, whose states carry data."""


class Cold(Pot):
    """No data."""

    facts = described("Is cold")


class Boiling(Pot):
    """Data of which nothing is right."""

    facts = described("Boils", terminal=True)
    litres: int = 0

    @model_validator(mode="after")
    def _check(self) -> Boiling:
        raise ZeroDivisionError("it boils over")


POT = define("pot", [Cold, Boiling], initial=Cold(), rules=[time_out(Cold, Boiling, seconds=30)])


async def test_a_function_that_raises_hinders_no_other(place: Place):
    """An exception of a definition's own function is told with the machine, and the others take their steps."""
    async with place.store() as store:
        await store.machine(GOVERNOR, "a", POT, metadata=METADATA).initialize()
        await switched_on(store, "b")
        later(place, 30)
        report = await run_timers(store, [POT, KETTLE])
        assert report == TimersReport(fired=1, failed=((f"governors/{GOVERNOR}/states/a", "it boils over"),))


async def test_a_transaction_moves_the_time_outs_of_its_machines(place: Place):
    """Steps in a transaction put and take away time-outs in its commit; one that fails leaves them as they were."""
    async with place.store() as store:
        one, two = await switched_on(store, "a"), store.machine(GOVERNOR, "b", KETTLE, metadata=METADATA)
        await two.initialize()

        async def swap(transaction: Transaction) -> None:
            transaction.machine(one).transition_to(Kettle.Off, ON)
            transaction.machine(two).transition_to(Kettle.On, ON)

        await store.transact(swap, metadata=METADATA)
        assert [fields["state_id"] for fields in (await entries(store)).values()] == ["b"]
        before = await entries(store)

        async def fail(transaction: Transaction) -> None:
            transaction.machine(two).transition_to(Kettle.Broken, Failure("b", "it broke"))
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await store.transact(fail, metadata=METADATA)
        assert await entries(store) == before
        assert await check_index(store) == 1


async def test_the_engines_time_decides_what_is_early(memory_places: Places):
    """A store whose clock is ahead of the engine's finds a machine early, and leaves it until the engine's time."""
    place = memory_places.new()
    async with place.store() as store:
        await switched_on(store)
        ahead = ManualClock(place.clock.now_us() + 60 * SECOND_US)
        async with make_store(place.engine(), ahead) as fast:
            assert await run_timers(fast, KETTLE) == TimersReport()
            later(place, 30)
            assert await run_timers(fast, KETTLE) == TimersReport(fired=1)


async def test_a_runner_goes_on_until_it_is_cancelled(place: Place, caplog: pytest.LogCaptureFixture):
    """It takes what becomes due between two looks, and tells of a machine that is stuck once, not at every look."""
    caplog.set_level(logging.WARNING, "tai_state.machines")
    async with place.store() as store:
        await switched_on(store, "stuck", STUCK)
        later(place, 30)
        async with anyio.create_task_group() as tasks:

            async def run() -> None:
                await run_timers(store, [KETTLE, STUCK], every_seconds=0.001)

            tasks.start_soon(run)
            for n in range(3):
                machine = await switched_on(store, f"k{n}")
                async with store.watch(GOVERNOR, f"k{n}") as changes:
                    later(place, 30)
                    async for change in changes:
                        if change.data["machine"]["state"] == "Hot":
                            break
                assert (await machine.get()).version == 3
            tasks.cancel_scope.cancel()
    assert 1 <= caplog.text.count("it is stuck") <= 4


@pytest.mark.parametrize(
    ("definitions", "more"),
    [
        ((), {}),
        ("kettle", {}),
        ([KETTLE, "kettle"], {}),
        (KETTLE, {"concurrency": 0}),
        (KETTLE, {"every_seconds": 0}),
        (KETTLE, {"every_seconds": -1}),
        (KETTLE, {"every_seconds": "often"}),
        (KETTLE, {"metadata": "me"}),
    ],
)
async def test_a_wrong_argument_is_refused(memory_places: Places, definitions: Any, more: dict[str, Any]):
    """A runner that was asked for the impossible says so before it looks."""
    place = memory_places.new()
    async with place.store(engine := CountingEngine(place.engine())) as store:
        engine.reset()
        with pytest.raises(InvalidData):
            await run_timers(store, definitions, **more)
        assert engine.counts.calls == 0
