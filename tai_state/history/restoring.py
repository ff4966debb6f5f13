"""What a restore has to write of its file, given what an earlier attempt and others have written. Pure.

A restore writes a state's document after all other documents of that state. So where the state is not there, what there
is of its stream is the restore's own; where it is there, it is whole, or somebody else made it, and it stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tai_state.engines.api import At, Delete, Document, Put, Shape, Write
from tai_state.errors import CorruptDocument, Inconsistent
from tai_state.history.exportfile import Kind, Line
from tai_state.streams.layout import Layout, Stream
from tai_state.streams.records import EVENT, MARKER, SNAPSHOT, STATE
from tai_state.streams.retirements import RETIRED
from tai_state.values.ids import split_versioned, unescape_id

_SHAPES: Mapping[Kind, Shape[Any]] = {
    "event": EVENT,
    "snapshot": SNAPSHOT,
    "state": STATE,
    "marker": MARKER,
    "retired": RETIRED,
}


class Item(msgspec.Struct, frozen=True):
    """A line of an export, with its place in the store.

    Attributes:
        kind: of the document.
        put: writes the document if it is not there.
        stream: the stream to which it belongs; None for a governor.
        event: the path of the event that a state or a marker is about; empty for other documents.
    """

    kind: Kind
    put: Put
    stream: Stream | None = None
    event: str = ""

    @property
    def reads(self) -> list[str]:
        """The paths of the documents that decide whether it is written."""
        state = [] if self.stream is None else [self.stream.state]
        return [self.put.path, *state, *([self.event] if self.event else [])]


def item_of(layout: Layout, governor_id: str, line: Line, put: Put) -> Item:
    """The place of a line."""
    if line.kind == "governor":
        return Item(line.kind, put)
    if line.kind in ("state", "marker"):
        state_id = unescape_id(line.id) if line.kind == "state" else line.fields["state_id"]
        stream = layout.stream(governor_id, state_id)
        return Item(line.kind, put, stream, stream.event(line.fields["version"]))
    segment = line.id if line.kind == "retired" else split_versioned(line.id)[0]
    return Item(line.kind, put, layout.stream(governor_id, unescape_id(segment)))


def due(item: Item, documents: Mapping[str, Document | None]) -> Write | bool:
    """The write that an item needs; else whether what is there was changed, so that the file's document is left out."""
    put, stream = item.put, item.stream
    there = documents[put.path]
    if stream is None:
        return put
    is_whole = documents[stream.state] is not None
    if (
        is_whole
        and item.kind == "marker"
        and not _has_id(documents[item.event], unescape_id(put.path.rpartition("/")[2]))
    ):
        # It is about the file's history of a state that has another one here.
        return Delete(put.path, At(there.revision)) if there is not None and _is_as_in(there, put) else False
    if is_whole and item.kind != "marker":
        return item.kind == "state" and not _is_last(documents[item.event], put)
    if there is None:
        return put
    try:
        there.decode(_SHAPES[item.kind])
    except CorruptDocument:
        return Put(put.path, put.fields, At(there.revision))
    return not _is_as_in(there, put)


def _is_as_in(document: Document, put: Put) -> bool:
    try:
        return document.fields() == put.fields
    except CorruptDocument:
        return False


def _has_id(document: Document | None, event_id: str) -> bool:
    """Whether an event is there, and has this id."""
    try:
        return document is not None and document.decode(EVENT).event_id == event_id
    except Inconsistent:
        return False


def _is_last(document: Document | None, put: Put) -> bool:
    """Whether an event is the last one of a state in the file; its digest covers all events before it."""
    fields = put.fields if isinstance(put.fields, dict) else {}
    try:
        return document is not None and document.decode(EVENT).digest == fields.get("digest")
    except Inconsistent:
        return False
