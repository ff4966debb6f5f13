"""A state with its paths and its model, as transactions accept it."""

from __future__ import annotations

from typing import Any, Generic, TypeVar, cast, overload

import msgspec

from tai_state.streams.codec import Codec
from tai_state.streams.core import Core, HasCore
from tai_state.streams.layout import Stream
from tai_state.values.metadata import ChangeMetadata
from tai_state.values.states import DeletedState, JsonSnapshot, JsonState, StateSnapshot

D = TypeVar("D")


class TypedState(Generic[D]):
    """Names a state of a store, and knows its model. Making one reads nothing; the store may be opened later.

    Made by ``store.state``, as a :class:`~tai_state.StateHandle`.

    Args:
        store: the store of the state.
        stream: the state's paths.
        codec: converts the model to JSON and back.
        metadata: who makes the changes that do not name it, and why; None: the store's own.

    Attributes:
        stream: as given.
        codec: as given.
        metadata: as given.
    """

    def __init__(self, store: HasCore, stream: Stream, codec: Codec[D], metadata: ChangeMetadata | None = None) -> None:
        self.stream: Stream = stream
        self.codec: Codec[D] = codec
        self.metadata: ChangeMetadata | None = metadata
        self._store = store

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.stream.state!r} as {self.codec.name}>"

    @property
    def governor_id(self) -> str:
        """The owner and namespace."""
        return self.stream.governor_id

    @property
    def state_id(self) -> str:
        """The state under it."""
        return self.stream.state_id

    @property
    def core(self) -> Core:
        """The opened core of its store, for the library's own use; not part of the public interface.

        Raises:
            RuntimeError: the store is not open.
        """
        return self._store.core

    @overload
    def typed(self, state: JsonSnapshot) -> StateSnapshot[D]: ...
    @overload
    def typed(self, state: JsonState) -> StateSnapshot[D] | DeletedState: ...
    def typed(self, state: JsonState) -> StateSnapshot[D] | DeletedState:
        """The state with its data as the model.

        Raises:
            SerializationError: the data does not fit the model.
        """
        if isinstance(state, DeletedState):
            return state
        typed: Any = state
        data = self.codec.from_json(state.data, self.stream.state)
        return cast("StateSnapshot[D]", msgspec.structs.replace(typed, data=data))
