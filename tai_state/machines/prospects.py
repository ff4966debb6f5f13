"""What a machine may do next: the verdict on a step to each state of its definition."""

from __future__ import annotations

from typing import Any

import msgspec
from pydantic import ValidationError

from tai_state.machines.contexts import C, Present
from tai_state.machines.definition import Definition
from tai_state.machines.edges import causes
from tai_state.machines.judging import Refusal, judge_step
from tai_state.machines.states import S, key_of, name_of
from tai_state.machines.triggers import Command

_ASKING = Command("what is next")


class Prospect(msgspec.Struct, frozen=True):
    """A state that a machine may ask for next, or must not.

    Attributes:
        to: the name of the state.
        refused_because: why a step there is refused if it is asked for now; None if it is not.
        by: what takes a step there besides asking for it: events, each with its guard, and time-outs; and the data that
            the state needs.
    """

    to: str
    refused_because: str | None
    by: tuple[str, ...]


def prospects(definition: Definition[S, C], present: Present[S, C]) -> tuple[Prospect, ...]:
    """The verdict on a step to each state, in the order of the definition.

    Guards and obligations are asked without metadata. A guard of an event that brings a payload is not asked.

    Args:
        definition: what decides.
        present: the machine as it stands.
    """
    return tuple(_prospect(definition, present, key) for key in definition.states)


def _prospect(definition: Definition[S, C], present: Present[S, C], key: Any) -> Prospect:
    source, name = key_of(present.state), name_of(key)
    by = [
        causes(outline)
        for rule, outline in zip(definition.rules, definition.outline.rules, strict=True)
        if (rule.event is not None or rule.timeout_ms is not None) and _leads(definition, rule, source, key)
    ]
    state = _without_data(key)
    if state is None and (source, key) in definition.tables.steps:
        return Prospect(name, None, (*by, f"needs the data of {name}"))
    try:
        if state is None:
            state = key.model_construct()  # a step for which there is no rule is refused by the class of the state
        verdict = judge_step(definition, present, state, _ASKING, {})
    except Exception as error:  # noqa: BLE001 - whatever a function of the definition raises, the step would not be taken
        return Prospect(name, f"{type(error).__name__}: {error}", tuple(by))
    return Prospect(name, verdict.reason if isinstance(verdict, Refusal) else None, tuple(by))


def _without_data(key: Any) -> Any:
    """A state by its key; None if it needs data."""
    try:
        return key() if isinstance(key, type) else key  # pyright: ignore[reportUnknownVariableType]
    except ValidationError:
        return None


def _leads(definition: Definition[Any, Any], rule: Any, source: Any, target: Any) -> bool:
    """Whether a rule allows a step between two states, and none forbids it."""
    return (
        not rule.is_forbidding and rule.covers(source, target) and (source, target) not in definition.tables.forbidden
    )
