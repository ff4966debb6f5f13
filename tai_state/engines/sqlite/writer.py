"""Committing: the commits that wait share one transaction, and so one fsync.

Nobody is answered, not even with a refusal, before COMMIT has returned. An error inside the shared transaction
can roll all of it back, savepoints or not: its members then run again one by one. An error from COMMIT itself
can leave the transaction in the log all the same: the file is opened anew, looked at, and written once, which
makes the answer final (a stray log entry behind that write can never come back).

Most commits fit. So a statement checks and writes at once, and nothing is looked up before. Where a commit turns out
refused when some of it is written already, the transaction is rolled back, and runs again looking first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeAlias

import apsw
import msgspec

from tai_state.engines.api import ABSENT, ANYTHING, At, Committed, holds
from tai_state.engines.sqlite.checksums import of_row, stamp
from tai_state.engines.sqlite.errors import mapped
from tai_state.engines.sqlite.preparing import Prepared
from tai_state.engines.sqlite.schema import leave_log
from tai_state.engines.sqlite.worker import Job
from tai_state.errors import CommitRefused, TaiStateError
from tai_state.values.times import WallClock

RESERVED = 1_000
"""Revisions that a process reserves at a time: so most commits write one page less.

They begin at the clock's microseconds where those are ahead, so that a file which is put back under a running process
gives no revision anew that was given after the copy was made.
"""

_REVISION = "SELECT revision FROM documents WHERE collection = ? AND id = ?"
_INSERT = "INSERT INTO documents (collection,id,revision,updated_us,checksum,fields,timestamp) VALUES (?,?,?,?,?,?,?)"
_PUT_NEW: Final = f"{_INSERT} ON CONFLICT DO NOTHING"
_PUT_AT: Final = """
UPDATE documents SET revision=?,updated_us=?,checksum=?,fields=?,timestamp=?
WHERE collection=? AND id=? AND revision=?
""".strip()
_PUT: Final = f"""{_INSERT} ON CONFLICT (collection,id) DO UPDATE SET
revision=excluded.revision,updated_us=excluded.updated_us,checksum=excluded.checksum,
fields=excluded.fields,timestamp=excluded.timestamp"""
_COUNTER = "SELECT revision, token FROM counter"
_COUNT = "UPDATE counter SET revision = ?, token = ?"
_DELETE = "DELETE FROM documents WHERE collection = ? AND id = ?"


Counter: TypeAlias = tuple[int, int]
"""What the counter holds: the last revision reserved, and the token of the transaction that reserved it."""


class _Transaction(msgspec.Struct, frozen=True):
    """What a transaction did, were it committed.

    Attributes:
        outcomes: of its jobs, in order.
        before: the counter that it found.
        after: the counter that it left.
        revision: the last that it gave.
        witness: a document that its last job put.
    """

    outcomes: list[Committed | BaseException]
    before: Counter
    after: Counter
    revision: int
    witness: Prepared | None


class Writer:
    """Serves commits in the writer's thread.

    Args:
        path: of the file.
        connect: opens it.
        clock: gives the time of each commit.

    Attributes:
        commits: how many transactions it has committed.
        others: how many of them found that others may have committed since the one before.
    """

    def __init__(self, path: str, connect: Callable[[], apsw.Connection], clock: WallClock) -> None:
        self._path = path
        self._connect = connect
        self._clock = clock
        self._connection: apsw.Connection | None = None
        # Each reservation leaves another token in the file; the first is drawn, so that no two processes share one.
        self._token = self._first_token = int.from_bytes(os.urandom(7))
        self._reserved: Counter | None = None
        self._revision = 0
        self._data_version = 0
        self.commits: int = 0
        self.others: int = 0

    def owns(self, token: int) -> bool:
        """Whether a token in the counter is of this writer; for any thread."""
        return self._first_token < token <= self._token

    def serve(self, jobs: Sequence[Job[Committed]]) -> None:
        """Commit these jobs together; where that fails, one by one."""
        try:
            connection = self._open()
            connection.execute("BEGIN IMMEDIATE")
        except apsw.Error as error:
            self._answer(jobs, error)
            return
        reserved, self._reserved = self._reserved, None  # to be had again once the transaction is committed
        transaction = self._applied(connection, jobs, reserved)
        if transaction is None:
            return
        try:
            connection.execute("COMMIT")
        except apsw.Error as error:
            applied = self._is_applied(transaction)
            if not applied:
                self._not_applied(jobs, error, unknown=applied is None)
                return
        else:
            self._reserved, self._data_version = transaction.after, connection.data_version()
        self._revision = transaction.revision
        self.commits += 1
        for job, outcome in zip(jobs, transaction.outcomes, strict=True):
            if isinstance(outcome, Committed):
                job.result = outcome
            else:
                job.error = outcome

    def _applied(
        self, connection: apsw.Connection, jobs: Sequence[Job[Committed]], reserved: Counter | None
    ) -> _Transaction | None:
        """Apply these jobs, up to the COMMIT. None: that failed, and they are answered for without it."""
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
        except Exception as error:  # noqa: BLE001 - whatever it is, it may be the error of one of them alone
            self._roll_back(connection)
            self._not_applied(jobs, error)
        return None

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> apsw.Connection:
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _apply(
        self, connection: apsw.Connection, jobs: Sequence[Job[Committed]], reserved: Counter | None, *, look_first: bool
    ) -> _Transaction:
        cursor = connection.cursor()
        before: Any = reserved
        if reserved is None or connection.data_version() != self._data_version:  # else nobody else has committed
            before = cursor.execute(_COUNTER).get
            if before != reserved:
                self.others += 1
        now = self._clock.now_us()
        # As long as the counter is as this process left it, nobody else has given a revision above the last one here.
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
            # Nothing is lost with it: what it had not committed was acknowledged to nobody, and the log stays.
            with suppress(apsw.Error):
                leave_log(connection)
                connection.close(True)

    def _not_applied(self, jobs: Sequence[Job[Committed]], error: Exception, *, unknown: bool = False) -> None:
        """Answer for a transaction that failed. A member alone may still succeed, so several run one by one."""
        if len(jobs) == 1 or unknown:
            self._answer(jobs, error, unknown=unknown)
        else:
            for job in jobs:
                self.serve([job])

    def _is_applied(self, transaction: _Transaction) -> bool | None:
        """What became of a transaction whose COMMIT failed, by looking at the file anew; None: it is not known.

        Its token there or, if it left none, its document: it was applied. Else, with the counter as it was before: it
        was lost, refusals that rested on it included. Anything else: others have committed since, and may have covered
        it.
        """
        self._abandon()
        found: Any = None
        witness = transaction.witness
        stands = False
        try:
            connection = self._open()
            connection.execute("BEGIN IMMEDIATE")
            found = connection.execute(_COUNTER).get
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
                job.error = mapped(error, "commit", self._path, unknown=unknown)
            else:
                job.error = error


class _HalfWrittenError(Exception):
    """A commit is refused at a write that is not its first."""


class _OddJobError(Exception):
    """A commit holds what SQLite's driver does not even take."""

    def __init__(self, job: Job[Committed]) -> None:
        super().__init__()
        self.job = job


def _write(cursor: apsw.Cursor, writes: Sequence[Prepared], revision: int, now: int) -> Prepared | None:
    """Apply the writes of one commit; the first of them, where that is refused and so nothing is written.

    Raises:
        _HalfWrittenError: another one is refused.
    """
    stamped = stamp(revision, now)
    for write in writes:
        if not _is_written(cursor, write, revision, now, stamped):
            if write is not writes[0]:
                raise _HalfWrittenError
            return write
    return None


def _is_written(cursor: apsw.Cursor, write: Prepared, revision: int, now: int, stamped: bytes) -> bool:
    """Apply a write if its requirement holds; whether it does."""
    require = write.require
    if write.text is None:
        if not _holds(cursor, write):
            return False
        if write.deletes:
            cursor.execute(_DELETE, (write.collection, write.id))
        return True
    checksum = of_row(stamped, write.checksum)
    if isinstance(require, At):
        changed = (revision, now, checksum, write.text, write.timestamp, write.collection, write.id, require.revision)
        cursor.execute(_PUT_AT, changed)
        return cursor.connection.changes() == 1
    put = (write.collection, write.id, revision, now, checksum, write.text, write.timestamp)
    if require is ABSENT:
        cursor.execute(_PUT_NEW, put)
        return cursor.connection.changes() == 1
    if not _holds(cursor, write):
        return False
    cursor.execute(_PUT, put)
    return True


def _holds(cursor: apsw.Cursor, write: Prepared) -> bool:
    """Whether the requirement of a write holds, by looking."""
    place = (write.collection, write.id)
    return write.require is ANYTHING or holds(write.require, cursor.execute(_REVISION, place).get)
