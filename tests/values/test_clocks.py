"""Logical clocks: vector clocks against true happened-before, hybrid clocks under bad wall clocks, Lamport clocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tai_state.values.clocks import (
    ClockOrder,
    LamportClock,
    VectorClock,
    common,
    compare,
    merge,
    merge_hybrid,
    next_hybrid,
    split_hybrid,
    tick,
)

clocks = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 3))
OPPOSITE = {
    ClockOrder.SAME: ClockOrder.SAME,
    ClockOrder.BEFORE: ClockOrder.AFTER,
    ClockOrder.AFTER: ClockOrder.BEFORE,
    ClockOrder.CONCURRENT: ClockOrder.CONCURRENT,
}
KNOWN = {ClockOrder.SAME, ClockOrder.BEFORE}
"""What ``compare`` says where the second one knew of the first."""


# Vector clocks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "order"),
    [
        ({}, {}, ClockOrder.SAME),
        ({"a": 1}, {"a": 1}, ClockOrder.SAME),
        ({"a": 0}, {}, ClockOrder.SAME),
        ({"a": 1, "b": 0}, {"a": 1, "c": 0}, ClockOrder.SAME),
        ({}, {"a": 1}, ClockOrder.BEFORE),
        ({"a": 1}, {"a": 1, "b": 1}, ClockOrder.BEFORE),
        ({"a": 2}, {"a": 1, "b": 0}, ClockOrder.AFTER),
        ({"a": 1}, {"b": 1}, ClockOrder.CONCURRENT),
        ({"a": 2, "b": 1}, {"a": 1, "b": 2}, ClockOrder.CONCURRENT),
    ],
    ids=str,
)
def test_how_clocks_compare(one: VectorClock, other: VectorClock, order: ClockOrder):
    """Equal clocks are the same change and not concurrent; a store that is not named counts as zero."""
    assert compare(one, other) is order
    assert compare(other, one) is OPPOSITE[order]


@given(clocks, clocks, clocks)
def test_order_is_an_order(one: VectorClock, other: VectorClock, third: VectorClock):
    """Comparing is antisymmetric and transitive, and a clock is the same as itself."""
    assert compare(one, dict(one)) is ClockOrder.SAME
    assert compare(one, other) is OPPOSITE[compare(other, one)]
    if compare(one, other) in KNOWN and compare(other, third) in KNOWN:
        assert compare(one, third) in KNOWN


@given(clocks, clocks, clocks)
def test_merging_is_the_least_clock_that_knows_both(one: VectorClock, other: VectorClock, third: VectorClock):
    """The laws of a lattice: idempotent, commutative, associative, absorbing, and the least of the upper bounds."""
    same = [
        (merge(one, one), one),
        (merge(one, other), merge(other, one)),
        (merge(merge(one, other), third), merge(one, merge(other, third))),
        (common(one, one), one),
        (common(one, other), common(other, one)),
        (common(common(one, other), third), common(one, common(other, third))),
        (merge(one, common(one, other)), one),
        (common(one, merge(one, other)), one),
    ]
    for left, right in same:
        assert compare(left, right) is ClockOrder.SAME
    assert compare(one, merge(one, other)) in KNOWN
    if compare(one, third) in KNOWN and compare(other, third) in KNOWN:
        assert compare(merge(one, other), third) in KNOWN
    assert (compare(merge(one, other), other) is ClockOrder.SAME) == (compare(one, other) in KNOWN)


@given(clocks, clocks)
def test_merging_changes_neither_clock(one: VectorClock, other: VectorClock):
    """A merged clock is a new one; clocks are shared by those who read them."""
    before = (dict(one), dict(other))
    merged = merge(one, other)
    merged["z"] = 9
    common(one, other)["z"] = 9
    assert (one, other) == before


class Event(NamedTuple):
    """An event of a simulated execution.

    Attributes:
        past: numbers of the events that its actor knew of, itself included.
        clock: its vector clock.
        hybrid: its hybrid clock.
        lamport: its Lamport clock.
    """

    past: frozenset[int]
    clock: VectorClock
    hybrid: int
    lamport: int


@dataclass
class Actor:
    """Writes events, and hears of those of others."""

    name: str
    past: frozenset[int] = frozenset()
    clock: VectorClock = field(default_factory=dict)
    hybrid: int = 0
    lamport: LamportClock = field(default_factory=LamportClock)

    def write(self, number: int, now_us: int) -> Event:
        """One more event, by a wall clock that may show anything."""
        self.past |= {number}
        self.clock = tick(self.clock, self.name)
        self.hybrid = next_hybrid(self.hybrid, now_us)
        return Event(self.past, self.clock, self.hybrid, self.lamport.increment())

    def hear(self, other: Actor, now_us: int) -> None:
        """All that the other one knows."""
        self.past |= other.past
        self.clock = merge(self.clock, other.clock)
        self.hybrid = merge_hybrid(self.hybrid, other.hybrid, now_us)
        self.lamport.observe(other.lamport.value)


@st.composite
def executions(draw: st.DrawFn) -> list[Event]:
    """The events of a few actors that write and hear of each other, in any order, by clocks that jump."""
    actors = [Actor(name) for name in "abcde"[: draw(st.integers(2, 5))]]
    events: list[Event] = []
    steps = st.tuples(st.sampled_from(actors), st.none() | st.sampled_from(actors), st.integers(0, 10**7))
    for actor, other, now_us in draw(st.lists(steps, max_size=24)):
        if other is None:
            events.append(actor.write(len(events), now_us))
        else:
            actor.hear(other, now_us)
    return events


@given(executions())
def test_vector_clocks_tell_what_happened_before(events: list[Event]):
    """Of any two events of an execution the clocks tell exactly whether one knew of the other."""
    for one in events:
        for other in events:
            if one is other:
                order = ClockOrder.SAME
            elif one.past < other.past:
                order = ClockOrder.BEFORE
            elif one.past > other.past:
                order = ClockOrder.AFTER
            else:
                order = ClockOrder.CONCURRENT
            assert compare(one.clock, other.clock) is order
            assert sum(common(one.clock, other.clock).values()) == len(one.past & other.past)
            assert sum(merge(one.clock, other.clock).values()) == len(one.past | other.past)


@given(executions())
def test_scalar_clocks_never_contradict_what_happened_before(events: list[Event]):
    """What knew of something has the greater hybrid and the greater Lamport clock, whatever wall clocks showed."""
    for one in events:
        for other in events:
            if one.past < other.past:
                assert one.hybrid < other.hybrid
                assert one.lamport < other.lamport


def test_ticking_counts_the_stores_own_events():
    """A store counts its own component up and leaves the others and the clock before as they are."""
    before = {"one": 2}
    assert tick(before, "other") == {"one": 2, "other": 1}
    assert tick(before, "one") == {"one": 3}
    assert before == {"one": 2}


# Hybrid clocks -------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 4 * 10**15), min_size=1, max_size=30))
def test_a_hybrid_clock_grows_under_jumping_wall_clocks(times: list[int]):
    """It grows with each event, is never behind the wall clock, and ahead of the latest one by the counter only."""
    hybrid = 0
    for count, now_us in enumerate(times):
        before, hybrid = hybrid, next_hybrid(hybrid, now_us)
        assert hybrid > before
        milliseconds, counter = split_hybrid(hybrid)
        latest = max(times[: count + 1]) // 1_000
        assert now_us // 1_000 <= milliseconds == latest
        assert counter <= count + 1


@given(st.integers(0, 2**62), st.integers(0, 10**16))
def test_a_hybrid_clock_only_grows(previous: int, now_us: int):
    """The clock of an event is later than that of the one before, however far back the writer's own clock is."""
    assert next_hybrid(previous, now_us) > previous
    assert next_hybrid(0, now_us) >> 16 == now_us // 1_000 or now_us < 1_000


@given(st.integers(0, 2**62), st.integers(0, 2**62), st.integers(0, 4 * 10**15))
def test_a_merged_hybrid_clock_is_after_both(one: int, other: int, now_us: int):
    """The clock of an event that knew of two others is later than both and the same in either order."""
    merged = merge_hybrid(one, other, now_us)
    assert merged > max(one, other)
    assert merged == merge_hybrid(other, one, now_us)
    assert split_hybrid(merged)[0] >= now_us // 1_000


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**16 - 1))
def test_a_hybrid_clock_comes_apart(milliseconds: int, counter: int):
    """It is the milliseconds and the counter, and nothing else."""
    assert split_hybrid((milliseconds << 16) + counter) == (milliseconds, counter)


# Lamport clocks ------------------------------------------------------------------------------------------------


def test_a_lamport_clock_gives_the_new_number():
    """Incrementing gives the number after, and observing one that is greater than both."""
    clock = LamportClock()
    assert clock.increment() == 1
    assert clock.increment() == 2
    assert clock.observe(7) == 8
    assert clock.observe(3) == 9
    assert clock.value == 9
    assert clock < LamportClock(10)
