"""What becomes of a stored machine in a migration to a newer definition. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic

import msgspec

from tai_state.errors import InvalidData, SerializationError
from tai_state.machines.checks import check_definition
from tai_state.machines.contexts import C, Present
from tai_state.machines.definition import Definition
from tai_state.machines.envelope import MachineRecord, read_envelope, said_of_definition, seal, unseal
from tai_state.machines.states import S, key_of, name_of
from tai_state.machines.succession import entered_us, is_left
from tai_state.streams.codec import codec_of
from tai_state.values.checks import check_callable
from tai_state.values.metadata import check_text


class FormerMachine(msgspec.Struct, frozen=True):
    """A machine as an older definition left it.

    Attributes:
        state: the name of its state.
        values: what the state carries, as JSON.
        context: its data beside the state, as JSON; None if its definition names none.
        epoch: its epoch, which a migration leaves as it is.
        version: the version of the definition that it was last written under.
    """

    state: str
    values: dict[str, Any]
    context: dict[str, Any] | None
    epoch: int
    version: int


class Migration(msgspec.Struct, Generic[S, C], frozen=True):
    """A definition to migrate to, with what it takes where the data of two states differ.

    Attributes:
        definition: the definition.
        functions: by the name of the state that a machine is in, a pure function that gives the state that it is moved
            to, with its data, and its context (None if the definition names none).
    """

    definition: Definition[S, C]
    functions: Mapping[str, Callable[[FormerMachine], tuple[S, C]]] = {}


class Move(msgspec.Struct, frozen=True):
    """What a machine is moved to.

    Attributes:
        record: the machine before it.
        state: the state after it.
        data: the data of the machine's state after it.
    """

    record: MachineRecord
    state: Any
    data: dict[str, Any]


def check_migration(migration: Migration[Any, Any], states: Mapping[str, str]) -> None:
    """Check a migration, and the names of the states that lead to one another in it.

    Raises:
        InvalidData: something is not what it must be, the definition lacks a state that machines are to be moved to, or
            rules lead from a state that they are to be moved from.
    """
    definition, functions = migration.definition, migration.functions
    check_definition(definition)
    if not isinstance(states, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise InvalidData("states must be a mapping of the names of states to those that take their place")
    if not isinstance(functions, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise InvalidData("functions must be a mapping of the names of states to functions")
    for name, function in functions.items():
        check_callable(function, f"the function for {name!r}")
    for old, new in states.items():
        check_text(old, "the name of a state")
        if new not in definition.keys:
            names = ", ".join(definition.keys)
            raise InvalidData(f"{new!r} is not a state of {said_of_definition(definition)}, whose states are {names}")
        if is_left(definition, old):
            what = f"{said_of_definition(definition)} has rules that leave the state {old!r}"
            raise InvalidData(f"{what}: machines in it need no migration")


def move_of(migration: Migration[Any, Any], states: Mapping[str, str], data: Any, path: str) -> Move | str | None:
    """What a machine is moved to; None if it stays as it is; a text that says why if it cannot be moved and should be.

    What was moved once, or stepped under the definition since, is not moved again.

    Args:
        migration: what it is moved by.
        states: by the name of its state, that of the state that takes its place.
        data: the data of its state.
        path: the path of its state.

    Raises:
        SerializationError: the data is not that of a machine.
    """
    definition = migration.definition
    record, context = read_envelope(data, path)
    if record.name != definition.name:
        return None
    if record.definition == definition.hash or record.state not in states:
        return _why_not_left(definition, record, data, path)
    former = FormerMachine(record.state, record.values, context, record.epoch, record.version)
    key = definition.keys[states[record.state]]
    function = migration.functions.get(record.state)
    try:
        present = _as_it_is(definition, key, former, path) if function is None else _made(key, former, function)
        if isinstance(present, str):
            return present
        sealed = seal(definition, present, entered_us(record, path), effects=record.effects)
        opened = unseal(definition, sealed, path).present
    except SerializationError as error:
        return f"it {error.what}"
    except InvalidData as error:
        return str(error)
    for invariant in definition.invariants:
        if (violation := invariant.violation(opened)) is not None:
            return f"in {name_of(key)!r} an invariant would not hold: {violation}"
    return Move(record, present.state, sealed)


def _why_not_left(definition: Definition[Any, Any], record: MachineRecord, data: Any, path: str) -> str | None:
    """Why a machine cannot stay as it is, though nothing says what it is to become; None if it can."""
    if record.state not in definition.keys:
        what = f"is in the state {record.state!r}, which {said_of_definition(definition)} does not know"
        return f"{what}: name the state that takes its place"
    try:
        unseal(definition, data, path)
    except SerializationError as error:
        return f"it {error.what}"
    return None


def _made(
    key: Any, former: FormerMachine, function: Callable[[FormerMachine], tuple[Any, Any]]
) -> Present[Any, Any] | str:
    """A machine as a function makes it, or why it does not."""
    try:
        state, context = function(former)
    except Exception as error:  # noqa: BLE001 - whatever it raises, this machine stays, and the others go on
        return f"the function for {former.state!r} raised {type(error).__name__}: {error}"
    if key_of(state) is not key:
        return f"the function for {former.state!r} gave {state}, not {name_of(key)}"
    return Present(state, context, former.epoch)


def _as_it_is(definition: Definition[Any, Any], key: Any, former: FormerMachine, path: str) -> Present[Any, Any] | str:
    """A machine in another state with the same data, or why that would not do.

    Raises:
        SerializationError: the data does not fit the models.
        InvalidData: it cannot be told whether the models know all of it.
    """
    takes = f"it takes a function for {former.state!r}"
    if not isinstance(key, type):
        if former.values:
            return f"{former.state!r} carries data, and {name_of(key)!r} carries none: {takes}"
        state = key
    else:
        try:
            state = codec_of(key).from_json(former.values, path)
        except SerializationError as error:
            return f"what {former.state!r} carries {error.what}: {takes}"
    if definition.context is None:
        if former.context:
            return f"it has a context, and {said_of_definition(definition)} has none: {takes}"
        return Present(state, None, former.epoch)
    codec = codec_of(definition.context)
    if former.context is None:
        return f"it has no context, and {said_of_definition(definition)} has one: {takes}"
    try:
        context = codec.from_json(former.context, path)
    except SerializationError as error:
        return f"its context {error.what}: {takes}"
    written = codec.to_json(context)
    if codec.keep_unknown(former.context, written, path) != written:
        return f"its context has fields that {said_of_definition(definition)} does not know: {takes}"
    return Present(state, context, former.epoch)
