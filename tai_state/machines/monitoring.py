"""Watching whether the invariants of a system hold, on an interval and on change."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from types import MappingProxyType
from typing import Final, Protocol, TypeVar

import anyio
import msgspec

from tai_state.machines.invariants import Severity
from tai_state.machines.system_invariants import (
    SYSTEM_INVARIANTS,
    Finding,
    SystemInvariant,
    check_view,
    coherence,
    phase_lag,
    staleness,
)
from tai_state.machines.system_views import SystemView
from tai_state.values.checks import seconds_option, whole_option

T = TypeVar("T")

_log = logging.getLogger("tai_state.machines")

_LEVELS: Final = {
    Severity.Info: logging.INFO,
    Severity.Warning: logging.WARNING,
    Severity.High: logging.ERROR,
    Severity.Critical: logging.CRITICAL,
}


class MonitorClock(Protocol):
    """The time by which a monitor goes. Tests pass their own."""

    def now(self) -> datetime:
        """The time in UTC."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class _EventLoopClock:
    """The clock of this computer, and the event loop's way to wait."""

    now = staticmethod(partial(datetime.now, UTC))

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


class Alert(msgspec.Struct, frozen=True):
    """An invariant that did not hold when a monitor looked.

    Attributes:
        at: when it looked.
        finding: what it found.
    """

    at: datetime
    finding: Finding

    def __str__(self) -> str:
        return str(self.finding)


class MonitorCounters(msgspec.Struct, frozen=True, kw_only=True):
    """What a monitor counted since it was made, and what it measured when it last looked.

    Attributes:
        looks: how often it looked.
        looks_failed: how often it could not see the system.
        checks_passed: how often each invariant held, by its name.
        violations: how often something did not hold, by its kind and severity; a look counts it again if it still does
            not.
        remedies: how often the remedy was tried.
        remedies_failed: how often it raised, or took too long.
        coherence: how many components fit the state of the system, in percent.
        phase_lag: how many phases lie between workers of one epoch, at most.
        staleness: how long ago a worker was last heard of, at most.
        looked_at: when it last saw the system; None: never.
    """

    looks: int = 0
    looks_failed: int = 0
    checks_passed: Mapping[str, int] = MappingProxyType({})
    violations: Mapping[tuple[str, Severity], int] = MappingProxyType({})
    remedies: int = 0
    remedies_failed: int = 0
    coherence: float = 100.0
    phase_lag: int = 0
    staleness: timedelta = timedelta(0)
    looked_at: datetime | None = None


class InvariantMonitor:
    """Watches a system. It looks when its interval is over and when it is told of a change, one look at a time.

    ::

        monitor = InvariantMonitor(read_the_system, on_violation=tell, remedy=mend)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(monitor.run)

    It is bounded: however many changes there are, looks keep their distance; a look or a remedy that takes too long is
    cancelled; old alerts are forgotten. What goes wrong in one look ends neither the monitor nor the next look.

    Args:
        see: reads what is to be checked.
        invariants: what is to hold across the system. Machines in the view are checked by their own, too.
        interval: the seconds between two looks; None: it looks on change alone.
        distance: the least seconds between two looks, however many changes there are.
        limit: the most seconds that reading the system may take, and each remedy.
        on_violation: is told of what does not hold, once, until a look no longer finds it.
        remedy: mends what is Critical. It is tried at each look that finds it, so trying again must do no harm.
        clock: the time by which it goes.
        history_limit: how many alerts it keeps.

    Attributes:
        invariants: as given.
    """

    def __init__(
        self,
        see: Callable[[], Awaitable[SystemView]],
        *,
        invariants: Sequence[SystemInvariant] = SYSTEM_INVARIANTS,
        interval: float | None = 1.0,
        distance: float = 0.1,
        limit: float = 30.0,
        on_violation: Callable[[Alert], None] | None = None,
        remedy: Callable[[Alert, SystemView], Awaitable[None]] | None = None,
        clock: MonitorClock | None = None,
        history_limit: int = 100,
    ) -> None:
        self.invariants: tuple[SystemInvariant, ...] = tuple(invariants)
        self._see = see
        self._interval = None if interval is None else seconds_option(interval, "interval")
        self._distance = seconds_option(distance, "distance")
        self._limit = seconds_option(limit, "limit")
        self._on_violation = on_violation
        self._remedy = remedy
        self._clock: MonitorClock = clock or _EventLoopClock()
        self._alerts = deque[Alert](maxlen=whole_option(history_limit, "history_limit", 1))
        self._passed = Counter[str]()
        self._violations = Counter[tuple[str, Severity]]()
        self._counters = MonitorCounters()
        self._standing: frozenset[Finding] = frozenset()
        self._turn = anyio.Lock()
        self._change = anyio.Event()

    @property
    def counters(self) -> MonitorCounters:
        """What it counted and measured so far."""
        return msgspec.structs.replace(
            self._counters,
            checks_passed=MappingProxyType(dict(self._passed)),
            violations=MappingProxyType(dict(self._violations)),
        )

    @property
    def alerts(self) -> tuple[Alert, ...]:
        """The newest things that did not hold, oldest first; each once, until a look no longer found it."""
        return tuple(self._alerts)

    def changed(self) -> None:
        """Say that something changed, so that it looks soon. Many changes before it looks are one look."""
        self._change.set()

    async def run(self) -> None:
        """Look until it is cancelled."""
        while True:
            if self._change.is_set():
                self._change = anyio.Event()
            try:
                await self.look()
            except Exception:  # noqa: BLE001 - the next look may see it again
                _log.exception("the system could not be seen")
            await self._clock.sleep(self._distance)
            await self._next()

    async def look(self) -> tuple[Alert, ...]:
        """Look once, now.

        Returns:
            all that does not hold.

        Raises:
            TimeoutError: reading the system took too long. Whatever else reading it raises, this raises.
        """
        async with self._turn:
            self._count(looks=1)
            try:
                view = await self._within_limit(self._see)
            except Exception:
                self._count(looks_failed=1)
                raise
            alerts = self._judge(view)
            for alert in alerts:
                if self._remedy is not None and alert.finding.severity is Severity.Critical:
                    await self._mend(partial(self._remedy, alert, view), alert)
            return alerts

    def _judge(self, view: SystemView) -> tuple[Alert, ...]:
        """Check a view, count what comes of it, and tell what is new."""
        now, report = self._clock.now(), check_view(view, self.invariants)
        self._passed.update(report.passed)
        self._violations.update((each.kind, each.severity) for each in report.findings)
        self._counters = msgspec.structs.replace(
            self._counters,
            coherence=coherence(view),
            phase_lag=phase_lag(view),
            staleness=staleness(view, now),
            looked_at=now,
        )
        alerts = tuple(Alert(now, finding) for finding in report.findings)
        standing, self._standing = self._standing, frozenset(report.findings)
        for alert in alerts:
            if alert.finding not in standing:
                self._tell(alert)
        return alerts

    def _tell(self, alert: Alert) -> None:
        self._alerts.append(alert)
        finding = alert.finding
        fields = {"invariant": finding.invariant, "severity": finding.severity.name, "machine": finding.machine}
        _log.log(_LEVELS[finding.severity], "%s", alert, extra=fields)
        if self._on_violation is not None:
            try:
                self._on_violation(alert)
            except Exception:  # noqa: BLE001 - a callback that fails must not end the monitor
                _log.exception("telling of a violation failed: %s", alert)

    async def _mend(self, remedy: Callable[[], Awaitable[None]], alert: Alert) -> None:
        self._count(remedies=1)
        try:
            await self._within_limit(remedy)
        except Exception:  # noqa: BLE001 - the next look that finds it tries again
            self._count(remedies_failed=1)
            _log.exception("the remedy failed: %s", alert)

    def _count(self, **more: int) -> None:
        counts = {name: getattr(self._counters, name) + count for name, count in more.items()}
        self._counters = msgspec.structs.replace(self._counters, **counts)

    async def _within_limit(self, function: Callable[[], Awaitable[T]]) -> T:
        """Wait for a function, and cancel it when the limit is over.

        Raises:
            TimeoutError: the limit is over.
        """
        results: list[T] = []
        failed: Exception | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._cancel_after, self._limit, tasks.cancel_scope)
            try:
                results.append(await function())
            except Exception as error:  # noqa: BLE001 - it is raised below, where no group wraps it
                failed = error
            tasks.cancel_scope.cancel()
        if failed is not None:
            raise failed
        if not results:
            raise TimeoutError(f"it took more than {self._limit:g} seconds")
        return results[0]

    async def _next(self) -> None:
        """Wait until it is time for the next look: the interval is over, or something changed."""
        async with anyio.create_task_group() as tasks:
            if self._interval is not None:
                rest = max(self._interval - self._distance, 0)
                tasks.start_soon(self._cancel_after, rest, tasks.cancel_scope)
            await self._change.wait()
            tasks.cancel_scope.cancel()

    async def _cancel_after(self, seconds: float, scope: anyio.CancelScope) -> None:
        await self._clock.sleep(seconds)
        scope.cancel()
