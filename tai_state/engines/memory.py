"""The memory engine: for tests and trials. It passes the same examination as the durable engines."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Self

import anyio
import anyio.lowlevel
import msgspec

from tai_state.engines.api import (
    Capabilities,
    Change,
    Committed,
    Delete,
    Document,
    Put,
    Reading,
    Scan,
    Write,
    check_budget,
    holds,
    split,
)
from tai_state.engines.filtering import field, passes
from tai_state.engines.paging import Paged, limited
from tai_state.engines.watching import Revisions, Signal, changes, is_collection
from tai_state.errors import CommitRefused, CorruptDocument
from tai_state.values.times import Clock

_CAPABILITIES = Capabilities(name="memory", durable=False, processes=False, shared_clock=True)


class MemoryEngine:
    """Documents in a dict. No verb waits between looking and writing, so each is atomic in its event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._documents: dict[str, Document] = {}
        self._ids: dict[str, list[str]] = {}
        self._revision = 0
        self._signal = Signal()

    @property
    def capabilities(self) -> Capabilities:
        """See :class:`~tai_state.engines.api.Engine`, also for the verbs."""
        return _CAPABILITIES

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None

    async def read(self, paths: Sequence[str]) -> Reading:  # noqa: D102
        await anyio.lowlevel.checkpoint()
        return Reading(tuple(self._get(path) for path in paths), self._clock.now_us())

    def scan(self, scan: Scan) -> Paged[Document]:  # noqa: D102
        is_fetched = False

        async def fetch() -> Sequence[Document] | None:
            nonlocal is_fetched
            await anyio.lowlevel.checkpoint()
            if is_fetched:
                return None
            is_fetched = True
            found = self._ordered_by(scan.by, scan) if scan.by else self._ordered(scan.collection, scan.start, scan.end)
            return [each for each in found if passes(each.fields(), scan.where)] if scan.where else found

        return Paged(limited(fetch, scan.limit))

    def _ordered(self, collection: str, start: str, end: str | None) -> list[Document]:
        ids = self._ids.get(collection, [])
        chosen = ids[bisect_left(ids, start) : None if end is None else bisect_left(ids, end)]
        return [self._documents[f"{collection}/{each}"] for each in chosen]

    def _ordered_by(self, by: str, scan: Scan) -> list[Document]:
        keyed = [(field(document.fields(), by), document) for document in self._ordered(scan.collection, "", None)]
        chosen = [
            (value, document.id, document)
            for value, document in keyed
            if isinstance(value, str) and value >= scan.start and (scan.end is None or value < scan.end)
        ]
        return [document for _, _, document in sorted(chosen, key=lambda each: each[:2])]

    async def commit(self, writes: Sequence[Write]) -> Committed:  # noqa: D102
        encoded = {write.path: msgspec.json.encode(write.fields).decode() for write in writes if isinstance(write, Put)}
        sizes = {write.path: len(encoded.get(write.path, "").encode()) for write in writes}
        check_budget(sizes, len(writes), self.capabilities)
        await anyio.lowlevel.checkpoint()
        for write in writes:
            document = self._get(write.path)
            if not holds(write.require, None if document is None else document.revision):
                raise CommitRefused(write.path)
        revision = self._next_revision()
        now = self._clock.now_us()
        for write in writes:
            if isinstance(write, Put):
                self._put(Document(*split(write.path), encoded[write.path], revision, now))
            elif isinstance(write, Delete):
                self._delete(write.path)
        self._signal.raise_()
        return Committed(revision, now)

    def _next_revision(self) -> int:
        self._revision += 1
        return self._revision

    def _get(self, path: str) -> Document | None:
        return self._documents.get(path)

    def _put(self, document: Document) -> None:
        path = document.path
        if path not in self._documents:
            insort(self._ids.setdefault(document.collection, []), document.id)
        self._documents[path] = document

    def _delete(self, path: str) -> None:
        if self._documents.pop(path, None):
            collection, document_id = split(path)
            ids = self._ids[collection]
            del ids[bisect_left(ids, document_id)]

    async def self_check(self) -> Sequence[CorruptDocument]:  # noqa: D102
        return ()

    @asynccontextmanager
    async def watch(self, *targets: str) -> AsyncGenerator[AsyncIterator[Change], None]:  # noqa: D102
        async def look() -> Revisions:
            await anyio.lowlevel.checkpoint()
            present: Revisions = {}
            for target in targets:
                if is_collection(target):
                    present |= {doc.path: doc.revision for doc in self._ordered(target, "", None)}
                else:
                    document = self._get(target)
                    present[target] = None if document is None else document.revision
            return present

        async def wait(event: anyio.Event) -> None:
            await event.wait()

        async with aclosing(changes(self._signal, await look(), look, wait)) as stream:
            yield stream
