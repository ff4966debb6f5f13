"""What is asked of a stored machine: how it is judged, and what its event says of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, Generic, TypeAlias

import msgspec

from tai_state.machines.checks import check_payload, check_state
from tai_state.machines.contexts import C, P, Present
from tai_state.machines.definition import Definition
from tai_state.machines.envelope import seal, unseal
from tai_state.machines.events import MachineEvent
from tai_state.machines.judging import (
    Refusal,
    Step,
    StepKind,
    Verdict,
    judge_event,
    judge_force,
    judge_step,
    judge_time_out,
)
from tai_state.machines.payloads import BROUGHT, TRIGGER, state_said
from tai_state.machines.states import S, key_of, name_of
from tai_state.machines.triggers import Command, Event, Timeout, Trigger, check_trigger
from tai_state.streams import writing
from tai_state.streams.changes import Known
from tai_state.streams.codec import codec_of
from tai_state.streams.core import Core
from tai_state.streams.layout import Stream
from tai_state.streams.planning import Composition, Draft
from tai_state.streams.repeating import COMPUTED
from tai_state.streams.writing import Intent
from tai_state.values.checks import check_callable
from tai_state.values.json import normalise_object
from tai_state.values.metadata import ChangeMetadata, check_metadata, check_text

Judge: TypeAlias = Callable[[Present[S, C]], Verdict[S, C]]
"""Judges a step of a machine as it stands."""


class Saying(msgspec.Struct, frozen=True):
    """What a caller says of a step, besides the step itself.

    Attributes:
        who: who takes it and why.
        is_reasoned: whether the reason is of this very step; otherwise its trigger is the reason.
        event_id: the caller's own id.
        timestamp: when it happened; None: now.
    """

    who: ChangeMetadata
    is_reasoned: bool
    event_id: str | None = None
    timestamp: datetime | None = None

    def intent(self, kind: StepKind, trigger: Trigger, payload: dict[str, Any]) -> Intent:
        """The facts about the event that records the step."""
        who = self.who if self.is_reasoned else msgspec.structs.replace(self.who, reason=str(trigger))
        said = {TRIGGER: msgspec.to_builtins(trigger), **payload}
        return Intent(who, kind.value, self.event_id, self.timestamp, said)


def said_by(
    who: ChangeMetadata, given: ChangeMetadata | None, event_id: str | None, timestamp: datetime | None
) -> Saying:
    """What a caller says of a step.

    Args:
        who: who takes it and why.
        given: the same, if it was given with this very step.
        event_id: the caller's own id.
        timestamp: when it happened.

    Raises:
        InvalidData: the metadata cannot be stored.
    """
    check_metadata(who)
    return Saying(who, given is not None and bool(given.reason), event_id, timestamp)


class Asked(msgspec.Struct, Generic[S, C], frozen=True):
    """A step that is asked for.

    Attributes:
        intent: what its event says.
        judge: judges it.
        to_state: the name of the state that is asked for; empty if an event chooses it.
    """

    intent: Intent
    judge: Judge[S, C]
    to_state: str


def asked_step(
    definition: Definition[S, C], new_state: S, trigger: Trigger, update: Callable[[C], C] | None, saying: Saying
) -> Asked[S, C]:
    """A step to a state.

    Raises:
        InvalidData: the definition does not have the state, or an argument has the wrong type.
    """
    check_state(definition, new_state)
    check_trigger(trigger)
    if update is not None:
        check_callable(update, "update")
    intent = saying.intent(StepKind.TRANSITION, trigger, state_said(new_state))
    facts = intent.metadata.context

    def judge(present: Present[S, C]) -> Verdict[S, C]:
        return judge_step(definition, present, new_state, trigger, facts, update)

    return Asked(intent, judge, name_of(key_of(new_state)))


def asked_event(definition: Definition[S, C], event: MachineEvent[P], payload: P, saying: Saying) -> Asked[S, C]:
    """The step that an event leads to.

    Raises:
        InvalidData: the payload is not one of the event, or cannot be stored.
    """
    check_payload(event, payload)
    brought = {} if event.is_bare else {BROUGHT: codec_of(event.payload).to_json(payload)}
    intent = saying.intent(StepKind.TRANSITION, Event(event.name), brought)
    facts = intent.metadata.context

    def judge(present: Present[S, C]) -> Verdict[S, C]:
        return judge_event(definition, present, event.name, payload, facts)

    return Asked(intent, judge, "")


def asked_force(definition: Definition[S, C], new_state: S, reason: str, saying: Saying) -> Asked[S, C]:
    """A forced step; its reason takes the place of any other.

    Raises:
        InvalidData: the definition does not have the state, or the reason is not text.
    """
    check_state(definition, new_state)
    check_text(reason, "reason")
    who = msgspec.structs.replace(saying.who, reason=reason)
    forcing = msgspec.structs.replace(saying, who=who, is_reasoned=True)
    intent = forcing.intent(StepKind.FORCE, Command(reason), state_said(new_state))

    def judge(present: Present[S, C]) -> Verdict[S, C]:
        return judge_force(definition, present, new_state, reason)

    return Asked(intent, judge, name_of(key_of(new_state)))


def asked_time_out(definition: Definition[S, C], key: Any, saying: Saying) -> Asked[S, C]:
    """The step of the time-out of a machine that is in a state, which is given without its data."""
    rule = definition.tables.timeouts.get(key)
    milliseconds = 0 if rule is None or rule.timeout_ms is None else rule.timeout_ms  # without one, it is refused
    intent = saying.intent(StepKind.TRANSITION, Timeout(milliseconds), {})

    def judge(present: Present[S, C]) -> Verdict[S, C]:
        return judge_time_out(definition, present)

    return Asked(intent, judge, "")


class Attempt(Generic[S, C]):
    """Composes the event of one step, as often as it is judged.

    Args:
        core: the store's core.
        stream: the stream of the machine.
        definition: the machine's definition.
        asked: the step.

    Attributes:
        made: the draft of the event.
        step: the step, as it was judged last; None before that.

    Raises:
        InvalidId, InvalidData: a part of the event cannot be stored.
    """

    def __init__(self, core: Core, stream: Stream, definition: Definition[S, C], asked: Asked[S, C]) -> None:
        self.made: Draft = writing.draft(core, stream, asked.intent, state=COMPUTED)
        self.step: Step[S, C] | None = None
        self._core = core
        self._stream = stream
        self._definition = definition
        self._judge = asked.judge
        self._now_us = core.settings.clock.now_us()
        self._took_us = 0
        self._verdict: tuple[dict[str, Any] | None, Verdict[S, C]] | None = None

    def judged(self, known: Known) -> Verdict[S, C]:
        """The verdict on the step, on what is known of the machine."""
        if self._verdict is not None and self._verdict[0] is known.data:
            return self._verdict[1]
        path = self._stream.state
        opened = unseal(self._definition, writing.present_data(self._core, self._stream, known), path)
        began = time.perf_counter_ns()
        verdict = self._judge(opened.present)
        self._took_us = (time.perf_counter_ns() - began) // 1000
        self._verdict = known.data, verdict
        return verdict

    def compose(self, known: Known) -> Composition:
        """The event of the step on what is known of the machine, and its state after that.

        Raises:
            TransitionRefused: the machine must not take the step.
        """
        verdict = self.judged(known)
        if isinstance(verdict, Refusal):
            raise verdict.to_error(self._stream.state)
        self.step = verdict
        sealed = seal(
            self._definition,
            verdict.after,
            self._now_us,
            self._took_us,
            verdict.violations,
            is_forced=verdict.kind is StepKind.FORCE,
        )
        text, data = normalise_object(sealed, "the machine")
        return Composition((msgspec.structs.replace(self.made, state=text, carries_state=True),), data)


def beginning(
    core: Core, stream: Stream, definition: Definition[S, C], present: Present[S, C], saying: Saying
) -> Composition:
    """The event by which a machine begins, and its state after that.

    Raises:
        InvalidId, InvalidData: a part of the event cannot be stored.
    """
    intent = saying.intent(StepKind.INITIALIZE, Event("Initialization"), state_said(present.state))
    sealed = seal(definition, present, core.settings.clock.now_us())
    text, data = normalise_object(sealed, "the machine")
    made = writing.draft(core, stream, intent, state=COMPUTED)
    return Composition((msgspec.structs.replace(made, state=text, carries_state=True),), data)
