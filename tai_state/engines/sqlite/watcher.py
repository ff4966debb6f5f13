"""Watching the file: one look serves all watches of an engine.

What this process commits, it names, and only that is looked at. What others commit is noticed by a number that SQLite
counts up, and found by looking at all that is watched, for whatever moved since the look before. How often that may
be depends on what it costs: looking takes no more than a small part of a core, however much is watched.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import apsw
import msgspec

from tai_state.engines.sqlite.errors import mapped
from tai_state.engines.sqlite.reader import at_one_moment
from tai_state.engines.sqlite.seeing import Move, Sight
from tai_state.engines.sqlite.worker import Job
from tai_state.engines.sqlite.writer import Writer
from tai_state.engines.watching import Watch

POLL_SECONDS: Final = 0.02
"""How often it is looked whether another process has committed, while there are watches."""

REST: Final = 250
"""After a look, the next one of its kind waits for so many times the processor's time that it took."""

_REST_SECONDS_AFTER_ERROR: Final = 1.0
_VERSION: Final = "PRAGMA data_version"
_TOKEN: Final = "SELECT token FROM counter"  # noqa: S105 - the counter's


class Enter(msgspec.Struct, frozen=True):
    """Watch the targets of this watch, too."""

    watch: Watch


class Leave(msgspec.Struct, frozen=True):
    """The targets of this watch are no longer watched for it."""

    watch: Watch


class Moved(msgspec.Struct, frozen=True):
    """This process has written these: targets, and a document of each."""

    paths: Sequence[tuple[str, str]]


class Seen(msgspec.Struct, frozen=True):
    """What a look has found.

    Attributes:
        moves: what is no longer as it was seen before.
        present: all documents of the targets of the watch that enters.
    """

    moves: Sequence[Move]
    present: Sequence[Move] = ()


class Watcher:
    """Looks, in a thread of its own.

    Args:
        path: of the file.
        connect: opens it.
        writer: of the same engine; says which commits are its own.
    """

    def __init__(self, path: str, connect: Callable[[], apsw.Connection], writer: Writer) -> None:
        self._path = path
        self._connect = connect
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
        """Enter, leave, and look at what this process has written."""
        for job in jobs:
            try:
                job.result = self._served(job.request)
            except Exception as error:  # noqa: BLE001 - each is answered with its own error
                job.error = self._said(error)

    def idle(self) -> Job[Seen] | None:
        """Look at what is watched, where others have committed and it is time."""
        now = time.monotonic()
        if not self._sight or now < self._poll_at:
            return None
        self._poll_at = now + POLL_SECONDS
        job: Job[Seen] = Job(None, None)
        try:
            connection = self._open()
            if self._has_foreign_commits(connection):
                self._is_due = self._sight.has_small
                self._large_due = deque(self._sight.large)
            job.result = Seen([*self._look(connection, now), *self._look_at_large(connection, now)])
            self._rest()
        except Exception as error:  # noqa: BLE001 - it ends the watches, and not the thread
            job.error = self._said(error)
            self._poll_at = now + _REST_SECONDS_AFTER_ERROR
            self.close()
            return job
        return job if job.result.moves else None

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _said(self, error: Exception) -> Exception:
        return mapped(error, "watch", self._path) if isinstance(error, apsw.Error) else error

    def _open(self) -> apsw.Connection:
        if self._connection is None:
            self._connection = self._connect()
            self._data_version = -1
        return self._connection

    def _served(self, request: Enter | Leave | Moved) -> Seen:
        if isinstance(request, Leave):
            self._sight.leave(request.watch.targets)
            return Seen(())
        connection = self._open()
        if isinstance(request, Moved):
            return Seen(at_one_moment(connection, lambda it: self._sight.look_again(it, request.paths)))
        self._poll_at = 0.0
        return Seen(*at_one_moment(connection, lambda it: self._sight.enter(it, request.watch.targets)))

    def _has_foreign_commits(self, connection: apsw.Connection) -> bool:
        """Whether others than this engine have committed since the last call, or may have.

        The writer notices it as it commits, so that the file is looked at only while this engine is quiet.
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
        return not self._writer.owns(token)

    def _rest(self) -> None:
        """Where all that is watched is due already, there is nothing to notice until one of the looks has rested."""
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
        """At one large collection: the next one has its turn when that has been rested from."""
        if not self._large_due or now < self._look_at_large_at:
            return []
        began = time.thread_time()
        collection = self._large_due[0]
        moves = at_one_moment(connection, lambda it: self._sight.look_at(it, collection))
        self._large_due.popleft()
        self._look_at_large_at = time.monotonic() + REST * (time.thread_time() - began)
        return moves
