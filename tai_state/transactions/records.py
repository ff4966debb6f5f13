"""What became of a transaction."""

from __future__ import annotations

from datetime import datetime
from enum import Enum

import msgspec


class TransactionStatus(Enum):
    """How a transaction stands."""

    PENDING = "pending"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"
    """Its function, or its block, raised an error: nothing was written."""
    FAILED = "failed"
    """Others were faster, or the engine could not do it: nothing was written."""
    UNKNOWN = "unknown"
    """The answer to its commit was lost: all of it may be written, or nothing."""


class StateVersion(msgspec.Struct, frozen=True):
    """A state, and a version of it.

    Attributes:
        path: of the state.
        version: 0 where it was never written.
    """

    path: str
    version: int


class TransactionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One transaction, as its manager remembers it.

    Attributes:
        transaction_id: random.
        status: how it stands.
        attempts: how often its function was run so far.
        reads: the states that the last attempt read, as they were then.
        writes: the states that it wrote, at their new versions; empty where nothing was written.
        started_at: by the clock of the store's settings.
        ended_at: likewise; None while it is pending.
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
