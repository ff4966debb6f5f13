"""A lease: what a holder gets, and how it knows whether it still holds the lock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from typing import NamedTuple

import anyio
import msgspec

from tai_state.engines.api import At, Committed, Document
from tai_state.errors import LockLost
from tai_state.locks.records import HeldLock, holder_of
from tai_state.streams.changes import Guard
from tai_state.streams.layout import Layout


class Claim(msgspec.Struct, frozen=True):
    """What to lock, and for whom.

    Attributes:
        resources: sorted, without duplicates.
        nonce: identifies the tenure in the lock's document; fixed before the first commit is sent.
        holder: a name for people to read.
        ttl_seconds: from the last renewal to the end of the lease.
    """

    resources: tuple[str, ...]
    nonce: str
    holder: str
    ttl_seconds: float


class Tenure:
    """One holding of locks that were acquired together, from the acquiring commit to its end.

    Args:
        claim: what was acquired.
        acquired: the engine's answer to the acquiring commit.
        since: when that commit was sent, by the holder's monotonic clock.
        monotonic: the holder's monotonic clock.

    Attributes:
        claim: as given.
        fence: the revision of the acquiring commit.
        begun: when that commit was sent.
        sign_us: when the last acknowledged commit that acquired or renewed it was made, by the engine's clock.
        since: from when it counts: the last acknowledged commit that acquired or renewed it did not arrive earlier.
        sent: when the last commit was sent that acquired it or may have renewed it.
        beats: how many renewals were sent.
        is_given_up: whether the holder has begun to release it, and no longer relies on it.
        returned_in_time: whether it was in force when a deletion of its locks was first sent that may have been
            applied; None: there is no such deletion.
        is_released: whether it is known that none of its locks is left.
        lost: why it is over, unless it was given up before.
        refusal: why it could not be released, or not all of it; each later release raises this again.
    """

    def __init__(self, claim: Claim, acquired: Committed, since: float, monotonic: Callable[[], float]) -> None:
        self.claim = claim
        self.fence: int = acquired.revision
        self.begun = since
        self.sign_us: int = acquired.time_us
        self.since: float = since
        self.sent: float = since
        self.beats = 0
        self.is_given_up = False
        self.returned_in_time: bool | None = None
        self.is_released = False
        self.lost: LockLost | None = None
        self.refusal: LockLost | None = None
        self._monotonic = monotonic

    @property
    def remaining_seconds(self) -> float:
        """The seconds left unless it is renewed; 0 once it is over."""
        if self.is_given_up or self.lost is not None:
            return 0.0
        return max(0.0, self.since + self.claim.ttl_seconds - self._monotonic())

    @property
    def is_in_time(self) -> bool:
        """Whether its time has not passed, even if it was given up."""
        return self.lost is None and self._monotonic() < self.since + self.claim.ttl_seconds

    @property
    def ends_us(self) -> float:
        """Before this time by the engine's clock, no other caller can have taken it over."""
        return self.sign_us + self.claim.ttl_seconds * 1e6

    @property
    def may_stand(self) -> bool:
        """Whether it may still keep others from its locks: not once none is left, or its time has certainly passed."""
        return not self.is_released and self._monotonic() < self.sent + self.claim.ttl_seconds

    @property
    def standing(self) -> str:
        """How it stands, for people to read."""
        if self.refusal is None and self.is_given_up:
            return "released" if self.is_released else "given up"
        if self.lost is not None:
            return "lost"
        try:
            left = self.remaining_seconds
        except RuntimeError:  # its clock is the event loop's, and here is none
            return f"{self.claim.ttl_seconds} s from each renewal"
        return f"{left:.1f} s left" if left > 0 else "over"

    def renewed(self, committed: Committed, since: float) -> None:
        """Count the lease from an acknowledged renewal, no copy of which had arrived before the time given."""
        self.since = max(self.since, since)
        self.sign_us = max(self.sign_us, committed.time_us)


class Lease:
    """The right to one resource for a time. Made by :class:`~tai_state.LockManager`.

    A lease is a fence: a write with this lease as ``fence`` is applied only while the lock is held, whatever clocks
    say. To protect another system, send the number :attr:`fence` with each request, and let that system refuse numbers
    smaller than the greatest it has seen.
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
        """The locked resource."""
        return self._resource

    @property
    def holder(self) -> str:
        """The holder's name, as given when acquiring."""
        return self.tenure.claim.holder

    @property
    def ttl_seconds(self) -> float:
        """How many seconds the lease lasts from acquiring it or from each renewal."""
        return self.tenure.claim.ttl_seconds

    @property
    def fence(self) -> int:
        """The fencing number: constant during a tenure, and greater than in every earlier tenure."""
        return self.tenure.fence

    @property
    def token(self) -> str:
        """A random name of this tenure, by which :meth:`TransactionManager.release_lock` releases the lock."""
        return self.tenure.claim.nonce

    @property
    def store_id(self) -> str:
        """The id of the store that the lock is in."""
        return self._store_id

    @property
    def is_held(self) -> bool:
        """Whether it is in force: by this process's own clock, counted from when the last renewal was sent."""
        return self.tenure.remaining_seconds > 0

    @property
    def remaining_seconds(self) -> float:
        """The seconds left unless it is renewed; 0 once it is over."""
        return self.tenure.remaining_seconds

    def guard(self) -> Guard:
        """The check that makes a commit fail once this lease no longer holds the lock."""
        return Guard(self._path, At(self.fence), self._loss_error)

    def _loss_error(self, document: Document | None) -> LockLost:
        return LockLost(self._resource, holder_of(document))


class _Entered(NamedTuple):
    """The leases of the blocks that a task is in.

    Tasks that it starts inherit this value; the task's id shows that it does not describe them.
    """

    task: int
    leases: tuple[Lease, ...]


_NONE = _Entered(0, ())
_entered: ContextVar[_Entered] = ContextVar("tai_state_leases", default=_NONE)


def note_entered(leases: Sequence[Lease]) -> int:
    """Note that the current task has entered a block with these leases, and forget leases that are over.

    Returns:
        The task's id.
    """
    task = anyio.get_current_task().id
    _entered.set(_Entered(task, (*(each for each in _entered_by(task) if each.is_held), *leases)))
    return task


def entered_leases() -> tuple[Lease, ...]:
    """The leases of the blocks that the current task is in; some of blocks that it has left may be included."""
    return _entered_by(anyio.get_current_task().id)


def _entered_by(task: int) -> tuple[Lease, ...]:
    note = _entered.get()
    return note.leases if note.task == task else ()


def locks_of(leases: Iterable[Lease], store_id: str) -> tuple[HeldLock, ...]:
    """The locks held by those leases that are in force and belong to this store, each once."""
    held = {each.resource: each.tenure.claim.nonce for each in leases if each.is_held and each.store_id == store_id}
    return tuple(HeldLock(resource, nonce) for resource, nonce in held.items())
