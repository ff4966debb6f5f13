"""Preparing a write, in its caller's task, for the writer's thread."""

from __future__ import annotations

from typing import Any

import msgspec

from tai_state.engines.api import Delete, Fields, Put, Require, Write
from tai_state.engines.ordering import is_of_events
from tai_state.engines.sqlite.checksums import of_text

_encode = msgspec.json.Encoder().encode


class Prepared(msgspec.Struct, frozen=True, gc=False):
    """One write, prepared in the caller's task.

    Attributes:
        path: the path of the document.
        collection: the part of the path before the id.
        id: the last part of the path.
        require: what the write requires.
        text: the fields to put, as JSON; None if the write puts nothing.
        size: the size of the text, in bytes.
        checksum: the checksum of path and text.
        timestamp: for a document in a collection of events, its field of this name, or an empty text if that is not
            text; None for other documents. It is stored in an indexed column of its own.
        deletes: whether the write deletes the document.
    """

    path: str
    collection: str
    id: str
    require: Require
    text: str | None
    size: int
    checksum: int
    timestamp: str | None
    deletes: bool


def _timestamp(fields: Fields | msgspec.Struct) -> str:
    found: Any = fields.get("timestamp") if isinstance(fields, dict) else getattr(fields, "timestamp", None)
    return found if isinstance(found, str) else ""


def prepare(write: Write) -> Prepared:
    """Encode a write and split its path."""
    path = write.path
    collection, _, document_id = path.rpartition("/")
    if isinstance(write, Put):
        encoded = _encode(write.fields)
        return Prepared(
            path,
            collection,
            document_id,
            write.require,
            encoded.decode(),
            len(encoded),
            of_text(path.encode(), encoded),
            _timestamp(write.fields) if is_of_events(collection) else None,
            deletes=False,
        )
    return Prepared(path, collection, document_id, write.require, None, 0, 0, None, isinstance(write, Delete))
