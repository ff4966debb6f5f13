"""Random definitions and random walks: no way leads into a state that the rules forbid."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tai_state.errors import (
    InvalidDefinition,
    InvalidTransition,
    InvariantViolation,
    PreconditionFailed,
    TransitionRefused,
)
from tai_state.machines import (
    ANY_STATE,
    Command,
    ComponentState,
    Definition,
    Invariant,
    MachineEvent,
    ProofObligation,
    Refusal,
    Rule,
    Severity,
    StateMachine,
    StepKind,
    allow,
    define,
    described,
    forbid,
)

GO = Command("go")
EVENTS = [MachineEvent("one"), MachineEvent("two")]
LOADED = [MachineEvent("three", int), MachineEvent("four", int)]


def _states(terminal: list[bool]) -> Any:
    members = {f"S{number}": described("", terminal=each) for number, each in enumerate(terminal)}
    return ComponentState("Random", members)  # type: ignore[arg-type]


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

    def covers(self, source: int, target: int, count: int) -> bool:
        """Whether the rule says something of the step."""
        sources = range(count) if self.sources is None else self.sources
        targets = range(count) if self.targets is None else self.targets
        return source in sources and target in targets and source not in self.unless_from


GUARDS: dict[str, Any] = {
    "yes": lambda _: True,
    "no": lambda _: "no",
    "raises": lambda _: 1 // 0,
    "even": lambda step: step.epoch % 2 == 0,
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
    )


def _rule(kind: Kind, number: int, members: list[Any]) -> Rule[Any, Any]:
    def some(numbers: tuple[int, ...] | None) -> Any:
        return ANY_STATE if numbers is None else [members[each] for each in numbers]

    sources, targets, name = some(kind.sources), some(kind.targets), f"r{number}"
    if kind.is_forbidding:
        return forbid(sources, targets, f"{name} says no", name=name, unless_from=some(kind.unless_from))
    guard = None if kind.guard is None else GUARDS[kind.guard]
    return allow(sources, targets, name=name, guard=guard, on=kind.event, advances_epoch=kind.advances_epoch)


@dataclass(frozen=True)
class World:
    """A definition, and what it was drawn from."""

    definition: Definition[Any, None]
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

    def holds(self, kind: Kind, epoch: int) -> bool:
        """Whether the guard of a rule holds."""
        return kind.guard in {None, "yes"} or (kind.guard == "even" and epoch % 2 == 0)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """A random definition with an obligation, and an invariant that one state breaks."""
    terminal = [False, *draw(st.lists(st.sampled_from([False, False, True]), min_size=1, max_size=4))]
    members = list(_states(terminal))
    banned, proven = draw(st.integers(0, 2 * len(members))), draw(st.sampled_from([True, True, False]))
    breaking = members[banned] if banned < len(members) else None

    def defined(kinds: list[Kind]) -> Definition[Any, None]:
        return define(
            "random",
            type(members[0]),
            initial=members[0],
            rules=[_rule(kind, number, members) for number, kind in enumerate(kinds)],
            obligations=[ProofObligation("proven", lambda step: proven or "sure" in step.metadata)],
            invariants=[Invariant("well", "is well", Severity.High, lambda machine: machine.state is not breaking)],
            dead_ends=members,
            unreached=members,
        )

    kinds: list[Kind] = []
    for kind in draw(st.lists(_kinds(len(members)), min_size=1, max_size=8)):
        with suppress(InvalidDefinition):  # the rule contradicts another one, or can never apply
            defined([*kinds, kind])
            kinds.append(kind)
    return World(defined(kinds), members, terminal, kinds, banned, proven)


def _expected(world: World, rules: list[Kind], target: int, epoch: int, *, sure: bool) -> type[TransitionRefused] | int:
    """What becomes of a step by the words of the specification: an error, or the epoch after it."""
    holding = [each for each in rules if world.holds(each, epoch)]
    if not holding:
        return InvalidTransition
    if not (world.proven or sure):
        return PreconditionFailed
    return InvariantViolation if target == world.banned else epoch + holding[0].advances_epoch


STEPS = st.lists(st.tuples(st.sampled_from(["step", "event", "force"]), st.integers(0, 4), st.booleans()), max_size=12)


@given(worlds(), STEPS)
def test_no_walk_leads_where_the_rules_do_not(world: World, steps: list[tuple[str, int, bool]]):
    """Each step of a random walk ends as the specification says: asked about, asked for, fired or forced."""
    machine = StateMachine(world.definition, history_limit=1_000)
    for how, number, sure in steps:
        source, epoch = world.members.index(machine.current_state), machine.epoch
        facts = {"sure": "yes"} if sure else {}
        target = number % len(world.members)
        before = machine.transition_history
        if how == "force":
            machine.force_state(world.members[target], "by hand")
            assert machine.epoch == epoch
            assert len(machine.transition_history[-1].violations) == (target == world.banned)
        elif how == "step":
            rules = [each for each in world.allowing(source, target) if each.event not in LOADED]
            expected = _expected(world, rules, target, epoch, sure=sure)
            _asked(machine, world.members[target], facts, expected)
        else:
            event: Any = [*EVENTS, *LOADED][number % 4]
            edges = [
                (kind, each)
                for kind in world.kinds
                for each in kind.targets or ()
                if kind.event is event and kind in world.allowing(source, each)
            ]
            holding = [(kind, each) for kind, each in edges if world.holds(kind, epoch)]
            target = holding[0][1] if holding else source
            expected = _expected(world, [kind for kind, _ in edges], target, epoch, sure=sure)
            payload = None if event in EVENTS else 7
            _done(machine, world.members[target], partial(machine.fire, event, payload, metadata=facts), expected)
        after = machine.transition_history
        assert after[: len(before)] == before
        _is_sound(world, machine)


def _asked(machine: StateMachine[Any, None], state: Any, facts: dict[str, str], expected: Any) -> None:
    """Asking about a step and asking for it agree."""
    verdict = machine.can_transition_to(state, metadata=facts)
    assert bool(verdict) is isinstance(expected, int)
    if isinstance(verdict, Refusal):
        assert verdict.error is expected
    _done(machine, state, lambda: machine.transition_to(state, GO, metadata=facts), expected)


def _done(machine: StateMachine[Any, None], state: Any, act: Any, expected: Any) -> None:
    """The step is taken, or refused with the error that is expected, and what would be allowed."""
    before = machine.current_state, machine.epoch
    if isinstance(expected, int):
        act()
        assert (machine.current_state, machine.epoch) == (state, expected)
        return
    with pytest.raises(expected) as raised:
        act()
    assert (machine.current_state, machine.epoch) == before
    assert raised.value.allowed == machine.definition.allowed(machine.current_state)


def _is_sound(world: World, machine: StateMachine[Any, None]) -> None:
    """Numbers grow by one, epochs never fall, and each step that was not forced is allowed by some rule."""
    history = machine.transition_history
    assert [each.id for each in history] == [*range(len(history))]
    for one, two in pairwise(history):
        assert one.to_state is two.from_state
        assert one.epoch <= two.epoch
        if two.kind is not StepKind.FORCE:
            source, target = world.members.index(two.from_state), world.members.index(two.to_state)
            assert world.allowing(source, target)
            assert target != world.banned


@given(worlds())
def test_what_is_said_to_be_allowed_is_what_the_rules_lead_to(world: World):
    """``allowed`` names, in the order of the states, exactly those that a rule leads to and none forbids."""
    count = len(world.members)
    for source, state in enumerate(world.members):
        expected = [world.members[target].name for target in range(count) if world.allowing(source, target)]
        assert [*world.definition.allowed(state)] == expected
        for target, other in enumerate(world.members):
            valid = [each.is_valid(state, other) for each in world.definition.rules if not each.is_forbidding]
            assert any(valid) >= bool(world.allowing(source, target))
