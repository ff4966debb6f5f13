"""From the documents of one stream to its events, in order: what every history and every replay goes through."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, TypeAlias

import msgspec

from tai_state.engines.api import Document, Engine
from tai_state.engines.paging import Paged, mapped
from tai_state.store.layout import Stream
from tai_state.store.records import EVENT, EventRecord
from tai_state.store.streams import Folded, StreamReader, check_place
from tai_state.values.events import Event, JsonEvent
from tai_state.values.json import decode
from tai_state.values.metadata import ChangeMetadata
from tai_state.values.times import from_us

Fold: TypeAlias = Callable[[Folded, Stream, EventRecord], Folded]
"""The state after an event that does not carry it; see ``history.folding``."""


class Walk:
    """One pass over a stream.

    Nearly every event of nearly every stream carries its state, in the present shape, and no payload. Such an event
    is made in the loop itself, which takes a third less time; any other is made by :meth:`StreamReader.event`, and
    the two give the same.

    Args:
        streams: makes the unusual events.
        stream: whose events they are.
        after: events up to this version are folded, and not given.
        before: the state that the first event was recorded on.
        reached: the version of that state; None where the first event may be a later one.
        floor: the version below which events may have been cleaned up.
        fold: folds the events that do not carry their state; without it their states are None.
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
    ) -> None:
        self.reached: int | None = reached
        self._streams = streams
        self.stream: Stream = stream
        self._after = after
        self._floor = floor
        self._before = before or Folded()
        self._fold = fold

    def events(self, page: Iterable[Document]) -> Iterator[JsonEvent]:
        """The events of the next documents, each with the states before and after it.

        Raises:
            CorruptDocument: an event is damaged or stands in the wrong place.
            EventSourcingError, NotRetained: the event that should stand before it is not there.
        """
        stream, before, reached = self.stream, self._before, self.reached
        schema = self._streams.schema
        recorded_us, recorded_at = 0, from_us(0)
        for document in page:
            record = document.decode(EVENT)
            version, metadata = record.version, record.metadata
            if document.path != stream.event(version) or record.state_id != stream.state_id or reached != version - 1:
                check_place(stream, document, record, reached, self._floor)
            reached = version
            now = before.then(record)
            if now.text is None and self._fold is not None:
                now = self._fold(before, stream, record)
            if document.created_us != recorded_us:
                recorded_us, recorded_at = document.created_us, from_us(document.created_us)
            if version <= self._after:
                pass
            elif (
                record.payload is None
                and metadata.context == "{}"
                and now.schema == before.schema == schema
                and (texts := _decoded(before.text, now.text, record.timestamp)) is not None
            ):
                from_state, to_state, timestamp = texts
                yield Event(
                    governor_id=stream.governor_id,
                    state_id=stream.state_id,
                    version=version,
                    id=record.event_id,
                    action=record.action,
                    payload=None,
                    from_state=from_state,
                    to_state=to_state,
                    timestamp=timestamp,
                    recorded_at=recorded_at,
                    metadata=ChangeMetadata(metadata.changed_by, metadata.reason, {}, metadata.parent_version),
                    causality=record.causality,
                    digest=record.digest,
                )
            else:
                yield self._streams.event(stream, record, recorded_us, before, now)
            before = now
        self._before, self.reached = before, reached

    def over(self, engine: Engine, until: int | None, limit: int | None = None) -> Paged[JsonEvent]:
        """The whole walk: the events after the given version up to another (included), at most so many."""
        start, end = self.stream.range(max(self._after, 1), until)
        documents = None if limit is None else limit + (self._after > 0)
        return mapped(engine.scan(self.stream.events, start=start, end=end, limit=documents), self.events)


def _decoded(before: str | None, now: str | None, timestamp: str) -> tuple[Any, Any, datetime] | None:
    """Both states and the time, if all are there and sound."""
    if before is None or now is None:
        return None
    try:
        moment = datetime.fromisoformat(timestamp)
        return (decode(before), decode(now), moment) if moment.tzinfo is UTC else None
    except (ValueError, msgspec.DecodeError):
        return None
