"""A lease: what a holder has in hands, and how it knows that it still has it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from typing import NamedTuple

import anyio
import msgspec

from tai_state.engines.api import At, Document
from tai_state.errors import LockLost
from tai_state.locks.records import HeldLock, holder_of
from tai_state.streams.changes import Guard
from tai_state.streams.layout import Layout


class Claim(msgspec.Struct, frozen=True):
    """What is to be locked, and for whom.

    Attributes:
        resources: sorted, each once.
        nonce: shows whose a lock is; fixed before the first send.
        holder: a name for people.
        ttl_seconds: from the last renewal to its end.
    """

    resources: tuple[str, ...]
    nonce: str
    holder: str
    ttl_seconds: float


class Tenure:
    """One holding of some locks together, from the commit that acquired them to its end.

    Args:
        claim: what was acquired.
        fence: the revision of the acquiring commit.
        since: when that was sent, by the holder's monotonic clock.
        monotonic: that clock.

    Attributes:
        claim: as given.
        fence: as given.
        since: when the last acknowledged commit was sent that acquired or renewed it.
        beats: how many renewals were sent.
        is_given_up: the holder wants it no more, and does not count on it from now on.
        is_released: it is given back for sure.
        lost: why it is over, where it was not given up before.
    """

    def __init__(self, claim: Claim, fence: int, since: float, monotonic: Callable[[], float]) -> None:
        self.claim = claim
        self.fence = fence
        self.since: float = since
        self.beats = 0
        self.is_given_up = False
        self.is_released = False
        self.lost: LockLost | None = None
        self._monotonic = monotonic

    @property
    def remaining_seconds(self) -> float:
        """Seconds that are left of it if it is not renewed; 0 once it is over."""
        if self.is_given_up or self.lost is not None:
            return 0.0
        return max(0.0, self.since + self.claim.ttl_seconds - self._monotonic())

    @property
    def standing(self) -> str:
        """How it stands, for people to read."""
        if self.is_released or self.is_given_up:
            return "released" if self.is_released else "given up"
        if self.lost is not None:
            return "lost"
        try:
            left = self.remaining_seconds
        except RuntimeError:  # its clock is the event loop's, and here is none
            return f"{self.claim.ttl_seconds} s from each renewal"
        return f"{left:.1f} s left" if left > 0 else "over"

    def renewed(self, sent: float) -> None:
        """A renewal that was sent at that time is acknowledged."""
        self.since = max(self.since, sent)


class Lease:
    """The right to one resource, for a time.

    It is a fence: writes that take it as ``fence`` happen only as long as the lock is held, whatever clocks say. Where
    something else is protected, hand on the number :attr:`fence` with each request and let the other side refuse
    numbers smaller than the greatest it has seen.

    Made by :class:`~tai_state.LockManager`.
    """

    def __init__(self, tenure: Tenure, resource: str, layout: Layout, store_id: str) -> None:
        self.tenure = tenure
        self._resource = resource
        self._path = layout.lock(resource)
        self._store_id = store_id

    def __repr__(self) -> str:
        return f"<Lease {self.resource!r} by {self.holder!r}, fence {self.fence}, {self.tenure.standing}>"

    @property
    def resource(self) -> str:
        """What is locked."""
        return self._resource

    @property
    def holder(self) -> str:
        """Who holds it, by the name that was given."""
        return self.tenure.claim.holder

    @property
    def ttl_seconds(self) -> float:
        """Seconds that acquiring and each renewal give."""
        return self.tenure.claim.ttl_seconds

    @property
    def fence(self) -> int:
        """The fencing number: the same for the whole tenure, greater than that of every tenure before."""
        return self.tenure.fence

    @property
    def store_id(self) -> str:
        """The identity of the store that gave it."""
        return self._store_id

    @property
    def is_held(self) -> bool:
        """Whether it lasts still: by this process's own clock, counted from when the last renewal was sent."""
        return self.tenure.remaining_seconds > 0

    @property
    def remaining_seconds(self) -> float:
        """Seconds that it lasts if it is not renewed; 0 once it is over."""
        return self.tenure.remaining_seconds

    def guard(self) -> Guard:
        """The check that makes a commit fail once somebody else has the lock, or nobody."""
        return Guard(self._path, At(self.fence), self._broken)

    def _broken(self, document: Document | None) -> LockLost:
        return LockLost(self._resource, holder_of(document))


class _Entered(NamedTuple):
    """The leases of the blocks that a task is in. Tasks that it starts inherit the note, and are not meant by it."""

    task: int
    leases: tuple[Lease, ...]


_NONE = _Entered(0, ())
_entered: ContextVar[_Entered] = ContextVar("tai_state_leases", default=_NONE)


def note_entered(leases: Sequence[Lease]) -> None:
    """The present task has entered a block with these; those that are over are forgotten."""
    _entered.set(_Entered(anyio.get_current_task().id, (*(each for each in entered() if each.is_held), *leases)))


def entered() -> tuple[Lease, ...]:
    """The leases of the blocks that the present task is in, and perhaps of some that it has left."""
    note = _entered.get()
    return note.leases if note.task == anyio.get_current_task().id else ()


def locks_of(leases: Iterable[Lease], store_id: str) -> tuple[HeldLock, ...]:
    """What is held by those of the leases that last still and are of this store, each once."""
    held = {each.resource: each.tenure.claim.nonce for each in leases if each.is_held and each.store_id == store_id}
    return tuple(HeldLock(resource, nonce) for resource, nonce in held.items())
