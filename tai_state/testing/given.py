"""Given, when, then: tests of one step of a machine, without a store and without a clock.

::

    def test_what_is_not_paid_is_not_shipped():
        given(ORDER, Order.Placed, context=Cart(cents=500)).when(Order.Shipped).then_refused("not paid")

    def test_an_order_is_paid_and_shipped():
        placed = given(ORDER, Order.Placed, context=Cart(cents=500))
        paid = placed.when_fired(PAY, Payment(cents=500)).then(Order.Paid, context=Cart(cents=500, paid=500))
        paid.when(Order.Shipped).then(Order.Shipped)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, TypeVar, overload

from tai_state.errors import TransitionRefused
from tai_state.machines.checks import NO_FACTS, check_context, check_definition, check_payload, check_state
from tai_state.machines.contexts import C, P, Present
from tai_state.machines.definition import Definition
from tai_state.machines.events import MachineEvent
from tai_state.machines.judging import Refusal, Verdict, judge_event, judge_step, judge_time_out
from tai_state.machines.states import MachineState, S
from tai_state.machines.triggers import Command, Trigger, check_trigger
from tai_state.values.checks import whole_option

T = TypeVar("T", bound=MachineState)

_ASKED: Final = Command("test")
_ANY: Final[Any] = object()
"""What a test says nothing of."""


class Given(Generic[S, C]):
    """A machine as a test takes it to be. Made by :func:`given`.

    Attributes:
        definition: what decides on its steps.
        present: its state, context and epoch.
    """

    def __init__(self, definition: Definition[S, C], present: Present[S, C]) -> None:
        self.definition: Definition[S, C] = definition
        self.present: Present[S, C] = present

    def __repr__(self) -> str:
        present = self.present
        context = "" if present.context is None else f" with {present.context!r}"
        return f"{self.definition.name} in {present.state!r}, epoch {present.epoch}{context}"

    def when(
        self,
        new_state: S,
        trigger: Trigger = _ASKED,
        *,
        metadata: Mapping[str, str] = NO_FACTS,
        update: Callable[[C], C] | None = None,
    ) -> Outcome[S, C]:
        """Ask for a step; the arguments are those of ``StateMachine.transition_to``.

        Raises:
            InvalidData: it is not a state of the definition, or not a trigger.
        """
        check_trigger(trigger)
        verdict = judge_step(self.definition, self.present, new_state, trigger, metadata, update)
        return Outcome(self, f"the step to {new_state!r}", verdict)

    def when_fired(
        self, event: MachineEvent[P], payload: P, *, metadata: Mapping[str, str] = NO_FACTS
    ) -> Outcome[S, C]:
        """Fire an event; the arguments are those of ``StateMachine.fire``.

        Raises:
            InvalidData: the payload is not one of the event.
        """
        check_payload(event, payload)
        verdict = judge_event(self.definition, self.present, event.name, payload, metadata)
        return Outcome(self, f"the event {event.name!r}", verdict)

    def when_timed_out(self) -> Outcome[S, C]:
        """Let the time of its state run out."""
        return Outcome(self, "the time-out", judge_time_out(self.definition, self.present, NO_FACTS))


class Outcome(Generic[S, C]):
    """What became of a step that a test asked for.

    Attributes:
        verdict: the step, or why it is refused.
    """

    def __init__(self, before: Given[S, C], asked: str, verdict: Verdict[S, C]) -> None:
        self.verdict: Verdict[S, C] = verdict
        self._before = before
        self._asked = asked

    def then(self, state: S, *, context: C = _ANY, epoch: int = _ANY) -> Given[S, C]:
        """Assert that the step was taken.

        Args:
            state: the state after it, with its data.
            context: the context after it; by default, anything.
            epoch: the epoch after it; by default, anything.

        Returns:
            the machine after it, from which the test can go on.

        Raises:
            AssertionError: the step was refused, or led elsewhere. The message says what became of it.
        """
        verdict = self.verdict
        if isinstance(verdict, Refusal):
            raise self._wrong(f"{self._asked} was refused: {verdict.to_error('it')}")
        after = verdict.after
        for what, expected, seen in (
            ("state", state, after.state),
            ("context", context, after.context),
            ("epoch", epoch, after.epoch),
        ):
            if expected is not _ANY and expected != seen:
                raise self._wrong(f"after {self._asked}, the {what} is {seen!r}, not {expected!r}")
        return Given(self._before.definition, after)

    def then_refused(
        self, reason: str = "", *, error: type[TransitionRefused] = TransitionRefused, rule: str | None = None
    ) -> Given[S, C]:
        """Assert that the step was refused.

        Args:
            reason: a part of the reason.
            error: the error that a machine would raise, or a base of it.
            rule: the name of the rule or invariant, or the description of the obligation, that refused it.

        Returns:
            the machine, which stands as before.

        Raises:
            AssertionError: the step was taken, or refused otherwise. The message says what became of it.
        """
        verdict = self.verdict
        if not isinstance(verdict, Refusal):
            raise self._wrong(f"{self._asked} was taken, to {verdict.after.state!r}")
        fits = issubclass(verdict.error, error) and reason in verdict.reason and rule in (None, verdict.rule)
        if not fits:
            wanted = [error.__name__, *([repr(reason)] if reason else []), *([f"rule {rule!r}"] if rule else [])]
            seen = f"{verdict.error.__name__}: {verdict.to_error('it')}"
            raise self._wrong(f"{self._asked} was refused by {seen}; not by {', '.join(wanted)}")
        return self._before

    def _wrong(self, what: str) -> AssertionError:
        """The error for what the test did not expect."""
        return AssertionError(f"{self._before!r}: {what}")


@overload
def given(definition: Definition[T, None], state: T | None = None, *, epoch: int = 0) -> Given[T, None]: ...
@overload
def given(definition: Definition[S, C], state: S | None = None, *, context: C, epoch: int = 0) -> Given[S, C]: ...
def given(
    definition: Definition[Any, Any], state: Any = None, *, context: Any = None, epoch: int = 0
) -> Given[Any, Any]:
    """Take a machine to be in a state, whether or not it could begin there.

    Args:
        definition: what decides on its steps.
        state: its state; by default, the one in which machines of the definition begin.
        context: its data beside the state, if its definition has a model for it.
        epoch: how often it took a step that begins an epoch.

    Raises:
        InvalidData: it is not a state of the definition, or the context does not fit.
        ValueError: there is no such epoch.
    """
    check_definition(definition)
    there = definition.initial if state is None else state
    check_state(definition, there)
    check_context(definition, context)
    return Given(definition, Present(there, context, whole_option(epoch, "epoch", 0)))
