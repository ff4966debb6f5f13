"""A handle on a stored machine of another library: each event that it takes is one commit of what became of it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Generic, TypeAlias

from tai_state.adapters.attributes import Attributes, C
from tai_state.adapters.charts import Chart, chart_in, read_chart
from tai_state.adapters.library import Library, finished
from tai_state.adapters.records import (
    AdaptedEventRecord,
    AdaptedSnapshot,
    AdaptedStep,
    adapted_events,
    adapted_snapshot,
)
from tai_state.adapters.sending import Run, Sending
from tai_state.engines.paging import Paged, mapped
from tai_state.errors import ConcurrentModification, TransitionRefused, VersionConflict
from tai_state.machines.asking import said_by
from tai_state.machines.judging import StepKind
from tai_state.machines.payloads import BROUGHT
from tai_state.machines.triggers import Event
from tai_state.streams import reading, writing
from tai_state.streams.changes import Appended, Fence, Known
from tai_state.streams.codec import codec_of
from tai_state.streams.core import HasCore
from tai_state.streams.layout import Stream
from tai_state.streams.typed import TypedState
from tai_state.streams.writing import Intent
from tai_state.values.expected import EXISTS, NO_STATE, Expected
from tai_state.values.json import decode, normalise_object
from tai_state.values.metadata import ChangeMetadata, check_text

AfterCommit: TypeAlias = Callable[[AdaptedStep[C]], Awaitable[None] | None]
"""Is called with each step, once its commit is acknowledged."""

_log = logging.getLogger("tai_state.adapters")


class AdaptedMachine(TypedState[dict[str, Any]], Generic[C]):
    """A handle on one stored machine of another library. Made by ``adapter.machine``, which reads nothing."""

    def __init__(
        self,
        store: HasCore,
        stream: Stream,
        library: Library,
        attributes: Attributes[C],
        after_commit: AfterCommit[C] | None,
        timeout_seconds: float,
        metadata: ChangeMetadata | None = None,
    ) -> None:
        super().__init__(store, stream, codec_of(None), metadata)
        self._library = library
        self._attributes = attributes
        self._after_commit = after_commit
        self._timeout_seconds = timeout_seconds

    def __repr__(self) -> str:
        return f"<AdaptedMachine {self.stream.state!r} as {self._library.name!r}>"

    async def get(self) -> AdaptedSnapshot[C]:
        """The machine as it is now.

        Raises:
            StateNotFound: there is no such machine, or it is deleted.
            UnknownMachineState: it is another machine, or in a configuration that this one does not have.
            SerializationError: its state is not that of a machine of another library, or its context does not fit.
        """
        state = await reading.get_state(self.core, self.stream)
        chart = self._opened(state.data)
        return adapted_snapshot(state, chart.chart, self._attributes.as_model(chart.context, self.stream.state))

    async def exists(self) -> bool:
        """Whether the machine exists and is not deleted."""
        return await reading.exists(self.core, self.stream)

    async def initialize(
        self,
        metadata: ChangeMetadata | None = None,
        *,
        context: C | None = None,
        expected: Expected = NO_STATE,
        event_id: str | None = None,
        timestamp: datetime | None = None,
        fence: Fence | None = None,
    ) -> AdaptedSnapshot[C]:
        """Create the machine: it enters its initial states, with their callbacks, and what became of it is stored.

        Args:
            metadata: who creates it and why; by default, what the handle, the adapter or the store was made with.
            context: the attributes that it begins with; by default, those of its model.
            expected: what the writer believes the version to be.
            event_id: the caller's own id, so that repeating the call changes nothing, runs no callback, and returns
                the first result.
            timestamp: when it happened; now, if not given.
            fence: a lease; the change is made only while its lock is held.

        Raises:
            InvalidData: the context is not one of the adapter, or an attribute cannot be stored.
            InvalidDefinition: a callback asked for what lives in memory alone.
            RuntimeError: a callback of the same machine calls it.
            Exception: whatever a callback raised; nothing is written then.
            Otherwise as ``StateStore.save_state``.
        """
        self._attributes.check(context)
        given: Any = context
        values = self._attributes.to_json(given)
        said = said_by(self.core.who(metadata, self.metadata), metadata, event_id, timestamp)
        intent = said.intent(StepKind.INITIALIZE, Event("Initialization"), {} if values is None else {BROUGHT: values})

        async def begun(_known: Known) -> Chart:
            return await self._library.begin(values, self.stream.state)

        appended = await self._taken(begun, intent, expected, fence, must_live=False)
        return await self._acknowledged(appended, None, {}, ())

    async def send(
        self,
        event: str,
        arguments: dict[str, Any] | None = None,
        metadata: ChangeMetadata | None = None,
        *,
        expected: Expected = EXISTS,
        event_id: str | None = None,
        timestamp: datetime | None = None,
        fence: Fence | None = None,
    ) -> AdaptedSnapshot[C]:
        """Let the machine run an event, with its own guards and callbacks, and store what became of it in one commit.

        The machine is read, made anew at its configuration, and runs the event while this task has its turn. So of the
        tasks of one process that send to it, one after the other runs the callbacks, each on what the one before has
        stored. If another process was faster, nothing is written, and the callbacks run again on what that one wrote.

        Args:
            event: the name of the event.
            arguments: what the event brings, by name: a JSON object. It is kept with the event, and each run of the
                callbacks gets a copy.
            metadata: who sends it and why; by default, what the handle, the adapter or the store was made with.
            expected: the version that the event is meant for. If another writer was faster,
                ``ConcurrentModification`` is raised. By default, it is sent to whatever version there is.
            event_id: the caller's own id, so that repeating the call changes nothing, runs no callback, and returns
                the first result, even if the machine has moved on.
            timestamp: when it happened; now, if not given.
            fence: a lease; the event is sent only while its lock is held.

        Raises:
            InvalidTransition: the event takes no transition, or no condition holds. The library's own error, if it
                raised one, is the cause. It is raised even if the machine is told to ignore such events.
            ConcurrentModification: the machine is not at the version expected.
            InvalidDefinition: a callback asked for what lives in memory alone.
            InvalidData: the machine cannot have such an event, or an argument or attribute cannot be stored.
            TimeoutError: the callbacks are asynchronous, and took too long.
            RuntimeError: a callback of the same machine calls it.
            Exception: whatever a callback raised; nothing is written then.
            Otherwise as :meth:`get` and ``StateStore.save_state``.
        """
        check_text(event, "event")
        text, brought = normalise_object({} if arguments is None else arguments, "arguments")
        self._library.check_event(event, brought)
        said = said_by(self.core.who(metadata, self.metadata), metadata, event_id, timestamp)
        intent = said.intent(StepKind.TRANSITION, Event(event), {BROUGHT: brought} if brought else {})
        before: tuple[str, ...] = ()

        async def ran(known: Known) -> Chart:
            nonlocal before
            chart = self._opened(writing.present_data(self.core, self.stream, known))
            before = chart.chart.configuration
            return await self._library.run(chart, event, decode(text.encode()), self.stream.state)

        try:
            appended = await self._taken(ran, intent, expected, fence, must_live=True)
        except TransitionRefused as refused:
            _log.warning("%s", refused, extra=self._ids(None))
            raise
        return await self._acknowledged(appended, event, brought, before)

    def history(
        self, *, after: int = 0, until: int | None = None, limit: int | None = None, newest_first: bool = False
    ) -> Paged[AdaptedEventRecord]:
        """The events of the machine, by default oldest first; see ``StateStore.get_events``.

        It raises at none that others have written.
        """
        events = reading.get_events(
            self.core, self.stream, after=after, until=until, limit=limit, newest_first=newest_first
        )
        return mapped(events, adapted_events)

    async def _taken(
        self, run: Run, intent: Intent, expected: Expected, fence: Fence | None, *, must_live: bool
    ) -> Appended:
        """Take a step."""
        sending = Sending(self.core, self.stream, intent, run, expected, fence, must_live=must_live)
        try:
            return await sending.done()
        except VersionConflict as conflict:
            if not must_live:
                raise
            chart = chart_in(conflict.events[-1].to_state) if conflict.events else None
            reason = f"the machine is at version {conflict.actual}, not at {conflict.expected}"
            from_state = "" if chart is None else chart.state
            raise ConcurrentModification(conflict.path, from_state, "", "", reason, (), conflict.actual) from conflict

    async def _acknowledged(
        self, appended: Appended, event: str | None, arguments: dict[str, Any], before: tuple[str, ...]
    ) -> AdaptedSnapshot[C]:
        """The machine after a step that is stored; what comes after its commit has run then."""
        state = self.core.snapshot(self.stream, appended.state, appended.recorded_us)
        chart = self._opened(state.data)
        machine = adapted_snapshot(state, chart.chart, self._attributes.as_model(chart.context, self.stream.state))
        if appended.is_repeated:
            return machine
        _log.info(
            "%s: %s, now in %s", self.stream.state, event or "begins", machine.state, extra=self._ids(machine.version)
        )
        if self._after_commit is not None:
            step = AdaptedStep(event=event, arguments=arguments, from_configuration=before, machine=machine)
            try:
                await finished(self._after_commit(step), self._timeout_seconds)
            except Exception:  # noqa: BLE001 - the step stands, whatever comes after it
                _log.exception(
                    "%s: what comes after the commit failed", self.stream.state, extra=self._ids(machine.version)
                )
        return machine

    def _opened(self, data: Any) -> Chart:
        """The machine in the data of the state, if the library has such a one."""
        chart = read_chart(data, self.stream.state)
        self._library.check(chart.chart, self.stream.state)
        return chart

    def _ids(self, version: int | None) -> dict[str, Any]:
        """The ids of the machine, as fields of a log record."""
        return {"governor_id": self.stream.governor_id, "state_id": self.stream.state_id, "version": version}
