"""A machine of another library, as callers get it: at one version, after one step, and in its history."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, Generic

import msgspec

from tai_state.adapters.attributes import C
from tai_state.adapters.charts import ChartRecord, chart_in
from tai_state.machines.judging import StepKind
from tai_state.machines.triggers import Event, trigger_in
from tai_state.values.clocks import VectorClock
from tai_state.values.events import JsonEvent
from tai_state.values.metadata import ChangeMetadata
from tai_state.values.states import JsonSnapshot


class AdaptedSnapshot(msgspec.Struct, Generic[C], frozen=True, kw_only=True):
    """A stored machine of another library at one version.

    Attributes:
        governor_id: the owner and namespace.
        state_id: the machine under it.
        version: the version of its state; pass it as ``expected``.
        state: the innermost states that are active, as one text: ``paid``, or ``left|right``.
        configuration: the ids of the active states, in the library's order.
        is_final: whether the machine has ended.
        context: the attributes that are kept; None if the adapter names none.
        timestamp: when it was last changed, according to the caller.
        recorded_at: when the engine stored that.
        metadata: who made the last change, and why.
        causality: the vector clock after that.
    """

    governor_id: str
    state_id: str
    version: int
    state: str
    configuration: tuple[str, ...]
    is_final: bool
    context: C
    timestamp: datetime
    recorded_at: datetime
    metadata: ChangeMetadata
    causality: VectorClock


class AdaptedStep(msgspec.Struct, Generic[C], frozen=True, kw_only=True):
    """A step that was committed, as ``after_commit`` gets it.

    Attributes:
        event: the event that was sent; None if the machine begins.
        arguments: what it brought.
        from_configuration: the ids of the states that were active before it; empty if the machine begins.
        machine: the machine after it.
    """

    event: str | None
    arguments: dict[str, Any]
    from_configuration: tuple[str, ...]
    machine: AdaptedSnapshot[C]


class AdaptedEventRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One event of the stream of a machine of another library.

    Attributes:
        version: the version of the machine's state after it.
        event_id: its id.
        kind: what happened: ``initialize``, ``transition``, or any other action that stands in the stream.
        event: the event that was sent; None if the record does not say, or the machine begins.
        arguments: what it brought.
        from_configuration: the ids of the states that were active before it; None if there was no machine.
        to_configuration: the ids of the states that were active after it; None if there is no machine any more.
        changed_by: who made the change.
        reason: why.
        timestamp: when it happened, according to the caller.
    """

    version: int
    event_id: str
    kind: str
    event: str | None
    arguments: dict[str, Any]
    from_configuration: tuple[str, ...] | None
    to_configuration: tuple[str, ...] | None
    changed_by: str
    reason: str
    timestamp: datetime


def adapted_snapshot(snapshot: JsonSnapshot, chart: ChartRecord, context: C) -> AdaptedSnapshot[C]:
    """A machine as callers get it, from its state and what stands there."""
    return AdaptedSnapshot(
        governor_id=snapshot.governor_id,
        state_id=snapshot.state_id,
        version=snapshot.version,
        state=chart.state,
        configuration=chart.configuration,
        is_final=chart.is_final,
        context=context,
        timestamp=snapshot.timestamp,
        recorded_at=snapshot.recorded_at,
        metadata=snapshot.metadata,
        causality=snapshot.causality,
    )


def adapted_events(events: Iterable[JsonEvent]) -> Iterator[AdaptedEventRecord]:
    """The events of a stream as those of a machine of another library, whoever wrote them."""
    for event in events:
        before, after = chart_in(event.from_state), chart_in(event.to_state)
        trigger = trigger_in(event.payload)
        is_step = event.action == StepKind.TRANSITION.value
        sent = trigger.event if is_step and isinstance(trigger, Event) else None
        yield AdaptedEventRecord(
            version=event.version,
            event_id=event.event_id,
            kind=event.action,
            event=sent,
            arguments={} if sent is None else _arguments_in(event.payload),
            from_configuration=None if before is None else before.configuration,
            to_configuration=None if after is None else after.configuration,
            changed_by=event.metadata.changed_by,
            reason=event.metadata.reason,
            timestamp=event.timestamp,
        )


class _Payload(msgspec.Struct, frozen=True):
    payload: dict[str, Any] = {}


def _arguments_in(payload: object) -> dict[str, Any]:
    """The arguments in the payload of an event."""
    try:
        return msgspec.convert(payload, _Payload).payload
    except msgspec.ValidationError:
        return {}
