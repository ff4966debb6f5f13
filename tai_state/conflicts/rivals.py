"""One of the rival versions of a state."""

from __future__ import annotations

from typing import Any

import msgspec

from tai_state.values.clocks import ClockOrder, VectorClock, compare
from tai_state.values.states import JsonState


class Rival(msgspec.Struct, frozen=True, kw_only=True):
    """A state as one store has it, with what tells it from its rivals.

    All of it belongs to the version and not to the place it is read at, so that every store ranks rivals alike.

    Attributes:
        snapshot: the state, deleted or not; its ``causality`` says what the version knew of.
        hlc: the hybrid clock of its last event.
        tip: the id of its last event.
    """

    snapshot: JsonState
    hlc: int
    tip: str

    @property
    def data(self) -> dict[str, Any] | None:
        """The state's data; None when deleted."""
        return self.snapshot.data

    @property
    def clock(self) -> VectorClock:
        """The vector clock: per store, how many of its changes the version knows."""
        return self.snapshot.causality

    @property
    def rank(self) -> tuple[int, list[tuple[str, int]], str]:
        """Orders rivals by hybrid clock, then by store id. Total, and in line with causality along a stream.

        By store id means: of all stores of whose changes one version knows more than the other, the one with the
        greatest id decides. Between two stores' own changes that is the greater of their ids.
        """
        counts = [(store_id, count) for store_id, count in self.clock.items() if count]
        return self.hlc, sorted(counts, reverse=True), self.tip

    def unseen_by(self, other: Rival) -> tuple[str, ...]:
        """The ids of the stores of whose changes this version knows and the other one does not."""
        return tuple(sorted(store_id for store_id, count in self.clock.items() if count > other.clock.get(store_id, 0)))


def compare_rivals(one: Rival, other: Rival) -> ClockOrder:
    """As :func:`~tai_state.values.clocks.compare`, of versions."""
    return compare(one.clock, other.clock)
