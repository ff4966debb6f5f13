"""The edges of a definition as diagrams and tables show them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Final

import msgspec

from tai_state.errors import InvalidData
from tai_state.machines.definition import Definition
from tai_state.machines.outline import Outline, RuleOutline
from tai_state.machines.states import key_of, name_of

LAMBDA: Final = "<lambda>"
"""What Python calls a function without a name."""


class Edge(msgspec.Struct, frozen=True):
    """An edge between two states.

    Attributes:
        source: the name of the state before; None: any.
        target: the name of the state after; None: any.
        rule: the rule that allows or forbids the step; None if a machine took a step that no rule allows.
        steps: the numbers of the steps of a path that go this way, from 1 up.
    """

    source: str | None
    target: str | None
    rule: RuleOutline | None
    steps: tuple[int, ...] = ()


def allowed_edges(outline: Outline, path: Sequence[str]) -> list[Edge]:
    """An edge for each rule and pair of states that it allows, and one for each step of the path that none allows."""
    terminal = {state.name for state in outline.states if state.is_terminal}
    names = [state.name for state in outline.states]
    forbidden = {pair for rule in outline.rules if rule.is_forbidding for pair in _pairs(rule, names)}
    taken: dict[tuple[str, str], list[int]] = {}
    for number, pair in enumerate(pairwise(path), 1):
        taken.setdefault(pair, []).append(number)
    edges: list[Edge] = []
    for rule in outline.rules:
        if not rule.is_forbidding:
            pairs = [pair for pair in _pairs(rule, names) if pair[0] not in terminal and pair not in forbidden]
            edges += [Edge(*pair, rule, tuple(taken.get(pair, ()))) for pair in pairs]
    known = {(edge.source, edge.target) for edge in edges}
    return edges + [Edge(*pair, None, tuple(steps)) for pair, steps in taken.items() if pair not in known]


def edges_max(outline: Outline) -> int:
    """How many edges its diagram has at most, beside those of a path: cheap to tell."""
    every = range(len(outline.states))
    return sum(len(rule.sources or every) * len(rule.targets or every) for rule in outline.rules)


def forbidden_edges(outline: Outline) -> list[Edge]:
    """An edge for each pair of states that a rule forbids; "any" is one state here."""
    return [
        Edge(source, target, rule)
        for rule in outline.rules
        if rule.is_forbidding
        for source in rule.sources or (None,)
        for target in rule.targets or (None,)
    ]


def _pairs(rule: RuleOutline, names: Sequence[str]) -> Iterable[tuple[str, str]]:
    sources = [each for each in rule.sources or names if each not in rule.unless_from]
    return [(source, target) for source in sources for target in rule.targets or names]


def named(definition: Definition[Any, Any], states: Iterable[Any]) -> list[str]:
    """The names of states, given by their names, as states, or without their data.

    Raises:
        InvalidData: one is not a state of the definition.
    """
    known = {state.name for state in definition.outline.states}
    names = [each if isinstance(each, str) else _name(each) for each in states]
    for name in names:
        if name not in known:
            raise InvalidData(f"{name!r} is not a state of the machine {definition.name!r}")
    return names


def _name(state: Any) -> str:
    return name_of(state if isinstance(state, type) else key_of(state))


def causes(rule: RuleOutline) -> str:
    """What takes a step and on which condition, as UML writes it; empty if it is asked for by its target alone."""
    words = [] if rule.event is None else [rule.event]
    words += [] if rule.timeout_ms is None else [f"after {rule.timeout_ms / 1000:g} s"]
    words += [] if rule.guard is None else [f"[{guard_name(rule)}]"]
    words += ["/ " + ", ".join(rule.effects)] if rule.effects else []
    words += ["(epoch + 1)"] if rule.advances_epoch else []
    return " ".join(words)


def guard_name(rule: RuleOutline) -> str:
    """The name of a rule's guard; empty if it has none."""
    return "guard" if rule.guard == LAMBDA else rule.guard or ""


def prohibition(rule: RuleOutline) -> str:
    """Why a rule forbids a step, and from where it does not."""
    unless = f" (but from {', '.join(rule.unless_from)})" if rule.unless_from else ""
    return f"{rule.reason or rule.name}{unless}"
