"""Copying the file while others write to it, by SQLite's online backup."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio.to_thread
import apsw
import msgspec

from tai_state.engines.sqlite.disk import reading
from tai_state.engines.sqlite.errors import mapped_error
from tai_state.engines.sqlite.integrity import damage_of
from tai_state.engines.sqlite.schema import connect, connect_to_copy
from tai_state.errors import CorruptDocument

_STEP_PAGES: Final = 1024


class Backup(msgspec.Struct, frozen=True):
    """What a copy holds.

    Attributes:
        documents: how many documents it has; None if its damage hides that.
        damage: what is wrong with the file, and so with its copy.
    """

    documents: int | None
    damage: tuple[CorruptDocument, ...]


async def back_up(path: str, target: str, progress: Callable[[int, int], None], busy_timeout_ms: int) -> Backup:
    """Copy a file as it is at one moment, damage included.

    Args:
        path: the path of the file.
        target: the path of the copy; there must be no file.
        progress: called now and then with the number of pages copied, and the number of all pages.
        busy_timeout_ms: how long to wait for a lock of another process.

    Raises:
        CorruptDocument, IncompatibleFormat: its header does not say that it is a file of this library.
        StoreUnavailable: the file cannot be read, or the copy cannot be written.
    """
    copied = partial(connect, target, create=False, busy_timeout_ms=busy_timeout_ms)
    try:
        await _copy(partial(connect_to_copy, path, busy_timeout_ms), target, progress)
        damage = await anyio.to_thread.run_sync(damage_of, copied, path)
        return Backup(await anyio.to_thread.run_sync(_count, copied), tuple(damage))
    except apsw.Error as error:
        raise mapped_error(error, "backup", target) from error
    finally:
        _remove_log(target)


async def _copy(connect: Callable[[], apsw.Connection], target: str, progress: Callable[[int, int], None]) -> None:
    with closing(await anyio.to_thread.run_sync(connect)) as source, closing(apsw.Connection(target)) as copy:
        copy.execute("PRAGMA journal_mode = OFF; PRAGMA synchronous = FULL")
        # While a transaction reads, commits of others do not change what it sees, and so the copy never starts again.
        # It reads nothing but the header: what is behind that may be damaged.
        with reading(source):
            source.execute("BEGIN; PRAGMA application_id").fetchall()
        with copy.backup("main", source, "main") as backup:
            while not backup.done:
                await anyio.to_thread.run_sync(backup.step, _STEP_PAGES)
                progress(backup.page_count - backup.remaining, backup.page_count)


def _remove_log(target: str) -> None:
    """Remove what was opened beside a copy, all of it empty: it stays if the copy is too damaged to be opened."""
    for log in ("wal", "shm"):
        Path(f"{target}-{log}").unlink(missing_ok=True)


def _count(connect: Callable[[], apsw.Connection]) -> int | None:
    """The number of documents in a file; None if it is damaged where they are counted."""
    try:
        with closing(connect()) as connection, reading(connection):
            count: Any = connection.execute("SELECT count(*) FROM documents").get
    except (CorruptDocument, apsw.CorruptError):
        return None
    return int(count)
