"""A clock that is set by hand."""

from __future__ import annotations

from datetime import datetime
from heapq import heappop, heappush
from itertools import count
from threading import Lock

import anyio

from tai_state.values.times import from_us


class ManualClock:
    """A clock that moves only when it is told to, for stores, machines in memory and monitors.

    Any thread may read it. Those who sleep by it wake when it is advanced that far, in the event loop that advances it.

    Args:
        start_us: its first time, in microseconds since 1970.
        step_us: how far each reading of the time moves it; by default, not at all.
    """

    def __init__(self, start_us: int = 1_790_000_000_000_000, *, step_us: int = 0) -> None:
        self._lock = Lock()
        self._now_us = start_us
        self._passed_us = 0
        self._step_us = step_us
        self._sleeping: list[tuple[int, int, anyio.Event]] = []
        self._numbers = count()

    def now_us(self) -> int:
        """The time, in microseconds since 1970."""
        with self._lock:
            now = self._now_us
            self._now_us += self._step_us
            self._passed_us += self._step_us
            return now

    def now(self) -> datetime:
        """The time, in UTC."""
        return from_us(self.now_us())

    def monotonic_ns(self) -> int:
        """The nanoseconds for which it has been advanced. Setting the time back does not lessen them."""
        with self._lock:
            return self._passed_us * 1000

    async def sleep(self, seconds: float) -> None:
        """Wait until it has been advanced by so many seconds."""
        woken = anyio.Event()
        with self._lock:
            until_us = self._passed_us + round(seconds * 1_000_000)
            heappush(self._sleeping, (until_us, next(self._numbers), woken))
        self._wake()
        await woken.wait()

    def advance(self, seconds: float) -> None:
        """Move the clock by so many seconds, and wake those whose time has come."""
        self.advance_us(round(seconds * 1_000_000))

    def advance_us(self, microseconds: int) -> None:
        """Move the clock. A negative number sets the time back, as can happen to real clocks."""
        with self._lock:
            self._now_us += microseconds
            self._passed_us += max(0, microseconds)
        self._wake()

    def _wake(self) -> None:
        """Wake those whose time has come."""
        while True:
            with self._lock:
                if not self._sleeping or self._sleeping[0][0] > self._passed_us:
                    return
                woken = heappop(self._sleeping)[2]
            woken.set()
