"""Whether a machine may take a step. Pure: no clock, no store; what is judged is handed in.

A step needs one rule that allows it and whose guard holds, no rule that forbids it, every obligation proven, and every
invariant kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from itertools import starmap
from typing import Any, Final, Generic, TypeAlias

import msgspec

from tai_state.errors import InvalidData, InvalidTransition, InvariantViolation, PreconditionFailed, TaiStateError
from tai_state.machines.checks import check_state
from tai_state.machines.contexts import C, EventContext, Present, TransitionContext
from tai_state.machines.definition import Definition
from tai_state.machines.effects import EFFECTS_MAX
from tai_state.machines.invariants import Violation
from tai_state.machines.rules import Rule
from tai_state.machines.states import ComponentState, S, facts_of, key_of, name_of
from tai_state.machines.triggers import Command, Event, Timeout, Trigger


class StepKind(Enum):
    """How a machine came to be in a state."""

    INITIALIZE = "initialize"
    TRANSITION = "transition"
    FORCE = "force"
    MIGRATE = "migrate"


class Step(msgspec.Struct, Generic[S, C], frozen=True, gc=False):
    """A step that a machine may take.

    Attributes:
        before: the machine before the step.
        after: the machine after it.
        trigger: what causes it.
        kind: whether rules allow it, or it is forced.
        rule: the rule that allows it; None if it is forced.
        violations: the invariants that a forced step breaks.
    """

    before: Present[S, C]
    after: Present[S, C]
    trigger: Trigger
    kind: StepKind
    rule: Rule[S, C] | None
    violations: tuple[Violation, ...] = ()


class Refusal(msgspec.Struct, frozen=True):
    """Why a machine must not take a step.

    Attributes:
        error: the class of the error that says so.
        from_state: the name of the state that the machine is in.
        to_state: the name of the state that was asked for; empty where an event led to none.
        rule: the name of the rule or invariant, or the description of the obligation; empty where there is none.
        reason: why.
        allowed: the names of the states that rules lead to.
        cause: what a function of the definition raised.
    """

    error: type[InvalidTransition | PreconditionFailed | InvariantViolation]
    from_state: str
    to_state: str
    rule: str
    reason: str
    allowed: tuple[str, ...]
    cause: Exception | None = None

    def __bool__(self) -> bool:
        return False

    def to_error(self, machine: str) -> TaiStateError:
        """The refusal as an error.

        Args:
            machine: the name of the machine, or the path of its state.
        """
        error = self.error(machine, self.from_state, self.to_state, self.rule, self.reason, self.allowed)
        error.__cause__ = self.cause
        return error


Verdict: TypeAlias = Step[S, C] | Refusal
"""Either the step, or why it must not be taken."""

ASKING: Final = Command("can_transition_to")
"""The trigger of a step that is only asked about."""

_BY_RULE: Final = StepKind.TRANSITION  # a name of its own: Python 3.11 looks members of an enum up slowly

_Why: TypeAlias = tuple[str | None, Exception | None]
"""Why something is not proven, as far as it says, and what it raised."""

_Edge: TypeAlias = tuple[TransitionContext[S, C], Rule[S, C]]
"""A rule that may allow a step, and the step as its guard sees it."""


def judge_step(
    definition: Definition[S, C],
    present: Present[S, C],
    to_state: S,
    trigger: Trigger,
    metadata: Mapping[str, str],
    update: Callable[[C], C] | None = None,
) -> Verdict[S, C]:
    """Judge a step to a state.

    Args:
        definition: what decides.
        present: the machine before the step.
        to_state: the state that is asked for.
        trigger: what causes the step.
        metadata: the caller's facts for guards and obligations.
        update: gives the machine's data after the step, if the rule gives none.

    Raises:
        InvalidData: it is not a state of the definition.
    """
    state = present.state
    source = state if isinstance(state, ComponentState) else type(state)
    target = to_state if isinstance(to_state, ComponentState) else type(to_state)
    rules = definition.tables.steps.get((source, target))
    if rules is None:
        check_state(definition, to_state)
        return _no_rule(definition, present, key_of(to_state))
    context = TransitionContext(state, to_state, present.epoch, present.context, trigger, metadata)
    rule = rules[0]
    if rule.guard is None and rule.event is None:
        return _settled(definition, present, context, rule, update)
    return _judged(definition, present, ((_with_payload(context, rule, None), rule) for rule in rules), update)


def judge_event(
    definition: Definition[S, C], present: Present[S, C], name: str, payload: Any, metadata: Mapping[str, str]
) -> Verdict[S, C]:
    """Judge what an event leads to: the step of the first rule for it whose guard holds.

    Args:
        definition: what decides.
        present: the machine before the step.
        name: the name of the event.
        payload: what it brings.
        metadata: the caller's facts for guards and obligations.

    Raises:
        InvalidData: the definition knows the event with another payload.
    """
    edges = definition.tables.events.get((key_of(present.state), name))
    if edges is None:
        taking = dict.fromkeys(source for source, event in definition.tables.events if event == name)
        where = f"; it is taken in {', '.join(map(name_of, taking))}" if taking else ""
        return _invalid(definition, present, "", "", f"no rule takes the event {name!r} in this state{where}")
    event: Any = edges[0][1].event
    if not isinstance(payload, event.payload):
        what = f"{type(payload).__name__}, and the machine {definition.name!r} expects {event.payload.__name__}"
        raise InvalidData(f"the event {name!r} brings {what}")
    trigger = Event(name)

    def seen(target: Any, rule: Rule[S, C]) -> _Edge[S, C]:
        entered = _entered(target, rule, payload)
        context = TransitionContext(present.state, entered, present.epoch, present.context, trigger, metadata)
        return _with_payload(context, rule, payload), rule

    return _judged(definition, present, starmap(seen, edges))


def judge_time_out(definition: Definition[S, C], present: Present[S, C], metadata: Mapping[str, str]) -> Verdict[S, C]:
    """Judge the step that a timer takes in the machine's state.

    Args:
        definition: what decides.
        present: the machine before the step.
        metadata: the facts of the timer for obligations.
    """
    rule = definition.tables.timeouts.get(key_of(present.state))
    if rule is None or rule.targets is None or rule.timeout_ms is None:
        return _invalid(definition, present, "", "", "this state has no time-out")
    to_state = _entered(rule.targets[0], rule, None)
    trigger = Timeout(rule.timeout_ms)
    context = TransitionContext(present.state, to_state, present.epoch, present.context, trigger, metadata)
    return _settled(definition, present, context, rule, None)


def judge_force(definition: Definition[S, C], present: Present[S, C], to_state: S, reason: str) -> Step[S, C]:
    """A forced step: no rule and no obligation is asked, and broken invariants are noted."""
    after = Present(to_state, present.context, present.epoch)
    found = (each.violation(after) for each in definition.invariants)
    broken = tuple(violation for violation in found if violation is not None)
    return Step(present, after, Command(reason), StepKind.FORCE, None, broken)


def within_room(definition: Definition[S, C], step: Step[S, C], pending: int) -> Verdict[S, C]:
    """The verdict on a step with effects: it is refused if too many would be pending.

    Args:
        definition: the machine's definition.
        step: the step, which is allowed but for that.
        pending: how many effects of the machine are pending before it.
    """
    rule = step.rule
    if rule is None or pending + len(rule.effects) <= EFFECTS_MAX:
        return step
    reason = f"{pending} effects are pending, and a machine has {EFFECTS_MAX} at most: run them first"
    before, after = key_of(step.before.state), key_of(step.after.state)
    allowed = definition.allowed(step.before.state)
    return Refusal(PreconditionFailed, name_of(before), name_of(after), rule.name, reason, allowed)


def _judged(
    definition: Definition[S, C],
    present: Present[S, C],
    edges: Iterable[_Edge[S, C]],
    update: Callable[[C], C] | None = None,
) -> Verdict[S, C]:
    """Judge a step by the first of several rules whose guard holds."""
    first: Refusal | None = None
    for context, rule in edges:
        failed = _not_by(definition, context, rule)
        if failed is None:
            return _settled(definition, present, context, rule, update)
        if first is None:
            reason, cause = failed
            to_state = name_of(key_of(context.to_state))
            first = _invalid(definition, present, to_state, rule.name, reason or rule.refusal, cause)
    assert first is not None  # noqa: S101 - tables have no entry without a rule
    return first


def _not_by(
    definition: Definition[Any, Any], context: TransitionContext[Any, Any], rule: Rule[Any, Any]
) -> _Why | None:
    """Why a rule does not allow a step; None if it does."""
    pair = key_of(context.from_state), key_of(context.to_state)
    if rule.enter is not None and (pair in definition.tables.forbidden or not rule.covers(*pair)):
        return f"it gave the state {name_of(pair[1])}, to which it does not lead", None
    if rule.guard is None:
        return None
    try:
        answer: Any = rule.guard(context)
    except Exception as error:  # noqa: BLE001 - whatever it raises, the rule does not apply
        answer = error
    return None if answer is True else _why(answer)


def _settled(
    definition: Definition[S, C],
    present: Present[S, C],
    context: TransitionContext[S, C],
    rule: Rule[S, C],
    update: Callable[[C], C] | None,
) -> Verdict[S, C]:
    """Judge a step that a rule allows by the obligations and the invariants."""
    for obligation in definition.obligations:
        try:
            answer: Any = obligation.verify(context)
        except Exception as error:  # noqa: BLE001 - whatever it raises, nothing is proven
            answer = error
        if answer is not True:
            what, (reason, cause) = obligation.description, _why(answer)
            return _refused(PreconditionFailed, definition, context, what, reason or f"not proven: {what}", cause)
    data = present.context
    if rule.update is not None:
        data = rule.update(context)
    elif update is not None:
        data = update(data)
    after = Present(context.to_state, data, present.epoch + rule.advances_epoch)
    for invariant in definition.invariants:
        violation = invariant.violation(after)
        if violation is not None:
            return _refused(InvariantViolation, definition, context, invariant.name, str(violation))
    return Step(present, after, context.trigger, _BY_RULE, rule)


def _why(answer: object) -> _Why:
    """Why something is not proven, by the answer of a guard or an obligation, or by what it raised."""
    if isinstance(answer, Exception):
        return f"{type(answer).__name__}: {answer}", answer
    if answer is False:
        return None, None
    return answer if isinstance(answer, str) else f"it answered {answer!r}, neither True nor False nor a reason", None


def _with_payload(context: TransitionContext[S, C], rule: Rule[S, C], payload: Any) -> TransitionContext[S, C]:
    """A step as the functions of a rule see it: with a payload if the rule is for an event."""
    if rule.event is None:
        return context
    return EventContext(
        context.from_state,
        context.to_state,
        context.epoch,
        context.context,
        context.trigger,
        context.metadata,
        payload=payload,
    )


def _entered(target: Any, rule: Rule[Any, Any], payload: Any) -> Any:
    """The state that a rule leads to, with its data."""
    if rule.enter is not None:
        return rule.enter(payload)
    return target() if isinstance(target, type) else target


def _no_rule(definition: Definition[Any, Any], present: Present[Any, Any], target: Any) -> Refusal:
    """Why a step is refused for which there is no rule: by the rule that forbids it, or by one that leads there."""
    tables, source, to_state = definition.tables, key_of(present.state), name_of(target)
    forbidding = tables.forbidden.get((source, target))
    if forbidding is not None:
        return _invalid(definition, present, to_state, forbidding.name, forbidding.refusal)
    if facts_of(source).is_terminal:
        return _invalid(definition, present, to_state, "", f"{name_of(source)} is final, and no step leaves it")
    here = [rule for rule in definition.rules if not rule.is_forbidding and rule.covers(source, target)]
    if here:
        [rule, *_] = here
        by = "a timer" if rule.event is None else f"the event {rule.event.name!r}"
        return _invalid(definition, present, to_state, rule.name, f"only {by} leads there")
    nearest = _nearest(definition, source, target)
    if nearest is None:
        return _invalid(definition, present, to_state, "", "no rule leads there")
    return _invalid(definition, present, to_state, nearest.name, nearest.refusal)


def _nearest(definition: Definition[Any, Any], source: Any, target: Any) -> Rule[Any, Any] | None:
    """Of the rules that lead to a state, the one that the machine can use after the fewest steps; else the first."""
    leading = [rule for rule in definition.rules if not rule.is_forbidding and target in (rule.targets or ())]
    seen, ahead = {source}, [source] if len(leading) > 1 else []
    while ahead:
        for rule in leading:
            if any(rule.covers(key, target) for key in ahead):
                return rule
        ahead = list(dict.fromkeys(key for near in ahead for key in definition.tables.exits[near] if key not in seen))
        seen.update(ahead)
    return leading[0] if leading else None


def _invalid(
    definition: Definition[Any, Any],
    present: Present[Any, Any],
    to_state: str,
    rule: str,
    reason: str,
    cause: Exception | None = None,
) -> Refusal:
    """The refusal of a step by the rules."""
    from_state, allowed = name_of(key_of(present.state)), definition.allowed(present.state)
    return Refusal(InvalidTransition, from_state, to_state, rule, reason, allowed, cause)


def _refused(
    error: type[PreconditionFailed | InvariantViolation],
    definition: Definition[Any, Any],
    context: TransitionContext[Any, Any],
    rule: str,
    reason: str,
    cause: Exception | None = None,
) -> Refusal:
    """The refusal of a step that a rule allows."""
    from_state, to_state = name_of(key_of(context.from_state)), name_of(key_of(context.to_state))
    return Refusal(error, from_state, to_state, rule, reason, definition.allowed(context.from_state), cause)
