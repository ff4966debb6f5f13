"""The latest conflicts, and whether there are too many."""

from __future__ import annotations

from collections import deque
from datetime import datetime
from itertools import islice

import msgspec

from tai_state.errors import InvalidData
from tai_state.values.checks import check_callable, check_seconds, check_whole
from tai_state.values.clocks import VectorClock
from tai_state.values.times import WallClock, to_us


class ConflictRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One conflict and its resolution.

    Attributes:
        path: the path of the state.
        clocks: the clocks of the rival versions.
        strategy: the name of the resolver that decided.
        resolved_at: when it was resolved.
        discarded: how many changes were discarded.
        repaired: whether the resolution was written to the store.
    """

    path: str
    clocks: tuple[VectorClock, ...]
    strategy: str
    resolved_at: datetime
    discarded: int
    repaired: bool


class ConflictHistory:
    """The latest conflicts of this process, for monitoring.

    What was discarded is on record in the events that resolved the conflicts.

    Args:
        clock: shows how long ago a conflict was.
        kept_max: how many conflicts are kept.
    """

    def __init__(self, clock: WallClock, *, kept_max: int = 1_000) -> None:
        check_callable(getattr(clock, "now_us", None), "now_us of the clock")
        check_whole(kept_max, "kept_max", 1)
        self._clock = clock
        self._kept_max = kept_max
        self._records: deque[ConflictRecord] = deque(maxlen=kept_max)

    def record(self, record: ConflictRecord) -> None:
        """Keep a conflict; if there are too many, the oldest one is dropped."""
        if not isinstance(record, ConflictRecord):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
            raise InvalidData(f"a ConflictRecord is needed, not {type(record).__name__}")
        self._records.append(record)

    def recent(self, count: int) -> list[ConflictRecord]:
        """The latest conflicts, newest first."""
        return list(islice(reversed(self._records), check_whole(count, "count")))

    def has_conflict_storm(self, threshold: int, window_seconds: float) -> bool:
        """Whether more than ``threshold`` conflicts were resolved in the last ``window_seconds``.

        Raises:
            InvalidData: an argument is not a number from 0 up.
            ValueError: fewer conflicts are kept than the answer needs.
        """
        check_whole(threshold, "threshold")
        check_seconds(window_seconds, "window_seconds")
        if threshold >= self._kept_max:
            raise ValueError(f"only the latest {self._kept_max} conflicts are kept; use a smaller threshold")
        since = self._clock.now_us() - window_seconds * 1_000_000
        return sum(to_us(record.resolved_at) >= since for record in self._records) > threshold
