"""A machine that survives: each of its steps is one commit of its new state and the event that explains it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any, Generic, TypeAlias

import msgspec

from tai_state.engines.paging import Paged, mapped
from tai_state.errors import ConcurrentModification, TaiStateError, TransitionRefused, VersionConflict
from tai_state.machines.checks import check_payload, check_start, check_state
from tai_state.machines.contexts import C, P, Present
from tai_state.machines.definition import Definition
from tai_state.machines.envelope import seal, unseal
from tai_state.machines.events import MachineEvent
from tai_state.machines.history import TRIGGER, MachineEventRecord, machine_events
from tai_state.machines.judging import Refusal, Step, StepKind, Verdict, judge_event, judge_force, judge_step
from tai_state.machines.snapshots import MachineSnapshot, machine_snapshot
from tai_state.machines.states import S, key_of, name_of
from tai_state.machines.triggers import Command, Event, Trigger, check_trigger
from tai_state.streams import reading, writing
from tai_state.streams.changes import Fence, Known, always, append_of, separately
from tai_state.streams.codec import codec_of
from tai_state.streams.core import Core, HasCore
from tai_state.streams.layout import Stream
from tai_state.streams.planning import Composition, Draft
from tai_state.streams.repeating import COMPUTED
from tai_state.streams.writing import Intent
from tai_state.values.checks import check_callable
from tai_state.values.expected import EXISTS, NO_STATE, Expected
from tai_state.values.json import normalise_object
from tai_state.values.metadata import ChangeMetadata, check_text
from tai_state.values.states import JsonSnapshot

_log = logging.getLogger("tai_state.machines")

Judge: TypeAlias = Callable[[Present[S, C]], Verdict[S, C]]
"""Judges a step of a machine as it stands."""

TO = "to"
"""The name of the state that was asked for, in the payload of its event; missing where an event chose it."""
VALUES = "values"
"""What that state was asked to carry, in the payload of its event."""
BROUGHT = "payload"
"""What a fired event brought, in the payload of the event that records it."""


class PersistentMachine(Generic[S, C]):
    """A handle on one stored machine. Made by ``store.machine``, which reads nothing.

    A step is judged on the version that was last seen, and judged again on the present one if another writer was
    faster. So of many writers that ask for the same step, one takes it.
    """

    def __init__(
        self, store: HasCore, stream: Stream, definition: Definition[S, C], metadata: ChangeMetadata | None = None
    ) -> None:
        self.definition: Definition[S, C] = definition
        self.stream: Stream = stream
        self.metadata: ChangeMetadata | None = metadata
        self._store = store
        self._read: tuple[str, dict[str, Any]] | None = None

    def __repr__(self) -> str:
        return f"<PersistentMachine {self.stream.state!r} as {self.definition.name!r}>"

    @property
    def core(self) -> Core:
        """The opened core of its store, for the library's own use; not part of the public interface.

        Raises:
            RuntimeError: the store is not open.
        """
        return self._store.core

    async def get(self) -> MachineSnapshot[S, C]:
        """The machine as it is now.

        Raises:
            StateNotFound: there is no such machine, or it is deleted.
            UnknownMachineState: it is of another definition, or in a state that this one does not know.
            SerializationError: its state is not that of a machine, or does not fit the models.
        """
        return self._noted(await reading.get_state(self.core, self.stream))

    async def exists(self) -> bool:
        """Whether the machine exists and is not deleted."""
        return await reading.exists(self.core, self.stream)

    async def initialize(
        self,
        metadata: ChangeMetadata | None = None,
        *,
        initial: S | None = None,
        context: C | None = None,
        expected: Expected = NO_STATE,
        event_id: str | None = None,
        timestamp: datetime | None = None,
        fence: Fence | None = None,
    ) -> MachineSnapshot[S, C]:
        """Create the machine.

        Args:
            metadata: who creates it and why; by default, what the handle or the store was made with.
            initial: the state in which it begins; by default, that of the definition.
            context: its data beside the state, if its definition has a model for it.
            expected: what the writer believes the version to be.
            event_id: the caller's own id, so that repeating the call changes nothing and returns the first result.
            timestamp: when it happened; now, if not given.
            fence: a lease; the change is made only while its lock is held.

        Raises:
            InvalidData: a machine of this definition does not begin so.
            Otherwise as ``StateStore.save_state``.
        """
        core, definition = self.core, self.definition
        given: Any = context
        present = check_start(definition, definition.initial if initial is None else initial, given)
        payload = {TRIGGER: msgspec.to_builtins(_BEGINNING), **_asked(present.state)}
        data = seal(definition, present, core.settings.clock.now_us())
        intent = self._intent(StepKind.INITIALIZE, metadata, _BEGINNING, event_id, timestamp, payload)
        text, copy = normalise_object(data, "the machine")
        made = msgspec.structs.replace(
            writing.draft(core, self.stream, intent, state=COMPUTED), state=text, carries_state=True
        )
        append = append_of(self.stream, expected, (made,))
        appended = await core.appender.append_one(append, always(Composition((made,), copy)), core.guards(fence))
        snapshot = self._noted(core.snapshot(self.stream, appended.state, appended.recorded_us))
        _log.info("%s begins in %s", self.stream.state, snapshot.state, extra=self._ids(snapshot.version))
        return snapshot

    async def can_transition_to(self, new_state: S, metadata: ChangeMetadata | None = None) -> Verdict[S, C]:
        """Whether the machine may take a step now: a :class:`Step`, which is true; or a :class:`Refusal`, which is not.

        Args:
            new_state: the state that is asked for.
            metadata: who would take the step and why; guards and obligations see its context.

        Raises:
            InvalidData: it is not a state of the definition.
            Otherwise as :meth:`get`.
        """
        check_state(self.definition, new_state)
        machine = await self.get()
        present = Present(machine.state, machine.context, machine.epoch)
        facts = self.core.who(metadata, self.metadata).context
        return judge_step(self.definition, present, new_state, _ASKING, facts)

    async def transition_to(
        self,
        new_state: S,
        trigger: Trigger,
        metadata: ChangeMetadata | None = None,
        *,
        update: Callable[[C], C] | None = None,
        expected: Expected = EXISTS,
        event_id: str | None = None,
        timestamp: datetime | None = None,
        fence: Fence | None = None,
    ) -> MachineSnapshot[S, C]:
        """Take a step, in one commit.

        Args:
            new_state: the state that is asked for.
            trigger: what causes the step; its text is the reason, unless the metadata gives one.
            metadata: who takes the step and why; guards and obligations see its context. By default, what the handle or
                the store was made with.
            update: gives the machine's data after the step, if the rule gives none: a pure function.
            expected: the version on which the step was decided. If another writer was faster,
                ``ConcurrentModification`` is raised. By default, the step is judged on whatever version there is.
            event_id: the caller's own id, so that repeating the call changes nothing and returns the first result, even
                if the machine has moved on.
            timestamp: when it happened; now, if not given. Time-outs do not count from it.
            fence: a lease; the step is taken only while its lock is held.

        Raises:
            InvalidTransition: the rules do not allow the step.
            PreconditionFailed: an obligation is not proven.
            InvariantViolation: an invariant would not hold after it.
            ConcurrentModification: the machine is not at the version expected.
            InvalidData: it is not a state of the definition, or not a trigger.
            Otherwise as :meth:`get` and ``StateStore.save_state``.
        """
        check_state(self.definition, new_state)
        check_trigger(trigger)
        if update is not None:
            check_callable(update, "update")
        payload = {TRIGGER: msgspec.to_builtins(trigger), **_asked(new_state)}
        intent = self._intent(StepKind.TRANSITION, metadata, trigger, event_id, timestamp, payload)
        facts = intent.metadata.context

        def judge(present: Present[S, C]) -> Verdict[S, C]:
            return judge_step(self.definition, present, new_state, trigger, facts, update)

        return await self._step(judge, intent, expected, fence, name_of(key_of(new_state)))

    async def fire(
        self,
        event: MachineEvent[P],
        payload: P,
        metadata: ChangeMetadata | None = None,
        *,
        expected: Expected = EXISTS,
        event_id: str | None = None,
        timestamp: datetime | None = None,
        fence: Fence | None = None,
    ) -> MachineSnapshot[S, C]:
        """Take the step that an event leads to, in one commit: by the first rule for it whose guard holds.

        Args:
            event: the event.
            payload: what it brings; None if it brings nothing. It is kept with the event in the history.
            metadata: as for :meth:`transition_to`.
            expected: as for :meth:`transition_to`.
            event_id: as for :meth:`transition_to`.
            timestamp: as for :meth:`transition_to`.
            fence: as for :meth:`transition_to`.

        Raises:
            InvalidTransition: no rule takes the event in this state. Otherwise as :meth:`transition_to`.
        """
        check_payload(event, payload)
        trigger = Event(event.name)
        said: dict[str, Any] = {TRIGGER: msgspec.to_builtins(trigger)}
        if not event.is_bare:
            said[BROUGHT] = codec_of(event.payload).to_json(payload)
        intent = self._intent(StepKind.TRANSITION, metadata, trigger, event_id, timestamp, said)
        facts = intent.metadata.context

        def judge(present: Present[S, C]) -> Verdict[S, C]:
            return judge_event(self.definition, present, event.name, payload, facts)

        return await self._step(judge, intent, expected, fence, "")

    async def force_state(
        self,
        new_state: S,
        reason: str,
        metadata: ChangeMetadata | None = None,
        *,
        expected: Expected = EXISTS,
        event_id: str | None = None,
        timestamp: datetime | None = None,
        fence: Fence | None = None,
    ) -> MachineSnapshot[S, C]:
        """Put the machine into a state against all rules, for recovery. It is recorded, and logged as a warning.

        No rule, obligation or invariant prevents it; a terminal state does not, either. The event names the invariants
        that it breaks.

        Args:
            new_state: the state.
            reason: why.
            metadata: who does it; its reason is replaced.
            expected: as for :meth:`transition_to`.
            event_id: as for :meth:`transition_to`.
            timestamp: as for :meth:`transition_to`.
            fence: as for :meth:`transition_to`.

        Raises:
            InvalidData: it is not a state of the definition.
            Otherwise as :meth:`transition_to`.
        """
        check_state(self.definition, new_state)
        check_text(reason, "reason")
        trigger = Command(reason)
        who = msgspec.structs.replace(self.core.who(metadata, self.metadata), reason=reason)
        payload = {TRIGGER: msgspec.to_builtins(trigger), **_asked(new_state)}
        intent = self._intent(StepKind.FORCE, who, trigger, event_id, timestamp, payload)

        def judge(present: Present[S, C]) -> Verdict[S, C]:
            return judge_force(self.definition, present, new_state, reason)

        return await self._step(judge, intent, expected, fence, name_of(key_of(new_state)))

    def history(
        self, *, after: int = 0, until: int | None = None, limit: int | None = None, newest_first: bool = False
    ) -> Paged[MachineEventRecord[S]]:
        """The events of the machine, by default oldest first; see ``StateStore.get_events``.

        It raises at none that others have written: merges, repairs, logged events and steps of other definitions.
        """
        events = reading.get_events(
            self.core, self.stream, after=after, until=until, limit=limit, newest_first=newest_first
        )
        return mapped(events, lambda page: machine_events(self.definition, page))

    async def _step(
        self, judge: Judge[S, C], intent: Intent, expected: Expected, fence: Fence | None, to_state: str
    ) -> MachineSnapshot[S, C]:
        """Take a step: judge it, and append its event to the version that it was judged on."""
        core, stream = self.core, self.stream
        made = writing.draft(core, stream, intent, state=COMPUTED)
        attempt = Attempt(core, stream, self.definition, judge, made)
        seen = self._remembered()
        if seen is not None and not attempt.judged(seen):
            seen = None  # a refusal that rests on memory alone would be a guess
        append = append_of(stream, expected, (made,), needs_state=True, must_live=True, seen=seen)
        try:
            appended = await core.appender.append_one(append, separately(attempt.compose), core.guards(fence))
        except VersionConflict as conflict:
            raise self._overtaken(conflict, to_state) from conflict
        except TransitionRefused as refused:
            _log.warning("%s", refused, extra=self._ids(None))
            raise
        snapshot = self._noted(core.snapshot(stream, appended.state, appended.recorded_us))
        if attempt.step is not None and not appended.is_repeated:
            self._tell(attempt.step, snapshot, intent)
        return snapshot

    def _remembered(self) -> Known | None:
        """What is known of the machine if it is still as this handle last saw it; None otherwise."""
        head = self.core.appender.heads.get(self.stream.state)
        if head is None or self._read is None or self._read[0] != head.digest:
            return None
        return Known(msgspec.structs.replace(head, schema=self.core.reader.schema), self._read[1])

    def _overtaken(self, conflict: VersionConflict, to_state: str) -> ConcurrentModification:
        """The error for a machine that is not at the version that its caller expected."""
        from_state, allowed = "", tuple[str, ...]()
        with suppress(TaiStateError):  # the conflict itself is what the caller has to know
            state = unseal(self.definition, conflict.events[-1].to_state, conflict.path).present.state
            from_state, allowed = name_of(key_of(state)), self.definition.allowed(state)
        reason = f"the machine is at version {conflict.actual}, not at {conflict.expected}"
        return ConcurrentModification(conflict.path, from_state, to_state, "", reason, allowed, conflict.actual)

    def _noted(self, state: JsonSnapshot) -> MachineSnapshot[S, C]:
        """The machine in a state, once its data is remembered for the next step."""
        snapshot = machine_snapshot(state, unseal(self.definition, state.data, self.stream.state))
        head = self.core.appender.heads.get(self.stream.state)
        self._read = (head.digest, state.data) if head is not None and head.version == state.version else None
        return snapshot

    def _intent(
        self,
        kind: StepKind,
        metadata: ChangeMetadata | None,
        trigger: Trigger,
        event_id: str | None,
        timestamp: datetime | None,
        payload: dict[str, Any],
    ) -> Intent:
        """The facts about a step. Its trigger is its reason, unless the caller gave one with the step."""
        who = self.core.who(metadata, self.metadata)
        if metadata is None or not metadata.reason:
            who = msgspec.structs.replace(who, reason=str(trigger))
        return Intent(who, kind.value, event_id, timestamp, payload)

    def _tell(self, step: Step[S, C], snapshot: MachineSnapshot[S, C], intent: Intent) -> None:
        """Log a step that was taken."""
        level = logging.WARNING if step.kind is StepKind.FORCE else logging.INFO
        if _log.isEnabledFor(level):
            verb, reason = step.kind.value, intent.metadata.reason
            text = "%s: %s from %s to %s (%s)"
            extra = self._ids(snapshot.version)
            _log.log(level, text, self.stream.state, verb, step.before.state, step.after.state, reason, extra=extra)

    def _ids(self, version: int | None) -> dict[str, Any]:
        """The ids of the machine, as fields of a log record."""
        return {"governor_id": self.stream.governor_id, "state_id": self.stream.state_id, "version": version}


class Attempt(Generic[S, C]):
    """Composes the event of one step, as often as it is judged.

    Attributes:
        step: the step as it was judged last; None if it was not judged, because an earlier call took it.
    """

    def __init__(
        self, core: Core, stream: Stream, definition: Definition[S, C], judge: Judge[S, C], made: Draft
    ) -> None:
        self.step: Step[S, C] | None = None
        self._core = core
        self._stream = stream
        self._definition = definition
        self._judge = judge
        self._made = made
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
        sealed = seal(self._definition, verdict.after, self._now_us, self._took_us, verdict.violations)
        text, data = normalise_object(sealed, "the machine")
        return Composition((msgspec.structs.replace(self._made, state=text, carries_state=True),), data)


def _asked(state: Any) -> dict[str, Any]:
    """A state that a caller asked for, in the payload of an event."""
    key = key_of(state)
    values = {} if key is state else codec_of(key).to_json(state)
    return {TO: name_of(key), VALUES: values} if values else {TO: name_of(key)}


_BEGINNING = Event("Initialization")
_ASKING = Command("can_transition_to")
