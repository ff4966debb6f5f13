"""The records of retired stores: whether they are whole, and how they are mended."""

from __future__ import annotations

from contextlib import suppress

from tai_state.engines.api import ABSENT, At, Delete, Document, Put, Scan
from tai_state.engines.rewriting import write_unless_moved
from tai_state.errors import EventSourcingError, Inconsistent
from tai_state.streams.core import Core
from tai_state.streams.damage import fault
from tai_state.streams.layout import Stream
from tai_state.streams.records import STATE
from tai_state.streams.retirements import RetiredRecord, retired_by, retired_in
from tai_state.values.clocks import VectorClock
from tai_state.values.retired import Retired, has_marks


def record_problem(stream: Stream, document: Document | None, clock: VectorClock) -> str | None:
    """What is wrong with the record of the retired stores that a clock of a state stands for; None if it is whole."""
    try:
        lacking = retired_in(stream, document).lacking(clock)
    except Inconsistent as error:
        return fault(error)
    return f"lacks {len(lacking)} of the retirements that the clock of its state stands for" if lacking else None


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
        if record_problem(place.stream, document, clock) is None:
            continue
        if await _completed(core, place.stream, document):
            mended.append(path)
        [document] = (await core.engine.read([path])).documents
        if (what := record_problem(place.stream, document, clock)) is not None:
            strange.append(EventSourcingError(path, f"{what}: restore a backup"))
    async for document in core.engine.scan(Scan(core.layout.retired(governor_id))):
        is_sound = record_problem_of_place(core, governor_id, document) is None
        if is_sound or await _is_needed(core, governor_id, document):
            continue
        if await write_unless_moved(core.engine, [Delete(document.path, At(document.revision))], core.bounds):
            mended.append(document.path)
    return mended


def record_problem_of_place(core: Core, governor_id: str, document: Document) -> str | None:
    """What is wrong with a record, whatever its state's clock stands for; None if it is sound."""
    place = core.layout.placed(governor_id, document)
    return "is not the path of a record" if place is None else record_problem(place.stream, document, {})


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
    found: dict[str, VectorClock] = {}
    with suppress(Inconsistent):
        there = retired_in(stream, document)
    with suppress(Inconsistent):  # the events up to a damaged one count
        async for stored in core.reader.records(stream, 1):
            found.update(retired_by(stored.record).taken_out)
    known = Retired(found) if there is None else there | Retired(found)
    if there is not None and known.taken_out.keys() == there.taken_out.keys():
        return False
    require = ABSENT if document is None else At(document.revision)
    put = Put(stream.retired, RetiredRecord(stream.state_id, known.taken_out), require)
    return await write_unless_moved(core.engine, [put], core.bounds)
