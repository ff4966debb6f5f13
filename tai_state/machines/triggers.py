"""What causes a step of a machine."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from tai_state.errors import InvalidData


class Command(msgspec.Struct, frozen=True, tag="command"):
    """Somebody, or a program, asked for the step."""

    command: str

    def __str__(self) -> str:
        return f"Command: {self.command}"


class Event(msgspec.Struct, frozen=True, tag="event"):
    """Something happened."""

    event: str

    def __str__(self) -> str:
        return f"Event: {self.event}"


class Cascade(msgspec.Struct, frozen=True, tag="cascade"):
    """Another component changed its state."""

    source: str
    reason: str

    def __str__(self) -> str:
        return f"Cascade from {self.source}: {self.reason}"


class Timeout(msgspec.Struct, frozen=True, tag="timeout"):
    """A time was over, or a deadline reached."""

    duration_ms: int

    def __str__(self) -> str:
        return f"Timeout after {self.duration_ms}ms"


class Failure(msgspec.Struct, frozen=True, tag="failure"):
    """A failure of a node was seen."""

    node: str
    evidence: str

    def __str__(self) -> str:
        return f"Failure of {self.node}: {self.evidence}"


class Recovery(msgspec.Struct, frozen=True, tag="recovery"):
    """Nodes came back."""

    recovered_nodes: tuple[str, ...]

    def __str__(self) -> str:
        return f"Recovery of {msgspec.json.encode(self.recovered_nodes).decode()}"


Trigger: TypeAlias = Command | Event | Cascade | Timeout | Failure | Recovery
"""What causes a step. Its text is the default reason of the change."""

TRIGGERS = (Command, Event, Cascade, Timeout, Failure, Recovery)


def check_trigger(trigger: object) -> None:
    """Check that a trigger is one.

    Raises:
        InvalidData: it is not.
    """
    if type(trigger) not in TRIGGERS:
        raise InvalidData(f"trigger must be one of {', '.join(each.__name__ for each in TRIGGERS)}, not {trigger!r}")


class _Payload(msgspec.Struct, frozen=True):
    trigger: Trigger


def trigger_in(payload: object) -> Trigger | None:
    """The trigger in the payload of an event; None if it carries none that this release knows."""
    try:
        return msgspec.convert(payload, _Payload).trigger
    except msgspec.ValidationError:
        return None
