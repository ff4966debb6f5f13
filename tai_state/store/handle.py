"""A typed handle on one state: the codec between a model and JSON, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import msgspec
from pydantic import TypeAdapter, ValidationError
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from tai_state.engines.paging import Paged, mapped
from tai_state.errors import InvalidData, SerializationError, VersionConflict
from tai_state.store.changes import Fence
from tai_state.values.events import Event, JsonEvent
from tai_state.values.expected import NO_STATE, Expected
from tai_state.values.json import to_bytes
from tai_state.values.metadata import ChangeMetadata
from tai_state.values.states import JsonSnapshot, StateSnapshot

if TYPE_CHECKING:
    from tai_state.store.store import StateStore

D = TypeVar("D")

UPDATES_MAX = 32
"""How often ``update`` runs its function when others are faster."""


class StateHandle(Generic[D]):
    """One state, its data as a model. Made by ``store.state``; making it reads nothing.

    Methods take and return what the store's methods of the same names do, with models instead of JSON.

    Attributes:
        store: that the state is in.
        governor_id: the owner and namespace.
        state_id: the state under it.
        codec: between the model and JSON.
    """

    def __init__(self, store: StateStore, governor_id: str, state_id: str, codec: Codec[D]) -> None:
        self.store: StateStore = store
        self.governor_id: str = governor_id
        self.state_id: str = state_id
        self.codec: Codec[D] = codec
        self._path = store.layout.stream(governor_id, state_id).state

    async def get(self) -> StateSnapshot[D]:
        """The state as it is now.

        Raises:
            StateNotFound: there is none.
            SerializationError: what is stored does not fit the model.
        """
        return self.typed(await self.store.get_state(self.governor_id, self.state_id))

    async def save(
        self,
        value: D,
        metadata: ChangeMetadata,
        *,
        expected: Expected = NO_STATE,
        action: str = "save",
        event_id: str | None = None,
        timestamp: datetime | None = None,
        fence: Fence | None = None,
    ) -> StateSnapshot[D]:
        """Write the state, by default one that is not there yet; see ``StateStore.save_state``."""
        written = await self.store.save_state(
            self.governor_id,
            self.state_id,
            self.codec.to_json(value),
            metadata,
            expected=expected,
            action=action,
            event_id=event_id,
            timestamp=timestamp,
            fence=fence,
        )
        return self.typed(written)

    async def update(
        self,
        function: Callable[[D], D],
        metadata: ChangeMetadata,
        *,
        action: str = "update",
        event_id: str | None = None,
        timestamp: datetime | None = None,
        fence: Fence | None = None,
    ) -> StateSnapshot[D]:
        """Read the state, change it, write it; again from the start when somebody else was faster.

        Args:
            function: pure: it may run several times (32 at the most), each time on what was just read.
            metadata: who and why.
            action: what happened.
            event_id: the caller's own, so that the same call again changes nothing and returns the first result,
                whatever the function would make of the present state.
            timestamp: when it happened; now, if not given.
            fence: a lease; the change happens only as long as its lock is held.

        Raises:
            VersionConflict: others were faster 32 times. Otherwise as ``StateStore.update_state``.
        """
        attempts = AsyncRetrying(
            retry=retry_if_exception_type(VersionConflict),
            stop=stop_after_attempt(UPDATES_MAX),
            wait=wait_random_exponential(multiplier=0.005, max=1.0),
            reraise=True,
        )
        async for attempt in attempts:
            with attempt:
                if event_id is not None:
                    done = await self.store.result_of(self.governor_id, self.state_id, event_id, action, metadata)
                    if done is not None:
                        return self.typed(done)
                async with self.store.turns.of([self._path]):
                    before = await self.get()
                    written = await self.store.update_state(
                        self.governor_id,
                        self.state_id,
                        self.codec.to_json(function(before.data)),
                        metadata,
                        expected=before.version,
                        action=action,
                        event_id=event_id,
                        timestamp=timestamp,
                        fence=fence,
                    )
                return self.typed(written)
        raise AssertionError("the last attempt returns or raises")

    async def delete(
        self,
        metadata: ChangeMetadata,
        *,
        expected: Expected,
        action: str = "delete",
        event_id: str | None = None,
        timestamp: datetime | None = None,
        fence: Fence | None = None,
    ) -> StateSnapshot[None]:
        """Delete the state; see ``StateStore.delete_state``."""
        deleted = await self.store.delete_state(
            self.governor_id,
            self.state_id,
            metadata,
            expected=expected,
            action=action,
            event_id=event_id,
            timestamp=timestamp,
            fence=fence,
        )
        return cast("StateSnapshot[None]", deleted)

    async def at(self, version_or_time: int | datetime) -> StateSnapshot[D]:
        """The state as it was at a version, or at a time; see ``StateMachinePersister.get_state_at``."""
        return self.typed(await self.store.state_at(self.governor_id, self.state_id, version_or_time))

    def history(self, *, after: int = 0, until: int | None = None) -> Paged[Event[D]]:
        """The events, oldest first; see ``StateStore.get_events``."""
        events = self.store.get_events(self.governor_id, self.state_id, after=after, until=until)
        return mapped(events, lambda page: map(self._typed_event, page))

    async def watch(self) -> AsyncGenerator[StateSnapshot[D], None]:
        """The state as it is now, and again each time it changed; see ``StateStore.watch``."""
        async with aclosing(self.store.watch(self.governor_id, self.state_id)) as snapshots:
            async for snapshot in snapshots:
                yield self.typed(snapshot)

    def typed(self, snapshot: JsonSnapshot) -> StateSnapshot[D]:
        """A snapshot with its data as the model.

        Raises:
            SerializationError: the data does not fit it.
        """
        if snapshot.deleted:
            return cast("StateSnapshot[D]", snapshot)
        typed: Any = snapshot
        return cast(
            "StateSnapshot[D]",
            msgspec.structs.replace(typed, data=self.codec.from_json(snapshot.data, self._path)),
        )

    def _typed_event(self, event: JsonEvent) -> Event[D]:
        typed: Any = event
        before, now = event.from_state, event.to_state
        return cast(
            "Event[D]",
            msgspec.structs.replace(
                typed,
                from_state=None if before is None else self.codec.from_json(before, self._path),
                to_state=None if now is None else self.codec.from_json(now, self._path),
            ),
        )


class Codec(Generic[D]):
    """Turns a model into a JSON object and back.

    Args:
        model: anything pydantic can validate and that dumps to a JSON object; None: plain JSON, as it is.
    """

    def __init__(self, model: type[D] | None) -> None:
        self._adapter: TypeAdapter[D] | None = None if model is None else TypeAdapter(model)

    def to_json(self, value: D) -> dict[str, Any]:
        """The JSON object of a model, by its aliases, from which the model reads back equal.

        Computed fields, private attributes and fields that are excluded are no part of it.

        Raises:
            InvalidData: it is none, or would read back as something else.
        """
        if self._adapter is None:
            return cast("dict[str, Any]", value)
        try:
            data = self._adapter.dump_python(value, mode="json", by_alias=True, round_trip=True, warnings="error")
            back = self._adapter.validate_json(to_bytes(data), by_name=True)
            is_same = back == value or _whole(self._adapter, back) == _whole(self._adapter, value)
        except ValidationError as error:
            raise InvalidData(f"the value would not read back: it does not fit its model at {_places(error)}") from None
        except ValueError as error:
            raise InvalidData(f"the value does not fit its model ({type(error).__name__})") from None
        if not is_same:
            raise InvalidData("the value would read back as another one: its model does not keep all of it as JSON")
        return cast("dict[str, Any]", data)

    def from_json(self, data: dict[str, Any], path: str) -> D:
        """The model of a JSON object, whose keys are aliases or names of fields.

        Raises:
            SerializationError: it does not fit; the message names the fields, not their values.
        """
        if self._adapter is None:
            return cast("D", data)
        try:
            return self._adapter.validate_json(to_bytes(data), by_name=True)
        except ValidationError as error:
            raise SerializationError(path, f"does not fit the model at {_places(error)}") from None


def _whole(adapter: TypeAdapter[D], value: D) -> Any:
    """All that a value holds, by which those without an equality of their own are compared."""
    return adapter.dump_python(value, serialize_as_any=True, warnings=False)


def _places(error: ValidationError) -> str:
    """The fields that an error is about, without their values."""
    return ", ".join(".".join(map(str, each["loc"])) or "$" for each in error.errors())
