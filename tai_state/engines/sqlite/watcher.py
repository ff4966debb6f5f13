"""Watching the file: one look serves all watches of an engine.

What this process commits, it names, and only that is looked at. What others commit is noticed by a number that SQLite
counts up, and found by looking at all that is watched, for whatever moved since the look before. How often that may
be depends on what it costs: looking takes no more than a small part of a core, however much is watched.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import apsw
import msgspec

from tai_state.engines.api import split
from tai_state.engines.sqlite.errors import mapped
from tai_state.engines.sqlite.reader import at_one_moment
from tai_state.engines.sqlite.worker import Job
from tai_state.engines.sqlite.writer import Writer
from tai_state.engines.watching import Watch, is_collection

POLL_SECONDS = 0.02
"""How often it is looked whether another process has committed, while there are watches."""

REST = 50
"""After a look at all that is watched, the next one waits for so many times the processor's time that it took."""

_REST_SECONDS_AFTER_ERROR = 1.0

_encode = msgspec.json.Encoder().encode

_REVISION = "SELECT revision FROM documents WHERE collection = ? AND id = ?"
_MOVED_SINCE = "SELECT id, revision FROM documents WHERE collection = ? AND revision > ?"
_COUNT = "SELECT count(*) FROM documents WHERE collection = ?"
_IDS = "SELECT id FROM documents WHERE collection = ?"
_MOVED_OF = """
SELECT watched.value ->> 0, watched.value ->> 1, documents.revision FROM json_each(?) AS watched
LEFT JOIN documents ON documents.collection = watched.value ->> 0 AND documents.id = watched.value ->> 1
WHERE documents.revision IS NOT watched.value ->> 2
"""
_TOKEN = "SELECT token FROM counter"  # noqa: S105 - the counter's

Move: TypeAlias = tuple[str, str, int | None]
"""A target, one of its documents, and the revision at which that stands now; None: it is absent."""


class Enter(msgspec.Struct, frozen=True):
    """Watch these targets, too, for this watch."""

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
    """Looks in a thread of its own, with what it saw last of all that is watched.

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
        self._users: Counter[str] = Counter()
        self._documents: dict[str, int | None] = {}
        self._collections: dict[str, _Collection] = {}
        self._data_version = -1
        self._others = -1
        self._is_due = False
        self._poll_at = self._look_at = 0.0

    def pulse(self) -> float | None:
        """Seconds until :meth:`idle` has something to do; None: there is nothing to watch."""
        return max(0.0, self._poll_at - time.monotonic()) if self._users else None

    def serve(self, jobs: Sequence[Job[Seen]]) -> None:
        """Enter, leave, and look at what this process has written."""
        for job in jobs:
            try:
                job.result = self._served(job.request)
            except Exception as error:  # noqa: BLE001 - each is answered with its own error
                job.error = self._said(error)

    def idle(self) -> Job[Seen] | None:
        """Look at all that is watched, where others have committed and it is time."""
        now = time.monotonic()
        if not self._users or now < self._poll_at:
            return None
        self._poll_at = now + POLL_SECONDS
        job: Job[Seen] = Job(None, None)
        try:
            connection = self._open()
            self._is_due = self._has_foreign_commits(connection) or self._is_due
            if not self._is_due or now < self._look_at:
                return None
            began = time.thread_time()
            job.result = Seen(at_one_moment(connection, self._look_at_all))
            self._is_due = False
            self._look_at = time.monotonic() + REST * (time.thread_time() - began)
        except Exception as error:  # noqa: BLE001 - it ends the watches, and not the thread
            job.error = self._said(error)
            self._is_due = True
            self._look_at = now + _REST_SECONDS_AFTER_ERROR
            self.close()
        return job

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
            self._leave(request.watch.targets)
            return Seen(())
        connection = self._open()
        if isinstance(request, Moved):
            return Seen(at_one_moment(connection, lambda it: self._look_again(it, request.paths)))
        if not self._users:  # since nobody looked, nothing is known of others
            self._has_foreign_commits(connection)
            self._is_due = False
        return at_one_moment(connection, lambda it: self._enter(it, request.watch.targets))

    def _has_foreign_commits(self, connection: apsw.Connection) -> bool:
        """Whether others than this engine have committed since the last call, or may have."""
        version: Any = connection.pragma("data_version")
        if version == self._data_version:
            return False
        self._data_version = version
        token: Any = connection.execute(_TOKEN).get
        others, self._others = self._others, self._writer.others
        return others != self._others or not self._writer.owns(token)

    def _enter(self, connection: apsw.Connection, targets: Sequence[str]) -> Seen:
        moves: list[Move] = []
        present: list[Move] = []
        for target in targets:
            if is_collection(target):
                collection = self._collections.setdefault(target, _Collection(target))
                found = collection.look(connection)
                moves += found if target in self._users else ()
                present += collection.present()
            else:
                revision: Any = connection.execute(_REVISION, split(target)).get
                if self._documents.setdefault(target, revision) != revision:
                    moves.append((target, target, revision))
                self._documents[target] = revision
                present.append((target, target, revision))
        self._users.update(targets)
        return Seen(moves, present)

    def _leave(self, targets: Iterable[str]) -> None:
        for target in targets:
            self._users[target] -= 1
            if self._users[target] == 0:
                del self._users[target]
                self._collections.pop(target, None)
                self._documents.pop(target, None)

    def _look_again(self, connection: apsw.Connection, paths: Iterable[tuple[str, str]]) -> list[Move]:
        """At these documents."""
        moves: list[Move] = []
        for target, path in paths:
            revision: Any = connection.execute(_REVISION, split(path)).get
            if target in self._collections:
                is_new = self._collections[target].note(split(path)[1], revision)
            else:
                is_new = target in self._documents and self._documents[target] != revision
                if is_new:
                    self._documents[target] = revision
            if is_new:
                moves.append((target, path, revision))
        return moves

    def _look_at_all(self, connection: apsw.Connection) -> list[Move]:
        moves = [move for collection in self._collections.values() for move in collection.look(connection)]
        watched = _encode([(*split(path), revision) for path, revision in self._documents.items()]).decode()
        moved: list[Any] = connection.execute(_MOVED_OF, (watched,)).fetchall()
        for collection, document_id, revision in moved:
            path = f"{collection}/{document_id}"
            self._documents[path] = revision
            moves.append((path, path, revision))
        return moves


class _Collection:
    """The revisions that were seen last in a collection, by the ids of the documents."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._newest = 0
        self._revisions: dict[str, int] = {}

    def present(self) -> list[Move]:
        """All its documents."""
        return [(self._path, f"{self._path}/{each}", revision) for each, revision in self._revisions.items()]

    def note(self, document_id: str, revision: int | None) -> bool:
        """One of its documents was looked at; whether that is news.

        What is newer than all that was seen of the collection as a whole stays so: others may stand in between.
        """
        if self._revisions.get(document_id) == revision:
            return False
        if revision is None:
            del self._revisions[document_id]
        else:
            self._revisions[document_id] = revision
        return True

    def look(self, connection: apsw.Connection) -> list[Move]:
        """At what has moved in it: whatever becomes visible later has a greater revision than all before."""
        moved: list[Any] = connection.execute(_MOVED_SINCE, (self._path, self._newest)).fetchall()
        found: list[tuple[str, int | None]] = [each for each in moved if self.note(*each)]
        self._newest = max([revision for _, revision in moved], default=self._newest)
        if connection.execute(_COUNT, (self._path,)).get != len(self._revisions):
            there = {row[0] for row in connection.execute(_IDS, (self._path,))}
            gone = self._revisions.keys() - there
            found += [(each, None) for each in gone if self.note(each, None)]
        return [(self._path, f"{self._path}/{document_id}", revision) for document_id, revision in found]
