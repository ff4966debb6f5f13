"""Reading: functions that are called with a connection, in the reader's thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Final, TypeVar

import apsw

from tai_state.engines.api import Document, split
from tai_state.engines.sqlite.checksums import ROW, ROW_OF_ANY, documents
from tai_state.engines.sqlite.disk import failure_of
from tai_state.engines.sqlite.errors import mapped_error
from tai_state.engines.sqlite.openfile import OpenFile
from tai_state.engines.sqlite.worker import Job
from tai_state.errors import StoreUnavailable

T = TypeVar("T")

_FETCHED_ROWS = 16
_PAGE_BYTES = 1024 * 1024

_RIGHT_AFTER_SLASH = bytes([ord("/") + 1])
# A damaged name may be no text, so it is read as bytes.
_FIRST_COLLECTION = """
SELECT CAST(MIN(collection) AS BLOB) FROM documents
WHERE collection >= CAST(? AS TEXT) AND collection < CAST(? AS TEXT)
"""
_EXISTS = "SELECT 1 FROM documents WHERE collection = ? AND id = ?"
_ONE: Final = f"SELECT {ROW} FROM documents WHERE collection = ? AND id = ?"  # noqa: S608 - columns of this package


class Reader:
    """Calls functions with its connection, one by one, in the reader's thread.

    Args:
        file: the file.
    """

    def __init__(self, file: OpenFile) -> None:
        self._file = file
        self._connection: apsw.Connection | None = None

    def open(self, _: apsw.Connection) -> None:
        """Do nothing: the file is opened before any function is called."""

    def serve(self, jobs: Sequence[Job[Any]]) -> None:
        """Call each function."""
        for job in jobs:
            try:
                if self._file.is_lost:
                    raise self._file.lost("read")
                if self._connection is None:
                    self._connection = self._file.connect()
                job.result = job.request(self._connection)
                if self._file.is_still:
                    self._file.check("read")
            except apsw.Error as error:
                failure = failure_of(error, self._connection)
                if failure is not None:
                    self.close()
                job.error = mapped_error(failure or error, "read", self._file.path)
            except Exception as error:  # noqa: BLE001 - each task gets its own error
                job.error = error

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._file.close(connection)


def at_one_moment(connection: apsw.Connection, look: Callable[[apsw.Connection], T]) -> T:
    """Call a function in one read transaction: a new one, unless the connection is at one moment already."""
    if not connection.getautocommit():
        return look(connection)
    connection.execute("BEGIN")
    try:
        found = look(connection)
    except BaseException:
        with suppress(apsw.Error):  # the first error is the one to raise
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
    return found


def stand_still(connection: apsw.Connection) -> None:
    """Begin a read transaction: from now on, the connection sees nothing of what is written."""
    connection.execute("BEGIN; SELECT count(*) FROM sqlite_schema").fetchall()


def standing_still(look: Callable[[apsw.Connection], T], connection: apsw.Connection) -> T:
    """Call a function with a connection that has been made to stand still.

    Raises:
        StoreUnavailable: an earlier error has ended the transaction.
    """
    if not connection.in_transaction:
        raise StoreUnavailable("read", "MOMENT_LOST", "an error has ended the moment that was read from: begin again")
    return look(connection)


def select(paths: Sequence[str], connection: apsw.Connection) -> list[Document | None]:
    """Read some documents at one moment."""
    if len(paths) == 1:
        return [_one(connection, paths[0])]
    return at_one_moment(connection, lambda it: [_one(it, path) for path in paths])


def _one(connection: apsw.Connection, path: str) -> Document | None:
    collection, document_id = split(path)
    try:
        row = connection.execute(_ONE, (collection, document_id)).fetchone()
    except UnicodeDecodeError:
        row = connection.execute(_of_any(_ONE), (collection, document_id)).fetchone()
    return None if row is None else documents(collection, [row])[0]


def missing(collection: str, connection: apsw.Connection) -> list[str]:
    """The ids of a collection's documents that are not there although documents lie below them."""
    return at_one_moment(
        connection, lambda it: [each for each in _parents(it, collection) if not _is_there(it, collection, each)]
    )


def _parents(connection: apsw.Connection, collection: str) -> Iterator[str]:
    """The ids in a collection below which there are documents; each takes one seek, however many there are."""
    name = collection.encode()
    begin, end = name + b"/", name + _RIGHT_AFTER_SLASH
    start = begin
    while True:
        [(found,)] = connection.execute(_FIRST_COLLECTION, (start, end))
        if found is None:
            return
        document_id = found[len(begin) :].partition(b"/")[0]
        yield document_id.decode(errors="backslashreplace")
        start = begin + document_id + _RIGHT_AFTER_SLASH


def _is_there(connection: apsw.Connection, collection: str, document_id: str) -> bool:
    return connection.execute(_EXISTS, (collection, document_id)).fetchone() is not None


def page(sql: str, place: dict[str, Any], rows_max: int, connection: apsw.Connection) -> tuple[list[Any], bool]:
    """The next rows, limited in number and bytes, and whether they are the last. The second column must be text."""
    try:
        return _page(connection.execute(sql, place), rows_max)
    except UnicodeDecodeError:
        return _page(connection.execute(_of_any(sql), place), rows_max)


def _of_any(sql: str) -> str:
    """The same statement for rows in which a number may be text."""
    return sql.replace(ROW, ROW_OF_ANY)


def _page(cursor: apsw.Cursor, rows_max: int) -> tuple[list[Any], bool]:
    rows: list[Any] = []
    size = 0
    while len(rows) < rows_max and size < _PAGE_BYTES:
        some = list(islice(cursor, min(_FETCHED_ROWS, rows_max - len(rows))))
        if not some:
            return rows, True
        rows += some
        size += sum([len(row[1] or b"") for row in some])
    return rows, False
