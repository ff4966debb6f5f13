"""What holds across the machines of a system: pure functions of what is seen of it.

Corrections of Butterfly, whose documents have the names, the severities and the table of states that fit:

- No coordinator is not several: there a missing one is reported as such, with a count of 0.
- A quorum is asked for while the system is operational. There it is asked for before there are nodes.
- Layers are to be assigned once the phase of assignment is over.
- What is final fits every state of the system. There a failed worker makes the system incoherent for ever.
- The table has states that the documents themselves describe and it leaves out: a coordinator that aggregates, a worker
  that joined and loads its partition, one that waits for its turn in the pipeline, one that is suspected before the
  system knows, a request in the queue while others are computed.
- A system that shuts down may still have any request in it: the documents let it finish them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import Final

import msgspec

from tai_state.machines.invariants import (
    CustomViolation,
    EpochSkew,
    IncompleteAssignment,
    MultipleCoordinators,
    OverlappingAssignment,
    QuorumLost,
    Severity,
    VerticalIncoherence,
    Violation,
)
from tai_state.machines.ready.coordinator import CoordinatorState
from tai_state.machines.ready.partition import PartitionState
from tai_state.machines.ready.request import RequestState
from tai_state.machines.ready.system import Phase, SystemState
from tai_state.machines.ready.worker import WorkerState
from tai_state.machines.states import ComponentState
from tai_state.machines.system_views import SystemView

EPOCH_SKEW_MAX: Final = 1
"""How far apart epochs may be: a new one reaches one node after the other."""

FITTING: Final[dict[SystemState, frozenset[ComponentState] | None]] = {
    SystemState.Uninitialized: frozenset(),
    SystemState.Bootstrapping: frozenset(
        {
            CoordinatorState.Initializing,
            WorkerState.Initialized,
            WorkerState.Joined,
        }
    ),
    SystemState.Ready: frozenset(
        {
            CoordinatorState.Ready,
            WorkerState.Joined,
            WorkerState.Ready,
            WorkerState.Suspect,
            RequestState.Queued,
            RequestState.Scheduled,
        }
    ),
    SystemState.Computing: frozenset(
        {
            CoordinatorState.Computing,
            CoordinatorState.Aggregating,
            WorkerState.Ready,
            WorkerState.Computing,
            WorkerState.Aggregating,
            WorkerState.Suspect,
            RequestState.Queued,
            RequestState.Dispatched,
            RequestState.Executing,
        }
    ),
    SystemState.Degraded: frozenset(
        {
            CoordinatorState.Degraded,
            CoordinatorState.Recovering,
            WorkerState.Joined,
            WorkerState.Ready,
            WorkerState.Computing,
            WorkerState.Aggregating,
            WorkerState.Suspect,
            RequestState.Queued,
            RequestState.Executing,
            RequestState.Validating,
        }
    ),
    SystemState.Committing: frozenset(
        {
            CoordinatorState.Committing,
            WorkerState.Committing,
            WorkerState.Suspect,
            RequestState.Queued,
            RequestState.Validating,
        }
    ),
    SystemState.Shutdown: None,
    SystemState.Terminated: frozenset(),
}
"""The states of components that fit each state of the system; None: all of them."""

PHASES: Final = {
    WorkerState.Ready: Phase.Assignment,
    WorkerState.Computing: Phase.Computation,
    WorkerState.Aggregating: Phase.Aggregation,
    WorkerState.Committing: Phase.Commitment,
}
"""The phase that a worker's state belongs to."""

_USABLE = PartitionState.Ready, PartitionState.InUse

LOADED: Final[dict[WorkerState, tuple[PartitionState, ...]]] = {
    WorkerState.Ready: _USABLE,
    WorkerState.Computing: (PartitionState.InUse,),
    WorkerState.Aggregating: _USABLE,
    WorkerState.Committing: _USABLE,
}
"""The states that a worker's partition has while it is in a state that needs one."""


class SystemInvariant(msgspec.Struct, frozen=True):
    """What holds across the machines of a system.

    Attributes:
        name: its name, which counters bear.
        description: what it says.
        severity: how bad it is that it does not hold.
        check: a pure function of what is seen: all that does not hold. If it raises, that is what does not hold.
    """

    name: str
    description: str
    severity: Severity
    check: Callable[[SystemView], Iterable[Violation]]

    def violations(self, view: SystemView) -> tuple[Violation, ...]:
        """All that does not hold of a system."""
        found: list[Violation] = []
        try:
            found.extend(self.check(view))
        except Exception as error:  # noqa: BLE001 - whatever it raises, the invariant is not shown to hold
            found.append(CustomViolation(self.name, f"{type(error).__name__}: {error}"))
        return tuple(found)


class Finding(msgspec.Struct, frozen=True):
    """An invariant that does not hold.

    Attributes:
        invariant: its name.
        severity: how bad that is.
        violation: what does not hold.
        machine: the id of the machine whose own invariant it is; empty if it is one of the system.
    """

    invariant: str
    severity: Severity
    violation: Violation
    machine: str = ""

    @property
    def kind(self) -> str:
        """The kind of violation; of one that is not among the common kinds, the name of the invariant."""
        violation = self.violation
        return self.invariant if isinstance(violation, CustomViolation) else type(violation).__name__

    def __str__(self) -> str:
        whose = f" of {self.machine}" if self.machine else ""
        return f"{self.severity.name}: {self.invariant}{whose}: {self.violation}"


class ViewReport(msgspec.Struct, frozen=True):
    """What checking a view came to.

    Attributes:
        passed: the names of the invariants that hold; that of a machine's own stands once for each machine.
        findings: those that do not.
    """

    passed: tuple[str, ...]
    findings: tuple[Finding, ...]


def check_view(view: SystemView, invariants: Iterable[SystemInvariant] | None = None) -> ViewReport:
    """Check a system, and the machines in it by their own invariants.

    Args:
        view: what is seen of the system.
        invariants: what is to hold across it; by default, :data:`SYSTEM_INVARIANTS`.
    """
    passed: list[str] = []
    findings: list[Finding] = []
    for invariant in SYSTEM_INVARIANTS if invariants is None else invariants:
        found = invariant.violations(view)
        findings += [Finding(invariant.name, invariant.severity, violation) for violation in found]
        if not found:
            passed.append(invariant.name)
    for machine in view.machines:
        for own in machine.definition.invariants:
            violation = own.violation(machine.present)
            if violation is None:
                passed.append(own.name)
            else:
                findings.append(Finding(own.name, own.severity, violation, machine.id))
    return ViewReport(tuple(passed), tuple(findings))


def _single_coordinator(view: SystemView) -> Iterator[Violation]:
    working = [each.state for each in view.coordinators if not each.state.is_terminal]
    count = len([state for state in working if state is not CoordinatorState.Initializing])
    if count > 1:
        yield MultipleCoordinators(count)


def _quorum_operational(view: SystemView) -> Iterator[Violation]:
    if view.state is not None and not view.state.is_operational:
        return
    working = {each.id for part in (view.coordinators, view.workers) for each in part if each.state.is_operational}
    if len(working) < view.quorum:
        yield QuorumLost(len(working), view.quorum)


def _epochs_close(view: SystemView) -> Iterator[Violation]:
    nodes = (each for part in (view.coordinators, view.workers) for each in part)
    epochs = [each.epoch for each in nodes if not each.state.is_terminal]
    if epochs and max(epochs) - min(epochs) > EPOCH_SKEW_MAX:
        yield EpochSkew(min(epochs), max(epochs))


def _assignment_complete(view: SystemView) -> Iterator[Violation]:
    is_due = view.state in (None, SystemState.Computing, SystemState.Committing)
    if not is_due or view.phase is Phase.Assignment:
        return
    assigned = {layer for _, partition in view.assignments() for layer in partition.layers}
    count = len(assigned & set(range(view.layers)))
    if count < view.layers:
        yield IncompleteAssignment(count, view.layers)


def _assignment_disjoint(view: SystemView) -> Iterator[Violation]:
    counts = Counter(layer for _, partition in view.assignments() for layer in partition.layers)
    for layer in sorted(layer for layer, count in counts.items() if count > 1):
        yield OverlappingAssignment(layer)


def _is_fitting(system: SystemState, state: ComponentState) -> bool:
    fitting = FITTING[system]
    return fitting is None or state in fitting


def _vertically_coherent(view: SystemView) -> Iterator[Violation]:
    if view.state is None:
        return
    for id_, state in view.components():
        if not _is_fitting(view.state, state):
            yield VerticalIncoherence(view.state.name, state.component_type, id_, state.name)


def _partitions_fit(view: SystemView) -> Iterator[Violation]:
    name, partitions = "WorkerPartition", {each.id: each.state for each in view.partitions}
    for worker in view.workers:
        needed = LOADED.get(worker.state)
        if worker.partition is None:
            if needed is not None:
                yield CustomViolation(name, f"worker {worker.id} is {worker.state} and has no partition")
        elif worker.partition not in partitions:
            yield CustomViolation(name, f"worker {worker.id} has partition {worker.partition}, which is not there")
        elif needed is not None and (state := partitions[worker.partition]) not in needed:
            text = f"worker {worker.id} is {worker.state} while its partition {worker.partition} is {state}"
            yield CustomViolation(name, text)
    held = {partition.id for _, partition in view.assignments()}
    for partition in view.partitions:
        if partition.state is PartitionState.InUse and partition.id not in held:
            yield CustomViolation(name, f"partition {partition.id} is {partition.state}, and no worker has it")


def _coordinators_fit(view: SystemView) -> Iterator[Violation]:
    name, coordinators = "WorkerCoordinator", {each.id: each.state for each in view.coordinators}
    for worker in view.workers:
        if not worker.state.is_operational:
            continue
        if worker.coordinator is None:
            yield CustomViolation(name, f"worker {worker.id} is {worker.state} and follows no coordinator")
        elif worker.coordinator not in coordinators:
            text = f"worker {worker.id} follows coordinator {worker.coordinator}, which is not there"
            yield CustomViolation(name, text)
        elif (state := coordinators[worker.coordinator]).is_terminal:
            yield CustomViolation(
                name, f"worker {worker.id} follows coordinator {worker.coordinator}, which is {state}"
            )


SYSTEM_INVARIANTS: Final = (
    SystemInvariant(
        "SingleCoordinator", "One coordinator works at once, at most", Severity.Critical, _single_coordinator
    ),
    SystemInvariant(
        "QuorumOperational",
        "As many nodes work as a decision needs, while the system is operational",
        Severity.Critical,
        _quorum_operational,
    ),
    SystemInvariant("EpochMonotonic", "The epochs of nodes differ by one, at most", Severity.High, _epochs_close),
    SystemInvariant(
        "AssignmentCoversModel", "Every layer is assigned to a worker", Severity.Critical, _assignment_complete
    ),
    SystemInvariant(
        "NoAssignmentOverlap", "No layer is assigned to two workers", Severity.Critical, _assignment_disjoint
    ),
    SystemInvariant(
        "VerticalCoherence",
        "The states of components fit that of the system",
        Severity.Warning,
        _vertically_coherent,
    ),
    SystemInvariant(
        "WorkerPartition", "A worker that needs a partition has one that it can use", Severity.High, _partitions_fit
    ),
    SystemInvariant(
        "WorkerCoordinator", "A worker follows a coordinator that has not failed", Severity.High, _coordinators_fit
    ),
)
"""What is to hold across a system, by the names that Butterfly gives where it has one."""


def coherence(view: SystemView) -> float:
    """How many of the components fit the state of the system, in percent; 100 if there is nothing to compare."""
    states = [state for _, state in view.components()]
    if view.state is None or not states:
        return 100.0
    return 100 * len([state for state in states if _is_fitting(view.state, state)]) / len(states)


def phase_lag(view: SystemView) -> int:
    """How many phases lie between workers of one epoch, at most."""
    phases = defaultdict[int, set[Phase]](set)
    for worker in view.workers:
        if worker.state in PHASES:
            phases[worker.epoch].add(PHASES[worker.state])
    return max((min(each).distance_to(max(each)) for each in phases.values()), default=0)


def staleness(view: SystemView, now: datetime) -> timedelta:
    """How long ago a worker that has not failed was last heard of, at most."""
    seen = [each.seen_at for each in view.workers if each.seen_at is not None and not each.state.is_terminal]
    return max(now - min(seen, default=now), timedelta(0))
