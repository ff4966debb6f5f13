"""What is wrong with a file as a whole, beyond what a read of one document shows."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import apsw

from tai_state.engines.sqlite.checksums import TIMESTAMP
from tai_state.engines.sqlite.disk import has_failed, reading
from tai_state.engines.sqlite.errors import mapped_error
from tai_state.errors import CorruptDocument

_HIDDEN = f"""
SELECT CAST(ifnull(path, id) AS BLOB) FROM documents WHERE timestamp IS NOT {TIMESTAMP} LIMIT 100
"""  # noqa: S608 - columns of this package
_HIDDEN_MEANS = "its column timestamp differs from its field, so queries by time miss it: restore a backup"


def damage_of(connect: Callable[[], apsw.Connection], path: str) -> list[CorruptDocument]:
    """Run SQLite's integrity check, and check the column ``timestamp``.

    Args:
        connect: opens a connection to the file.
        path: the path to name.

    Raises:
        StoreUnavailable: the file cannot be read.
    """
    try:
        with closing(connect()) as connection, reading(connection):
            found = [text for (text,) in connection.execute("PRAGMA integrity_check(100)") if text != "ok"]
            hidden: list[Any] = connection.execute(_HIDDEN).fetchall()
            if has_failed(connection):  # the check names what it could not read as if it were damaged
                raise apsw.exception_for(apsw.SQLITE_IOERR_READ)
    except CorruptDocument as error:
        return [CorruptDocument(path, error.what)]
    except apsw.Error as error:
        failure = mapped_error(error, "read", path)
        if not isinstance(failure, CorruptDocument):
            raise failure from error
        return [failure]
    advice = "restore a backup or, if only indexes are damaged, run REINDEX on a copy with SQLite, and verify the copy"
    return [
        *(CorruptDocument(path, f"SQLite reports: {text.strip()}: {advice}") for text in found),
        *(CorruptDocument((each or b"").decode(errors="backslashreplace"), _HIDDEN_MEANS) for (each,) in hidden),
    ]
