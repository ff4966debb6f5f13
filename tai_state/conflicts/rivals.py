"""A rival version of a state."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

import msgspec

from tai_state.errors import InvalidData
from tai_state.values.checks import check_clock
from tai_state.values.clocks import ClockOrder, VectorClock, compare
from tai_state.values.states import DeletedState, JsonState, StateSnapshot

Place: TypeAlias = tuple[str, tuple[tuple[str, int], ...]]
"""What no two events of a state can share."""


class Counted(NamedTuple):
    """An event and how it was counted.

    Attributes:
        event_id: the event's id.
        store: the id of the store that counted it; empty for an event that joins two streams.
        clock: the event's vector clock.
    """

    event_id: str
    store: str
    clock: VectorClock


class Rival(msgspec.Struct, frozen=True, kw_only=True):
    """A state as one store has it, with the facts that rank it among its rivals.

    The facts belong to the version, not to the store that it is read from, so every store ranks rivals alike.

    Attributes:
        snapshot: the state, deleted or not; its ``causality`` says what the version knew of.
        hlc: the hybrid clock of its last event.
        tip: the id of its last event.
        recent: its last events, if it was read from a store: clocks alone do not show that a store was restored from a
            backup.
    """

    snapshot: JsonState
    hlc: int
    tip: str
    recent: tuple[Counted, ...] = ()

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


def check_rival(version: object, what: str) -> None:
    """Check that an argument is a version of a state.

    Raises:
        InvalidData: it is not.
    """
    if not isinstance(version, Rival):
        raise InvalidData(f"{what} must be a Rival, as `read` returns it, not {type(version).__name__}")
    check_state(version.snapshot, f"the snapshot of {what}")
    if type(version.hlc) is not int or type(version.tip) is not str:
        raise InvalidData(f"{what} must have a whole number as hlc and a text as tip")


def check_state(state: object, what: str) -> None:
    """Check that an argument is a state as it was read, deleted or not.

    Raises:
        InvalidData: it is not.
    """
    if not isinstance(state, StateSnapshot | DeletedState):
        raise InvalidData(f"{what} must be a state that was read, not {type(state).__name__}")
    check_clock(state.causality, f"the causality of {what}")


def places_of(event: Counted) -> list[Place]:
    """What no other event can have, unless a store was restored from a backup and counts anew.

    A store that was made from an export did not count the events in it, and is not in their clocks.
    """
    if not event.store:
        return []
    whole: Place = "", tuple(sorted(event.clock.items()))
    count = event.clock.get(event.store)
    return [whole] if count is None else [whole, (event.store, ((event.store, count),))]


def are_apart(ours: Iterable[Counted], theirs: Iterable[Counted]) -> bool:
    """Whether events of ours stand where theirs have others: whatever the clocks say, theirs did not know of ours."""
    theirs = list(theirs)
    known = {each.event_id for each in theirs}
    taken = {place for each in theirs for place in places_of(each)}
    return any(place in taken for each in ours if each.event_id not in known for place in places_of(each))


def compare_rivals(one: Rival, other: Rival) -> ClockOrder:
    """Compare the clocks of two versions; see :func:`~tai_state.values.clocks.compare`."""
    return compare(one.clock, other.clock)
