"""The coordinator: Butterfly's rules, its example, and what is corrected of it."""

from __future__ import annotations

import logging

import pytest

from tai_state.errors import InvalidTransition, PreconditionFailed
from tai_state.machines import Command, Event, Failure, Rule
from tai_state.machines.ready import (
    COORDINATOR,
    CoordinatorState,
    CoordinatorStateMachine,
    CoordinatorTransitionRules,
)

S = CoordinatorState

BUTTERFLY_RULES = [
    ("InitializingToReady", S.Initializing, S.Ready, "Can only transition to Ready from Initializing"),
    ("ReadyToComputing", S.Ready, S.Computing, "Can only start computing from Ready state"),
    ("ComputingToAggregating", S.Computing, S.Aggregating, "Must finish computing before aggregating"),
    ("AggregatingToCommitting", S.Aggregating, S.Committing, "Must aggregate results before committing"),
    ("CommittingToReady", S.Committing, S.Ready, "Must commit before returning to Ready"),
    ("AnyToDegraded", None, S.Degraded, None),
    ("DegradedToRecovering", S.Degraded, S.Recovering, "Can only start recovery from Degraded state"),
    ("RecoveringToReady", S.Recovering, S.Ready, "Must finish recovery before returning to Ready"),
]
"""Name, states before and after, and reason; as Butterfly has them, in its order."""

GO = Command("test")


def rule_named(name: str) -> Rule[CoordinatorState, None]:
    """One of the eight rules."""
    [rule] = [each for each in CoordinatorTransitionRules().rules if each.name == name]
    return rule


def test_the_eight_rules_have_butterflys_names_and_order() -> None:
    """The rules are those of Butterfly, and the definition has them and one more, to Failed."""
    names = [rule.name for rule in CoordinatorTransitionRules().rules]
    assert names == [name for name, *_ in BUTTERFLY_RULES]
    assert [rule.name for rule in COORDINATOR.rules] == [*names, "AnyToFailed"]


@pytest.mark.parametrize(("name", "source", "target", "reason"), BUTTERFLY_RULES)
def test_a_rule_answers_for_each_pair_of_states(
    name: str, source: CoordinatorState | None, target: CoordinatorState, reason: str | None
) -> None:
    """A rule is valid for its own step alone, and says Butterfly's reason for every other one."""
    rule = rule_named(name)
    for before in S:
        for after in S:
            valid = after is target and (before is source or (source is None and not before.is_terminal))
            assert rule.is_valid(before, after) is valid
            assert rule.invalid_reason(before, after) == (None if valid else reason)


def test_the_rules_validate_by_any_of_them() -> None:
    """A step that one rule allows is valid, and one that none allows is refused with the reason of the one missing."""
    rules = CoordinatorTransitionRules()
    rules.validate(S.Initializing, S.Ready)
    rules.validate(S.Computing, S.Degraded)
    with pytest.raises(InvalidTransition) as refused:
        rules.validate(S.Initializing, S.Computing)
    assert (refused.value.rule, refused.value.reason) == (
        "ReadyToComputing",
        "Can only start computing from Ready state",
    )
    assert refused.value.allowed == ("Ready", "Degraded", "Failed")


@pytest.mark.parametrize(
    ("source", "target", "rule"),
    [
        (S.Initializing, S.Computing, "ReadyToComputing"),
        (S.Ready, S.Aggregating, "ComputingToAggregating"),
        (S.Computing, S.Committing, "AggregatingToCommitting"),
        (S.Computing, S.Recovering, "DegradedToRecovering"),
        (S.Aggregating, S.Ready, "CommittingToReady"),
        (S.Computing, S.Ready, "CommittingToReady"),
        (S.Degraded, S.Ready, "RecoveringToReady"),
    ],
)
def test_a_refusal_names_the_rule_that_lies_ahead(
    source: CoordinatorState, target: CoordinatorState, rule: str
) -> None:
    """Of several rules that lead to a state, a refusal gives the reason of the one whose source is nearest ahead."""
    verdict = CoordinatorStateMachine("n", source).can_transition_to(target)
    assert not verdict
    assert (verdict.rule, verdict.reason) == (rule, rule_named(rule).reason)


def test_nothing_leads_back_to_initializing() -> None:
    """A step that no rule names is refused as such."""
    verdict = CoordinatorStateMachine("n", S.Ready).can_transition_to(S.Initializing)
    assert not verdict
    assert verdict.reason == "no rule leads there"


@pytest.mark.parametrize("state", [state for state in S if state is not S.Failed])
def test_every_state_fails_and_failed_is_final(state: CoordinatorState) -> None:
    """Each state leads to Failed, from which no rule leads anywhere, not even to Degraded."""
    machine = CoordinatorStateMachine("n", state)
    machine.transition_to(S.Failed, Failure("n", "no heartbeat"))
    for after in S:
        verdict = machine.can_transition_to(after)
        assert not verdict
        assert verdict.reason == "Failed is final, and no step leaves it"


def test_butterflys_example_runs_with_the_step_that_its_rules_demand() -> None:
    """A request goes through computing and aggregating, is refused at Ready, and ends there after Committing."""
    machine = CoordinatorStateMachine("node-1", S.Initializing)
    machine.transition_to(S.Ready, Event("Configuration loaded"))
    machine.transition_to(S.Computing, Event("Inference request received"))
    machine.transition_to(S.Aggregating, Event("Workers acknowledged assignment"))
    with pytest.raises(InvalidTransition, match="Must commit before returning to Ready"):
        machine.transition_to(S.Ready, Event("Inference completed"))
    machine.transition_to(S.Committing, Event("Results aggregated"))
    with pytest.raises(PreconditionFailed):
        machine.increment_epoch()
    machine.transition_to(S.Ready, Event("Inference completed"))
    assert machine.increment_epoch() == machine.epoch == 1

    machine.transition_to(S.Degraded, Failure("node-2", "Heartbeat timeout"))
    machine.transition_to(S.Recovering, Event("Recovery initiated"))
    machine.transition_to(S.Ready, Event("Recovery complete"))
    with pytest.raises(PreconditionFailed):
        machine.increment_epoch()
    assert machine.epoch == 1
    assert [record.id for record in machine.transition_history] == list(range(9))
    assert str(machine.transition_history[0].trigger) == "Event: Initialization"
    assert str(machine.transition_history[6].trigger) == "Failure of node-2: Heartbeat timeout"


def test_a_forced_step_leaves_even_failed() -> None:
    """A forced step is taken against the rules, and its record says so."""
    machine = CoordinatorStateMachine(7, S.Ready)
    machine.transition_to(S.Failed, GO)
    record = machine.force_state(S.Recovering, "replaced by hand")
    assert record.kind.name == "FORCE"
    assert machine.current_state is S.Recovering


def test_what_is_logged_has_the_node(caplog: pytest.LogCaptureFixture) -> None:
    """Steps, refusals and forced steps are logged with the node's id as a field."""
    machine = CoordinatorStateMachine("node-1", S.Ready)
    with caplog.at_level(logging.INFO):
        machine.transition_to(S.Computing, GO)
        with pytest.raises(InvalidTransition):
            machine.transition_to(S.Ready, GO)
        machine.force_state(S.Ready, "by hand")
    fields = [(record.levelname, vars(record)["machine"], vars(record)["node_id"]) for record in caplog.records]
    assert fields == [(level, "coordinator", "node-1") for level in ("INFO", "WARNING", "WARNING")]
