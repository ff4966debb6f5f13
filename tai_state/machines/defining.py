"""Making a definition: it is checked as a whole before there is one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

from tai_state.errors import InvalidDefinition
from tai_state.machines.contexts import C
from tai_state.machines.definition import Definition
from tai_state.machines.invariants import Invariant
from tai_state.machines.obligations import ProofObligation
from tai_state.machines.outline import deciding_hash, outline_of
from tai_state.machines.rules import Rule
from tai_state.machines.soundness import (
    check_effects,
    check_events,
    check_functions,
    check_names,
    check_reach,
    check_rules,
    check_states_named,
    check_texts,
    keys_of,
)
from tai_state.machines.states import ComponentState, DataState, S, StateKey, key_of, name_of
from tai_state.machines.tables import tables_of
from tai_state.values.ids import VERSION_MAX


@overload
def define(
    name: str,
    states: type[S] | Sequence[type[S]],
    *,
    initial: S,
    rules: Sequence[Rule[S, None]],
    obligations: Sequence[ProofObligation[S, None]] = (),
    invariants: Sequence[Invariant[S, None]] = (),
    version: int = 1,
    starts: Sequence[StateKey[S]] = (),
    dead_ends: Sequence[StateKey[S]] = (),
    unreached: Sequence[StateKey[S]] = (),
) -> Definition[S, None]: ...
@overload
def define(
    name: str,
    states: type[S] | Sequence[type[S]],
    *,
    initial: S,
    rules: Sequence[Rule[S, C]],
    context: type[C],
    obligations: Sequence[ProofObligation[S, C]] = (),
    invariants: Sequence[Invariant[S, C]] = (),
    version: int = 1,
    starts: Sequence[StateKey[S]] = (),
    dead_ends: Sequence[StateKey[S]] = (),
    unreached: Sequence[StateKey[S]] = (),
) -> Definition[S, C]: ...
def define(
    name: str,
    states: Any,
    *,
    initial: Any,
    rules: Sequence[Rule[Any, Any]],
    context: Any = None,
    obligations: Sequence[ProofObligation[Any, Any]] = (),
    invariants: Sequence[Invariant[Any, Any]] = (),
    version: int = 1,
    starts: Sequence[Any] = (),
    dead_ends: Sequence[Any] = (),
    unreached: Sequence[Any] = (),
) -> Definition[Any, Any]:
    """Define a kind of machine.

    ::

        DOOR = define("door", Door, initial=Door.Shut, rules=[allow(Door.Shut, Door.Open), allow(Door.Open, Door.Shut)])

    Args:
        name: the name of the kind of machine; it is stored with each machine.
        states: an enum of states, or several classes of states that carry data.
        initial: the state in which a machine begins.
        rules: what :func:`allow`, :func:`forbid` and :func:`time_out` made.
        context: the model of the data that a machine keeps beside its state; by default, it keeps none.
        obligations: what must be proven before any step.
        invariants: what holds after every step.
        version: counts the definitions of this name, for people. What tells definitions apart is their ``hash``.
        starts: further states in which a machine may begin.
        dead_ends: states that are not terminal and that no rule leaves, on purpose.
        unreached: states that no rule leads to, on purpose: they are entered by force alone.

    Raises:
        InvalidDefinition: it contradicts itself, or something in it can never be.
    """
    if type(name) is not str or not name:
        raise InvalidDefinition(repr(name), "the name of a definition must be a text that is not empty")
    if type(version) is not int or not 1 <= version <= VERSION_MAX:
        raise InvalidDefinition(name, f"version must be a whole number from 1 up, not {version!r}")
    keys = keys_of(name, states)
    if isinstance(initial, type):
        raise InvalidDefinition(name, f"initial must be a state with its data, not the class {initial.__name__}")
    if not isinstance(initial, ComponentState | DataState):
        raise InvalidDefinition(name, f"initial must be a state of this machine, not {initial!r}")
    all_starts = tuple(dict.fromkeys((key_of(initial), *starts)))
    for each, where in ((all_starts, "initial or starts"), (dead_ends, "dead_ends"), (unreached, "unreached")):
        check_states_named(name, keys, each, where)
    _check_kinds(
        name, rules=(rules, Rule), obligations=(obligations, ProofObligation), invariants=(invariants, Invariant)
    )
    check_names(name, rules, obligations, invariants)
    check_functions(name, rules, obligations, invariants)
    check_events(name, rules)
    check_effects(name, rules)
    check_rules(name, keys, rules, context)
    tables = tables_of(keys, rules)
    check_reach(name, tables, all_starts, dead_ends, unreached)
    outline = outline_of(name, version, keys, all_starts, rules, context, obligations, invariants)
    check_texts(name, outline)
    return Definition(
        name=name,
        version=version,
        states=keys,
        initial=initial,
        starts=all_starts,
        rules=tuple(rules),
        context=context,
        obligations=tuple(obligations),
        invariants=tuple(invariants),
        dead_ends=tuple(dead_ends),
        unreached=tuple(unreached),
        outline=outline,
        hash=deciding_hash(outline),
        _tables=tables,
        keys={name_of(key): key for key in keys},
    )


def _check_kinds(name: str, **parts: tuple[Sequence[object], type]) -> None:
    """Check that each part of a definition is a sequence of what it should be.

    Raises:
        InvalidDefinition: it is not.
    """
    for part, (items, kind) in parts.items():
        wrong = [each for each in items if not isinstance(each, kind)]
        if wrong:
            raise InvalidDefinition(name, f"{part} must be a list of {kind.__name__}, and has {wrong[0]!r}")
