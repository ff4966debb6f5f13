"""What the disk did where SQLite reports something else.

A read that fails is reported as if the file were damaged, and a disk that is full often as one that fails.
"""

from __future__ import annotations

import errno
from collections.abc import Generator
from contextlib import contextmanager
from ctypes import CFUNCTYPE, POINTER, Structure, addressof, byref, c_int, c_void_p
from typing import Any, Final, cast

import apsw

_FAILURES: Final = frozenset({errno.EIO, errno.ENXIO, errno.ERANGE})
"""What the system answers to a read that SQLite then reports as ``SQLITE_CORRUPT``."""

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What the system answers if the disk, or the account's share of it, has no room."""


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


def failure_of(error: BaseException, connection: apsw.Connection | None) -> apsw.Error | None:
    """The error to raise for one that came because the disk failed or is full; None if it came for another reason.

    SQLite remembers a failure of the disk for as long as a connection is open: close the connection after it.
    """
    if connection is None or not isinstance(error, (apsw.CorruptError, apsw.IOError, apsw.CantOpenError)):
        return None
    if not isinstance(error, apsw.CorruptError) and connection.system_errno in FULL:
        return _because(error, apsw.SQLITE_FULL)
    if isinstance(error, apsw.CantOpenError) or not has_failed(connection):
        return None
    return error if isinstance(error, apsw.IOError) else _because(error, apsw.SQLITE_IOERR_READ)


def _because(error: BaseException, code: int) -> apsw.Error:
    """The error of this code, caused by another one."""
    failure: Any = apsw.exception_for(code)
    failure.__cause__ = error
    return cast("apsw.Error", failure)


@contextmanager
def reading(connection: apsw.Connection) -> Generator[None]:
    """Raise what :func:`failure_of` returns. The connection is closed after it."""
    try:
        yield
    except apsw.Error as error:
        failure = failure_of(error, connection)
        if failure is None or failure is error:
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
