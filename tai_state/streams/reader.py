"""Reading streams: stored records become events, decoded and in the present schema."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from tai_state.engines.api import Document, Engine, Scan
from tai_state.engines.paging import Paged, converted, take
from tai_state.errors import CorruptDocument, EventSourcingError, NotRetained, StateNotFound
from tai_state.streams.layout import Stream
from tai_state.streams.records import EVENT, SNAPSHOT, STATE, EventRecord, change_metadata, moment, recorded
from tai_state.streams.upcasting import Upcasting
from tai_state.values.digests import NO_STATE_HASH, NO_STATE_TEXT, state_hash
from tai_state.values.events import JsonEvent, StateEvent
from tai_state.values.json import NOT_JSON, decode
from tai_state.values.states import DeletedState, JsonState, with_data

LOOKS_AT_DAMAGE = 8
"""How often apparent damage is looked at before it is reported."""

_LOOK_BACK_MAX = 512
"""How many events are read at once to find the state that later events left as it was."""


class Folded(msgspec.Struct, frozen=True, gc=False):
    """The state after an event, as text.

    Attributes:
        text: the canonical text; None if it is not known without a reducer.
        schema: the schema of the text.
        state_hash: the state's hash in the event; empty before the first event.
    """

    text: str | None = None
    schema: int = 1
    state_hash: str = ""

    def then(self, record: EventRecord) -> Folded:
        """The state after the next event."""
        if record.to_state is not None:
            return Folded(record.to_state, record.schema, record.state_hash)
        if record.version == 1 and record.state_hash == NO_STATE_HASH:
            return Folded(NO_STATE_TEXT, record.schema, record.state_hash)
        if record.state_hash == self.state_hash:
            return Folded(self.text, self.schema, self.state_hash)
        return Folded(None, record.schema, record.state_hash)


class Stored(NamedTuple):
    """An event's record, and the engine's time when it was stored."""

    record: EventRecord
    recorded_us: int


class StreamReader:
    """Reads streams.

    Attributes:
        schema: the present schema of the application's data.

    Args:
        engine: the store's engine.
        upcasting: brings data of older schemas up to date.
    """

    def __init__(self, engine: Engine, upcasting: Upcasting) -> None:
        self.schema: int = upcasting.schema
        self._engine = engine
        self._upcasting = upcasting

    def records(self, stream: Stream, first: int, last: int | None = None) -> Paged[Stored]:
        """The stored events from version ``first`` to ``last``, both included; cleaned-up ones are left out.

        Raises:
            CorruptDocument: an event is damaged, or is stored at the wrong path.
            EventSourcingError, NotRetained: there is a gap between two events.
        """
        start, end = stream.range(first, last)
        documents = self._engine.scan(Scan(stream.events, start=start, end=end))
        reached: int | None = None

        def take(page: Iterable[Document], floor: int) -> Iterator[Stored]:
            nonlocal reached
            for document in page:
                stored = stored_record(stream, document, reached, floor)
                reached = stored.record.version
                yield stored

        async def convert(page: Sequence[Document]) -> Iterator[Stored]:
            return take(page, 1 if follows(stream, page, reached) else await floor_of(self._engine, stream))

        return converted(documents, convert)

    async def one(self, stream: Stream, version: int) -> Stored | None:
        """The stored event of one version; None if there is none."""
        [document] = (await self._engine.read([stream.event(version)])).documents
        return None if document is None else stored_record(stream, document)

    async def shown(self, stream: Stream, record: EventRecord, *, above: int = 0) -> Folded:
        """The state after an event, as it and earlier ones show it; without a text if only a reducer can make it.

        This looks back to the newest event that carries it, or to the snapshot that stands for what was cleaned up; or
        only at the events above a version.
        """
        if record.to_state is not None or record.version == 1:
            return Folded().then(record)
        last, size, oldest = record.version - 1, 1, record.version
        while last > above:
            start, end = stream.range(max(above + 1, last - size + 1), last)
            found = await take(self._engine.scan(Scan(stream.events, start=start, end=end)), None)
            for document in reversed(found):
                before = document.decode(EVENT)
                if before.state_hash != record.state_hash:
                    return Folded(None, record.schema, record.state_hash)
                if before.to_state is not None or before.version == 1:
                    return Folded().then(before)
                oldest = before.version
            if len(found) < min(size, last - above):
                break
            last, size = last - size, min(4 * size, _LOOK_BACK_MAX)
        if above:
            return Folded(None, record.schema, record.state_hash)
        [kept] = (await self._engine.read([stream.snapshot(oldest)])).documents
        snapshot = None if kept is None else kept.decode(SNAPSHOT)
        if snapshot is None or snapshot.state_hash != record.state_hash:
            return Folded(None, record.schema, record.state_hash)
        return Folded(snapshot.state, snapshot.schema, snapshot.state_hash)

    async def shown_by_others(self, stream: Stream, first: EventRecord) -> Folded | None:
        """The state after the first event that is read of a stream; None if it shows it itself."""
        if first.to_state is not None or first.version == 1:
            return None
        return await self.shown(stream, first)

    async def absence_error(self, stream: Stream) -> StateNotFound | EventSourcingError:
        """The error for a state without a document: it was never written, or only its events are left.

        State and event are read together, and several times, because the state may just have been written, and the
        Firestore emulator shows a commit document by document.
        """
        start, end = stream.range(1)
        async for event in self._engine.scan(Scan(stream.events, start=start, end=end, limit=1)):
            for _ in range(LOOKS_AT_DAMAGE):
                state, _ = (await self._engine.read([stream.state, event.path])).documents
                if state is not None:
                    return StateNotFound(stream.state)
            return lost_state_error(stream)
        return StateNotFound(stream.state)

    def event(self, stream: Stream, record: EventRecord, recorded_us: int, before: Folded, now: Folded) -> JsonEvent:
        """One event as callers get it. The caller may change its states and its clock: they are copies."""
        version = record.version
        path = stream.event(version)
        payload = None if record.payload is None else _decoded(record.payload, stream, version, "a payload")
        if not self._upcasting.is_current(record.schema):
            payload = self._upcasting.payload(record.action, payload, record.schema, stream, path)
        return StateEvent(
            governor_id=stream.governor_id,
            state_id=stream.state_id,
            version=version,
            event_id=record.event_id,
            action=record.action,
            payload=payload,
            from_state=None if before.text is None else self.state(before, stream, version - 1),
            to_state=None if now.text is None else self.state(now, stream, version),
            timestamp=moment(record.timestamp, path),
            recorded_at=recorded(recorded_us, path),
            metadata=change_metadata(record, path),
            causality=dict(record.causality),
            digest=record.digest,
        )

    def state_at(self, stream: Stream, stored: Stored, folded: Folded) -> JsonState:
        """The state right after a stored event."""
        record = stored.record
        path = stream.event(record.version)
        deleted = DeletedState(
            governor_id=stream.governor_id,
            state_id=stream.state_id,
            version=record.version,
            timestamp=moment(record.timestamp, path),
            recorded_at=recorded(stored.recorded_us, path),
            metadata=change_metadata(record, path),
            causality=record.causality,
        )
        return with_data(deleted, self.state(folded, stream, record.version))

    def state(self, folded: Folded, stream: Stream, version: int) -> dict[str, Any] | None:
        """The data of a stored text, in the present schema; None if there is none."""
        if folded.text is None or folded.text == NO_STATE_TEXT:
            return None
        data: dict[str, Any] = _decoded(folded.text, stream, version, "a state")
        if not self._upcasting.is_current(folded.schema):
            data = self._upcasting.state(data, folded.schema, stream, stream.event(version))
        return data


def _decoded(text: str, stream: Stream, version: int, what: str) -> Any:
    """The value of a text that an event holds.

    Raises:
        CorruptDocument: the text is not JSON.
    """
    try:
        return decode(text)
    except NOT_JSON:
        raise CorruptDocument(stream.event(version), f"holds {what} that is not JSON: run `tai-state verify`") from None


def follows(stream: Stream, page: Sequence[Document], reached: int | None) -> bool:
    """Whether a page continues right after a version. If it does not, a cleanup may have run between two pages."""
    return reached is None or not page or page[0].path == stream.event(reached + 1)


async def floor_of(engine: Engine, stream: Stream) -> int:
    """The version below which events of the stream may have been cleaned up by now; 1 if that is not known."""
    [document] = (await engine.read([stream.state])).documents
    return floor_in(document) or 1


def floor_in(document: Document | None) -> int | None:
    """The version below which events may have been cleaned up, by the document of a state; None if it is not known."""
    try:
        return None if document is None else document.decode(STATE).floor
    except CorruptDocument:
        return None


def check_beginning(stream: Stream, version: int, floor: int | None, after: int = 0) -> None:
    """Check the first event that there is after a version: those before it must have been cleaned up.

    Raises:
        EventSourcingError: they are missing.
    """
    if floor is not None and version > max(floor, after + 1):
        raise missing_event_error(stream, max(floor, after + 1), floor)


def stored_record(stream: Stream, document: Document, reached: int | None = None, floor: int = 1) -> Stored:
    """The event in a document; the document's path must agree with its fields.

    Args:
        stream: the stream of the event.
        document: the document, as read.
        reached: the version before it; None if unknown.
        floor: the version below which events may have been cleaned up.

    Raises:
        CorruptDocument: the path does not agree with the fields.
        EventSourcingError, NotRetained: there is a gap before it.
    """
    record = document.decode(EVENT)
    check_place(stream, document, record, reached, floor)
    return Stored(record, document.updated_us)


def check_place(
    stream: Stream, document: Document, record: EventRecord, reached: int | None = None, floor: int = 1
) -> None:
    """Check the place of a record, as :func:`stored_record` does."""
    if record.state_id != stream.state_id or document.path != stream.event(record.version):
        raise CorruptDocument(document.path, "holds an event of another place")
    if reached is not None and record.version != reached + 1:
        raise missing_event_error(stream, reached + 1, floor)


def check_genuine(stream: Stream, record: EventRecord) -> None:
    """Check that an event is the one that was recorded, with the state that it was recorded with.

    Raises:
        EventSourcingError: it was edited.
    """
    path = stream.event(record.version)
    if not record.is_genuine(stream.governor_id):
        raise EventSourcingError(path, "was edited: its digest does not match: restore a backup")
    if record.to_state is not None and state_hash(record.to_state) != record.state_hash:
        raise EventSourcingError(path, "was edited: the state in it does not match its hash: restore a backup")


def lost_state_error(stream: Stream) -> EventSourcingError:
    """The error for a state that has events and no document."""
    return EventSourcingError(stream.state, "is missing though it has events: run `tai-state verify`")


def missing_event_error(stream: Stream, version: int, floor: int) -> NotRetained | EventSourcingError:
    """The error for an event that is not there."""
    if version < floor:
        return NotRetained(stream.event(version), f"was cleaned up: the oldest version left is {floor}")
    return EventSourcingError(stream.event(version), "is missing: restore a backup")
