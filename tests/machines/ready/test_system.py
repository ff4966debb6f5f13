"""The system's conditions and phases."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tai_state.errors import InvalidTransition
from tai_state.machines import Command, StateMachine
from tai_state.machines.ready import (
    SYSTEM,
    WORKER,
    CommitVotes,
    FailureConfirmation,
    Phase,
    Quorum,
    SystemEvents,
    SystemState,
    WorkerEvents,
    WorkerState,
    WorkInFlight,
)

GO = Command("test")


def system_in(state: SystemState) -> StateMachine[SystemState, None]:
    """A system that was put into a state."""
    machine = StateMachine(SYSTEM)
    machine.force_state(state, "the test begins here")
    return machine


def test_a_system_works_through_an_epoch() -> None:
    """A system is bootstrapped, computes, commits, begins a new epoch, and ends."""
    machine = StateMachine(SYSTEM)
    machine.fire(SystemEvents.bootstrap, None)
    machine.fire(SystemEvents.quorum_established, Quorum(nodes=5, quorum=5))
    machine.fire(SystemEvents.begin_inference, WorkInFlight(in_flight=0))
    machine.fire(SystemEvents.all_phases_complete, None)
    assert machine.epoch == 0
    machine.fire(SystemEvents.result_committed, CommitVotes(votes=5, faults=2))
    assert machine.increment_epoch() == 1
    machine.fire(SystemEvents.shutdown_initiated, None)
    machine.fire(SystemEvents.cleanup_complete, None)
    assert machine.current_state is SystemState.Terminated


@pytest.mark.parametrize(
    ("state", "event", "payload", "reason"),
    [
        (
            SystemState.Bootstrapping,
            SystemEvents.quorum_established,
            Quorum(nodes=4, quorum=5),
            "4 nodes are there, and a quorum is 5",
        ),
        (SystemState.Ready, SystemEvents.begin_inference, WorkInFlight(in_flight=1), "work is in flight: 1"),
        (
            SystemState.Committing,
            SystemEvents.result_committed,
            CommitVotes(votes=4, faults=2),
            "4 votes are there, and agreement needs 5",
        ),
    ],
)
def test_an_event_is_refused_whose_condition_does_not_hold(
    state: SystemState, event: object, payload: object, reason: str
) -> None:
    """An event whose numbers do not suffice is refused with them, and the system stays."""
    machine = system_in(state)
    with pytest.raises(InvalidTransition) as refused:
        machine.fire(event, payload)  # type: ignore[arg-type]
    assert refused.value.reason == reason
    assert machine.current_state is state


@pytest.mark.parametrize(
    ("state", "target", "event"),
    [
        (SystemState.Bootstrapping, SystemState.Ready, "quorum_established"),
        (SystemState.Ready, SystemState.Computing, "begin_inference"),
        (SystemState.Committing, SystemState.Ready, "result_committed"),
    ],
)
def test_a_condition_cannot_be_gone_round(state: SystemState, target: SystemState, event: str) -> None:
    """A step that has a condition is taken by its event alone."""
    with pytest.raises(InvalidTransition, match=f"only the event '{event}' leads there"):
        system_in(state).transition_to(target, GO)


def test_numbers_that_cannot_be_are_refused_where_they_are_given() -> None:
    """There are no negative votes, and no quorum of nobody."""
    for wrong in (lambda: CommitVotes(votes=-1, faults=0), lambda: Quorum(nodes=0, quorum=0)):
        with pytest.raises(ValidationError):
            wrong()


def test_a_failure_is_confirmed_by_those_who_suspect() -> None:
    """A worker fails if a quorum of nodes suspects it; a node that says so twice counts once."""
    machine = StateMachine(WORKER)
    machine.fire(WorkerEvents.coordinator_connected, None)
    machine.fire(WorkerEvents.failure_detected, None)
    with pytest.raises(InvalidTransition) as refused:
        machine.fire(WorkerEvents.confirm_failure, FailureConfirmation(suspected_by=["a", "b", "b"], quorum=3))  # type: ignore[arg-type]
    assert refused.value.reason == "2 nodes suspect it, and a quorum is 3"
    machine.fire(WorkerEvents.confirm_failure, FailureConfirmation(suspected_by=frozenset("abc"), quorum=3))
    assert machine.current_state is WorkerState.Failed


def test_phases_follow_each_other() -> None:
    """Phases are numbered from 0, each has a next one but the last, and distances have no direction."""
    assert [(str(phase), phase.index(), phase.next()) for phase in Phase] == [
        ("Assignment", 0, Phase.Computation),
        ("Computation", 1, Phase.Aggregation),
        ("Aggregation", 2, Phase.Commitment),
        ("Commitment", 3, None),
    ]
    assert Phase.Assignment < Phase.Commitment
    for first in Phase:
        for second in Phase:
            assert first.distance_to(second) == abs(first.index() - second.index())
