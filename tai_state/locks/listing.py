"""Listing the locks of a store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tai_state.engines.api import Document, Scan
from tai_state.engines.paging import Paged, converted, resized
from tai_state.errors import CorruptDocument, Inconsistent
from tai_state.locks.damage import decoded, resource_of
from tai_state.locks.records import BEAT, LockInfo
from tai_state.locks.sighting import Sightings, Standing, Stillness
from tai_state.streams.core import Core
from tai_state.streams.damage import Report
from tai_state.streams.records import recorded
from tai_state.values.times import from_us

_PAGE = 100


def listed(core: Core, sightings: Sightings, report: Report | None = None) -> Paged[LockInfo]:
    """All locks, sorted by the escaped names of their resources.

    A damaged lock is left out. One with a damaged renewal is not: the renewal counts as one of its holder's.

    Args:
        core: the store's core.
        sightings: tell how long each document has stood still.
        report: called with each damage; None: the first is raised after the last lock.
    """
    found: list[Inconsistent] = []
    tell = found.append if report is None else report

    def infos(documents: Sequence[Document], seen: Mapping[str, Stillness]) -> Iterator[LockInfo]:
        for document in documents:
            try:
                resource = resource_of(document)
                standing = sightings.standing(resource, seen)
                if standing is not None:
                    yield info_of(resource, standing)
                    if standing.beat is not None:
                        decoded(standing.beat, BEAT)
            except CorruptDocument as error:
                tell(error)

    async def convert(page: Sequence[Document]) -> Iterator[LockInfo]:
        beats = [f"{core.layout.lockbeats}/{each.id}" for each in page]
        return infos(page, await sightings.read([*(each.path for each in page), *beats]))

    async def end() -> None:
        if found:
            raise found[0]

    return converted(resized(core.engine.scan(Scan(core.layout.locks)), _PAGE), convert, end)


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


def damaged_info(resource: str, document: Document) -> LockInfo:
    """What is known of a lock whose document is damaged: its resource, its fence, and when it was written."""
    try:
        written_at = recorded(document.updated_us, document.path)
    except CorruptDocument:
        written_at = from_us(0)
    return LockInfo(
        resource=resource,
        holder="",
        fence=document.revision,
        acquired_at=written_at,
        last_sign_at=written_at,
        ttl_seconds=0.0,
        remaining_seconds=0.0,
    )
