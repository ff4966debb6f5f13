"""The history of conflicts: bounded, and it knows a storm."""

from __future__ import annotations

import pytest

from tai_state.conflicts.latest import ConflictHistory, ConflictRecord
from tai_state.testing import ManualClock
from tai_state.values.times import from_us

from ..support.rivals import A, B


def resolved(clock: ManualClock, path: str = "p") -> ConflictRecord:
    """A conflict resolved now."""
    now = from_us(clock.now_us())
    return ConflictRecord(path=path, clocks=({A: 1}, {B: 1}), strategy="s", resolved_at=now, discarded=0, repaired=True)


def test_a_storm_is_more_conflicts_than_that():
    """A storm is strictly more conflicts than the threshold within the window up to now."""
    clock = ManualClock()
    history = ConflictHistory(clock)
    for _ in range(3):
        history.record(resolved(clock))
        clock.advance_us(10_000_000)
    assert history.has_conflict_storm(2, 30)
    assert not history.has_conflict_storm(3, 30)
    assert not history.has_conflict_storm(2, 29.9)
    assert history.has_conflict_storm(1, 20)
    clock.advance_us(60_000_000)
    assert not history.has_conflict_storm(0, 60)


def test_the_latest_conflicts_are_kept():
    """Only so many are kept, newest first; a threshold that could never be passed is refused."""
    clock = ManualClock()
    history = ConflictHistory(clock, kept_max=3)
    for path in "abcde":
        history.record(resolved(clock, path))
    assert [record.path for record in history.recent(2)] == ["e", "d"]
    assert [record.path for record in history.recent(9)] == ["e", "d", "c"]
    assert history.has_conflict_storm(2, 1)
    with pytest.raises(ValueError, match="latest 3"):
        history.has_conflict_storm(3, 1)
