"""Locks on resources, with leases that end by themselves and numbers that fence late holders off."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from math import inf, isfinite
from weakref import WeakSet

import anyio

from tai_state.engines.api import ABSENT, At, Check, Delete, Document, Scan, Write
from tai_state.engines.matters import Commit, Done, Look, Verdict
from tai_state.engines.paging import Paged, converted, resized, taken
from tai_state.engines.rewriting import Rewrite, write_unless_moved
from tai_state.engines.settling import settle
from tai_state.errors import InvalidData, InvalidId, LockAlreadyHeld
from tai_state.locks.attempting import Attempt
from tai_state.locks.common import Common, alongside
from tai_state.locks.deadlocks import DeadlockSearch
from tai_state.locks.keeping import Keeper
from tai_state.locks.lease import Claim, Lease, Tenure, entered, locks_of, note_entered
from tai_state.locks.queueing import Place
from tai_state.locks.records import LockInfo
from tai_state.locks.sighting import Standing
from tai_state.locks.statistics import LockStatistics, LockWaiter
from tai_state.streams.core import HasCore
from tai_state.streams.settings import new_id
from tai_state.values.ids import escape_id, unescape_id
from tai_state.values.metadata import check_text
from tai_state.values.times import from_us

_PAGE = 100


class LockManager:
    """Locks the resources of a store: any names, of states or of anything else.

    A lock is a lease: it ends ``ttl_seconds`` after its holder's last sign of life, so that one who crashed blocks
    nobody for longer. A holder who was only slow may not know yet that its time has passed; give the lease as ``fence``
    with what you write, and it is refused then.

    Times go by the engine's clock where all its users share one. Elsewhere (SQLite) a lock is taken over by those who
    saw it stand still for its whole time and a tenth: keep one manager for all calls, since it remembers what it saw.

    Args:
        store: an open one.
        monotonic: seconds of a clock that never goes back; by default the event loop's.
        sleep: waits so many seconds of that clock.
    """

    def __init__(
        self,
        store: HasCore,
        *,
        monotonic: Callable[[], float] = anyio.current_time,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._core = core = store.core
        self._common = Common(core, monotonic, sleep)
        self._keeper = Keeper(self._common)
        self._tenures: WeakSet[Tenure] = WeakSet()

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
        """Hold a lock while the block runs. It is renewed three times in its ``ttl_seconds``, and released at the end.

        When the lease is lost, because the engine could not be reached for so long or the process was stopped, the
        block is cancelled and ``LockLost`` comes out of it. An error that the block raises comes out as it is.

        Waiting costs no polling: whoever waits is woken when the lock is released, and tries in the order in which
        those who wait came. A newcomer may be faster. Whoever waits while it holds other locks searches for deadlocks.

        Args:
            resource: any name.
            ttl_seconds: from the last renewal until others may take over.
            wait_seconds: for it; 0: not at all; None: as long as it takes.
            holder: a name for people to read; by default the host's and the process's number. It gives no rights: two
                blocks with the same holder exclude each other.
            holding: leases that cannot be given back before this lock is acquired, for the search for deadlocks. Those
                of the blocks that the same task is in count by themselves. To be named: those of a block that waits for
                this task, and those of :meth:`acquire_lock`.

        Raises:
            LockAlreadyHeld: somebody holds it, and ``wait_seconds`` is 0.
            LockAcquisitionFailed: it was not to be had in the time given.
            DeadlockDetected: those who hold locks wait for each other, and this one came last.
            LockLost: the lease was over before the block was.
            StoreUnavailable, StoreTimeout: the engine failed while acquiring; nothing is held.
            InvalidId, InvalidData: the resource or a time means nothing.
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
        """Hold several locks while the block runs: acquired by one commit, all or none, so never in part.

        Gives a lease for each resource, in the order asked for, all with the same fencing number. Everything else is
        as for :meth:`lock`.
        """
        tenure = await self._acquire(resources, ttl_seconds, wait_seconds, holder, holding)
        leases = tuple(self._lease(tenure, each) for each in resources)
        note_entered(leases)
        block = anyio.CancelScope()

        async def keep() -> None:
            await self._keeper.keep(tenure)
            if tenure.lost is not None:
                block.cancel()

        try:
            async with alongside(keep):
                with block:
                    yield leases
        except BaseException as error:
            loss = await self._keeper.end(tenure)
            if loss is not None and isinstance(error, Exception):
                error.add_note(str(loss))
            raise
        loss = await self._keeper.end(tenure)
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

        Nobody tells when it is over: look at ``lease.is_held``, and write with the lease as ``fence``. Mostly
        :meth:`lock` is what you want.

        Args:
            resource: any name.
            ttl_seconds: from acquiring it, or from the last renewal, until others may take over.
            wait_seconds: as for :meth:`lock`.
            holder: likewise.
            holding: likewise.

        Raises:
            LockAlreadyHeld, LockAcquisitionFailed, DeadlockDetected: as for :meth:`lock`.
            StoreUnavailable, StoreTimeout, InvalidId, InvalidData: likewise.
        """
        return self._lease(await self._acquire([resource], ttl_seconds, wait_seconds, holder, holding), resource)

    async def renew_lock(self, lease: Lease) -> None:
        """Renew a lease, with all that was acquired together with it: its whole ``ttl_seconds`` begin again.

        Raises:
            LockLost: it is over, or was released; it cannot be revived.
            StoreUnavailable, StoreTimeout: it is not known to be renewed; call again while it lasts.
        """
        await self._keeper.renew(lease.tenure)

    async def release_lock(self, lease: Lease) -> None:
        """Give a lease back, with all that was acquired together with it. Doing it twice does no harm.

        Raises:
            LockLost: its time had passed, and somebody else has taken the lock. They keep it.
            StoreUnavailable, StoreTimeout: it is not known to be given back; call again, or let it end by itself.
        """
        await self._keeper.release(lease.tenure)

    def list_locks(self) -> Paged[LockInfo]:
        """The locks that are held, and those whose time has passed and that nobody took over yet, by resource."""

        async def convert(page: Sequence[Document]) -> list[LockInfo]:
            standings = await self._common.sightings.locks([unescape_id(each.id) for each in page])
            return [_info(resource, each) for resource, each in standings.items() if each is not None]

        return converted(resized(self._core.engine.scan(Scan(self._core.layout.locks)), _PAGE), convert)

    async def cleanup_expired_locks(self) -> int:
        """Remove locks whose time has passed, and renewals that belong to no lock; how many locks were removed.

        Nothing depends on it: expired locks are taken over as they are. Where the users of a store share no clock, only
        those go that this manager saw standing still: call it again later.
        """
        removed = 0
        documents = self._core.engine.scan(Scan(self._core.layout.locks))
        while page := await taken(documents, _PAGE):
            standings = await self._common.sightings.locks([unescape_id(each.id) for each in page])
            for resource, each in standings.items():
                if each is None or each.remaining_seconds > 0:
                    continue
                lockbeat = self._core.layout.lockbeat(resource)
                beat = Check(lockbeat, ABSENT) if each.beat is None else Delete(lockbeat, At(each.beat.revision))
                removed += await self._removed([Delete(each.lock.path, At(each.lock.revision)), beat])
        async for document in self._core.engine.scan(Scan(self._core.layout.lockbeats)):
            lock = self._core.layout.lock(unescape_id(document.id))
            if (await self._core.engine.read([lock])).documents == (None,):
                await self._removed([Delete(document.path, At(document.revision))])
        return removed

    async def break_lock(self, resource: str) -> LockInfo | None:
        """Take a lock away from its holder: for an operator who knows that the holder is gone, or must be stopped.

        The holder finds out at its next renewal; what it writes with its lease as fence is refused at once.

        Returns:
            The lock that was taken away; None where nobody held it.
        """
        sightings = self._common.sightings

        def decide(look: Look) -> Verdict[LockInfo | None]:
            standing = sightings.standing(resource, sightings.seen(look))
            if standing is None:
                return Done(None)
            info = _info(resource, standing)
            return Commit([Delete(standing.lock.path, At(standing.lock.revision))], lambda _: info)

        return await settle(self._common, Rewrite(sightings.paths([resource]), decide), self._common.bounds())

    async def detect_deadlocks(self) -> list[tuple[str, ...]]:
        """The deadlocks at this moment; those who wait also look for them by themselves, and end them.

        Each is told by its resources: each is held by somebody who waits for the next one, the last by somebody who
        waits for the first. Of circles that share somebody who waits, one is given. Where the users of a store share no
        clock, only those count that this manager saw giving signs of life. Reads all locks and all who wait.
        """
        return [circle.cycle for circle in await DeadlockSearch(self._common).circles()]

    def statistics(self) -> LockStatistics:
        """What this manager is doing at this moment; the engine is not asked, and other managers are not included."""
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
        if isinstance(resources, str) or not resources:
            raise InvalidId("what to lock", "a sequence of at least one name")
        if not (isfinite(ttl_seconds) and ttl_seconds > 0) or (wait_seconds is not None and not wait_seconds >= 0):
            raise InvalidData("a lock's ttl_seconds must be more than 0, and its wait_seconds at least 0 or None")
        check_text(holder, "a lock's holder")
        claim = Claim(
            tuple(sorted(set(resources), key=escape_id)),
            new_id(),
            holder or f"{socket.gethostname()}:{os.getpid()}",
            ttl_seconds,
        )
        deadline = inf if wait_seconds is None else self._common.monotonic() + wait_seconds
        attempt = Attempt(self._common, claim)
        place: Place | None = None
        try:
            tenure = await attempt.at_once()
            if tenure is None and wait_seconds == 0:
                raise attempt.refusal(LockAlreadyHeld)
            if tenure is None:
                holds = locks_of([*entered(), *holding], self._core.store_id)
                place = Place(self._common, attempt, holds, deadline)
                tenure = await place.wait()
        except BaseException:
            if place is not None or attempt.is_open:
                with anyio.move_on_after(self._core.settings.timeout_seconds, shield=True):
                    await attempt.abandon(() if place is None else place.leaving)
            raise
        self._tenures.add(tenure)
        return tenure

    def _lease(self, tenure: Tenure, resource: str) -> Lease:
        return Lease(tenure, resource, self._core.layout, self._core.store_id)

    async def _removed(self, writes: Sequence[Write]) -> bool:
        return await write_unless_moved(self._common, writes, self._common.bounds())


def _info(resource: str, standing: Standing) -> LockInfo:
    return LockInfo(
        resource=resource,
        holder=standing.record.holder,
        fence=standing.lock.revision,
        acquired_at=from_us(standing.lock.updated_us),
        last_sign_at=from_us(standing.last_sign_us),
        ttl_seconds=standing.record.ttl,
        remaining_seconds=standing.remaining_seconds,
    )
