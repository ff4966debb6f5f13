"""The index of time-outs: whether it is what the states say, and how it is mended."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Final, NamedTuple

from tai_state.engines.api import ABSENT, At, Check, Delete, Document, Require, Scan, Write
from tai_state.engines.paging import take
from tai_state.engines.rewriting import write_unless_moved
from tai_state.errors import CorruptDocument, EventSourcingError, Inconsistent
from tai_state.history.survey import sound_states
from tai_state.streams.core import Core
from tai_state.streams.damage import as_read
from tai_state.streams.layout import Stream
from tai_state.streams.records import STATE, StateRecord
from tai_state.streams.timers import Timer, due_of, moved_timer, put_timer, removal, timer_in

_RECOVER: Final = "run `tai-state recover`"
_PAGE: Final = 100


class Problem(NamedTuple):
    """What is wrong with an entry of the index, and the writes that mend it."""

    error: Inconsistent
    mending: tuple[Write, ...]


async def lacking(core: Core, states: Sequence[tuple[Stream, StateRecord]]) -> list[Problem]:
    """The entries of the index that are missing or damaged, of those that these states need."""
    timers = [Timer(stream, due) for stream, record in states if (due := due_of(record.data)) is not None]
    documents = (await core.engine.read([each.path for each in timers])).documents if timers else ()
    wanting = [each for each, found in zip(timers, documents, strict=True) if _fault(core, each, found) is not None]
    problems: list[Problem] = []
    for timer in wanting:
        state, found = (await core.engine.read([timer.stream.state, timer.path])).documents
        error = _fault(core, timer, found)
        if error is not None and state is not None and _due_at(state) == timer.due:
            require: Require = ABSENT if found is None else as_read(found)
            put = put_timer(timer.stream, timer.due, require)
            problems.append(Problem(error, (put, Check(timer.stream.state, At(state.revision)))))
    return problems


def rebuilt_timer(stream: Stream, before: StateRecord | None, after: StateRecord) -> Iterator[Write]:
    """The writes that make the index follow a state that is rebuilt; before that, it may not have been readable."""
    return moved_timer(stream, None if before is None else due_of(before.data), due_of(after.data))


async def strays(core: Core, governor_id: str | None) -> AsyncGenerator[Problem, None]:
    """The entries of the index that no state needs.

    Args:
        core: the core of the store.
        governor_id: the governor whose entries are looked at; None: all, those that cannot be read included.
    """
    documents = core.engine.scan(Scan(core.layout.timers))
    while page := await take(documents, _PAGE):
        found: list[tuple[Document, Timer]] = []
        for document in page:
            try:
                found.append((document, timer_in(core.layout, document)))
            except CorruptDocument as error:
                if governor_id is None:
                    yield Problem(error, (Delete(document.path, as_read(document)),))
        asked = [(each, timer) for each, timer in found if governor_id in (None, timer.stream.governor_id)]
        paths = [timer.stream.state for _, timer in asked]
        states = (await core.engine.read(paths)).documents if paths else ()
        for (_, timer), state in zip(asked, states, strict=True):
            if not _may_need(state, timer) and (problem := await _stray(core, timer)) is not None:
                yield problem


async def mend_timers(core: Core, governors: Sequence[str], *, everywhere: bool) -> list[str]:
    """Write the entries of the index that states need, and remove those that no state needs; the paths of both.

    Args:
        core: the core of the store.
        governors: the governors whose states are looked at.
        everywhere: whether to look at the entries of all governors, and at those that cannot be read.
    """
    mended: list[str] = []
    for governor_id in governors:
        async with aclosing(sound_states(core, governor_id)) as pages:
            async for states in pages:
                mended += [each.error.path for each in await lacking(core, states) if await _mend(core, each)]
    for looked_at in [None] if everywhere else governors:
        async with aclosing(strays(core, looked_at)) as problems:
            mended += [each.error.path async for each in problems if await _mend(core, each)]
    return mended


async def _mend(core: Core, problem: Problem) -> bool:
    return await write_unless_moved(core.engine, problem.mending, core.bounds)


async def _stray(core: Core, timer: Timer) -> Problem | None:
    """What a second look says of an entry that no state seemed to need; None: it is none, or one is needed."""
    entry, state = (await core.engine.read([timer.path, timer.stream.state])).documents
    if entry is None or _may_need(state, timer):
        return None
    error = EventSourcingError(timer.path, f"is of a machine that has no time-out then: {_RECOVER}")
    return Problem(error, removal(entry, timer, state))


def _fault(core: Core, timer: Timer, document: Document | None) -> Inconsistent | None:
    """What is wrong with the document of an entry; None if it is sound."""
    if document is None:
        what = f"is missing though its machine has a time-out then, so that it would not be taken: {_RECOVER}"
        return EventSourcingError(timer.path, what)
    try:
        timer_in(core.layout, document)
    except CorruptDocument as error:
        return error
    return None


def _may_need(state: Document | None, timer: Timer) -> bool:
    """Whether a state needs an entry, or is so damaged that it may."""
    try:
        return state is not None and _due_at(state) == timer.due
    except Inconsistent:
        return True


def _due_at(state: Document) -> str | None:
    return due_of(state.decode(STATE).data)
