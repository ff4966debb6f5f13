"""A definition as a JSON object: what is hashed, compared and drawn."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import msgspec

from tai_state.machines.invariants import Invariant
from tai_state.machines.obligations import ProofObligation
from tai_state.machines.rules import Rule
from tai_state.machines.states import facts_of, name_of
from tai_state.values.json import to_bytes


class StateOutline(msgspec.Struct, frozen=True):
    """A state of a definition; see :class:`~tai_state.machines.StateFacts`."""

    name: str
    description: str
    is_failure: bool
    is_operational: bool
    is_terminal: bool
    accepts_new_work: bool


class RuleOutline(msgspec.Struct, frozen=True):
    """A rule of a definition; states, events and functions by their names. See :class:`~tai_state.machines.Rule`."""

    name: str
    sources: tuple[str, ...] | None
    targets: tuple[str, ...] | None
    unless_from: tuple[str, ...]
    is_forbidding: bool
    reason: str | None
    event: str | None
    payload: str | None
    timeout_ms: int | None
    guard: str | None
    update: str | None
    enter: str | None
    advances_epoch: bool
    effects: tuple[str, ...]
    after_commit: str | None


class Outline(msgspec.Struct, frozen=True):
    """All that a definition says, with functions by their names.

    Attributes:
        name: the name of the kind of machine.
        version: counts the definitions of this name.
        states: the states.
        starts: the names of the states in which a machine may begin, the usual one first.
        rules: the rules.
        context: the name of the model of a machine's data.
        obligations: the descriptions of the obligations.
        invariants: the names of the invariants, each with its description and severity.
    """

    name: str
    version: int
    states: tuple[StateOutline, ...]
    starts: tuple[str, ...]
    rules: tuple[RuleOutline, ...]
    context: str | None
    obligations: tuple[str, ...]
    invariants: dict[str, tuple[str, str]]


def outline_of(
    name: str,
    version: int,
    states: Sequence[Any],
    starts: Sequence[Any],
    rules: Sequence[Rule[Any, Any]],
    context: Any,
    obligations: Sequence[ProofObligation[Any, Any]],
    invariants: Sequence[Invariant[Any, Any]],
) -> Outline:
    """The outline of a definition; see :class:`~tai_state.machines.Definition` for its parts."""
    return Outline(
        name,
        version,
        tuple(map(_state_outline, states)),
        _names(starts),
        tuple(map(_rule_outline, rules)),
        _named(context),
        tuple(each.description for each in obligations),
        {each.name: (each.description, each.severity.name) for each in invariants},
    )


def deciding_hash(outline: Outline) -> str:
    """A hash of what decides on steps, in hex: without descriptions, reasons, the version and the names of functions.

    Whether a function is there decides; what it is called does not.
    """
    rules = [
        (
            rule.name,
            rule.sources,
            rule.targets,
            rule.unless_from,
            rule.is_forbidding,
            rule.event,
            rule.timeout_ms,
            rule.guard is not None,
            rule.advances_epoch,
            rule.effects,
        )
        for rule in outline.rules
    ]
    states = [(state.name, state.is_terminal) for state in outline.states]
    decides = (outline.name, states, outline.starts, rules, outline.obligations, sorted(outline.invariants))
    return sha256(to_bytes(decides)).hexdigest()[:16]


def _state_outline(key: Any) -> StateOutline:
    facts = facts_of(key)
    return StateOutline(
        name_of(key),
        facts.description,
        facts.is_failure,
        facts.is_operational,
        facts.is_terminal,
        facts.accepts_new_work,
    )


def _rule_outline(rule: Rule[Any, Any]) -> RuleOutline:
    event = rule.event
    return RuleOutline(
        rule.name,
        None if rule.sources is None else _names(rule.sources),
        None if rule.targets is None else _names(rule.targets),
        _names(rule.unless_from),
        rule.is_forbidding,
        rule.reason,
        None if event is None else event.name,
        None if event is None or event.is_bare else event.payload.__name__,
        rule.timeout_ms,
        _named(rule.guard),
        _named(rule.update),
        _named(rule.enter),
        rule.advances_epoch,
        rule.effects,
        _named(rule.after_commit),
    )


def _names(keys: Sequence[Any]) -> tuple[str, ...]:
    return tuple(map(name_of, keys))


def _named(function: Any) -> str | None:
    """The name of a function or a model; None if there is none."""
    return None if function is None else str(getattr(function, "__name__", type(function).__name__))
