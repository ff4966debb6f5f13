"""Who goes first: whether a caller that comes now leaves its locks to those who wait for them.

A commit that acquires does not ask who waits, so that locks which nobody waits for cost one commit. But whoever waits
has to be told of a release first, and whoever has just released a lock would nearly always be faster. So a caller takes
its place in line if it knows that others wait: those of its own manager are known. And a manager that acquires a lock
again and again looks at the line once a second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tai_state.locks.lease import Tenure

STREAK_SECONDS = 1.0
"""For how long a manager may acquire a lock again and again without a look at the line. A pause of that length between
a release and the next acquisition gives those who wait their chance."""


class _Streak(NamedTuple):
    """Tenures of one lock that followed each other without a long pause."""

    began: float
    released: float


class Precedence:
    """What one manager knows of those who may have to go first, without asking the engine.

    Args:
        monotonic: a clock in seconds that never goes back.

    Attributes:
        number: the greatest number of a place in line that this process knows of.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.number: int = 0
        self._monotonic = monotonic
        self._waiting: Counter[tuple[str, ...]] = Counter()
        self._streaks: dict[str, _Streak] = {}  # of the last second, in the order of their releases

    def joined(self, wants: tuple[str, ...]) -> None:
        """Note that a caller waits for these resources."""
        self._waiting[wants] += 1

    def left(self, wants: tuple[str, ...]) -> None:
        """Note that a caller waits no longer."""
        self._waiting[wants] -= 1
        if not self._waiting[wants]:
            del self._waiting[wants]

    def are_awaited(self, wants: tuple[str, ...]) -> bool:
        """Whether a caller of this manager waits for these resources, or for some of them alone."""
        if len(wants) == 1:
            return wants in self._waiting
        return any(map(set(wants).issuperset, self._waiting))

    def released(self, tenure: Tenure) -> None:
        """Note that a tenure has just been released."""
        now = self._monotonic()
        for each in tenure.claim.resources:
            last = self._streaks.pop(each, None)
            is_one_more = last is not None and tenure.begun - last.released < STREAK_SECONDS
            self._streaks[each] = _Streak(last.began if last is not None and is_one_more else tenure.begun, now)
        while now - self._streaks[oldest := next(iter(self._streaks))].released >= STREAK_SECONDS:
            del self._streaks[oldest]

    def is_look_due(self, wants: Sequence[str], now: float) -> bool:
        """Whether to look at the line before acquiring these resources; if so, the next look is due a second later."""
        is_due = False
        for each in wants:
            streak = self._streaks.get(each)
            if streak is not None and now - streak.released < STREAK_SECONDS <= now - streak.began:
                del self._streaks[each]
                is_due = True
        return is_due
