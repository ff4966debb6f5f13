"""Looks at and behind the SQLite engine's file."""

from __future__ import annotations

from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apsw

from tai_state.engines.api import Document, Scan
from tai_state.engines.sqlite.checksums import of_row, of_text, stamp
from tai_state.engines.sqlite.engine import SqliteEngine
from tai_state.engines.sqlite.openfile import OpenFile
from tai_state.engines.sqlite.preparing import prepare
from tai_state.engines.sqlite.schema import connect
from tai_state.engines.sqlite.worker import Job
from tai_state.engines.sqlite.writer import Writer
from tai_state.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tai_state.engines.api import Write


def engine_over(file: Path, *, create: bool = True) -> SqliteEngine:
    """An engine over a file, not yet opened."""
    return SqliteEngine(str(file), ManualClock(0, step_us=1), create=create)


def names_in(folder: Path) -> list[str]:
    """What a folder holds."""
    return sorted(each.name for each in folder.iterdir())


def bytes_of(file: Path) -> bytes:
    """What a file holds."""
    return file.read_bytes()


async def all_in(file: Path, *, create: bool = True) -> list[Document]:
    """The documents of the collection ``c``."""
    async with engine_over(file, create=create) as engine:
        return [document async for document in engine.scan(Scan("c"))]


def connected(file: Path, busy_timeout_ms: int = 0) -> apsw.Connection:
    """A connection such as the engine makes, without the engine."""
    return connect(str(file), create=True, busy_timeout_ms=busy_timeout_ms)


def seal(connection: apsw.Connection) -> None:
    """Give every row the checksum that fits it: as one does who edits a file and knows its format."""

    def checksum(*row: Any) -> int:
        path, text, revision, updated_us = row
        return of_row(stamp(revision, updated_us), of_text(path, text))

    connection.create_scalar_function("checksum_of", checksum)
    connection.execute(
        "UPDATE documents SET checksum = checksum_of(CAST(path AS BLOB), CAST(fields AS BLOB), revision, updated_us)"
    )


@contextmanager
def writer_over(file: Path, open_: Callable[[], Any] | None = None, clock: Any = None) -> Iterator[Writer]:
    """A writer by itself, whose commits are served in this thread."""
    opened = OpenFile(str(file), open_ or (lambda: connected(file)))
    with closing(connected(file)):  # the reader's, which keeps the log in its place
        writer = Writer(opened, clock or ManualClock(0, step_us=1))
        try:
            yield writer
        finally:
            writer.close()
            opened.closed()


def served(writer: Writer, *commits: Sequence[Write]) -> list[Any]:
    """What the writer answers to commits that it gets together."""
    jobs = [Job([prepare(write) for write in commit], None) for commit in commits]
    writer.serve(jobs)
    return [job.error if job.error is not None else job.result for job in jobs]


@contextmanager
def hooked(hook: Callable[[apsw.Connection], object]) -> Iterator[None]:
    """Show each new connection to this function."""
    apsw.connection_hooks.append(hook)
    try:
        yield
    finally:
        apsw.connection_hooks.remove(hook)


@contextmanager
def statements_seen() -> Iterator[list[tuple[str, Any]]]:
    """All that connections opened from now on execute: SQL and bindings."""
    seen: list[tuple[str, Any]] = []

    def trace(_: object, sql: str, bindings: Any) -> bool:
        seen.append((sql, bindings))
        return True

    with hooked(lambda connection: setattr(connection, "exec_trace", trace)):
        yield seen


def flip_a_bit_in_an_index(file: Path) -> None:
    """Damage an index so that no read of the documents used here sees it."""
    connection = apsw.Connection(str(file))
    [(page,)] = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'documents_by_timestamp'")
    connection.pragma("wal_checkpoint", "TRUNCATE")
    connection.close()
    data = bytearray(file.read_bytes())
    data[data.index(b"governors/bank/events", (page - 1) * 4096)] ^= 1
    file.write_bytes(data)
