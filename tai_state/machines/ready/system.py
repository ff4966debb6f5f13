"""The system: a whole cluster as one machine, and the phases of its work.

Corrections of Butterfly, whose specification has the states, and whose design document has the edges in a table:

- What an event stands on is checked: :attr:`SystemEvents.quorum_established`, :attr:`SystemEvents.begin_inference` and
  :attr:`SystemEvents.result_committed` bring the numbers, and a guard compares them. There no code does.
- Forbidden steps are refused with their reasons. There a table has them.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar, Final

from pydantic import BaseModel, ConfigDict, Field

from tai_state.machines.contexts import EventContext
from tai_state.machines.defining import define
from tai_state.machines.events import MachineEvent
from tai_state.machines.rules import ANY_STATE, Proof, allow, forbid
from tai_state.machines.states import ComponentState, described


class SystemState(ComponentState, component_type="System"):
    """The state of a whole cluster."""

    Uninitialized = described("System not initialized", operational=False)
    Bootstrapping = described("Establishing cluster", operational=False)
    Ready = described("Ready for inference requests", accepts_new_work=True)
    Computing = described("Executing distributed computation")
    Degraded = described("Operating with failures")
    Committing = described("Finalizing results")
    Shutdown = described("Shutting down", operational=False)
    Terminated = described("Terminated", operational=False, terminal=True)


class Phase(IntEnum):
    """The phases of one computation, in order; an epoch is one round of them."""

    Assignment = 0
    Computation = 1
    Aggregation = 2
    Commitment = 3

    def __str__(self) -> str:
        return self.name

    def next(self) -> Phase | None:
        """The phase after it; None after the last one: a new epoch begins with the first."""
        return None if self is Phase.Commitment else Phase(self + 1)

    def index(self) -> int:
        """Its place in the order, from 0 up."""
        return self.value

    def distance_to(self, other: Phase) -> int:
        """How many phases lie between it and another one, whichever is first."""
        return abs(other - self)


class Quorum(BaseModel):
    """How many nodes there are, and how many a decision needs."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    nodes: int = Field(ge=0)
    quorum: int = Field(ge=1)


class WorkInFlight(BaseModel):
    """How many inferences are under way."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    in_flight: int = Field(ge=0)


class CommitVotes(BaseModel):
    """How many nodes voted for a result, and how many faulty nodes are tolerated."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    votes: int = Field(ge=0)
    faults: int = Field(ge=0)


class SystemEvents:
    """The events that move a system."""

    bootstrap: Final = MachineEvent("bootstrap")
    quorum_established: Final = MachineEvent("quorum_established", Quorum)
    begin_inference: Final = MachineEvent("begin_inference", WorkInFlight)
    all_phases_complete: Final = MachineEvent("all_phases_complete")
    result_committed: Final = MachineEvent("result_committed", CommitVotes)
    failure_detected: Final = MachineEvent("failure_detected")
    recovery_complete: Final = MachineEvent("recovery_complete")
    quorum_lost: Final = MachineEvent("quorum_lost")
    shutdown_initiated: Final = MachineEvent("shutdown_initiated")
    cleanup_complete: Final = MachineEvent("cleanup_complete")


def _has_quorum(context: EventContext[SystemState, None, Quorum]) -> Proof:
    """Whether there are as many nodes as a decision needs."""
    there, needed = context.payload.nodes, context.payload.quorum
    return there >= needed or f"{there} nodes are there, and a quorum is {needed}"


def _is_idle(context: EventContext[SystemState, None, WorkInFlight]) -> Proof:
    """Whether no inference is under way."""
    return context.payload.in_flight == 0 or f"work is in flight: {context.payload.in_flight}"


def _is_agreed(context: EventContext[SystemState, None, CommitVotes]) -> Proof:
    """Whether enough nodes voted, so that the faulty ones among them cannot have decided."""
    votes, needed = context.payload.votes, 2 * context.payload.faults + 1
    return votes >= needed or f"{votes} votes are there, and agreement needs {needed}"


SYSTEM: Final = define(
    "system",
    SystemState,
    initial=SystemState.Uninitialized,
    rules=[
        allow(SystemState.Uninitialized, SystemState.Bootstrapping, on=SystemEvents.bootstrap),
        allow(SystemState.Bootstrapping, SystemState.Ready, on=SystemEvents.quorum_established, guard=_has_quorum),
        allow(SystemState.Ready, SystemState.Computing, on=SystemEvents.begin_inference, guard=_is_idle),
        allow(SystemState.Computing, SystemState.Committing, on=SystemEvents.all_phases_complete),
        allow(SystemState.Computing, SystemState.Degraded, on=SystemEvents.failure_detected),
        allow(
            SystemState.Committing,
            SystemState.Ready,
            on=SystemEvents.result_committed,
            guard=_is_agreed,
            advances_epoch=True,
        ),
        allow(SystemState.Degraded, SystemState.Ready, on=SystemEvents.recovery_complete),
        allow(SystemState.Degraded, SystemState.Shutdown, on=SystemEvents.quorum_lost),
        allow([SystemState.Ready, SystemState.Computing], SystemState.Shutdown, on=SystemEvents.shutdown_initiated),
        allow(SystemState.Shutdown, SystemState.Terminated, on=SystemEvents.cleanup_complete),
        forbid(SystemState.Uninitialized, SystemState.Ready, "it would skip forming the cluster"),
        forbid(SystemState.Computing, SystemState.Ready, "it would skip commitment and lose the results"),
        forbid(SystemState.Degraded, SystemState.Computing, "no new work begins during recovery"),
        forbid(SystemState.Committing, SystemState.Degraded, "an agreement must finish atomically"),
        forbid(SystemState.Terminated, ANY_STATE, "a terminated system is final"),
        forbid(
            ANY_STATE,
            SystemState.Bootstrapping,
            "a running system is not bootstrapped again",
            unless_from=[SystemState.Uninitialized],
        ),
    ],
)
"""How a cluster comes to be, works in epochs, recovers and ends."""
