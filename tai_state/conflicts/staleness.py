"""Whether what was read is as new as its reader may expect."""

from __future__ import annotations

from collections.abc import Iterable

from tai_state.errors import CausalityViolation, StaleRead
from tai_state.values.clocks import ClockOrder, VectorClock, compare


def check_freshness(path: str, read: VectorClock, known: Iterable[VectorClock]) -> None:
    """Make sure that no version known to exist is newer than what was read.

    Args:
        path: of the state.
        read: the clock of what was read.
        known: the clocks of versions known to exist.

    Raises:
        StaleRead: one of the clocks knew of what was read, and of more.
    """
    for clock in known:
        if compare(read, clock) is ClockOrder.BEFORE:
            raise StaleRead(path, (read, clock))


def check_causality(path: str, read: VectorClock, after: VectorClock) -> None:
    """Make sure that what was read includes what its reader has seen.

    Args:
        path: of the state.
        read: the clock of what was read.
        after: the clock of what its reader has seen or written.

    Raises:
        CausalityViolation: it does not.
    """
    if compare(after, read) in {ClockOrder.AFTER, ClockOrder.CONCURRENT}:
        raise CausalityViolation(path, (read, after))
