"""The lock queue: first come, first served.

The id of a waiter's document begins with a number that falls: so the newest waiter comes first in a scan, and those
right ahead of a waiter follow it. A waiter with few ahead watches the locks that it wants. The others watch the few
right ahead of them, and none of them looks at a lock that changes hands. So each waiter costs the same, however long
the line is, if all want the same.

A waiter stays behind another one only if it wants all that the other one wants: whatever holds up the one ahead then
holds up both. So standing in line makes no deadlock that holding and wanting do not make. The price: waiters for sets
that overlap all watch the locks, and a waiter for several locks may starve beside those who take them one by one.

Those ahead may be dead. A waiter removes them once they have been silent for too long. Until then it goes by what it
knows: if it cannot know that one of those ahead is alive, or if it has found a free lock that they did not take, it is
wary. Then it watches the locks as well, and takes what nobody else takes. It still looks at no lock that changes hands.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from math import inf

import anyio
import msgspec

from tai_state.engines.api import ANYTHING, Delete, DocumentChange, Put, Scan, Write
from tai_state.engines.rewriting import write
from tai_state.engines.watching import Signal
from tai_state.errors import DeadlockDetected, LockAcquisitionFailed, StoreTimeout, Unavailable
from tai_state.locks.ahead import Ahead
from tai_state.locks.attempting import Attempt
from tai_state.locks.common import Common, alongside
from tai_state.locks.deadlocks import DeadlockSearch
from tai_state.locks.lease import Tenure
from tai_state.locks.records import HeldLock, WaiterRecord
from tai_state.locks.statistics import LockWaiter

_logger = logging.getLogger("tai_state.locks")

WAITER_TTL_SECONDS = 15.0
"""How long a waiter counts as alive after its last sign of life."""

BEAT_SECONDS = 10.0
"""How often a waiter gives a sign of life."""

TURN_SECONDS = 0.05
"""How much later each waiter tries than the one before it, so that the first in the queue mostly gets the lock."""

LEFT_SECONDS = 0.5
"""How long at least free locks are left to those ahead: by who finds them free when it joins, and by who is wary."""

LEFT_TURNS = 10
"""Into how many turns those are divided that take what was left: so they hardly ever try at the same moment."""

TURNS_MAX = 40
"""The most turns that a waiter for many resources lets pass."""

_DIGITS = 12
_NUMBERS = 10**_DIGITS

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
        self._attempt = attempt
        self._deadline = deadline
        self._owner = ""
        resources = attempt.claim.resources
        self._ahead = Ahead(common, resources)
        self._revisions: dict[str, int | None] = {}
        self._locks = {common.core.layout.lock(each): each for each in resources}
        self._record = WaiterRecord(
            holder=attempt.claim.holder, holds=holds, wants=resources, ttl=WAITER_TTL_SECONDS, ticket=0, n=0
        )
        self._is_far = self._is_wary = False
        self._noted: dict[str, int | None] = {}
        self._signal = Signal()
        self._has_moved = False
        self._broken: Exception | None = None
        self._asleep_until = -inf
        self._yields_until = -inf
        self._beat_at = self._search_at = inf
        self._search_seconds = SEARCH_SECONDS

    @property
    def _next_due(self) -> float:
        takeable_at = self._attempt.takeable_at if self._sees_expiry else inf
        silent_at = self._ahead.silent_at if self._is_far else inf
        return min(self._deadline, takeable_at, silent_at, self._beat_at, self._search_at)

    @property
    def _sees_expiry(self) -> bool:
        return not self._attempt.is_takeable and (self._is_wary or not self._is_far)

    @property
    def _targets(self) -> tuple[str, ...]:
        """What it watches."""
        behind = self._ahead.behind
        if not behind:
            return (*self._locks, *self._ahead.places)
        return (*behind, *self._locks) if self._is_wary else behind

    @property
    def leaving(self) -> list[Write]:
        """The writes that remove it from the queue."""
        return [Delete(f"{line}/{self._owner}", ANYTHING) for line in self._ahead.lines if self._owner]

    def statistics(self) -> LockWaiter:
        """What the waiter is doing now."""
        return LockWaiter(
            holder=self._record.holder,
            resources=self._record.wants,
            ahead=self._ahead.count,
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
        await self._take_number()
        self._common.waiting[self._owner] = self.statistics
        self._common.precedence.joined(self._record.wants)
        try:
            await self._enter()
            tenure = await self._move_up()
            if self._attempt.was_found:
                await write(self._common, self.leaving, self._common.bounds)
            return tenure
        finally:
            self._common.waiting.pop(self._owner)
            self._common.precedence.left(self._record.wants)

    async def finds_others(self) -> bool:
        """Whether others who may be alive are in line. It does not join them."""
        if await self._take_number():
            await self._look_ahead()
        return bool(self._ahead.places)

    async def _take_number(self) -> bool:
        """Take the number after the newest waiter's, and after all numbers that this process took; was there one?

        Waiters of two processes that come at the same moment may take the same one.
        """
        is_first = True
        for line in self._ahead.lines:
            newest = await self._newest_number(line)
            if newest is not None:
                self._common.precedence.number = max(self._common.precedence.number, newest)
                is_first = False
        self._common.precedence.number += 1
        self._owner = f"{_NUMBERS - self._common.precedence.number:0{_DIGITS}}-{self._attempt.claim.nonce}"
        return not is_first

    async def _newest_number(self, line: str) -> int | None:
        """The number of the newest waiter whose name is not damaged; None: nobody is in line."""
        found: int | None = None
        for limit in (1, None):
            async for document in self._common.scan(Scan(line, limit=limit)):
                found = _number(document.id)
                if found:
                    return found
            if found is None:
                break
        return found

    async def _enter(self) -> None:
        writes = [Put(f"{line}/{self._owner}", self._record, ANYTHING) for line in self._ahead.lines]
        what = "could not join the queue in time; nothing was acquired"
        unsettled = partial(StoreTimeout, "lock", "UNKNOWN", what)
        committed = await write(self._common, writes, self._common.bounds, unsettled)
        self._record = msgspec.structs.replace(self._record, ticket=committed.revision)
        now = self._common.monotonic()
        self._beat_at = now + BEAT_SECONDS
        if self._record.holds:  # a waiter that holds nothing is not in a circle
            self._search_at = now + SEARCH_SECONDS
        await self._look_ahead()
        if not self._attempt.is_takeable:
            self._noted = self._attempt.revisions
        elif self._ahead.places:
            self._yields_until = self._common.monotonic() + LEFT_SECONDS

    async def _listen(self, changes: AsyncIterator[DocumentChange]) -> None:
        try:
            async for change in changes:
                self._common.sightings.told(change.path, change.revision)
                if change.path in self._revisions and change.path not in self._locks:
                    self._ahead.silent_at = self._common.monotonic() + WAITER_TTL_SECONDS
                self._revisions[change.path] = change.revision
                self._has_moved = True
                self._signal.raise_()
        except Exception as error:  # noqa: BLE001 - the waiter raises it
            self._broken = error
            self._signal.raise_()

    async def _move_up(self) -> Tenure:
        while True:
            self._is_far = bool(self._ahead.behind)
            self._has_moved = False
            self._revisions.clear()
            async with self._common.watch(*self._targets) as changes, alongside(partial(self._listen, changes)):
                tenure = await (self._wait_behind() if self._is_far else self._wait_for_turn())
            if tenure is not None:
                return tenure

    async def _wait_behind(self) -> Tenure | None:
        """Wait until one of those ahead has left, or others turn out to be ahead, or may be dead; None: watch anew."""
        watched = self._targets
        while self._ahead.behind and self._targets == watched:
            event = self._signal.next()
            self._has_moved = False
            if self._have_left(self._ahead.behind):
                await self._look_ahead()
                return None
            left_until = self._left_until if self._are_left else inf
            await self._sleep(event, min(left_until, self._next_due))
            tenure: Tenure | None = None
            if not self._has_moved and self._common.monotonic() >= left_until:
                tenure = await self._attempt.send(self.leaving)
            tenure = tenure or await self._do_what_is_due()
            if tenure is not None:
                return tenure
        return None

    @property
    def _are_left(self) -> bool:
        """Whether the locks are to be had, and those ahead, who may be dead, have not taken them yet."""
        if not self._is_wary:
            return False
        if all(self._revisions.get(path, 0) is None for path in self._locks):
            self._attempt.presume_free()
        return self._attempt.is_takeable and self._are_as_seen

    def _have_left(self, places: tuple[str, ...]) -> bool:
        return any(self._revisions.get(path, 0) is None for path in places)

    async def _sleep(self, event: anyio.Event, until: float) -> None:
        now = self._common.monotonic()
        if until > now and not self._has_moved:
            self._asleep_until = until
            await self._common.wait(event, until - now)
            self._asleep_until = -inf
        if self._broken is not None:
            raise self._broken

    async def _wait_for_turn(self) -> Tenure:
        refusals = 0
        while True:
            event = self._signal.next()
            is_takeable = self._attempt.is_takeable
            now = self._common.monotonic()
            is_unconfirmed = not is_takeable and not self._is_confirmed
            until = self._turn_at if is_takeable else self._next_due
            if is_unconfirmed:
                until = min(until, now + TURN_SECONDS)
            await self._sleep(event, until)
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
    def _turn_at(self) -> float:
        """When to try to take what is to be had; at the deadline, it is always its turn."""
        turn_at = self._common.monotonic() + min(self._ahead.count, TURNS_MAX) * TURN_SECONDS
        return min(max(turn_at, self._yields_until) if self._ahead.places else turn_at, self._deadline)

    @property
    def _left_until(self) -> float:
        turn = _number(self._owner) % LEFT_TURNS
        return min(self._common.monotonic() + LEFT_SECONDS + turn * TURN_SECONDS, self._deadline)

    @property
    def _is_confirmed(self) -> bool:
        """Whether the watch has reported all that was last seen. Until then it may miss the next change.

        The watch sees nothing of a lock that is acquired and released between two of its looks: it is free in both.
        """
        return all(path in self._revisions for path in self._targets) if self._is_far else self._are_as_seen

    @property
    def _are_as_seen(self) -> bool:
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
        if self._sees_expiry and now >= self._attempt.takeable_at:
            tenure = await self._attempt.look()
        if tenure is not None:
            return tenure
        await self._note_holders()
        if self._is_far and now >= self._ahead.silent_at:
            await self._look_ahead()
        if now >= self._deadline:
            raise self._attempt.refusal(LockAcquisitionFailed)
        if now >= self._beat_at:
            pause = BEAT_SECONDS if await self._beat() else BEAT_SECONDS / 10
            self._beat_at = self._common.monotonic() + pause
            tenure = await self._attempt.look()  # a watch may have gone silent without an error
            if self._is_far:
                await self._look_ahead()
        if tenure is None and now >= self._search_at:
            await self._search()
        return tenure

    async def _note_holders(self) -> None:
        """Look at the waiters ahead again if a lock has changed hands, or if one of them has left."""
        revisions = self._attempt.revisions
        has_changed = revisions != self._noted and not self._attempt.is_takeable
        if has_changed:
            self._noted, self._yields_until = revisions, -inf
        if has_changed or self._have_left(self._ahead.places):
            await self._look_ahead()

    async def _look_ahead(self) -> None:
        """Look at the waiters right ahead again, and at what to expect of them."""
        await self._ahead.look(self._owner)
        self._is_wary = self._ahead.is_in_doubt or self._attempt.is_takeable

    async def _beat(self) -> bool:
        """Show that it still waits; False: that failed."""
        self._record = msgspec.structs.replace(self._record, n=self._record.n + 1)
        writes = [Put(f"{line}/{self._owner}", self._record, ANYTHING) for line in self._ahead.lines]
        what = "it is unknown whether the waiter's sign of life was stored"
        once = replace(self._common.bounds, attempts_max=1)
        try:
            await write(self._common, writes, once, partial(StoreTimeout, "wait", "UNKNOWN", what))
        except Unavailable as error:
            _logger.warning("a waiter for a lock could not give its sign of life", extra=error.fields())
            return False
        return True

    async def _search(self) -> None:
        if not self._common.core.engine.capabilities.shared_clock:
            await self._beat()  # without a shared clock, others see life only in a change between two of their looks
        search = DeadlockSearch(self._common)
        circle = await search.circle_to_leave(self._owner, [each.resource for each in self._record.holds])
        if circle is not None:
            raise DeadlockDetected(circle.cycle)
        self._search_at = self._common.monotonic() + self._search_seconds
        self._search_seconds = min(self._search_seconds * 2, SEARCH_SECONDS_MAX)


def _number(place: str) -> int:
    """The number in the id of a waiter's document, also if the rest is damaged; 0 if it has none."""
    digits = place[:_DIGITS]
    return _NUMBERS - int(digits) if digits.isdecimal() and len(digits) == _DIGITS else 0
