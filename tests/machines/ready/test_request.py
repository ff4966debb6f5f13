"""The inference request: its way to a result, its time-outs, its times."""

from __future__ import annotations

import logging
from datetime import timedelta
from uuid import UUID

import pytest

from tai_state.errors import InvalidTransition
from tai_state.machines import Event, Timeout
from tai_state.machines.ready import InferenceRequestStateMachine, RequestState
from tai_state.testing import ManualClock

ID = UUID("0198c0de-0000-7000-8000-000000000001")
S = RequestState
WAY = [S.Queued, S.Scheduled, S.Dispatched, S.Executing, S.Validating, S.Completed]
SECONDS = {S.Queued: 30, S.Scheduled: 5, S.Dispatched: 5, S.Validating: 10}


def request_in(state: RequestState, clock: ManualClock) -> InferenceRequestStateMachine:
    """A request that went its way to a state."""
    machine = InferenceRequestStateMachine(ID, clock=clock)
    for step in WAY[1 : WAY.index(state) + 1]:
        machine.transition_to(step, Event("next"))
    return machine


def test_a_request_goes_its_way_and_is_final() -> None:
    """A request is completed, keeps its id and its records, and cannot fail or be cancelled any more."""
    machine = request_in(S.Completed, ManualClock())
    assert machine.request_id == ID
    assert [record.to_state for record in machine.transition_history] == WAY
    for state in S:
        with pytest.raises(InvalidTransition, match="Completed is final"):
            machine.transition_to(state, Event("late"))


@pytest.mark.parametrize("state", list(SECONDS))
def test_a_request_fails_in_time(state: RequestState) -> None:
    """A request that stays too long in a state of the table fails, at its time and not before."""
    clock = ManualClock()
    machine = request_in(state, clock)
    clock.advance(SECONDS[state] - 0.001)
    assert machine.run_timer() is None
    clock.advance(0.001)
    record = machine.run_timer()
    assert record is not None
    assert (record.from_state, record.to_state) == (state, S.Failed)
    assert record.trigger == Timeout(SECONDS[state] * 1000)
    assert machine.run_timer() is None


@pytest.mark.parametrize("state", [S.Executing, S.Completed])
def test_a_request_without_a_time_out_stays(state: RequestState) -> None:
    """A request that executes, or that is final, has all the time."""
    clock = ManualClock()
    machine = request_in(state, clock)
    clock.advance(10**6)
    assert machine.run_timer() is None


def test_a_request_counts_its_time_from_the_queue() -> None:
    """The total time goes on over all states, the time in a state begins anew with each."""
    clock = ManualClock()
    machine = InferenceRequestStateMachine(ID, clock=clock)
    clock.advance(2)
    machine.transition_to(S.Scheduled, Event("slot assigned"))
    clock.advance(1.5)
    assert machine.total_time() == timedelta(seconds=3.5)
    assert machine.time_in_current_state() == timedelta(seconds=1.5)


def test_a_time_out_counts_from_the_state() -> None:
    """A request that waited long in the queue has its whole time when it is scheduled."""
    clock = ManualClock()
    machine = InferenceRequestStateMachine(ID, clock=clock)
    clock.advance(29)
    machine.transition_to(S.Scheduled, Event("slot assigned"))
    clock.advance(4)
    assert machine.run_timer() is None
    clock.advance(1)
    assert machine.run_timer() is not None


@pytest.mark.parametrize(
    ("state", "target", "reason"),
    [
        (S.Queued, S.Dispatched, "Only a scheduled request can be dispatched"),
        (S.Queued, S.Completed, "Must validate results before completing"),
        (S.Executing, S.Scheduled, "Only a queued request can be scheduled"),
        (S.Scheduled, S.Executing, "Only a dispatched request can be executed"),
        (S.Dispatched, S.Validating, "Must execute before validating"),
        (S.Dispatched, S.Queued, "no rule leads there"),
    ],
)
def test_a_refusal_says_what_is_missing(state: RequestState, target: RequestState, reason: str) -> None:
    """A step out of order is refused with the reason of the rule that leads to its target."""
    verdict = request_in(state, ManualClock()).can_transition_to(target)
    assert not verdict
    assert verdict.reason == reason


def test_what_is_logged_has_the_request(caplog: pytest.LogCaptureFixture) -> None:
    """Steps are logged with the request's id as a field."""
    with caplog.at_level(logging.INFO):
        request_in(S.Scheduled, ManualClock())
    [*_, record] = caplog.records
    assert vars(record)["request_id"] == str(ID)
