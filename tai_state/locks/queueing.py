"""The lock queue: waiters watch the locks that they want, and are served first come, first served."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from math import inf

import msgspec

from tai_state.engines.api import ANYTHING, At, Delete, DocumentChange, Put, Scan, Write, split
from tai_state.engines.rewriting import write, write_unless_moved
from tai_state.engines.watching import Signal
from tai_state.errors import DeadlockDetected, LockAcquisitionFailed, StoreTimeout, TaiStateError, Unavailable
from tai_state.locks.attempting import Attempt
from tai_state.locks.common import Common, alongside
from tai_state.locks.deadlocks import WAITERS_MAX, DeadlockSearch
from tai_state.locks.lease import Tenure
from tai_state.locks.records import WAITER, HeldLock, WaiterRecord
from tai_state.locks.statistics import LockWaiter

_logger = logging.getLogger("tai_state.locks")

WAITER_TTL_SECONDS = 30.0
"""How long a waiter counts as alive after its last sign of life; it gives three in that time."""

TURN_SECONDS = 0.05
"""How much later each waiter tries than the one before it, so that the first in the queue mostly gets the lock."""

TURNS_MAX = 40
"""Waiters further back in the queue all try at the same time."""

SEARCH_SECONDS = 1.0
"""When a waiter first searches for deadlocks; the pauses between its searches double from there."""

SEARCH_SECONDS_MAX = 8.0


class Place:
    """A place in the queue of each resource that an attempt is to acquire.

    Args:
        common: what all parts of the locks share.
        attempt: what is wanted, and what was tried so far.
        holds: the locks that the waiting scope holds while it waits.
        deadline: when waiting ends, by the monotonic clock.
    """

    def __init__(self, common: Common, attempt: Attempt, holds: tuple[HeldLock, ...], deadline: float) -> None:
        self._common = common
        self._engine = common.core.engine
        self._attempt = attempt
        self._deadline = deadline
        self._owner = attempt.claim.nonce
        layout = common.core.layout
        resources = attempt.claim.resources
        self._lines = [layout.waiters(each) for each in resources]
        self._revisions: dict[str, int | None] = {}
        self._locks = {layout.lock(each): each for each in resources}
        self._record = WaiterRecord(
            holder=attempt.claim.holder, holds=holds, wants=resources, ttl=WAITER_TTL_SECONDS, ticket=0, n=0
        )
        self._ahead = 0
        self._noted: dict[str, int | None] = {}
        self._signal = Signal()
        self._has_moved = False
        self._broken: Exception | None = None
        self._asleep_until = -inf
        self._beat_at = self._search_at = inf
        self._search_seconds = SEARCH_SECONDS

    @property
    def _next_due(self) -> float:
        return min(self._deadline, self._attempt.takeable_at, self._beat_at, self._search_at)

    @property
    def leaving(self) -> list[Write]:
        """The writes that remove it from the queue."""
        return [Delete(f"{line}/{self._owner}", ANYTHING) for line in self._lines]

    def statistics(self) -> LockWaiter:
        """What the waiter is doing now."""
        return LockWaiter(
            holder=self._record.holder,
            resources=self._record.wants,
            ahead=self._ahead,
            fences=self._noted,
            is_confirmed=self._is_confirmed,
            is_asleep=not (self._has_moved or self._broken) and self._common.monotonic() < self._asleep_until,
        )

    async def wait(self) -> Tenure:
        """Wait for its turn, and return the tenure; the place is then gone. If this raises, the caller removes it.

        Raises:
            LockAcquisitionFailed: the deadline passed, or as for :meth:`Attempt.at_once`.
            DeadlockDetected: it waits for itself, directly or indirectly, and came last of all in the circle.
            StoreUnavailable, StoreTimeout: nothing was acquired.
        """
        self._common.waiting[self._owner] = self.statistics
        try:
            await self._enter()
            async with self._engine.watch(*self._locks) as changes, alongside(partial(self._listen, changes)):
                tenure = await self._wait_for_turn()
            if self._attempt.was_found:
                await write(self._common, self.leaving, self._common.bounds)
            return tenure
        finally:
            self._common.waiting.pop(self._owner)

    async def _enter(self) -> None:
        writes = [Put(f"{line}/{self._owner}", self._record, ANYTHING) for line in self._lines]
        what = "could not join the queue in time; nothing was acquired"
        unsettled = partial(StoreTimeout, "lock", "UNKNOWN", what)
        committed = await write(self._common, writes, self._common.bounds, unsettled)
        self._record = msgspec.structs.replace(self._record, ticket=committed.revision)
        now = self._common.monotonic()
        self._beat_at = now + WAITER_TTL_SECONDS / 3
        if self._record.holds:  # a waiter that holds nothing is not in a circle
            self._search_at = now + SEARCH_SECONDS
        await self._note_holders()

    async def _listen(self, changes: AsyncIterator[DocumentChange]) -> None:
        try:
            async for change in changes:
                self._revisions[change.path] = change.revision
                self._has_moved = True
                self._signal.raise_()
        except Exception as error:  # noqa: BLE001 - the waiter raises it
            self._broken = error
            self._signal.raise_()

    async def _wait_for_turn(self) -> Tenure:
        refusals = 0
        while True:
            event = self._signal.next()
            is_takeable = self._attempt.is_takeable
            now = self._common.monotonic()
            is_unconfirmed = not is_takeable and not self._is_confirmed
            until = now + min(self._ahead, TURNS_MAX) * TURN_SECONDS if is_takeable else self._next_due
            if is_unconfirmed:
                until = min(until, now + TURN_SECONDS)
            if until > now and not self._has_moved:
                self._asleep_until = until
                await self._common.wait(event, until - now)
                self._asleep_until = -inf
            if self._broken is not None:
                raise self._broken
            tenure: Tenure | None = None
            if self._has_moved:
                tenure = await self._see()
            elif is_takeable:
                tenure = await self._attempt.send(self.leaving)
                refusals += 1
            elif is_unconfirmed:
                tenure = await self._attempt.look()
            tenure = tenure or await self._do_what_is_due()
            if tenure is not None:
                return tenure
            if refusals and self._attempt.is_takeable:
                await self._common.pause(refusals)

    @property
    def _is_confirmed(self) -> bool:
        """Whether the watch has reported all that was last seen. Until then it may miss the next change.

        The watch sees nothing of a lock that is acquired and released between two of its looks: it is free in both.
        """
        seen = self._attempt.revisions
        return all(self._revisions.get(path, 0) == seen[resource] for path, resource in self._locks.items())

    async def _see(self) -> Tenure | None:
        """Act on the watch's hints: presume all locks free, do nothing, or look at the locks."""
        self._has_moved = False
        if all(self._revisions.get(path, 0) is None for path in self._locks):
            self._attempt.presume_free()
            return None
        return None if self._is_confirmed else await self._attempt.look()

    async def _do_what_is_due(self) -> Tenure | None:
        now = self._common.monotonic()
        tenure: Tenure | None = None
        if now >= self._attempt.takeable_at and not self._attempt.is_takeable:
            tenure = await self._attempt.look()
        if tenure is not None:
            return tenure
        await self._note_holders()
        if now >= self._deadline:
            raise self._attempt.refusal(LockAcquisitionFailed)
        if now >= self._beat_at:
            await self._beat()
            tenure = await self._attempt.look()  # a watch may have gone silent without an error
        if tenure is None and now >= self._search_at:
            await self._search()
        return tenure

    async def _note_holders(self) -> None:
        """Count the waiters ahead again if a lock has changed hands."""
        revisions = self._attempt.revisions
        if revisions != self._noted and not self._attempt.is_takeable:
            self._noted = revisions
            await self._count_those_ahead()

    async def _count_those_ahead(self) -> None:
        """Count the living waiters that came earlier for any of the locks, and remove dead ones from the queue."""
        mine = (self._record.ticket, self._owner)
        records: dict[str, WaiterRecord] = {}
        for line in self._lines:
            async for document in self._engine.scan(Scan(line, limit=WAITERS_MAX)):
                record = document.decode(WAITER)
                if (record.ticket or document.revision, document.id) < mine:
                    records[document.path] = record
        sightings = self._common.sightings
        seen = await sightings.read(list(records)) if records else {}
        gone = [path for path, each in seen.items() if sightings.is_gone(each, records[path].ttl)]
        self._ahead = len({split(path)[1] for path in seen if path not in gone})
        if gone:
            leaving = [Delete(path, At(seen[path].document.revision)) for path in gone]
            try:
                await write_unless_moved(self._common, leaving, self._common.bounds)
            except TaiStateError as error:
                _logger.debug("could not remove dead waiters from a queue", extra=error.fields())

    async def _beat(self) -> None:
        """Show that it still waits. If that fails, it tries again sooner than usual."""
        self._record = msgspec.structs.replace(self._record, n=self._record.n + 1)
        writes = [Put(f"{line}/{self._owner}", self._record, ANYTHING) for line in self._lines]
        what = "it is unknown whether the waiter's sign of life was stored"
        once = replace(self._common.bounds, attempts_max=1)
        try:
            await write(self._common, writes, once, partial(StoreTimeout, "wait", "UNKNOWN", what))
        except Unavailable as error:
            _logger.warning("a waiter for a lock could not give its sign of life", extra=error.fields())
            self._beat_at = self._common.monotonic() + WAITER_TTL_SECONDS / 30
        else:
            self._beat_at = self._common.monotonic() + WAITER_TTL_SECONDS / 3

    async def _search(self) -> None:
        if not self._engine.capabilities.shared_clock:
            await self._beat()  # without a shared clock, others see life only in a change between two of their looks
        search = DeadlockSearch(self._common)
        circle = await search.circle_to_leave(self._owner, [each.resource for each in self._record.holds])
        if circle is not None:
            raise DeadlockDetected(circle.cycle)
        self._search_at = self._common.monotonic() + self._search_seconds
        self._search_seconds = min(self._search_seconds * 2, SEARCH_SECONDS_MAX)
