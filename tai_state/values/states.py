"""A state as read at one version: existing or deleted."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import msgspec

from tai_state.values.clocks import VectorClock
from tai_state.values.metadata import ChangeMetadata

_NEVER = datetime(1970, 1, 1, tzinfo=UTC)

D = TypeVar("D")
U = TypeVar("U")


class StateSnapshot(msgspec.Struct, Generic[D], frozen=True, kw_only=True):
    """A state's data at one version, as read.

    Attributes:
        governor_id: the owner and namespace of the machine.
        state_id: the state under it.
        version: the length of the state's stream; 0 means never written.
        data: a JSON object, or the model of the typed handle that read it.
        timestamp: when the change happened, according to the caller.
        recorded_at: when the engine stored it.
        metadata: who made the change, and why.
        causality: the vector clock of the version's event.
        deleted: False, unlike that of a :class:`DeletedState`.
    """

    governor_id: str
    state_id: str
    version: int
    data: D
    timestamp: datetime
    recorded_at: datetime
    metadata: ChangeMetadata
    causality: VectorClock
    deleted: Literal[False] = False

    @staticmethod
    def unsaved(governor_id: str, state_id: str, data: U) -> StateSnapshot[U]:
        """A state that was never written: version 0, no history. Pass it to ``log_transition`` to write it."""
        return StateSnapshot(
            governor_id=governor_id,
            state_id=state_id,
            version=0,
            data=data,
            timestamp=_NEVER,
            recorded_at=_NEVER,
            metadata=ChangeMetadata("", ""),
            causality={},
        )

    def with_data(self, data: D) -> StateSnapshot[D]:
        """The same state with different data, to be written."""
        return msgspec.structs.replace(self, data=data)


class DeletedState(msgspec.Struct, frozen=True, kw_only=True):
    """A state at a version that deleted it. It has the fields of a :class:`StateSnapshot`, but no data.

    ``isinstance(state, DeletedState)`` and ``state.deleted is True`` tell the two apart, for type checkers, too.

    Attributes:
        governor_id: the owner and namespace of the machine.
        state_id: the state under it.
        version: the version of the deletion.
        data: None.
        timestamp: when it was deleted, according to the caller.
        recorded_at: when the engine stored the deletion.
        metadata: who deleted it, and why.
        causality: the vector clock of the deletion's event.
        deleted: True.
    """

    governor_id: str
    state_id: str
    version: int
    data: None = None
    timestamp: datetime
    recorded_at: datetime
    metadata: ChangeMetadata
    causality: VectorClock
    deleted: Literal[True] = True

    def with_data(self, data: D) -> StateSnapshot[D]:
        """The state with data again, to be written."""
        return StateSnapshot(**_facts(self), data=data)


JsonSnapshot = StateSnapshot[dict[str, Any]]

JsonState: TypeAlias = JsonSnapshot | DeletedState
"""A state with plain JSON as data, existing or deleted."""


def with_data(state: JsonState, data: dict[str, Any] | None) -> JsonState:
    """The state with this data; with None, the state as deleted."""
    if data is not None:
        return state.with_data(data)
    return state if isinstance(state, DeletedState) else DeletedState(**_facts(state))


def _facts(state: StateSnapshot[Any] | DeletedState) -> dict[str, Any]:
    """The fields of a state other than its data."""
    names = ("governor_id", "state_id", "version", "timestamp", "recorded_at", "metadata", "causality")
    return {name: getattr(state, name) for name in names}
