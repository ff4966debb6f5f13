"""Locks on resources: leases that expire by themselves, and fencing numbers that stop late holders."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from math import inf
from weakref import WeakSet

import anyio

from tai_state.engines.observing import Waited, tell
from tai_state.engines.paging import Paged
from tai_state.errors import InvalidData, InvalidId, LockAlreadyHeld, LockLost
from tai_state.locks.attempting import Attempt
from tai_state.locks.breaking import broken
from tai_state.locks.cleaning import Cleanup
from tai_state.locks.common import Common, alongside, to_its_end
from tai_state.locks.deadlocks import DeadlockSearch
from tai_state.locks.fitting import check_fit, check_place
from tai_state.locks.keeping import Keeper
from tai_state.locks.lease import Claim, Lease, Tenure, entered_leases, locks_of, note_entered
from tai_state.locks.listing import listed
from tai_state.locks.queueing import Place
from tai_state.locks.records import LockInfo
from tai_state.locks.statistics import LockStatistics, LockWaiter
from tai_state.streams.core import HasCore, core_of
from tai_state.streams.settings import new_id
from tai_state.values.checks import check_callable, check_items, check_seconds
from tai_state.values.ids import ID_BYTES_MAX, escape_id
from tai_state.values.metadata import check_text

_OTHER_TASK = (
    "the block of a lock was left by another task than the one that entered it; the lock is released."
    " Use acquire_lock and release_lock instead, which any task may call"
)


class LockManager:
    """Locks resources by name; a name may be that of a state or of anything else.

    A lock is a lease: it expires ``ttl_seconds`` after its holder's last sign of life, so a holder that has crashed
    blocks others no longer than that. A slow holder may not yet know that its lease has expired. Pass the lease as
    ``fence`` to each write: the store then refuses the write once the lease is lost.

    Expiry goes by the engine's clock if all users of the store share it. Where they share no clock (SQLite), a waiting
    caller takes over a lock after it has seen no renewal for 1.1 times ``ttl_seconds``. Use one manager for all calls,
    because a manager remembers what it has seen.

    Args:
        store: an open store.
        monotonic: a clock in seconds that never goes back; by default the event loop's.
        sleep: waits for a number of seconds by that clock.
    """

    def __init__(
        self,
        store: HasCore,
        *,
        monotonic: Callable[[], float] = anyio.current_time,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        check_callable(monotonic, "monotonic")
        check_callable(sleep, "sleep")
        self._core = core = core_of(store)
        self._common = Common(core, monotonic, sleep)
        self._keeper = Keeper(self._common)
        self._tenures: WeakSet[Tenure] = WeakSet()

    def __repr__(self) -> str:
        try:
            held = f"{len(self.statistics().held)} held"
        except RuntimeError:  # its clock is the event loop's, and here is none
            held = f"{len(self._tenures)} leases"
        return f"<{type(self).__name__}, {held}, {len(self._common.waiting)} waiting>"

    @asynccontextmanager
    async def lock(
        self,
        resource: str,
        *,
        ttl_seconds: float = 30.0,
        wait_seconds: float | None = None,
        holder: str = "",
        holding: Sequence[Lease] = (),
    ) -> AsyncGenerator[Lease, None]:
        """Hold a lock while the block runs: renew it three times per ``ttl_seconds``, and release it at the end.

        If the lease is lost, because the process was stopped or could not reach the engine for too long, the block is
        cancelled and raises ``LockLost``. An error of the block's own is raised as it is.

        Waiting needs no polling: waiters are woken when the lock is released, and try in the order in which they came.
        Nobody starves who waits for one lock. A caller leaves the lock to those of its own manager who wait for it,
        unless they also want others that it does not want. A manager that acquires a lock again and again, each time
        less than a second after its last release, looks once a second whether others wait, and then takes its place
        behind them. So it keeps the lock for about a second at a stretch, or for one tenure if that is longer. A caller
        that comes just when the lock is free may be faster than those who wait in other processes. A waiter that holds
        other locks searches for deadlocks.

        Args:
            resource: any name.
            ttl_seconds: from the last renewal until others may take over.
            wait_seconds: how long to wait; 0: do not wait, and leave the lock to those who do; None: wait without
                limit. It also bounds the wait for each answer of the engine, but not below a second. If one is
                missing, the call raises after it has tried to give back what it may have acquired, and to leave the
                line, for the store's ``timeout_seconds`` at most.
            holder: a name for people to read, of at most 1,480 bytes; by default the host name and process id. It
                gives no rights: two blocks with the same holder exclude each other.
            holding: for the search for deadlocks, leases that cannot be released before this lock is acquired. Leases
                of the blocks that this task is in are included by themselves. Name the leases of a block that waits
                for this task, and those of :meth:`acquire_lock`.

        Raises:
            LockAlreadyHeld: another caller holds it or goes first, and ``wait_seconds`` is 0.
            LockAcquisitionFailed: the lock could not be acquired in time.
            DeadlockDetected: holders of locks wait for each other in a circle, and this caller came last.
            LockLost: the lease ended before the block did.
            CommitTooLarge: the call has to wait, and this caller holds more locks than a place in line can name; the
                ``limit`` says how many, with this one. Nothing was acquired.
            StoreUnavailable, StoreTimeout: the engine failed while acquiring; nothing is held.
            InvalidId, InvalidData: the resource, a time, the holder or a lease is not valid.
            RuntimeError: another task left the block than the one that entered it; the lock is released.
        """
        async with self.lock_all(
            [resource], ttl_seconds=ttl_seconds, wait_seconds=wait_seconds, holder=holder, holding=holding
        ) as (lease,):
            yield lease

    @asynccontextmanager
    async def lock_all(
        self,
        resources: Sequence[str],
        *,
        ttl_seconds: float = 30.0,
        wait_seconds: float | None = None,
        holder: str = "",
        holding: Sequence[Lease] = (),
    ) -> AsyncGenerator[tuple[Lease, ...], None]:
        """Hold several locks while the block runs. One commit acquires all of them or none.

        The block gets a lease for each resource, in the order given, all with the same fencing number. If one of them
        is lost, the block ends as if all were, and the others are released. Everything else is as for :meth:`lock`.

        It waits until all are free at the same moment. Callers who want only some of them do not leave these to it. So
        while such callers always hold one of them, it waits without end: let all callers take the same locks together,
        or one by one, in the same order.

        Raises:
            CommitTooLarge: they do not all fit into one commit of the engine; its ``limit`` says how many do. Nothing
                was sent. Each lock takes three writes, and, unless ``wait_seconds`` is 0, there must be room to wait:
                each has a place in line, which names them all. If the call has to wait, these places also name all
                locks that the caller holds, and the error, which then comes before it waits, counts those, too.
            Otherwise as :meth:`lock`.
        """
        resources = check_items(resources, _no_resources_error)
        tenure = await self._acquire(resources, ttl_seconds, wait_seconds, holder, holding)
        leases = tuple(self._lease(tenure, each) for each in resources)
        block, task = anyio.CancelScope(), note_entered(leases)

        try:
            async with alongside(partial(self._keeper.keep, tenure, block)):
                with block:
                    yield leases
        except BaseException as error:
            loss = await self._end(tenure)
            if loss is not None and isinstance(error, Exception):
                error.add_note(str(loss))
            if anyio.get_current_task().id != task:
                raise RuntimeError(_OTHER_TASK) from error
            raise
        loss = await self._end(tenure)
        if loss is not None:
            raise loss

    async def acquire_lock(
        self,
        resource: str,
        *,
        ttl_seconds: float = 30.0,
        wait_seconds: float | None = None,
        holder: str = "",
        holding: Sequence[Lease] = (),
    ) -> Lease:
        """Acquire a lock that is renewed only by :meth:`renew_lock`, and released only by :meth:`release_lock`.

        The caller is not told when the lease ends: check ``lease.is_held``, and pass the lease as ``fence`` to each
        write. In most cases :meth:`lock` is the better choice.

        Args:
            resource: any name.
            ttl_seconds: from acquiring it, or from the last renewal, until others may take over.
            wait_seconds: as for :meth:`lock`.
            holder: as for :meth:`lock`.
            holding: as for :meth:`lock`.

        Raises:
            LockAlreadyHeld, LockAcquisitionFailed, DeadlockDetected, CommitTooLarge: as for :meth:`lock`.
            StoreUnavailable, StoreTimeout, InvalidId, InvalidData: as for :meth:`lock`.
        """
        return self._lease(await self._acquire([resource], ttl_seconds, wait_seconds, holder, holding), resource)

    async def renew_lock(self, lease: Lease) -> None:
        """Renew a lease and all leases acquired together with it; their ``ttl_seconds`` start again.

        Raises:
            LockLost: the lease has expired or was released; it cannot be renewed any more.
            StoreUnavailable, StoreTimeout: it is not known to be renewed; call again while it is in force.
            InvalidData: it is not a lease of this store.
        """
        self._check_lease(lease)
        await self._keeper.renew(lease.tenure)

    async def release_lock(self, lease: Lease) -> None:
        """Release a lease and all leases acquired together with it. Once they are released, this does nothing.

        If one of them was lost, the others are released all the same. A lease that has expired is released if its lock
        still stands.

        Raises:
            LockLost: the lock was broken, or its document edited; or the lease had expired, and another caller has
                taken the lock, which keeps it, or may have had it. A second call raises the same error.
            StoreUnavailable, StoreTimeout: it is not known to be released; call again, or let it expire.
            InvalidData: it is not a lease of this store.
        """
        self._check_lease(lease)
        await self._keeper.release(lease.tenure)
        self._common.precedence.released(lease.tenure)

    def list_locks(self) -> Paged[LockInfo]:
        """All locks: those in force, and expired ones that no caller has taken over.

        They are sorted by the escaped name of the resource, in which ``/`` is ``%2F``, for example.

        A damaged document hides no other lock: it is raised as ``CorruptDocument`` after the last one, and the error
        says what to do about it.
        """
        return listed(self._core, self._common.sightings)

    async def cleanup_expired_locks(self) -> int:
        """Remove expired locks, and what those left behind who were killed.

        Damaged documents are named in the log. All of them are removed, too, that hold nothing up: waiters, and what
        no resource belongs to, at once; notes of broken locks after a day. A damaged lock is left to
        :meth:`break_lock`.

        This is never required: an expired lock can be taken over as it is. Where the users of a store share no clock,
        it removes only what this manager has seen without a sign of life for long enough: call it again later.

        Returns:
            How many locks were removed, by this call or by another cleanup at the same moment.
        """
        return await Cleanup(self._common).run()

    async def break_lock(self, resource: str) -> LockInfo | None:
        """Take a lock away from its holder: for an operator who knows that the holder is gone or must be stopped.

        The holder finds out at its next renewal, or when it releases the lock, which raises ``LockLost``. Its writes
        with the lease as ``fence`` are refused at once. Only the holder at the time of the call loses the lock, and
        not one that acquires it meanwhile.

        It also removes a lock whose document is damaged. Of that one, the holder is given as ``""`` and
        ``ttl_seconds`` as 0. If the holder is alive, it finds out as that of a sound lock does; from the release only
        if it has renewed the lock, or if its document can still be read in part.

        Returns:
            The lock that this call removed. None if there was none, or if another call removed it, or its holder
            did. None, too, if the answer was lost and nothing tells any more who removed it: the holder had noticed
            the break and removed the note of it, or there was none.

        Raises:
            CommitOutcomeUnknown: no answer came in time; list the locks to see whether it is gone.
            StoreUnavailable, StoreTimeout: nothing was removed.
            InvalidId: the resource's name is not valid.
        """
        return await broken(self._common, resource)

    async def detect_deadlocks(self) -> list[tuple[str, ...]]:
        """The present deadlocks. Waiters also search for deadlocks and end them without this call.

        Each deadlock is a tuple of resources: the holder of each waits for the next, the holder of the last one for the
        first. Of circles that share a waiter, only one is returned. Where the users of a store share no clock, a waiter
        of another manager counts only if this manager has seen a sign of life of it. Reads all locks and all waiters.
        A damaged document is named in the log and left out.
        """
        return [circle.cycle for circle in await DeadlockSearch(self._common).circles()]

    def statistics(self) -> LockStatistics:
        """What this manager is doing now. Reads nothing from the engine, and does not include other managers."""
        tenures = [each for each in self._tenures if each.remaining_seconds > 0]
        held = {resource: tenure.fence for tenure in tenures for resource in tenure.claim.resources}
        waiting: dict[str, tuple[LockWaiter, ...]] = {}
        for waiter in [statistics() for statistics in self._common.waiting.values()]:
            for resource in waiter.resources:
                waiting[resource] = (*waiting.get(resource, ()), waiter)
        return LockStatistics(held=dict(sorted(held.items())), waiting=waiting, renewals=self._keeper.renewals)

    async def _acquire(
        self,
        resources: Sequence[str],
        ttl_seconds: float,
        wait_seconds: float | None,
        holder: str,
        holding: Sequence[Lease],
    ) -> Tenure:
        claim = _claim(resources, ttl_seconds, holder)
        if wait_seconds is not None:
            wait_seconds = check_seconds(wait_seconds, "a lock's wait_seconds")
        holding = check_items(holding, _no_leases_error)
        if not all(isinstance(each, Lease) for each in holding):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
            raise _no_leases_error()
        layout, capabilities = self._core.layout, self._core.engine.capabilities
        check_fit(claim, layout, capabilities, may_wait=wait_seconds != 0)
        deadline = inf if wait_seconds is None else self._common.monotonic() + wait_seconds
        attempt = Attempt(self._common, claim, wait_seconds)
        place: Place | None = None
        try:
            tenure = await (attempt.look() if await self._goes_behind(attempt) else attempt.at_once())
            if tenure is None and wait_seconds == 0:
                raise attempt.refusal(LockAlreadyHeld)
            if tenure is None:
                holds = locks_of([*entered_leases(), *holding], self._core.store_id)
                check_place(claim, holds, layout, capabilities)
                place = Place(attempt.common, attempt, holds, deadline)
                tenure = await self._waited(place, claim)
        except BaseException:
            if place is not None or attempt.is_open:
                await to_its_end(partial(attempt.abandon, () if place is None else place.leaving))
            raise
        self._tenures.add(tenure)
        return tenure

    async def _goes_behind(self, attempt: Attempt) -> bool:
        """Whether others wait who have to go first."""
        precedence, wants = self._common.precedence, attempt.claim.resources
        if precedence.are_awaited(wants):
            return True
        return (
            precedence.is_look_due(wants, attempt.begun)
            and await Place(attempt.common, attempt, (), inf).finds_others()
        )

    async def _end(self, tenure: Tenure) -> LockLost | None:
        loss = await self._keeper.end(tenure)
        self._common.precedence.released(tenure)
        return loss

    async def _waited(self, place: Place, claim: Claim) -> Tenure:
        """Wait in line, and tell the store's observer how long it took."""
        observer = self._core.settings.observer
        if observer is None:
            return await place.wait()
        begun, is_acquired = self._common.monotonic(), False
        try:
            tenure = await place.wait()
            is_acquired = True
        finally:
            paths = tuple([self._core.layout.lock(each) for each in claim.resources])
            seconds = self._common.monotonic() - begun
            tell(observer.waited, Waited(kind="lock", paths=paths, seconds=seconds, is_acquired=is_acquired))
        return tenure

    def _check_lease(self, lease: Lease) -> None:
        if not isinstance(lease, Lease):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
            raise InvalidData(f"a lease is needed, not {type(lease).__name__}")
        if lease.store_id != self._core.store_id:
            raise InvalidData("the lease belongs to another store")

    def _lease(self, tenure: Tenure, resource: str) -> Lease:
        return Lease(tenure, resource, self._core.layout, self._core.store_id)


def _claim(resources: Sequence[str], ttl_seconds: float, holder: str) -> Claim:
    """What a caller asks for, checked."""
    if not resources:
        raise _no_resources_error()
    for each in resources:
        escape_id(each, "resource")
    ttl_seconds = check_seconds(ttl_seconds, "a lock's ttl_seconds")
    if not 0 < ttl_seconds < inf:
        raise InvalidData("a lock's ttl_seconds must be more than 0, and finite")
    if len(check_text(holder, "a lock's holder").encode()) > ID_BYTES_MAX:
        raise InvalidData(f"a lock's holder must have at most {ID_BYTES_MAX:,} bytes")
    names = tuple(sorted(set(resources), key=escape_id))
    return Claim(names, new_id(), holder or f"{socket.gethostname()}:{os.getpid()}", ttl_seconds)


def _no_leases_error() -> InvalidData:
    return InvalidData("holding must be a sequence of leases")


def _no_resources_error() -> InvalidId:
    return InvalidId("what to lock", "a sequence of at least one name")
