"""The four verbs on one SQLite file: one thread writes, one reads, and one serves the watches."""

from __future__ import annotations

import errno
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeAlias
from urllib.parse import quote

import anyio.to_thread
import apsw

from tai_state.engines.api import (
    NOT_OPEN,
    OPEN_ALREADY,
    Capabilities,
    Committed,
    Document,
    DocumentChange,
    Moment,
    Reading,
    Scan,
    Write,
    check_budget,
)
from tai_state.engines.filtering import is_chosen
from tai_state.engines.ordering import check_changed, is_of_events, whole_commits
from tai_state.engines.paging import Paged, limited
from tai_state.engines.sqlite.backing_up import Backup, back_up
from tai_state.engines.sqlite.checksums import ROW, documents
from tai_state.engines.sqlite.integrity import damage_of
from tai_state.engines.sqlite.openfile import OpenFile
from tai_state.engines.sqlite.place import check_lock
from tai_state.engines.sqlite.preparing import prepare
from tai_state.engines.sqlite.reader import Reader, missing, page, select, stand_still, standing_still
from tai_state.engines.sqlite.schema import connect, order_by_revision
from tai_state.engines.sqlite.watcher import Watcher
from tai_state.engines.sqlite.watching import FileWatches
from tai_state.engines.sqlite.worker import Worker
from tai_state.engines.sqlite.writer import Writer
from tai_state.errors import CorruptDocument, StoreUnavailable
from tai_state.values.times import WallClock

_CAPABILITIES = Capabilities(name="sqlite", durable=True, processes=True, shared_clock=False, commit_order=True)

_BUSY_TIMEOUT_MS = 10_000
_PAGE_ROWS = 512
"""The rows in one page of a scan. With more, a caller that wants few would wait longer, and the cache overflow."""

# Both continue where the previous page ended, with bounds that the index can seek, so every page costs the same.
# Without an end, the bound is a blob: SQLite orders every text before every blob.
_BY_ID = f"""
SELECT {ROW} FROM documents
WHERE collection = :collection AND id >= CAST(:start AS TEXT) AND id < :end ORDER BY id
"""  # noqa: S608 - columns of this package
_BY_FIELD = f"""
SELECT {ROW}, CAST({{value}} AS BLOB) FROM documents
WHERE collection = :collection AND ({{value}}, id) > (CAST(:start AS TEXT), CAST(:resume AS TEXT))
AND {{value}} < :end AND {{is_text}}
ORDER BY {{value}}, id
"""  # noqa: S608 - columns of this package
_NO_END = b""
# The documents in the order of commits.
_CHANGED = f"""
SELECT {ROW} FROM documents
WHERE collection = :collection AND timestamp IS NOT NULL AND (revision, id) > (:revision, CAST(:id AS TEXT))
ORDER BY revision, id
"""  # noqa: S608 - columns of this package


Do: TypeAlias = Callable[[Callable[[apsw.Connection], Any]], Awaitable[Any]]
"""Has a function called with a connection, and gives its result."""


class SqliteEngine:
    """See :class:`~tai_state.engines.api.Engine`.

    Args:
        path: the path of the file; a relative one is resolved now, against the current folder.
        clock: the clock for the times of commits and reads.
        create: create the file if there is none.

    Attributes:
        path: the absolute path of the file.
    """

    def __init__(self, path: str, clock: WallClock, *, create: bool = True) -> None:
        self.path: str = str(Path(path).absolute())
        self._clock = clock
        self._connect = partial(connect, self.path, create=create, busy_timeout_ms=_BUSY_TIMEOUT_MS)
        self._file = OpenFile(self.path, self._connect)
        self._writer: Worker | None = None
        self._reader: Worker | None = None
        self._moments: list[Worker] = []
        self._watches = FileWatches(self._start_watcher)
        self._is_ordered = False

    @property
    def capabilities(self) -> Capabilities:  # noqa: D102
        return _CAPABILITIES

    def __str__(self) -> str:
        """The store's address."""
        return f"sqlite:///{quote(self.path)}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}, {'closed' if self._writer is None else 'open'}>"

    async def __aenter__(self) -> Self:
        if self._writer is not None or self._reader is not None:
            raise RuntimeError(OPEN_ALREADY)
        self._file = OpenFile(self.path, self._connect)
        reader = Reader(self._file)
        try:
            self._committing = Writer(self._file, self._clock)
            with self._translated("open"):
                self._reader = Worker("reader", reader.serve, reader.close)
                self._writer = Worker("writer", self._committing.serve, self._committing.close, self._watches.committed)
            await self._reader.do(reader.open)
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._close()

    async def _close(self) -> None:
        workers = [worker for worker in (self._writer, self._reader) if worker is not None]
        workers += self._moments
        workers += self._watches.close(RuntimeError(NOT_OPEN))
        for worker in workers:  # ask all of them to close before waiting for any: the wait may be cancelled
            worker.close()
        try:
            for worker in workers:
                await worker.wait_closed()
        finally:
            self._writer = self._reader = None
            self._file.closed()

    def _start_watcher(self) -> Worker:
        _opened(self._writer)
        watcher = Watcher(self._file, self._committing)
        with self._translated("watch"):
            return Worker("watcher", watcher.serve, watcher.close, self._watches.seen, (watcher.pulse, watcher.idle))

    @contextmanager
    def _translated(self, operation: str) -> Generator[None]:
        """Raise ``StoreUnavailable`` if the system refuses what a thread needs, such as a pipe."""
        try:
            yield
        except OSError as error:
            code = errno.errorcode.get(error.errno or 0, "OSError")
            raise StoreUnavailable(operation, code, f"{error.strerror} ({self.path})") from error

    async def read(self, paths: Sequence[str]) -> Reading:  # noqa: D102
        found: list[Document | None] = await self._read(partial(select, paths))
        return Reading(tuple(found), self._clock.now_us())

    def scan(self, scan: Scan) -> Paged[Document]:  # noqa: D102
        return _scan(self._read, scan)

    @asynccontextmanager
    async def moment(self) -> AsyncGenerator[Moment, None]:
        """See :class:`~tai_state.engines.api.Engine`. A moment is a read transaction, in a thread of its own.

        It may last as long as the engine is open. Until it ends, the log of the file keeps all that is written.
        """
        _opened(self._reader)
        reader = Reader(self._file)
        with self._translated("read"):
            worker = Worker("moment", reader.serve, reader.close)
        self._moments.append(worker)
        try:
            await worker.do(stand_still)
            yield _Moment(worker, self._clock.now_us())
        finally:
            worker.close()
            await worker.wait_closed()
            self._moments.remove(worker)

    def changed(self, collection: str, after: int = 0, limit: int | None = None) -> Paged[Document]:
        """See :class:`~tai_state.engines.ordering.CommitOrdered`. The first call for a file creates its index."""
        check_changed(collection, after, limit)
        place: dict[str, Any] = {"collection": collection, "revision": after + 1, "id": b""}
        ended = False

        async def fetch() -> Sequence[Document] | None:
            nonlocal ended
            if ended:
                return None
            if not self._is_ordered:
                await self._read(order_by_revision)
                self._is_ordered = True
            rows, ended = await self._read(partial(page, _CHANGED, place, _PAGE_ROWS))
            if rows:
                place.update(revision=rows[-1][2], id=rows[-1][0])
            return documents(collection, rows)

        return Paged(whole_commits(fetch, limit))

    async def commit(self, writes: Sequence[Write]) -> Committed:  # noqa: D102
        prepared = [prepare(write) for write in writes]
        check_budget({each.path: each.size for each in prepared}, len(writes), _CAPABILITIES)
        committed: Committed = await _opened(self._writer).do(prepared)
        return committed

    def watch(self, *targets: str) -> AbstractAsyncContextManager[AsyncIterator[DocumentChange]]:  # noqa: D102
        return self._watches.watch(targets)

    async def self_check(self) -> Sequence[CorruptDocument]:
        """Run SQLite's integrity check, and check the column ``timestamp``, on a separate connection."""
        _opened(self._reader)
        return await anyio.to_thread.run_sync(damage_of, self._file.connect, self.path)

    async def check_lock(self) -> None:
        """Check whether the lock that every commit takes can be taken, as long as a commit waits for it.

        Raises:
            StoreTimeout: another process has it all the time.
            StoreUnavailable: the file cannot be written.
        """
        _opened(self._reader)
        await anyio.to_thread.run_sync(check_lock, self._file.connect, self.path)

    async def backup(self, target: str, progress: Callable[[int, int], None]) -> Backup:
        """Copy the whole file, as it is at one moment, while others go on writing. The engine need not be open.

        Args:
            target: the path of the copy; there must be no file.
            progress: called now and then with the number of pages copied, and the number of all pages.
        """
        return await back_up(self.path, target, progress, _BUSY_TIMEOUT_MS)

    async def missing(self, collection: str) -> Sequence[str]:  # noqa: D102
        found: list[str] = await self._read(partial(missing, collection))
        return found

    async def _read(self, function: Callable[[apsw.Connection], Any]) -> Any:
        return await _opened(self._reader).do(function)


class _Moment:
    """What a connection sees that stands still."""

    def __init__(self, worker: Worker, time_us: int) -> None:
        self._worker = worker
        self._time_us = time_us

    async def read(self, paths: Sequence[str]) -> Reading:
        found: list[Document | None] = await self._do(partial(select, paths))
        return Reading(tuple(found), self._time_us)

    def scan(self, scan: Scan) -> Paged[Document]:
        return _scan(self._do, scan)

    async def _do(self, function: Callable[[apsw.Connection], Any]) -> Any:
        return await self._worker.do(partial(standing_still, function))


def _scan(do: Do, scan: Scan) -> Paged[Document]:
    """The pages of a scan, each read by a function that is done with a connection."""
    collection, by = scan.collection, scan.by
    sql = _by_field(by, collection) if by else _BY_ID
    left = None if scan.where else scan.limit
    end = _NO_END if scan.end is None else scan.end
    place: dict[str, Any] = {"collection": collection, "start": scan.start.encode(), "end": end}
    if by:
        place["resume"] = b""
    ended = False

    async def fetch() -> Sequence[Document] | None:
        nonlocal ended, left
        if ended:
            return None
        rows_max = _PAGE_ROWS if left is None else min(left, _PAGE_ROWS)
        rows, ended = await do(partial(page, sql, place, rows_max))
        left = None if left is None else left - len(rows)
        if rows:
            last = rows[-1]
            place.update({"start": last[5], "resume": last[0]} if by else {"start": last[0] + b"\0"})
        found = documents(collection, [row[:5] for row in rows] if by else rows)
        return [each for each in found if is_chosen(each, scan.where)] if scan.where else found

    return Paged(limited(fetch, scan.limit))


def _opened(worker: Worker | None) -> Worker:
    if worker is None or worker.is_closing:
        raise RuntimeError(NOT_OPEN)
    return worker


def _by_field(dotted: str, collection: str) -> str:
    """The statement for a scan ordered by a field: it uses the index if there is one, and sorts otherwise."""
    if dotted == "timestamp" and is_of_events(collection):
        is_text = "timestamp IS NOT NULL AND (timestamp <> '' OR json_type(fields, '$.timestamp') = 'text')"
        return _BY_FIELD.format(value="timestamp", is_text=is_text)
    path = "$." + ".".join('"' + key.replace('"', '\\"') + '"' for key in dotted.split("."))
    literal = "'" + path.replace("'", "''") + "'"
    return _BY_FIELD.format(value=f"fields ->> {literal}", is_text=f"json_type(fields, {literal}) = 'text'")
