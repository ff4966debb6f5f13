"""A typed handle on one state: the methods of the store, with models in place of JSON."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, TypeVar, cast

import msgspec

from tai_state.engines.paging import Paged, mapped
from tai_state.errors import StateNotFound
from tai_state.history.replay import Replay
from tai_state.streams import reading, writing
from tai_state.streams.changes import Fence, Known
from tai_state.streams.following import Following
from tai_state.streams.typed import TypedState
from tai_state.streams.writing import Intent
from tai_state.values.checks import check_callable
from tai_state.values.events import JsonEvent, StateEvent
from tai_state.values.expected import ANY, EXISTS, NO_STATE, Expectation, Expected
from tai_state.values.json import normalise_object
from tai_state.values.metadata import ChangeMetadata
from tai_state.values.states import DeletedState, JsonSnapshot, StateSnapshot

D = TypeVar("D")


class StateHandle(TypedState[D]):
    """A handle on one state, with its data as a model. Made by ``store.state``, which reads nothing.

    The methods work like those of the store, with models instead of JSON. A change through a model keeps the fields of
    the stored state that the model does not know.
    """

    _read: tuple[str, dict[str, Any]] | None = None
    """The state that this handle last read or wrote, by the digest of its event; it saves a save the read."""

    async def get(self) -> StateSnapshot[D]:
        """The state as it is now.

        Raises:
            StateNotFound: there is no such state, or it is deleted.
            SerializationError: the stored data does not fit the model.
        """
        return self._noted(await reading.get_state(self.core, self.stream))

    async def exists(self) -> bool:
        """Whether the state exists and is not deleted."""
        return await reading.exists(self.core, self.stream)

    async def save(
        self,
        value: D,
        metadata: ChangeMetadata | None = None,
        *,
        expected: Expected = NO_STATE,
        action: str = "save",
        payload: Any = None,
        event_id: str | None = None,
        timestamp: datetime | None = None,
        fence: Fence | None = None,
    ) -> StateSnapshot[D]:
        """Write the state; by default, create it. See ``StateStore.save_state``.

        Fields of the stored state that the model does not know are kept. To know them, this reads the state first,
        unless this handle was the last of its store to read or write it.

        Raises:
            InvalidData: there are such fields, and it is not clear which item of a list they belong to; or an event id
                was given, which stands for exactly the value. Otherwise as ``StateStore.save_state``.
        """
        intent = Intent(self.core.who(metadata, self.metadata), action, event_id, timestamp, payload)
        core, stream, data = self.core, self.stream, self.codec.to_json(value)
        if self.codec.is_plain or expected in (NO_STATE, 0):
            return self._noted(await writing.save(core, stream, data, intent, expected, fence))
        keep, seen = self.codec.keep_unknown, None if isinstance(expected, Expectation) else self._remembered()
        return self._noted(await writing.save_over(core, stream, data, keep, intent, expected, fence, seen))

    async def update(
        self,
        function: Callable[[D], D],
        metadata: ChangeMetadata | None = None,
        *,
        expected: Expected | None = None,
        initial: D | None = None,
        action: str = "update",
        payload: Any = None,
        event_id: str | None = None,
        timestamp: datetime | None = None,
        fence: Fence | None = None,
    ) -> StateSnapshot[D]:
        """Read the state, change it and write it. If another writer was faster, start again.

        Fields of the stored state that the model does not know are kept, and ``InvalidData`` is raised where it is not
        clear which item of a list they belong to.

        Args:
            function: a pure function from the old value to the new one. It may run several times, each time on the
                value just read.
            metadata: who made the change and why; by default, what the handle or the store was made with.
            expected: run the function only on this version, or on the state as it was read. If another writer was
                faster, ``VersionConflict`` is raised at once, as needed for ``If-Match`` on the web.
            initial: the value that the function gets if there is no state, or a deleted one. Without it,
                ``StateNotFound`` is raised then.
            action: what happened.
            payload: any JSON value; kept with the event, and not part of the state.
            event_id: the caller's own id, so that repeating the call changes nothing and returns the first result,
                whatever the function would return for the present state.
            timestamp: when it happened; now, if not given.
            fence: a lease; the change is made only while its lock is held.

        Raises:
            StateNotFound: there is no state, and no initial value.
            StoreTimeout: other writers were faster until the timeout. Otherwise as ``StateStore.update_state``.
        """

        def evolve(data: dict[str, Any] | None) -> dict[str, Any]:
            if data is None:
                if initial is None:
                    raise StateNotFound(self.stream.state)
                # A copy: a function that changes what it is given would find the initial value changed the next time.
                _, data = normalise_object(self.codec.to_json(initial), "the initial value")
            path, before = self.stream.state, data
            return self.codec.keep_unknown(before, self.codec.to_json(function(self.codec.from_json(data, path))), path)

        check_callable(function, "function")
        if expected is None:
            expected = EXISTS if initial is None else ANY
        intent = Intent(self.core.who(metadata, self.metadata), action, event_id, timestamp, payload)
        return self._noted(await writing.update(self.core, self.stream, evolve, intent, expected, fence))

    async def log(
        self,
        action: str,
        metadata: ChangeMetadata | None = None,
        *,
        payload: Any = None,
        expected: Expected = EXISTS,
        event_id: str | None = None,
        timestamp: datetime | None = None,
        fence: Fence | None = None,
    ) -> StateEvent[D]:
        """Record an event that does not change the state's data; see ``StateStore.log_event``."""
        intent = Intent(self.core.who(metadata, self.metadata), action, event_id, timestamp, payload)
        return self._typed_event(await writing.log(self.core, self.stream, intent, expected, fence))

    async def delete(
        self,
        metadata: ChangeMetadata | None = None,
        *,
        expected: Expected,
        action: str = "delete",
        event_id: str | None = None,
        timestamp: datetime | None = None,
        fence: Fence | None = None,
    ) -> DeletedState:
        """Delete the state; see ``StateStore.delete_state``."""
        intent = Intent(self.core.who(metadata, self.metadata), action, event_id, timestamp)
        return await writing.delete(self.core, self.stream, intent, expected, fence)

    async def at(self, version_or_time: int | datetime) -> StateSnapshot[D] | DeletedState:
        """The state as it was at a version or at a time; see ``StateMachinePersister.get_state_at``."""
        return self.typed(await Replay(self.core, {}).at(self.stream, version_or_time))

    def history(
        self, *, after: int = 0, until: int | None = None, limit: int | None = None, newest_first: bool = False
    ) -> Paged[StateEvent[D]]:
        """The events of the state, by default oldest first; see ``StateStore.get_events``."""
        events = reading.get_events(
            self.core, self.stream, after=after, until=until, limit=limit, newest_first=newest_first
        )
        return mapped(events, lambda page: map(self._typed_event, page))

    def watch(self) -> AbstractAsyncContextManager[AsyncIterator[StateSnapshot[D] | DeletedState]]:
        """Watch the state: yields it as it is now, and again after each change. See ``StateStore.watch``."""
        return Following(self.core, self.governor_id, [self.state_id], self.typed)

    def _noted(self, state: JsonSnapshot) -> StateSnapshot[D]:
        """The state as the model, once its data is remembered for the next save."""
        if not self.codec.is_plain:
            head = self.core.appender.heads.get(self.stream.state)
            self._read = (head.digest, state.data) if head is not None and head.version == state.version else None
        return self.typed(state)

    def _remembered(self) -> Known | None:
        """What is known of the state if it is still as this handle last saw it; None otherwise."""
        head = self.core.appender.heads.get(self.stream.state)
        if head is None or self._read is None or self._read[0] != head.digest:
            return None
        return Known(msgspec.structs.replace(head, schema=self.core.reader.schema), self._read[1])

    def _typed_event(self, event: JsonEvent) -> StateEvent[D]:
        typed: Any = event
        before, now = event.from_state, event.to_state
        return cast(
            "StateEvent[D]",
            msgspec.structs.replace(
                typed,
                from_state=None if before is None else self.codec.from_json(before, self.stream.state),
                to_state=None if now is None else self.codec.from_json(now, self.stream.state),
            ),
        )
