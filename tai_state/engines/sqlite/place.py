"""The place where a store's file lies: whether files can be written there, and how much room the disk has."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final

import apsw

from tai_state.engines.sqlite.disk import FULL, reading
from tai_state.engines.sqlite.errors import UNAVAILABLE, mapped_error
from tai_state.engines.sqlite.schema import LOG_BYTES
from tai_state.errors import StoreUnavailable, StoreUnusable

_TRIAL_BYTES: Final = 64 * 1024


def check_rights(path: str) -> None:
    """Check whether this account may write the file, what lies beside it, and new files in its folder.

    Raises:
        StoreUnusable: it may not.
    """
    file = Path(os.path.realpath(path))
    if os.statvfs(file).f_flag & os.ST_RDONLY:
        raise StoreUnusable("write", "EROFS", f"the disk of {file} is mounted for reading only: mount it for writing")
    for each in (file, file.with_name(f"{file.name}-wal"), file.with_name(f"{file.name}-shm")):
        if each.exists() and not os.access(each, os.W_OK):
            raise StoreUnusable("write", "EACCES", f"this account may not write {each}: give it the right to")
    try:
        _write(file.parent, 0)
    except OSError as error:
        if error.errno not in FULL:
            what = f"this account may not write in the folder {file.parent}, where SQLite makes the -wal"
            raise StoreUnusable("write", _name(error), f"{what}: give it the right to") from error


def check_lock(connect: Callable[[], apsw.Connection], path: str) -> None:
    """Take the lock that every commit takes, and give it back.

    Args:
        connect: opens a connection to the file.
        path: the path to name.

    Raises:
        StoreTimeout: another process has it, for as long as a commit waits.
        StoreUnavailable: the file cannot be written.
    """
    try:
        with closing(connect()) as connection, reading(connection):
            connection.execute("BEGIN IMMEDIATE; ROLLBACK")
    except apsw.Error as error:
        raise mapped_error(error, "write", path) from error


def room(path: str) -> tuple[int, int]:
    """How many bytes the disk has room for, and how many it should: for a backup and the log.

    Raises:
        StoreUnavailable: nothing can be written, because the disk or this account's quota is full, or the disk fails.
    """
    file = Path(os.path.realpath(path))
    try:
        _write(file.parent, _TRIAL_BYTES)
    except OSError as error:
        what = UNAVAILABLE["SQLITE_FULL" if error.errno in FULL else "SQLITE_IOERR"]
        raise StoreUnavailable("write", _name(error), f"{what} ({path})") from error
    disk = os.statvfs(file.parent)
    return disk.f_bavail * disk.f_frsize, file.stat().st_size + LOG_BYTES


def _write(folder: Path, size: int) -> None:
    """Write a file of so many bytes, which is never seen or is gone at once."""
    with TemporaryFile(dir=folder, buffering=0) as trial:
        trial.write(bytes(size))
        os.fsync(trial.fileno())


def _name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "OSError")
