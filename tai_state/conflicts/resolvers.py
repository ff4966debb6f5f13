"""Resolvers: from two rival versions, the state that both are to have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from tai_state.conflicts.resolutions import Resolution, dropped, known, resolution, same, state_of, unkept
from tai_state.conflicts.rivals import Rival, compare_rivals
from tai_state.errors import ConflictResolutionFailed
from tai_state.streams.layout import Layout
from tai_state.values.clocks import ClockOrder
from tai_state.values.json import normalise_object


class Resolver(Protocol):
    """Decides between rivals: versions of one state, neither of which knew of the other."""

    def resolve(self, ours: Rival, theirs: Rival, base: dict[str, Any] | None) -> Resolution:
        """The state that both sides are to have.

        Pure, and symmetric: the same resolution, its records included, with ours and theirs the other way round.
        Each change that neither side's data nor a combination of both carries on stands in ``discarded``.

        Args:
            ours: one version.
            theirs: the other one.
            base: the data of the last version that both knew of; None where it is not known.

        Raises:
            ConflictResolutionFailed: it cannot decide.
        """
        ...


@dataclass(frozen=True, slots=True)
class LastWriteWins:
    """The version with the later hybrid clock wins; of two at the same time, that of the greater store id.

    Later goes by the clocks of the machines that wrote, except that a change is always later than what it knew of.
    """

    def resolve(self, ours: Rival, theirs: Rival, base: dict[str, Any] | None) -> Resolution:
        """See :meth:`Resolver.resolve`."""
        loser, winner = ranked(ours, theirs)
        return _keep(winner, loser, base, "last_write_wins")


@dataclass(frozen=True, slots=True)
class VersionBased:
    """The version with the higher number wins: the longer stream. Of two as long, as :class:`LastWriteWins`."""

    def resolve(self, ours: Rival, theirs: Rival, base: dict[str, Any] | None) -> Resolution:
        """See :meth:`Resolver.resolve`."""
        loser, winner = sorted((ours, theirs), key=lambda each: (each.snapshot.version, each.rank))
        return _keep(winner, loser, base, "version_based")


@dataclass(frozen=True, slots=True)
class Causal:
    """The version that knew of the other one wins, and nothing is discarded; between rivals the fallback decides.

    Attributes:
        fallback: None: versions that are concurrent cannot be resolved.
    """

    fallback: Resolver | None = None

    def resolve(self, ours: Rival, theirs: Rival, base: dict[str, Any] | None) -> Resolution:
        """See :meth:`Resolver.resolve`; takes versions of which one knew of the other, too.

        Raises:
            ConflictResolutionFailed: they are concurrent, and there is no fallback.
        """
        order = compare_rivals(ours, theirs)
        if order is ClockOrder.AFTER:
            return Resolution(data=ours.data, strategy="causal")
        # Equal clocks stand for the same event, unless a store was copied and both went on under one id.
        if order is ClockOrder.BEFORE or (
            order is ClockOrder.SAME and same(state_of(ours.data), state_of(theirs.data))
        ):
            return Resolution(data=theirs.data, strategy="causal")
        if self.fallback is None:
            stream = Layout().stream(ours.snapshot.governor_id, ours.snapshot.state_id)
            raise ConflictResolutionFailed(stream.state, (ours.clock, theirs.clock))
        return self.fallback.resolve(ours, theirs, base)


ResolverFunction: TypeAlias = Callable[[Rival, Rival, dict[str, Any] | None], dict[str, Any] | None]
"""``choose(earlier, later, base)``: the data to go on with, None for a deletion. Pure."""


@dataclass(frozen=True, slots=True)
class Custom:
    """A function of one's own decides.

    It is given the versions in the order of :class:`LastWriteWins`, the later one last, so that it cannot depend on
    who asks. What it takes from neither side unchanged is recorded as discarded, on both.

    Attributes:
        function: see :data:`ResolverFunction`.
        strategy: its name in records.
    """

    function: ResolverFunction
    strategy: str = "custom"

    def resolve(self, ours: Rival, theirs: Rival, base: dict[str, Any] | None) -> Resolution:
        """See :meth:`Resolver.resolve`.

        Raises:
            InvalidData: the function returned no JSON object. Otherwise what the function raises.
        """
        earlier, later = ranked(ours, theirs)
        data = self.function(earlier, later, base)
        if data is not None:
            _, data = normalise_object(data, f"what {self.strategy} returned")
        kept, before = state_of(data), known(base)
        discarded = dropped(earlier, later, unkept(state_of(earlier.data), kept, before))
        discarded += dropped(later, earlier, unkept(state_of(later.data), kept, before))
        return resolution(data, self.strategy, discarded)


def ranked(ours: Rival, theirs: Rival) -> tuple[Rival, Rival]:
    """The earlier and the later one, whichever is called ours."""
    return (ours, theirs) if ours.rank <= theirs.rank else (theirs, ours)


def _keep(winner: Rival, loser: Rival, base: dict[str, Any] | None, strategy: str) -> Resolution:
    """One of the versions whole. What it knew of, it did not discard."""
    if compare_rivals(loser, winner) is ClockOrder.BEFORE:
        return Resolution(data=winner.data, strategy=strategy)
    changes = unkept(state_of(loser.data), state_of(winner.data), known(base))
    return resolution(winner.data, strategy, dropped(loser, winner, changes))
