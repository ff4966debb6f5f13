"""Refusals: what they say, as values and as errors."""

from __future__ import annotations

import pickle
from dataclasses import fields
from typing import Any

import msgspec
import pytest

from tai_state import TaiStateError
from tai_state.errors import (
    InvalidDefinition,
    InvalidTransition,
    InvariantViolation,
    PreconditionFailed,
    Rejected,
    TransitionRefused,
)
from tai_state.machines import Command, Invariant, ProofObligation, Refusal, Severity, StateMachine, define

from ..support.machine_kit import NODE, Node, node

GO = Command("go")
CALM = Invariant[Node, None]("calm", "the node is calm", Severity.High, lambda _: False)
QUORUM = ProofObligation[Node, None]("a quorum", lambda _: "one node is missing")

TEXTS: dict[str, tuple[Any, Node, type[TransitionRefused], str]] = {
    "a rule": (
        NODE,
        Node.Ready,
        InvalidTransition,
        "invalid transition from Ready to Ready: Transition rule 'DegradedToReady' failed (rule 'DegradedToReady')",
    ),
    "an obligation": (
        node(obligations=[QUORUM]),
        Node.Computing,
        PreconditionFailed,
        "precondition failed for the step from Ready to Computing: one node is missing (rule 'a quorum')",
    ),
    "an invariant": (
        node(invariants=[CALM]),
        Node.Computing,
        InvariantViolation,
        "invariant broken by the step from Ready to Computing: calm: the node is calm (rule 'calm')",
    ),
}
"""What refuses a step, and the middle of the error's text: the machine stands before it, what is allowed behind it."""


@pytest.mark.parametrize("what", TEXTS)
def test_a_refusal_names_the_step_the_reason_the_rule_and_what_would_be_allowed(what: str):
    """The error's fields are those of the refusal, with the machine's name, and its text says all of them."""
    definition, state, kind, text = TEXTS[what]
    machine = StateMachine(definition)
    refusal = machine.can_transition_to(state)
    with pytest.raises(kind) as raised:
        machine.transition_to(state, GO)
    error = raised.value
    assert str(error) == f"node: {text}; allowed: Computing, Degraded, Failed"
    assert isinstance(refusal, Refusal)
    said = (refusal.from_state, refusal.to_state, refusal.rule, refusal.reason, refusal.allowed)
    assert (error.from_state, error.to_state, error.rule, error.reason, error.allowed) == said
    assert str(refusal.to_error("governors/g/states/s")) == str(error).replace("node", "governors/g/states/s", 1)
    assert type(error) is refusal.error is kind


@pytest.mark.parametrize("kind", [InvalidTransition, PreconditionFailed, InvariantViolation])
def test_refusals_are_one_family_of_errors_that_survive_pickling(kind: type[TransitionRefused]):
    """Each kind can be caught as one, says to the command line that it is a conflict, and comes through a pickle."""
    error = kind("node", "Ready", "Committing", "rule", "reason", ("Computing",))
    assert isinstance(error, TransitionRefused)
    assert isinstance(error, TaiStateError)
    assert (error.exit_code, error.is_transient) == (3, False)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.fields()) == (kind, str(error), error.fields())
    assert [*error.fields()] == ["machine", "from_state", "to_state", "rule", "reason", "allowed"]
    msgspec.json.encode(error.fields())


def test_a_refusal_without_target_rule_or_exit_reads_well():
    """What is not known is left out of the text, and no exit at all is said."""
    error = InvalidTransition("node", "Failed", "", "", "it is final", ())
    assert str(error) == "node: invalid transition from Failed: it is final; allowed: nothing"


def test_an_invalid_definition_is_rejected_input():
    """The error names the definition and what is wrong with it, and survives a pickle."""
    with pytest.raises(InvalidDefinition) as raised:
        define("node", Node, initial=Node.Ready, rules=[])
    error = raised.value
    assert isinstance(error, Rejected)
    assert (error.path, error.exit_code, [each.name for each in fields(error)]) == ("node", 2, ["path", "what"])
    assert str(error) == (
        "the definition 'node' is not valid: no start leads to Computing, Committing, Degraded, Failed: "
        "add a rule, or declare it in `unreached`"
    )
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_verdict_is_true_or_false():
    """A step is true and a refusal false, so asking reads as a question."""
    machine = StateMachine(NODE)
    assert machine.can_transition_to(Node.Computing)
    assert not machine.can_transition_to(Node.Committing)
    assert machine.transition_history == StateMachine.transition_history.fget(machine)  # type: ignore[attr-defined]
    assert len(machine.transition_history) == 1
