"""Random definitions and random walks: no way leads into a state that the rules forbid."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tai_state.machines import Command, Refusal, StateMachine, StepKind

from ..support.machine_worlds import EVENTS, LOADED, Tally, World, worlds

GO = Command("go")
STEPS = st.lists(st.tuples(st.sampled_from(["step", "event", "force"]), st.integers(0, 4), st.booleans()), max_size=12)


@given(worlds(), STEPS)
def test_no_walk_leads_where_the_rules_do_not(world: World, steps: list[tuple[str, int, bool]]):
    """Each step of a random walk ends as the specification says: asked about, asked for, fired or forced."""
    machine = StateMachine(world.definition, context=Tally(), history_limit=1_000)
    for how, number, sure in steps:
        source, epoch, n = world.members.index(machine.current_state), machine.epoch, machine.context.n
        facts = {"sure": "yes"} if sure else {}
        target = number % len(world.members)
        before = machine.transition_history
        if how == "force":
            machine.force_state(world.members[target], "by hand")
            assert (machine.epoch, machine.context.n) == (epoch, n)
            assert len(machine.transition_history[-1].violations) == (target == world.banned)
        elif how == "step":
            edges = [(each, target) for each in world.asked(source, target)]
            _asked(machine, world, target, facts, world.outcome(edges, epoch, n, sure=sure))
        else:
            event: Any = [*EVENTS, *LOADED][number % 4]
            expected = world.outcome(world.fired(source, event.name), epoch, n, sure=sure)
            payload = None if event in EVENTS else 7
            _done(machine, world, partial(machine.fire, event, payload, metadata=facts), expected)
        after = machine.transition_history
        assert after[: len(before)] == before
        _is_sound(world, machine)


def _asked(machine: StateMachine[Any, Tally], world: World, target: int, facts: dict[str, str], expected: Any) -> None:
    """Asking about a step and asking for it agree."""
    state = world.members[target]
    verdict = machine.can_transition_to(state, metadata=facts)
    assert bool(verdict) is isinstance(expected, tuple)
    if isinstance(verdict, Refusal):
        assert verdict.error is expected
    _done(machine, world, lambda: machine.transition_to(state, GO, metadata=facts), expected)


def _done(machine: StateMachine[Any, Tally], world: World, act: Any, expected: Any) -> None:
    """The step is taken, or refused with the error that is expected, and what would be allowed."""
    before = machine.current_state, machine.epoch, machine.context.n
    if isinstance(expected, tuple):
        act()
        target, *others = expected
        assert (machine.current_state, machine.epoch, machine.context.n) == (world.members[target], *others)
        return
    with pytest.raises(expected) as raised:
        act()
    assert (machine.current_state, machine.epoch, machine.context.n) == before
    assert raised.value.allowed == machine.definition.allowed(machine.current_state)


def _is_sound(world: World, machine: StateMachine[Any, Tally]) -> None:
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
