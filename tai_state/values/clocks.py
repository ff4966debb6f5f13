"""Logical clocks: which change knew of which.

A vector clock counts, per store, the events of one stream that this store wrote. Equal clocks stand for the
same event. A hybrid logical clock (Kulkarni et al., 2014) packs 48 bits of milliseconds and 16 bits of counter
into one int that never goes back along a stream.
"""

from __future__ import annotations

from typing import TypeAlias

VectorClock: TypeAlias = dict[str, int]

_COUNTER_BITS = 16


def tick(clock: VectorClock, store_id: str) -> VectorClock:
    """The clock of the next event that this store writes."""
    return {**clock, store_id: clock.get(store_id, 0) + 1}


def next_hybrid(previous: int, now_us: int) -> int:
    """The hybrid clock of an event after ``previous``, written at ``now_us`` by the writer's own clock."""
    return max(previous + 1, (now_us // 1_000) << _COUNTER_BITS)
