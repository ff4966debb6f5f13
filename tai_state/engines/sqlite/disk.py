"""Whether the disk could not read a file: SQLite reports such a failure as if the file were damaged."""

from __future__ import annotations

import errno
from collections.abc import Generator
from contextlib import contextmanager
from ctypes import CFUNCTYPE, POINTER, Structure, addressof, byref, c_int, c_void_p
from typing import Any, Final, cast

import apsw

_FAILURES: Final = frozenset({errno.EIO, errno.ENXIO, errno.ERANGE})
"""What the system answers to a read that SQLite then reports as ``SQLITE_CORRUPT``."""


class _Methods(Structure):
    """``sqlite3_io_methods`` of SQLite's C interface, as far as it is needed."""

    _fields_ = (
        ("version", c_int),
        ("others", c_void_p * 9),
        ("control", CFUNCTYPE(c_int, c_void_p, c_int, c_void_p)),
    )


class _File(Structure):
    """``sqlite3_file`` of SQLite's C interface."""

    _fields_ = (("methods", POINTER(_Methods)),)


def unread(error: BaseException, connection: apsw.Connection | None) -> apsw.Error | None:
    """The error to raise for one that came because the disk failed; None if it came for another reason.

    SQLite remembers a failure of the disk for as long as a connection is open: close the connection after it.
    """
    if connection is None or not isinstance(error, (apsw.CorruptError, apsw.IOError)) or not has_failed(connection):
        return None
    if isinstance(error, apsw.IOError):
        return error
    failure: Any = apsw.exception_for(apsw.SQLITE_IOERR_READ)
    failure.__cause__ = error
    return cast("apsw.Error", failure)


@contextmanager
def reading(connection: apsw.Connection) -> Generator[None]:
    """Raise what :func:`unread` returns. The connection is closed after it."""
    try:
        yield
    except apsw.CorruptError as error:
        failure = unread(error, connection)
        if failure is None:
            raise
        raise failure from error


def has_failed(connection: apsw.Connection) -> bool:
    """Whether the disk failed for the file or its log since the connection was opened."""
    return any(
        _last_failure(connection, which) in _FAILURES
        for which in (apsw.SQLITE_FCNTL_FILE_POINTER, apsw.SQLITE_FCNTL_JOURNAL_POINTER)
    )


def _last_failure(connection: apsw.Connection, which: int) -> int:
    """The number of the last error that the system reported for a file of a connection; 0: none."""
    pointer, found = c_void_p(), c_int()
    connection.file_control("main", which, addressof(pointer))
    methods: Any = _File.from_address(pointer.value).methods if pointer.value else None
    if methods:  # the file is open
        methods.contents.control(pointer, apsw.SQLITE_FCNTL_LAST_ERRNO, byref(found))
    return found.value
