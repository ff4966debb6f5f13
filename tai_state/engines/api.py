"""The waist: the four verbs that every engine implements, and everything above rests on.

An engine keeps *documents*: JSON objects under a path. A path alternates collection ids and document ids, like
``governors/bank/states/alice``; the part before the last ``/`` names the document's collection.

Revisions are ints that only grow, also when a document is deleted and made again, and when the engine is
closed and opened again. All documents written by one commit carry the commit's revision.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, Protocol, Self, TypeAlias, TypeVar, runtime_checkable

import msgspec

from tai_state.engines.paging import Paged
from tai_state.errors import CommitTooLarge, CorruptDocument, DocumentTooLarge

S = TypeVar("S", bound=msgspec.Struct)

Fields: TypeAlias = dict[str, Any]
"""A document's content: a JSON object."""


class Requirement(Enum):
    """What a write requires of its document, where it names no revision."""

    ABSENT = "absent"
    PRESENT = "present"
    ANYTHING = "anything"


ABSENT = Requirement.ABSENT
PRESENT = Requirement.PRESENT
ANYTHING = Requirement.ANYTHING


class At(msgspec.Struct, frozen=True):
    """The document must stand at exactly this revision."""

    revision: int


Require: TypeAlias = Requirement | At


def holds(require: Require, revision: int | None) -> bool:
    """Whether a document at this revision (None: absent) is what a write requires."""
    if isinstance(require, At):
        return require.revision == revision
    if require is ANYTHING:
        return True
    return (revision is None) == (require is ABSENT)


class Put(msgspec.Struct, frozen=True):
    """Store these fields as the whole document. The engine takes the fields as they are now, and keeps no reference.

    A struct stands for the fields it has.
    """

    path: str
    fields: Fields | msgspec.Struct
    require: Require = ANYTHING


class Delete(msgspec.Struct, frozen=True):
    """Remove the document; nothing happens where there is none, unless the write requires one."""

    path: str
    require: Require = ANYTHING


class Check(msgspec.Struct, frozen=True):
    """Change nothing, but let the whole commit fail where the requirement does not hold."""

    path: str
    require: Require


Write: TypeAlias = Put | Delete | Check


class Shape(Generic[S]):
    """The struct that the fields of one kind of document must fit, ready to decode."""

    def __init__(self, struct: type[S]) -> None:
        self.struct = struct
        self.from_json: Callable[[bytes], S] = msgspec.json.Decoder(struct).decode


def split(path: str) -> tuple[str, str]:
    """The collection and the id that a document's path is made of."""
    collection, _, document_id = path.rpartition("/")
    return collection, document_id


class Damage(msgspec.Struct, frozen=True, gc=False):
    """In place of a document's content: it is not what was written.

    Attributes:
        what: is wrong with it, without a subject.
    """

    what: str


class Document(msgspec.Struct, frozen=True, gc=False):
    """One stored document, as read.

    A damaged one stands where it stands, and is reported by whatever looks at its content: so it hides no other.

    Attributes:
        collection: that it is in.
        id: the last segment of its path, escaped as stored.
        content: its fields, or their JSON in UTF-8, as the engine has it; or what is wrong with what is stored there.
        revision: the engine's token for the write that made it so.
        updated_us: when it was last written, in microseconds since 1970 by the engine's clock.
    """

    collection: str
    id: str
    content: bytes | Fields | Damage
    revision: int
    updated_us: int

    @property
    def path(self) -> str:
        """Where it is stored."""
        return f"{self.collection}/{self.id}"

    @property
    def size(self) -> int:
        """The bytes of its fields as JSON.

        Raises:
            CorruptDocument: it is damaged.
        """
        return len(self._json())

    def fields(self) -> Fields:
        """The fields as plain JSON, the caller's to change.

        Raises:
            CorruptDocument: it is damaged: they are not a JSON object, or not the one that was written.
        """
        try:
            return msgspec.json.decode(self._json(), type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise CorruptDocument(self.path, f"is not a JSON object: {error}") from None

    def decode(self, shape: Shape[S]) -> S:
        """The fields as a struct.

        Raises:
            CorruptDocument: it is damaged, or a field is missing or has the wrong type; the message names it, not its
                value.
        """
        try:
            content = self.content
            if type(content) is bytes:
                return shape.from_json(content)
            if isinstance(content, Damage):
                raise CorruptDocument(self.path, content.what)
            return msgspec.convert(content, shape.struct)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise CorruptDocument(self.path, f"does not fit {shape.struct.__name__}: {error}") from None

    def _json(self) -> bytes:
        content = self.content
        if isinstance(content, Damage):
            raise CorruptDocument(self.path, content.what)
        return content if isinstance(content, bytes) else msgspec.json.encode(content)


class Reading(msgspec.Struct, frozen=True):
    """One consistent look at some documents.

    Attributes:
        documents: in the order asked for; None where there is no document.
        time_us: the engine's time of the look, in microseconds since 1970.
    """

    documents: tuple[Document | None, ...]
    time_us: int


class Committed(msgspec.Struct, frozen=True):
    """What became of a commit.

    Attributes:
        revision: of every document that the commit wrote.
        time_us: the engine's time of the commit, in microseconds since 1970.
    """

    revision: int
    time_us: int


class Change(msgspec.Struct, frozen=True):
    """A watched document stands at least at this revision now; None: it is absent."""

    path: str
    revision: int | None


class Where(msgspec.Struct, frozen=True):
    """A scan's filter: the field (a dotted path of keys) equals one of these plain JSON values."""

    field: str
    values: tuple[str | int | float | bool | None, ...]


class Scan(msgspec.Struct, frozen=True):
    """Which documents of one collection to stream, and in which order.

    Attributes:
        collection: its path. Documents in collections below it do not belong to it.
        start: the first id, included.
        end: the first id no longer included; None: to the end.
        where: filters, all of which must hold.
        by: a field (a dotted path) whose values are text: ``start`` and ``end`` then bound this field, and the
            order is by it and then by id; documents in which it is absent or not text are left out.
        limit: at most this many documents; 0 gives none.
    """

    collection: str
    start: str = ""
    end: str | None = None
    where: Sequence[Where] = ()
    by: str | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What an engine can do, and its limits: by default those of an engine that sets itself none.

    Attributes:
        name: of the engine.
        durable: an acknowledged commit survives the process and a loss of power.
        processes: several processes may use the store at once.
        shared_clock: all users of the store see one clock in ``time_us``.
        commit_order: the engine is :class:`~tai_state.engines.ordering.CommitOrdered`.
        max_ops_per_commit: writes in one commit.
        max_bytes_per_commit: bytes of JSON in one commit.
        max_document_bytes: bytes of JSON in one document.
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
OPEN_ALREADY = "the store is open already: open another one, with an `async with` block of its own"


@runtime_checkable
class Engine(Protocol):
    """The four verbs. Opened and closed by ``async with``; closing waits for commits under way, and ends all watches.

    An object is entered by one block at a time. A verb outside of that block, or a second block inside it, is a
    ``RuntimeError``, on every engine; so is waiting for the next change of a watch when the engine is closed.

    Every verb may raise ``StoreUnavailable`` or ``StoreTimeout``. Ids in paths are escaped already. Cancelling
    a caller never interrupts another caller's commit.
    """

    @property
    def capabilities(self) -> Capabilities:
        """Limits and abilities; constant."""
        ...

    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *exc: object) -> None: ...

    async def read(self, paths: Sequence[str]) -> Reading:
        """One consistent snapshot of these documents, every commit acknowledged before the call included.

        What is returned belongs to the caller. A path may stand in it twice.

        Raises:
            CorruptDocument: the store is damaged.
        """
        ...

    def scan(self, scan: Scan) -> Paged[Document]:
        """The documents of one collection, streamed in ascending order of their ids (by code point).

        A scan is not one snapshot: what is written while it runs may be missed or seen. What was there before
        and is not touched is seen exactly once. Breaking off a scan costs nothing; to resume after a document,
        scan again with ``start=after(id)``.
        """
        ...

    async def commit(self, writes: Sequence[Write]) -> Committed:
        """All of these writes, or none: decided by their requirements, at one moment.

        A path stands in a commit once. When this returns, the commit is durable. When the caller is
        cancelled, it may or may not be applied, as after an error with ``unknown``.

        Raises:
            CommitRefused: a requirement did not hold, or too many writers wanted the same documents at once; nothing
                was applied.
            CommitTooLarge, DocumentTooLarge: over a limit; nothing was sent.
            StoreUnavailable, StoreTimeout: not applied, or with ``unknown`` perhaps applied.
            ValueError: a path stands in it twice.
        """
        ...

    def watch(self, *targets: str) -> AbstractAsyncContextManager[AsyncIterator[Change]]:
        """Hints that documents changed; never the log of the changes.

        Entering the context establishes the watch. The iterator yields the present revision or absence of each
        document named and the present revision of each document in the collections named, and then each later
        change, coalesced, deletions included: what is made and removed again between two looks may be told by none.
        A step that is cancelled has taken nothing.
        Pattern: enter, read, wait for changes, read again.
        """
        ...

    async def self_check(self) -> Sequence[CorruptDocument]:
        """What is damaged below the documents, where no verb sees it: at most a hundred things, mostly none.

        Reads all of the storage, and lets others work meanwhile. Nothing where there is nothing below the documents.
        """
        ...


def after(document_id: str) -> str:
    """The smallest id greater than this one: where a scan resumes."""
    return document_id + "\x00"


def check_budget(sizes: dict[str, int], operations: int, capabilities: Capabilities) -> None:
    """Refuse a commit that the engine would not take, before anything is sent.

    Args:
        sizes: the bytes that each write puts, by its path.
        operations: the number of writes, checks and deletions included.
        capabilities: the engine's.

    Raises:
        CommitTooLarge, DocumentTooLarge: as they say.
        ValueError: a path stands in the commit twice.
    """
    if len(sizes) != operations:
        raise ValueError("a path stands in the commit twice")
    if operations > capabilities.max_ops_per_commit:
        raise CommitTooLarge("writes", operations, capabilities.max_ops_per_commit)
    total = 0
    for path, size in sizes.items():
        if size > capabilities.max_document_bytes:
            raise DocumentTooLarge(path, size, capabilities.max_document_bytes)
        total += size
    if total > capabilities.max_bytes_per_commit:
        raise CommitTooLarge("bytes", total, capabilities.max_bytes_per_commit)
