"""What stands in the documents of locks, and what callers get of it. ``docs/format.md`` fixes the fields."""

from __future__ import annotations

from datetime import datetime

import msgspec

from tai_state.engines.api import Document, Shape
from tai_state.errors import CorruptDocument


class LockRecord(msgspec.Struct, frozen=True):
    """``locks/{r}``: written by acquiring and taking over only, so that its revision is the fence of one tenure.

    Attributes:
        holder: who has it, by a name for people.
        nonce: of this tenure; no other one has it.
        ttl: seconds from the last sign of life to the end of the lease.
        acquired_at: by the holder's clock, for people.
    """

    holder: str
    nonce: str
    ttl: float
    acquired_at: str


class BeatRecord(msgspec.Struct, frozen=True):
    """``lockbeats/{r}``: the last renewal; it counts only with the lock's own nonce.

    Attributes:
        nonce: of the tenure that was renewed.
        n: how often it was.
    """

    nonce: str
    n: int


class HeldLock(msgspec.Struct, frozen=True):
    """A lock in the hands of one that waits for another.

    Attributes:
        resource: that is locked.
        nonce: of the tenure.
    """

    resource: str
    nonce: str


class WaiterRecord(msgspec.Struct, frozen=True, kw_only=True):
    """``locks/{r}/waiters/{owner}``: somebody who waits; one for each resource wanted, all with the same fields.

    Attributes:
        holder: who waits, by a name for people.
        holds: what the waiting scope has meanwhile.
        wants: the resources that it wants, all at once.
        ttl: seconds from the last sign of life until it counts as gone.
        ticket: its place in line, the revision at which it came; 0 as long as the document has that revision.
        n: how often it has given a sign of life.
    """

    holder: str
    holds: tuple[HeldLock, ...]
    wants: tuple[str, ...]
    ttl: float
    ticket: int
    n: int


LOCK = Shape(LockRecord)
BEAT = Shape(BeatRecord)
WAITER = Shape(WaiterRecord)


class LockInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A lock as it stands.

    Attributes:
        resource: that is locked.
        holder: who has it.
        fence: the fencing number of this tenure.
        acquired_at: by the engine's clock.
        last_sign_at: when it was acquired or last renewed, by the engine's clock.
        ttl_seconds: that each renewal gives.
        remaining_seconds: after which it can be taken over if it is not renewed; 0: at once. Where the users of a
            store share no clock, these are counted from when this manager first saw it so.
    """

    resource: str
    holder: str
    fence: int
    acquired_at: datetime
    last_sign_at: datetime
    ttl_seconds: float
    remaining_seconds: float

    @property
    def is_expired(self) -> bool:
        """Whether the holder has not shown that it lives for so long that anybody may take over."""
        return self.remaining_seconds <= 0


def holder_of(document: Document | None) -> str | None:
    """Who holds the lock whose document this is, for an error's sake: None also where it cannot be read."""
    try:
        return None if document is None else document.decode(LOCK).holder
    except CorruptDocument:
        return None
