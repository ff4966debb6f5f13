"""Logical clocks tell which change knew of which.

A vector clock counts, for each store, how many events of one stream that store wrote; a store that it does not name
wrote none. Equal clocks mean the same event. A hybrid logical clock (Kulkarni et al., 2014) packs 48 bits of
milliseconds and a 16-bit counter into one integer that never goes back along a stream. A Lamport clock is one integer.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

VectorClock: TypeAlias = dict[str, int]

_COUNTER_BITS = 16


class ClockOrder(Enum):
    """How one change relates to another."""

    SAME = "same"
    BEFORE = "before"
    AFTER = "after"
    CONCURRENT = "concurrent"


def tick(clock: VectorClock, store_id: str) -> VectorClock:
    """The clock of the next event that this store writes."""
    return {**clock, store_id: clock.get(store_id, 0) + 1}


def compare(one: VectorClock, other: VectorClock) -> ClockOrder:
    """How the first change relates to the other: BEFORE means that the other change knew of the first.

    CONCURRENT means that the changes differ and neither knew of the other.
    """
    is_behind = any(one.get(store_id, 0) < count for store_id, count in other.items())
    is_ahead = any(other.get(store_id, 0) < count for store_id, count in one.items())
    if is_behind:
        return ClockOrder.CONCURRENT if is_ahead else ClockOrder.BEFORE
    return ClockOrder.AFTER if is_ahead else ClockOrder.SAME


def merge(one: VectorClock, other: VectorClock) -> VectorClock:
    """The clock of a change that knows of both changes, and of nothing else."""
    merged = dict(one)
    for store_id, count in other.items():
        merged[store_id] = max(count, merged.get(store_id, 0))
    return merged


def common(one: VectorClock, other: VectorClock) -> VectorClock:
    """The clock of everything that both changes knew of."""
    counts = {store_id: min(count, other.get(store_id, 0)) for store_id, count in one.items()}
    return {store_id: count for store_id, count in counts.items() if count}


def next_hybrid(previous: int, now_us: int) -> int:
    """The hybrid clock of an event after ``previous``, written at ``now_us`` by the writer's clock."""
    return max(previous + 1, (now_us // 1_000) << _COUNTER_BITS)


def merge_hybrid(one: int, other: int, now_us: int) -> int:
    """The hybrid clock of an event after both, written at ``now_us`` by the writer's clock."""
    return next_hybrid(max(one, other), now_us)


def split_hybrid(clock: int) -> tuple[int, int]:
    """The milliseconds since 1970 and the counter in a hybrid clock."""
    return clock >> _COUNTER_BITS, clock & ((1 << _COUNTER_BITS) - 1)


@dataclass(order=True, slots=True)
class LamportClock:
    """Numbers things so that whatever knew of something has a greater number than it (Lamport, 1978).

    The reverse does not hold: a greater number does not mean that it knew of the other.

    Attributes:
        value: the number of the newest thing known here; 0 for none.
    """

    value: int = 0

    def increment(self) -> int:
        """Number something new that happens here."""
        self.value += 1
        return self.value

    def observe(self, other: int) -> int:
        """Number the news of something with this number: greater than that number and all earlier ones here."""
        self.value = max(self.value, other) + 1
        return self.value
