"""What conflicts there were lately, and whether there are too many."""

from __future__ import annotations

from collections import deque
from datetime import datetime
from itertools import islice

import msgspec

from tai_state.values.clocks import VectorClock
from tai_state.values.times import WallClock, to_us


class ConflictRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One conflict and what became of it.

    Attributes:
        path: of the state.
        clocks: of the rival versions.
        strategy: the resolver that decided.
        resolved_at: when.
        discarded: how many changes were dropped.
        repaired: whether the resolution was written to the store.
    """

    path: str
    clocks: tuple[VectorClock, ...]
    strategy: str
    resolved_at: datetime
    discarded: int
    repaired: bool


class ConflictHistory:
    """The latest conflicts of this process, for whoever watches it.

    What was discarded stands with the events that resolved them.

    Args:
        clock: tells how long ago they were.
        kept_max: how many are kept.
    """

    def __init__(self, clock: WallClock, *, kept_max: int = 1_000) -> None:
        self._clock = clock
        self._kept_max = kept_max
        self._records: deque[ConflictRecord] = deque(maxlen=kept_max)

    def record(self, record: ConflictRecord) -> None:
        """Keep a conflict; the oldest one makes room."""
        self._records.append(record)

    def recent(self, count: int) -> list[ConflictRecord]:
        """The latest conflicts, newest first."""
        return list(islice(reversed(self._records), count))

    def has_conflict_storm(self, threshold: int, window_seconds: float) -> bool:
        """Whether there were more conflicts than this in the time up to now.

        Raises:
            ValueError: so many are not kept, so nobody could tell.
        """
        if threshold >= self._kept_max:
            raise ValueError(f"only the latest {self._kept_max} conflicts are kept: ask for fewer")
        since = self._clock.now_us() - window_seconds * 1_000_000
        return sum(to_us(record.resolved_at) >= since for record in self._records) > threshold
