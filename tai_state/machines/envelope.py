"""How a machine stands in the data of its state: as one object, which a merge takes as a whole, and its context.

::

    {"machine": {"name", "version", "definition", "state", "values", "epoch", "entered_at", "duration_us", "due"?,
                 "is_forced"?, "effects"?: [{"id", "name"}]},
     "context": {…}?}

``state`` is always a text, so that machines can be found by it; what a state carries stands in ``values``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic

import msgspec

from tai_state.errors import SerializationError, UnknownMachineState
from tai_state.machines.contexts import C, Present
from tai_state.machines.definition import Definition
from tai_state.machines.effects import PendingEffect
from tai_state.machines.invariants import Violation
from tai_state.machines.states import ComponentState, S, key_of, name_of
from tai_state.streams.codec import codec_of
from tai_state.values.json import encode, normalise_object
from tai_state.values.times import format_us


class MachineRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """The object ``machine`` in the data of a state.

    Attributes:
        name: the name of the definition under which the machine was last written.
        version: the version of that definition.
        definition: the hash of that definition.
        state: the name of the machine's state.
        epoch: the machine's epoch.
        entered_at: when it entered its state, by the writer's clock, as text.
        duration_us: how long judging its last step took, in microseconds.
        values: what the state carries.
        due: when the time-out of its state is due, as text; None if the state has none.
        violations: the invariants that its last step has broken, which only a forced step can.
        is_forced: whether its last step was forced.
        effects: the effects of its steps that are not done yet, oldest first.
    """

    name: str
    version: int
    definition: str
    state: str
    epoch: int
    entered_at: str
    duration_us: int = 0
    values: dict[str, Any] = {}
    due: str | None = None
    violations: tuple[Violation, ...] = ()
    is_forced: bool = False
    effects: tuple[PendingEffect, ...] = ()


class Envelope(msgspec.Struct, frozen=True, omit_defaults=True):
    """The data of a machine's state.

    Attributes:
        machine: the machine.
        context: its data beside the state; None if its definition names none.
    """

    machine: MachineRecord
    context: dict[str, Any] | None = None


class Opened(msgspec.Struct, Generic[S, C], frozen=True):
    """A machine as its definition reads it.

    Attributes:
        present: its state, context and epoch.
        record: the object that it was read from.
    """

    present: Present[S, C]
    record: MachineRecord

    @property
    def is_fixed(self) -> bool:
        """Whether nothing in it can change: neither its state nor its context is data of a model."""
        state: object = self.present.state
        return self.present.context is None and isinstance(state, ComponentState)


def seal(
    definition: Definition[S, C],
    present: Present[S, C],
    entered_us: int,
    duration_us: int = 0,
    violations: Sequence[Violation] = (),
    effects: Sequence[PendingEffect] = (),
    *,
    is_forced: bool = False,
) -> dict[str, Any]:
    """The data of a machine's state.

    Args:
        definition: the machine's definition.
        present: the machine.
        entered_us: when it entered its state, in microseconds since 1970.
        duration_us: how long judging the step took.
        violations: the invariants that the step has broken.
        effects: the effects that are pending after it.
        is_forced: whether the step was forced.

    Raises:
        InvalidData: what the state carries, or the context, does not fit its model.
    """
    key = key_of(present.state)
    machine: dict[str, Any] = {
        "name": definition.name,
        "version": definition.version,
        "definition": definition.hash,
        "state": name_of(key),
        "epoch": present.epoch,
        "entered_at": format_us(entered_us),
        "duration_us": duration_us,
    }
    if key is not present.state and (values := codec_of(key).to_json(present.state)):
        machine["values"] = values
    if violations:
        machine["violations"] = msgspec.to_builtins([*violations])
    if is_forced:
        machine["is_forced"] = True
    if effects:
        machine["effects"] = msgspec.to_builtins([*effects])
    rule = definition.tables.timeouts.get(key)
    if rule is not None and rule.timeout_ms is not None:
        machine["due"] = format_us(entered_us + rule.timeout_ms * 1000)
    if definition.context is None:
        return {"machine": machine}
    return {"machine": machine, "context": codec_of(definition.context).to_json(present.context)}


def as_text(sealed: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The data of a machine's state that was just sealed, as canonical text, and as an object that nobody else has.

    Raises:
        InvalidData: a part of it cannot be stored.
    """
    machine = sealed["machine"]
    if "context" in sealed or "values" in machine or "violations" in machine:
        return normalise_object(sealed, "the machine")
    return encode(sealed), sealed  # nothing of it is a caller's


def unseal(definition: Definition[S, C], data: Any, path: str) -> Opened[S, C]:
    """The machine in the data of a state.

    Args:
        definition: the definition to read it by.
        data: the data.
        path: the path of the state, for errors.

    Raises:
        SerializationError: the data is not that of a machine, or its parts do not fit their models.
        UnknownMachineState: the machine is of another definition, or in a state that this one does not know.
    """
    record, context = read_envelope(data, path)
    key = definition.keys.get(record.state)
    if record.name != definition.name or key is None:
        raise unknown_state(definition, record, path)
    state: Any = key if not isinstance(key, type) else codec_of(key).from_json(record.values, path)
    model = definition.context
    if model is None:
        return Opened(Present(state, None, record.epoch), record)  # type: ignore[arg-type]
    if context is None:
        raise SerializationError(path, "holds a machine without its context")
    return Opened(Present(state, codec_of(model).from_json(context, path), record.epoch), record)


def read_envelope(data: Any, path: str) -> tuple[MachineRecord, dict[str, Any] | None]:
    """The parts of a machine's data, whatever its definition.

    Raises:
        SerializationError: the data is not that of a machine.
    """
    try:
        envelope = msgspec.convert(data, Envelope)
    except msgspec.ValidationError as error:
        raise SerializationError(path, f"does not hold a machine: {error}") from None
    return envelope.machine, envelope.context


def unknown_state(definition: Definition[Any, Any], record: MachineRecord, path: str) -> UnknownMachineState:
    """The error that a definition does not know a stored machine, or its state."""
    stored, known = said_of(record.name, record.version, record.definition), said_of_definition(definition)
    machine = f"holds a machine {stored} in the state {record.state!r}, which {known} does not know"
    advice = "open it with the definition that wrote it"
    if record.name == definition.name:
        advice += ", or move it with `tai-state machines migrate`"
    return UnknownMachineState(path, f"{machine}: {advice}", record.state, stored, known)


def said_of_definition(definition: Definition[Any, Any]) -> str:
    """A definition in a sentence."""
    return said_of(definition.name, definition.version, definition.hash)


def said_of(name: str, version: int, definition_hash: str) -> str:
    """A definition in a sentence, by what tells it apart."""
    return f"{name!r} version {version} ({definition_hash})"
