"""Checks of what machines are asked for, before it is judged."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, is_typeddict

from tai_state.errors import InvalidData
from tai_state.machines.contexts import C, Present
from tai_state.machines.definition import Definition
from tai_state.machines.events import MachineEvent
from tai_state.machines.states import S, key_of, name_of

NO_FACTS: Final[Mapping[str, str]] = MappingProxyType({})
"""No facts for guards and obligations."""


def check_definition(definition: object) -> None:
    """Check that something is a definition.

    Raises:
        InvalidData: it is not.
    """
    if not isinstance(definition, Definition):
        raise InvalidData(f"definition must be what define() returns, not {definition!r}")


def check_state(definition: Definition[Any, Any], state: object) -> None:
    """Check that something is a state of a definition, with its data.

    Raises:
        InvalidData: it is not.
    """
    if not definition.knows(state):
        names = ", ".join(map(name_of, definition.states))
        raise InvalidData(f"{state!r} is not a state of the machine {definition.name!r}, whose states are {names}")


def check_start(definition: Definition[S, C], state: S, context: C) -> Present[S, C]:
    """A machine at its beginning.

    Raises:
        InvalidData: a machine of this definition does not begin so.
    """
    check_state(definition, state)
    if key_of(state) not in definition.starts:
        starts = ", ".join(map(name_of, definition.starts))
        raise InvalidData(f"a machine {definition.name!r} does not begin in {state}, but in {starts}")
    check_context(definition, context)
    return Present(state, context)


def check_context(definition: Definition[Any, Any], context: object) -> None:
    """Check that something is the context of a machine.

    Raises:
        InvalidData: it is not.
    """
    if (definition.context is None) is not (context is None):
        needs = "no context" if definition.context is None else f"a context, a {definition.context.__name__}"
        raise InvalidData(f"a machine {definition.name!r} needs {needs}")
    model: Any = definition.context
    if isinstance(model, type) and not is_typeddict(model) and not isinstance(context, model):
        raise InvalidData(f"the context of a machine {definition.name!r} is a {model.__name__}, not {context!r}")


def check_payload(event: object, payload: object) -> None:
    """Check that an event is one, and that a payload is one of it.

    Raises:
        InvalidData: it is not.
    """
    if not isinstance(event, MachineEvent):
        raise InvalidData(f"event must be a MachineEvent, not {event!r}")
    model: Any = event.payload  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if not isinstance(payload, model):
        raise InvalidData(f"the event {event.name!r} brings {model.__name__}, not {type(payload).__name__}")
