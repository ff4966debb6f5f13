"""How far a stream goes: by the document of its state or, if that cannot be read, by its events and snapshots."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from tai_state.engines.api import Document, Scan
from tai_state.errors import CorruptDocument, Inconsistent, StateNotFound
from tai_state.history.unfinished import unfinished_restore
from tai_state.streams.core import Core
from tai_state.streams.layout import Stream
from tai_state.streams.records import EVENT


class Extent(msgspec.Struct, frozen=True):
    """How far a stream goes.

    Attributes:
        version: the newest version.
        floor: the version below which events may have been cleaned up.
        kept: the versions of the kept snapshots.
        as_of: the latest time of all events, as text; None if only the events say it.
    """

    version: int
    floor: int
    kept: tuple[int, ...]
    as_of: str | None


async def extent_of(core: Core, stream: Stream, document: Document | None) -> Extent:
    """The extent of a stream, given the document of its state. Without a sound one, all of the stream is read.

    Raises:
        StateNotFound: the state was never written.
        EventSourcingError: a restore has still to write the state.
    """
    damage: CorruptDocument | None = None
    if document is not None:
        try:
            record = core.checked(stream, document)
        except CorruptDocument as error:
            damage = error
        else:
            return Extent(record.version, record.floor, record.kept, record.as_of)
    events = await _versions(core, stream, stream.events)
    if not events:
        raise damage or StateNotFound(stream.state)
    if document is None and (restore := await unfinished_restore(core, stream.governor_id)) is not None:
        raise restore
    return Extent(events[-1], events[0], tuple(await _versions(core, stream, stream.snapshots)), None)


async def first_known(core: Core, stream: Stream, kept: Collection[int]) -> int:
    """The first version that needs no event that is gone: it has one of these snapshots, or its event carries a state.

    If there is none, this is the version of the first event.
    """
    first: int | None = None
    start, end = stream.range(1)
    async for document in core.engine.scan(Scan(stream.events, start=start, end=end)):
        if (place := core.layout.placed(stream.governor_id, document)) is None:
            continue
        first = first or place.version
        if place.version == 1 or place.version in kept or _carries_state(document):
            return place.version
    return first or 1


def _carries_state(event: Document) -> bool:
    try:
        return event.decode(EVENT).to_state is not None
    except Inconsistent:
        return False


async def _versions(core: Core, stream: Stream, collection: str) -> list[int]:
    """The versions of a stream's documents in a collection."""
    start, end = stream.range(1)
    documents = core.engine.scan(Scan(collection, start=start, end=end))
    return [
        place.version async for each in documents if (place := core.layout.placed(stream.governor_id, each)) is not None
    ]
