"""A machine that survives: each of its steps is one commit of its new state and the event that explains it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, Generic

from tai_state.engines.paging import Paged, mapped
from tai_state.errors import ConcurrentModification, TaiStateError, TransitionRefused, VersionConflict
from tai_state.machines.aftermath import run_after_commit
from tai_state.machines.asking import (
    Asked,
    Attempt,
    Saying,
    Seen,
    asked_event,
    asked_force,
    asked_step,
    beginning,
    said_by,
    seen_as,
)
from tai_state.machines.checks import check_start, check_state
from tai_state.machines.completing import (
    Completion,
    EffectHandler,
    EffectsReport,
    check_handlers,
    run_pending,
)
from tai_state.machines.contexts import C, P, Present
from tai_state.machines.definition import Definition
from tai_state.machines.envelope import unseal
from tai_state.machines.events import MachineEvent
from tai_state.machines.history import MachineEventRecord, machine_events
from tai_state.machines.judging import ASKING, Step, Verdict, judge_step, within_room
from tai_state.machines.snapshots import MachineSnapshot, machine_snapshot
from tai_state.machines.states import S, key_of, name_of
from tai_state.machines.triggers import Trigger
from tai_state.streams import reading
from tai_state.streams.changes import Change, Fence, always, append_of, separately
from tai_state.streams.codec import codec_of
from tai_state.streams.core import Core, HasCore
from tai_state.streams.layout import Stream
from tai_state.streams.typed import TypedState
from tai_state.values.checks import check_seconds
from tai_state.values.expected import EXISTS, NO_STATE, Expected
from tai_state.values.metadata import ChangeMetadata, check_metadata
from tai_state.values.states import JsonSnapshot

_log = logging.getLogger("tai_state.machines")


class PersistentMachine(TypedState[dict[str, Any]], Generic[S, C]):
    """A handle on one stored machine. Made by ``store.machine``, which reads nothing.

    A step is judged on the version that was last seen, and judged again on the present one if another writer was
    faster. So of many writers that ask for the same step, one takes it.
    """

    def __init__(
        self, store: HasCore, stream: Stream, definition: Definition[S, C], metadata: ChangeMetadata | None = None
    ) -> None:
        super().__init__(store, stream, codec_of(None), metadata)
        self.definition: Definition[S, C] = definition
        self._seen: Seen[S, C] | None = None

    def __repr__(self) -> str:
        return f"<PersistentMachine {self.stream.state!r} as {self.definition.name!r}>"

    async def get(self) -> MachineSnapshot[S, C]:
        """The machine as it is now.

        Raises:
            StateNotFound: there is no such machine, or it is deleted.
            UnknownMachineState: it is of another definition, or in a state that this one does not know.
            SerializationError: its state is not that of a machine, or does not fit the models.
        """
        core = self.core
        return self._noted(core, await reading.get_state(core, self.stream))

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
        core, definition, stream = self.core, self.definition, self.stream
        given: Any = context
        present = check_start(definition, definition.initial if initial is None else initial, given)
        composition = beginning(core, stream, definition, present, self._saying(core, metadata, event_id, timestamp))
        append = append_of(stream, expected, composition.drafts)
        appended = await core.appender.append_one(append, always(composition), core.guards(fence))
        snapshot = self._noted(core, core.snapshot(stream, appended.state, appended.recorded_us))
        if not appended.is_repeated:
            _log.info("%s: begins in %s", stream.state, snapshot.state, extra=self._ids(snapshot.version))
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
        facts = self._saying(self.core, metadata, None, None).who.context
        machine = await self.get()
        present = Present(machine.state, machine.context, machine.epoch)
        verdict = judge_step(self.definition, present, new_state, ASKING, facts)
        return within_room(self.definition, verdict, len(machine.effects)) if isinstance(verdict, Step) else verdict

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
        core = self.core
        saying = self._saying(core, metadata, event_id, timestamp)
        return await self._take(core, asked_step(self.definition, new_state, trigger, update, saying), expected, fence)

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
        core = self.core
        saying = self._saying(core, metadata, event_id, timestamp)
        return await self._take(core, asked_event(self.definition, event, payload, saying), expected, fence)

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
        core = self.core
        saying = self._saying(core, metadata, event_id, timestamp)
        return await self._take(core, asked_force(self.definition, new_state, reason, saying), expected, fence)

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

    async def run_effects(
        self,
        handlers: Mapping[str, EffectHandler[S, C]],
        metadata: ChangeMetadata | None = None,
        *,
        timeout_seconds: float = 30.0,
    ) -> EffectsReport:
        """Run the effects that are pending now, in the order of their steps, and record those that succeed as done.

        Each effect runs at least once. It runs again if the process ends between the handler and the record. Two
        runners at once may both run it: hold a lock around this call to prevent that. An effect that fails stays
        pending; those after it run all the same.

        Args:
            handlers: by the name of an effect, the function that runs it. It gets the effect, whose id is the same each
                time, and the machine as it is by now. Effects of other names are left.
            metadata: who records that effects are done; by default, what the handle or the store was made with.
            timeout_seconds: how long an asynchronous handler may take. A synchronous one cannot be limited.

        Raises:
            InvalidData: an argument is not valid; nothing was run.
            Otherwise as :meth:`get`.
        """
        check_handlers(handlers)
        check_seconds(timeout_seconds, "timeout_seconds")
        check_metadata(self.core.who(metadata, self.metadata))
        complete = partial(self.complete_effect, metadata=metadata)
        return await run_pending(await self.get(), handlers, complete, timeout_seconds)

    async def complete_effect(
        self, effect_id: str, metadata: ChangeMetadata | None = None, *, fence: Fence | None = None
    ) -> MachineSnapshot[S, C]:
        """Record that an effect is done, in one commit. If the effect is no longer pending, nothing is written.

        Nothing else of the machine changes: a step that was taken meanwhile stays. The record does not count as a step.

        Args:
            effect_id: the id of the effect.
            metadata: who records it and why; by default, what the handle or the store was made with.
            fence: a lease; it is recorded only while its lock is held.

        Raises:
            InvalidData: the id or the metadata cannot be stored.
            Otherwise as :meth:`get` and ``StateStore.save_state``.
        """
        core, stream = self.core, self.stream
        saying = self._saying(core, metadata, None, None)
        completion = Completion(core, stream, effect_id, saying.who, is_reasoned=saying.is_reasoned)
        seen = self._remembered(core)
        known = None if seen is None else seen.known
        append = append_of(stream, EXISTS, (completion.made,), needs_state=True, must_live=True, seen=known)
        change = Change((append,), separately(completion.compose), core.guards(fence))
        [appended] = await core.appender.append(change)
        if appended is None:
            return await self.get()
        return self._noted(core, core.snapshot(stream, appended.state, appended.recorded_us))

    async def _take(
        self,
        core: Core,
        asked: Asked[S, C],
        expected: Expected,
        fence: Fence | None,
        read: Seen[S, C] | None = None,
    ) -> MachineSnapshot[S, C]:
        """Take a step: judge it, and append its event to the version that it was judged on."""
        stream = self.stream
        seen = read or self._remembered(core)
        attempt = Attempt(core, stream, self.definition, asked, seen)
        known = None if seen is None else seen.known
        if known is not None and not attempt.judged(known):
            known = None  # a refusal that rests on memory alone would be a guess
        append = append_of(stream, expected, (attempt.made,), needs_state=True, must_live=True, seen=known)
        try:
            appended = await core.appender.append_one(append, separately(attempt.compose), core.guards(fence))
        except VersionConflict as conflict:
            raise self._overtaken(conflict, asked.to_state) from conflict
        except TransitionRefused as refused:
            _log.warning("%s", refused, extra=self._ids(None))
            raise
        snapshot = self._noted(core, core.snapshot(stream, appended.state, appended.recorded_us))
        if attempt.step is not None and not appended.is_repeated:
            self._tell(attempt.step, snapshot, asked.intent.metadata.reason)
            await run_after_commit(stream, attempt, snapshot.version)
        return snapshot

    def _remembered(self, core: Core) -> Seen[S, C] | None:
        """The machine as this handle last saw it, if it is still so as far as this store knows; None otherwise."""
        seen = self._seen
        if seen is None:
            return None
        head = core.appender.heads.get(self.stream.state)
        return seen if head is not None and head.digest == seen.known.head.digest else None

    def _overtaken(self, conflict: VersionConflict, to_state: str) -> ConcurrentModification:
        """The error for a machine that is not at the version that its caller expected."""
        from_state, allowed = "", tuple[str, ...]()
        with suppress(TaiStateError):  # the conflict itself is what the caller has to know
            for newest in conflict.events[-1:]:  # there is none if the caller expected a version that is still to come
                state = unseal(self.definition, newest.to_state, conflict.path).present.state
                from_state, allowed = name_of(key_of(state)), self.definition.allowed(state)
        reason = f"the machine is at version {conflict.actual}, not at {conflict.expected}"
        return ConcurrentModification(conflict.path, from_state, to_state, "", reason, allowed, conflict.actual)

    def _noted(self, core: Core, state: JsonSnapshot) -> MachineSnapshot[S, C]:
        """The machine in a state, once its data is remembered for the next step."""
        opened = unseal(self.definition, state.data, self.stream.state)
        head = core.appender.heads.get(self.stream.state)
        self._seen = None if head is None or head.version != state.version else seen_as(core, head, state.data, opened)
        return machine_snapshot(state, opened, self.stream.state)

    def _saying(
        self, core: Core, metadata: ChangeMetadata | None, event_id: str | None, timestamp: datetime | None
    ) -> Saying:
        """What a caller says of a step."""
        return said_by(core.who(metadata, self.metadata), metadata, event_id, timestamp)

    def _tell(self, step: Step[S, C], snapshot: MachineSnapshot[S, C], reason: str) -> None:
        """Log a step that was taken."""
        level = logging.WARNING if step.rule is None else logging.INFO
        if _log.isEnabledFor(level):
            text = "%s: %s from %s to %s (%s)"
            extra = self._ids(snapshot.version)
            _log.log(
                level,
                text,
                self.stream.state,
                step.kind.value,
                step.before.state,
                step.after.state,
                reason,
                extra=extra,
            )

    def _ids(self, version: int | None) -> dict[str, Any]:
        """The ids of the machine, as fields of a log record."""
        return {"governor_id": self.stream.governor_id, "state_id": self.stream.state_id, "version": version}
