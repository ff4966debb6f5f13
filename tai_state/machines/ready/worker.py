"""A worker of a cluster.

Corrections of Butterfly, whose design document has the states and edges:

- A failure is confirmed by a quorum of nodes that suspect the worker. There suspected nodes were counted.
- A suspected worker that proves to be alive joins again. There the proof is named, and no step follows from it.
- A worker is suspected in each state in which it works, from Joined on; before, nobody knows it.
"""

from __future__ import annotations

from typing import ClassVar, Final

from pydantic import BaseModel, ConfigDict, Field

from tai_state.machines.contexts import EventContext
from tai_state.machines.defining import define
from tai_state.machines.events import MachineEvent
from tai_state.machines.rules import Proof, allow
from tai_state.machines.states import ComponentState, described


class WorkerState(ComponentState, component_type="Worker"):
    """The state of a worker."""

    Initialized = described("Started, and not yet connected to a coordinator", operational=False)
    Joined = described("Connected to a coordinator, and without a loaded partition")
    Ready = described("Has its partition loaded, and waits for work", accepts_new_work=True)
    Computing = described("Computes the layers of its partition")
    Aggregating = described("Has computed, and waits for the others at the barrier")
    Committing = described("Takes part in the agreement on the result")
    Suspect = described("Is suspected of having failed", operational=False)
    Failed = described("Has failed, as a quorum confirmed", failure=True, terminal=True)


class FailureConfirmation(BaseModel):
    """Which nodes suspect a worker, and how many of them confirm its failure."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    suspected_by: frozenset[str]
    quorum: int = Field(ge=1)


class WorkerEvents:
    """The events that move a worker."""

    coordinator_connected: Final = MachineEvent("coordinator_connected")
    partition_loaded: Final = MachineEvent("partition_loaded")
    work_assigned: Final = MachineEvent("work_assigned")
    local_computation_done: Final = MachineEvent("local_computation_done")
    barrier_released: Final = MachineEvent("barrier_released")
    commit_finalized: Final = MachineEvent("commit_finalized")
    failure_detected: Final = MachineEvent("failure_detected")
    confirm_failure: Final = MachineEvent("confirm_failure", FailureConfirmation)
    liveness_proven: Final = MachineEvent("liveness_proven")


def _is_confirmed(context: EventContext[WorkerState, None, FailureConfirmation]) -> Proof:
    """Whether as many nodes suspect the worker as a quorum needs."""
    nodes, needed = len(context.payload.suspected_by), context.payload.quorum
    return nodes >= needed or f"{nodes} nodes suspect it, and a quorum is {needed}"


WORKER: Final = define(
    "worker",
    WorkerState,
    initial=WorkerState.Initialized,
    rules=[
        allow(WorkerState.Initialized, WorkerState.Joined, on=WorkerEvents.coordinator_connected),
        allow(WorkerState.Joined, WorkerState.Ready, on=WorkerEvents.partition_loaded),
        allow(WorkerState.Ready, WorkerState.Computing, on=WorkerEvents.work_assigned),
        allow(WorkerState.Computing, WorkerState.Aggregating, on=WorkerEvents.local_computation_done),
        allow(WorkerState.Aggregating, WorkerState.Committing, on=WorkerEvents.barrier_released),
        allow(WorkerState.Committing, WorkerState.Joined, on=WorkerEvents.commit_finalized),
        allow(
            [state for state in WorkerState if state.is_operational],
            WorkerState.Suspect,
            name="WorkingToSuspect",
            on=WorkerEvents.failure_detected,
        ),
        allow(WorkerState.Suspect, WorkerState.Failed, on=WorkerEvents.confirm_failure, guard=_is_confirmed),
        allow(WorkerState.Suspect, WorkerState.Joined, on=WorkerEvents.liveness_proven),
    ],
)
"""How a worker joins, computes, commits, is suspected and fails."""
