"""The streams of a governor, found by their events and by their states."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress

from tai_state.engines.api import Document, Moment, Scan
from tai_state.engines.paging import take
from tai_state.errors import EventSourcingError, Inconsistent
from tai_state.history.unfinished import unfinished_restore
from tai_state.streams.core import Core
from tai_state.streams.damage import misplaced
from tai_state.streams.layout import Stream
from tai_state.streams.records import STATE, StateRecord
from tai_state.values.ids import VERSION_MAX, versioned

_PAGE = 100

STRANGE_MAX = 1_000
"""How many misplaced documents are noted."""


async def sound_states(core: Core, governor_id: str) -> AsyncGenerator[list[tuple[Stream, StateRecord]], None]:
    """The states of a governor that can be read, page by page. Who reads their streams finds the damaged ones."""
    documents = core.engine.scan(Scan(core.layout.states(governor_id)))
    while page := await take(documents, _PAGE):
        sound: list[tuple[Stream, StateRecord]] = []
        for state in page:
            place = core.layout.placed(governor_id, state)
            with suppress(Inconsistent):
                if place is not None:
                    sound.append((place.stream, state.decode(STATE)))
        yield sound


async def streams_with_events(
    core: Core,
    governor_id: str,
    after: str | None = None,
    strange: list[Inconsistent] | None = None,
    at: Moment | None = None,
) -> AsyncGenerator[Stream, None]:
    """The streams of a governor that have events. Each takes one read of one event, however long the stream is.

    Args:
        core: the core of the store.
        governor_id: the governor.
        after: the id of a state: start with the stream after its stream.
        strange: a list that receives documents whose path cannot be that of an event, at most 1,000.
        at: the moment to look at; None: now.
    """
    collection = core.layout.events(governor_id)
    start = "" if after is None else core.layout.stream(governor_id, after).range(VERSION_MAX)[1]
    waist = core.engine if at is None else at
    segment = ""
    while found := await take(waist.scan(Scan(collection, start=start, limit=1)), 1):
        place = core.layout.placed(governor_id, found[0])
        if place is None:
            _note(strange, found[0])
            beyond = found[0].id + "\x00"
        else:
            yield place.stream
            segment = place.stream.segment
            beyond = versioned(segment, VERSION_MAX) + "\x00"
        if beyond <= start:
            break  # its name is damaged, and it does not stand where its name says: a start by names leads back
        start = beyond
    else:
        return
    async for document in waist.scan(Scan(collection, start=start)):
        place = core.layout.placed(governor_id, document)
        if document.path == found[0].path:
            continue
        if place is None:
            _note(strange, document)
        elif place.stream.segment != segment:
            segment = place.stream.segment
            yield place.stream


def _note(strange: list[Inconsistent] | None, document: Document) -> None:
    """Note a document whose path cannot be that of an event, if there is room."""
    if strange is not None and len(strange) < STRANGE_MAX:
        strange.append(misplaced(document.path, "an event"))


async def lost_states(core: Core, governor_id: str, at: Moment | None = None) -> AsyncGenerator[Stream, None]:
    """The streams of a governor that have events and no state, now or at a moment; none while it is being restored.

    It takes one scan for each stream, and a read for every hundred.
    """
    if await unfinished_restore(core, governor_id, at) is not None:
        return  # which has still to write states
    some: list[Stream] = []
    async with aclosing(streams_with_events(core, governor_id, at=at)) as streams:
        async for stream in streams:
            some.append(stream)
            if len(some) >= _PAGE:
                for each in await _lost(core, some, at):
                    yield each
                some = []
    for each in await _lost(core, some, at):
        yield each


async def _lost(core: Core, streams: Sequence[Stream], at: Moment | None) -> list[Stream]:
    """Those of these streams that have no state."""
    paths = [stream.state for stream in streams]
    states = (await (core.engine if at is None else at).read(paths)).documents if paths else ()
    lost = [stream for stream, state in zip(streams, states, strict=True) if state is None]
    if at is not None:
        return lost
    return [each for each in lost if isinstance(await core.reader.absence_error(each), EventSourcingError)]


async def states_without_events(
    core: Core, governor_id: str, strange: list[Inconsistent]
) -> AsyncGenerator[Stream, None]:
    """The states of a governor that have no events, so that :func:`streams_with_events` does not find them.

    Args:
        core: the core of the store.
        governor_id: the governor.
        strange: a list that receives documents whose path cannot be that of a state, at most 1,000.
    """
    async for document in core.engine.scan(Scan(core.layout.states(governor_id))):
        place = core.layout.placed(governor_id, document)
        if place is None:
            if len(strange) < STRANGE_MAX:
                strange.append(misplaced(document.path, "a state"))
            continue
        start, end = place.stream.range(1)
        if not await take(core.engine.scan(Scan(place.stream.events, start=start, end=end, limit=1)), 1):
            yield place.stream
