"""A rival version of a state."""

from __future__ import annotations

from typing import Any

import msgspec

from tai_state.values.clocks import ClockOrder, VectorClock, compare
from tai_state.values.states import JsonState


class Rival(msgspec.Struct, frozen=True, kw_only=True):
    """A state as one store has it, with the facts that rank it among its rivals.

    The facts belong to the version, not to the store that it is read from, so every store ranks rivals alike.

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
        """The state's data; None if deleted."""
        return self.snapshot.data

    @property
    def clock(self) -> VectorClock:
        """The vector clock: for each store, how many of its changes the version knows of."""
        return self.snapshot.causality

    @property
    def rank(self) -> tuple[int, list[tuple[str, int]], str]:
        """Orders rivals by hybrid clock, then by store id. The order is total, and follows causality along a stream.

        By store id: of the stores whose changes one version knows more of than the other, the store with the greatest
        id decides. Between two stores' own changes, the greater store id wins.
        """
        counts = [(store_id, count) for store_id, count in self.clock.items() if count]
        return self.hlc, sorted(counts, reverse=True), self.tip

    def unseen_by(self, other: Rival) -> tuple[str, ...]:
        """The ids of the stores with changes that this version knows of and the other does not."""
        return tuple(sorted(store_id for store_id, count in self.clock.items() if count > other.clock.get(store_id, 0)))


def compare_rivals(one: Rival, other: Rival) -> ClockOrder:
    """Compare the clocks of two versions; see :func:`~tai_state.values.clocks.compare`."""
    return compare(one.clock, other.clock)
