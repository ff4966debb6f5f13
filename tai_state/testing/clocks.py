"""A clock that is set by hand."""

from __future__ import annotations

from threading import Lock


class ManualClock:
    """A :class:`~tai_state.values.times.WallClock` that moves only when it is told to. Any thread may read it.

    Args:
        start_us: its first time, in microseconds since 1970.
        step_us: how far each reading moves it; by default, not at all.
    """

    def __init__(self, start_us: int = 1_790_000_000_000_000, *, step_us: int = 0) -> None:
        self._lock = Lock()
        self._now_us = start_us
        self._step_us = step_us

    def now_us(self) -> int:
        """The time, in microseconds since 1970."""
        with self._lock:
            now = self._now_us
            self._now_us += self._step_us
            return now

    def advance_us(self, microseconds: int) -> None:
        """Move the clock. A negative number sets it back, as can happen to real clocks."""
        with self._lock:
            self._now_us += microseconds
