"""What holds in every state of a machine, and of a system of machines."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Generic, TypeAlias

import msgspec

from tai_state.machines.contexts import C, Present
from tai_state.machines.states import S


class Severity(IntEnum):
    """How bad it is that an invariant does not hold."""

    Info = 0
    Warning = 1
    High = 2
    Critical = 3


class MultipleCoordinators(msgspec.Struct, frozen=True, tag=True):
    """More than one coordinator works at once."""

    count: int

    def __str__(self) -> str:
        return f"{self.count} coordinators work at once"


class QuorumLost(msgspec.Struct, frozen=True, tag=True):
    """Fewer nodes work than a decision needs."""

    operational: int
    required: int

    def __str__(self) -> str:
        return f"{self.operational} nodes work, and {self.required} are required"


class EpochSkew(msgspec.Struct, frozen=True, tag=True):
    """Components are in epochs that are too far apart."""

    min: int
    max: int

    def __str__(self) -> str:
        return f"epochs range from {self.min} to {self.max}"


class IncompleteAssignment(msgspec.Struct, frozen=True, tag=True):
    """Not all work is assigned."""

    assigned: int
    total: int

    def __str__(self) -> str:
        return f"{self.assigned} of {self.total} are assigned"


class OverlappingAssignment(msgspec.Struct, frozen=True, tag=True):
    """A layer is assigned more than once."""

    layer_id: int

    def __str__(self) -> str:
        return f"layer {self.layer_id} is assigned more than once"


class VerticalIncoherence(msgspec.Struct, frozen=True, tag=True):
    """A component is in a state that does not fit that of its system."""

    system_state: str
    component_type: str
    component_id: str
    component_state: str

    def __str__(self) -> str:
        component = f"{self.component_type} {self.component_id}"
        return f"{component} is {self.component_state} while the system is {self.system_state}"


class CustomViolation(msgspec.Struct, frozen=True, tag="Custom"):
    """Something else does not hold."""

    name: str
    description: str

    def __str__(self) -> str:
        return f"{self.name}: {self.description}"


Violation: TypeAlias = (
    MultipleCoordinators
    | QuorumLost
    | EpochSkew
    | IncompleteAssignment
    | OverlappingAssignment
    | VerticalIncoherence
    | CustomViolation
)
"""What does not hold. The error that a refused step raises is :class:`~tai_state.InvariantViolation`."""


class Invariant(msgspec.Struct, Generic[S, C], frozen=True):
    """What holds in every state of a machine. A step that would break it is refused, whatever its severity.

    Attributes:
        name: its name, unique in its definition.
        description: what it says.
        severity: how bad it is that it does not hold, for whoever watches.
        check: a pure function of the machine after the step: True, or what does not hold. If it raises, the step is
            refused with what it raised.
    """

    name: str
    description: str
    severity: Severity
    check: Callable[[Present[S, C]], bool | Violation]

    def violation(self, present: Present[S, C]) -> Violation | None:
        """What does not hold of a machine; None if all does.

        An invariant that raises does not hold.
        """
        try:
            found: object = self.check(present)
        except Exception as error:  # noqa: BLE001 - whatever it raises, the invariant is not shown to hold
            return CustomViolation(self.name, f"{type(error).__name__}: {error}")
        if found is True:
            return None
        if isinstance(found, Violation):
            return found
        what = self.description if found is False else f"it answered {found!r}, neither True nor False nor a violation"
        return CustomViolation(self.name, what)
