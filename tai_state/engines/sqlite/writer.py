"""Committing: the commits that wait share one transaction, and so one fsync.

Nobody is answered, not even with a refusal, before COMMIT has returned. An error inside the shared transaction
can roll all of it back, savepoints or not: its members then run again one by one. An error from COMMIT itself
can leave the transaction in the log all the same: the file is opened anew, looked at, and written once, which
makes the answer final (a stray log entry behind that write can never come back).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import apsw
import msgspec

from tai_state.engines.api import Committed, Delete, Fields, Put, Require, Write, holds
from tai_state.engines.sqlite.errors import mapped
from tai_state.engines.sqlite.worker import Job
from tai_state.errors import CommitRefused, TaiStateError
from tai_state.values.times import Clock

_encode = msgspec.json.Encoder().encode

_REVISION = "SELECT revision FROM documents WHERE collection = ? AND id = ?"
_PUT = """
INSERT INTO documents (collection, id, revision, created_us, updated_us, fields, timestamp)
VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (collection, id) DO UPDATE SET
    revision = excluded.revision, updated_us = excluded.updated_us, fields = excluded.fields,
    timestamp = excluded.timestamp
"""
_COUNTER = "SELECT revision, token FROM counter"
_COUNT = "UPDATE counter SET revision = ?, token = ?"
_DELETE = "DELETE FROM documents WHERE collection = ? AND id = ?"


class Prepared(msgspec.Struct, frozen=True):
    """One write, made ready in the caller's task.

    Attributes:
        path: the document's.
        collection: the path's part before the id.
        id: the path's last part.
        require: what the write requires.
        text: the fields to put; None where nothing is put.
        size: of the text, in bytes.
        timestamp: the field of this name of an event, kept in an indexed column of its own.
        deletes: the document goes.
    """

    path: str
    collection: str
    id: str
    require: Require
    text: str | None
    size: int
    timestamp: str | None
    deletes: bool


def is_by_time(collection: str) -> bool:
    """Whether the documents of a collection are indexed by their field ``timestamp``."""
    return collection.endswith("/events")


def _timestamp(fields: Fields | msgspec.Struct) -> Any:
    return fields.get("timestamp") if isinstance(fields, dict) else getattr(fields, "timestamp", None)


def prepare(write: Write) -> Prepared:
    """Encode a write and split its path."""
    collection, _, document_id = write.path.rpartition("/")
    if isinstance(write, Put):
        encoded = _encode(write.fields)
        timestamp = _timestamp(write.fields) if is_by_time(collection) else None
        return Prepared(
            write.path, collection, document_id, write.require, encoded.decode(), len(encoded), timestamp, deletes=False
        )
    return Prepared(write.path, collection, document_id, write.require, None, 0, None, isinstance(write, Delete))


class _Transaction(msgspec.Struct, frozen=True):
    """What a transaction did, were it committed.

    Attributes:
        outcomes: of its jobs, in order.
        before: the counter's revision and token that it found.
        token: that it left; unlike any other.
    """

    outcomes: list[Committed | BaseException]
    before: tuple[int, int]
    token: int


class Writer:
    """Serves commits in the writer's thread.

    Args:
        path: of the file.
        connect: opens it.
        clock: gives the time of each commit.
    """

    def __init__(self, path: str, connect: Callable[[], apsw.Connection], clock: Clock) -> None:
        self._path = path
        self._connect = connect
        self._clock = clock
        self._connection: apsw.Connection | None = None
        # Each transaction leaves another token in the file; the first is drawn, so that no two processes share one.
        self._token = int.from_bytes(os.urandom(7))

    def serve(self, jobs: Sequence[Job[Committed]]) -> None:
        """Commit these jobs together; where that fails, one by one."""
        try:
            connection = self._open()
            connection.execute("BEGIN IMMEDIATE")
        except apsw.Error as error:
            self._answer(jobs, error)
            return
        try:
            transaction = self._apply(connection, jobs)
        except apsw.Error as error:
            self._roll_back(connection)
            self._not_applied(jobs, error)
            return
        except BaseException:
            self._roll_back(connection)
            raise
        try:
            connection.execute("COMMIT")
        except apsw.Error as error:
            applied = self._is_applied(transaction)
            if not applied:
                self._not_applied(jobs, error, unknown=applied is None)
                return
        for job, outcome in zip(jobs, transaction.outcomes, strict=True):
            if isinstance(outcome, Committed):
                job.result = outcome
            else:
                job.error = outcome

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> apsw.Connection:
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _apply(self, connection: apsw.Connection, jobs: Sequence[Job[Committed]]) -> _Transaction:
        execute = connection.execute
        before: Any = execute(_COUNTER).get
        revision: int = before[0]
        now = self._clock.now_us()
        outcomes: list[Committed | BaseException] = []
        for job in jobs:
            writes: Sequence[Prepared] = job.request
            refused = _refused(connection, writes)
            if refused is not None:
                outcomes.append(CommitRefused(refused.path))
                continue
            revision += 1
            puts = [
                (write.collection, write.id, revision, now, now, write.text, write.timestamp)
                for write in writes
                if write.text is not None
            ]
            if puts:
                connection.executemany(_PUT, puts)
            for write in writes:
                if write.deletes:
                    execute(_DELETE, (write.collection, write.id))
            outcomes.append(Committed(revision, now))
        self._token += 1
        if revision != before[0]:
            execute(_COUNT, (revision, self._token))
        return _Transaction(outcomes, before, self._token)

    def _roll_back(self, connection: apsw.Connection) -> None:
        """End a failed transaction; SQLite may have ended it already."""
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except apsw.Error:
            self._abandon()

    def _abandon(self) -> None:
        """Give a broken connection up; the next commit opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            # Nothing is lost with it: what it had not committed was acknowledged to nobody.
            with suppress(apsw.Error):
                connection.close(True)

    def _not_applied(self, jobs: Sequence[Job[Committed]], error: apsw.Error, *, unknown: bool = False) -> None:
        """Answer for a transaction that failed. A member alone may still succeed, so several run one by one."""
        if len(jobs) == 1 or unknown:
            self._answer(jobs, error, unknown=unknown)
        else:
            for job in jobs:
                self.serve([job])

    def _is_applied(self, transaction: _Transaction) -> bool | None:
        """What became of a transaction whose COMMIT failed, by looking at the file anew; None: it is not known.

        Its token there: it was applied. The counter as it was before: it was lost, refusals that rested on it
        included. Anything else: others have committed since, and may have covered it.
        """
        self._abandon()
        found: Any = None
        try:
            connection = self._open()
            connection.execute("BEGIN IMMEDIATE")
            found = connection.execute(_COUNTER).get
            self._token += 1
            connection.execute(_COUNT, (found[0] + 1, self._token))
            connection.execute("COMMIT")
        except (apsw.Error, TaiStateError):
            self._abandon()
            return None
        if found[1] == transaction.token:
            return True
        return False if found == transaction.before else None

    def _answer(self, jobs: Sequence[Job[Committed]], error: apsw.Error, *, unknown: bool = False) -> None:
        for job in jobs:
            job.error = mapped(error, "commit", self._path, unknown=unknown)


def _refused(connection: apsw.Connection, writes: Sequence[Prepared]) -> Prepared | None:
    """The first write whose requirement does not hold."""
    for write in writes:
        if not holds(write.require, connection.execute(_REVISION, (write.collection, write.id)).get):
            return write
    return None
