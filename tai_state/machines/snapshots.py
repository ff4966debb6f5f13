"""A stored machine, as callers get it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Generic

import msgspec

from tai_state.errors import InvalidData, SerializationError
from tai_state.machines.contexts import C
from tai_state.machines.effects import PendingEffect
from tai_state.machines.envelope import Opened
from tai_state.machines.states import S
from tai_state.values.clocks import VectorClock
from tai_state.values.metadata import ChangeMetadata
from tai_state.values.states import JsonSnapshot
from tai_state.values.times import parse_time


class MachineSnapshot(msgspec.Struct, Generic[S, C], frozen=True, kw_only=True):
    """A stored machine at one version.

    Attributes:
        governor_id: the owner and namespace.
        state_id: the machine under it.
        version: the version of its state; pass it as ``expected``.
        state: the state that it is in.
        context: its data beside the state; None if its definition names none.
        epoch: how often it took a step that begins a new epoch.
        entered_at: when it entered its state, by the clock of whoever wrote it.
        due: when the time-out of its state is due; None if the state has none.
        effects: the effects of its steps that are not done yet, oldest first.
        timestamp: when it was last changed, according to the caller.
        recorded_at: when the engine stored that.
        metadata: who made the last change, and why.
        causality: the vector clock after that.
    """

    governor_id: str
    state_id: str
    version: int
    state: S
    context: C
    epoch: int
    entered_at: datetime
    due: datetime | None
    effects: tuple[PendingEffect, ...]
    timestamp: datetime
    recorded_at: datetime
    metadata: ChangeMetadata
    causality: VectorClock

    def time_in_state(self, now: datetime) -> timedelta:
        """How long it has been in its state at a time; never negative, though clocks of several writers differ."""
        return max(now - self.entered_at, timedelta(0))


def machine_snapshot(snapshot: JsonSnapshot, opened: Opened[S, C], path: str) -> MachineSnapshot[S, C]:
    """A machine as callers get it, from its state and what its definition reads there.

    Raises:
        SerializationError: a time of the machine is none.
    """
    present, record = opened.present, opened.record
    return MachineSnapshot(
        governor_id=snapshot.governor_id,
        state_id=snapshot.state_id,
        version=snapshot.version,
        state=present.state,
        context=present.context,
        epoch=present.epoch,
        entered_at=_time(record.entered_at, path),
        due=None if record.due is None else _time(record.due, path),
        effects=record.effects,
        timestamp=snapshot.timestamp,
        recorded_at=snapshot.recorded_at,
        metadata=snapshot.metadata,
        causality=snapshot.causality,
    )


def _time(text: str, path: str) -> datetime:
    try:
        return parse_time(text)
    except InvalidData as error:
        raise SerializationError(path, f"does not hold a machine: {error}") from None
