"""The checksum of a row: over all that reading it gives. ``docs/format.md`` describes it for others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct, error
from typing import Any, Final
from zlib import crc32

from tai_state.engines.api import Damage, Document

stamp: Callable[[int, int], bytes] = Struct("<qq").pack
"""Revision and time of a write, as its documents' checksums take them."""

ROW: Final = "CAST(id AS BLOB), CAST(fields AS BLOB), revision, updated_us, checksum"
"""What :func:`document` needs of a row. As bytes, text that is damaged can be had at all."""

TIMESTAMP: Final = """
CASE WHEN collection GLOB '*/events' THEN
    CASE WHEN json_valid(fields) AND json_type(fields, '$.timestamp') = 'text' THEN fields ->> '$.timestamp' ELSE '' END
END
"""
"""What the column of this name holds, from the others of a row."""

DAMAGED: Final = Damage("does not fit its checksum: restore a backup, or run `tai-state recover`")


def of_text(path: bytes, text: bytes) -> int:
    """The part of a document's checksum that its writer knows beforehand."""
    return crc32(text, crc32(path))


of_row = crc32
"""The checksum of a row, from its stamp and what :func:`of_text` gave."""


def documents(collection: str, rows: Sequence[Any]) -> list[Document]:
    """The documents in rows of a collection; a damaged one says so where it is looked at, and hides no other."""
    of_collection = crc32(f"{collection}/".encode())
    found: list[Document] = []
    for key, text, revision, updated_us, checksum in rows:
        try:
            if crc32(stamp(revision, updated_us), crc32(text, crc32(key, of_collection))) == checksum:
                found.append(Document(collection, key.decode(), text, revision, updated_us))
                continue
        except (TypeError, error, UnicodeDecodeError):  # a column that holds what no column of its kind can
            pass
        found.append(Document(collection, _text(key), DAMAGED, _number(revision), _number(updated_us)))
    return found


def _text(value: Any) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0
