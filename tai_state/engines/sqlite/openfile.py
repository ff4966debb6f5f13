"""The file and the log that an engine has open, and whether they are still at their paths."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import apsw

from tai_state.engines.sqlite.disk import reading
from tai_state.engines.sqlite.forks import AFTER_A_FORK, Identity, forks
from tai_state.engines.sqlite.schema import leave_log
from tai_state.errors import StoreUnusable

_LOST = "the file or its log was moved, removed or replaced while it was open: put the right files there, open it again"

_CHANGED = "somebody wrote to the file, which this process may only read, while it was open: open it again"


class OpenFile:
    """Opens connections to one file. The threads of an engine share it.

    If the file or its log is no longer at its path, it is *lost*: nobody who opens the path would find what is written.
    Then it stays lost, even if the files come back, because others may have changed them.

    Args:
        path: the path of the file.
        connect: opens a connection to it.

    Attributes:
        path: the path of the file.
        is_lost: whether the file was found lost.
        is_still: whether the file may only be read and had no log: it is read as one that nobody changes. It is lost
            once somebody does.
    """

    def __init__(self, path: str, connect: Callable[[], apsw.Connection]) -> None:
        self.path = path
        self.is_lost: bool = False
        self.is_still: bool = False
        self._connect = connect
        self._log = ""
        self._lock = threading.Lock()
        self._open = 0
        self._content: tuple[float, ...] = ()
        self._found: tuple[Identity, Identity | None] | None = None

    def connect(self) -> apsw.Connection:
        """Open a connection.

        Raises:
            StoreUnusable: it is lost, or the parent of this process had it open at a fork.
        """
        with self._lock:
            if self._open:
                self.check("open")
            before = _identity(self.path) if self._found is None else self._found[0]
            if before in forks.inherited:
                raise StoreUnusable("open", "FORKED", f"{AFTER_A_FORK} ({self.path})")
            connection = self._connect()
            try:
                if not self._open:
                    with reading(connection):
                        self._opened(connection, before)
                self.check("open")
            except BaseException:
                leave_log(connection)
                connection.close()
                raise
            self._open += 1
            return connection

    def check(self, operation: str) -> None:
        """Raise ``StoreUnusable`` if it is lost, by a look at both paths."""
        if self.is_lost or not self._is_there():
            raise self.lost(operation)

    def lost(self, operation: str) -> StoreUnusable:
        """The error if it is lost."""
        self.is_lost = True
        return StoreUnusable(operation, "FILE_LOST", f"{_CHANGED if self.is_still else _LOST} ({self.path})")

    def close(self, connection: apsw.Connection) -> None:
        """Close a connection. If the file is lost, whatever is at its path now is left alone."""
        with self._lock:
            if self.is_lost or not self._is_there():
                leave_log(connection)
            connection.close()
            self._open -= 1

    def abandon(self, connection: apsw.Connection) -> None:
        """Close a broken connection, and leave the log as it is."""
        with self._lock:
            self._open -= 1
            leave_log(connection)
            connection.close(True)

    def closed(self) -> None:
        """All connections are closed."""
        if self._found is not None:
            forks.closed(self._found[0])

    def _opened(self, connection: apsw.Connection, before: Identity | None) -> None:
        """Note which files a connection has opened while no other one was open: the last to close deletes the log."""
        connection.pragma("user_version")  # SQLite opens the log with the first read
        self._log = connection.filename_wal
        now = _identity(self.path)
        if now is None or before not in (None, now):
            raise self.lost("open")
        log = _identity(self._log)
        self.is_still = log is None
        self._content = _content(self.path)
        if self._found is None:
            forks.opened(now)
        self._found = now, log

    def _is_there(self) -> bool:
        if (_identity(self.path), _identity(self._log)) != self._found:
            return False
        return not self.is_still or _content(self.path) == self._content


def _identity(path: str) -> Identity | None:
    try:
        return os.stat(path)[1:3]  # noqa: PTH116 - for each commit, and this is the quickest
    except OSError:
        return None


def _content(path: str) -> tuple[float, ...]:
    """What changes when somebody writes to a file."""
    try:
        found = Path(path).stat()
    except OSError:
        return ()
    return found.st_size, found.st_mtime_ns
