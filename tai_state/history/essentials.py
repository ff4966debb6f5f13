"""What a governor needs beside its streams: its own document, and the markers of callers' event ids."""

from __future__ import annotations

from collections.abc import Sequence

from tai_state.engines.api import ABSENT, ANYTHING, At, Check, Delete, Document, Put, Scan
from tai_state.engines.paging import take
from tai_state.engines.rewriting import write_unless_moved
from tai_state.errors import CorruptDocument, Inconsistent, InvalidId
from tai_state.history.unfinished import governors_of_restores
from tai_state.streams.core import Core
from tai_state.streams.damage import as_read, fault
from tai_state.streams.layout import Stream
from tai_state.streams.records import EVENT, GOVERNOR, MARKER, EventRecord, GovernorRecord, MarkerRecord
from tai_state.streams.repeating import states_said
from tai_state.streams.surveying import governor_ids
from tai_state.values.ids import stored_id, unescape_id
from tai_state.values.times import format_us

MARKERS_AT_ONCE = 100
"""How many markers are looked for in one read."""


async def all_governors(core: Core, strange: list[Inconsistent]) -> list[str]:
    """The ids of all governors, in order, those whose own document is gone included.

    Args:
        core: the core of the store.
        strange: a list that receives documents whose id cannot be that of a governor, and notes of their restores.
    """
    segments = {document.id async for document in core.engine.scan(Scan(core.layout.governors))}
    segments.update(await core.engine.missing(core.layout.governors))
    segments.update(await governors_of_restores(core, strange.append))
    return governor_ids(core, segments, strange.append)


async def governor_problem(core: Core, governor_id: str) -> str | None:
    """What is wrong with a governor's own document; None if it is sound, or if nothing was ever written under it."""
    path = core.layout.governor(governor_id)
    for look in range(2):
        [document] = (await core.engine.read([path])).documents
        if document is not None:
            try:
                document.decode(GOVERNOR)
            except Inconsistent as error:
                return fault(error)
            return None
        if look == 0 and not await _has_documents(core, governor_id):
            return None
    return "is missing though there are documents below it"


async def mend_governor(core: Core, governor_id: str) -> bool:
    """Make a governor's own document anew if it is missing or damaged. Returns whether that was needed."""
    if await governor_problem(core, governor_id) is None:
        return False
    made = GovernorRecord(format_us(core.settings.clock.now_us()), {})
    return await write_unless_moved(core.engine, [Put(core.layout.governor(governor_id), made, ANYTHING)], core.bounds)


async def without_marker(core: Core, events: Sequence[tuple[Stream, EventRecord]]) -> list[Put]:
    """The writes that give each event with a caller's id the marker that it lacks, or that is damaged or wrong."""
    lacking: list[Put] = []
    paths = [stream.marker(record.event_id) for stream, record in events]
    markers = (await core.engine.read(paths)).documents if paths else ()
    for (stream, record), found in zip(events, markers, strict=True):
        if record.content is None or not await _is_unfit(core, stream, record, found):
            continue
        path = stream.marker(record.event_id)
        event, marker = (await core.engine.read([stream.event(record.version), path])).documents
        if event is None or not states_said(record.content, record):
            continue
        if await _is_unfit(core, stream, record, marker):
            require = ABSENT if marker is None else At(marker.revision)
            lacking.append(Put(path, MarkerRecord(stream.state_id, record.version, record.content), require))
    return lacking


async def _is_unfit(core: Core, stream: Stream, event: EventRecord, marker: Document | None) -> bool:
    """Whether the marker of an event's id is missing or damaged, or names a place where no event has that id."""
    sound = _sound(marker)
    if sound is None:
        return True
    try:
        record = sound.decode(MARKER)
        if (record.state_id, record.version) == (stream.state_id, event.version):
            return False
        named = core.layout.stream(stream.governor_id, record.state_id).event(record.version)
        [document] = (await core.engine.read([named])).documents
        return document is None or document.decode(EVENT).event_id != event.event_id
    except InvalidId:
        return True
    except Inconsistent:
        return False  # the event in that place is damaged, and may have had this id


async def mend_markers(core: Core, governor_id: str) -> tuple[list[str], list[Inconsistent]]:
    """Make all missing, damaged or wrong markers of a governor anew, from its events; remove those that no id leads to.

    Returns the paths of those that were mended, and what is wrong with those that no event can give back.
    """
    mended: list[str] = []
    documents = core.engine.scan(Scan(core.layout.events(governor_id)))
    while page := await take(documents, MARKERS_AT_ONCE):
        events: list[tuple[Stream, EventRecord]] = []
        for document in page:
            place = core.layout.placed(governor_id, document)
            try:
                record = document.decode(EVENT)
            except Inconsistent:
                continue  # its stream is found to be damaged
            if place is not None and record.content is not None and record.is_genuine(governor_id):
                events.append((place.stream, record))
        lacking = await without_marker(core, events)
        mended += [put.path for put in lacking if await write_unless_moved(core.engine, [put], core.bounds)]
    what = "is damaged, and no event that is left can give it back: restore a backup"
    lost: list[Inconsistent] = []
    async for marker in core.engine.scan(Scan(core.layout.ids(governor_id))):
        if not is_marker(marker):
            if await write_unless_moved(core.engine, [Delete(marker.path, as_read(marker))], core.bounds):
                mended.append(marker.path)
        elif _sound(marker) is None:
            lost.append(CorruptDocument(marker.path, what))
    return mended, lost


def is_marker(document: Document) -> bool:
    """Whether a document among the markers of a governor has the path of one."""
    try:
        stored_id(document.path)
    except CorruptDocument:
        return False
    return True


async def drop_stray_markers(core: Core, governor_id: str, holds: Check) -> None:
    """Remove the markers of ids that no event has. Ids whose events a cleanup has dropped keep theirs.

    Args:
        core: the core of the store.
        governor_id: the governor.
        holds: what each commit requires beside.
    """
    documents = core.engine.scan(Scan(core.layout.ids(governor_id)))
    while page := await take(documents, MARKERS_AT_ONCE):
        for marker in page:
            if await _is_stray(core, governor_id, marker):
                delete = Delete(marker.path, At(marker.revision))
                await write_unless_moved(core.engine, [holds, delete], core.bounds)


async def _is_stray(core: Core, governor_id: str, marker: Document) -> bool:
    """Whether the place that a marker names has an event with another id, or is after the end of its stream."""
    try:
        record = marker.decode(MARKER)
        stream = core.layout.stream(governor_id, record.state_id)
        [event] = (await core.engine.read([stream.event(record.version)])).documents
        if event is not None:
            found = event.decode(EVENT)
            return found.event_id != unescape_id(marker.id) and found.is_genuine(governor_id)
    except (Inconsistent, InvalidId):
        return False
    start, end = stream.range(1)
    first = await take(core.engine.scan(Scan(stream.events, start=start, end=end, limit=1)), 1)
    return not first or first[0].path < stream.event(record.version)


def _sound(marker: Document | None) -> Document | None:
    """A marker that is there and can be read."""
    try:
        if marker is not None:
            marker.decode(MARKER)
    except CorruptDocument:
        return None
    return marker


async def _has_documents(core: Core, governor_id: str) -> bool:
    for collection in (core.layout.states(governor_id), core.layout.events(governor_id)):
        if await take(core.engine.scan(Scan(collection, limit=1)), 1):
            return True
    return False
