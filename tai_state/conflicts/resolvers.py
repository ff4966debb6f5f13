"""Resolvers: they decide, from two rival versions, the state that both sides should have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from tai_state.conflicts.resolutions import (
    Resolution,
    base_of,
    discarded_changes,
    resolution,
    same,
    state_of,
    unkept,
)
from tai_state.conflicts.rivals import Rival, compare_rivals
from tai_state.errors import ConflictResolutionFailed, InvalidData
from tai_state.streams.layout import Layout
from tai_state.values.checks import check_callable
from tai_state.values.clocks import ClockOrder
from tai_state.values.json import normalise_object
from tai_state.values.metadata import check_text


class Resolver(Protocol):
    """Decides between rivals: two versions of one state, neither of which knew of the other."""

    def resolve(self, ours: Rival, theirs: Rival, base: dict[str, Any] | None) -> Resolution:
        """The state that both sides should have.

        A resolver is pure and symmetric: swapping ours and theirs gives the same resolution, its records included.
        Each change that the resolution does not include, alone or combined with others, is listed in ``discarded``.

        Args:
            ours: one version.
            theirs: the other one.
            base: the data of the last version that both knew of; None if unknown.

        Raises:
            ConflictResolutionFailed: it cannot decide.
        """
        ...


def check_resolver(resolver: object) -> None:
    """Check that an argument decides between rivals.

    Raises:
        InvalidData: it does not.
    """
    if isinstance(resolver, type) or not callable(getattr(resolver, "resolve", None)):
        raise InvalidData(f"a resolver is needed, like LastWriteWins(), not {resolver!r}")


@dataclass(frozen=True, slots=True)
class LastWriteWins:
    """The version with the later hybrid clock wins; if the clocks are equal, the one of the greater store id wins.

    The hybrid clock follows the clocks of the writing machines, but a change is always later than what it knew of.
    """

    def resolve(self, ours: Rival, theirs: Rival, base: dict[str, Any] | None) -> Resolution:
        """See :meth:`Resolver.resolve`."""
        loser, winner = ranked(ours, theirs)
        return _keep(winner, loser, base, "last_write_wins")


@dataclass(frozen=True, slots=True)
class VersionBased:
    """The version with the longer stream wins; if both are equally long, :class:`LastWriteWins` decides."""

    def resolve(self, ours: Rival, theirs: Rival, base: dict[str, Any] | None) -> Resolution:
        """See :meth:`Resolver.resolve`."""
        loser, winner = sorted((ours, theirs), key=lambda each: (each.snapshot.version, each.rank))
        return _keep(winner, loser, base, "version_based")


@dataclass(frozen=True, slots=True)
class Causal:
    """The version that knew of the other one wins, and nothing is discarded; between rivals the fallback decides.

    Attributes:
        fallback: decides between concurrent versions; None: they cannot be resolved.
    """

    fallback: Resolver | None = None

    def __post_init__(self) -> None:
        if self.fallback is not None:
            check_resolver(self.fallback)

    def resolve(self, ours: Rival, theirs: Rival, base: dict[str, Any] | None) -> Resolution:
        """See :meth:`Resolver.resolve`; it also accepts versions of which one knew of the other.

        Raises:
            ConflictResolutionFailed: they are concurrent, and there is no fallback.
        """
        order = compare_rivals(ours, theirs)
        if order is ClockOrder.AFTER:
            return Resolution(data=ours.data, strategy="causal")
        # Equal clocks mean the same event, unless a store was copied and both copies continued under one id.
        if order is ClockOrder.BEFORE or (
            order is ClockOrder.SAME and same(state_of(ours.data), state_of(theirs.data))
        ):
            return Resolution(data=theirs.data, strategy="causal")
        if self.fallback is None:
            raise ConflictResolutionFailed(path_of(ours), (ours.clock, theirs.clock))
        return self.fallback.resolve(ours, theirs, base)


ResolverFunction: TypeAlias = Callable[[Rival, Rival, dict[str, Any] | None], dict[str, Any] | None]
"""``choose(earlier, later, base)``: the resolved data; None for a deletion. Pure."""


@dataclass(frozen=True, slots=True)
class Custom:
    """The caller's own function decides.

    It gets the versions in the order of :class:`LastWriteWins`, the later one last, so its result cannot depend on
    which one is called ours. Each side's changes that its result does not keep are recorded as discarded.

    Attributes:
        function: see :data:`ResolverFunction`.
        strategy: the name of the function in records.
    """

    function: ResolverFunction
    strategy: str = "custom"

    def __post_init__(self) -> None:
        check_callable(self.function, "the function of Custom")
        check_text(self.strategy, "the strategy of Custom")

    def resolve(self, ours: Rival, theirs: Rival, base: dict[str, Any] | None) -> Resolution:
        """See :meth:`Resolver.resolve`.

        Raises:
            InvalidData: the function did not return a JSON object.
            Whatever the function raises.
        """
        earlier, later = ranked(ours, theirs)
        data = self.function(earlier, later, base)
        if data is not None:
            _, data = normalise_object(data, f"what {self.strategy} returned")
        kept, before = state_of(data), base_of(base)
        discarded = discarded_changes(earlier, later, unkept(state_of(earlier.data), kept, before))
        discarded += discarded_changes(later, earlier, unkept(state_of(later.data), kept, before))
        return resolution(data, self.strategy, discarded)


def path_of(version: Rival) -> str:
    """The path of the state that a version is of, in a store without a root."""
    return Layout().stream(version.snapshot.governor_id, version.snapshot.state_id).state


def ranked(ours: Rival, theirs: Rival) -> tuple[Rival, Rival]:
    """The earlier version and the later one, regardless of which is called ours."""
    return (ours, theirs) if ours.rank <= theirs.rank else (theirs, ours)


def _keep(winner: Rival, loser: Rival, base: dict[str, Any] | None, strategy: str) -> Resolution:
    """Keep one version as a whole. Changes that it knew of are not discarded."""
    if compare_rivals(loser, winner) is ClockOrder.BEFORE:
        return Resolution(data=winner.data, strategy=strategy)
    changes = unkept(state_of(loser.data), state_of(winner.data), base_of(base))
    return resolution(winner.data, strategy, discarded_changes(loser, winner, changes))
