"""The four verbs on one SQLite file: a thread that writes, a thread that reads."""

from __future__ import annotations

import errno
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Self

import anyio
import anyio.to_thread
import apsw

from tai_state.engines.api import (
    Capabilities,
    Change,
    Committed,
    Document,
    Reading,
    Scan,
    Write,
    after,
    check_budget,
    split,
)
from tai_state.engines.filtering import passes
from tai_state.engines.paging import Paged, limited
from tai_state.engines.sqlite.errors import mapped
from tai_state.engines.sqlite.schema import connect
from tai_state.engines.sqlite.worker import Job, Worker
from tai_state.engines.sqlite.writer import Writer, is_by_time, prepare
from tai_state.engines.watching import Revisions, Signal, changes, is_collection
from tai_state.errors import CorruptDocument, StoreUnavailable
from tai_state.values.times import Clock

_CAPABILITIES = Capabilities(name="sqlite", durable=True, processes=True, shared_clock=False)

_BUSY_TIMEOUT_MS = 10_000
_PAGE_ROWS = 512
"""In a scan's page: who wants a few documents waits for no more than these, and more would leave the core's cache."""
_PAGE_BYTES = 1024 * 1024
_FETCHED_ROWS = 16
_POLL_SECONDS = 0.02
"""How often a watch looks whether another process has committed."""

_ONE = "SELECT fields, revision, updated_us FROM documents WHERE collection = ? AND id = ?"
# Both go on from where the page before ended, with bounds that the index can seek: a page costs the same wherever it
# stands. Without an end, the bound is a blob: SQLite orders every text before every blob.
_BY_ID = """
SELECT id, fields, revision, updated_us FROM documents
WHERE collection = :collection AND id >= :start AND id < :end ORDER BY id
"""
_BY_FIELD = """
SELECT id, fields, revision, updated_us, {value} FROM documents
WHERE collection = :collection AND ({value}, id) > (:start, :resume) AND {value} < :end AND {is_text}
ORDER BY {value}, id
"""
_NO_END = b""
_REVISIONS = "SELECT id, revision FROM documents WHERE collection = ?"


class SqliteEngine:
    """See :class:`~tai_state.engines.api.Engine`.

    Args:
        path: of the file; a relative one is of the folder that is the current one now.
        clock: gives the time of commits and reads.
        create: make the file where there is none.
    """

    def __init__(self, path: str, clock: Clock, *, create: bool = True) -> None:
        self._path = str(Path(path).absolute())
        self._clock = clock
        self._connect = partial(connect, self._path, create=create, busy_timeout_ms=_BUSY_TIMEOUT_MS)
        self._writer: Worker | None = None
        self._reader: Worker | None = None
        self._signal = Signal()
        self._polled = 0.0
        self._data_version = 0

    @property
    def capabilities(self) -> Capabilities:  # noqa: D102
        return _CAPABILITIES

    async def __aenter__(self) -> Self:
        reader = _Reader(self._path, self._connect)
        writer = Writer(self._path, self._connect, self._clock)
        try:
            self._reader = Worker("tai-state sqlite reader", reader.serve, reader.close)
            self._writer = Worker("tai-state sqlite writer", writer.serve, writer.close)
            await self._reader.do(reader.open)
        except OSError as error:
            await self._close()
            code = errno.errorcode.get(error.errno or 0, "OSError")
            raise StoreUnavailable("open", code, f"{error.strerror} ({self._path})") from error
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._close()

    async def _close(self) -> None:
        workers = [worker for worker in (self._writer, self._reader) if worker is not None]
        for worker in workers:  # all are told before any is waited for: a caller may be cancelled while it waits
            worker.close()
        for worker in workers:
            await worker.closed()

    async def read(self, paths: Sequence[str]) -> Reading:  # noqa: D102
        keys = [split(path) for path in paths]
        rows = await self._read(partial(_select, keys))
        documents = tuple(
            Document(*key, *row) if row is not None else None for key, row in zip(keys, rows, strict=True)
        )
        return Reading(documents, self._clock.now_us())

    def scan(self, scan: Scan) -> Paged[Document]:  # noqa: D102
        collection, by = scan.collection, scan.by
        sql = _by_field(by, collection) if by else _BY_ID
        left = None if scan.where else scan.limit
        end = _NO_END if scan.end is None else scan.end
        place: dict[str, Any] = {"collection": collection, "start": scan.start, "end": end}
        if by:
            place["resume"] = ""
        ended = False

        async def fetch() -> Sequence[Document] | None:
            nonlocal ended, left
            if ended:
                return None
            rows_max = _PAGE_ROWS if left is None else min(left, _PAGE_ROWS)
            rows, ended = await self._read(partial(_page, sql, place, rows_max))
            left = None if left is None else left - len(rows)
            if rows:
                last = rows[-1]
                place.update({"start": last[4], "resume": last[0]} if by else {"start": after(last[0])})
            documents = [Document(collection, row[0], row[1], row[2], row[3]) for row in rows]
            return [each for each in documents if passes(each.fields(), scan.where)] if scan.where else documents

        return Paged(limited(fetch, scan.limit))

    async def commit(self, writes: Sequence[Write]) -> Committed:  # noqa: D102
        prepared = [prepare(write) for write in writes]
        check_budget({each.path: each.size for each in prepared}, len(writes), _CAPABILITIES)
        committed: Committed = await _opened(self._writer).do(prepared)
        self._signal.raise_()
        return committed

    @asynccontextmanager
    async def watch(self, *targets: str) -> AsyncGenerator[AsyncIterator[Change], None]:  # noqa: D102
        look = partial(self._look, targets)
        async with aclosing(changes(self._signal, await look(), look, self._wait)) as stream:
            yield stream

    async def self_check(self) -> Sequence[CorruptDocument]:
        """SQLite's own check, on a connection of its own."""
        return await anyio.to_thread.run_sync(_integrity, self._connect, self._path)

    async def _look(self, targets: Sequence[str]) -> Revisions:
        present: Revisions = {}
        for target in targets:
            if is_collection(target):
                rows = await self._read(partial(_revisions, target))
                present |= {f"{target}/{document_id}": revision for document_id, revision in rows}
            else:
                [document] = (await self.read([target])).documents
                present[target] = None if document is None else document.revision
        return present

    async def _wait(self, event: anyio.Event) -> None:
        """Until this process commits, or, found by looking every few milliseconds, another one does."""
        while not event.is_set():
            with anyio.move_on_after(_POLL_SECONDS):
                await event.wait()
            if anyio.current_time() - self._polled >= _POLL_SECONDS:
                self._polled = anyio.current_time()
                version = await self._read(_data_version)
                if version != self._data_version:
                    self._data_version = version
                    self._signal.raise_()

    async def _read(self, function: Callable[[apsw.Connection], Any]) -> Any:
        return await _opened(self._reader).do(function)


def _opened(worker: Worker | None) -> Worker:
    if worker is None:
        raise RuntimeError("the store is not open yet: use it inside its `async with` block")
    return worker


class _Reader:
    """Serves functions of a connection, each by itself, in the reader's thread."""

    def __init__(self, path: str, connect: Callable[[], apsw.Connection]) -> None:
        self._path = path
        self._connect = connect
        self._connection: apsw.Connection | None = None

    def open(self, _: apsw.Connection) -> None:
        """Nothing more than opening the file, which serving anything does."""

    def serve(self, jobs: Sequence[Job[Any]]) -> None:
        for job in jobs:
            try:
                if self._connection is None:
                    self._connection = self._connect()
                job.result = job.request(self._connection)
            except apsw.Error as error:
                job.error = mapped(error, "read", self._path)
            except Exception as error:  # noqa: BLE001 - each task is answered with its own error
                job.error = error

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


def _revisions(collection: str, connection: apsw.Connection) -> list[Any]:
    return connection.execute(_REVISIONS, (collection,)).fetchall()


def _integrity(connect: Callable[[], apsw.Connection], path: str) -> list[CorruptDocument]:
    try:
        with closing(connect()) as connection:
            found = [text for (text,) in connection.execute("PRAGMA integrity_check(100)") if text != "ok"]
    except apsw.Error as error:
        failure = mapped(error, "read", path)
        if not isinstance(failure, CorruptDocument):
            raise failure from error
        return [failure]
    advice = "restore a backup, or, if indexes alone are damaged, let SQLite REINDEX a copy, and verify that"
    return [CorruptDocument(path, f"SQLite finds: {text.strip()}: {advice}") for text in found]


def _data_version(connection: apsw.Connection) -> Any:
    """Another value whenever another connection has committed."""
    return connection.pragma("data_version")


def _select(keys: Sequence[tuple[str, str]], connection: apsw.Connection) -> list[Any]:
    """The rows of some documents in one read transaction, and so of one moment."""
    if len(keys) == 1:
        return [connection.execute(_ONE, keys[0]).fetchone()]
    connection.execute("BEGIN")
    try:
        return [connection.execute(_ONE, key).fetchone() for key in keys]
    finally:
        connection.execute("COMMIT")


def _page(sql: str, place: dict[str, Any], rows_max: int, connection: apsw.Connection) -> tuple[list[Any], bool]:
    """The next rows, bounded in number and bytes, and whether they are the last."""
    rows: list[Any] = []
    size = 0
    cursor = connection.execute(sql, place)
    while len(rows) < rows_max and size < _PAGE_BYTES:
        some = list(islice(cursor, min(_FETCHED_ROWS, rows_max - len(rows))))
        if not some:
            return rows, True
        rows += some
        size += sum([len(row[1]) for row in some])
    return rows, False


def _by_field(dotted: str, collection: str) -> str:
    """The scan ordered by a field: by the index where there is one, else by sorting."""
    if dotted == "timestamp" and is_by_time(collection):
        return _BY_FIELD.format(value="timestamp", is_text="timestamp IS NOT NULL")
    path = "$." + ".".join('"' + key.replace('"', '\\"') + '"' for key in dotted.split("."))
    literal = "'" + path.replace("'", "''") + "'"
    return _BY_FIELD.format(value=f"fields ->> {literal}", is_text=f"json_type(fields, {literal}) = 'text'")
