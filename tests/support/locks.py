"""Lock managers that go by a time set by hand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tai_state import LockWaiter, StateStore, TaiStateError
from tai_state.engines.api import Document, Engine, Scan, Write
from tai_state.engines.paging import Paged
from tai_state.locks.locking import LockManager
from tai_state.testing import ManualClock

from .stores import AroundEngine, collected

TTL = 10.0
OVER = TTL * 1.2
"""Longer than any lease lasts, with the margin of engines whose users share no clock."""


class Time:
    """Seconds that pass when a test says so, for lock managers and for the engine's clock; wakes those who sleep.

    Attributes:
        calls: of the engine that are under way.
        managers: that go by it.
    """

    def __init__(self, clock: ManualClock) -> None:
        self.calls = 0
        self.managers: list[LockManager] = []
        self._now = 1_000.0
        self._clock = clock
        self._sleepers: list[tuple[float, anyio.Event]] = []

    def monotonic(self) -> float:
        """The time."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Until so much time has passed."""
        if seconds <= 0:
            await anyio.lowlevel.checkpoint()
            return
        sleeper = (self._now + seconds, anyio.Event())
        self._sleepers.append(sleeper)
        try:
            await sleeper[1].wait()
        finally:
            self._sleepers.remove(sleeper)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds
        self._clock.advance_us(round(seconds * 1e6))
        for until, event in self._sleepers:
            if until <= self._now:
                event.set()

    @property
    def _is_quiet(self) -> bool:
        """Whether nothing goes on before more time has passed: all who were due have woken, and sleep again."""
        statistics = [each.statistics() for each in self.managers]
        return (
            not self.calls
            and all(until > self._now for until, _ in self._sleepers)
            and all(waiter.is_asleep for each in statistics for line in each.waiting.values() for waiter in line)
            and not any(each.renewals for each in statistics)
        )

    async def settle(self) -> None:
        """Let tasks that were just started begin, and then all do what needs no more time."""
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        await until(lambda: self._is_quiet)

    async def pass_until(self, condition: Callable[[], Any], seconds: float = 60.0) -> None:
        """Let time pass in small steps, and others do what is due, until something is so."""
        for _ in range(round(seconds / 0.5)):
            if condition():
                return
            self.advance(0.5)
            await self.settle()


class Busy(AroundEngine):
    """Tells the time how many calls are under way."""

    def __init__(self, engine: Engine, time: Time) -> None:
        super().__init__(engine)
        self._time = time

    async def read(self, paths: Sequence[str]) -> Any:  # noqa: D102
        return await self._during(self._engine.read(paths))

    async def commit(self, writes: Sequence[Write]) -> Any:  # noqa: D102
        return await self._during(self._engine.commit(writes))

    def scan(self, scan: Scan) -> Paged[Document]:  # noqa: D102
        documents = self._engine.scan(scan)
        return Paged(lambda: self._during(documents.page()))

    async def _during(self, call: Awaitable[Any]) -> Any:
        self._time.calls += 1
        try:
            return await call
        finally:
            self._time.calls -= 1


async def until(condition: Callable[[], Any]) -> None:
    """Let the others run until something is so."""
    with anyio.fail_after(30):
        while not condition():
            await anyio.lowlevel.checkpoint()


def managed(store: StateStore, time: Time, engine: Any = None) -> LockManager:
    """A manager that goes by that time, and perhaps by another engine than the store's."""
    store.core.engine = Busy(engine or store.core.engine, time)  # type: ignore[assignment]
    time.managers.append(LockManager(store, monotonic=time.monotonic, sleep=time.sleep))
    return time.managers[-1]


def asleep(*managers: LockManager) -> list[LockWaiter]:
    """Those who wait in line with these managers, first come first; none as long as one of them is not asleep.

    Each has seen who holds what it waits for, and will be told of whatever happens to that.
    """
    lines = [line for manager in managers for line in manager.statistics().waiting.values()]
    waiters = [waiter for line in lines for waiter in line]
    are_asleep = all(each.is_asleep and each.is_confirmed and each.fences for each in waiters)
    return sorted(waiters, key=lambda each: each.ahead) if are_asleep else []


async def paths(engine: Engine, *resources: str) -> list[str]:
    """All documents of locks, of renewals and of those who wait for these resources."""
    names = ["locks", "lockbeats", *(f"locks/{each}/waiters" for each in resources)]
    return [document.path for name in names async for document in engine.scan(Scan(name))]


async def expire(time: Time, *managers: LockManager) -> None:
    """Let every lease end that is not renewed, before the eyes of these managers."""
    for manager in managers:
        await collected(manager.list_locks())
    time.advance(OVER)


async def expect(error: type[TaiStateError], call: Callable[[], Awaitable[Any]]) -> None:
    """The call ends in that error."""
    with pytest.raises(error):
        await call()
