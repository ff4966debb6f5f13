"""The waist: the four verbs that every engine implements, and that all other code builds on.

An engine stores *documents*: JSON objects, each under a path. A path alternates collection ids and document ids, like
``governors/bank/states/alice``; the part before the last ``/`` names the document's collection.

Revisions are integers that only grow, even if a document is deleted and created again, or the engine is closed and
opened again. All documents written by one commit have the commit's revision.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, Protocol, Self, TypeAlias, TypeVar

import msgspec

from tai_state.engines.paging import Paged
from tai_state.errors import CommitTooLarge, CorruptDocument, DocumentTooLarge
from tai_state.values.json import NOT_JSON, all_text

S = TypeVar("S", bound=msgspec.Struct)

Fields: TypeAlias = dict[str, Any]
"""A document's content: a JSON object."""


class Requirement(Enum):
    """What a write requires of its document if it does not name a revision."""

    ABSENT = "absent"
    PRESENT = "present"
    ANYTHING = "anything"


ABSENT = Requirement.ABSENT
PRESENT = Requirement.PRESENT
ANYTHING = Requirement.ANYTHING


class At(msgspec.Struct, frozen=True, gc=False):
    """The document must be at exactly this revision."""

    revision: int


Require: TypeAlias = Requirement | At


def holds(require: Require, revision: int | None) -> bool:
    """Whether a document at this revision (None: absent) meets a requirement."""
    if isinstance(require, At):
        return require.revision == revision
    if require is ANYTHING:
        return True
    return (revision is None) == (require is ABSENT)


class Put(msgspec.Struct, frozen=True, gc=False):
    """Store these fields as the whole document. The engine takes a copy of the fields, and keeps no reference.

    Instead of a dict, the fields may be given as a struct.
    """

    path: str
    fields: Fields | msgspec.Struct
    require: Require = ANYTHING


class Delete(msgspec.Struct, frozen=True, gc=False):
    """Remove the document. If there is none, nothing happens, unless the write requires one."""

    path: str
    require: Require = ANYTHING


class Check(msgspec.Struct, frozen=True, gc=False):
    """Change nothing, but fail the whole commit if the requirement does not hold."""

    path: str
    require: Require


Write: TypeAlias = Put | Delete | Check


class Shape(Generic[S]):
    """The struct that the fields of one kind of document must fit, with its decoder.

    Args:
        struct: the struct.
        advice: what to do about a damaged document of this kind, in the imperative.
        is_small: also see damage in the name of a field that may be absent, for documents that nothing else covers.
    """

    def __init__(self, struct: type[S], advice: str = "run `tai-state verify`", *, is_small: bool = False) -> None:
        self.struct = struct
        self.advice = advice
        decode = msgspec.json.Decoder(struct).decode
        self.from_json: Callable[[bytes], S] = all_text(decode) if is_small else decode


def split(path: str) -> tuple[str, str]:
    """Split a document's path into its collection and its id."""
    collection, _, document_id = path.rpartition("/")
    return collection, document_id


class Damage(msgspec.Struct, frozen=True, gc=False):
    """Takes the place of a document's content if the stored content is not what was written.

    Attributes:
        what: what is wrong with it: a sentence without its subject.
        is_nameless: whether its id is no id any more. No read finds it, and :class:`Delete` only at its revision.
    """

    what: str
    is_nameless: bool = False


class Document(msgspec.Struct, frozen=True, gc=False):
    """One stored document, as read.

    A damaged document is returned like any other, and raises once its content is used: so it hides no other document.

    Attributes:
        collection: the path of its collection.
        id: the last segment of its path, escaped as stored.
        content: its fields, or their JSON in UTF-8, as the engine has it; for a damaged document, what is wrong.
        revision: the engine's token for the last write of the document.
        updated_us: when it was last written, in microseconds since 1970 by the engine's clock.
    """

    collection: str
    id: str
    content: bytes | Fields | Damage
    revision: int
    updated_us: int

    @property
    def path(self) -> str:
        """The path under which it is stored."""
        return f"{self.collection}/{self.id}"

    @property
    def size(self) -> int:
        """The size of its fields as JSON, in bytes.

        Raises:
            CorruptDocument: it is damaged.
        """
        return len(self._json())

    def fields(self) -> Fields:
        """The fields as plain JSON; the caller may change them.

        Raises:
            CorruptDocument: it is damaged: the fields are not a JSON object, or not the one that was written.
        """
        try:
            return msgspec.json.decode(self._json(), type=dict[str, Any])
        except NOT_JSON as error:
            raise CorruptDocument(self.path, f"is not a JSON object: {error}") from None

    def decode(self, shape: Shape[S]) -> S:
        """The fields as a struct.

        Raises:
            CorruptDocument: it is damaged, or a field is missing or has the wrong type; the message names the field,
                not its value, and says what to do.
        """
        try:
            content = self.content
            if type(content) is bytes:
                return shape.from_json(content)
            if isinstance(content, Damage):
                raise CorruptDocument(self.path, f"{content.what}: {shape.advice}")
            return msgspec.convert(content, shape.struct)
        except NOT_JSON as error:
            what = f"does not fit {shape.struct.__name__}: {error}: {shape.advice}"
            raise CorruptDocument(self.path, what) from None

    def _json(self) -> bytes:
        content = self.content
        if isinstance(content, Damage):
            raise CorruptDocument(self.path, content.what)
        return content if isinstance(content, bytes) else msgspec.json.encode(content)


class Reading(msgspec.Struct, frozen=True):
    """A consistent snapshot of some documents.

    Attributes:
        documents: in the order asked for; None where there is no document.
        time_us: the engine's time of the snapshot, in microseconds since 1970.
    """

    documents: tuple[Document | None, ...]
    time_us: int


class Committed(msgspec.Struct, frozen=True, gc=False):
    """The answer to a commit that was applied.

    Attributes:
        revision: the revision of every document that the commit wrote.
        time_us: the engine's time of the commit, in microseconds since 1970.
    """

    revision: int
    time_us: int


class DocumentChange(msgspec.Struct, frozen=True):
    """A watched document is now at this revision or a later one; None: it is absent."""

    path: str
    revision: int | None


class Where(msgspec.Struct, frozen=True):
    """A filter of a scan: the field (a dotted path of keys) must equal one of these plain JSON values."""

    field: str
    values: tuple[str | int | float | bool | None, ...]


class Scan(msgspec.Struct, frozen=True):
    """Which documents of one collection to stream, and in which order.

    Attributes:
        collection: the path of the collection. Documents in collections below it do not belong to it.
        start: the first id, inclusive.
        end: the end of the ids, exclusive; None: no end.
        where: filters; a document must meet all of them.
        by: a field (a dotted path) whose values are text. ``start`` and ``end`` then bound this field, and the order is
            by this field and then by id; documents in which it is absent or not text are left out.
        limit: at most this many documents; 0: none.
    """

    collection: str
    start: str = ""
    end: str | None = None
    where: Sequence[Where] = ()
    by: str | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What an engine can do, and its limits; the default limits suit an engine that has none of its own.

    Attributes:
        name: the name of the engine.
        durable: whether an acknowledged commit survives the end of the process and a loss of power.
        processes: whether several processes may use the store at once.
        shared_clock: whether all users of the store see the same clock in ``time_us``.
        commit_order: whether the engine is :class:`~tai_state.engines.ordering.CommitOrdered`. Commits that check one
            document are then no slower for it.
        max_ops_per_commit: how many writes one commit may have.
        max_bytes_per_commit: how many bytes of JSON one commit may write.
        max_document_bytes: how many bytes of JSON one document may have.
    """

    name: str
    durable: bool
    processes: bool
    shared_clock: bool
    commit_order: bool = False
    max_ops_per_commit: int = 5_000
    max_bytes_per_commit: int = 10 * 1024 * 1024
    max_document_bytes: int = 1024 * 1024


NOT_OPEN = "the store is not open: use it inside its `async with` block"
OPEN_ALREADY = "the store is already open: open another one in its own `async with` block"


class Moment(Protocol):
    """The documents as they are at one moment, whatever is written after it. Its verbs are as those of an engine."""

    async def read(self, paths: Sequence[str]) -> Reading: ...  # noqa: D102
    def scan(self, scan: Scan) -> Paged[Document]: ...  # noqa: D102


class Engine(Protocol):
    """The four verbs. ``async with`` opens and closes an engine; closing waits for running commits and ends watches.

    Only one block at a time may use an engine object. On every engine, these raise ``RuntimeError``: a verb outside
    that block, a second block inside it, and waiting for the next change of a watch after the engine was closed.

    Every verb may raise ``StoreUnavailable`` or ``StoreTimeout``. The ids in paths are already escaped. Cancelling one
    caller never interrupts another caller's commit.
    """

    @property
    def capabilities(self) -> Capabilities:
        """The engine's abilities and limits; they never change."""
        ...

    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *exc: object) -> None: ...

    async def read(self, paths: Sequence[str]) -> Reading:
        """Read one consistent snapshot of these documents; it includes every commit acknowledged before the call.

        The result belongs to the caller. A path may be given twice.

        Raises:
            CorruptDocument: the store is damaged.
        """
        ...

    def scan(self, scan: Scan) -> Paged[Document]:
        """Stream the documents of one collection in ascending order of their ids (by code point).

        A scan is not a snapshot: it may or may not include what is written while it runs. It includes exactly once each
        document that existed before and is not written meanwhile. A scan can be abandoned at any point; to resume after
        a document, scan again with ``start=after(id)``.
        """
        ...

    async def commit(self, writes: Sequence[Write]) -> Committed:
        """Apply all of these writes or none, as their requirements decide at one moment.

        A commit may name a path only once. When this returns, the commit is durable. If the caller is cancelled, the
        commit may or may not be applied, as after an error with ``unknown``.

        Raises:
            CommitRefused: a requirement did not hold, or too many writers competed for the same documents; nothing was
                applied.
            CommitTooLarge, DocumentTooLarge: the commit exceeds a limit; nothing was sent.
            StoreUnavailable, StoreTimeout: the commit was not applied or, with ``unknown``, may have been.
            ValueError: a path is named twice.
        """
        ...

    def watch(self, *targets: str) -> AbstractAsyncContextManager[AsyncIterator[DocumentChange]]:
        """Watch documents and collections: yields hints that documents changed, not a log of the changes.

        Entering the context establishes the watch. The iterator first yields the present revision or absence of each
        named document, and the present revision of each document in the named collections. It then yields later
        changes, deletions included. Changes are coalesced: a document that is created and deleted again between two
        looks may not be reported at all. A cancelled step loses no change.

        Usage: enter, read, wait for changes, read again.
        """
        ...

    def moment(self) -> AbstractAsyncContextManager[Moment]:
        """One moment to read from, in the block only; it includes every commit acknowledged before the block.

        Others go on writing meanwhile. An engine says in its documentation how long a moment may last.
        """
        ...

    async def self_check(self) -> Sequence[CorruptDocument]:
        """Find damage below the documents, where no verb sees it; returns at most a hundred findings.

        It reads the whole storage while others go on working. An engine with no storage of its own finds nothing.
        """
        ...

    async def missing(self, collection: str) -> Sequence[str]:
        """The ids of a collection's documents that are not there although documents lie below them, in any order."""
        ...


def after(document_id: str) -> str:
    """The smallest id greater than this one: the start of a scan that resumes after it."""
    return document_id + "\x00"


def check_budget(sizes: dict[str, int], operations: int, capabilities: Capabilities) -> None:
    """Refuse a commit that exceeds the engine's limits, before anything is sent.

    Args:
        sizes: how many bytes each write puts, by path.
        operations: the number of writes, checks and deletions included.
        capabilities: the engine's capabilities.

    Raises:
        CommitTooLarge, DocumentTooLarge: a limit is exceeded.
        ValueError: the commit names a path twice.
    """
    if len(sizes) != operations:
        raise ValueError("the commit names a path twice")
    if operations > capabilities.max_ops_per_commit:
        raise CommitTooLarge("writes", operations, capabilities.max_ops_per_commit)
    total = 0
    for path, size in sizes.items():
        if size > capabilities.max_document_bytes:
            raise DocumentTooLarge(path, size, capabilities.max_document_bytes)
        total += size
    if total > capabilities.max_bytes_per_commit:
        raise CommitTooLarge("bytes", total, capabilities.max_bytes_per_commit)
