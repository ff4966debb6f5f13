"""A state as read at one version."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import msgspec

from tai_state.values.clocks import VectorClock
from tai_state.values.metadata import ChangeMetadata

_NEVER = datetime(1970, 1, 1, tzinfo=UTC)

D = TypeVar("D")


class StateSnapshot(msgspec.Struct, Generic[D], frozen=True, kw_only=True):
    """A state's data at one version, as read.

    Attributes:
        governor_id: the owner and namespace of the machine.
        state_id: the state under it.
        version: the length of the state's stream; 0 means never written.
        data: a JSON object, or the model of the typed handle that read it; None when deleted.
        timestamp: when the change happened, as its caller said.
        recorded_at: when the engine stored it.
        metadata: who made the change, and why.
        causality: the vector clock of the version's event.
        deleted: True when this version is a deletion.
    """

    governor_id: str
    state_id: str
    version: int
    data: D
    timestamp: datetime
    recorded_at: datetime
    metadata: ChangeMetadata
    causality: VectorClock
    deleted: bool = False

    @classmethod
    def unsaved(cls, governor_id: str, state_id: str, data: D) -> StateSnapshot[D]:
        """A state that was never written: version 0, and no history. For ``log_transition`` to write."""
        return cls(
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
        """The same state with other data, as a proposal to write."""
        return msgspec.structs.replace(self, data=data)


JsonSnapshot = StateSnapshot[dict[str, Any]]
