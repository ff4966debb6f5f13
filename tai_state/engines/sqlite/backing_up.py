"""Copying the file while others write to it, by SQLite's online backup."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any, Final

import anyio.to_thread
import apsw

from tai_state.engines.sqlite.disk import reading

_STEP_PAGES: Final = 1024


async def back_up(connect: Callable[[], apsw.Connection], target: str, progress: Callable[[int, int], None]) -> None:
    """Copy a file as it is at one moment.

    Args:
        connect: opens a connection to the file.
        target: the path of the copy; there must be no file.
        progress: called now and then with the number of pages copied, and the number of all pages.

    Raises:
        apsw.Error: as SQLite reports it.
    """
    with closing(await anyio.to_thread.run_sync(connect)) as source, closing(apsw.Connection(target)) as copy:
        copy.execute("PRAGMA journal_mode = OFF; PRAGMA synchronous = FULL")
        # While a transaction reads, commits of others do not change what it sees, and so the copy never starts again.
        with reading(source):
            source.execute("BEGIN; SELECT count(*) FROM sqlite_schema").fetchall()
        with copy.backup("main", source, "main") as backup:
            while not backup.done:
                await anyio.to_thread.run_sync(backup.step, _STEP_PAGES)
                progress(backup.page_count - backup.remaining, backup.page_count)


def count_of(connect: Callable[[], apsw.Connection]) -> int:
    """The number of documents in a file."""
    with closing(connect()) as connection, reading(connection):
        count: Any = connection.execute("SELECT count(*) FROM documents").get
    return int(count)
