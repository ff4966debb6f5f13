"""The history of a stored machine. Whatever stands in its stream is read: events of others are no reason to stop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, Generic

import msgspec

from tai_state.errors import SerializationError, UnknownMachineState
from tai_state.machines.contexts import C
from tai_state.machines.definition import Definition
from tai_state.machines.envelope import MachineRecord, read_envelope, unseal
from tai_state.machines.invariants import Violation
from tai_state.machines.states import S
from tai_state.machines.triggers import Trigger, trigger_in
from tai_state.values.events import JsonEvent


class MachineEventRecord(msgspec.Struct, Generic[S], frozen=True, kw_only=True):
    """One event of a machine's stream.

    Attributes:
        version: the version of the machine's state after it.
        event_id: its id.
        kind: what happened: ``initialize``, ``transition``, ``force``, ``migrate``, or any other action that stands in
            the stream, such as that of a merge.
        from_state: the name of the state before it; None if there was no machine.
        to_state: the name of the state after it; None if there is no machine any more.
        state: the state after it; None if the definition does not know it.
        trigger: what caused it; None if the event does not say.
        epoch: the machine's epoch before it.
        definition: the hash of the definition that took the step; None if there is no machine after it.
        changed_by: who made the change.
        reason: why.
        timestamp: when it happened, according to the caller.
        duration_us: how long judging it took, in microseconds.
        violations: the invariants that it broke, which only a forced step can.
    """

    version: int
    event_id: str
    kind: str
    from_state: str | None
    to_state: str | None
    state: S | None
    trigger: Trigger | None
    epoch: int
    definition: str | None
    changed_by: str
    reason: str
    timestamp: datetime
    duration_us: int
    violations: tuple[Violation, ...] = ()

    def __str__(self) -> str:
        time = self.timestamp.strftime("%H:%M:%S.%f")[:-3]
        return f"[{time}] {self.from_state} → {self.to_state} ({self.trigger or self.kind}) [{self.duration_us}µs]"


def machine_events(definition: Definition[S, C], events: Iterable[JsonEvent]) -> Iterator[MachineEventRecord[S]]:
    """The events of a stream as those of a machine.

    Args:
        definition: what the states are read by.
        events: the events.
    """
    for event in events:
        yield machine_event(event, _state_in(definition, event))


def machine_event(event: JsonEvent, state: S | None) -> MachineEventRecord[S]:
    """An event of a stream as that of a machine.

    Args:
        event: the event.
        state: the state after it; None if it is not known.
    """
    before, after = machine_in(event.from_state), machine_in(event.to_state)
    return MachineEventRecord(
        version=event.version,
        event_id=event.event_id,
        kind=event.action,
        from_state=None if before is None else before.state,
        to_state=None if after is None else after.state,
        state=state,
        trigger=trigger_in(event.payload),
        epoch=0 if before is None else before.epoch,
        definition=None if after is None else after.definition,
        changed_by=event.metadata.changed_by,
        reason=event.metadata.reason,
        timestamp=event.timestamp,
        duration_us=0 if after is None else after.duration_us,
        violations=() if after is None else after.violations,
    )


def machine_in(data: Any) -> MachineRecord | None:
    """The machine in the data of a state; None where there is none."""
    try:
        return read_envelope(data, "")[0]
    except SerializationError:
        return None


def _state_in(definition: Definition[S, Any], event: JsonEvent) -> S | None:
    try:
        return unseal(definition, event.to_state, "").present.state
    except (SerializationError, UnknownMachineState):
        return None
