"""Which steps a machine may take now, and why not the others. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from pydantic import ValidationError

from tai_state.machines.checks import NO_FACTS
from tai_state.machines.contexts import Present
from tai_state.machines.definition import Definition
from tai_state.machines.judging import ASKING, Refusal, judge_step
from tai_state.machines.states import key_of, name_of


class Outlook(msgspec.Struct, frozen=True):
    """A state that a machine may be asked to enter.

    Attributes:
        to: the name of the state.
        refused_because: why the step is refused; None if it is not.
    """

    to: str
    refused_because: str | None


def outlooks(definition: Definition[Any, Any], present: Present[Any, Any]) -> Iterator[Outlook]:
    """Each state of a definition, with the verdict on a step to it that is asked for by its target alone.

    Args:
        definition: what decides. Its functions are told no facts.
        present: the machine before the step.
    """
    for key in definition.states:
        yield Outlook(name_of(key), _refusal(definition, present, key))


def _refusal(definition: Definition[Any, Any], present: Present[Any, Any], key: Any) -> str | None:
    """Why a step to a state is refused; None if it is not."""
    try:
        state = _by_itself(key)
    except ValidationError as error:
        if (key_of(present.state), key) in definition.tables.steps:
            return f"it takes what the state carries: {', '.join(str(each['loc'][0]) for each in error.errors())}"
        state = key.model_construct()  # without a rule, what it carries does not matter
    try:
        verdict = judge_step(definition, present, state, ASKING, NO_FACTS)
    except Exception as error:  # noqa: BLE001 - whatever an update raises, the step could not be taken
        return f"judging it raised {type(error).__name__}: {error}"
    return verdict.reason if isinstance(verdict, Refusal) else None


def _by_itself(key: Any) -> Any:
    """A state that nothing is given for.

    Raises:
        ValidationError: it takes what it carries.
    """
    return key() if isinstance(key, type) else key
