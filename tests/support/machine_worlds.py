"""Definitions of machines at random, and what they mean: worked out by brute force, without the library's tables."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from pydantic import BaseModel

from tai_state.errors import (
    InvalidDefinition,
    InvalidTransition,
    InvariantViolation,
    PreconditionFailed,
    TransitionRefused,
)
from tai_state.machines import (
    ANY_STATE,
    ComponentState,
    Definition,
    Invariant,
    MachineEvent,
    ProofObligation,
    Rule,
    Severity,
    allow,
    define,
    described,
    forbid,
    time_out,
)

EVENTS = [MachineEvent("one"), MachineEvent("two")]
LOADED = [MachineEvent("three", int), MachineEvent("four", int)]


def _states(terminal: list[bool]) -> Any:
    members = {f"S{number}": described("", terminal=each) for number, each in enumerate(terminal)}
    return ComponentState("Random", members)  # type: ignore[arg-type]


class Tally(BaseModel):
    """What a machine keeps beside its state."""

    n: int = 0


@dataclass(frozen=True)
class Kind:
    """A rule as it was drawn: numbers of states, so that what it means can be worked out without the library."""

    sources: tuple[int, ...] | None
    targets: tuple[int, ...] | None
    unless_from: tuple[int, ...]
    is_forbidding: bool
    guard: str | None
    event: MachineEvent[Any] | None
    advances_epoch: bool
    counts: bool = False
    seconds: int = 0

    def covers(self, source: int, target: int, count: int) -> bool:
        """Whether the rule says something of the step."""
        sources = range(count) if self.sources is None else self.sources
        targets = range(count) if self.targets is None else self.targets
        return source in sources and target in targets and source not in self.unless_from


FEW = 2
GUARDS: dict[str, Any] = {
    "yes": lambda _: True,
    "no": lambda _: "no",
    "raises": lambda _: 1 // 0,
    "even": lambda step: step.epoch % 2 == 0,
    "few": lambda step: step.context.n < FEW,
}


@st.composite
def _kinds(draw: st.DrawFn, count: int) -> Kind:
    some = st.lists(st.integers(0, count - 1), min_size=1, max_size=3, unique=True).map(tuple)
    is_forbidding = draw(st.sampled_from([False, False, False, True]))
    return Kind(
        draw(st.none() | some),
        draw(st.none() | some) if is_forbidding else draw(some),
        draw(some) if is_forbidding and draw(st.booleans()) else (),
        is_forbidding,
        None if is_forbidding else draw(st.sampled_from([None, None, None, *GUARDS])),
        None if is_forbidding else draw(st.sampled_from([None, None, None, *EVENTS, *LOADED])),
        not is_forbidding and draw(st.booleans()),
        not is_forbidding and draw(st.booleans()),
    )


@st.composite
def _time_outs(draw: st.DrawFn, count: int) -> Kind:
    source, target = draw(st.integers(0, count - 1)), draw(st.integers(0, count - 1))
    return Kind((source,), (target,), (), False, None, None, False, seconds=draw(st.integers(1, 100)))


def _rule(kind: Kind, number: int, members: list[Any]) -> Rule[Any, Any]:
    def some(numbers: tuple[int, ...] | None) -> Any:
        return ANY_STATE if numbers is None else [members[each] for each in numbers]

    sources, targets, name = some(kind.sources), some(kind.targets), f"r{number}"
    if kind.is_forbidding:
        return forbid(sources, targets, f"{name} says no", name=name, unless_from=some(kind.unless_from))
    if kind.seconds:
        return time_out(sources[0], targets[0], seconds=kind.seconds, name=name)
    guard = None if kind.guard is None else GUARDS[kind.guard]
    update = _counted if kind.counts else None
    return allow(
        sources, targets, name=name, guard=guard, on=kind.event, advances_epoch=kind.advances_epoch, update=update
    )


def _counted(step: Any) -> Tally:
    return Tally(n=step.context.n + 1)


@dataclass(frozen=True)
class World:
    """A definition, and what it was drawn from."""

    definition: Definition[Any, Tally]
    members: list[Any]
    terminal: list[bool]
    kinds: list[Kind]
    banned: int
    proven: bool

    def allowing(self, source: int, target: int) -> list[Kind]:
        """The rules that allow a step, by the words of the specification; none if one forbids it."""
        covering = [each for each in self.kinds if each.covers(source, target, len(self.members))]
        if self.terminal[source] or any(each.is_forbidding for each in covering):
            return []
        return covering

    def holds(self, kind: Kind, epoch: int, n: int) -> bool:
        """Whether the guard of a rule holds."""
        named = {None: True, "yes": True, "even": epoch % 2 == 0, "few": n < FEW}
        return named.get(kind.guard, False)

    def asked(self, source: int, target: int) -> list[Kind]:
        """The rules by which a step can be asked for by its target."""
        return [each for each in self.allowing(source, target) if each.event not in LOADED and not each.seconds]

    def fired(self, source: int, event: str) -> list[tuple[Kind, int]]:
        """The rules by which an event takes a step, and the states that they lead to."""
        return [
            (kind, each)
            for kind in self.kinds
            for each in kind.targets or ()
            if kind.event is not None and kind.event.name == event and kind in self.allowing(source, each)
        ]

    def seconds(self, source: int) -> int:
        """The time-out of a state; 0 if it has none."""
        return next((each.seconds for each in self.kinds if each.seconds and each.sources == (source,)), 0)

    def outcome(
        self, edges: list[tuple[Kind, int]], epoch: int, n: int, *, sure: bool
    ) -> type[TransitionRefused] | tuple[int, int, int]:
        """What becomes of a step: an error, or the state, the epoch and the count after it.

        Args:
            edges: the rules that may allow the step, in their order, and the states that they lead to.
            epoch: the epoch before the step.
            n: the count before it.
            sure: whether the caller's facts prove what must be proven.
        """
        holding = [(kind, target) for kind, target in edges if self.holds(kind, epoch, n)]
        if not holding:
            return InvalidTransition
        if not (self.proven or sure):
            return PreconditionFailed
        kind, target = holding[0]
        return InvariantViolation if target == self.banned else (target, epoch + kind.advances_epoch, n + kind.counts)


@st.composite
def _open_kinds(draw: st.DrawFn, count: int) -> list[Kind]:
    """Rules that lead from every state to two or three, and some that forbid one step each."""
    states = st.integers(0, count - 1)
    targets = draw(st.lists(states, min_size=2, max_size=3, unique=True))
    pairs = draw(st.lists(st.tuples(states, states), min_size=2, max_size=6))
    ways = [Kind(None, (each,), (), False, None, None, draw(st.booleans()), draw(st.booleans())) for each in targets]
    return [*ways, *(Kind((one,), (other,), (), True, None, None, False) for one, other in pairs)]


@st.composite
def worlds(draw: st.DrawFn, *, are_open: bool = False) -> World:
    """A random definition with an obligation, and an invariant that one state breaks.

    Args:
        draw: draws.
        are_open: whether it has many ways, so that a walk in it gets far.
    """
    ends = st.sampled_from([False, False, False, False, True] if are_open else [False, False, True])
    terminal = [False, *draw(st.lists(ends, min_size=1 + are_open, max_size=4))]
    members = list(_states(terminal))
    banned, proven = draw(st.integers(0, 2 * len(members))), draw(st.sampled_from([True, True, False]))
    breaking = members[banned] if banned < len(members) else None

    def defined(kinds: list[Kind]) -> Definition[Any, Tally]:
        return define(
            "random",
            type(members[0]),
            initial=members[0],
            context=Tally,
            rules=[_rule(kind, number, members) for number, kind in enumerate(kinds)],
            obligations=[ProofObligation("proven", lambda step: proven or "sure" in step.metadata)],
            invariants=[Invariant("well", "is well", Severity.High, lambda machine: machine.state is not breaking)],
            dead_ends=members,
            unreached=members,
        )

    kinds: list[Kind] = []
    drawn = draw(st.lists(_kinds(len(members)), min_size=1, max_size=8))
    ways = draw(_open_kinds(len(members))) if are_open else []
    for kind in [*ways, *drawn, *draw(st.lists(_time_outs(len(members)), max_size=2))]:
        with suppress(InvalidDefinition):  # the rule contradicts another one, or can never apply
            defined([*kinds, kind])
            kinds.append(kind)
    return World(defined(kinds), members, terminal, kinds, banned, proven)
