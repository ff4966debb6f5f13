"""What is kept of a step that a machine took."""

from __future__ import annotations

from datetime import datetime
from typing import Generic

import msgspec

from tai_state.machines.invariants import Violation
from tai_state.machines.judging import StepKind
from tai_state.machines.states import S
from tai_state.machines.triggers import Trigger


class TransitionRecord(msgspec.Struct, Generic[S], frozen=True, gc=False):
    """A step that a machine took. Its text is one line of a log.

    Attributes:
        id: its number; the numbers of a machine grow by one with each record, and never repeat.
        from_state: the state before it.
        to_state: the state after it.
        trigger: what caused it.
        timestamp_ns: when it was taken, by a clock that never goes back; in nanoseconds from an unknown moment.
        wall_time: when it was taken, in UTC, for people.
        epoch: the epoch in which it was taken: that before the step, if the step began a new one.
        duration_us: how long judging it took, in microseconds.
        kind: whether rules allowed it.
        violations: the invariants that it broke, which only a forced step can.
    """

    id: int
    from_state: S
    to_state: S
    trigger: Trigger
    timestamp_ns: int
    wall_time: datetime
    epoch: int
    duration_us: int
    kind: StepKind
    violations: tuple[Violation, ...] = ()

    def __str__(self) -> str:
        time = self.wall_time.strftime("%H:%M:%S.%f")[:-3]
        return f"[{time}] {self.from_state} → {self.to_state} ({self.trigger}) [{self.duration_us}µs]"
