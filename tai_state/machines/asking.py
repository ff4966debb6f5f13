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
from tai_state.machines.effects import PendingEffect, effects_of
from tai_state.machines.envelope import Opened, as_text, seal, unseal
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
    within_room,
)
from tai_state.machines.payloads import BROUGHT, TO, TRIGGER, state_said
from tai_state.machines.states import S
from tai_state.machines.triggers import Command, Event, Timeout, Trigger, check_trigger
from tai_state.streams import writing
from tai_state.streams.changes import Known
from tai_state.streams.codec import codec_of
from tai_state.streams.core import Core
from tai_state.streams.layout import Stream
from tai_state.streams.planning import Composition, Draft
from tai_state.streams.records import Head
from tai_state.streams.repeating import COMPUTED
from tai_state.streams.writing import Intent
from tai_state.values.checks import check_callable
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
        return Intent(who, kind._value_, self.event_id, self.timestamp, said)


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
    said = state_said(new_state)
    intent = saying.intent(StepKind.TRANSITION, trigger, said)
    facts = intent.metadata.context

    def judge(present: Present[S, C]) -> Verdict[S, C]:
        return judge_step(definition, present, new_state, trigger, facts, update)

    return Asked(intent, judge, said[TO])


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
    said = state_said(new_state)
    intent = forcing.intent(StepKind.FORCE, Command(reason), said)

    def judge(present: Present[S, C]) -> Verdict[S, C]:
        return judge_force(definition, present, new_state, reason)

    return Asked(intent, judge, said[TO])


class Seen(msgspec.Struct, Generic[S, C], frozen=True, gc=False):
    """A machine as a handle last saw it.

    Attributes:
        known: what is known of its stream.
        opened: what its definition reads there; None if callers have it too, and may change it: data of models.
    """

    known: Known
    opened: Opened[S, C] | None


def seen_as(core: Core, head: Head, data: dict[str, Any], opened: Opened[S, C]) -> Seen[S, C]:
    """A machine as it is seen, in the present schema."""
    if head.schema != core.reader.schema:
        head = msgspec.structs.replace(head, schema=core.reader.schema)
    return Seen(Known(head, data), opened if opened.is_fixed else None)


def asked_time_out(definition: Definition[S, C], key: Any, saying: Saying) -> Asked[S, C]:
    """The step of the time-out of a machine that is in a state, which is given without its data."""
    rule = definition.tables.timeouts.get(key)
    milliseconds = 0 if rule is None or rule.timeout_ms is None else rule.timeout_ms  # without one, it is refused
    intent = saying.intent(StepKind.TRANSITION, Timeout(milliseconds), {})
    facts = intent.metadata.context

    def judge(present: Present[S, C]) -> Verdict[S, C]:
        return judge_time_out(definition, present, facts)

    return Asked(intent, judge, "")


class Attempt(Generic[S, C]):
    """Composes the event of one step, as often as it is judged.

    Args:
        core: the store's core.
        stream: the stream of the machine.
        definition: the machine's definition.
        asked: the step.
        seen: the machine as it was seen; None if it was not.

    Attributes:
        made: the draft of the event.
        step: the step, as it was judged last; None before that.

    Raises:
        InvalidId, InvalidData: a part of the event cannot be stored.
    """

    def __init__(
        self,
        core: Core,
        stream: Stream,
        definition: Definition[S, C],
        asked: Asked[S, C],
        seen: Seen[S, C] | None = None,
    ) -> None:
        self.made: Draft = writing.draft(core, stream, asked.intent, state=COMPUTED)
        self.step: Step[S, C] | None = None
        self._core = core
        self._stream = stream
        self._definition = definition
        self._judge = asked.judge
        self._seen = seen
        self._now_us = core.settings.clock.now_us()
        self._took_us = 0
        self._verdict: tuple[dict[str, Any] | None, Verdict[S, C]] | None = None
        self._pending: tuple[PendingEffect, ...] = ()

    def judged(self, known: Known) -> Verdict[S, C]:
        """The verdict on the step, on what is known of the machine."""
        if self._verdict is not None and self._verdict[0] is known.data:
            return self._verdict[1]
        seen = self._seen
        opened = None if seen is None or seen.known is not known else seen.opened
        if opened is None:
            data = writing.present_data(self._core, self._stream, known)
            opened = unseal(self._definition, data, self._stream.state)
        began = time.perf_counter_ns()
        verdict = self._judge(opened.present)
        self._took_us = (time.perf_counter_ns() - began) // 1000
        self._pending = opened.record.effects
        if isinstance(verdict, Step) and verdict.rule is not None and verdict.rule.effects:
            verdict = within_room(self._definition, verdict, len(self._pending))
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
        effects, rule = self._pending, verdict.rule
        if rule is not None and rule.effects:
            effects += effects_of(rule, self.made.event_id)
        sealed = seal(
            self._definition,
            verdict.after,
            self._now_us,
            self._took_us,
            verdict.violations,
            effects,
            is_forced=verdict.rule is None,
        )
        text, data = as_text(sealed)
        return Composition((msgspec.structs.replace(self.made, state=text, carries_state=True),), data)


def beginning(
    core: Core, stream: Stream, definition: Definition[S, C], present: Present[S, C], saying: Saying
) -> Composition:
    """The event by which a machine begins, and its state after that.

    Raises:
        InvalidId, InvalidData: a part of the event cannot be stored.
    """
    intent = saying.intent(StepKind.INITIALIZE, Event("Initialization"), state_said(present.state))
    text, data = as_text(seal(definition, present, core.settings.clock.now_us()))
    made = writing.draft(core, stream, intent, state=COMPUTED)
    return Composition((msgspec.structs.replace(made, state=text, carries_state=True),), data)
