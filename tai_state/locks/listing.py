"""Listing the locks of a store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tai_state.engines.api import Document, Scan
from tai_state.engines.paging import Paged, converted, resized
from tai_state.errors import CorruptDocument
from tai_state.locks.records import LockInfo
from tai_state.locks.sighting import Sightings, Standing, Stillness
from tai_state.streams.core import Core
from tai_state.streams.damage import Report, raising
from tai_state.values.ids import stored_id
from tai_state.values.times import from_us

_PAGE = 100


def listed(core: Core, sightings: Sightings, report: Report = raising) -> Paged[LockInfo]:
    """All locks, sorted by resource; a damaged one is reported, and left out."""

    def infos(documents: Sequence[Document], seen: Mapping[str, Stillness]) -> Iterator[LockInfo]:
        for document in documents:
            try:
                resource = stored_id(document.path)
                standing = sightings.standing(resource, seen)
            except CorruptDocument as error:
                report(error)
            else:
                if standing is not None:
                    yield info_of(resource, standing)

    async def convert(page: Sequence[Document]) -> Iterator[LockInfo]:
        beats = [f"{core.layout.lockbeats}/{each.id}" for each in page]
        return infos(page, await sightings.read([*(each.path for each in page), *beats]))

    return converted(resized(core.engine.scan(Scan(core.layout.locks)), _PAGE), convert)


def info_of(resource: str, standing: Standing) -> LockInfo:
    """A lock as callers get it."""
    return LockInfo(
        resource=resource,
        holder=standing.record.holder,
        fence=standing.lock.revision,
        acquired_at=from_us(standing.lock.updated_us),
        last_sign_at=from_us(standing.last_sign_us),
        ttl_seconds=standing.record.ttl,
        remaining_seconds=standing.remaining_seconds,
    )
