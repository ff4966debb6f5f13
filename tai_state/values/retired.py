"""Retired stores: vector clocks no longer name them, and what each clock stands for is on record once for all.

A retirement is an event. It takes a store out of the clock, and puts in its own mark, with a count of 1. On record is,
by that mark, the clock of what it took out. So a clock that has the mark knows of all that, and stays short. A later
retirement takes out the marks of earlier ones too.

So marks are counted like stores that write one event each. With what is on record, clocks are compared as if nothing
had been taken out. Without it, a clock can seem to know of less than it does, and never of more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tai_state.values.clocks import VectorClock

_SIGN: Final = "~"
"""The first character of a mark. No id of a store, and no id that a store makes for an event, begins with it."""


def mark_of(event_id: str) -> str:
    """The mark of the retirement with this event id."""
    return _SIGN + event_id


def is_mark(store_id: str) -> bool:
    """Whether an entry of a clock is the mark of a retirement, and not a store."""
    return store_id.startswith(_SIGN)


def has_marks(clock: VectorClock) -> bool:
    """Whether a clock knows of a retirement."""
    return any(map(is_mark, clock))


class Retired:
    """The retirements of one state: what is on record about them.

    Args:
        taken_out: by the mark of each retirement, the clock of what it took out.

    Attributes:
        taken_out: as given.
    """

    def __init__(self, taken_out: Mapping[str, VectorClock]) -> None:
        self.taken_out: Mapping[str, VectorClock] = taken_out

    def __or__(self, other: Retired) -> Retired:
        return Retired({**self.taken_out, **other.taken_out})

    @property
    def stores(self) -> set[str]:
        """The ids of the retired stores."""
        return {each for clock in self.taken_out.values() for each in clock if not is_mark(each)}

    def whole(self, clock: VectorClock) -> VectorClock:
        """A clock with all that it stands for: what its marks took out, and what the marks among that took out."""
        return self._with_covered(clock, dict(clock)) if has_marks(clock) else clock

    def reduced(self, clock: VectorClock) -> VectorClock:
        """The shortest clock that stands for the same."""
        covered = self._with_covered(clock, {})
        return {store_id: count for store_id, count in clock.items() if count > covered.get(store_id, 0)}

    def lacking(self, clock: VectorClock) -> set[str]:
        """The marks that a clock stands for and that are not on record."""
        return {each for each in self.whole(clock) if is_mark(each)} - self.taken_out.keys()

    def late(self, clock: VectorClock) -> list[str]:
        """The stores that a stored clock names although its own marks stand for as much of them.

        A stored clock is as short as it can be. So such a store was retired, took over the clock without its own entry,
        and wrote after all: it counted from 1 again.
        """
        return sorted(clock.keys() - self.reduced(clock).keys()) if has_marks(clock) else []

    def with_retirement(self, mark: str, clock: VectorClock, store_id: str) -> tuple[Retired, VectorClock]:
        """One more retirement: the new record, and the clock with the mark, without the store and all earlier marks."""
        gone = {each: count for each, count in clock.items() if each == store_id or is_mark(each)}
        left = {each: count for each, count in clock.items() if each not in gone}
        return self | Retired({mark: gone}), {**left, mark: 1}

    def _with_covered(self, clock: VectorClock, covered: VectorClock) -> VectorClock:
        """Add what the marks of a clock stand for, without these marks themselves."""
        marks = [each for each in clock if is_mark(each)]
        met = set(marks)
        while marks:
            for store_id, count in self.taken_out.get(marks.pop(), {}).items():
                if count > covered.get(store_id, 0):
                    covered[store_id] = count
                if is_mark(store_id) and store_id not in met:
                    met.add(store_id)
                    marks.append(store_id)
        return covered
