"""The file: its tables, how it is created, and which files are refused. ``docs/format.md`` describes it for others."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import apsw

from tai_state.engines.sqlite.disk import reading
from tai_state.engines.sqlite.upgrading import upgrade
from tai_state.errors import CorruptDocument, IncompatibleFormat, StoreNotFound, StoreUnusable

APPLICATION_ID = 0x7A157A7E
FORMAT = 2

_PAUSE_MS = 5

LOG_BYTES = 6 * 1024 * 1024
"""What is left of a log that grew, for example under a long reader. Without one, a log stays below this."""

_COLUMNS = ("collection", "id", "revision", "updated_us", "checksum", "fields", "timestamp", "path")

_DOCUMENTS = """
CREATE TABLE documents (
    collection TEXT NOT NULL,
    id TEXT NOT NULL,
    revision INTEGER NOT NULL,
    updated_us INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    fields TEXT NOT NULL,
    timestamp TEXT,
    path TEXT GENERATED ALWAYS AS (collection || '/' || id) VIRTUAL,
    PRIMARY KEY (collection, id)
) STRICT;
CREATE INDEX documents_by_timestamp ON documents (collection, timestamp, id) WHERE timestamp IS NOT NULL;
"""
_BY_REVISION = """
CREATE INDEX IF NOT EXISTS documents_by_revision ON documents (collection, revision) WHERE timestamp IS NOT NULL
"""
_TABLES = f"""
{_DOCUMENTS}
CREATE TABLE counter (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    revision INTEGER NOT NULL,
    token INTEGER NOT NULL
) STRICT;
INSERT INTO counter VALUES (1, 0, 0);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT};
"""  # noqa: S608 - both are numbers of this file


def connect(path: str, *, create: bool, busy_timeout_ms: int) -> apsw.Connection:
    """Open the file: create its tables if it has none, upgrade an older format, and refuse any other file.

    If ``create`` is false and the file or its folder may only be read, the connection can only read.

    Raises:
        StoreNotFound: there is no store, and ``create`` is false.
        IncompatibleFormat: the file belongs to another program or to a newer release.
        CorruptDocument: a table or column is missing.
        StoreUnusable: a person has to change something first: a folder, a permission, or a log that has lost its file.
        apsw.Error: as SQLite reports it.
    """
    _check_log(path)
    flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0)
    try:
        connection = apsw.Connection(path, flags=flags)
    except apsw.CantOpenError:
        if not create and not os.path.lexists(path):
            raise StoreNotFound(path) from None
        what = _in_the_way(path)
        if what is None:
            raise
        raise StoreUnusable("open", "SQLITE_CANTOPEN", f"{what} ({path})") from None
    # If the log's shared memory cannot be opened at first and later can, closing mistakes a full log for an empty
    # one and deletes it (SQLite 3.54.1). So a connection that fails to open leaves the log alone.
    leave_log(connection)
    try:
        with _closed_on_error(connection):
            if connection.readonly("main"):  # SQLite falls back to it if it cannot open for writing, for any reason
                raise apsw.exception_for(apsw.SQLITE_READONLY if _in_the_way(path) else apsw.SQLITE_CANTOPEN)
            connection.set_busy_timeout(busy_timeout_ms)
            if _is_empty(connection):
                if not create:
                    raise StoreNotFound(path)
                _make(connection)
            _check(connection, path)
            if connection.pragma("journal_mode") != "wal":
                _use_write_ahead_log(connection, busy_timeout_ms)
            connection.execute(f"PRAGMA synchronous = FULL; PRAGMA journal_size_limit = {LOG_BYTES}")
            leave_log(connection, yes=False)
    except apsw.ReadOnlyError:  # the file, or its folder, in which the log would be made
        if create:
            raise
        return connect_to_read(path, busy_timeout_ms)
    return connection


def connect_to_read(path: str, busy_timeout_ms: int) -> apsw.Connection:
    """Open a file that may not be written, and write nothing beside it.

    Without a log, SQLite takes the file to be one that nobody changes; the caller has to notice if somebody does.
    """
    is_unlogged = not os.path.lexists(f"{path}-wal")
    uri = f"{Path(path).as_uri()}?mode=ro&immutable={int(is_unlogged)}"
    connection = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    with _closed_on_error(connection):
        connection.set_busy_timeout(busy_timeout_ms)
        _check(connection, path)
    return connection


def connect_to_copy(path: str, busy_timeout_ms: int) -> apsw.Connection:
    """Open a file to copy it: its tables may be damaged, but its header must say that it is a file of this library.

    Raises:
        StoreNotFound, IncompatibleFormat, CorruptDocument, StoreUnusable, apsw.Error: as :func:`connect`.
    """
    try:
        return connect(path, create=False, busy_timeout_ms=busy_timeout_ms)
    except (CorruptDocument, apsw.CorruptError):
        connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE)
        leave_log(connection)
        with _closed_on_error(connection):
            connection.set_busy_timeout(busy_timeout_ms)
            if connection.pragma("application_id") != APPLICATION_ID:
                raise
        return connection


@contextmanager
def _closed_on_error(connection: apsw.Connection) -> Generator[None]:
    """Close a connection that could not be set up, and raise the true error."""
    try:
        with reading(connection):
            yield
    except BaseException:
        connection.close()
        raise


def _check_log(path: str) -> None:
    """Raise ``StoreUnusable`` if there is a log, but no file: SQLite would delete it with the newest changes in it."""
    file = os.path.realpath(path)
    log = f"{file}-wal"
    # In this order: a new file has content before it has a log.
    if _size(log) and not _size(file):
        what = f"the file is gone, and {log} may have its newest changes: put the file back beside it"
        raise StoreUnusable("open", "FILE_LOST", f"{what}, or move that -wal away for a new store ({path})")


def _size(path: str) -> int:
    """The size of a file, in bytes; 0 if there is none."""
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0


def _in_the_way(path: str) -> str | None:
    """What a person has to change before the file can be opened; None if the problem may pass by itself."""
    file = Path(path)
    if not file.parent.is_dir():
        return f"there is no folder {file.parent}: create it, or check the address"
    if file.is_dir():
        return "this is a folder: name a file in it"
    if not os.access(file if file.exists() else file.parent, os.R_OK | os.W_OK):
        return "access is denied: check the permissions of the file and its folder"
    return None


def order_by_revision(connection: apsw.Connection) -> None:
    """Create the index for reading events in the order of commits, if the file does not have it yet.

    It is created on demand, because it slows down every later commit of an event, and only such reads need it.
    """
    connection.execute(_BY_REVISION)


def leave_log(connection: apsw.Connection, *, yes: bool = True) -> None:
    """Set whether closing this connection leaves the log alone; otherwise the last one merges and deletes it."""
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, int(yes))


def _is_empty(connection: apsw.Connection) -> bool:
    return bool(connection.pragma("application_id") == 0) and bool(
        connection.execute("SELECT count(*) = 0 FROM sqlite_schema").get
    )


def _make(connection: apsw.Connection) -> None:
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        if _is_empty(connection):
            connection.execute(_TABLES)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _use_write_ahead_log(connection: apsw.Connection, busy_timeout_ms: int) -> None:
    """Switch the file to write-ahead logging. In this step alone, SQLite itself does not wait for other connections."""
    pause = threading.Event()
    for attempt in range(busy_timeout_ms // _PAUSE_MS + 1):
        try:
            if connection.pragma("journal_mode", "wal") == "wal":
                return
        except apsw.BusyError:
            if (attempt + 1) * _PAUSE_MS > busy_timeout_ms:
                raise
        pause.wait(_PAUSE_MS / 1_000)
    raise apsw.BusyError


def _check(connection: apsw.Connection, path: str) -> None:
    if connection.pragma("application_id") != APPLICATION_ID:
        raise IncompatibleFormat(path, "belongs to another program and is not a tai-state store")
    version = connection.pragma("user_version")
    if version == 1:
        upgrade(connection, _DOCUMENTS, FORMAT)
    elif version != FORMAT:
        raise IncompatibleFormat(
            path, f"has file format {version}, but this release reads format {FORMAT}: upgrade tai-state"
        )
    columns = {row[1] for row in connection.execute("PRAGMA table_xinfo(documents)")}
    missing = [column for column in _COLUMNS if column not in columns]
    if missing:
        raise CorruptDocument(path, f"the table documents has no column {', '.join(missing)}: restore a backup")
    if not isinstance(connection.execute("SELECT max(revision) FROM counter").get, int):
        raise CorruptDocument(path, "the table counter has lost its row: restore a backup")
