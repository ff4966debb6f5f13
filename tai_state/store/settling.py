"""Settling a change that was refused, or whose answer was lost: what stands, and what it means for the change.

A refusal can be our own earlier copy, applied; a lost answer says nothing. So after either, one read of the
first event's place on each stream decides: our event there means success (by atomicity one place speaks for
the whole commit). If the state has moved, the commit can never apply, however late a stray copy arrives: it
requires the state's old revision. If nothing moved, the same commit is sent again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import chain, islice

import msgspec

from tai_state.engines.api import Document, Engine
from tai_state.errors import (
    EventSourcingError,
    IdempotencyConflict,
    NotRetained,
    StateNotFound,
    VersionConflict,
)
from tai_state.store.changes import Append, Appended, Guard, Known
from tai_state.store.heads import Heads
from tai_state.store.planning import Plan
from tai_state.store.records import EMPTY, EVENT, MARKER, EventRecord, Head, checked_state, head_of, state_after
from tai_state.store.streams import StreamReader
from tai_state.store.walking import Walk
from tai_state.values.events import JsonEvent
from tai_state.values.expected import EXISTS, Expectation, matches

_logger = logging.getLogger("tai_state.store")

UNSEEN_MAX = 100
"""Events that a version conflict carries."""


class Look(msgspec.Struct, frozen=True):
    """One read of all that decides.

    Attributes:
        states: of each stream.
        befores: of each stream for which something was sent, the event that it was to follow.
        places: and the place of its first event.
        markers: of each id that a caller gave.
        guarded: what each guard checks.
    """

    states: tuple[Document | None, ...]
    befores: tuple[Document | None, ...]
    places: tuple[Document | None, ...]
    markers: tuple[Document | None, ...]
    guarded: tuple[Document | None, ...]


class Settling:
    """Looks at what stands, and judges it.

    Args:
        engine: the waist.
        streams: reads the events that a conflict carries.
        heads: remembers what was seen.
    """

    def __init__(self, engine: Engine, streams: StreamReader, heads: Heads) -> None:
        self._engine = engine
        self._streams = streams
        self._heads = heads

    async def look(self, appends: Sequence[Append], plans: Sequence[Plan], guards: Sequence[Guard]) -> Look:
        """Read what decides.

        Args:
            appends: the changes.
            plans: what was sent for them; empty where nothing was.
            guards: what else must hold.
        """
        states = [append.stream.state for append in appends]
        befores = [each.stream.event(each.before.version) for each in plans]
        places = [each.stream.event(each.before.version + 1) for each in plans]
        markers = [append.stream.marker(event_id) for append in appends for event_id, _ in append.marked]
        groups = (states, befores, places, markers, [guard.path for guard in guards])
        documents = iter((await self._engine.read(list(chain(*groups)))).documents)
        return Look(*(tuple(islice(documents, len(each))) for each in groups))

    async def done_already(self, appends: Sequence[Append], plans: Sequence[Plan], look: Look) -> list[Appended] | None:
        """The result of this very call, or of an earlier one with the same ids; None if neither happened."""
        ours = [
            (each, place, place.decode(EVENT))
            for each, place in zip(plans, look.places, strict=True)
            if place is not None
        ]
        if plans and len(ours) == len(plans) and all(event.digest == each.events[0].digest for each, _, event in ours):
            for append in appends:
                self._heads.drop(append.stream.state)
            return [Appended(each.events, each.state, None, place.updated_us) for each, place, _ in ours]
        found = [document.decode(MARKER) for document in look.markers if document is not None]
        if not found:
            return None
        wanted = [(append, event_id, content) for append in appends for event_id, content in append.marked]
        for (append, event_id, content), document in zip(wanted, look.markers, strict=True):
            if document is None or document.decode(MARKER).content != content:
                raise IdempotencyConflict(event_id, append.stream.state)
        return [await self._repeated(appends[0], [marker.version for marker in found])]

    async def _repeated(self, append: Append, versions: Sequence[int]) -> Appended:
        """What an earlier call with the same ids recorded, given where the caller's own ids stand."""
        places = {append.event_ids.index(event_id): event_id for event_id, _ in append.marked}
        firsts = {version - place for version, place in zip(versions, places, strict=True)}
        if len(firsts) > 1:
            raise IdempotencyConflict(append.marked[0][0], append.stream.state)
        [first] = firsts
        last = first + len(append.event_ids) - 1
        events: list[EventRecord] = []
        recorded_us = 0
        async for stored in self._streams.records(append.stream, first, last):
            events.append(stored.record)
            recorded_us = stored.recorded_us
        if len(events) != len(append.event_ids):
            raise NotRetained(append.stream.event(first), "the change was made, and its event was cleaned up since")
        return Appended(tuple(events), state_after(events[-1]), None, recorded_us, is_repeated=True)

    async def judge(self, appends: Sequence[Append], plans: Sequence[Plan], look: Look) -> list[Known]:
        """What the streams' states are, if they are what the changes expect."""
        known: list[Known] = []
        for index, (append, document) in enumerate(zip(appends, look.states, strict=True)):
            path = append.stream.state
            if document is None:
                head, data = EMPTY, None
            else:
                record = checked_state(document)
                head, data = head_of(record, document.revision), record.data
            if plans and look.places[index] is not None and head.version == plans[index].before.version:
                raise EventSourcingError(path, "its stream has events that the state lacks: run `tai-state recover`")
            self._heads.put(path, head)
            if not append.fits(head):
                neighbours = [each for each in (look.befores[index], look.places[index]) if each] if plans else []
                raise await self._mismatch(append, head, neighbours)
            known.append(Known(head, data))
        return known

    async def _mismatch(
        self, append: Append, head: Head, neighbours: Sequence[Document]
    ) -> StateNotFound | EventSourcingError | VersionConflict:
        """What to raise where a state is not as expected, with the events that its writer has not seen.

        Args:
            append: what was to happen.
            head: what stands.
            neighbours: the documents around the place of the first event, as far as they were read.
        """
        path = append.stream.state
        if head.version == 0:
            return await self._streams.absence(append.stream)
        if append.expected is EXISTS or matches(append.expected, head.version, deleted=head.deleted):
            return StateNotFound(path)
        after = append.expected if isinstance(append.expected, int) else 0
        unseen: list[JsonEvent] = []
        if neighbours and head.version == after + 1:
            unseen = list(Walk(self._streams, append.stream, after=after).events(neighbours))
        elif after < head.version:
            walk = Walk(self._streams, append.stream, after=after)
            unseen = [event async for event in walk.over(self._engine, head.version, UNSEEN_MAX)]
        _logger.warning("version conflict", extra={"path": path, "actual": head.version})
        return VersionConflict(path, _name(append.expected), head.version, tuple(unseen))


def check_guards(guards: Sequence[Guard], look: Look) -> None:
    """Raise the error of the first guard that does not hold."""
    for guard, document in zip(guards, look.guarded, strict=True):
        if not guard.holds(document):
            raise guard.broken(document)


def shows_damage(plans: Sequence[Plan], look: Look) -> bool:
    """Whether an event stands on a state that has not moved."""
    return any(
        place is not None and plan.before.revision == (None if state is None else state.revision)
        for plan, state, place in zip(plans, look.states, look.places, strict=False)
    )


def _name(expected: int | Expectation) -> int | str:
    return expected.value if isinstance(expected, Expectation) else expected
