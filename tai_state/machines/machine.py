"""A machine in memory: judged by its definition, with a bounded history. Nothing of it is stored."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from inspect import iscoroutinefunction
from logging import INFO
from threading import RLock
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar, overload

from tai_state.errors import InvalidData, PreconditionFailed, TaiStateError
from tai_state.machines.checks import NO_FACTS, check_definition, check_payload, check_start, check_state
from tai_state.machines.contexts import AfterCommit, C, P, Present, TakenStep
from tai_state.machines.definition import Definition
from tai_state.machines.effects import PendingEffect, effects_of
from tai_state.machines.events import MachineEvent
from tai_state.machines.judging import (
    ASKING,
    Refusal,
    Step,
    StepKind,
    Verdict,
    judge_event,
    judge_force,
    judge_step,
    judge_time_out,
    within_room,
)
from tai_state.machines.records import TransitionRecord
from tai_state.machines.states import MachineState, S, key_of
from tai_state.machines.triggers import TRIGGERS, Event, Trigger, check_trigger
from tai_state.values.checks import whole_option
from tai_state.values.metadata import check_text

T = TypeVar("T", bound=MachineState)

_log = logging.getLogger("tai_state.machines")


class MachineClock(Protocol):
    """The times of a machine in memory. Tests pass their own."""

    def monotonic_ns(self) -> int:
        """Nanoseconds since an unknown moment; never goes back."""
        ...

    def now(self) -> datetime:
        """The time in UTC."""
        ...


class SystemClock:
    """The clock of this computer."""

    if TYPE_CHECKING:

        def monotonic_ns(self) -> int:
            """Nanoseconds since an unknown moment; never goes back."""
            ...

        def now(self) -> datetime:
            """The time in UTC."""
            ...
    else:  # without a call in Python between
        monotonic_ns = staticmethod(time.monotonic_ns)
        now = staticmethod(partial(datetime.now, UTC))


class StateMachine(Generic[S, C]):
    """A machine in memory. It lasts as long as its process; ``store.machine`` gives one that survives.

    Threads may share it: steps are taken one after the other. The ``after_commit`` of a step runs before the next one.

    Args:
        definition: what decides on its steps.
        initial: the state in which it begins; by default, that of the definition.
        context: its data beside the state, if its definition has a model for it.
        clock: the source of its times.
        history_limit: how many records it keeps.

    Attributes:
        definition: as given.

    Raises:
        InvalidData: a machine of this definition does not begin in this state, or an ``after_commit`` of it is
            asynchronous: nothing waits here.
    """

    @overload
    def __init__(
        self: StateMachine[T, None],
        definition: Definition[T, None],
        *,
        initial: T | None = None,
        clock: MachineClock | None = None,
        history_limit: int = 100,
    ) -> None: ...
    @overload
    def __init__(
        self,
        definition: Definition[S, C],
        *,
        context: C,
        initial: S | None = None,
        clock: MachineClock | None = None,
        history_limit: int = 100,
    ) -> None: ...
    def __init__(
        self,
        definition: Definition[Any, Any],
        *,
        context: Any = None,
        initial: Any = None,
        clock: MachineClock | None = None,
        history_limit: int = 100,
    ) -> None:
        check_definition(definition)
        for rule in definition.rules:
            if iscoroutinefunction(rule.after_commit):
                what = f"after_commit of the rule {rule.name!r} is asynchronous"
                raise InvalidData(f"{what}: a machine in memory waits for nothing; use a store, memory:// for tests")
        self.definition: Definition[S, C] = definition
        self._clock: MachineClock = SystemClock() if clock is None else clock
        self._monotonic_ns, self._now = self._clock.monotonic_ns, self._clock.now
        self._present: Present[S, C] = check_start(
            definition, definition.initial if initial is None else initial, context
        )
        self._history = deque[TransitionRecord[S]](maxlen=whole_option(history_limit, "history_limit", 1))
        self._lock = RLock()
        self._log_fields: dict[str, object] = {"machine": definition.name}
        self._next_id = 0
        self._effects: list[PendingEffect] = []
        began = self._monotonic_ns()
        self._taken(Step(self._present, self._present, Event("Initialization"), StepKind.INITIALIZE, None), began)

    def __repr__(self) -> str:
        return f"<StateMachine {self.definition.name!r} in {self.current_state}, epoch {self.epoch}>"

    @property
    def current_state(self) -> S:
        """The state that it is in."""
        return self._present.state

    @property
    def context(self) -> C:
        """Its data beside the state."""
        return self._present.context

    @property
    def epoch(self) -> int:
        """How often it took a step that begins a new epoch."""
        return self._present.epoch

    @property
    def transition_history(self) -> tuple[TransitionRecord[S], ...]:
        """What is kept of its newest steps, oldest first. The first record of a machine is its initialization."""
        with self._lock:
            return tuple(self._history)

    def time_in_current_state(self) -> timedelta:
        """How long it has been in its state. A step to the same state begins anew."""
        return timedelta(microseconds=(self._monotonic_ns() - self._entered_ns) / 1000)

    def can_transition_to(self, new_state: S, *, metadata: Mapping[str, str] = NO_FACTS) -> Verdict[S, C]:
        """Whether it may take a step: a :class:`Step`, which is true, or a :class:`Refusal`, which is false.

        Args:
            new_state: the state that is asked for.
            metadata: facts for guards and obligations.

        Raises:
            InvalidData: it is not a state of the definition.
        """
        return judge_step(self.definition, self._present, new_state, ASKING, metadata)

    def transition_to(
        self,
        new_state: S,
        trigger: Trigger,
        *,
        metadata: Mapping[str, str] = NO_FACTS,
        update: Callable[[C], C] | None = None,
    ) -> TransitionRecord[S]:
        """Take a step.

        Args:
            new_state: the state that is asked for.
            trigger: what causes the step.
            metadata: facts for guards and obligations.
            update: gives the machine's data after the step, if the rule gives none.

        Raises:
            InvalidTransition: the rules do not allow the step.
            PreconditionFailed: an obligation is not proven.
            InvariantViolation: an invariant would not hold after it.
            InvalidData: it is not a state of the definition, or not a trigger.
        """
        if type(trigger) not in TRIGGERS:
            check_trigger(trigger)
        self._lock.acquire()  # by hand: `with` takes twice the time, which is a twentieth of a step
        try:
            began = self._monotonic_ns()
            return self._taken(judge_step(self.definition, self._present, new_state, trigger, metadata, update), began)
        finally:
            self._lock.release()

    def fire(
        self, event: MachineEvent[P], payload: P, *, metadata: Mapping[str, str] = NO_FACTS
    ) -> TransitionRecord[S]:
        """Take the step that an event leads to: by the first rule for it whose guard holds.

        Args:
            event: the event.
            payload: what it brings; None if it brings nothing.
            metadata: facts for guards and obligations.

        Raises:
            InvalidTransition: no rule takes the event in this state. Otherwise as ``transition_to``.
        """
        check_payload(event, payload)
        with self._lock:
            began = self._monotonic_ns()
            return self._taken(judge_event(self.definition, self._present, event.name, payload, metadata), began)

    def run_timer(self) -> TransitionRecord[S] | None:
        """Take the step of its state's time-out, if the time is over. A machine in memory does so only when asked.

        Returns:
            what became of it; None if the state has no time-out, or its time is not over.

        Raises:
            PreconditionFailed: an obligation is not proven.
            InvariantViolation: an invariant would not hold after it.
        """
        with self._lock:
            began = self._monotonic_ns()
            rule = self.definition.tables.timeouts.get(key_of(self._present.state))
            if rule is None or rule.timeout_ms is None or began - self._entered_ns < rule.timeout_ms * 1_000_000:
                return None
            return self._taken(judge_time_out(self.definition, self._present, NO_FACTS), began)

    def force_state(self, new_state: S, reason: str) -> TransitionRecord[S]:
        """Put the machine into a state against all rules, for recovery. It is recorded, and logged as a warning.

        No rule, obligation or invariant prevents it; a terminal state does not, either. The record names the
        invariants that it breaks.

        Args:
            new_state: the state.
            reason: why.

        Raises:
            InvalidData: it is not a state of the definition.
        """
        check_state(self.definition, new_state)
        check_text(reason, "reason")
        with self._lock:
            began = self._monotonic_ns()
            return self._taken(judge_force(self.definition, self._present, new_state, reason), began)

    def increment_epoch(self) -> int:
        """The epoch that the last step began.

        Rules say which steps begin an epoch; the step itself advances it.

        Raises:
            PreconditionFailed: the last step did not begin one.
        """
        if self._history[-1].epoch == self.epoch:
            state, allowed = str(self.current_state), self.definition.allowed(self.current_state)
            reason = "the last step did not begin an epoch; a rule with advances_epoch does"
            raise PreconditionFailed(self.definition.name, state, state, "", reason, allowed)
        return self.epoch

    @property
    def pending_effects(self) -> tuple[PendingEffect, ...]:
        """The effects of its steps that are not done yet, oldest first. Here, an id begins with a record's number."""
        with self._lock:
            return tuple(self._effects)

    def complete_effect(self, effect_id: str) -> bool:
        """Note that an effect was had; returns whether it was pending."""
        check_text(effect_id, "effect_id")
        with self._lock:
            left = [effect for effect in self._effects if effect.id != effect_id]
            was_pending = len(left) < len(self._effects)
            self._effects = left
        return was_pending

    def _taken(self, verdict: Verdict[S, C], began_ns: int) -> TransitionRecord[S]:
        """Take a step, or raise what refuses it."""
        if not isinstance(verdict, Step):
            raise self._refused(verdict)
        before, after, rule = verdict.before, verdict.after, verdict.rule
        if rule is not None and rule.effects:
            fitting = within_room(self.definition, verdict, len(self._effects))
            if not isinstance(fitting, Step):
                raise self._refused(fitting)
        if before is not self._present:
            raise RuntimeError(f"a function of {self.definition!r} changed the machine that it was to judge")
        number = self._next_id
        self._entered_ns = ended_ns = self._monotonic_ns()
        record = TransitionRecord(
            number,
            before.state,
            after.state,
            verdict.trigger,
            ended_ns,
            self._now(),
            before.epoch,
            (ended_ns - began_ns) // 1000,
            verdict.kind,
            verdict.violations,
        )
        self._present = after
        self._next_id = number + 1
        self._history.append(record)
        if verdict.kind is _FORCED:
            _log.warning("%s: forced %s", self.definition.name, record, extra=self._log_fields)
        elif rule is not None and _log.isEnabledFor(INFO):
            _log.info("%s: %s", self.definition.name, record, extra=self._log_fields)
        if rule is not None:
            if rule.effects:
                self._effects += effects_of(rule, str(number))
            if rule.after_commit is not None:
                self._run_after(rule.after_commit, verdict, rule.name)
        return record

    def _refused(self, refusal: Refusal) -> TaiStateError:
        """The error for a step that must not be taken."""
        error = refusal.to_error(self.definition.name)
        _log.warning("%s", error, extra=self._log_fields)
        return error

    def _run_after(self, after_commit: AfterCommit[S, C], step: Step[S, C], rule: str) -> None:
        """Run what a step wants to run; what it raises is logged: the step stands."""
        name = self.definition.name
        taken = TakenStep(machine=name, before=step.before, after=step.after, trigger=step.trigger, rule=rule)
        try:
            running = after_commit(taken)
            if isinstance(running, Coroutine):
                running.close()
                raise TypeError("nothing waits for an asynchronous function here")
        except Exception:  # noqa: BLE001 - the step is taken
            what = "%s: after_commit of the rule %r failed; the step stands"
            _log.exception(what, name, rule, extra=self._log_fields)


_FORCED: Final = StepKind.FORCE  # a name of its own: Python 3.11 looks members of an enum up slowly
