"""What holds across a system: each invariant on views that keep it and views that break it, and what is measured."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from tai_state.machines import (
    SYSTEM_INVARIANTS,
    CoordinatorView,
    CustomViolation,
    EpochSkew,
    Finding,
    IncompleteAssignment,
    Invariant,
    MachineView,
    MultipleCoordinators,
    OverlappingAssignment,
    PartitionView,
    Present,
    QuorumLost,
    RequestView,
    Severity,
    SystemInvariant,
    SystemView,
    VerticalIncoherence,
    Violation,
    WorkerView,
    allow,
    check_view,
    coherence,
    define,
    phase_lag,
    staleness,
)
from tai_state.machines.ready import (
    CoordinatorState,
    PartitionState,
    Phase,
    RequestState,
    SystemState,
    WorkerState,
)
from tai_state.machines.system_invariants import FITTING

SEVERITIES = {
    "SingleCoordinator": Severity.Critical,
    "QuorumOperational": Severity.Critical,
    "EpochMonotonic": Severity.High,
    "AssignmentCoversModel": Severity.Critical,
    "NoAssignmentOverlap": Severity.Critical,
    "VerticalCoherence": Severity.Warning,
    "WorkerPartition": Severity.High,
    "WorkerCoordinator": Severity.High,
}

NAMES = [each.name for each in SYSTEM_INVARIANTS]


def coordinator(
    id_: str = "c", state: CoordinatorState = CoordinatorState.Computing, epoch: int = 7
) -> CoordinatorView:
    """A coordinator that computes, if nothing else is said."""
    return CoordinatorView(id=id_, state=state, epoch=epoch)


def worker(id_: str, state: WorkerState = WorkerState.Computing, **more: Any) -> WorkerView:
    """A worker that computes with the partition of its own name, if nothing else is said."""
    return WorkerView(id=id_, state=state, **{"epoch": 7, "coordinator": "c", "partition": id_, **more})


def partition(id_: str, *layers: int, state: PartitionState = PartitionState.InUse) -> PartitionView:
    """A partition in use, if nothing else is said."""
    return PartitionView(id=id_, state=state, layers=layers)


SOUND = SystemView(
    state=SystemState.Computing,
    phase=Phase.Computation,
    quorum=3,
    layers=4,
    coordinators=(coordinator(),),
    workers=(worker("a"), worker("b")),
    partitions=(partition("a", 0, 1), partition("b", 2, 3)),
    requests=(RequestView(id="r", state=RequestState.Executing),),
)
"""A system that computes, and in which everything holds."""


def seen(**changes: Any) -> SystemView:
    """The sound system, changed."""
    return msgspec.structs.replace(SOUND, **changes)


def violations(view: SystemView, name: str) -> list[Violation]:
    """What one invariant finds."""
    return [each.violation for each in check_view(view).findings if each.invariant == name]


def test_the_invariants_have_the_documents_names_and_severities() -> None:
    """The invariants are those of the table, with their severities, and each says what it says."""
    assert {each.name: each.severity for each in SYSTEM_INVARIANTS} == SEVERITIES
    assert all(each.description for each in SYSTEM_INVARIANTS)


@pytest.mark.parametrize("view", [SOUND, SystemView()], ids=["sound", "empty"])
def test_a_sound_system_passes_all(view: SystemView) -> None:
    """A system in which everything holds passes every invariant, and so does one of which nothing is seen."""
    report = check_view(view)
    assert list(report.passed) == NAMES
    assert report.findings == ()


@pytest.mark.parametrize(
    ("states", "count"),
    [
        ([], 0),
        ([CoordinatorState.Ready], 0),
        ([CoordinatorState.Ready, CoordinatorState.Initializing, CoordinatorState.Failed], 0),
        ([CoordinatorState.Ready, CoordinatorState.Degraded], 2),
        ([CoordinatorState.Computing, CoordinatorState.Recovering, CoordinatorState.Committing], 3),
    ],
)
def test_one_coordinator_works_at_once(states: list[CoordinatorState], count: int) -> None:
    """Coordinators that work are counted; those that begin or have failed do not work."""
    view = SystemView(coordinators=tuple(coordinator(str(n), state) for n, state in enumerate(states)))
    assert violations(view, "SingleCoordinator") == ([MultipleCoordinators(count)] if count else [])


def test_a_quorum_works_while_the_system_is_operational() -> None:
    """Nodes that work are counted once each, by their ids, and only while the system is operational."""
    failing = (worker("a"), worker("b", WorkerState.Suspect))
    assert violations(seen(workers=failing), "QuorumOperational") == [QuorumLost(2, 3)]
    assert violations(seen(workers=(worker("a"), worker("c"))), "QuorumOperational") == [QuorumLost(2, 3)]
    for state in SystemState:
        found = violations(seen(state=state, workers=failing), "QuorumOperational")
        assert bool(found) is state.is_operational
    assert violations(seen(state=None, workers=failing), "QuorumOperational") == [QuorumLost(2, 3)]


@pytest.mark.parametrize(("epochs", "skew"), [((7, 7), None), ((7, 8), None), ((6, 8), (6, 8)), ((9, 7), (7, 9))])
def test_epochs_are_close(epochs: tuple[int, int], skew: tuple[int, int] | None) -> None:
    """Epochs differ by one at most, and nodes that have failed stay in theirs."""
    failed = worker("z", WorkerState.Failed, epoch=0)
    view = seen(workers=(*(worker(name, epoch=epoch) for name, epoch in zip("ab", epochs, strict=True)), failed))
    assert violations(view, "EpochMonotonic") == ([EpochSkew(*skew)] if skew else [])


def test_the_coordinators_epoch_counts() -> None:
    """A coordinator that is ahead of its workers is seen."""
    assert violations(seen(coordinators=(coordinator(epoch=9),)), "EpochMonotonic") == [EpochSkew(7, 9)]


def test_an_assignment_is_complete() -> None:
    """Every layer of the model has a worker that has not failed, once the phase of assignment is over."""
    view = seen(workers=(worker("a"), worker("b", WorkerState.Failed)))
    assert violations(view, "AssignmentCoversModel") == [IncompleteAssignment(2, 4)]
    assert violations(msgspec.structs.replace(view, phase=None), "AssignmentCoversModel") != []
    assert violations(msgspec.structs.replace(view, phase=Phase.Assignment), "AssignmentCoversModel") == []
    for state in SystemState:
        found = violations(msgspec.structs.replace(view, state=state), "AssignmentCoversModel")
        assert bool(found) is (state in {SystemState.Computing, SystemState.Committing})


def test_layers_beyond_the_model_do_not_complete_it() -> None:
    """A layer that the model does not have counts for none that it has."""
    view = seen(partitions=(partition("a", 0, 1), partition("b", 2, 4)))
    assert violations(view, "AssignmentCoversModel") == [IncompleteAssignment(3, 4)]


def test_an_assignment_does_not_overlap() -> None:
    """Each layer that two workers have is named; the partition of a failed worker is assigned to nobody."""
    view = seen(partitions=(partition("a", 0, 1, 2), partition("b", 1, 2, 3)))
    assert violations(view, "NoAssignmentOverlap") == [OverlappingAssignment(1), OverlappingAssignment(2)]
    shared = seen(workers=(worker("a"), worker("b", partition="a")))
    assert violations(shared, "NoAssignmentOverlap") == [OverlappingAssignment(0), OverlappingAssignment(1)]
    failed = seen(workers=(worker("a"), worker("b", WorkerState.Failed, partition="a")))
    assert violations(failed, "NoAssignmentOverlap") == []


FITS = """
    Uninitialized |                        |                                              |
    Bootstrapping | Initializing           | Initialized Joined                           |
    Ready         | Ready                  | Joined Ready Suspect                         | Queued Scheduled
    Computing     | Computing Aggregating  | Ready Computing Aggregating Suspect          | Queued Dispatched Executing
    Degraded      | Degraded Recovering    | Joined Ready Computing Aggregating Suspect   | Queued Executing Validating
    Committing    | Committing             | Committing Suspect                           | Queued Validating
    Terminated    |                        |                                              |
"""


@pytest.mark.parametrize("line", FITS.strip().splitlines(), ids=lambda line: line.split()[0])
def test_components_fit_the_system(line: str) -> None:
    """Each state of a component either fits the state of the system, is final, or is named with it."""
    system, *columns = [cell.strip() for cell in line.split("|")]
    state = SystemState[system]
    for kind, fitting in zip((CoordinatorState, WorkerState, RequestState), columns, strict=True):
        for each in kind:
            view = SystemView(
                state=state,
                coordinators=(coordinator("x", each),) if isinstance(each, CoordinatorState) else (),
                workers=(worker("x", each),) if isinstance(each, WorkerState) else (),
                requests=(RequestView(id="x", state=each),) if isinstance(each, RequestState) else (),
            )
            fits = each.is_terminal or each.name in fitting.split()
            wrong = VerticalIncoherence(system, each.component_type, "x", each.name)
            assert violations(view, "VerticalCoherence") == ([] if fits else [wrong])
            assert coherence(view) == (100 if fits else 0)


def test_everything_fits_a_system_that_shuts_down() -> None:
    """A system that shuts down lets its components end what they do, and a system not seen binds nobody."""
    assert set(FITTING) == set(SystemState)
    for state in (SystemState.Shutdown, None):
        for each in WorkerState:
            assert violations(seen(state=state, workers=(worker("a", each),)), "VerticalCoherence") == []


@pytest.mark.parametrize(
    ("state", "usable"),
    [
        (WorkerState.Ready, {PartitionState.Ready, PartitionState.InUse}),
        (WorkerState.Computing, {PartitionState.InUse}),
        (WorkerState.Aggregating, {PartitionState.Ready, PartitionState.InUse}),
        (WorkerState.Committing, {PartitionState.Ready, PartitionState.InUse}),
        (WorkerState.Joined, set(PartitionState)),
        (WorkerState.Suspect, set(PartitionState)),
    ],
)
def test_a_worker_has_a_partition_that_it_can_use(state: WorkerState, usable: set[PartitionState]) -> None:
    """A worker in a state that needs a partition has one, in a state in which it can be used."""
    for each in PartitionState:
        view = seen(workers=(worker("a", state),), partitions=(partition("a", state=each),))
        text = f"worker a is {state} while its partition a is {each}"
        expected = [] if each in usable else [CustomViolation("WorkerPartition", text)]
        assert violations(view, "WorkerPartition") == expected
    without = seen(workers=(worker("a", state, partition=None),), partitions=())
    text = f"worker a is {state} and has no partition"
    expected = [] if usable == set(PartitionState) else [CustomViolation("WorkerPartition", text)]
    assert violations(without, "WorkerPartition") == expected


def test_partitions_and_workers_know_each_other() -> None:
    """A partition that is not there is named, and one in use that no worker has, or a failed one alone."""
    view = seen(workers=(worker("a"), worker("b", WorkerState.Failed), worker("d")))
    assert [str(each) for each in violations(view, "WorkerPartition")] == [
        "WorkerPartition: worker d has partition d, which is not there",
        "WorkerPartition: partition b is InUse, and no worker has it",
    ]


def test_a_worker_follows_a_coordinator_that_has_not_failed() -> None:
    """A worker that works follows a coordinator that is there and has not failed; others need none."""
    failed = coordinator("f", CoordinatorState.Failed)
    workers = (
        worker("a"),
        worker("b", coordinator=None),
        worker("d", coordinator="x"),
        worker("e", coordinator="f"),
        worker("g", WorkerState.Suspect, coordinator="f"),
        worker("h", WorkerState.Initialized, coordinator=None),
    )
    view = seen(coordinators=(coordinator(), failed), workers=workers)
    assert [str(each) for each in violations(view, "WorkerCoordinator")] == [
        "WorkerCoordinator: worker b is Computing and follows no coordinator",
        "WorkerCoordinator: worker d follows coordinator x, which is not there",
        "WorkerCoordinator: worker e follows coordinator f, which is Failed",
    ]


def test_machines_are_checked_by_their_own_invariants() -> None:
    """A machine's own invariants are checked with their own severities, and findings name the machine."""
    small = Invariant("small", "It stays small", Severity.Info, lambda present: present.context < 10)
    even = Invariant("even", "It stays even", Severity.High, lambda present: present.context % 2 == 0)
    rules = [allow(WorkerState.Initialized, WorkerState.Joined)]
    rest = [state for state in WorkerState if state not in {WorkerState.Initialized, WorkerState.Joined}]
    counter = define(
        "counter",
        WorkerState,
        initial=WorkerState.Initialized,
        rules=rules,
        context=int,
        invariants=[small, even],
        unreached=rest,
        dead_ends=[WorkerState.Joined, *rest],
    )
    machines = tuple(
        MachineView(id=str(number), definition=counter, present=Present(WorkerState.Joined, number))
        for number in (4, 12, 13)
    )
    report = check_view(SystemView(machines=machines), [])
    assert report.passed == ("small", "even", "even")
    assert report.findings == (
        Finding("small", Severity.Info, CustomViolation("small", "It stays small"), "12"),
        Finding("small", Severity.Info, CustomViolation("small", "It stays small"), "13"),
        Finding("even", Severity.High, CustomViolation("even", "It stays even"), "13"),
    )
    assert str(report.findings[2]) == "High: even of 13: even: It stays even"


def test_an_invariant_that_raises_does_not_hold() -> None:
    """An invariant that raises is found with what it found before and what it raised, and the others are checked."""

    def raises(view: SystemView) -> Any:
        yield QuorumLost(0, 1)
        raise LookupError(view.quorum)

    broken = SystemInvariant("broken", "It cannot be checked", Severity.Warning, raises)
    fine = SystemInvariant("fine", "It holds", Severity.Warning, lambda _: ())
    report = check_view(SOUND, [broken, fine])
    found = [QuorumLost(0, 1), CustomViolation("broken", "LookupError: 3")]
    assert report.findings == tuple(Finding("broken", Severity.Warning, each) for each in found)
    assert report.passed == ("fine",)


def test_kinds_of_findings() -> None:
    """A common kind of violation is its own kind, any other one goes by the name of its invariant."""
    assert Finding("QuorumOperational", Severity.Critical, QuorumLost(1, 2)).kind == "QuorumLost"
    assert Finding("WorkerPartition", Severity.High, CustomViolation("x", "y")).kind == "WorkerPartition"


def test_coherence_is_a_part_of_all_that_take_part() -> None:
    """Coherence counts the components that fit among those that are not final."""
    workers = (worker("a"), worker("b", WorkerState.Joined), worker("d", WorkerState.Failed))
    assert coherence(seen(workers=workers)) == 75
    assert coherence(seen(workers=workers, state=None)) == 100
    assert coherence(SystemView(state=SystemState.Ready)) == 100


def test_the_phase_lag_is_among_workers_of_one_epoch() -> None:
    """The lag is the greatest distance of phases between workers of one epoch; states without a phase do not count."""
    states = WorkerState.Ready, WorkerState.Aggregating, WorkerState.Suspect
    workers = tuple(worker(str(number), state) for number, state in enumerate(states))
    assert phase_lag(seen(workers=workers)) == 2
    assert phase_lag(seen(workers=(*workers, worker("z", WorkerState.Committing, epoch=6)))) == 2
    assert phase_lag(seen(workers=(*workers, worker("z", WorkerState.Committing)))) == 3
    assert phase_lag(SystemView()) == 0


def test_staleness_is_that_of_the_worker_least_heard_of() -> None:
    """Staleness counts from when a worker that has not failed was last heard of, and is never negative."""
    now = datetime(2026, 1, 31, 9, tzinfo=UTC)
    times = [now - timedelta(seconds=seconds) for seconds in (1, 5, 60)]
    workers = (
        worker("a", seen_at=times[0]),
        worker("b", seen_at=times[1]),
        worker("d", WorkerState.Failed, seen_at=times[2]),
        worker("e"),
    )
    assert staleness(seen(workers=workers), now) == timedelta(seconds=5)
    assert staleness(seen(workers=workers), times[2]) == timedelta(0)
    assert staleness(SOUND, now) == timedelta(0)
