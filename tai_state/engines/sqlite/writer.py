"""Committing: waiting commits share one transaction, and so one fsync.

No caller gets an answer, not even a refusal, before COMMIT has returned. An error inside the shared transaction can
roll all of it back, with or without savepoints; its commits then run again one by one. So they do if COMMIT finds the
disk full. After any other error from COMMIT, the transaction may still be in the log. So the file is opened again,
looked at, and written once, which makes the answer final: a stray log entry behind that write can never come back.

Most commits are accepted. So one statement both checks and writes, without a look before it. If a commit is refused
after a part of it is written, the transaction is rolled back and runs again, this time with a look before each write.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, TypeAlias

import apsw
import msgspec

from tai_state.engines.api import ABSENT, ANYTHING, At, Committed, holds
from tai_state.engines.sqlite.checksums import of_row, places, stamp
from tai_state.engines.sqlite.disk import failure_of
from tai_state.engines.sqlite.errors import mapped_error
from tai_state.engines.sqlite.openfile import OpenFile
from tai_state.engines.sqlite.preparing import Prepared
from tai_state.engines.sqlite.worker import Job
from tai_state.errors import CommitRefused, CorruptDocument, StoreUnusable, TaiStateError
from tai_state.values.times import WallClock

RESERVED = 1_000
"""How many revisions a process reserves at a time; this saves most commits the write of a page.

If the clock's microseconds are ahead, they start there. So after an older copy of the file is restored under a running
process, no revision is used again that was used after the copy was made.
"""

_REVISION = "SELECT revision FROM documents WHERE collection = ? AND id = ?"
_INSERT = "INSERT INTO documents (collection,id,revision,updated_us,checksum,fields,timestamp) VALUES (?,?,?,?,?,?,?)"
_PUT_NEW: Final = f"{_INSERT} ON CONFLICT DO NOTHING"
_SET = "UPDATE documents SET revision=?,updated_us=?,checksum=?,fields=?"
_WHERE_AT = "WHERE collection=? AND id=? AND revision=?"
# The column timestamp is NULL outside of collections of events. What does not set it does not open its index either.
_PUT_AT: Final = f"{_SET} {_WHERE_AT}"
_PUT_EVENT_AT: Final = f"{_SET},timestamp=? {_WHERE_AT}"
_PUT: Final = f"""{_INSERT} ON CONFLICT (collection,id) DO UPDATE SET
revision=excluded.revision,updated_us=excluded.updated_us,checksum=excluded.checksum,
fields=excluded.fields,timestamp=excluded.timestamp"""
_COUNTER = "SELECT revision, token FROM counter WHERE id = 1"
_COUNT = "UPDATE counter SET revision = ?, token = ?"
_DELETE = "DELETE FROM documents WHERE collection = ? AND id = ?"
_DELETE_NAMELESS = "DELETE FROM documents WHERE collection = ? AND id = CAST(? AS TEXT) AND revision = ?"
_UNWRITTEN: Final = frozenset({apsw.SQLITE_FULL, apsw.SQLITE_IOERR_WRITE})
"""What a COMMIT that cannot write its end ends with."""


Counter: TypeAlias = tuple[int, int]
"""The content of the counter: the last reserved revision, and the token of the transaction that reserved it."""


class _Transaction(msgspec.Struct, frozen=True):
    """What a transaction has done once it is committed.

    Attributes:
        outcomes: the outcomes of its jobs, in order.
        before: the counter before it.
        after: the counter after it.
        revision: the last revision that it used.
        witness: a document that its last applied commit put; None if that put none.
    """

    outcomes: list[Committed | BaseException]
    before: Counter
    after: Counter
    revision: int
    witness: Prepared | None


class Writer:
    """Serves commits in the writer's thread.

    Args:
        file: the file.
        clock: the clock for the time of each commit.

    Attributes:
        commits: how many transactions it has committed.
        others: how many transactions found that another process may have committed since the previous one.
    """

    def __init__(self, file: OpenFile, clock: WallClock) -> None:
        self._file = file
        self._clock = clock
        self._connection: apsw.Connection | None = None
        # Each reservation writes a new token to the file. The first is random, so that no two processes share one.
        self._token = self._first_token = int.from_bytes(os.urandom(7))
        self._reserved: Counter | None = None
        self._revision = 0
        self._data_version = 0
        self.commits: int = 0
        self.others: int = 0

    def owns(self, token: int) -> bool:
        """Whether a token in the counter was written by this writer; any thread may ask."""
        return self._first_token < token <= self._token

    def serve(self, jobs: Sequence[Job[Committed]]) -> None:
        """Commit these jobs together or, if that fails, one by one."""
        try:
            connection = self._open()
            connection.execute("BEGIN IMMEDIATE")
        except apsw.Error as error:
            self._answer(jobs, self._true(error))
            return
        reserved, self._reserved = self._reserved, None  # set again once the transaction is committed
        transaction = self._applied(connection, jobs, reserved)
        if transaction is None:
            return
        try:
            connection.execute("COMMIT")
        except apsw.Error as error:
            true = self._true(error)
            if isinstance(true, apsw.FullError) and getattr(error, "extendedresult", 0) in _UNWRITTEN:
                # The end of the transaction found no room in the log. Without its end, it does not count.
                self._roll_back(connection)
                applied: bool | None = False
            else:
                applied = self._is_applied(transaction)
            if not applied:
                self._not_applied(jobs, true, unknown=applied is None)
                return
        else:
            self._reserved, self._data_version = transaction.after, connection.data_version()
        self._revision = transaction.revision
        self.commits += 1
        # Only now: what is still at its path after COMMIT is found by everybody who opens the path.
        try:
            self._file.check("commit")
        except StoreUnusable as error:
            self._answer(jobs, error)
            return
        for job, outcome in zip(jobs, transaction.outcomes, strict=True):
            if isinstance(outcome, Committed):
                job.result = outcome
            else:
                job.error = outcome

    def _applied(
        self, connection: apsw.Connection, jobs: Sequence[Job[Committed]], reserved: Counter | None
    ) -> _Transaction | None:
        """Apply these jobs, up to the COMMIT. None: that failed, and the jobs have their answers already."""
        try:
            try:
                return self._apply(connection, jobs, reserved, look_first=False)
            except _HalfWrittenError:
                connection.execute("ROLLBACK")
                connection.execute("BEGIN IMMEDIATE")
                return self._apply(connection, jobs, reserved, look_first=True)
        except _OddJobError as odd:
            self._roll_back(connection)
            odd.job.error = odd.__cause__
            others = [job for job in jobs if job is not odd.job]
            if others:
                self.serve(others)
        except Exception as error:  # noqa: BLE001 - the error may concern only one of the jobs
            self._roll_back(connection)
            self._not_applied(jobs, self._true(error))
        return None

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._file.close(self._connection)
            self._connection = None

    def _open(self) -> apsw.Connection:
        if self._file.is_lost:
            raise self._file.lost("commit")
        if self._connection is None:
            self._connection = self._file.connect()
        return self._connection

    def _apply(
        self, connection: apsw.Connection, jobs: Sequence[Job[Committed]], reserved: Counter | None, *, look_first: bool
    ) -> _Transaction:
        cursor = connection.cursor()
        before: Any = reserved
        if reserved is None or connection.data_version() != self._data_version:  # else no other process has committed
            before = _counter(cursor, self._file.path)
            if before != reserved:
                self.others += 1
        now = self._clock.now_us()
        # While the counter is as this process left it, no other process has used a revision above the last one here.
        revision: int = self._revision if before == reserved else max(before[0], now)
        last = before[0] if before == reserved else 0
        first = revision + 1
        last_writes: Sequence[Prepared] = ()
        outcomes: list[Committed | BaseException] = []
        for job in jobs:
            writes: Sequence[Prepared] = job.request
            try:
                refused = next((write for write in writes if not _holds(cursor, write)), None) if look_first else None
                refused = refused or _write(cursor, writes, revision + 1, now)
            except (apsw.Error, _HalfWrittenError):
                raise
            except Exception as error:
                raise _OddJobError(job) from error
            if refused is not None:
                outcomes.append(CommitRefused(refused.path))
                continue
            revision += 1
            last_writes = writes
            outcomes.append(Committed(revision, now))
        witness = next((write for write in last_writes if write.text is not None), None)
        after: Counter = before
        if revision >= first and (revision > last or witness is None):
            self._token += 1
            after = (revision + RESERVED, self._token)
            cursor.execute(_COUNT, after)
        return _Transaction(outcomes, before, after, revision, witness)

    def _true(self, error: Exception) -> Exception:
        """The error to tell. A connection whose disk failed is given up."""
        failure = failure_of(error, self._connection)
        if failure is None:
            return error
        self._abandon()
        return failure

    def _roll_back(self, connection: apsw.Connection) -> None:
        """End a failed transaction; SQLite may have ended it already."""
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except apsw.Error:
            self._abandon()

    def _abandon(self) -> None:
        """Give up a broken connection; the next commit opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            # Nothing is lost: what it had not committed was not acknowledged to any caller, and the log stays.
            with suppress(apsw.Error):
                self._file.abandon(connection)

    def _not_applied(self, jobs: Sequence[Job[Committed]], error: Exception, *, unknown: bool = False) -> None:
        """Answer the jobs of a failed transaction. A job alone may still succeed, so several run again one by one."""
        if len(jobs) == 1 or unknown:
            self._answer(jobs, error, unknown=unknown)
        else:
            for job in jobs:
                self.serve([job])

    def _is_applied(self, transaction: _Transaction) -> bool | None:
        """Whether a transaction was applied although its COMMIT failed, by a new look at the file; None: unknown.

        If its token is in the file or, if it wrote none, its document, it was applied. Otherwise, if the counter is as
        it was before, it was lost, including the refusals that were based on it. In all other cases, other processes
        have committed since, and may have overwritten its traces.
        """
        self._abandon()
        found: Any = None
        witness = transaction.witness
        stands = False
        try:
            connection = self._open()
            connection.execute("BEGIN IMMEDIATE")
            found = _counter(connection.cursor(), self._file.path)
            if witness is not None:
                there = connection.execute(_REVISION, (witness.collection, witness.id)).get
                stands = there == transaction.revision
            self._token += 1
            connection.execute(_COUNT, (max(found[0], transaction.revision) + 1, self._token))
            connection.execute("COMMIT")
        except (apsw.Error, TaiStateError):
            self._abandon()
            return None
        if stands if transaction.after == transaction.before else found == transaction.after:
            return True
        return False if found == transaction.before else None

    def _answer(self, jobs: Sequence[Job[Committed]], error: Exception, *, unknown: bool = False) -> None:
        for job in jobs:
            if isinstance(error, apsw.Error):
                job.error = mapped_error(error, "commit", self._file.path, unknown=unknown)
            else:
                job.error = error


def _counter(cursor: apsw.Cursor, path: str) -> Counter:
    """The content of the counter.

    Raises:
        CorruptDocument: it is not there, or holds no numbers.
    """
    rows: list[Any] = cursor.execute(_COUNTER).fetchall()
    for revision, token in rows:
        if isinstance(revision, int) and isinstance(token, int):
            return revision, token
    raise CorruptDocument(path, "the table counter is damaged: restore a backup")


class _HalfWrittenError(Exception):
    """A commit is refused at a write after its first one."""


class _OddJobError(Exception):
    """A commit holds a value that SQLite's driver does not accept at all."""

    def __init__(self, job: Job[Committed]) -> None:
        super().__init__()
        self.job = job


def _write(cursor: apsw.Cursor, writes: Sequence[Prepared], revision: int, now: int) -> Prepared | None:
    """Apply the writes of one commit. Returns the first write if that one is refused, so that nothing is written.

    Raises:
        _HalfWrittenError: a later write is refused.
    """
    stamped = stamp(revision, now)
    for write in writes:
        if not _is_written(cursor, write, revision, now, stamped):
            if write is not writes[0]:
                raise _HalfWrittenError
            return write
    return None


def _is_written(cursor: apsw.Cursor, write: Prepared, revision: int, now: int, stamped: bytes) -> bool:
    """Apply a write if its requirement holds; returns whether it does."""
    require = write.require
    if write.text is None:
        if not _holds(cursor, write):
            return write.deletes and _is_nameless_deleted(cursor, write)
        if write.deletes:
            cursor.execute(_DELETE, (write.collection, write.id))
        return True
    checksum = of_row(stamped, write.checksum)
    if isinstance(require, At):
        collection, name, at, time = write.collection, write.id, require.revision, write.timestamp
        if time is None:
            cursor.execute(_PUT_AT, (revision, now, checksum, write.text, collection, name, at))
        else:
            cursor.execute(_PUT_EVENT_AT, (revision, now, checksum, write.text, time, collection, name, at))
        return cursor.connection.changes() == 1
    put = (write.collection, write.id, revision, now, checksum, write.text, write.timestamp)
    if require is ABSENT:
        cursor.execute(_PUT_NEW, put)
        return cursor.connection.changes() == 1
    if not _holds(cursor, write):
        return False
    cursor.execute(_PUT, put)
    return True


def _is_nameless_deleted(cursor: apsw.Cursor, write: Prepared) -> bool:
    """Delete a document to which its path does not lead, because its name is damaged; returns whether there was one."""
    require = write.require
    if isinstance(require, At):
        for place in places(write.path):
            cursor.execute(_DELETE_NAMELESS, (*place, require.revision))
            if cursor.connection.changes():
                return True
    return False


def _holds(cursor: apsw.Cursor, write: Prepared) -> bool:
    """Whether the requirement of a write holds, by a look at the file."""
    place = (write.collection, write.id)
    return write.require is ANYTHING or holds(write.require, cursor.execute(_REVISION, place).get)
