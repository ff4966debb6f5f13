"""A clock of machines and monitors that is set by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from itertools import count

import anyio


class HandClock:
    """Moves only when it is told to. Those who sleep by it wake when it reaches their time."""

    def __init__(self) -> None:
        self._ns = 0
        self._began = datetime(2026, 1, 31, 9, tzinfo=UTC)
        self._sleeping: list[tuple[int, int, anyio.Event]] = []
        self._numbers = count()

    def monotonic_ns(self) -> int:
        """Nanoseconds since the clock was made."""
        return self._ns

    def now(self) -> datetime:
        """The time in UTC; at first, a morning of January."""
        return self._began + timedelta(microseconds=self._ns // 1000)

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has been moved that far."""
        woken = anyio.Event()
        if seconds > 0:
            heappush(self._sleeping, (self._ns + round(seconds * 10**9), next(self._numbers), woken))
        else:
            woken.set()
        await woken.wait()

    def advance(self, seconds: float) -> None:
        """Move the clock, and wake those whose time has come."""
        self._ns += round(seconds * 10**9)
        while self._sleeping and self._sleeping[0][0] <= self._ns:
            heappop(self._sleeping)[2].set()
