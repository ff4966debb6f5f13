"""Rules: what they say of a step, how they are named, and what they must be made of."""

from __future__ import annotations

from typing import Any

import pytest

from tai_state.errors import InvalidTransition
from tai_state.machines import (
    ANY_STATE,
    Command,
    MachineEvent,
    Refusal,
    Rule,
    StateMachine,
    StepKind,
    allow,
    define,
    forbid,
    time_out,
)

from ..support.machine_kit import NODE, Closed, Lamp, Node, Open, Paid, node

GO = Command("go")
READY, COMPUTING, COMMITTING, DEGRADED, FAILED = Node


def _at(state: Node, rules: tuple[Rule[Node, Any], ...] = ()) -> StateMachine[Node, None]:
    machine = StateMachine(node(rules))
    machine.force_state(state, "for the test")
    return machine


def _refusal(machine: StateMachine[Node, None], state: Node) -> Refusal:
    found = machine.can_transition_to(state)
    assert isinstance(found, Refusal)
    assert not found
    return found


def test_a_rule_by_itself_says_which_steps_are_valid():
    """A rule that allows is valid for its steps alone, and one that forbids for all others."""
    yes, no = allow([READY, COMPUTING], DEGRADED, reason="why"), forbid(ANY_STATE, READY, "never", unless_from=[FAILED])
    assert [yes.is_valid(each, DEGRADED) for each in Node] == [True, True, False, False, False]
    assert [yes.is_valid(READY, each) for each in Node] == [False, False, False, True, False]
    assert [no.is_valid(each, READY) for each in Node] == [False, False, False, False, True]
    assert no.is_valid(READY, FAILED)


def test_a_rule_says_why_a_step_is_not_valid():
    """The reason of a rule is said of steps that are not valid by it, and there is none where none was given."""
    rule = allow(READY, COMPUTING, reason="begins when ready")
    assert rule.invalid_reason(DEGRADED, COMPUTING) == "begins when ready"
    assert rule.invalid_reason(READY, COMPUTING) is None
    assert allow(READY, COMPUTING).invalid_reason(DEGRADED, COMPUTING) is None
    assert forbid(READY, COMPUTING, "never").invalid_reason(READY, COMPUTING) == "never"


def test_rules_have_names():
    """A rule is named after its states, unless it is given a name."""
    rules = [
        allow(READY, COMPUTING),
        allow([READY, COMPUTING], [DEGRADED, FAILED]),
        allow(ANY_STATE, FAILED),
        allow(READY, FAILED, on=MachineEvent("crash")),
        allow(Open, Paid),
        allow(READY, FAILED, name="mine"),
        forbid(COMPUTING, READY, "never"),
        forbid(FAILED, ANY_STATE, "never"),
        time_out(Open, Closed, seconds=1),
    ]
    assert [each.name for each in rules] == [
        "ReadyToComputing",
        "ReadyOrComputingToDegradedOrFailed",
        "AnyToFailed",
        "ReadyToFailed on crash",
        "OpenToPaid",
        "mine",
        "NoComputingToReady",
        "NoFailedToAny",
        "OpenToClosed in time",
    ]
    assert rules[-1].timeout_ms == 1000
    assert repr(ANY_STATE) == "ANY_STATE"


def test_a_step_needs_one_rule_that_allows_it():
    """Edges are any-of: one rule that allows a step is enough, whatever the others say."""
    step = StateMachine(NODE).can_transition_to(COMPUTING)
    assert step
    assert not isinstance(step, Refusal)
    assert (step.kind, step.rule, step.violations) == (StepKind.TRANSITION, NODE.rules[0], ())
    assert (step.before.state, step.after.state) == (READY, COMPUTING)


def test_a_rule_that_forbids_outweighs_any_that_allows():
    """A step that a rule forbids is refused with its reason, although another one allows it."""
    machine = StateMachine(node([forbid(DEGRADED, FAILED, "must recover first", name="Recover")]))
    machine.transition_to(DEGRADED, GO)
    found = _refusal(machine, FAILED)
    assert (found.rule, found.reason, found.allowed) == ("Recover", "must recover first", ("Ready",))
    assert "Failed" in NODE.allowed(DEGRADED)


def test_a_terminal_state_is_final():
    """No step leaves a terminal state, not even one to itself that a rule from any state seems to allow."""
    machine = _at(FAILED)
    for state in Node:
        found = _refusal(machine, state)
        assert (found.reason, found.allowed) == ("Failed is final, and no step leaves it", ())
    assert NODE.allowed(FAILED) == ()


def test_a_rule_from_any_state_covers_its_target_too():
    """A rule from any state allows the step from its target to itself, if this is not terminal."""
    assert _at(DEGRADED, (allow(ANY_STATE, DEGRADED),)).can_transition_to(DEGRADED)
    assert not _at(DEGRADED).can_transition_to(DEGRADED)


def test_a_refusal_gives_the_reason_of_a_rule_that_leads_there():
    """Where no rule allows a step, a rule that leads to the state says why: its reason, or the original's text."""
    found = _refusal(_at(DEGRADED), COMPUTING)
    assert (found.rule, found.reason) == ("ReadyToComputing", "work begins when the node is ready")
    found = _refusal(_at(READY), COMMITTING)
    assert (found.rule, found.reason) == ("ComputingToCommitting", "Transition rule 'ComputingToCommitting' failed")
    assert (found.error, found.from_state, found.to_state) == (InvalidTransition, "Ready", "Committing")
    assert found.allowed == ("Computing", "Degraded", "Failed")


def test_a_refusal_says_that_nothing_leads_there():
    """A state that no rule leads to is refused with that reason."""
    lonely = [allow(Lamp.Ready, Lamp.Ready)]
    lamp = define("lamp", Lamp, initial=Lamp.Ready, rules=lonely, dead_ends=[*Lamp], unreached=[Lamp.Lit])
    found = StateMachine(lamp).can_transition_to(Lamp.Lit)
    assert isinstance(found, Refusal)
    assert (found.rule, found.reason) == ("", "no rule leads there")


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (allow(COMMITTING, DEGRADED, on=MachineEvent("load", int)), "only the event 'load' leads there"),
        (time_out(COMMITTING, DEGRADED, seconds=5), "only a timer leads there"),
    ],
    ids=["event", "timer"],
)
def test_what_an_event_or_a_timer_takes_cannot_be_asked_for(rule: Rule[Node, Any], reason: str):
    """A step that needs a payload or a timer is refused if it is asked for, and the refusal says what takes it."""
    machine = _at(COMMITTING, (rule,))
    found = _refusal(machine, DEGRADED)
    assert (found.rule, found.reason) == (rule.name, reason)
    assert "Degraded" in found.allowed


def test_the_first_rule_whose_guard_holds_takes_the_step():
    """Rules for one step are asked in their order, and the refusal is of the first one if none holds."""
    asked: list[str] = []

    def guard(name: str, *, holds: bool) -> Any:
        return lambda _: asked.append(name) or holds or f"{name} says no"  # type: ignore[func-returns-value]

    none = tuple(allow(READY, COMMITTING, name=each, guard=guard(each, holds=False)) for each in "ab")
    found = _refusal(_at(READY, none), COMMITTING)
    assert (found.rule, found.reason, asked) == ("a", "a says no", ["a", "b"])
    asked.clear()
    some = (*none, allow(READY, COMMITTING, name="c", guard=guard("c", holds=True), advances_epoch=True))
    step = _at(READY, (*some, allow(READY, COMMITTING, name="d"))).can_transition_to(COMMITTING)
    assert not isinstance(step, Refusal)
    assert step.rule is not None
    assert (step.rule.name, step.after.epoch, asked) == ("c", 1, ["a", "b", "c"])


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (True, None),
        (False, "Transition rule 'try' failed"),
        ("not today", "not today"),
        ("", "Transition rule 'try' failed"),
        (1, "it answered 1, neither True nor False nor a reason"),
        (None, "it answered None, neither True nor False nor a reason"),
    ],
    ids=repr,
)
def test_a_guard_answers_true_or_why_not(answer: Any, reason: str | None):
    """Only True lets a step pass, so a guard that forgets to return refuses."""
    rule = allow(READY, COMMITTING, name="try", guard=lambda _: answer)
    found = _at(READY, (rule,)).can_transition_to(COMMITTING)
    assert bool(found) is (reason is None)
    assert getattr(found, "reason", None) == reason


def test_a_guard_that_raises_refuses_and_what_it_raised_is_kept():
    """What a guard raises becomes the reason of the refusal, and the cause of the error."""
    rule = allow(READY, COMMITTING, name="try", guard=lambda step: step.metadata["nobody"])  # type: ignore[arg-type, return-value]
    machine = StateMachine(node([rule]))
    with pytest.raises(InvalidTransition, match="KeyError: 'nobody'") as raised:
        machine.transition_to(COMMITTING, GO)
    assert isinstance(raised.value.__cause__, KeyError)
    assert (raised.value.rule, machine.current_state) == ("try", READY)


def test_a_guard_sees_the_step():
    """A guard sees both states, the epoch, the trigger and the caller's facts."""
    seen: list[Any] = []
    rule = allow(READY, COMMITTING, guard=lambda step: seen.append(step) or True)  # type: ignore[func-returns-value]
    machine = StateMachine(node([rule]))
    machine.transition_to(COMMITTING, GO, metadata={"votes": "3"})
    machine.transition_to(READY, GO)
    machine.transition_to(COMMITTING, GO)
    first, last = seen
    assert (first.from_state, first.to_state, first.epoch, first.trigger) == (READY, COMMITTING, 0, GO)
    assert (first.get_metadata("votes"), first.get_metadata("nobody"), first.context) == ("3", None, None)
    assert last.epoch == 1
    more = first.with_metadata("vetoes", "0")
    assert ({**more.metadata}, {**first.metadata}) == ({"votes": "3", "vetoes": "0"}, {"votes": "3"})


WRONG: dict[str, tuple[Any, type[Exception]]] = {
    "names": (lambda: allow("ready", "computing"), TypeError),
    "none": (lambda: allow([], COMPUTING), ValueError),
    "no target": (lambda: allow(READY, []), ValueError),
    "to any": (lambda: allow(READY, ANY_STATE), TypeError),
    "the enum": (lambda: allow(Node, READY), TypeError),
    "a set": (lambda: allow({READY}, COMPUTING), TypeError),
    "an instance": (lambda: allow(Paid(receipt="x"), Closed), TypeError),
    "unless": (lambda: forbid(ANY_STATE, READY, "no", unless_from=["Failed"]), TypeError),
    "time-out of several": (lambda: time_out([READY, COMPUTING], FAILED, seconds=1), TypeError),
    "time-out of any": (lambda: time_out(ANY_STATE, FAILED, seconds=1), TypeError),
    "time-out to any": (lambda: time_out(READY, ANY_STATE, seconds=1), TypeError),
    "negative": (lambda: time_out(READY, FAILED, seconds=-1), ValueError),
    "no number": (lambda: time_out(READY, FAILED, seconds="1"), TypeError),
    "never": (lambda: time_out(READY, FAILED, seconds=float("nan")), ValueError),
    "effects in one text": (lambda: allow(READY, FAILED, effects="charge"), TypeError),
    "effects that are none": (lambda: time_out(READY, FAILED, seconds=1, effects=None), TypeError),
    "unknown option": (lambda: allow(READY, FAILED, gaurd=bool), TypeError),
    "no name": (lambda: MachineEvent(""), TypeError),
    "a number": (lambda: MachineEvent(5), TypeError),  # type: ignore[call-overload]
    "no class": (lambda: MachineEvent("pay", 5), TypeError),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("what", WRONG)
def test_what_a_rule_cannot_mean_is_refused_where_it_is_made(what: str):
    """Rules and events that are made of something else are refused at once."""
    make, error = WRONG[what]
    with pytest.raises(error) as raised:
        make()
    assert "object has no attribute" not in str(raised.value)


def test_events_are_shown():
    """An event is shown by its name and its payload."""
    assert [repr(MachineEvent("pay", int)), repr(MachineEvent("stop"))] == [
        "MachineEvent('pay', int)",
        "MachineEvent('stop')",
    ]
