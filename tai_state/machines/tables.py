"""The rules of a definition as tables, so that judging a step looks up and does not search."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, TypeAlias

import msgspec

from tai_state.machines.rules import Rule
from tai_state.machines.states import facts_of

Key: TypeAlias = Any
"""A state without its data, as ``states.key_of`` gives it."""

Pair: TypeAlias = tuple[Key, Key]
"""The states before and after a step."""


class Tables(msgspec.Struct, frozen=True):
    """What the rules say of each pair of states. A pair that is forbidden stands in ``forbidden`` alone.

    Attributes:
        steps: the rules by which a step can be asked for by its target.
        events: the rules by which an event takes a step, by the state before and the name of the event.
        timeouts: the rule of each state's time-out.
        forbidden: the rule that forbids a step.
        exits: the states that a step may lead to, by the state before; in the order of the definition.
    """

    steps: dict[Pair, tuple[Rule[Any, Any], ...]]
    events: dict[tuple[Key, str], tuple[tuple[Key, Rule[Any, Any]], ...]]
    timeouts: dict[Key, Rule[Any, Any]]
    forbidden: dict[Pair, Rule[Any, Any]]
    exits: dict[Key, tuple[Key, ...]]


def pairs_of(rule: Rule[Any, Any], states: Sequence[Key]) -> list[Pair]:
    """The pairs of states that a rule says something of. Terminal states have no way out that a rule could allow."""
    sources, targets = rule.sources or states, rule.targets or states
    return [
        (source, target)
        for source, target in product(sources, targets)
        if source not in rule.unless_from and (rule.is_forbidding or not facts_of(source).is_terminal)
    ]


def tables_of(states: Sequence[Key], rules: Sequence[Rule[Any, Any]]) -> Tables:
    """The tables of a definition's rules."""
    forbidden: dict[Pair, Rule[Any, Any]] = {}
    for rule in rules:
        if rule.is_forbidding:
            for pair in pairs_of(rule, states):
                forbidden.setdefault(pair, rule)
    tables = Tables({}, {}, {}, forbidden, {})
    reached: set[Pair] = set()
    for rule in rules:
        if not rule.is_forbidding:
            pairs = [pair for pair in pairs_of(rule, states) if pair not in forbidden]
            reached.update(pairs)
            _enter(tables, rule, pairs)
    for source in states:
        tables.exits[source] = tuple(target for target in states if (source, target) in reached)
    return tables


def _enter(tables: Tables, rule: Rule[Any, Any], pairs: list[Pair]) -> None:
    """Enter an allowing rule into the tables, after those that were defined before it."""
    for source, target in pairs:
        if rule.timeout_ms is not None:
            tables.timeouts[source] = rule
        if rule.is_for_steps:
            tables.steps[source, target] = (*tables.steps.get((source, target), ()), rule)
        if rule.event is not None:
            key = source, rule.event.name
            tables.events[key] = (*tables.events.get(key, ()), (target, rule))
