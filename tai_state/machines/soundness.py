"""What a definition must be, so that no rule of it is idle and no state of it a trap by mistake."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from inspect import iscoroutinefunction
from typing import Any, Final

import msgspec

from tai_state.errors import InvalidDefinition
from tai_state.machines.effects import EFFECTS_MAX
from tai_state.machines.invariants import Invariant, Severity
from tai_state.machines.obligations import ProofObligation
from tai_state.machines.outline import Outline
from tai_state.machines.rules import Rule
from tai_state.machines.states import OWN_NAMES, ComponentState, DataState, StateFacts, facts_of, is_key, name_of
from tai_state.machines.tables import Tables, pairs_of
from tai_state.values.json import NOT_JSON, to_bytes

STATES_MAX: Final = 1_000
"""How many states a definition may have: tables, diagrams and pages are made of pairs of them."""


def keys_of(name: str, states: Any) -> tuple[Any, ...]:
    """The keys of the states of a definition.

    Args:
        name: the name of the definition.
        states: an enum of states, or classes of states that carry data.

    Raises:
        InvalidDefinition: they are not states, none, too many, or two have one name.
    """
    is_enum = isinstance(states, type) and issubclass(states, ComponentState)
    keys: tuple[Any, ...] = tuple(states) if is_enum or isinstance(states, Sequence) else (states,)  # pyright: ignore[reportArgumentType, reportUnknownArgumentType, reportUnknownVariableType]
    if not is_enum:
        for key in keys:
            if not is_key(key) or isinstance(key, ComponentState):
                raise InvalidDefinition(
                    name, f"states must be an enum of ComponentState, or classes of DataState: {key!r}"
                )
            if not isinstance(getattr(key, "facts", None), StateFacts):
                raise InvalidDefinition(name, f"the state {key.__name__} does not say what it is: facts = described(…)")
            if hidden := sorted(OWN_NAMES & key.model_fields.keys()):
                raise InvalidDefinition(
                    name, f"the field {hidden[0]!r} of {key.__name__} has a name that every state has"
                )
    if not 1 <= len(keys) <= STATES_MAX:
        raise InvalidDefinition(name, f"a definition has 1 to {STATES_MAX} states, and this one has {len(keys)}")
    _check_unique(name, "states", map(name_of, keys))
    return keys


def check_names(name: str, rules: Sequence[Any], obligations: Sequence[Any], invariants: Sequence[Any]) -> None:
    """Check that refusals can name what they come from.

    Raises:
        InvalidDefinition: two rules, obligations or invariants share a name.
    """
    _check_unique(name, "rules", (each.name for each in rules))
    _check_unique(name, "obligations", (each.description for each in obligations))
    _check_unique(name, "invariants", (each.name for each in invariants))


def check_functions(
    name: str,
    rules: Sequence[Rule[Any, Any]],
    obligations: Sequence[ProofObligation[Any, Any]],
    invariants: Sequence[Invariant[Any, Any]],
) -> None:
    """Check that what is to be called can be called and answers at once, and that severities are some.

    Raises:
        InvalidDefinition: it cannot, or it is asynchronous.
    """
    functions: list[tuple[str, object]] = []
    for rule in rules:
        used = {"guard": rule.guard, "update": rule.update, "enter": rule.enter}
        functions += [
            (f"the {what} of the rule {rule.name!r}", each) for what, each in used.items() if each is not None
        ]
    functions += [(f"the obligation {each.description!r}", each.verify) for each in obligations]
    functions += [(f"the invariant {each.name!r}", each.check) for each in invariants]
    for what, function in functions:
        if not callable(function) or iscoroutinefunction(function):
            raise InvalidDefinition(name, f"{what} must be a plain function, not {function!r}")
    for rule in rules:
        after: object = rule.after_commit
        if after is not None and not callable(after):
            raise InvalidDefinition(name, f"after_commit of the rule {rule.name!r} must be a function, not {after!r}")
    for each in invariants:
        if not isinstance(each.severity, Severity):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidDefinition(name, f"the severity of the invariant {each.name!r} must be a Severity")


def check_texts(name: str, outline: Outline) -> None:
    """Check that an outline can be stored, and read again.

    Raises:
        InvalidDefinition: a text in it is none, or not valid Unicode.
    """
    try:
        msgspec.json.decode(to_bytes(outline), type=Outline)
    except (TypeError, *NOT_JSON, UnicodeEncodeError) as error:
        raise InvalidDefinition(repr(name), f"a name, a description or a reason is no text: {error}") from None


def check_events(name: str, rules: Sequence[Rule[Any, Any]]) -> None:
    """Check that an event is one thing throughout a definition.

    Raises:
        InvalidDefinition: two events share a name and bring different payloads.
    """
    payloads: dict[str, object] = {}
    for event in (rule.event for rule in rules if rule.event is not None):
        if payloads.setdefault(event.name, event.payload) is not event.payload:
            raise InvalidDefinition(name, f"two events are named {event.name!r}, with different payloads")


def check_effects(name: str, rules: Sequence[Rule[Any, Any]]) -> None:
    """Check that the effects of a step can be told apart, and that a machine has room for them.

    Raises:
        InvalidDefinition: a rule names an effect twice, or too many, or a name would make ids that are not unique.
    """
    for rule in rules:
        wrong = [each for each in rule.effects if not each or ":" in str(each)]
        if wrong:
            what = f"an effect of the rule {rule.name!r} is named {wrong[0]!r}"
            raise InvalidDefinition(name, f"{what}: a name is not empty and has no colon, which its id puts before it")
        _check_unique(name, f"effects of the rule {rule.name!r}", rule.effects)
        if len(rule.effects) > EFFECTS_MAX:
            raise InvalidDefinition(name, f"a step has {EFFECTS_MAX} effects at most; {rule.name!r} has more")


def check_states_named(name: str, states: Sequence[Any], named: Iterable[Any], where: str) -> None:
    """Check that states are states of a definition.

    Raises:
        InvalidDefinition: one is not.
    """
    for key in named:
        if key not in states:
            raise InvalidDefinition(name, f"{where} names {key!r}, which is not a state of this machine")


def check_rules(name: str, states: Sequence[Any], rules: Sequence[Rule[Any, Any]], context: Any) -> None:
    """Check each rule by itself, and the rules against each other.

    Raises:
        InvalidDefinition: a rule names an unknown state, leaves a terminal one, or can never apply; or two rules
            contradict each other.
    """
    forbids = {pair: rule for rule in rules if rule.is_forbidding for pair in pairs_of(rule, states)}
    timed: dict[Any, str] = {}
    for rule in rules:
        for named in (rule.sources or (), rule.targets or (), rule.unless_from):
            check_states_named(name, states, named, f"the rule {rule.name!r}")
        if not rule.is_forbidding:
            _check_allowing(name, states, rule, forbids, context)
        elif not pairs_of(rule, states):
            raise InvalidDefinition(name, f"the rule {rule.name!r} can never apply: it names no pair of states")
        if rule.timeout_ms is not None:
            source = (rule.sources or states)[0]
            if (first := timed.setdefault(source, rule.name)) != rule.name:
                raise InvalidDefinition(
                    name, f"the state {name_of(source)} has two time-outs: {first!r}, {rule.name!r}"
                )


def _check_allowing(
    name: str, states: Sequence[Any], rule: Rule[Any, Any], forbids: dict[Any, Rule[Any, Any]], context: Any
) -> None:
    for source in rule.sources or ():
        if facts_of(source).is_terminal:
            raise InvalidDefinition(name, f"the rule {rule.name!r} leads out of {name_of(source)}, which is terminal")
    pairs = pairs_of(rule, states)
    forbidden = [pair for pair in pairs if pair in forbids]
    if len(forbidden) == len(pairs):
        by = f": {forbids[forbidden[0]].name!r} forbids it" if forbidden else ""
        raise InvalidDefinition(name, f"the rule {rule.name!r} can never apply{by}")
    if forbidden and rule.sources is not None:
        source, target = map(name_of, forbidden[0])
        other = forbids[forbidden[0]].name
        raise InvalidDefinition(name, f"{rule.name!r} allows {source} to {target}, and {other!r} forbids it")
    if rule.enter is not None and rule.event is None:
        raise InvalidDefinition(name, f"the rule {rule.name!r} has `enter`, and no event whose payload it would take")
    if rule.update is not None and context is None:
        raise InvalidDefinition(name, f"the rule {rule.name!r} updates a context, and the definition names none")
    if rule.timeout_ms is not None or (rule.event is not None and rule.enter is None):
        for target in filter(_needs_data, rule.targets or ()):
            what = f"the rule {rule.name!r} leads to {name_of(target)} and does not give its data"
            raise InvalidDefinition(name, what)


def _needs_data(key: Any) -> bool:
    """Whether a state cannot be entered without data."""
    return (
        isinstance(key, type)
        and issubclass(key, DataState)
        and any(each.is_required() for each in key.model_fields.values())
    )


def check_reach(
    name: str, tables: Tables, starts: Sequence[Any], dead_ends: Sequence[Any], unreached: Sequence[Any]
) -> None:
    """Check that machines reach every state, and leave each that is not terminal, unless it is declared otherwise.

    Raises:
        InvalidDefinition: a state is a trap, or cannot be reached, and nothing says that this is meant.
    """
    seen, ahead = set(starts), list(starts)
    while ahead:
        new = [key for key in tables.exits[ahead.pop()] if key not in seen]
        seen.update(new)
        ahead += new
    lost = [key for key in tables.exits if key not in seen and key not in unreached]
    if lost:
        raise InvalidDefinition(name, f"no start leads to {_list(lost)}: add a rule, or declare it in `unreached`")
    traps = [key for key, exits in tables.exits.items() if not (set(exits) - {key}) and not facts_of(key).is_terminal]
    traps = [key for key in traps if key not in dead_ends]
    if traps:
        raise InvalidDefinition(name, f"nothing leaves {_list(traps)}: make it terminal, or declare it in `dead_ends`")


def _list(keys: Sequence[Any]) -> str:
    return ", ".join(map(name_of, keys))


def _check_unique(name: str, what: str, names: Iterable[object]) -> None:
    seen: set[object] = set()
    for each in names:
        if each in seen:
            raise InvalidDefinition(name, f"two {what} are named {each!r}: give one another name")
        seen.add(each)
