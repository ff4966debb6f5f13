"""A machine in memory: its history, epochs, times, forced steps and logs."""

from __future__ import annotations

import logging
import sys
import threading
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from tai_state import InvalidData
from tai_state.errors import InvalidTransition, PreconditionFailed
from tai_state.machines import (
    Command,
    CustomViolation,
    Event,
    Invariant,
    MultipleCoordinators,
    ProofObligation,
    Severity,
    StateMachine,
    StepKind,
    allow,
)

from ..support.machine_kit import NODE, ORDER, Lamp, Node, Open, Order, Paid, Times, node

GO = Command("go")
ROUND = (Node.Computing, Node.Committing, Node.Ready)


def test_a_machine_begins_with_its_initialization():
    """The first record is the initialization: from the state to itself, in epoch 0, taking no time."""
    times = Times()
    machine = StateMachine(NODE, clock=times)
    [record] = machine.transition_history
    assert (record.id, record.from_state, record.to_state, record.epoch) == (0, Node.Ready, Node.Ready, 0)
    assert (record.trigger, record.kind, record.duration_us) == (Event("Initialization"), StepKind.INITIALIZE, 0)
    assert (record.timestamp_ns, record.wall_time) == (times.ns, times.now())
    assert (machine.current_state, machine.epoch, machine.context) == (Node.Ready, 0, None)
    assert repr(machine) == "<StateMachine 'node' in Ready, epoch 0>"


def test_a_machine_begins_where_its_definition_lets_it():
    """A machine begins in the initial state, or in another one of the starts, and in no other."""
    definition = node(starts=[Node.Degraded])
    assert StateMachine(definition, initial=Node.Degraded).current_state is Node.Degraded
    with pytest.raises(InvalidData, match="does not begin in Computing, but in Ready, Degraded"):
        StateMachine(definition, initial=Node.Computing)


def test_a_record_is_shown_as_the_original_shows_it():
    """The text of a record has the time, both states, the trigger and the duration."""
    times = Times()
    machine = StateMachine(NODE, clock=times)
    times.ns += 61_007_000_000
    record = machine.transition_to(Node.Computing, GO)
    assert str(record) == "[12:01:06.007] Ready → Computing (Command: go) [0µs]"
    assert str(
        StateMachine(ORDER, context=Order(), clock=times).force_state(Paid(receipt="secret"), "paid in cash")
    ) == ("[12:01:06.007] Open → Paid (Command: paid in cash) [0µs]")


def test_a_record_says_how_long_judging_took():
    """The duration is the time from the request to the step, and the timestamp is the end of it."""
    times = Times()

    def slow(_: object) -> bool:
        times.ns += 1_234_567
        return True

    machine = StateMachine(node(obligations=[ProofObligation("slow", slow)]), clock=times)
    record = machine.transition_to(Node.Computing, GO)
    assert (record.duration_us, record.timestamp_ns) == (1234, times.ns)
    assert str(record).endswith("[1234µs]")


def test_time_in_a_state_counts_from_entering_it():
    """The time in a state begins anew with each step, also one to the same state, and not with a refused one."""
    times = Times()
    machine = StateMachine(node([allow(Node.Computing, Node.Computing)]), clock=times)
    times.ns += 1_500_000_000
    assert machine.time_in_current_state() == timedelta(seconds=1.5)
    machine.transition_to(Node.Computing, GO)
    assert machine.time_in_current_state() == timedelta(0)
    times.ns += 2_000
    with pytest.raises(InvalidTransition):
        machine.transition_to(Node.Ready, GO)
    assert machine.time_in_current_state() == timedelta(microseconds=2)
    machine.transition_to(Node.Computing, GO)
    assert machine.time_in_current_state() == timedelta(0)


def test_history_is_bounded_and_ids_never_repeat():
    """A history keeps the newest records, a hundred unless told otherwise, and numbers go on for ever."""
    machine, short = StateMachine(NODE), StateMachine(NODE, history_limit=2)
    for number in range(240):
        record = machine.transition_to(ROUND[number % 3], GO)
        short.transition_to(ROUND[number % 3], GO)
        assert record.id == number + 1
    assert [each.id for each in machine.transition_history] == [*range(141, 241)]
    assert [each.id for each in short.transition_history] == [239, 240]
    assert machine.transition_history[-1].epoch == 79


@pytest.mark.parametrize(("limit", "error"), [(0, ValueError), (-1, ValueError), ("5", TypeError), (True, TypeError)])
def test_a_history_keeps_at_least_one_record(limit: Any, error: type[Exception]):
    """A limit that is no whole number from 1 up is refused."""
    with pytest.raises(error, match="history_limit"):
        StateMachine(NODE, history_limit=limit)


def test_epochs_advance_on_the_declared_edge_only():
    """Only the step of a rule that says so begins an epoch, and its record is still of the epoch before."""
    machine = StateMachine(NODE)
    epochs = []
    for state in (*ROUND, *ROUND, Node.Degraded, Node.Ready):
        record = machine.transition_to(state, GO)
        epochs.append((record.epoch, machine.epoch))
    assert epochs == [(0, 0), (0, 0), (0, 1), (1, 1), (1, 1), (1, 2), (2, 2), (2, 2)]


def test_increment_epoch_gives_the_epoch_and_refuses_elsewhere():
    """After a step that began an epoch it says the epoch, as often as it is asked, and it never moves it."""
    machine = StateMachine(NODE)
    refused = 0
    for state in (None, *ROUND):
        if state is not None:
            machine.transition_to(state, GO)
        if state is not Node.Ready:
            with pytest.raises(PreconditionFailed, match="the last step did not begin an epoch") as raised:
                machine.increment_epoch()
            assert raised.value.allowed == NODE.allowed(machine.current_state)
            refused += 1
    assert refused == 3
    assert [machine.increment_epoch(), machine.increment_epoch(), machine.epoch] == [1, 1, 1]
    machine.force_state(Node.Ready, "again")
    with pytest.raises(PreconditionFailed):
        machine.increment_epoch()


def test_a_forced_step_leaves_even_a_terminal_state_and_names_what_it_breaks():
    """Forcing asks neither rules nor obligations, keeps the epoch, and records the invariants that it breaks."""
    invariants = [
        Invariant("calm", "the node is calm", Severity.Info, lambda machine: machine.state is not Node.Computing),
        Invariant(
            "one", "one at once", Severity.High, lambda machine: MultipleCoordinators(2) if machine.epoch else True
        ),
        Invariant("well", "it works", Severity.High, lambda machine: machine.nobody),  # type: ignore[attr-defined]
    ]
    never = ProofObligation[Node, None]("never", lambda _: False)
    machine = StateMachine(node(obligations=[never], invariants=invariants), initial=Node.Ready)
    machine.force_state(Node.Failed, "broken")
    record = machine.force_state(Node.Computing, "repaired by hand")
    assert (record.from_state, record.to_state, record.kind) == (Node.Failed, Node.Computing, StepKind.FORCE)
    assert (record.trigger, record.epoch, record.id) == (Command("repaired by hand"), 0, 2)
    calm, well = record.violations
    assert calm == CustomViolation("calm", "the node is calm")
    assert str(well).startswith("well: AttributeError")
    assert machine.transition_history[-1] is record
    assert machine.time_in_current_state() >= timedelta(0)


@pytest.mark.parametrize("reason", [None, 5, "\ud800"], ids=repr)
def test_a_forced_step_needs_a_reason(reason: Any):
    """A reason that is no text is refused, and nothing is forced."""
    machine = StateMachine(NODE)
    with pytest.raises(InvalidData, match="reason"):
        machine.force_state(Node.Failed, reason)
    assert machine.current_state is Node.Ready


def test_a_refused_step_changes_nothing():
    """After a refusal the state, the epoch, the history and its numbers are as before."""
    machine = StateMachine(NODE)
    machine.transition_to(Node.Computing, GO)
    before = machine.transition_history
    for _ in range(3):
        with pytest.raises(InvalidTransition):
            machine.transition_to(Node.Ready, GO)
    assert (machine.current_state, machine.transition_history) == (Node.Computing, before)
    assert machine.transition_to(Node.Committing, GO).id == 2


def test_what_an_update_raises_goes_through_and_changes_nothing():
    """A mistake in an update is the caller's to see, and the machine stays where it is."""
    machine = StateMachine(NODE)
    with pytest.raises(ZeroDivisionError):
        machine.transition_to(Node.Computing, GO, update=lambda _: 1 // 0)  # type: ignore[arg-type, return-value]
    assert (machine.current_state, len(machine.transition_history)) == (Node.Ready, 1)


def test_steps_are_logged():
    """A step is logged as information, a refusal and a forced step as warnings, each with the machine's name."""
    heard: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = heard.append  # type: ignore[method-assign]
    logger = logging.getLogger("tai_state.machines")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        machine = StateMachine(NODE, clock=Times())
        machine.transition_to(Node.Computing, GO)
        with pytest.raises(InvalidTransition):
            machine.transition_to(Node.Ready, GO)
        machine.force_state(Node.Ready, "by hand")
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    time, why = "[12:00:05.000]", "skips the commitment (rule 'NoComputingToReady')"
    assert [(each.levelname, each.getMessage()) for each in heard] == [
        ("INFO", f"node: {time} Ready → Computing (Command: go) [0µs]"),
        (
            "WARNING",
            f"node: invalid transition from Computing to Ready: {why}; allowed: Committing, Degraded, Failed",
        ),
        ("WARNING", f"node: forced {time} Computing → Ready (Command: by hand) [0µs]"),
    ]
    assert {each.machine for each in heard} == {"node"}  # type: ignore[attr-defined]


def test_threads_take_one_step_after_the_other():
    """Of many threads that ask for the same step one takes it, and the history has each step once."""
    machine = StateMachine(NODE, history_limit=1_000)
    taken: list[int] = []
    gate = threading.Barrier(8)

    def work() -> None:
        gate.wait()
        for number in range(90):
            try:
                taken.append(machine.transition_to(ROUND[number % 3], GO).id)
            except InvalidTransition:
                machine.transition_history  # noqa: B018

    threads = [threading.Thread(target=work) for _ in range(8)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that a step that is not alone is overtaken
    try:
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    finally:
        sys.setswitchinterval(interval)
    history = machine.transition_history
    assert sorted(taken) == [*range(1, len(taken) + 1)]
    assert [each.id for each in history] == [*range(len(taken) + 1)]
    assert all(one.to_state is two.from_state for one, two in pairwise(history))


def test_a_function_that_changes_the_machine_it_judges_is_refused():
    """A guard that takes a step of its own neither waits for ever, nor has its step undone by the one it judges."""
    machine: StateMachine[Node, None]
    rule = allow(Node.Ready, Node.Committing, guard=lambda _: bool(machine.force_state(Node.Degraded, "from inside")))
    machine = StateMachine(node([rule]))
    with pytest.raises(RuntimeError, match="changed the machine that it was to judge"):
        machine.transition_to(Node.Committing, GO)
    assert machine.current_state is Node.Degraded
    assert [each.id for each in machine.transition_history] == [0, 1]


def test_the_clock_of_the_computer_is_the_default():
    """Without a clock of its own, a machine goes by this computer's, in UTC."""
    machine = StateMachine(NODE)
    record = machine.transition_to(Node.Computing, GO)
    assert timedelta(0) <= datetime.now(UTC) - record.wall_time < timedelta(minutes=1)
    assert timedelta(0) <= machine.time_in_current_state() < timedelta(minutes=1)
    first, second = machine.transition_history
    assert first.timestamp_ns <= second.timestamp_ns


WRONG_STARTS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "context where none is kept": (NODE, {"context": {"a": 1}}, "needs no context"),
    "no context": (ORDER, {}, "needs a context, a Order"),
    "another context": (ORDER, {"context": {"total": 1}}, "is a Order, not"),
    "its class": (ORDER, {"context": Order}, "is a Order, not"),
    "another machine's state": (NODE, {"initial": Lamp.Ready}, "is not a state"),
    "a class": (ORDER, {"initial": Open, "context": Order()}, "is not a state"),
    "no definition": (Node, {}, "definition must be what define"),
}


@pytest.mark.parametrize("what", WRONG_STARTS)
def test_a_machine_that_cannot_begin_so_is_refused(what: str):
    """A machine needs a definition, and the context and the state of that definition."""
    definition, options, message = WRONG_STARTS[what]
    with pytest.raises(InvalidData, match=message):
        StateMachine(definition, **options)
