"""Which of several rules a refusal names: what the machine has to do first."""

from __future__ import annotations

import pytest

from tai_state.machines import (
    ComponentState,
    Refusal,
    StateMachine,
    allow,
    define,
    described,
)


class Trip(ComponentState):
    Home = described("Begins")
    Road = described("Drives")
    Rails = described("Rides")
    Harbour = described("Waits for the ship")
    Lost = described("Goes round in a circle")
    Astray = described("Goes round in a circle, too")
    There = described("Arrived")


TRIP = define(
    "trip",
    Trip,
    initial=Trip.Home,
    rules=[
        allow(Trip.Harbour, Trip.There, reason="by ship"),
        allow(Trip.Road, Trip.There, reason="by road"),
        allow([Trip.Rails], Trip.There, reason="by rail"),
        allow(Trip.Home, Trip.Rails),
        allow(Trip.Rails, Trip.Road),
        allow(Trip.Road, Trip.Harbour),
        allow(Trip.Home, Trip.Lost),
        allow(Trip.Lost, Trip.Astray),
        allow(Trip.Astray, Trip.Lost),
        allow(Trip.There, Trip.Home),
    ],
)


@pytest.mark.parametrize(("state", "reason"), [(Trip.Home, "by rail"), (Trip.There, "by rail"), (Trip.Lost, "by ship")])
def test_a_refusal_names_the_rule_that_is_nearest_ahead(state: Trip, reason: str) -> None:
    """A refusal names the rule that can be used after the fewest steps, and the first one if none of them ever can."""
    machine = StateMachine(TRIP)
    machine.force_state(state, "the test begins here")
    verdict = machine.can_transition_to(Trip.There)
    assert isinstance(verdict, Refusal)
    assert verdict.reason == reason
