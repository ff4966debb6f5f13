"""Logical clocks: which change knew of which.

A vector clock counts, per store, the events of one stream that this store wrote; a store that it does not name
wrote none. Equal clocks stand for the same event. A hybrid logical clock (Kulkarni et al., 2014) packs 48 bits of
milliseconds and 16 bits of counter into one int that never goes back along a stream. A Lamport clock is one int.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

VectorClock: TypeAlias = dict[str, int]

_COUNTER_BITS = 16


class ClockOrder(Enum):
    """How one change stands to another."""

    SAME = "same"
    BEFORE = "before"
    AFTER = "after"
    CONCURRENT = "concurrent"


def tick(clock: VectorClock, store_id: str) -> VectorClock:
    """The clock of the next event that this store writes."""
    return {**clock, store_id: clock.get(store_id, 0) + 1}


def compare(one: VectorClock, other: VectorClock) -> ClockOrder:
    """How the first change stands to the other: BEFORE means that the other one knew of it.

    CONCURRENT is said of different changes only, neither of which knew of the other.
    """
    is_behind = any(one.get(store_id, 0) < count for store_id, count in other.items())
    is_ahead = any(other.get(store_id, 0) < count for store_id, count in one.items())
    if is_behind:
        return ClockOrder.CONCURRENT if is_ahead else ClockOrder.BEFORE
    return ClockOrder.AFTER if is_ahead else ClockOrder.SAME


def merge(one: VectorClock, other: VectorClock) -> VectorClock:
    """The clock of what knows of both changes, and of nothing else."""
    merged = dict(one)
    for store_id, count in other.items():
        merged[store_id] = max(count, merged.get(store_id, 0))
    return merged


def common(one: VectorClock, other: VectorClock) -> VectorClock:
    """The clock of what both changes knew of."""
    counts = {store_id: min(count, other.get(store_id, 0)) for store_id, count in one.items()}
    return {store_id: count for store_id, count in counts.items() if count}


def next_hybrid(previous: int, now_us: int) -> int:
    """The hybrid clock of an event after ``previous``, written at ``now_us`` by the writer's own clock."""
    return max(previous + 1, (now_us // 1_000) << _COUNTER_BITS)


def merge_hybrid(one: int, other: int, now_us: int) -> int:
    """The hybrid clock of an event after both, written at ``now_us`` by the writer's own clock."""
    return next_hybrid(max(one, other), now_us)


def split_hybrid(clock: int) -> tuple[int, int]:
    """The milliseconds since 1970 and the counter in a hybrid clock."""
    return clock >> _COUNTER_BITS, clock & ((1 << _COUNTER_BITS) - 1)


@dataclass(order=True, slots=True)
class LamportClock:
    """Counts so that what knew of something has the greater number (Lamport, 1978); not the other way round.

    Attributes:
        value: the number of the newest thing known of; 0 for none.
    """

    value: int = 0

    def increment(self) -> int:
        """The number of something new that happens here."""
        self.value += 1
        return self.value

    def observe(self, other: int) -> int:
        """The number of having heard of something with this number: greater than that, and than all before here."""
        self.value = max(self.value, other) + 1
        return self.value
