"""Walking along a stream: from its documents to its events, in order. Every history and every replay uses this."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TypeAlias

from tai_state.engines.api import Document, Engine, Scan
from tai_state.engines.paging import Paged, converted
from tai_state.errors import InvalidData
from tai_state.streams.layout import Stream
from tai_state.streams.reader import (
    Folded,
    StreamReader,
    check_beginning,
    check_place,
    floor_in,
    floor_of,
    follows,
    missing_event_error,
)
from tai_state.streams.records import EVENT, EventRecord, recorded
from tai_state.values.events import JsonEvent, StateEvent
from tai_state.values.ids import VERSION_DIGITS, versioned
from tai_state.values.json import decode
from tai_state.values.metadata import ChangeMetadata
from tai_state.values.times import from_us, parse_time

Fold: TypeAlias = Callable[[Folded, Stream, EventRecord], Folded]
"""Makes the state after an event that does not carry it; see ``history.folding``."""


class Walk:
    """One pass over a stream.

    Nearly all events have their data in the present schema and an empty context. Such an event is made in the loop
    itself, which takes an eighth less time. All others are made by :meth:`StreamReader.event`; both ways give the same
    result.

    Args:
        streams: makes the unusual events.
        stream: the stream.
        after: events up to this version are folded, but not yielded.
        before: the state before the first event.
        reached: the version of that state; None if the first event may be a later one.
        floor: the version below which events may have been cleaned up.
        fold: folds the events that do not carry their state; without it, their states are None.
        first: the state after the first event, if that does not carry it; a walk by pages finds it itself.
    """

    def __init__(
        self,
        streams: StreamReader,
        stream: Stream,
        *,
        after: int = 0,
        before: Folded | None = None,
        reached: int | None = None,
        floor: int = 1,
        fold: Fold | None = None,
        first: Folded | None = None,
    ) -> None:
        self.reached: int | None = reached
        self._streams = streams
        self.stream: Stream = stream
        self._after = after
        self.floor: int = floor
        self._before = before or Folded()
        self._fold = fold
        self._first: Folded | None = first
        self._limit: int | None = None
        self._last: str | None = None
        self._is_begun = False

    def events(self, page: Iterable[Document]) -> Iterator[JsonEvent]:
        """The events of the next documents, each with the states before and after it.

        Raises:
            CorruptDocument: an event is damaged, or is stored at the wrong path.
            EventSourcingError, NotRetained: the event before one of these is missing.
        """
        stream, before, reached = self.stream, self._before, self.reached
        state_id, prefix, schema = stream.state_id, f"{stream.segment}~", self._streams.schema
        recorded_us, recorded_at = 0, from_us(0)
        for document in page:
            record = document.decode(EVENT)
            version, text, metadata = record.version, record.to_state, record.metadata
            document_id = prefix + str(version).zfill(VERSION_DIGITS)
            if reached != version - 1 or record.state_id != state_id or document.id != document_id:
                check_place(stream, document, record, reached, self.floor)
            reached = version
            if text is not None:
                now = Folded(text, record.schema, record.state_hash)
            else:
                now = before.then(record)
                if now.text is None:
                    now = self._otherwise(before, record, now)
            if document.updated_us != recorded_us:
                recorded_us, recorded_at = document.updated_us, recorded(document.updated_us, document.path)
            if version <= self._after:
                before = now
                continue
            event = None
            if (
                before.text
                and now.text
                and metadata.context == "{}"
                and record.trace is None
                and now.schema == before.schema == schema
            ):
                try:
                    event = StateEvent(
                        governor_id=stream.governor_id,
                        state_id=state_id,
                        version=version,
                        event_id=record.event_id,
                        action=record.action,
                        payload=None if record.payload is None else decode(record.payload),
                        from_state=decode(before.text),
                        to_state=decode(now.text),
                        timestamp=parse_time(record.timestamp),
                        recorded_at=recorded_at,
                        metadata=ChangeMetadata(metadata.changed_by, metadata.reason, {}, metadata.parent_version),
                        causality=record.causality,
                        digest=record.digest,
                    )
                except (ValueError, RecursionError, InvalidData):
                    event = None  # made again below, by code that reports what is wrong
            yield event or self._streams.event(stream, record, recorded_us, before, now)
            before = now
        self._before, self.reached = before, reached

    def _otherwise(self, before: Folded, record: EventRecord, now: Folded) -> Folded:
        """The state after an event that neither carries it nor leaves that before it as it was."""
        if self._first is not None and self._first.state_hash == now.state_hash:
            return self._first
        return now if self._fold is None else self._fold(before, self.stream, record)

    def over(
        self,
        engine: Engine,
        until: int | None,
        limit: int | None = None,
        end: Callable[[], Awaitable[None]] | None = None,
    ) -> Paged[JsonEvent]:
        """The whole walk: scan the stream, and yield the events after ``after`` up to ``until``.

        Args:
            engine: the store's engine.
            until: the last version, inclusive; None: the newest.
            limit: how many events to yield at most; None: no limit.
            end: called after the last event; may raise.
        """
        first, last = self.stream.range(max(self._after, 1) if self.reached is None else self.reached + 1, until)
        self._limit = limit
        count = None if limit is None else limit + (self._after > 0)
        documents = engine.scan(Scan(self.stream.events, start=first, end=last, limit=count))

        async def at_end() -> None:
            if until is not None and limit is None and self.reached is not None and self.reached < until:
                await self.look_at_floor(engine)
                if self.reached + 1 < self.floor:
                    raise missing_event_error(self.stream, self.reached + 1, self.floor)
            if end is not None:
                await end()

        return converted(documents, partial(self._page_of_walk, engine), at_end)

    async def _page_of_walk(self, engine: Engine, documents: Sequence[Document]) -> Iterator[JsonEvent]:
        """As :meth:`page`; if the walk begins with a later event than it was to, those before it may be missing."""
        if self.reached is None and documents and documents[0].id > versioned(self.stream.segment, self._after + 1):
            [state] = (await engine.read([self.stream.state])).documents
            check_beginning(self.stream, documents[0].decode(EVENT).version, floor_in(state), self._after)
        if not self._is_begun and documents:
            await self._begin(documents[0].decode(EVENT))
        if self._last is not None and documents and documents[-1].id > self._last:
            documents = documents[:-1]  # the scan made room for the event before the first one, which was not there
        return await self.page(engine, documents)

    async def page(self, engine: Engine, documents: Sequence[Document]) -> Iterator[JsonEvent]:
        """The events of one page of a scan, as :meth:`events`; it allows for a cleanup since the previous page."""
        if not self._is_begun and documents:
            await self._begin(documents[0].decode(EVENT))
        if not follows(self.stream, documents, self.reached):
            await self.look_at_floor(engine)
        return self.events(documents)

    async def _begin(self, first: EventRecord) -> None:
        """Find the state that the first event leaves, which it may not carry itself; an earlier one shows it."""
        if self.reached is None and self._after == first.version:
            self._before = await self._streams.shown(self.stream, first)
        elif self._before.text is None:
            self._first = await self._streams.shown_by_others(self.stream, first)
        if self._limit is not None:
            self._last = versioned(self.stream.segment, max(first.version, self._after + 1) + self._limit - 1)
        self._is_begun = True

    async def look_at_floor(self, engine: Engine) -> None:
        """Read again below which version events may have been cleaned up."""
        self.floor = max(self.floor, await floor_of(engine, self.stream))
