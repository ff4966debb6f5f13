"""A typed handle on one state: what the store does, with models in place of JSON."""

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
from tai_state.streams.changes import Fence
from tai_state.streams.following import Following
from tai_state.streams.typed import TypedState
from tai_state.streams.writing import Intent
from tai_state.values.events import JsonEvent, StateEvent
from tai_state.values.expected import ANY, EXISTS, NO_STATE, Expected
from tai_state.values.json import normalise_object
from tai_state.values.metadata import ChangeMetadata
from tai_state.values.states import DeletedState, StateSnapshot

D = TypeVar("D")


class StateHandle(TypedState[D]):
    """One state, its data as a model. Made by ``store.state``; making it reads nothing.

    Methods take and return what the store's methods of the same names do, with models instead of JSON.
    """

    async def get(self) -> StateSnapshot[D]:
        """The state as it is now.

        Raises:
            StateNotFound: there is none.
            SerializationError: what is stored does not fit the model.
        """
        return self.typed(await reading.get_state(self.core, self.stream))

    async def exists(self) -> bool:
        """Whether the state is there and not deleted."""
        return await reading.exists(self.core, self.stream)

    async def save(
        self,
        value: D,
        metadata: ChangeMetadata,
        *,
        expected: Expected = NO_STATE,
        action: str = "save",
        payload: Any = None,
        event_id: str | None = None,
        timestamp: datetime | None = None,
        fence: Fence | None = None,
    ) -> StateSnapshot[D]:
        """Write the state, by default one that is not there yet; see ``StateStore.save_state``."""
        intent = Intent(metadata, action, event_id, timestamp, payload)
        data = self.codec.to_json(value)
        return self.typed(await writing.save(self.core, self.stream, data, intent, expected, fence))

    async def update(
        self,
        function: Callable[[D], D],
        metadata: ChangeMetadata,
        *,
        expected: Expected | None = None,
        initial: D | None = None,
        action: str = "update",
        payload: Any = None,
        event_id: str | None = None,
        timestamp: datetime | None = None,
        fence: Fence | None = None,
    ) -> StateSnapshot[D]:
        """Read the state, change it, write it; again from the start when somebody else was faster.

        Args:
            function: pure: it may run several times, each time on what was just read.
            metadata: who and why.
            expected: the only version, or the state as it was read, on which the function is to run: where somebody
                else was faster, that is ``VersionConflict`` at once, as for ``If-Match`` on the web.
            initial: what the function is given where there is no state, or a deleted one; without it, that is
                ``StateNotFound``.
            action: what happened.
            payload: any JSON value, kept with the event and no part of the state.
            event_id: the caller's own, so that the same call again changes nothing and returns the first result,
                whatever the function would make of the present state.
            timestamp: when it happened; now, if not given.
            fence: a lease; the change happens only as long as its lock is held.

        Raises:
            StateNotFound: there is no state, and no initial value.
            StoreTimeout: others were faster all the time. Otherwise as ``StateStore.update_state``.
        """

        def evolve(data: dict[str, Any] | None) -> dict[str, Any]:
            if data is None:
                if initial is None:
                    raise StateNotFound(self.stream.state)
                # A copy: a function that changes what it is given would find the initial value changed the next time.
                _, data = normalise_object(self.codec.to_json(initial), "the initial value")
            return self.codec.to_json(function(self.codec.from_json(data, self.stream.state)))

        if expected is None:
            expected = EXISTS if initial is None else ANY
        intent = Intent(metadata, action, event_id, timestamp, payload)
        return self.typed(await writing.update(self.core, self.stream, evolve, intent, expected, fence))

    async def log(
        self,
        action: str,
        metadata: ChangeMetadata,
        *,
        payload: Any = None,
        expected: Expected = EXISTS,
        event_id: str | None = None,
        timestamp: datetime | None = None,
        fence: Fence | None = None,
    ) -> StateEvent[D]:
        """Record that something happened to the state and left it as it is; see ``StateStore.log_event``."""
        intent = Intent(metadata, action, event_id, timestamp, payload)
        return self._typed_event(await writing.log(self.core, self.stream, intent, expected, fence))

    async def delete(
        self,
        metadata: ChangeMetadata,
        *,
        expected: Expected,
        action: str = "delete",
        event_id: str | None = None,
        timestamp: datetime | None = None,
        fence: Fence | None = None,
    ) -> DeletedState:
        """Delete the state; see ``StateStore.delete_state``."""
        intent = Intent(metadata, action, event_id, timestamp)
        return await writing.delete(self.core, self.stream, intent, expected, fence)

    async def at(self, version_or_time: int | datetime) -> StateSnapshot[D] | DeletedState:
        """The state as it was at a version, or at a time; see ``StateMachinePersister.get_state_at``."""
        return self.typed(await Replay(self.core, {}).at(self.stream, version_or_time))

    def history(
        self, *, after: int = 0, until: int | None = None, limit: int | None = None, newest_first: bool = False
    ) -> Paged[StateEvent[D]]:
        """The events, oldest first unless it is said otherwise; see ``StateStore.get_events``."""
        events = reading.get_events(
            self.core, self.stream, after=after, until=until, limit=limit, newest_first=newest_first
        )
        return mapped(events, lambda page: map(self._typed_event, page))

    def watch(self) -> AbstractAsyncContextManager[AsyncIterator[StateSnapshot[D] | DeletedState]]:
        """The state as it is now, and again each time it changed; see ``StateStore.watch``."""
        return Following(self.core, self.governor_id, [self.state_id], self.typed)

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
