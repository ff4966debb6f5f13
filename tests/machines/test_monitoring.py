"""The monitor: when it looks, what it counts and tells, what it mends, and what it survives."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import anyio
import pytest

from tai_state.machines import (
    Alert,
    CoordinatorView,
    InvariantMonitor,
    MultipleCoordinators,
    QuorumLost,
    Severity,
    SystemInvariant,
    SystemView,
    VerticalIncoherence,
    WorkerView,
)
from tai_state.machines.ready import CoordinatorState, SystemState, WorkerState
from tai_state.testing import ManualClock

pytestmark = pytest.mark.anyio

SOUND = SystemView(state=SystemState.Ready, quorum=0)
LOST = SystemView(state=SystemState.Ready, quorum=3)
LEADERS = tuple(CoordinatorView(id=id_, state=CoordinatorState.Ready) for id_ in "ab")
SPLIT = SystemView(state=SystemState.Ready, coordinators=LEADERS)
STRAY = SystemView(state=SystemState.Ready, workers=(WorkerView(id="w", state=WorkerState.Initialized),))


class Seen:
    """A system whose view a test sets; it counts how often it was read, and raises or waits if it is told to."""

    def __init__(self, view: SystemView = SOUND) -> None:
        self.view = view
        self.reads = 0
        self.failure: Exception | None = None
        self.open = anyio.Event()
        self.open.set()

    async def __call__(self) -> SystemView:
        """What is seen now."""
        self.reads += 1
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        return self.view


@asynccontextmanager
async def running(monitor: InvariantMonitor) -> AsyncIterator[None]:
    """A monitor that runs, and has looked once."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(monitor.run)
        await anyio.wait_all_tasks_blocked()
        yield
        tasks.cancel_scope.cancel()


async def advance(clock: ManualClock, seconds: float) -> None:
    """Move the clock, and let everybody do what there is to do."""
    clock.advance(seconds)
    await anyio.wait_all_tasks_blocked()


async def test_it_looks_when_its_interval_is_over() -> None:
    """It looks at once, and then each time its interval is over, and not before."""
    seen, clock = Seen(), ManualClock()
    async with running(InvariantMonitor(seen, interval=10, distance=1, clock=clock)):
        assert seen.reads == 1
        for expected in (2, 3):
            await advance(clock, 1)
            await advance(clock, 8.5)
            assert seen.reads == expected - 1
            await advance(clock, 0.5)
            assert seen.reads == expected


async def test_it_looks_when_something_changed() -> None:
    """It looks when it is told of a change, without waiting for the interval."""
    seen, clock = Seen(), ManualClock()
    monitor = InvariantMonitor(seen, interval=None, distance=1, clock=clock)
    async with running(monitor):
        await advance(clock, 10**6)
        assert seen.reads == 1
        monitor.changed()
        await anyio.wait_all_tasks_blocked()
        assert seen.reads == 2


async def test_many_changes_are_one_look() -> None:
    """Changes that come one after the other are one look, and looks keep their distance."""
    seen, clock = Seen(), ManualClock()
    monitor = InvariantMonitor(seen, interval=None, distance=1, clock=clock)
    async with running(monitor):
        for _ in range(100):
            monitor.changed()
            await anyio.wait_all_tasks_blocked()
        assert seen.reads == 1
        await advance(clock, 1)
        assert seen.reads == 2
        await advance(clock, 1)
        assert seen.reads == 2


async def test_a_change_during_a_look_is_looked_at() -> None:
    """A change that comes while it reads the system is seen by the look after."""
    seen, clock = Seen(), ManualClock()
    seen.open = anyio.Event()
    monitor = InvariantMonitor(seen, interval=None, distance=1, clock=clock)
    async with running(monitor):
        monitor.changed()
        seen.open.set()
        await anyio.wait_all_tasks_blocked()
        await advance(clock, 1)
        assert seen.reads == 2


async def test_looks_are_one_at_a_time() -> None:
    """A look that somebody asks for waits for the one that is under way."""
    seen = Seen()
    seen.open = anyio.Event()
    monitor = InvariantMonitor(seen, clock=ManualClock())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(monitor.look)
        tasks.start_soon(monitor.look)
        await anyio.wait_all_tasks_blocked()
        assert seen.reads == 1
        seen.open.set()
    assert seen.reads == 2


async def test_it_counts_what_holds_and_what_does_not() -> None:
    """Each look counts the invariants that hold by name, and what does not hold by kind and severity."""
    seen = Seen(LOST)
    monitor = InvariantMonitor(seen, clock=ManualClock())
    await monitor.look()
    seen.view = STRAY
    await monitor.look()
    seen.view = SOUND
    await monitor.look()
    counters = monitor.counters
    assert (counters.looks, counters.looks_failed) == (3, 0)
    assert counters.violations == {
        ("QuorumLost", Severity.Critical): 1,
        ("VerticalIncoherence", Severity.Warning): 1,
    }
    assert counters.checks_passed["QuorumOperational"] == counters.checks_passed["VerticalCoherence"] == 2
    assert counters.checks_passed["SingleCoordinator"] == 3


async def test_counters_are_values() -> None:
    """Counters that were read do not change with the next look, and nobody can change them."""
    monitor = InvariantMonitor(Seen(LOST), clock=ManualClock())
    await monitor.look()
    before = monitor.counters
    await monitor.look()
    assert before.violations == {("QuorumLost", Severity.Critical): 1}
    assert monitor.counters.violations == {("QuorumLost", Severity.Critical): 2}
    with pytest.raises(TypeError):
        before.violations["x", Severity.Info] = 1  # type: ignore[index]


async def test_it_measures_coherence_lag_and_staleness() -> None:
    """The measures are those of the newest look, by the monitor's clock."""
    clock = ManualClock()
    states = WorkerState.Ready, WorkerState.Aggregating
    workers = tuple(WorkerView(id=state.name, state=state, seen_at=clock.now()) for state in states)
    seen = Seen(SystemView(state=SystemState.Ready, workers=workers))
    monitor = InvariantMonitor(seen, clock=clock)
    assert (monitor.counters.coherence, monitor.counters.looked_at) == (100, None)
    clock.advance(2)
    await monitor.look()
    counters = monitor.counters
    assert (counters.coherence, counters.phase_lag, counters.staleness) == (50, 2, timedelta(seconds=2))
    assert counters.looked_at == clock.now()


async def test_it_tells_of_what_is_new() -> None:
    """What does not hold is told and kept once until it holds again, and a look returns all of it each time."""
    seen, clock, told = Seen(LOST), ManualClock(), list[Alert]()
    monitor = InvariantMonitor(seen, clock=clock, on_violation=told.append)
    for _ in range(3):
        assert [each.finding.violation for each in await monitor.look()] == [QuorumLost(0, 3)]
    seen.view = SystemView(state=SystemState.Ready, quorum=4)
    await monitor.look()
    seen.view = SOUND
    assert await monitor.look() == ()
    clock.advance(1)
    seen.view = LOST
    await monitor.look()
    assert [each.finding.violation for each in told] == [QuorumLost(0, 3), QuorumLost(0, 4), QuorumLost(0, 3)]
    assert monitor.alerts == tuple(told)
    assert told[2].at - told[0].at == timedelta(seconds=1)


async def test_it_forgets_old_alerts() -> None:
    """It keeps the newest alerts alone."""
    seen = Seen()
    monitor = InvariantMonitor(seen, clock=ManualClock(), history_limit=3)
    for quorum in range(1, 6):
        seen.view = SystemView(state=SystemState.Ready, quorum=quorum)
        await monitor.look()
    assert [each.finding.violation for each in monitor.alerts] == [QuorumLost(0, n) for n in (3, 4, 5)]


async def test_a_remedy_is_tried_for_what_is_critical() -> None:
    """The remedy gets what is critical and the view, at each look that finds it; what is less bad is left alone."""
    seen, mended = Seen(SPLIT), list[tuple[Any, SystemView]]()

    async def mend(alert: Alert, view: SystemView) -> None:
        mended.append((alert.finding.violation, view))
        if len(mended) == 2:
            seen.view = STRAY

    monitor = InvariantMonitor(seen, clock=ManualClock(), remedy=mend)
    for _ in range(3):
        await monitor.look()
    assert mended == [(MultipleCoordinators(2), SPLIT)] * 2
    assert (monitor.counters.remedies, monitor.counters.remedies_failed) == (2, 0)
    assert isinstance(monitor.alerts[-1].finding.violation, VerticalIncoherence)


async def fails(*_: object) -> None:
    """A remedy that raises."""
    raise LookupError("no way out")


async def hangs(*_: object) -> None:
    """A remedy that never ends."""
    await anyio.Event().wait()


@pytest.mark.parametrize(("remedy", "seconds"), [(fails, 0), (hangs, 5)])
async def test_a_remedy_that_fails_is_tried_again(
    remedy: Callable[..., Awaitable[None]], seconds: float, caplog: pytest.LogCaptureFixture
) -> None:
    """A remedy that raises, or exceeds the limit, is counted and logged, and the next look tries it again."""
    clock = ManualClock()
    monitor = InvariantMonitor(Seen(LOST), interval=10, distance=1, limit=5, clock=clock, remedy=remedy)
    async with running(monitor):
        await advance(clock, seconds)
        assert (monitor.counters.remedies, monitor.counters.remedies_failed) == (1, 1)
        assert "the remedy failed" in caplog.text
        await advance(clock, 1)
        await advance(clock, 9)
        assert monitor.counters.remedies == 2


async def test_a_system_that_cannot_be_seen_is_looked_at_again(caplog: pytest.LogCaptureFixture) -> None:
    """A look that fails is counted and logged, and the next one sees the system."""
    seen, clock = Seen(LOST), ManualClock()
    seen.failure = ConnectionError("no answer")
    monitor = InvariantMonitor(seen, interval=10, distance=1, clock=clock)
    async with running(monitor):
        assert (monitor.counters.looks, monitor.counters.looks_failed) == (1, 1)
        assert monitor.counters.looked_at is None
        assert "the system could not be seen" in caplog.text
        seen.failure = None
        await advance(clock, 1)
        await advance(clock, 9)
        assert (monitor.counters.looks, monitor.counters.looks_failed) == (2, 1)
        assert len(monitor.alerts) == 1


async def test_a_look_that_is_asked_for_raises_what_it_meets() -> None:
    """Whoever asks for a look gets the error that reading the system raised, as it is."""
    seen = Seen()
    seen.failure = ConnectionError("no answer")
    with pytest.raises(ConnectionError, match="no answer"):
        await InvariantMonitor(seen, clock=ManualClock()).look()


async def test_a_look_that_takes_too_long_is_cancelled() -> None:
    """Reading the system is cancelled when the limit is over, and the next look reads it again."""
    seen, clock = Seen(), ManualClock()
    seen.open = anyio.Event()
    async with running(monitor := InvariantMonitor(seen, interval=10, distance=1, limit=5, clock=clock)):
        await advance(clock, 4)
        assert monitor.counters.looks_failed == 0
        await advance(clock, 1)
        assert monitor.counters.looks_failed == 1
        seen.open.set()
        await advance(clock, 1)
        await advance(clock, 9)
        assert seen.reads == 2
        assert monitor.counters.looked_at is not None


async def test_a_callback_that_raises_is_survived(caplog: pytest.LogCaptureFixture) -> None:
    """A callback that raises is logged, and the others are told and the remedy tried."""
    told: list[Alert] = []

    def tell(alert: Alert) -> None:
        told.append(alert)
        raise LookupError("nobody there")

    async def mend(alert: Alert, _: SystemView) -> None:
        told.append(alert)

    view = SystemView(state=SystemState.Ready, quorum=3, coordinators=LEADERS)
    await InvariantMonitor(Seen(view), clock=ManualClock(), on_violation=tell, remedy=mend).look()
    names = ["SingleCoordinator", "QuorumOperational"]
    assert [alert.finding.invariant for alert in told] == names * 2
    assert "telling of a violation failed" in caplog.text


async def test_what_does_not_hold_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A violation is logged once at the level of its severity, with its fields."""
    monitor = InvariantMonitor(Seen(LOST), clock=ManualClock())
    with caplog.at_level(logging.INFO):
        await monitor.look()
        await monitor.look()
    [record] = caplog.records
    assert record.levelno == logging.CRITICAL
    assert record.getMessage() == "Critical: QuorumOperational: 0 nodes work, and 3 are required"
    fields = vars(record)
    assert (fields["invariant"], fields["severity"], fields["machine"]) == ("QuorumOperational", "Critical", "")


async def test_invariants_can_be_ones_own() -> None:
    """A monitor checks the invariants that it is given, and no others."""
    own = SystemInvariant("own", "There is a state", Severity.Info, lambda _: ())
    monitor = InvariantMonitor(Seen(LOST), invariants=[own], clock=ManualClock())
    assert await monitor.look() == ()
    assert monitor.counters.checks_passed == {"own": 1}


async def test_it_ends_when_it_is_cancelled() -> None:
    """A monitor that is cancelled while it reads the system ends, and another look can follow."""
    seen = Seen()
    seen.open = anyio.Event()
    monitor = InvariantMonitor(seen, clock=ManualClock())
    async with running(monitor):
        assert seen.reads == 1
    seen.open.set()
    assert await monitor.look() == ()


async def test_by_the_computers_clock() -> None:
    """Without a clock of one's own it goes by the computer's."""
    seen, looks = Seen(), anyio.Event()

    def told(_: Alert) -> None:
        looks.set()

    monitor = InvariantMonitor(seen, interval=0, distance=0, on_violation=told)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(monitor.run)
        seen.view = LOST
        await looks.wait()
        tasks.cancel_scope.cancel()
    assert monitor.counters.looked_at is not None


@pytest.mark.parametrize("option", ["interval", "distance", "limit"])
def test_times_that_cannot_be_are_refused(option: str) -> None:
    """A time that is negative or no number is refused where the monitor is made."""
    with pytest.raises(ValueError, match=option):
        InvariantMonitor(Seen(), **{option: -1})
    with pytest.raises(TypeError, match=option):
        InvariantMonitor(Seen(), **{option: "1"})
