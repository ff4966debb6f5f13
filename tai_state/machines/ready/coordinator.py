"""The coordinator of a cluster, with Butterfly's eight rules.

Corrections of Butterfly:

- A step needs one of the rules. There it needs all of them, so that no step at all is allowed.
- Failed is terminal, and has a way in: ``AnyToFailed``, from every state that is not terminal. There it has none, and
  ``AnyToDegraded`` leads out of it.
- The epoch advances with the step from Committing to Ready. There whoever calls ``increment_epoch`` advances it.
- Aggregating leads to Ready by way of Committing alone, as the rules say. There the example leaves that step out.
- Ready accepts new work, as its description says. There only a system says whether it does.
"""

from __future__ import annotations

from typing import Final

from tai_state.machines.contexts import Present
from tai_state.machines.defining import define
from tai_state.machines.judging import Refusal, judge_step
from tai_state.machines.machine import MachineClock, StateMachine
from tai_state.machines.rules import ANY_STATE, Rule, allow
from tai_state.machines.states import ComponentState, described
from tai_state.machines.triggers import Command


class CoordinatorState(ComponentState, component_type="Coordinator"):
    """The state of a coordinator; in Butterfly, NodeState."""

    Initializing = described("Loading configuration and preparing")
    Ready = described("Monitoring cluster, ready for work", accepts_new_work=True)
    Computing = described("Coordinating distributed computation")
    Aggregating = described("Collecting and validating results")
    Committing = described("Finalizing Byzantine agreement")
    Degraded = described("Operating with reduced capacity")
    Recovering = described("Recovering from failures")
    Failed = described("Coordinator has failed", failure=True, terminal=True)


class CoordinatorTransitionRules:
    """Butterfly's rules of a coordinator, by their names there.

    Attributes:
        rules: the eight rules; :data:`COORDINATOR` has one more, to Failed.
    """

    rules: Final[tuple[Rule[CoordinatorState, None], ...]] = (
        allow(
            CoordinatorState.Initializing,
            CoordinatorState.Ready,
            name="InitializingToReady",
            reason="Can only transition to Ready from Initializing",
        ),
        allow(
            CoordinatorState.Ready,
            CoordinatorState.Computing,
            name="ReadyToComputing",
            reason="Can only start computing from Ready state",
        ),
        allow(
            CoordinatorState.Computing,
            CoordinatorState.Aggregating,
            name="ComputingToAggregating",
            reason="Must finish computing before aggregating",
        ),
        allow(
            CoordinatorState.Aggregating,
            CoordinatorState.Committing,
            name="AggregatingToCommitting",
            reason="Must aggregate results before committing",
        ),
        allow(
            CoordinatorState.Committing,
            CoordinatorState.Ready,
            name="CommittingToReady",
            reason="Must commit before returning to Ready",
            advances_epoch=True,
        ),
        allow(ANY_STATE, CoordinatorState.Degraded, name="AnyToDegraded"),
        allow(
            CoordinatorState.Degraded,
            CoordinatorState.Recovering,
            name="DegradedToRecovering",
            reason="Can only start recovery from Degraded state",
        ),
        allow(
            CoordinatorState.Recovering,
            CoordinatorState.Ready,
            name="RecoveringToReady",
            reason="Must finish recovery before returning to Ready",
        ),
    )

    def validate(self, from_state: CoordinatorState, to_state: CoordinatorState) -> None:
        """Check that a coordinator may take a step.

        Raises:
            InvalidTransition: no rule allows it.
        """
        verdict = judge_step(COORDINATOR, Present(from_state, None), to_state, Command("validate"), {})
        if isinstance(verdict, Refusal):
            raise verdict.to_error(COORDINATOR.name)


COORDINATOR: Final = define(
    "coordinator",
    CoordinatorState,
    initial=CoordinatorState.Initializing,
    starts=[state for state in CoordinatorState if not state.is_terminal],
    rules=[*CoordinatorTransitionRules.rules, allow(ANY_STATE, CoordinatorState.Failed, name="AnyToFailed")],
)
"""How a coordinator works in epochs, degrades, recovers and fails. It may begin in any state but Failed."""


class CoordinatorStateMachine(StateMachine[CoordinatorState, None]):
    """A coordinator in memory.

    Args:
        node_id: the node that coordinates; it stands in the fields of what is logged.
        initial_state: the state in which it begins.
        clock: the source of its times.

    Attributes:
        node_id: as given.
    """

    def __init__(
        self,
        node_id: str | int,
        initial_state: CoordinatorState = CoordinatorState.Initializing,
        *,
        clock: MachineClock | None = None,
    ) -> None:
        super().__init__(COORDINATOR, initial=initial_state, clock=clock)
        self.node_id = node_id
        self._log_fields["node_id"] = node_id
