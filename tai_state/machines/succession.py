"""What a newer definition makes of a stored machine: whether it strands it, and when its time-out is due. Pure."""

from __future__ import annotations

from typing import Any

from tai_state.errors import InvalidData, SerializationError
from tai_state.machines.definition import Definition
from tai_state.machines.envelope import MachineRecord, said_of_definition, seal, unseal
from tai_state.values.times import parse_time, to_us


def is_left(definition: Definition[Any, Any], name: str) -> bool:
    """Whether a definition knows a state, by its name, and has a rule that leads from it to another one."""
    key = definition.keys.get(name)
    return any(target is not key for target in definition.tables.exits.get(key, ()))


def stranded_because(
    newest: Definition[Any, Any], own: Definition[Any, Any] | None, record: MachineRecord, data: Any, path: str
) -> str | None:
    """Why a newer definition strands a machine; None if it does not.

    It does if it does not know the machine's state, if what is stored does not fit its models, or if none of its rules
    leaves the state and one of the machine's own definition does. What is final under both is not stranded.

    Args:
        newest: the newer definition.
        own: the one that the machine was last written under; None if it is not at hand.
        record: the machine.
        data: the data of its state.
        path: the path of its state.
    """
    known = said_of_definition(newest)
    if record.state not in newest.keys:
        return f"is in the state {record.state!r}, which {known} does not know"
    try:
        unseal(newest, data, path)
    except SerializationError as error:
        return f"is in the state {record.state!r}, and {known} cannot read it: it {error.what}"
    if own is not None and is_left(own, record.state) and not is_left(newest, record.state):
        return f"is in the state {record.state!r}, which no rule of {known} leaves"
    return None


def due_under(newest: Definition[Any, Any], record: MachineRecord, data: Any, path: str) -> str | None:
    """When the time-out of a machine's state would be due under another definition, as text; None if it has none.

    Raises:
        SerializationError: the data does not fit the definition, or does not say when the state was entered.
    """
    due: str | None = seal(newest, unseal(newest, data, path).present, entered_us(record, path))["machine"].get("due")
    return due


def entered_us(record: MachineRecord, path: str) -> int:
    """When a machine entered its state, in microseconds since 1970.

    Raises:
        SerializationError: it is not a time.
    """
    try:
        return to_us(parse_time(record.entered_at))
    except InvalidData as error:
        raise SerializationError(path, f"does not say when the machine entered its state: {error}") from None
