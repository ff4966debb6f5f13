"""Cleaning up: removes locks that have expired, and what killed processes left behind."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from tai_state.engines.api import ABSENT, At, Check, Delete, Document, Scan, Write
from tai_state.engines.paging import take
from tai_state.engines.rewriting import write_unless_moved
from tai_state.errors import CorruptDocument
from tai_state.locks.common import Common
from tai_state.locks.records import BREAK, WAITER
from tai_state.locks.sighting import Standing, Stillness
from tai_state.values.ids import stored_id

T = TypeVar("T")

_PAGE = 100

_logger = logging.getLogger("tai_state.locks")


class Cleanup:
    """One clean-up of all documents that locks write. A damaged document is skipped, with a warning.

    Args:
        common: what all parts of the locks share.
    """

    def __init__(self, common: Common) -> None:
        self._common = common
        self._engine = common.core.engine
        self._layout = common.core.layout

    async def run(self) -> int:
        """Remove all that nobody needs any more; returns how many locks were removed."""
        removed = 0
        locks = self._engine.scan(Scan(self._layout.locks))
        while page := await take(locks, _PAGE):
            resources = _resources([each.path for each in page])
            seen = await self._common.sightings.read(self._common.sightings.paths(resources))
            for resource in resources:
                removed += await self._lock(resource, seen)
                await self._waiters(resource)
        missing = await self._engine.missing(self._layout.locks)
        for resource in _resources([f"{self._layout.locks}/{each}" for each in missing]):
            await self._waiters(resource)
        await self._lockbeats()
        await self._silent(Scan(self._layout.lockbreaks), lambda each: each.decode(BREAK).ttl)
        return removed

    async def _lock(self, resource: str, seen: dict[str, Stillness]) -> bool:
        standing = _decoded(partial(self._common.sightings.standing, resource, seen))
        if standing is None or standing.remaining_seconds > 0:
            return False
        return await self._remove(self._end(resource, standing))

    def _end(self, resource: str, standing: Standing) -> list[Write]:
        path, beat = self._layout.lockbeat(resource), standing.beat
        unmoved = Check(path, ABSENT) if beat is None else Delete(path, At(beat.revision))
        return [Delete(standing.lock.path, At(standing.lock.revision)), unmoved]

    async def _waiters(self, resource: str) -> None:
        await self._silent(Scan(self._layout.waiters(resource)), lambda each: each.decode(WAITER).ttl)

    async def _lockbeats(self) -> None:
        """Remove renewals that belong to no lock."""
        async for document in self._engine.scan(Scan(self._layout.lockbeats)):
            for resource in _resources([document.path]):
                if (await self._engine.read([self._layout.lock(resource)])).documents == (None,):
                    await self._remove([Delete(document.path, At(document.revision))])

    async def _silent(self, scan: Scan, ttl_seconds: Callable[[Document], float]) -> None:
        """Remove the documents that were not written again for as long as each of them counts."""
        documents = self._engine.scan(scan)
        while page := await take(documents, _PAGE):
            for each in (await self._common.sightings.read([document.path for document in page])).values():
                ttl = _decoded(partial(ttl_seconds, each.document))
                if ttl is not None and self._common.sightings.is_gone(each, ttl):
                    await self._remove([Delete(each.document.path, At(each.document.revision))])

    async def _remove(self, writes: Sequence[Write]) -> bool:
        return await write_unless_moved(self._common, writes, self._common.bounds)


def _resources(paths: Sequence[str]) -> list[str]:
    """The resources after which documents are named, without those whose names are damaged."""
    found = [_decoded(partial(stored_id, each)) for each in paths]
    return [each for each in found if each is not None]


def _decoded(decode: Callable[[], T]) -> T | None:
    """What a document says; None if it is damaged."""
    try:
        return decode()
    except CorruptDocument as error:
        _logger.warning("a clean-up of locks skipped a damaged document", extra=error.fields())
        return None
