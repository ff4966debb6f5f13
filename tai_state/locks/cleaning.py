"""Cleaning up: removes locks that have expired, what killed processes left behind, and what is damaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tai_state.engines.api import ABSENT, At, Check, Delete, Document, Scan, Shape, Write
from tai_state.engines.paging import take
from tai_state.engines.rewriting import write_unless_moved
from tai_state.errors import CorruptDocument
from tai_state.locks.common import Common
from tai_state.locks.damage import decoded, is_nameless, resource_of, skipped
from tai_state.locks.records import BREAK, WAITER
from tai_state.locks.sighting import Stillness
from tai_state.streams.damage import as_read

_PAGE = 100

_NOTE_SECONDS = 86_400.0
"""For how long a damaged note of a broken lock is left, because it does not say how long it counts. This goes by the
clocks of those who wrote it and who clean up: nothing is taken from anybody with it, and a day is long."""

_WAITER_SECONDS = 0.0
"""The same of a damaged waiter: one that is alive writes its document again."""


class Cleanup:
    """One clean-up of all documents that locks write. It removes damaged ones, except the lock of a resource.

    Args:
        common: what all parts of the locks share.
    """

    def __init__(self, common: Common) -> None:
        self._common = common
        self._engine = common.core.engine
        self._layout = common.core.layout
        self._clock = common.core.settings.clock

    async def run(self) -> int:
        """Remove all that nobody needs any more; returns how many locks were removed."""
        removed = 0
        locks = self._engine.scan(Scan(self._layout.locks))
        while page := await take(locks, _PAGE):
            beats = [f"{self._layout.lockbeats}/{lock.id}" for lock in page]
            seen = await self._common.sightings.read([*(lock.path for lock in page), *beats])
            for lock in page:
                removed += await self._lock(lock, seen)
                await self._waiters(lock.id)
        for lock_id in await self._engine.missing(self._layout.locks):
            await self._waiters(lock_id)
        await self._lockbeats()
        await self._silent(Scan(self._layout.lockbreaks), BREAK, _NOTE_SECONDS)
        return removed

    async def _lock(self, lock: Document, seen: Mapping[str, Stillness]) -> bool:
        """Remove a lock that has expired, and return whether it did; also one whose name no resource has."""
        try:
            resource = resource_of(lock)
        except CorruptDocument as error:
            skipped(error)
            await self._remove([Delete(lock.path, as_read(lock))])
            return False
        try:
            standing = self._common.sightings.standing(resource, seen)
        except CorruptDocument as error:
            skipped(error)
            return False
        if standing is None or standing.remaining_seconds > 0:
            return False
        path, beat = self._layout.lockbeat(resource), standing.beat
        unmoved = Check(path, ABSENT) if beat is None else Delete(path, as_read(beat))
        return await self._remove([Delete(standing.lock.path, At(standing.lock.revision)), unmoved])

    async def _waiters(self, lock_id: str) -> None:
        await self._silent(Scan(f"{self._layout.locks}/{lock_id}/waiters"), WAITER, _WAITER_SECONDS)

    async def _lockbeats(self) -> None:
        """Remove renewals that belong to no lock."""
        async for beat in self._engine.scan(Scan(self._layout.lockbeats)):
            if (await self._engine.read([f"{self._layout.locks}/{beat.id}"])).documents == (None,):
                await self._remove([Delete(beat.path, as_read(beat))])

    async def _silent(self, scan: Scan, shape: Shape[Any], damaged_seconds: float) -> None:
        """Remove the documents that were not written again for as long as each of them counts.

        Args:
            scan: the documents.
            shape: what they should be; it says how long each of them counts.
            damaged_seconds: how long a damaged one counts.
        """
        documents = self._engine.scan(scan)
        while page := await take(documents, _PAGE):
            for stray in filter(is_nameless, page):
                await self._remove([Delete(stray.path, as_read(stray))])
            for each in (await self._common.sightings.read([document.path for document in page])).values():
                try:
                    is_gone = self._common.sightings.is_gone(each, decoded(each.document, shape).ttl)
                except CorruptDocument as error:
                    skipped(error)
                    is_gone = abs(self._clock.now_us() - each.document.updated_us) >= damaged_seconds * 1e6
                if is_gone:
                    await self._remove([Delete(each.document.path, as_read(each.document))])

    async def _remove(self, writes: Sequence[Write]) -> bool:
        return await write_unless_moved(self._common, writes, self._common.bounds)
