"""Watching the file: one look serves all watches of an engine.

The engine names the documents of its own commits, and only these are looked at. Commits of other processes are noticed
by a counter of SQLite's, and found by a look at everything that is watched, for changes since the previous look. How
often such a look is made depends on its cost: looking takes only a small share of a core, however much is watched.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import apsw
import msgspec

from tai_state.engines.sqlite.disk import failure_of
from tai_state.engines.sqlite.errors import mapped_error
from tai_state.engines.sqlite.openfile import OpenFile
from tai_state.engines.sqlite.reader import at_one_moment
from tai_state.engines.sqlite.seeing import Move, Sight
from tai_state.engines.sqlite.worker import Job
from tai_state.engines.sqlite.writer import Writer
from tai_state.engines.watching import Watch

POLL_SECONDS: Final = 0.02
"""How often, while there are watches, to check whether another process has committed."""

REST: Final = 250
"""The pause after a look, before the next one of its kind, as a multiple of the processor time that the look took."""

_REST_SECONDS_AFTER_ERROR: Final = 1.0
_VERSION: Final = "PRAGMA data_version"
_TOKEN: Final = "SELECT token FROM counter WHERE id = 1"  # noqa: S105 - the counter's


class Enter(msgspec.Struct, frozen=True):
    """A request to look at the targets of a new watch."""

    watch: Watch


class Leave(msgspec.Struct, frozen=True):
    """A request to look no more at the targets of a watch."""

    watch: Watch


class Moved(msgspec.Struct, frozen=True):
    """A request to look at documents that this engine has written: pairs of a target and one of its documents."""

    paths: Sequence[tuple[str, str]]


class Seen(msgspec.Struct, frozen=True):
    """What a look has found.

    Attributes:
        moves: the documents that have changed since they were last seen.
        present: for a new watch, all documents of its targets.
    """

    moves: Sequence[Move]
    present: Sequence[Move] = ()


class Watcher:
    """Makes the looks, in the watcher's thread.

    Args:
        file: the file.
        writer: the writer of the same engine; it shows which commits are the engine's own.
    """

    def __init__(self, file: OpenFile, writer: Writer) -> None:
        self._file = file
        self._writer = writer
        self._connection: apsw.Connection | None = None
        self._sight = Sight()
        self._data_version = self._commits = self._others = -1
        self._poll_at = 0.0
        self._is_due = False
        self._large_due: deque[str] = deque()
        self._look_at = self._look_at_large_at = 0.0

    def pulse(self) -> float | None:
        """Seconds until :meth:`idle` has something to do; None: nothing is watched."""
        return max(0.0, self._poll_at - time.monotonic()) if self._sight else None

    def serve(self, jobs: Sequence[Job[Seen]]) -> None:
        """Serve requests: watch more targets or fewer, or look at what this engine has written."""
        for job in jobs:
            try:
                job.result = self._serve_one(job.request)
            except Exception as error:  # noqa: BLE001 - each job gets its own error
                job.error = self._as_watch_error(error)

    def idle(self) -> Job[Seen] | None:
        """Look at everything that is watched, if other processes have committed and a look is due."""
        now = time.monotonic()
        if not self._sight or now < self._poll_at:
            return None
        self._poll_at = now + POLL_SECONDS
        job: Job[Seen] = Job(None, None)
        try:
            connection = self._open()
            self._file.check("watch")
            if self._has_foreign_commits(connection):
                self._is_due = self._sight.has_small
                self._large_due = deque(self._sight.large)
            job.result = Seen([*self._look(connection, now), *self._look_at_large(connection, now)])
            self._rest()
        except Exception as error:  # noqa: BLE001 - it ends the watches, not the thread
            job.error = self._as_watch_error(error)
            self._poll_at = now + _REST_SECONDS_AFTER_ERROR
            self.close()
            return job
        return job if job.result.moves else None

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._file.close(connection)

    def _as_watch_error(self, error: Exception) -> Exception:
        if not isinstance(error, apsw.Error):
            return error
        failure = failure_of(error, self._connection)
        if failure is not None:
            self.close()
        return mapped_error(failure or error, "watch", self._file.path)

    def _open(self) -> apsw.Connection:
        if self._connection is None:
            self._connection = self._file.connect()
            self._data_version = -1
        return self._connection

    def _serve_one(self, request: Enter | Leave | Moved) -> Seen:
        if isinstance(request, Leave):
            self._sight.leave(request.watch.targets)
            return Seen(())
        connection = self._open()
        if isinstance(request, Moved):
            return Seen(at_one_moment(connection, lambda it: self._sight.look_again(it, request.paths)))
        self._poll_at = 0.0
        return Seen(*at_one_moment(connection, lambda it: self._sight.enter(it, request.watch.targets)))

    def _has_foreign_commits(self, connection: apsw.Connection) -> bool:
        """Whether other processes have committed since the last call, or may have.

        The writer notices this whenever it commits, so the file is checked only while this engine commits nothing.
        """
        commits, self._commits = self._commits, self._writer.commits
        others, self._others = self._others, self._writer.others
        if others != self._others or commits != self._commits:
            return others != self._others
        version: Any = connection.execute(_VERSION).get
        if version == self._data_version:
            return False
        self._data_version = version
        token: Any = connection.execute(_TOKEN).get
        return not isinstance(token, int) or not self._writer.owns(token)

    def _rest(self) -> None:
        """If every look is due already, wait for the first pause to end: until then, further commits change nothing."""
        ends = [self._look_at] * self._is_due + [self._look_at_large_at] * bool(self._large_due)
        is_all_due = self._is_due == self._sight.has_small and len(self._large_due) == len(self._sight.large)
        if ends and is_all_due:
            self._poll_at = max(self._poll_at, min(ends))

    def _look(self, connection: apsw.Connection, now: float) -> list[Move]:
        if not self._is_due or now < self._look_at:
            return []
        began = time.thread_time()
        moves = at_one_moment(connection, self._sight.look_at_all_but_large)
        self._is_due = False
        self._look_at = time.monotonic() + REST * (time.thread_time() - began)
        return moves

    def _look_at_large(self, connection: apsw.Connection, now: float) -> list[Move]:
        """Look at one large collection; the next one is due after the pause for this one."""
        if not self._large_due or now < self._look_at_large_at:
            return []
        began = time.thread_time()
        collection = self._large_due[0]
        moves = at_one_moment(connection, lambda it: self._sight.look_at(it, collection))
        self._large_due.popleft()
        self._look_at_large_at = time.monotonic() + REST * (time.thread_time() - began)
        return moves
