"""Finding documents whatever is damaged or missing above them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tai_state.engines.api import Document, Scan
from tai_state.errors import CorruptDocument
from tai_state.streams.core import Core
from tai_state.streams.damage import Report, misplaced
from tai_state.streams.layout import Stream
from tai_state.streams.reader import Folded, floor_in
from tai_state.streams.records import EVENT, GOVERNOR
from tai_state.values.ids import stored_id


async def every_governor(core: Core, report: Report) -> list[str]:
    """The ids of all governors, in order; those whose own document is damaged or missing, too.

    Args:
        core: the store's core.
        report: called with what is wrong with a governor's document. If that is its id, the governor is left out.
    """
    collection = core.layout.governors
    segments: set[str] = set()
    async for document in core.engine.scan(Scan(collection)):
        segments.add(document.id)
        try:
            document.decode(GOVERNOR)
        except CorruptDocument as error:
            report(error)
    for segment in await core.engine.missing(collection):
        segments.add(segment)
        what = "is missing though there are documents below it: run `tai-state recover`"
        report(CorruptDocument(f"{collection}/{segment}", what))
    return governor_ids(core, segments, report)


def governor_ids(core: Core, segments: Iterable[str], report: Report) -> list[str]:
    """The ids of governors, in order, by their escaped ids; one that no governor can have is reported, and left out."""
    found: list[str] = []
    for segment in sorted(segments):
        path = f"{core.layout.governors}/{segment}"
        try:
            found.append(stored_id(path))
        except CorruptDocument:
            report(misplaced(path, "a governor"))
    return found


async def lock_collections(core: Core) -> list[str]:
    """The collections of what locks have written; those of waiters, too, whether or not their lock is held."""
    layout, engine = core.layout, core.engine
    locks = {document.id async for document in engine.scan(Scan(layout.locks))}
    locks.update(await engine.missing(layout.locks))
    waiters = [f"{layout.locks}/{each}/waiters" for each in sorted(locks)]
    return [layout.locks, layout.lockbeats, layout.lockbreaks, *waiters]


class Beginning(NamedTuple):
    """Where a stream begins that has lost its first events.

    Attributes:
        floor: the version below which events may have been cleaned up; None if it is not known.
        shown: the state after the first event that is left, if that does not carry it itself.
    """

    floor: int | None
    shown: Folded | None


async def beginnings_of(
    core: Core, governor_id: str, page: Sequence[Document], segment: str | None
) -> dict[str, Beginning]:
    """The streams that begin in a page of events, and not with their first one; by segment.

    Args:
        core: the store's core.
        governor_id: the governor.
        page: the documents of events, in order.
        segment: that of the stream to which the event before the page belongs; None: there is none.
    """
    late: dict[str, tuple[Stream, Document]] = {}
    for document in page:
        place = core.layout.placed(governor_id, document)
        if place is not None and place.stream.segment != segment:
            segment = place.stream.segment
            if place.version > 1:
                late[segment] = place.stream, document
    states = (await core.engine.read([stream.state for stream, _ in late.values()])).documents if late else ()
    found: dict[str, Beginning] = {}
    for (each, (stream, document)), state in zip(late.items(), states, strict=True):
        found[each] = Beginning(floor_in(state), await core.reader.shown_by_others(stream, document.decode(EVENT)))
    return found
