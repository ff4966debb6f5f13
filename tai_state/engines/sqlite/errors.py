"""The meaning of SQLite's errors: one table, by SQLite's primary result code."""

from __future__ import annotations

from typing import Final

import apsw

from tai_state.errors import (
    CorruptDocument,
    StoreTimeout,
    StoreUnavailable,
    StoreUnusable,
    TaiStateError,
)

UNAVAILABLE: Final = {
    "SQLITE_FULL": "the disk is full: free space and try again",
    "SQLITE_IOERR": "the disk reports an error: check it, then open the store again",
    "SQLITE_CANTOPEN": "the file cannot be opened: check its folder and its permissions",
    "SQLITE_NOMEM": "there is no memory left",
    "SQLITE_TOOBIG": "a value is too large for SQLite",
    "SQLITE_INTERRUPT": "the operation was interrupted",
    "SQLITE_ABORT": "the operation was aborted",
}
UNUSABLE: Final = {
    "SQLITE_READONLY": "the file or its folder is read-only: check the permissions of both",
    "SQLITE_PERM": "access is denied: check the file's permissions",
    "SQLITE_AUTH": "access is denied: check the file's permissions",
    "SQLITE_NOLFS": "the file system cannot hold a file of this size",
}
TIMEOUT: Final = {
    "SQLITE_BUSY": "another process has had the file locked for too long: find it with `lsof`, and end or restart it",
    "SQLITE_LOCKED": "another connection holds the table: try again",
    "SQLITE_PROTOCOL": "could not acquire the file's lock: try again",
}
_LOG: Final = "a -wal beside it belongs to the file that it replaced"
CORRUPT: Final = {
    "SQLITE_CORRUPT": f"the file is damaged, or {_LOG}: restore a backup",
    "SQLITE_FORMAT": "the file is damaged: restore a backup",
    "SQLITE_NOTADB": "is not a SQLite file: correct the address or, if it is right, restore a backup",
    "SQLITE_SCHEMA": "the tables were changed by another program",
    "SQLITE_MISMATCH": "a value has the wrong type",
    "SQLITE_CONSTRAINT": "the tables hold invalid data",
    "SQLITE_ERROR": "the tables are not as expected",
}
MISUSE: Final = frozenset({"SQLITE_INTERNAL", "SQLITE_NOTFOUND", "SQLITE_EMPTY", "SQLITE_MISUSE", "SQLITE_RANGE"})
"""Codes that only a mistake in this package can cause. They are not mapped, so that the original error is seen."""


def mapped_error(error: apsw.Error, operation: str, path: str, *, unknown: bool = False) -> Exception:
    """The error to raise for an error of SQLite; the same error if it shows a mistake of this package.

    Args:
        error: the error, as apsw raised it.
        operation: the verb that failed.
        path: the path of the file.
        unknown: whether a commit may have been applied.
    """
    result: int | None = getattr(error, "result", None)
    code = None if result is None else apsw.mapping_result_codes.get(result & 0xFF)
    found: TaiStateError
    if code in UNAVAILABLE:
        found = StoreUnavailable(operation, code, f"{UNAVAILABLE[code]} ({path})", unknown)
    elif code in UNUSABLE:
        found = StoreUnusable(operation, code, f"{UNUSABLE[code]} ({path})", unknown)
    elif code in TIMEOUT:
        found = StoreTimeout(operation, code, f"{TIMEOUT[code]} ({path})", unknown)
    elif code in CORRUPT:
        found = CorruptDocument(path, f"{CORRUPT[code]} ({error})")
    else:
        return error
    found.__cause__ = error
    return found
