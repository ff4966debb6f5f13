"""The status and the record of a transaction."""

from __future__ import annotations

from datetime import datetime
from enum import Enum

import msgspec


class TransactionStatus(Enum):
    """The status of a transaction."""

    PENDING = "pending"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"
    """Its function, or its block, raised an error: nothing was written."""
    FAILED = "failed"
    """Others were faster, or the engine failed: nothing was written."""
    UNKNOWN = "unknown"
    """The answer to its commit was lost: either everything was written or nothing."""


class StateVersion(msgspec.Struct, frozen=True):
    """A state at one of its versions.

    Attributes:
        path: the path of the state.
        version: its version; 0 if it was never written.
    """

    path: str
    version: int


class TransactionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One transaction, as its manager remembers it.

    Attributes:
        transaction_id: a random id.
        status: its status.
        attempts: how often its function has run so far.
        reads: the states that the last attempt read, at the versions it read.
        writes: the states that it wrote, at their new versions; empty if nothing was written.
        started_at: by the clock of the store's settings.
        ended_at: by the same clock; None while it is pending.
        reason: the error that ended it, if one did.
    """

    transaction_id: str
    status: TransactionStatus
    attempts: int
    reads: tuple[StateVersion, ...] = ()
    writes: tuple[StateVersion, ...] = ()
    started_at: datetime
    ended_at: datetime | None = None
    reason: str | None = None
