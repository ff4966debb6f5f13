"""The contents of the documents, and the values that callers get from them. ``docs/format.md`` fixes the fields."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec

from tai_state.engines.api import Document, Shape
from tai_state.errors import CorruptDocument, InvalidData
from tai_state.streams.layout import Stream
from tai_state.streams.timers import due_of
from tai_state.values.clocks import VectorClock
from tai_state.values.digests import GENESIS, NO_STATE_HASH, NO_STATE_TEXT, event_digest, state_hash
from tai_state.values.ids import FromOne
from tai_state.values.json import NOT_JSON, decode, encode
from tai_state.values.metadata import ChangeMetadata
from tai_state.values.states import DeletedState, JsonState, StateSnapshot
from tai_state.values.times import from_us, parse_time


class StateMetadata(msgspec.Struct, frozen=True, gc=False):
    """A state's metadata, its context as a native map."""

    changed_by: str
    reason: str
    parent_version: int
    context: dict[str, Any]


class EventMetadata(msgspec.Struct, frozen=True, gc=False):
    """An event's metadata, its context as JSON text."""

    changed_by: str
    reason: str
    parent_version: int
    context: str


class StateRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """``governors/{g}/states/{s}``: the state that a replay of the whole stream would give.

    While ``as_of`` is far ahead of the clock, a policy by intervals counts from ``interval_from``, else empty.
    """

    data: dict[str, Any] | None
    version: FromOne
    timestamp: str
    as_of: str
    metadata: StateMetadata
    causality: VectorClock
    hlc: int
    state_hash: str
    digest: str
    schema: FromOne
    kept: tuple[int, ...]
    kept_as_of: str
    unkept_bytes: int
    floor: FromOne = 1
    deleted: bool = False
    interval_from: str = ""


class EventRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """``governors/{g}/events/{s}~{n}``: what changed, and the state after it.

    The digest leaves out what follows from the rest: ``as_of``, which is empty in events of format 1, and ``content``.
    ``call`` makes the digest that of one call's event, even if another call records an event with the same id.
    """

    event_id: str
    state_id: str
    version: FromOne
    action: str
    timestamp: str
    causality: VectorClock
    hlc: int
    metadata: EventMetadata
    schema: FromOne
    state_hash: str
    previous: str
    digest: str
    payload: str | None = None
    to_state: str | None = None
    origin: str | None = None
    as_of: str = ""
    trace: str | None = None
    content: str | None = None
    call: str | None = None

    @property
    def unkept_bytes(self) -> int:
        """What the event adds to the count of :class:`EveryBytes`: the bytes of its payload and state as text."""
        return len((self.payload or "").encode()) + len((self.to_state or "").encode())

    def is_genuine(self, governor_id: str) -> bool:
        """Whether the digest matches the fields; otherwise the event was edited."""
        try:
            is_genuine = self.computed_digest(governor_id) == self.digest
        except ValueError:  # a hash that is not hexadecimal
            return False
        return is_genuine and all(_HASH.fullmatch(each) for each in (self.previous, self.state_hash))  # as written

    def computed_digest(self, governor_id: str) -> str:
        """The digest, computed from the fields.

        Raises:
            ValueError: ``previous`` or ``state_hash`` is not hexadecimal.
        """
        header = _Header(
            action=self.action,
            call=self.call,
            carries_state=self.to_state is not None,
            causality=self.causality,
            event_id=self.event_id,
            governor_id=governor_id,
            hlc=self.hlc,
            metadata=self.metadata,
            origin=self.origin,
            schema=self.schema,
            state_id=self.state_id,
            timestamp=self.timestamp,
            trace=self.trace,
            version=self.version,
        )
        return event_digest(self.previous, header, self.payload, self.state_hash)


class _Header(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The facts of an event that its digest covers by name; a dict would give the same text, but slower."""

    action: str
    call: str | None = None
    carries_state: bool
    causality: VectorClock
    event_id: str
    governor_id: str
    hlc: int
    metadata: EventMetadata
    origin: str | None = None
    schema: int
    state_id: str
    timestamp: str
    trace: str | None = None
    version: int


class SnapshotRecord(msgspec.Struct, frozen=True, kw_only=True):
    """``governors/{g}/snapshots/{s}~{n}``: the state at one version, kept for recovery."""

    state_id: str
    state: str
    version: FromOne
    timestamp: str
    as_of: str
    state_hash: str
    digest: str
    schema: FromOne


NOTHING = 0
"""Stands in a marker for a version: the change left that state as it was."""


class MarkerRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """``governors/{g}/ids/{event_id}``: the place of the event with a caller's id, and the content of the id.

    Attributes:
        state_id: the id of the event's state.
        version: the version that the event made.
        content: the digest of the content that the id stands for.
        others: for the other states of the commit whose events have no caller's id: by place, the first version that
            the commit made; NOTHING if the change left the state as it was.
    """

    state_id: str
    version: FromOne
    content: str
    others: dict[str, int] = {}


class GovernorRecord(msgspec.Struct, frozen=True):
    """``governors/{g}``: a governor."""

    created_at: str
    labels: dict[str, str]


STATE = Shape(StateRecord, "run `tai-state recover`, or else restore a backup")
EVENT = Shape(EventRecord, "restore a backup")
SNAPSHOT = Shape(SnapshotRecord, "run `tai-state recover`")
MARKER = Shape(MarkerRecord, "run `tai-state recover`, or else restore a backup", is_small=True)
GOVERNOR = Shape(GovernorRecord, "run `tai-state recover`")


class Head(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The part of a state's document that the next commit on the stream needs.

    Attributes:
        revision: the document's revision; None if there is no document.
        others: as in :class:`StateRecord`; ``due`` as :func:`due_of` gives it.
    """

    revision: int | None
    version: int
    digest: str
    state_hash: str
    causality: VectorClock
    hlc: int
    as_of: str
    deleted: bool
    schema: int
    kept: tuple[int, ...]
    kept_as_of: str
    unkept_bytes: int
    floor: int
    interval_from: str
    due: str | None


_to_object: Callable[[str], dict[str, Any]] = msgspec.json.Decoder(dict[str, Any]).decode
_HASH = re.compile("[0-9a-f]{64}")

EMPTY = Head(
    revision=None,
    version=0,
    digest=GENESIS,
    state_hash=NO_STATE_HASH,
    causality={},
    hlc=0,
    as_of="",
    deleted=False,
    schema=1,
    kept=(),
    kept_as_of="",
    unkept_bytes=0,
    floor=1,
    interval_from="",
    due=None,
)
"""The head of a stream without events."""


def checked_state(document: Document) -> StateRecord:
    """The record of a state's document.

    Raises:
        CorruptDocument: the document cannot be decoded, or its data does not match its hash.
    """
    record = document.decode(STATE)
    if state_hash(state_text(record)) != record.state_hash or not _HASH.fullmatch(record.digest):
        raise CorruptDocument(document.path, "its data does not match its hash: run `tai-state verify`")
    return record


def head_of(record: StateRecord, revision: int) -> Head:
    """The head in a state's document."""
    return Head(
        revision=revision,
        version=record.version,
        digest=record.digest,
        state_hash=record.state_hash,
        causality=record.causality,
        hlc=record.hlc,
        as_of=record.as_of,
        deleted=record.deleted,
        schema=record.schema,
        kept=record.kept,
        kept_as_of=record.kept_as_of,
        unkept_bytes=record.unkept_bytes,
        floor=record.floor,
        interval_from=record.interval_from,
        due=due_of(record.data),
    )


def state_text(record: StateRecord) -> str:
    """The canonical text of a record's data."""
    return NO_STATE_TEXT if record.deleted else encode(record.data)


def to_state(stream: Stream, record: StateRecord, recorded_us: int) -> JsonState:
    """The state as callers get it from a document."""
    if record.deleted or record.data is None:
        return to_deleted(stream, record, recorded_us)
    return StateSnapshot(
        governor_id=stream.governor_id,
        state_id=stream.state_id,
        version=record.version,
        data=record.data,
        timestamp=moment(record.timestamp, stream.state),
        recorded_at=recorded(recorded_us, stream.state),
        metadata=_change_metadata(record.metadata),
        causality=dict(record.causality),
    )


def to_deleted(stream: Stream, record: StateRecord, recorded_us: int) -> DeletedState:
    """The same without the data, as for a deleted state."""
    return DeletedState(
        governor_id=stream.governor_id,
        state_id=stream.state_id,
        version=record.version,
        timestamp=moment(record.timestamp, stream.state),
        recorded_at=recorded(recorded_us, stream.state),
        metadata=_change_metadata(record.metadata),
        causality=dict(record.causality),
    )


def state_metadata(metadata: EventMetadata, path: str) -> StateMetadata:
    """The metadata of the state that an event makes.

    Raises:
        CorruptDocument: the context is not a JSON object; ``path`` is that of the event.
    """
    return StateMetadata(metadata.changed_by, metadata.reason, metadata.parent_version, _context(metadata, path))


def state_after(event: EventRecord, path: str) -> StateRecord:
    """The state's record right after an event that carries the state, as far as the event shows it.

    Raises:
        CorruptDocument: the state in the event, or its context, is not JSON; ``path`` is that of the event.
    """
    data = None
    if event.to_state is not None and event.to_state != NO_STATE_TEXT:
        try:
            data = decode(event.to_state)
        except NOT_JSON:
            raise CorruptDocument(path, "holds a state that is not JSON: restore a backup") from None
    return StateRecord(
        data=data,
        version=event.version,
        timestamp=event.timestamp,
        as_of=event.as_of or event.timestamp,
        metadata=state_metadata(event.metadata, path),
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


def change_metadata(event: EventRecord, path: str) -> ChangeMetadata:
    """An event's metadata as callers get it.

    Raises:
        CorruptDocument: the context or the trace is not a JSON object; ``path`` is that of the event.
    """
    said = event.metadata
    trace: dict[str, str] = {} if event.trace is None else _object(event.trace, path, "a trace")
    return ChangeMetadata(said.changed_by, said.reason, _context(said, path), said.parent_version, trace)


def moment(text: str, path: str) -> datetime:
    """The time in a stored text.

    Raises:
        CorruptDocument: the text is not a time; ``path`` is that of its document.
    """
    try:
        return parse_time(text)
    except InvalidData:
        raise CorruptDocument(path, "has a timestamp that is not a time: run `tai-state verify`") from None


def recorded(recorded_us: int, path: str) -> datetime:
    """The engine's time of a document's last write.

    Raises:
        CorruptDocument: no clock shows such a time; ``path`` is that of the document.
    """
    try:
        return from_us(recorded_us)
    except (ValueError, OverflowError, OSError):
        raise CorruptDocument(path, "was written at a time that no clock can show: run `tai-state verify`") from None


def _change_metadata(metadata: StateMetadata) -> ChangeMetadata:
    return ChangeMetadata(metadata.changed_by, metadata.reason, metadata.context, metadata.parent_version)


def _context(metadata: EventMetadata, path: str) -> dict[str, Any]:
    return {} if metadata.context == "{}" else _object(metadata.context, path, "a context")


def _object(text: str, path: str, what: str) -> dict[str, Any]:
    try:
        return _to_object(text)
    except NOT_JSON:
        raise CorruptDocument(path, f"holds {what} that is not a JSON object: run `tai-state verify`") from None
