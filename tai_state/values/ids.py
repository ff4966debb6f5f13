"""Ids: what callers may use, and how an id becomes one safe path segment.

Escaping is injective, and an escaped id never leaves its collection. It turns into ``%XX``: each ``%``, ``/``, ``~``
(the library's own separator) and control character; the dots of the ids ``.`` and ``..``; and the first underscore of
ids of the reserved form ``__x__``. Nothing is normalised: two spellings of ``é`` are two ids.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated, TypeAlias
from urllib.parse import unquote

import msgspec

from tai_state.errors import CorruptDocument, InvalidId

ID_BYTES_MAX = 1_480
"""UTF-8 bytes of one escaped id: the 1,500 of an engine, less the ``~`` and the digits of an event's version."""

FromOne: TypeAlias = Annotated[int, msgspec.Meta(ge=1)]
"""A version or a schema in a stored document; with a lesser number, the document is damaged."""

VERSION_DIGITS = 12
VERSION_MAX = 10**VERSION_DIGITS - 1

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
"""Nearly all ids; nothing in them is escaped."""
_ESCAPED = re.compile(r"[%/~\x00-\x1f\x7f-\x9f]")
_DOTS = re.compile(r"\.{1,2}")
_RESERVED = re.compile(r"__.*__", re.DOTALL)
_NOT_ESCAPED = "is not an escaped id"


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match.group().encode())


def escape_id(identifier: str, what: str = "an id") -> str:
    """The path segment for an id; :func:`unescape_id` reverses it.

    Args:
        identifier: the id.
        what: its name in an error, like ``"state_id"``.

    Raises:
        InvalidId: the id is empty, not text, not valid Unicode, or longer than 1,480 bytes once escaped.
    """
    if type(identifier) is not str or not identifier:
        raise InvalidId(what, "a plain str of at least one character")
    return _escape(identifier, what)


@lru_cache(maxsize=4096)
def _escape(identifier: str, what: str) -> str:
    if _PLAIN.fullmatch(identifier) and len(identifier) <= ID_BYTES_MAX:
        return identifier
    escaped = _ESCAPED.sub(_percent, identifier)
    if _DOTS.fullmatch(escaped):
        escaped = escaped.replace(".", "%2E")
    elif _RESERVED.fullmatch(escaped):
        escaped = "%5F" + escaped[1:]
    try:
        size = len(escaped.encode())
    except UnicodeEncodeError:
        raise InvalidId(what, "valid Unicode (it holds half of a surrogate pair)") from None
    if size > ID_BYTES_MAX:
        raise InvalidId(what, f"at most {ID_BYTES_MAX:,} bytes once escaped (this one has {size:,})")
    return escaped


def unescape_id(segment: str) -> str:
    """The id that a path segment stands for.

    Raises:
        CorruptDocument: the segment is not an escaped id.
    """
    if not segment:
        raise CorruptDocument(segment, "is not an escaped id")
    try:
        return unquote(segment, errors="strict") if "%" in segment else segment
    except UnicodeDecodeError:
        raise CorruptDocument(segment, _NOT_ESCAPED) from None


def stored_id(path: str) -> str:
    """The id at the end of a path, as :func:`unescape_id`; the path must be the one under which the id is stored.

    Raises:
        CorruptDocument: it is not.
    """
    segment = path.rpartition("/")[2]
    try:
        identifier = unescape_id(segment)
        if escape_id(identifier) == segment:
            return identifier
    except (CorruptDocument, InvalidId):
        pass
    raise CorruptDocument(path, _NOT_ESCAPED)


def versioned(segment: str, version: int) -> str:
    """The document id of one version of a stream. These ids sort by stream, then by version."""
    return f"{segment}~{str(version).zfill(VERSION_DIGITS)}"


def split_versioned(document_id: str) -> tuple[str, int]:
    """The segment and the version in a document id made by :func:`versioned`.

    Raises:
        ValueError: it was not made by :func:`versioned`.
    """
    segment, separator, digits = document_id.rpartition("~")
    if not separator or len(digits) != VERSION_DIGITS or not digits.isascii() or not digits.isdigit():
        raise ValueError(document_id)
    return segment, int(digits)
