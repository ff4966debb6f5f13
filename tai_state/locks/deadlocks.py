"""Deadlocks: circles in which each waiter wants a resource that the next one holds.

A waiter that holds nothing is not in a circle. The search goes backwards from the resources that the searcher holds:
the documents of a resource's waiters are stored under it, and each names the resources that its waiter holds. Those
that may be in a circle are then read again at one moment. A circle counts only if that one look shows every wait and
every lease in force, and every waiter alive.

There is no bound on how many waiters and resources a search covers, so no circle is missed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

import msgspec

from tai_state.engines.api import Scan, split
from tai_state.errors import CorruptDocument
from tai_state.locks.common import Common
from tai_state.locks.damage import skipped, sound_waiter
from tai_state.locks.records import WaiterRecord


class Waiter(msgspec.Struct, frozen=True):
    """A waiter that is alive.

    Attributes:
        owner: the owner of its place in the queue.
        ticket: greater for a later arrival.
        holds: the resources it holds.
        wants: the resources it waits for.
    """

    owner: str
    ticket: int
    holds: tuple[str, ...]
    wants: tuple[str, ...]


class Circle(msgspec.Struct, frozen=True):
    """Waiters of which each wants a resource that the next one holds.

    Attributes:
        waiters: the waiters, each followed by a holder of what it wants.
        resources: in the same order, the resource that each waiter wants from the next one.
    """

    waiters: tuple[Waiter, ...]
    resources: tuple[str, ...]

    @property
    def cycle(self) -> tuple[str, ...]:
        """The resources, the smallest first: each holder waits for the next resource, the last one for the first."""
        first = self.resources.index(min(self.resources))
        return self.resources[first:] + self.resources[:first]

    @property
    def youngest(self) -> Waiter:
        """The waiter that came last, and so has to give up."""
        return max(self.waiters, key=lambda each: (each.ticket, each.owner))


def circle_through(owner: str, waiters: Mapping[str, Waiter]) -> Circle | None:
    """A shortest circle that includes a waiter, if there is one.

    Args:
        owner: the waiter's owner.
        waiters: the living waiters, by owner; each holds only what it is certain to have.
    """
    holders: dict[str, list[Waiter]] = {}
    for waiter in waiters.values():
        for resource in waiter.holds:
            holders.setdefault(resource, []).append(waiter)
    came_from: dict[str, tuple[Waiter, str]] = {}
    pending = deque([waiters[owner]] if owner in waiters else [])
    while pending:
        waiter = pending.popleft()
        for resource in waiter.wants:
            for holder in holders.get(resource, ()):
                if holder.owner in came_from:
                    continue
                came_from[holder.owner] = (waiter, resource)
                if holder.owner == owner:
                    return _traced(owner, came_from)
                pending.append(holder)
    return None


def circles(waiters: Mapping[str, Waiter]) -> list[Circle]:
    """Circles of deadlocked waiters: no two of them share a waiter, and those in none of them are in no circle."""
    found: list[Circle] = []
    left = dict(waiters)
    for owner in sorted(waiters):
        circle = circle_through(owner, left)
        if circle is not None:
            found.append(circle)
            for each in circle.waiters:
                del left[each.owner]
    return found


def _traced(owner: str, came_from: Mapping[str, tuple[Waiter, str]]) -> Circle:
    steps: list[tuple[Waiter, str]] = []
    here = owner
    while not steps or here != owner:
        step = came_from[here]
        steps.append(step)
        here = step[0].owner
    steps.reverse()
    return Circle(tuple(waiter for waiter, _ in steps), tuple(resource for _, resource in steps))


def entangled(places: Mapping[str, WaiterRecord]) -> dict[str, WaiterRecord]:
    """The waiters that may be in a circle: each of them wants what one of them holds, and holds what one of them wants.

    Args:
        places: the waiters, by the paths of their documents.
    """
    left, before = dict(places), len(places) + 1
    while len(left) < before:
        before = len(left)
        held = {each.resource for record in left.values() for each in record.holds}
        wanted = {each for record in left.values() for each in record.wants}
        left = {
            path: record
            for path, record in left.items()
            if not held.isdisjoint(record.wants) and any(each.resource in wanted for each in record.holds)
        }
    return left


class DeadlockSearch:
    """Looks for circles.

    Args:
        common: what all parts of the locks share.
    """

    def __init__(self, common: Common) -> None:
        self._common = common
        self._layout = common.core.layout

    async def circle_to_leave(self, owner: str, holds: Iterable[str]) -> Circle | None:
        """A circle in which the waiter is the youngest, and so has to give up.

        Args:
            owner: the owner of its place in the queue.
            holds: the resources that it holds.
        """
        places: dict[str, WaiterRecord] = {}
        known = set(holds)
        pending = deque(sorted(known))
        while pending:
            found = await self._holding(self._layout.waiters(pending.popleft()))
            places |= found
            more = {held.resource for record in found.values() for held in record.holds} - known
            known |= more
            pending += sorted(more)
        places = entangled(places)
        if not any(split(path)[1] == owner for path in places):
            return None
        circle = circle_through(owner, await self._alive(places))
        return circle if circle is not None and circle.youngest.owner == owner else None

    async def circles(self) -> list[Circle]:
        """All circles in the store. Reads every lock and every waiter."""
        places: dict[str, WaiterRecord] = {}
        async for lock in self._common.scan(Scan(self._layout.locks)):
            places |= await self._holding(f"{lock.path}/waiters")
        places = entangled(places)
        return circles(await self._alive(places)) if places else []

    async def _holding(self, line: str) -> dict[str, WaiterRecord]:
        """The waiters in a line that hold something, by the paths of their documents; the others are in no circle."""
        found: dict[str, WaiterRecord] = {}
        async for document in self._common.scan(Scan(line)):
            record = sound_waiter(document)
            if record is not None and record.holds:
                found[document.path] = record
        return found

    async def _alive(self, places: Mapping[str, WaiterRecord]) -> dict[str, Waiter]:
        """The living waiters, by owner, each with the resources that it still holds; all from one look."""
        sightings = self._common.sightings
        resources = sorted({held.resource for record in places.values() for held in record.holds})
        seen = await sightings.read([*places, *sightings.paths(resources)])
        lasting: set[tuple[str, str]] = set()
        for resource in resources:
            try:
                standing = sightings.standing(resource, seen)
            except CorruptDocument as error:  # nobody can tell who holds it
                skipped(error)
                continue
            if standing is not None and standing.lasts:
                lasting.add((resource, standing.record.nonce))
        found: dict[str, Waiter] = {}
        for path in places:
            record = sound_waiter(seen[path].document) if path in seen else None
            if record is None:
                continue
            owner, sight = split(path)[1], seen[path]
            if owner in self._common.waiting or (sight.is_sure and not sightings.is_gone(sight, record.ttl)):
                holds = tuple(each.resource for each in record.holds if (each.resource, each.nonce) in lasting)
                found[owner] = Waiter(owner, record.ticket or sight.document.revision, holds, record.wants)
        return found
