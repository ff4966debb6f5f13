"""The notes of cleanups: which streams have begun, though their first events may be gone.

A first write creates event 1 where there is none. A cleanup makes that place free again. So a first write also requires
that there is no such note; else it would begin a stream again whose state was lost, or is still to be restored.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import aclosing
from typing import Final

import msgspec

from tai_state.engines.api import ABSENT, ANYTHING, Check, Delete, Document, Put, Scan, Shape, Write
from tai_state.engines.paging import take
from tai_state.engines.rewriting import write_unless_moved
from tai_state.errors import CorruptDocument, EventSourcingError, Inconsistent
from tai_state.history.survey import sound_states
from tai_state.streams.core import Core
from tai_state.streams.damage import as_read
from tai_state.streams.layout import Stream
from tai_state.streams.records import StateRecord

_RECOVER: Final = "run `tai-state recover`"


class CleanedRecord(msgspec.Struct, frozen=True):
    """``governors/{g}/cleaned/{s}``: the stream of this state has begun, though its first events may be gone."""

    state_id: str


CLEANED = Shape(CleanedRecord, _RECOVER)


def put_note(stream: Stream) -> Put:
    """The write of a stream's note; writing it twice is harmless."""
    return Put(stream.cleaned, CleanedRecord(stream.state_id), ANYTHING)


async def without_note(core: Core, states: Iterable[tuple[Stream, StateRecord]]) -> list[EventSourcingError]:
    """What is wrong where event 1 was cleaned up, and there is no note of it."""
    streams = [stream for stream, record in states if record.floor > 1]
    paths = [path for stream in streams for path in (stream.cleaned, stream.event(1))]
    documents = (await core.engine.read(paths)).documents if paths else ()
    what = f"is missing though the first events of its stream were cleaned up: {_RECOVER}"
    return [
        EventSourcingError(stream.cleaned, what)
        for stream, note, first in zip(streams, documents[::2], documents[1::2], strict=True)
        if note is None and first is None
    ]


async def problem_of_note(core: Core, governor_id: str, note: Document) -> tuple[Inconsistent, list[Write]] | None:
    """What is wrong with a note, and the writes that mend it; None if it is sound."""
    found = as_read(note)
    place = core.layout.placed(governor_id, note)
    if place is None:
        return CorruptDocument(note.path, f"is not the path of a note: {_RECOVER}"), [Delete(note.path, found)]
    stream = place.stream
    [state] = (await core.engine.read([stream.state])).documents
    start, end = stream.range(1)
    if state is None and not await take(core.engine.scan(Scan(stream.events, start=start, end=end, limit=1)), 1):
        what = f"says that a stream has begun of which nothing is left: {_RECOVER}"
        return EventSourcingError(note.path, what), [Delete(note.path, found), Check(stream.state, ABSENT)]
    mended: list[Write] = [msgspec.structs.replace(put_note(stream), require=found)]
    try:
        if note.decode(CLEANED).state_id == stream.state_id:
            return None
    except CorruptDocument as error:
        return error, mended
    return CorruptDocument(note.path, f"names another state: {_RECOVER}"), mended


async def mend_notes(core: Core, governor_id: str) -> list[str]:
    """Write the notes of a governor that are missing or damaged, and remove those of streams that are gone.

    Returns the paths of those that were mended.
    """
    mended: list[str] = []
    async with aclosing(sound_states(core, governor_id)) as pages:
        async for states in pages:
            lacking = {error.path for error in await without_note(core, states)}
            for stream, _ in states:
                if stream.cleaned in lacking and await write_unless_moved(core.engine, [put_note(stream)], core.bounds):
                    mended.append(stream.cleaned)
    async for note in core.engine.scan(Scan(core.layout.cleaned(governor_id))):
        problem = await problem_of_note(core, governor_id, note)
        if problem is not None and await write_unless_moved(core.engine, problem[1], core.bounds):
            mended.append(note.path)
    return mended
