"""Obligations and invariants: what must be proven before a step, and what holds after it."""

from __future__ import annotations

from typing import Any

import pytest

from tai_state.errors import InvariantViolation, PreconditionFailed
from tai_state.machines import (
    Command,
    CustomViolation,
    EpochSkew,
    IncompleteAssignment,
    Invariant,
    MultipleCoordinators,
    OverlappingAssignment,
    Present,
    ProofObligation,
    QuorumLost,
    Refusal,
    Severity,
    StateMachine,
    VerticalIncoherence,
    allow,
)

from ..support.machine_kit import NODE, Node, node

GO = Command("go")


def test_every_obligation_must_be_proven():
    """Obligations are all-of: the first one that is not proven refuses the step, by its description."""
    asked: list[str] = []
    obligations = [
        ProofObligation(each, lambda _, each=each: asked.append(each) or each != "b")  # type: ignore[misc]
        for each in "abc"
    ]
    machine = StateMachine(node(obligations=obligations))
    with pytest.raises(PreconditionFailed) as raised:
        machine.transition_to(Node.Computing, GO)
    error = raised.value
    assert (error.rule, error.reason, asked) == ("b", "not proven: b", ["a", "b"])
    assert (error.machine, error.from_state, error.to_state) == ("node", "Ready", "Computing")
    assert error.allowed == NODE.allowed(Node.Ready)
    assert machine.current_state is Node.Ready
    assert len(machine.transition_history) == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (True, None),
        (False, "not proven: a quorum"),
        ("two nodes are missing", "two nodes are missing"),
        ("", "not proven: a quorum"),
        (1, "it answered 1, neither True nor False nor a reason"),
        (None, "it answered None, neither True nor False nor a reason"),
    ],
    ids=repr,
)
def test_an_obligation_answers_true_or_why_not(answer: Any, reason: str | None):
    """Only True proves an obligation, so one that forgets to return refuses."""
    found = StateMachine(node(obligations=[ProofObligation("a quorum", lambda _: answer)])).can_transition_to(
        Node.Computing
    )
    assert bool(found) is (reason is None)
    assert getattr(found, "reason", None) == reason


def test_an_obligation_that_raises_refuses_and_what_it_raised_is_kept():
    """What an obligation raises becomes the reason of the refusal, and the cause of the error."""
    machine = StateMachine(node(obligations=[ProofObligation("a quorum", lambda step: 1 // step.epoch == 1)]))
    with pytest.raises(PreconditionFailed, match="ZeroDivisionError: integer division") as raised:
        machine.transition_to(Node.Computing, GO)
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    assert (raised.value.rule, machine.current_state) == ("a quorum", Node.Ready)


def test_an_obligation_is_asked_only_where_a_rule_allows_the_step():
    """Rules are judged first, so an obligation need not think of steps that are forbidden."""

    def never(_: object) -> bool:
        raise AssertionError("it was asked")

    found = StateMachine(node(obligations=[ProofObligation("x", never)])).can_transition_to(Node.Committing)
    assert isinstance(found, Refusal)
    assert "it was asked" not in found.reason


def test_an_obligation_sees_the_step_and_the_callers_facts():
    """The facts that a caller gives reach the obligation, also when the step is only asked about."""
    needs = ProofObligation[Node, None]("votes", lambda step: step.get_metadata("votes") == "3")
    machine = StateMachine(node(obligations=[needs]))
    assert not machine.can_transition_to(Node.Computing)
    assert machine.can_transition_to(Node.Computing, metadata={"votes": "3"})
    machine.transition_to(Node.Computing, GO, metadata={"votes": "3"})
    with pytest.raises(PreconditionFailed):
        machine.transition_to(Node.Committing, GO, metadata={"votes": "2"})


def _invariant(check: Any) -> Invariant[Node, None]:
    return Invariant("calm", "the node is calm", Severity.Info, check)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (True, None),
        (False, "calm: the node is calm"),
        (QuorumLost(1, 2), "1 nodes work, and 2 are required"),
        (None, "calm: it answered None, neither True nor False nor a violation"),
        ("no", "calm: it answered 'no', neither True nor False nor a violation"),
        (1, "calm: it answered 1, neither True nor False nor a violation"),
    ],
    ids=repr,
)
def test_an_invariant_answers_true_or_what_is_broken(answer: Any, reason: str | None):
    """Only True keeps an invariant, so one that forgets to return refuses, however mild it is."""
    machine = StateMachine(node(invariants=[_invariant(lambda _: answer)]))
    found = machine.can_transition_to(Node.Computing)
    assert bool(found) is (reason is None)
    assert getattr(found, "reason", None) == reason
    if reason is not None:
        with pytest.raises(InvariantViolation, match=reason) as raised:
            machine.transition_to(Node.Computing, GO)
        assert (raised.value.rule, raised.value.allowed) == ("calm", NODE.allowed(Node.Ready))
        assert machine.current_state is Node.Ready


def test_an_invariant_that_raises_is_broken():
    """What an invariant raises stands in the refusal."""
    machine = StateMachine(node(invariants=[_invariant(lambda machine: machine.nobody)]))
    with pytest.raises(InvariantViolation, match=r"calm: AttributeError: .*nobody"):
        machine.transition_to(Node.Computing, GO)


def test_an_invariant_sees_the_machine_after_the_step():
    """An invariant is asked of the state, the data and the epoch that the step would lead to."""
    seen: list[Present[Node, None]] = []
    machine = StateMachine(node(invariants=[_invariant(lambda machine: seen.append(machine) or True)]))
    for state in (Node.Computing, Node.Committing, Node.Ready):
        machine.transition_to(state, GO)
    assert seen == [Present(Node.Computing, None), Present(Node.Committing, None), Present(Node.Ready, None, 1)]


def test_invariants_are_asked_after_obligations_and_only_the_first_broken_one_is_told():
    """An unproven obligation comes before a broken invariant, and of two broken invariants the first is named."""
    two = [Invariant(each, each, Severity.Critical, lambda _: False) for each in ("one", "two")]
    machine = StateMachine(node(invariants=two))
    with pytest.raises(InvariantViolation) as raised:
        machine.transition_to(Node.Computing, GO)
    assert raised.value.rule == "one"
    no = ProofObligation[Node, None]("no", lambda _: False)
    with pytest.raises(PreconditionFailed):
        StateMachine(node(invariants=two, obligations=[no])).transition_to(Node.Computing, GO)


def test_the_violations_are_the_originals_and_say_what_is_wrong():
    """Each kind of violation has the original's fields, and a text."""
    texts = {
        MultipleCoordinators(2): "2 coordinators work at once",
        QuorumLost(operational=1, required=3): "1 nodes work, and 3 are required",
        EpochSkew(min=1, max=9): "epochs range from 1 to 9",
        IncompleteAssignment(assigned=3, total=4): "3 of 4 are assigned",
        OverlappingAssignment(layer_id=7): "layer 7 is assigned more than once",
        VerticalIncoherence("Ready", "Worker", "w1", "Computing"): ("Worker w1 is Computing while the system is Ready"),
        CustomViolation("n", "d"): "n: d",
    }
    assert {each: str(each) for each in texts} == texts
    assert [each.name for each in sorted(Severity)] == ["Info", "Warning", "High", "Critical"]


def test_a_rule_whose_guard_fails_leads_to_no_obligation():
    """Obligations are asked of the step that is taken, once, whatever rules were tried before."""
    asked: list[Any] = []
    rules = [allow(Node.Ready, Node.Committing, name=each, guard=lambda _: False) for each in "ab"]
    rules += [allow(Node.Ready, Node.Committing, name="c")]
    counting = ProofObligation[Node, None]("x", lambda step: asked.append(step) or True)  # type: ignore[func-returns-value]
    StateMachine(node(rules, obligations=[counting])).transition_to(Node.Committing, GO)
    assert len(asked) == 1
