"""The one write path: planned, committed, and settled where the answer is a refusal or none at all.

A refusal can be our own earlier copy, applied; a lost answer says nothing. So after either, one read of the
first event's place on each stream decides: our event there means success (by atomicity one place speaks for
the whole commit). If the state has moved, the commit can never apply, however late a stray copy arrives: it
requires the state's old revision. If nothing moved, the same commit is sent again. Nothing runs again before
that is settled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import islice
from math import inf
from typing import Any, TypeAlias

import anyio
import msgspec

from tai_state.engines.api import ABSENT, Committed, Document, Engine, Put
from tai_state.errors import (
    CommitOutcomeUnknown,
    CommitRefused,
    CorruptDocument,
    EventSourcingError,
    IdempotencyConflict,
    NotRetained,
    StateNotFound,
    StoreTimeout,
    Unavailable,
    VersionConflict,
)
from tai_state.store.heads import Heads
from tai_state.store.layout import Stream
from tai_state.store.planning import Composition, Plan, Writer, plan
from tai_state.store.records import (
    EMPTY,
    EVENT,
    MARKER,
    EventRecord,
    GovernorRecord,
    Head,
    StateRecord,
    checked_state,
    head_of,
    state_metadata,
)
from tai_state.store.streams import StreamReader
from tai_state.values.digests import NO_STATE_TEXT
from tai_state.values.events import JsonEvent
from tai_state.values.expected import EXISTS, NO_STATE, Expectation, matches
from tai_state.values.json import decode
from tai_state.values.times import Clock, format_us

_logger = logging.getLogger("tai_state.store")

ATTEMPTS_MAX = 64
"""How often one change is sent, because others were faster or an answer was lost."""

UNSEEN_MAX = 100
"""Events that a version conflict carries."""

GOVERNORS_MAX = 10_000

_PAUSE_SECONDS = 0.01
_PAUSE_SECONDS_MAX = 1.0

Compose: TypeAlias = Callable[[Head, dict[str, Any] | None], Composition]
"""Says what is to happen, given the head and the state's data before. Pure: it may be called again."""


class Append(msgspec.Struct, frozen=True, kw_only=True):
    """A change of one state.

    Attributes:
        stream: which.
        expected: the version the caller believes in.
        compose: what is to happen.
        needs_state: compose looks at the data, so that a remembered head is not enough.
        must_live: the state must be there and not deleted, whatever else is expected.
        event_ids: the ids that compose uses, fixed before the first send.
        marked: the ids that the caller gave, each with the digest of the content it stands for.
    """

    stream: Stream
    expected: int | Expectation
    compose: Compose
    needs_state: bool = False
    must_live: bool = False
    event_ids: tuple[str, ...]
    marked: tuple[tuple[str, str], ...] = ()


class Appended(msgspec.Struct, frozen=True):
    """What an append recorded.

    Attributes:
        events: the records, oldest first.
        state: the state's record after them.
        data_before: the state's data before, where it was read; None also where there was none.
        recorded_us: the engine's time.
        is_repeated: an earlier call with the same ids recorded it.
    """

    events: tuple[EventRecord, ...]
    state: StateRecord
    data_before: dict[str, Any] | None
    recorded_us: int
    is_repeated: bool = False


class _Known(msgspec.Struct, frozen=True):
    """What is known of a stream: its head and, where it was read just now, the state's data."""

    head: Head
    data: dict[str, Any] | None = None


class _Look(msgspec.Struct, frozen=True):
    """One read of all that decides.

    Attributes:
        states: of each stream.
        befores: of each stream for which something was sent, the event that it was to follow.
        places: and the place of its first event.
        markers: of each id that a caller gave.
    """

    states: tuple[Document | None, ...]
    befores: tuple[Document | None, ...]
    places: tuple[Document | None, ...]
    markers: tuple[Document | None, ...]


class Appender:
    """Appends changes to streams, in one commit each.

    Args:
        engine: the waist.
        streams: reads the events that a conflict carries.
        writer: this store's id, schema and snapshot policy.
        clock: the writer's own.
        timeout_seconds: how long to go on looking and sending again after a refusal or a lost answer.
        jitter: a random number from 0 to 1, for pauses.
    """

    def __init__(
        self,
        engine: Engine,
        streams: StreamReader,
        writer: Writer,
        clock: Clock,
        timeout_seconds: float,
        jitter: Callable[[], float],
    ) -> None:
        self.heads: Heads = Heads()
        self._engine = engine
        self._streams = streams
        self._writer = writer
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._jitter = jitter
        self._governors: set[str] = set()

    async def append(self, appends: Sequence[Append]) -> list[Appended]:
        """Record these changes of different states, all or none.

        Raises:
            VersionConflict, StateNotFound: a state is not what its change expects; nothing was written.
            IdempotencyConflict: a caller's event id already stands for something else.
            CommitOutcomeUnknown: no answer in time; call again with the same ids.
            EventSourcingError: events without their state's document; ``recover`` mends it.
            StoreUnavailable, StoreTimeout, CommitTooLarge, DocumentTooLarge: nothing was written.
        """
        now_us = self._clock.now_us()
        deadline = inf
        plans: list[Plan] = []
        failure: Exception | None = None
        unanswered = False
        known = self._remembered(appends)
        for attempt in range(ATTEMPTS_MAX):
            if known is None:
                look = await self._look(appends, plans, deadline)
                if done := await self._done_already(appends, plans, look):
                    return done
                known = await self._judge(appends, plans, look)
                if any(each.head.revision != old.before.revision for each, old in zip(known, plans, strict=False)):
                    unanswered = False  # every copy sent so far requires a revision that is gone for good
                if anyio.current_time() >= deadline:
                    break
                if attempt > 1:
                    await self._pause(attempt)
            plans = [self._plan(append, each, now_us) for append, each in zip(appends, known, strict=True)]
            await self._register(plans, now_us)
            answer = await self._send(appends, plans, unanswered=unanswered)
            if isinstance(answer, Committed):
                return [self._appended(each, was.data, answer) for each, was in zip(plans, known, strict=True)]
            if failure is None:
                deadline = anyio.current_time() + self._timeout_seconds
            unanswered = unanswered or isinstance(answer, Unavailable)
            failure = answer
            known = None
        if unanswered or known is None:
            raise _unknown(appends) from failure
        # Every state is as expected, and yet each try was refused: others move faster than this can follow.
        raise StoreTimeout("commit", "CONTENTION", "others change the same states all the time") from failure

    async def _send(
        self, appends: Sequence[Append], plans: Sequence[Plan], *, unanswered: bool
    ) -> Committed | CommitRefused | Unavailable:
        """One try. A refusal, and an answer that was lost, are returned: what they mean has to be looked up."""
        try:
            return await self._engine.commit([write for each in plans for write in each.writes])
        except CommitRefused as refusal:
            return refusal
        except Unavailable as error:
            if not error.unknown and not unanswered:
                raise
            _logger.warning("the answer to a commit was lost: looking whether it happened", extra=error.fields())
            return error
        except BaseException:
            for append in appends:
                self.heads.drop(append.stream.state)
            raise

    def _remembered(self, appends: Sequence[Append]) -> list[_Known] | None:
        """The heads to build on without reading, or None where one is not known well enough."""
        known: list[_Known] = []
        for append in appends:
            head = self.heads.get(append.stream.state)
            if head is None and append.expected is NO_STATE:
                head = EMPTY
            if (
                head is None
                or append.needs_state
                or (not isinstance(append.expected, int) and append.expected is not NO_STATE)
                or not _fits(append, head)
            ):
                return None
            known.append(_Known(head))
        return known

    def _plan(self, append: Append, known: _Known, now_us: int) -> Plan:
        composition = append.compose(known.head, known.data)
        return plan(append.stream, known.head, composition, self._writer, now_us)

    async def _register(self, plans: Sequence[Plan], now_us: int) -> None:
        """Write the governor's own document once, when this process first creates a state in it."""
        for each in plans:
            path = each.stream.governor
            if each.before.version > 0 or path in self._governors:
                continue
            record = GovernorRecord(format_us(now_us), {})
            try:
                await self._engine.commit([Put(path, record, ABSENT)])
            except CommitRefused:
                _logger.debug("the governor is registered already", extra={"path": path})
            except Unavailable as error:
                error.unknown = False  # of the change itself nothing was sent
                raise
            if len(self._governors) >= GOVERNORS_MAX:
                self._governors.clear()
            self._governors.add(path)

    async def _look(self, appends: Sequence[Append], plans: Sequence[Plan], deadline: float) -> _Look:
        """Read what decides. Once something was sent, not being able to look leaves its outcome unknown."""
        states = [append.stream.state for append in appends]
        befores = [each.stream.event(each.before.version) for each in plans]
        places = [each.stream.event(each.before.version + 1) for each in plans]
        markers = [append.stream.marker(event_id) for append in appends for event_id, _ in append.marked]
        attempt = 0
        while True:
            try:
                documents = iter((await self._engine.read([*states, *befores, *places, *markers])).documents)
            except Unavailable as error:
                if not plans:
                    raise
                attempt += 1
                if anyio.current_time() >= deadline or attempt >= ATTEMPTS_MAX:
                    raise _unknown(appends) from error
                await self._pause(attempt)
            else:
                return _Look(*(tuple(islice(documents, len(each))) for each in (states, befores, places, markers)))

    async def _done_already(
        self, appends: Sequence[Append], plans: Sequence[Plan], look: _Look
    ) -> list[Appended] | None:
        """The result of this very call, or of an earlier one with the same ids; None if neither happened."""
        ours = [
            (each, place, place.decode(EVENT))
            for each, place in zip(plans, look.places, strict=True)
            if place is not None
        ]
        if plans and len(ours) == len(plans) and all(event.digest == each.events[0].digest for each, _, event in ours):
            for append in appends:
                self.heads.drop(append.stream.state)
            return [Appended(each.events, each.state, None, place.created_us) for each, place, _ in ours]
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

    async def _judge(self, appends: Sequence[Append], plans: Sequence[Plan], look: _Look) -> list[_Known]:
        """What the streams' states are, if they are what the changes expect."""
        known: list[_Known] = []
        for index, (append, document) in enumerate(zip(appends, look.states, strict=True)):
            path = append.stream.state
            if document is None:
                head, data = EMPTY, None
            else:
                record = checked_state(document)
                head, data = head_of(record, document.revision), record.data
            if plans and look.places[index] is not None and head.version == plans[index].before.version:
                raise EventSourcingError(path, "its stream has events that the state lacks: run `tai-state recover`")
            self.heads.put(path, head)
            if not _fits(append, head):
                neighbours = [each for each in (look.befores[index], look.places[index]) if each] if plans else []
                raise await self._mismatch(append, head, neighbours)
            known.append(_Known(head, data))
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
            take = self._streams.taker(append.stream, after)
            unseen = [event for document in neighbours if (event := take(document)) is not None]
        elif after < head.version:
            events = self._streams.events(append.stream, after=after, until=head.version, limit=UNSEEN_MAX)
            unseen = [event async for event in events]
        _logger.warning("version conflict", extra={"path": path, "actual": head.version})
        return VersionConflict(path, _name(append.expected), head.version, tuple(unseen))

    def _appended(self, done: Plan, data_before: dict[str, Any] | None, committed: Committed) -> Appended:
        self.heads.put(done.stream.state, head_of(done.state, committed.revision))
        return Appended(done.events, done.state, data_before, committed.time_us)

    async def _pause(self, attempt: int) -> None:
        """Full jitter: from nothing up to a bound that doubles each time."""
        bound = min(_PAUSE_SECONDS_MAX, _PAUSE_SECONDS * 2 ** min(attempt, 16))
        await anyio.sleep(bound * self._jitter())


def _fits(append: Append, head: Head) -> bool:
    return matches(append.expected, head.version, deleted=head.deleted) and not (
        append.must_live and (head.version == 0 or head.deleted)
    )


def state_after(event: EventRecord) -> StateRecord:
    """The state's record right after an event that carries the state, as far as the event tells."""
    data = None
    if event.to_state is not None and event.to_state != NO_STATE_TEXT:
        try:
            data = decode(event.to_state)
        except msgspec.DecodeError:
            raise CorruptDocument(
                f"event {event.version} of {event.state_id}", "holds a state that is no JSON"
            ) from None
    return StateRecord(
        data=data,
        version=event.version,
        timestamp=event.timestamp,
        as_of=event.timestamp,
        metadata=state_metadata(event.metadata),
        causality=event.causality,
        hlc=event.hlc,
        state_hash=event.state_hash,
        digest=event.digest,
        schema=event.schema,
        kept=(),
        kept_as_of="",
        unkept_bytes=0,
        deleted=event.to_state == NO_STATE_TEXT,
    )


def _unknown(appends: Sequence[Append]) -> CommitOutcomeUnknown:
    return CommitOutcomeUnknown(
        tuple(event_id for append in appends for event_id in append.event_ids),
        tuple(append.stream.state for append in appends),
    )


def _name(expected: int | Expectation) -> int | str:
    return expected.value if isinstance(expected, Expectation) else expected
