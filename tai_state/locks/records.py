"""The contents of lock documents, and what callers get from them. ``docs/format.md`` fixes the fields."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final

import msgspec

from tai_state.engines.api import Document, Shape
from tai_state.errors import CorruptDocument, InvalidId
from tai_state.values.ids import escape_id


class LockRecord(msgspec.Struct, frozen=True):
    """``locks/{r}``: written only when a lock is acquired or taken over, so its revision is the fence of one tenure.

    Attributes:
        holder: the holder's name, for people to read.
        nonce: identifies this tenure; no other tenure has it.
        ttl: seconds from the last sign of life to the end of the lease.
        acquired_at: by the holder's clock, for people to read.
    """

    holder: str
    nonce: Annotated[str, msgspec.Meta(pattern="^[^/]+$")]
    ttl: float
    acquired_at: str


class BeatRecord(msgspec.Struct, frozen=True):
    """``lockbeats/{r}``: the last renewal; it counts only with the lock's own nonce.

    Attributes:
        nonce: the nonce of the renewed tenure.
        n: how often it was renewed.
    """

    nonce: str
    n: int


class BreakRecord(msgspec.Struct, frozen=True):
    """``lockbreaks/{nonce}``: a tenure lost a lock to ``break_lock``; its holder finds this when it releases the lock.

    Attributes:
        resource: the lock that was broken.
        ttl: how long that lock could have lasted without a renewal; after that, its holder knows that it is over.
        by: names the call that broke it, and before it those that broke other locks of the tenure, apart by spaces: so
            that each can tell whether it was the one. Empty in older notes.
    """

    resource: str
    ttl: float
    by: str = ""


class HeldLock(msgspec.Struct, frozen=True):
    """A lock that a waiter for another lock holds.

    Attributes:
        resource: the locked resource.
        nonce: the nonce of its tenure.
    """

    resource: str
    nonce: str


class WaiterRecord(msgspec.Struct, frozen=True, kw_only=True):
    """``locks/{r}/waiters/{owner}``: a waiter; one document for each wanted resource, all with the same fields.

    Attributes:
        holder: the waiter's name, for people to read.
        holds: the locks that the waiting scope holds while it waits.
        wants: the resources that it wants, all at once.
        ttl: seconds from the last sign of life until it counts as gone.
        ticket: greater for a later arrival: the revision of its first write; 0 while the document has that revision.
        n: how many signs of life it has given.
    """

    holder: str
    holds: tuple[HeldLock, ...]
    wants: tuple[str, ...]
    ttl: float
    ticket: int
    n: int

    def __post_init__(self) -> None:
        """Refuse names that no resource has; a stored document with such a name is damaged."""
        try:
            for each in (*self.wants, *(held.resource for held in self.holds)):
                escape_id(each, "resource")
        except InvalidId as error:
            raise ValueError(str(error)) from None


CLEANUP: Final = "run `tai-state locks --cleanup`, or call `cleanup_expired_locks`"
"""What to do about a damaged document that nobody needs."""

LOCK = Shape(LockRecord)
BEAT = Shape(BeatRecord, CLEANUP)
BREAK = Shape(BreakRecord, f"it still tells the holder; a day after it was written, {CLEANUP}", is_small=True)
WAITER = Shape(WaiterRecord, f"it is passed over; to remove it, {CLEANUP}")


class LockInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A lock at this moment.

    Attributes:
        resource: the locked resource.
        holder: the holder's name.
        fence: the fencing number of this tenure.
        acquired_at: by the engine's clock.
        last_sign_at: when it was acquired or last renewed, by the engine's clock.
        ttl_seconds: how long each renewal makes it last.
        remaining_seconds: how long until it can be taken over unless it is renewed; 0: now. Where the users of a store
            share no clock, this is counted from when this manager first saw the lock's present state.
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
        """Whether the lock has not been renewed for so long that any caller may take it over."""
        return self.remaining_seconds <= 0


def holder_of(document: Document | None) -> str | None:
    """The holder in a lock's document, for an error message; None if there is no document or it cannot be decoded."""
    try:
        return None if document is None else document.decode(LOCK).holder
    except CorruptDocument:
        return None
