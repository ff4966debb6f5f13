"""The checksum of a row: it covers everything that a read returns. ``docs/format.md`` describes it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from struct import Struct, error
from typing import Any, Final
from zlib import crc32

from tai_state.engines.api import Damage, Document

stamp: Callable[[int, int], bytes] = Struct("<qq").pack
"""The revision and the time of a write, as bytes for the checksums of its documents."""

ROW: Final = "CAST(id AS BLOB), CAST(fields AS BLOB), revision, updated_us, checksum"
"""The columns that :func:`documents` needs. Text is read as bytes, because damaged text could not be read otherwise."""

ROW_OF_ANY: Final = "CAST(id AS BLOB), CAST(fields AS BLOB), " + ", ".join(
    f"iif(typeof({number}) = 'text', NULL, {number})" for number in ("revision", "updated_us", "checksum")
)
"""The same columns, for rows in which a damaged page has put text that is not UTF-8 in the place of a number."""

TIMESTAMP: Final = """
CASE WHEN collection GLOB '*/events' THEN
    CASE WHEN json_valid(fields) AND json_type(fields, '$.timestamp') = 'text' THEN fields ->> '$.timestamp' ELSE '' END
END
"""
"""The value of the column ``timestamp``, computed from the other columns of a row."""

DAMAGED: Final = Damage("does not match its checksum")
NAMELESS: Final = Damage("does not match its checksum, and its name is damaged", is_nameless=True)

_BYTE = re.compile(rb"\\x([0-9a-f]{2})")


def of_text(path: bytes, text: bytes) -> int:
    """The part of a document's checksum that is known before the write: over path and text."""
    return crc32(text, crc32(path))


of_row = crc32
"""The checksum of a row, from its stamp and the result of :func:`of_text`."""


def documents(collection: str, rows: Sequence[Any]) -> list[Document]:
    """The documents in rows of a collection. A damaged document raises when it is used, and hides no other."""
    of_collection = crc32(f"{collection}/".encode())
    found: list[Document] = []
    for key, text, revision, updated_us, checksum in rows:
        try:
            if crc32(stamp(revision, updated_us), crc32(text, crc32(key, of_collection))) == checksum:
                found.append(Document(collection, key.decode(), text, revision, updated_us))
                continue
        except (TypeError, error, UnicodeDecodeError):  # a column holds a value of a type that it cannot have
            pass
        damage = DAMAGED if _is_name(key) else NAMELESS
        found.append(Document(collection, _text(key), damage, _number(revision), _number(updated_us)))
    return found


def places(path: str) -> Iterator[tuple[str, bytes]]:
    """Under which collection and id a document may be stored that is shown with this path although it has no name."""
    slash = path.rfind("/")
    while slash > 0:
        key = _BYTE.sub(lambda match: bytes.fromhex(match[1].decode()), path[slash + 1 :].encode())
        yield path[:slash], key
        slash = path.rfind("/", 0, slash)


def _is_name(key: Any) -> bool:
    try:
        return "/" not in key.decode()
    except (AttributeError, UnicodeDecodeError):
        return False


def _text(value: Any) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0
