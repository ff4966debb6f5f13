"""Whether a state that was read is as new as its reader may expect."""

from __future__ import annotations

from collections.abc import Iterable

from tai_state.errors import CausalityViolation, StaleRead
from tai_state.values.clocks import ClockOrder, VectorClock, compare


def check_freshness(path: str, read: VectorClock, known: Iterable[VectorClock]) -> None:
    """Check that no version known to exist is newer than the state that was read.

    Args:
        path: the path of the state.
        read: the clock of the state that was read.
        known: the clocks of versions known to exist.

    Raises:
        StaleRead: one of the clocks covers the state that was read, and more.
    """
    for clock in known:
        if compare(read, clock) is ClockOrder.BEFORE:
            raise StaleRead(path, (read, clock))


def check_causality(path: str, read: VectorClock, after: VectorClock) -> None:
    """Check that the state that was read includes all that its reader has seen.

    Args:
        path: the path of the state.
        read: the clock of the state that was read.
        after: the clock of all that its reader has seen or written.

    Raises:
        CausalityViolation: it does not include all of that.
    """
    if compare(after, read) in {ClockOrder.AFTER, ClockOrder.CONCURRENT}:
        raise CausalityViolation(path, (read, after))
