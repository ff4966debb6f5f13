"""The records of retired stores: whether they are whole, and how they are mended."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from tai_state.engines.api import ABSENT, At, Delete, Document, Put, Scan
from tai_state.engines.rewriting import write_unless_moved
from tai_state.errors import CorruptDocument, EventSourcingError, Inconsistent
from tai_state.streams.core import Core
from tai_state.streams.layout import Stream
from tai_state.streams.records import STATE
from tai_state.streams.retirements import RetiredRecord, check_clock, lack, retired_by, retired_in
from tai_state.values.clocks import VectorClock
from tai_state.values.retired import Retired, has_marks

_ELSEWHERE: Final = "sync with a store that has them, or restore a backup"


async def problem_of(core: Core, stream: Stream, document: Document | None, clock: VectorClock) -> Inconsistent | None:
    """What is wrong with the record of the retired stores that the clock of a state stands for, or with that clock.

    Args:
        core: the core of the store.
        stream: the state's paths.
        document: the record.
        clock: the state's clock, as it is stored.

    Returns:
        The error, with what mends it; None if nothing is wrong.
    """
    try:
        retired = retired_in(stream, document)
        if lacking := retired.lacking(clock):
            is_mendable = not (retired | await _said(core, stream)).lacking(clock)
            advice = "run `tai-state recover`" if is_mendable else _ELSEWHERE
            return EventSourcingError(stream.retired, f"{lack(len(lacking))}: {advice}")
        check_clock(stream, retired, clock)
    except Inconsistent as error:
        return error
    return None


async def mend_records(core: Core, governor_id: str, strange: list[Inconsistent]) -> list[str]:
    """Complete the records of a governor's states from the events by which stores were retired; remove damaged others.

    Args:
        core: the core of the store.
        governor_id: the governor.
        strange: a list that receives what is wrong with each record that still lacks something.

    Returns:
        The paths of the records that were completed or removed.
    """
    mended: list[str] = []
    async for state in core.engine.scan(Scan(core.layout.states(governor_id))):
        place = core.layout.placed(governor_id, state)
        try:
            clock = state.decode(STATE).causality
        except Inconsistent:
            continue  # its stream is found to be damaged
        if place is None or not has_marks(clock):
            continue
        path = place.stream.retired
        [document] = (await core.engine.read([path])).documents
        if await problem_of(core, place.stream, document, clock) is None:
            continue
        if await _completed(core, place.stream, document):
            mended.append(path)
        [document] = (await core.engine.read([path])).documents
        if (error := await problem_of(core, place.stream, document, clock)) is not None:
            strange.append(error)
    async for document in core.engine.scan(Scan(core.layout.retired(governor_id))):
        is_sound = problem_of_place(core, governor_id, document) is None
        if is_sound or await _is_needed(core, governor_id, document):
            continue
        if await write_unless_moved(core.engine, [Delete(document.path, At(document.revision))], core.bounds):
            mended.append(document.path)
    return mended


def problem_of_place(core: Core, governor_id: str, document: Document) -> Inconsistent | None:
    """What is wrong with a record, whatever its state's clock stands for; None if it is sound."""
    if (place := core.layout.placed(governor_id, document)) is None:
        return CorruptDocument(document.path, "is not the path of a record: run `tai-state recover`")
    try:
        retired_in(place.stream, document)
    except Inconsistent as error:
        return error
    return None


async def _is_needed(core: Core, governor_id: str, record: Document) -> bool:
    """Whether a clock may stand for what is on record in the place of this document."""
    [state] = (await core.engine.read([f"{core.layout.states(governor_id)}/{record.id}"])).documents
    try:
        return state is not None and has_marks(state.decode(STATE).causality)
    except Inconsistent:
        return True


async def _completed(core: Core, stream: Stream, document: Document | None) -> bool:
    """Write what is on record, and what the events say; False if that is nothing new, or somebody else was faster."""
    there: Retired | None = None
    with suppress(Inconsistent):
        there = retired_in(stream, document)
    known = (there or Retired({})) | await _said(core, stream)
    if there is not None and known.taken_out.keys() == there.taken_out.keys():
        return False
    require = ABSENT if document is None else At(document.revision)
    put = Put(stream.retired, RetiredRecord(stream.state_id, known.taken_out), require)
    return await write_unless_moved(core.engine, [put], core.bounds)


async def _said(core: Core, stream: Stream) -> Retired:
    """The retirements that are events of a stream, up to a damaged event."""
    found: dict[str, VectorClock] = {}
    with suppress(Inconsistent):
        async for stored in core.reader.records(stream, 1):
            found.update(retired_by(stored.record).taken_out)
    return Retired(found)
