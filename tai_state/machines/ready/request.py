"""An inference request.

Corrections of Butterfly:

- Completed, Failed and Cancelled are final. There a completed request can still fail, and a cancelled one, too.
- ``can_transition_to`` answers by the rules. There it always says yes.
- A refusal gives the reason of the rule that is missing. There it says "Transition not allowed", whatever the step.
- Each record has its number and its times. There they are all 0.
- The time-outs, which only its design document has, lead to Failed. There no target is named; that of
  Executing depends on the model, so there is none here.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final
from uuid import UUID

from tai_state.machines.defining import define
from tai_state.machines.machine import MachineClock, StateMachine
from tai_state.machines.rules import ANY_STATE, allow, time_out
from tai_state.machines.states import ComponentState, described


class RequestState(ComponentState, component_type="InferenceRequest"):
    """The state of an inference request."""

    Queued = described("Waiting in queue")
    Scheduled = described("Scheduled for execution")
    Dispatched = described("Dispatched to workers")
    Executing = described("Executing on cluster")
    Validating = described("Validating results")
    Completed = described("Successfully completed", terminal=True)
    Failed = described("Failed with error", failure=True, terminal=True)
    Cancelled = described("Cancelled", failure=True, terminal=True)


INFERENCE_REQUEST: Final = define(
    "inference_request",
    RequestState,
    initial=RequestState.Queued,
    rules=[
        allow(RequestState.Queued, RequestState.Scheduled, reason="Only a queued request can be scheduled"),
        allow(RequestState.Scheduled, RequestState.Dispatched, reason="Only a scheduled request can be dispatched"),
        allow(RequestState.Dispatched, RequestState.Executing, reason="Only a dispatched request can be executed"),
        allow(RequestState.Executing, RequestState.Validating, reason="Must execute before validating"),
        allow(RequestState.Validating, RequestState.Completed, reason="Must validate results before completing"),
        allow(ANY_STATE, RequestState.Failed),
        allow(ANY_STATE, RequestState.Cancelled),
        time_out(RequestState.Queued, RequestState.Failed, seconds=30),
        time_out(RequestState.Scheduled, RequestState.Failed, seconds=5),
        time_out(RequestState.Dispatched, RequestState.Failed, seconds=5),
        time_out(RequestState.Validating, RequestState.Failed, seconds=10),
    ],
)
"""How a request goes from the queue to its result, or to its end in time."""


class InferenceRequestStateMachine(StateMachine[RequestState, None]):
    """An inference request in memory.

    Args:
        request_id: the request; it stands in the fields of what is logged.
        clock: the source of its times.

    Attributes:
        request_id: as given.
    """

    def __init__(self, request_id: UUID, *, clock: MachineClock | None = None) -> None:
        super().__init__(INFERENCE_REQUEST, clock=clock)
        self.request_id = request_id
        self._log_fields["request_id"] = str(request_id)
        self._made_ns = self._entered_ns

    def total_time(self) -> timedelta:
        """How long ago the request was made."""
        return timedelta(microseconds=(self._monotonic_ns() - self._made_ns) / 1000)
