"""The memory engine, for tests and experiments. It passes the same examination as the durable engines."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol, Self

import anyio.lowlevel
import msgspec

from tai_state.engines.api import (
    NOT_OPEN,
    OPEN_ALREADY,
    Capabilities,
    Committed,
    Delete,
    Document,
    DocumentChange,
    Moment,
    Put,
    Reading,
    Scan,
    Write,
    check_budget,
    holds,
    split,
)
from tai_state.engines.filtering import field, is_chosen
from tai_state.engines.ordering import check_changed, whole_commits
from tai_state.engines.paging import Paged, limited
from tai_state.engines.watching import Watch, Watches, is_collection
from tai_state.errors import CommitRefused, CorruptDocument
from tai_state.values.times import WallClock


class Documents(Protocol):
    """The storage of the documents. None of its methods waits."""

    def next_revision(self) -> int:
        """A revision greater than all that it returned before."""
        ...

    def get(self, path: str) -> Document | None:
        """The document at a path; None if there is none."""
        ...

    def ordered(self, collection: str, start: str, end: str | None) -> list[Document]:
        """The documents of a collection between two ids, in the order of their ids."""
        ...

    def parents(self, collection: str) -> set[str]:
        """The ids in a collection below which there are documents, or were."""
        ...

    def set(self, path: str, document: Document | None) -> None:
        """Replace the document at a path; None: remove it."""
        ...

    def copy(self) -> Documents:
        """The same documents, whatever is written here later."""
        ...


class MemoryDocuments:
    """Documents in a dict, and the ids of each collection in a sorted list."""

    def __init__(self) -> None:
        self._documents: dict[str, Document] = {}
        self._ids: dict[str, list[str]] = {}
        self._revision = 0

    def next_revision(self) -> int:
        """See :class:`Documents`, also for the other methods."""
        self._revision += 1
        return self._revision

    def get(self, path: str) -> Document | None:  # noqa: D102
        return self._documents.get(path)

    def ordered(self, collection: str, start: str, end: str | None) -> list[Document]:  # noqa: D102
        ids = self._ids.get(collection, [])
        chosen = ids[bisect_left(ids, start) : None if end is None else bisect_left(ids, end)]
        return [self._documents[f"{collection}/{each}"] for each in chosen]

    def parents(self, collection: str) -> set[str]:  # noqa: D102
        begin = f"{collection}/"
        return {
            each[len(begin) :].partition("/")[0] for each, ids in self._ids.items() if ids and each.startswith(begin)
        }

    def set(self, path: str, document: Document | None) -> None:  # noqa: D102
        before = self._documents.pop(path, None)
        collection, document_id = split(path)
        ids = self._ids.setdefault(collection, [])
        if document is not None:
            self._documents[path] = document
        if before is None and document is not None:
            insort(ids, document_id)
        elif before is not None and document is None:
            del ids[bisect_left(ids, document_id)]

    def copy(self) -> Documents:  # noqa: D102
        copied = MemoryDocuments()
        copied._documents = dict(self._documents)
        copied._ids = {collection: list(ids) for collection, ids in self._ids.items()}
        return copied


class _StoppedClock:
    """Always says the same time."""

    def __init__(self, now_us: int) -> None:
        self._now_us = now_us

    def now_us(self) -> int:
        return self._now_us


class MemoryEngine:
    """An engine in memory. No verb waits between reading and writing, so each is atomic in its event loop.

    Args:
        clock: the engine's clock.
        documents: the storage; by default a new one.
        name: the name in its capabilities.
    """

    def __init__(self, clock: WallClock, documents: Documents | None = None, name: str = "memory") -> None:
        self._clock = clock
        self._documents = MemoryDocuments() if documents is None else documents
        self._capabilities = Capabilities(
            name=name, durable=False, processes=False, shared_clock=True, commit_order=True
        )
        self._watches = Watches()
        self._told: list[Watches] = []
        self._moments: list[MemoryEngine] = []
        self._is_open = False

    @property
    def capabilities(self) -> Capabilities:
        """See :class:`~tai_state.engines.api.Engine`, also for the verbs."""
        return self._capabilities

    def __str__(self) -> str:
        """Which kind of store it is, as an address says it."""
        return f"{self._capabilities.name}://"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}, {'open' if self._is_open else 'closed'}>"

    async def __aenter__(self) -> Self:
        if self._is_open:
            raise RuntimeError(OPEN_ALREADY)
        self._is_open = True
        self._told.append(self._watches)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._is_open:
            self._is_open = False
            self._told.remove(self._watches)
            self._watches.fail(RuntimeError(NOT_OPEN))
            for moment in self._moments:
                await moment.__aexit__()

    def beside(self) -> MemoryEngine:
        """Another engine on the same documents, not yet open: a second user of the store, in the same event loop."""
        other = MemoryEngine(self._clock, self._documents, self._capabilities.name)
        other._told = self._told
        return other

    async def read(self, paths: Sequence[str]) -> Reading:  # noqa: D102
        await self._checkpoint()
        return Reading(tuple(self._documents.get(path) for path in paths), self._clock.now_us())

    def scan(self, scan: Scan) -> Paged[Document]:  # noqa: D102
        return Paged(limited(self._once(partial(self._scanned, scan)), scan.limit))

    def _once(self, find: Callable[[], list[Document]]) -> Callable[[], Awaitable[Sequence[Document] | None]]:
        """One page with all that is found when it is fetched."""
        is_fetched = False

        async def fetch() -> Sequence[Document] | None:
            nonlocal is_fetched
            await self._checkpoint()
            if is_fetched:
                return None
            found = find()
            is_fetched = True
            return found

        return fetch

    def _scanned(self, scan: Scan) -> list[Document]:
        found = self._ranged(scan)
        return [each for each in found if is_chosen(each, scan.where)] if scan.where else found

    def _ranged(self, scan: Scan) -> list[Document]:
        if not scan.by:
            return self._documents.ordered(scan.collection, scan.start, scan.end)
        chosen = [
            (value, document.id, document)
            for document in self._documents.ordered(scan.collection, "", None)
            if isinstance(value := field(document.fields(), scan.by), str)
            and value >= scan.start
            and (scan.end is None or value < scan.end)
        ]
        return [document for _, _, document in sorted(chosen, key=lambda each: each[:2])]

    def changed(self, collection: str, after: int = 0, limit: int | None = None) -> Paged[Document]:
        """See :class:`~tai_state.engines.ordering.CommitOrdered`."""
        check_changed(collection, after, limit)

        def find() -> list[Document]:
            found = [each for each in self._documents.ordered(collection, "", None) if each.revision > after]
            return sorted(found, key=lambda each: each.revision)

        return Paged(whole_commits(self._once(find), limit))

    async def commit(self, writes: Sequence[Write]) -> Committed:  # noqa: D102
        encoded = {write.path: msgspec.json.encode(write.fields) for write in writes if isinstance(write, Put)}
        sizes = {write.path: len(encoded.get(write.path, b"")) for write in writes}
        check_budget(sizes, len(writes), self.capabilities)
        await self._checkpoint()
        present: set[str] = set()
        for write in writes:
            document = self._documents.get(write.path)
            if not holds(write.require, None if document is None else document.revision):
                raise CommitRefused(write.path)
            if document is not None:
                present.add(write.path)
        revision = self._documents.next_revision()
        now = self._clock.now_us()
        for write in writes:
            if isinstance(write, Put):
                self._documents.set(write.path, Document(*split(write.path), encoded[write.path], revision, now))
                self._tell(write.path, revision)
            elif isinstance(write, Delete) and write.path in present:
                self._documents.set(write.path, None)
                self._tell(write.path, None)
        return Committed(revision, now)

    def _tell(self, path: str, revision: int | None) -> None:
        for watches in self._told:
            for target in watches.targets(path):
                watches.tell(target, path, revision)

    @asynccontextmanager
    async def watch(self, *targets: str) -> AsyncGenerator[AsyncIterator[DocumentChange], None]:  # noqa: D102
        await self._checkpoint()
        watch = Watch(targets)
        for target in targets:
            if is_collection(target):
                for document in self._documents.ordered(target, "", None):
                    watch.tell(document.path, document.revision)
            else:
                found = self._documents.get(target)
                watch.tell(target, None if found is None else found.revision)
        self._watches.add(watch)
        try:
            yield watch
        finally:
            self._watches.remove(watch)

    @asynccontextmanager
    async def moment(self) -> AsyncGenerator[Moment, None]:
        """See :class:`~tai_state.engines.api.Engine`. A moment may last as long as the engine is open."""
        await self._checkpoint()
        clock = _StoppedClock(self._clock.now_us())
        moment = MemoryEngine(clock, self._documents.copy(), self._capabilities.name)
        self._moments.append(moment)
        try:
            async with moment:
                yield moment
        finally:
            self._moments.remove(moment)

    async def self_check(self) -> Sequence[CorruptDocument]:  # noqa: D102
        await self._checkpoint()
        return ()

    async def missing(self, collection: str) -> Sequence[str]:  # noqa: D102
        await self._checkpoint()
        parents = self._documents.parents(collection)
        return [each for each in parents if self._documents.get(f"{collection}/{each}") is None]

    async def _checkpoint(self) -> None:
        """Let other tasks run, as an engine that waits for its storage does.

        Raises:
            RuntimeError: the engine is not open.
        """
        await anyio.lowlevel.checkpoint()
        if not self._is_open:
            raise RuntimeError(NOT_OPEN)
