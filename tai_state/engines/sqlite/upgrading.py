"""Upgrading a file from format 1 to format 2, in one transaction, so that it never has a mixture of both."""

from __future__ import annotations

from typing import Any, Final

import apsw

from tai_state.engines.sqlite.checksums import TIMESTAMP, of_row, of_text, stamp

_COPY: Final = f"""
INSERT INTO documents (collection, id, revision, updated_us, checksum, fields, timestamp)
SELECT collection, id, revision, updated_us,
    tai_state_checksum(CAST(path AS BLOB), CAST(fields AS BLOB), revision, updated_us), fields, {TIMESTAMP}
FROM documents_1 ORDER BY rowid
"""  # noqa: S608 - an expression of this package


def upgrade(connection: apsw.Connection, documents: str, version: int) -> None:
    """Upgrade a file of format 1, unless another process has upgraded it meanwhile.

    Args:
        connection: a connection to the file, for writing.
        documents: the statements that create the table of documents and its indexes.
        version: the number of the new format.

    Raises:
        apsw.Error: as SQLite reports it; the file is unchanged.
    """
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        if connection.pragma("user_version") == 1:  # else another process was faster
            connection.create_scalar_function("tai_state_checksum", _checksum, 4, deterministic=True)
            connection.execute("DROP INDEX documents_by_timestamp; ALTER TABLE documents RENAME TO documents_1")
            connection.execute(documents)
            connection.execute(_COPY)
            connection.execute(f"DROP TABLE documents_1; PRAGMA user_version = {version}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    finally:
        connection.create_scalar_function("tai_state_checksum", None)


def _checksum(*row: Any) -> int:
    path, text, revision, updated_us = row
    return of_row(stamp(revision, updated_us), of_text(path, text))
