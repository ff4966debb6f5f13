"""What a restore has to write of its file, given what an earlier attempt and others have written. Pure.

A restore writes a state's document after all other documents of that state. So where the state is not there, what there
is of its stream is the restore's own, and it is made as it is in the file. Only sound events of another history are not
touched: they may be all that is left of a state whose document was lost. Where the state is there, it is whole, or
somebody else made it, and it stays as it is. Which of the two it is, its own line tells. Markers come before that, so
those of whole states are looked at again at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import msgspec

from tai_state.engines.api import At, Document, Put, Write
from tai_state.errors import CorruptDocument, Inconsistent
from tai_state.history.cleaned import put_note
from tai_state.history.exportfile import Kind, Line
from tai_state.streams.layout import Layout, Stream
from tai_state.streams.records import EVENT, MARKER, STATE, EventRecord, MarkerRecord
from tai_state.streams.retirements import RetiredRecord, retired_in
from tai_state.streams.timers import due_of, put_timer
from tai_state.values.ids import split_versioned, unescape_id
from tai_state.values.retired import Retired


class Item(msgspec.Struct, frozen=True):
    """A line of an export, with its place in the store.

    Attributes:
        kind: of the document.
        put: writes the document if it is not there.
        stream: the stream to which it belongs; None for a governor.
        events: the paths of the event that a state is about, and of the next one.
        beside: what is written with it: the note of a stream whose first event this is, though it is not event 1; the
            time-out of a machine.
    """

    kind: Kind
    put: Put
    stream: Stream | None = None
    events: tuple[str, ...] = ()
    beside: tuple[Put, ...] = ()

    @property
    def reads(self) -> list[str]:
        """The paths of the documents that decide whether it is written."""
        state = [] if self.stream is None else [self.stream.state]
        return [self.put.path, *state, *self.events]

    @property
    def writes(self) -> list[Write]:
        """What it writes where nothing is."""
        return [self.put, *self.beside]


def item_of(layout: Layout, governor_id: str, line: Line, put: Put, *, is_late: bool) -> Item:
    """The place of a line.

    Args:
        layout: the paths of the store.
        governor_id: the governor.
        line: the line.
        put: writes its document.
        is_late: whether it is the first event of a stream in the file, and not event 1.
    """
    if line.kind == "governor":
        return Item(line.kind, put)
    if line.kind == "marker":
        return Item(line.kind, put, layout.stream(governor_id, line.fields["state_id"]))
    if line.kind == "state":
        stream, version = layout.stream(governor_id, unescape_id(line.id)), line.fields["version"]
        time_out = due_of(line.fields["data"])
        timer = () if time_out is None else (put_timer(stream, time_out),)
        return Item(line.kind, put, stream, (stream.event(version), stream.event(version + 1)), timer)
    segment = line.id if line.kind == "retired" else split_versioned(line.id)[0]
    stream = layout.stream(governor_id, unescape_id(segment))
    return Item(line.kind, put, stream, beside=(put_note(stream),) if is_late else ())


def path_of(layout: Layout, governor_id: str, line: Line) -> str:
    """The path of the document of a line."""
    if line.kind == "governor":
        return layout.governor(governor_id)
    collections = {
        "marker": layout.ids,
        "retired": layout.retired,
        "event": layout.events,
        "snapshot": layout.snapshots,
        "state": layout.states,
    }
    return f"{collections[line.kind](governor_id)}/{line.id}"


Due: TypeAlias = Callable[[Item, Mapping[str, Document | None]], Write | str | None]


def due(item: Item, documents: Mapping[str, Document | None]) -> Write | str | None:
    """The write that an item needs; or the path of what others have made instead of it, which stays as it is.

    If that is a state, the whole stream is left out.
    """
    put, stream = item.put, item.stream
    if stream is None:
        return put
    there, state = documents[put.path], documents[stream.state]
    if item.kind == "marker":
        return None if state is not None else _due_marker(put, there, is_whole=False)
    if state is not None:
        is_theirs = item.kind == "state" and not _goes_on(state, documents[item.events[0]], put)
        return stream.state if is_theirs else None
    if item.kind == "state":
        return put if documents[item.events[1]] is None else stream.state
    if there is None:
        return put
    if item.kind == "event" and _is_of_another_history(stream, there, put):
        return stream.state
    fields = _merged(stream, there, put) if item.kind == "retired" else put.fields
    return None if _fields(there) == fields else Put(put.path, fields, At(there.revision))


def due_at_last(item: Item, documents: Mapping[str, Document | None]) -> Write | str | None:
    """As :func:`due`, for the marker of a state that is whole, and that has the history in the file.

    Its event may have been cleaned up: then only the file can give the marker back.
    """
    return _due_marker(item.put, documents[item.put.path], is_whole=True)


def _due_marker(put: Put, there: Document | None, *, is_whole: bool) -> Write | str | None:
    if there is None:
        return put
    if _fields(there) == put.fields:
        return None
    try:
        record = there.decode(MARKER)
    except CorruptDocument:
        return Put(put.path, put.fields, At(there.revision))
    is_own = not is_whole and _place(record) == _place(msgspec.convert(put.fields, MarkerRecord))
    return Put(put.path, put.fields, At(there.revision)) if is_own else put.path


def _merged(stream: Stream, there: Document, put: Put) -> Any:
    """The fields of a record of retired stores: what the file says, and what is there. Such a record only grows."""
    record = msgspec.convert(put.fields, RetiredRecord)
    try:
        known = retired_in(stream, there) | Retired(record.taken_out)
    except CorruptDocument:
        return put.fields
    return msgspec.to_builtins(RetiredRecord(record.state_id, known.taken_out))


def _is_of_another_history(stream: Stream, there: Document, put: Put) -> bool:
    """Whether an event is sound, and is not the one that the file has in its place."""
    try:
        event = there.decode(EVENT)
    except Inconsistent:
        return False
    ours = msgspec.convert(put.fields, EventRecord)
    return _place(event) == _place(ours) and event.digest != ours.digest and event.is_genuine(stream.governor_id)


def _place(record: EventRecord | MarkerRecord) -> tuple[str, int]:
    return record.state_id, record.version


def _fields(document: Document) -> Any:
    """The fields of a document; None if it is damaged."""
    try:
        return document.fields()
    except CorruptDocument:
        return None


def _goes_on(state: Document, event: Document | None, put: Put) -> bool:
    """Whether a state is the one of the file, or a later one: the file's last event is there, and it is not before it.

    The digest of that event covers all events before it. A state that is damaged may be any.
    """
    fields = put.fields if isinstance(put.fields, dict) else {}
    try:
        if event is None or event.decode(EVENT).digest != fields.get("digest"):
            return False
    except Inconsistent:
        return False
    try:
        return bool(state.decode(STATE).version >= fields["version"])
    except Inconsistent:
        return True
