"""Converting requests and documents to Firestore's messages and back. Nothing here waits or keeps state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from tai_state.engines.api import (
    ABSENT,
    ANYTHING,
    PRESENT,
    At,
    Capabilities,
    Check,
    Damage,
    Delete,
    Document,
    Fields,
    Put,
    Require,
    Write,
    check_budget,
    split,
)
from tai_state.engines.firestore.codec import SEAL, NotJson, decode, encode, stored_bytes
from tai_state.engines.firestore.driver import (
    BatchGetDocumentsRequest,
    CommitRequest,
    ListDocumentsRequest,
    ListenRequest,
)
from tai_state.engines.firestore.seals import fits, seal
from tai_state.errors import CommitRefused, CommitTooLarge, DocumentTooLarge

_STORED_BYTES_MAX: Final = 1024 * 1024
"""Firestore's limit for a document, as Firestore counts: :func:`stored_bytes`, the document's name, and 32 bytes."""
_STORED_OVERHEAD: Final = 32
_NAME_OVERHEAD: Final = 16
_READ_MAX: Final = 5_000
"""How many documents one request reads at most, so that the answer is there in time."""
_NAMES_MAX: Final = 300
"""How many names one answer to a list of names has at most."""


class Names:
    """Converts paths to the names of resources in one database, and back.

    Attributes:
        database: the name of the database.
        root: the name of its root document; all paths are below it.
    """

    def __init__(self, project: str, database: str) -> None:
        self.database: str = f"projects/{project}/databases/{database}"
        self.root: str = f"{self.database}/documents"
        self._prefix = f"{self.root}/"

    def name(self, path: str) -> str:
        """The resource name of a document's path."""
        return self._prefix + path

    def path(self, name: str) -> str:
        """The path of a document's resource name."""
        return name[len(self._prefix) :]

    def parent(self, collection: str) -> tuple[str, str]:
        """The name of the resource that a collection is in, and the collection's id."""
        above, _, collection_id = collection.rpartition("/")
        return (self.name(above) if above else self.root), collection_id


def commit_request(
    names: Names, writes: Sequence[Write], nonce: int, capabilities: Capabilities, request_bytes_max: int
) -> Any:
    """The request for a commit.

    Args:
        names: the names of the database.
        writes: the writes. A check that requires nothing is left out.
        nonce: the random bits of the seals; they must differ from the last ones of each document.
        capabilities: the engine's capabilities.
        request_bytes_max: how many bytes the server accepts in one message.

    Raises:
        CommitRefused: a write requires a revision that no document can have.
        CommitTooLarge, DocumentTooLarge: the commit exceeds a limit.
        ValueError: a path is named twice.
        TypeError: fields are not plain JSON.
    """
    sizes: dict[str, int] = {}
    request = CommitRequest(database=names.database)
    for write in writes:
        sizes[write.path] = 0
        if isinstance(write, Check) and write.require is ANYTHING:
            continue
        name = names.name(write.path)
        message = request.writes.add()
        if isinstance(write, Put):
            fields = plain(write.fields)
            canonical = msgspec.json.encode(fields, order="sorted")
            sizes[write.path] = len(canonical)
            message.update.name = name
            if sizes[write.path] <= capabilities.max_document_bytes:
                encode(fields, message.update.fields)
                message.update.fields[SEAL].integer_value = seal(write.path, canonical, nonce)
                _check_stored(write.path, name, message.update)
        elif isinstance(write, Delete) or write.require is ABSENT:
            message.delete = name  # deleting a document that must be absent checks that it is absent
        else:
            message.update.name = name
            message.update_mask.SetInParent()  # changes nothing; without a mask it would empty the document
        _require(write.require, message.current_document)
    check_budget(sizes, len(writes), capabilities)
    for write in writes:
        if isinstance(write.require, At) and write.require.revision <= 0:
            raise CommitRefused(write.path)  # to Firestore, the time 0 means no requirement
    size = request.ByteSize()
    if size > request_bytes_max:
        raise CommitTooLarge("bytes", size, request_bytes_max)
    return request


def plain(fields: Fields | msgspec.Struct) -> Fields:
    """The fields as a dict, whether given as a dict or as a struct."""
    return msgspec.to_builtins(fields) if isinstance(fields, msgspec.Struct) else fields


def required(writes: Iterable[Write]) -> str | None:
    """The path of the only document with a requirement; an empty text if there are several, None if there is none."""
    paths = [write.path for write in writes if write.require is not ANYTHING]
    return None if not paths else paths[0] if len(paths) == 1 else ""


def _require(require: Require, to: Any) -> None:
    if isinstance(require, At):
        to.update_time.FromMicroseconds(require.revision)
    elif require is not ANYTHING:
        to.exists = require is PRESENT


def _check_stored(path: str, name: str, document: Any) -> None:
    # No value counts more than twice its bytes in the message, so most documents need no exact count.
    if document.ByteSize() * 2 > _STORED_BYTES_MAX:
        relative = name.partition("/documents/")[2]
        size = stored_bytes(document.fields) + len(relative.encode()) + 1 + _NAME_OVERHEAD + _STORED_OVERHEAD
        if size > _STORED_BYTES_MAX:
            raise DocumentTooLarge(path, size, _STORED_BYTES_MAX)


def read_requests(names: Names, paths: Sequence[str], bytes_max: int) -> list[Any]:
    """The requests to read documents: one, unless it would be too large; each path must be given only once.

    Google's answer is a snapshot of one moment: if a later part names a later time, the earlier parts are valid at that
    time too. (The emulator shows a commit document by document, even in a transaction or with a read time.)
    """
    request = BatchGetDocumentsRequest(database=names.database, documents=[names.name(path) for path in paths])
    if len(paths) == 1 or (len(paths) <= _READ_MAX and request.ByteSize() <= bytes_max):
        return [request]
    half = len(paths) // 2
    return [*read_requests(names, paths[:half], bytes_max), *read_requests(names, paths[half:], bytes_max)]


def missing_request(names: Names, collection: str) -> Any:
    """The request to list the names in a collection, those included that only have documents below them."""
    parent, collection_id = names.parent(collection)
    request = ListDocumentsRequest(parent=parent, collection_id=collection_id, page_size=_NAMES_MAX, show_missing=True)
    request.mask.field_paths.append("__name__")
    return request


def document(path: str, message: Any) -> Document:
    """A document of the engine, from Firestore's message.

    If the content was not written by this library, or was edited since, the document is damaged: it raises when it is
    used, and other documents are not affected.
    """
    content: Fields | Damage
    try:
        content = decode(message.fields)
        sealed = message.fields[SEAL].integer_value if SEAL in message.fields else 0
        if not fits(sealed, path, msgspec.json.encode(content, order="sorted")):
            content = Damage("was edited: it does not match its checksum")
    except (NotJson, RecursionError) as error:
        content = Damage(str(error))
    updated = microseconds(message.update_time)
    return Document(*split(path), content, updated, updated)


def microseconds(timestamp: Any) -> int:
    """A timestamp in microseconds since 1970, which is the precision of Firestore's times."""
    return int(timestamp.seconds) * 1_000_000 + int(timestamp.nanos) // 1_000


def watch_documents(names: Names, target_id: int, paths: Iterable[str]) -> Any:
    """The request to watch some documents."""
    request = ListenRequest(database=names.database)
    request.add_target.target_id = target_id
    request.add_target.documents.documents.extend([names.name(path) for path in paths])
    return request


def watch_collection(names: Names, target_id: int, collection: str) -> Any:
    """The request to watch the documents of a collection."""
    parent, collection_id = names.parent(collection)
    request = ListenRequest(database=names.database)
    request.add_target.target_id = target_id
    request.add_target.query.parent = parent
    request.add_target.query.structured_query.from_.add().collection_id = collection_id
    return request


def watch_no_longer(names: Names, target_id: int) -> Any:
    """The request to end a target."""
    return ListenRequest(database=names.database, remove_target=target_id)
