"""Ids in the paths of URLs, and links that lead to them from wherever the endpoint is mounted.

An id is one segment of a path, percent-encoded once. So the path is read as it was sent, before its encoding is
removed: an encoded slash belongs to an id. The ids ``.`` and ``..`` would be taken for steps up by whoever handles a
URL, however they are encoded; a ``!`` after them, not encoded, prevents that.

Links are relative, so they hold below any prefix, whether or not the application was told of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, unquote, unquote_to_bytes, urlencode

from tai_state.errors import InvalidId

_DOTS: Final = {".": ".!", "..": "..!"}
_FROM_DOTS: Final = {segment: identifier for identifier, segment in _DOTS.items()}
_MACHINE: Final = ("machines", "governor", "state")
_AS_SENT: Final = "/%;:@!$&'()*+,=~"
"""What stands in a path as it was sent, and is left there."""


def segment_of(identifier: str) -> str:
    """An id as a segment of a path; :func:`id_in` reverses it."""
    return _DOTS.get(identifier) or quote(identifier, safe="")


def id_in(segment: str, what: str) -> str:
    """The id that a segment of a path stands for.

    Args:
        segment: the segment, still encoded.
        what: the name of the id in an error.

    Raises:
        InvalidId: it is not UTF-8, percent-encoded.
    """
    if segment in _FROM_DOTS:
        return _FROM_DOTS[segment]
    try:
        return unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        raise InvalidId(what, "UTF-8, percent-encoded") from None


def encoded_path(scope: Mapping[str, Any]) -> str:
    """The path of a request below the place where the application is mounted, as it was sent: percent-encoded.

    Servers hand on the path with and without its encoding, and whoever mounts an application takes the prefix from
    neither, from the second, or from both; Litestar ends the second with a slash of its own. So what is sought is the
    end of the first that the second, without the prefix, is the decoded form of.
    """
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    if root and (path == root or path.startswith(f"{root}/")):
        path = path[len(root) :]
    raw = sent_path(scope)
    start = 0
    while start >= 0:
        if unquote(raw[start:]) in {path, path.removesuffix("/")}:
            return raw[start:] or "/"
        start = raw.find("/", start + 1)
    return quote(path, safe="/") or "/"


def sent_path(scope: Mapping[str, Any]) -> str:
    """The whole path of a request, percent-encoded."""
    raw = scope.get("raw_path")
    if raw is None:
        return quote(str(scope["path"]), safe="/")
    return quote(bytes(raw).partition(b"?")[0], safe=_AS_SENT)


def machine_in_path(path: str) -> str:
    """The part of an encoded path that names a machine, for links; empty if it names none."""
    parts = path.split("/")
    return "/".join(parts[1:4]) if len(parts) > len(_MACHINE) and parts[1] == _MACHINE[0] else ""


def upwards(path: str) -> str:
    """The way from a page to the place where the application is mounted, as the beginning of a relative link."""
    return "../" * (path.count("/") - 1) or "./"


def query(**values: object) -> str:
    """A relative link to the same page with another query, of the values that are given."""
    return f"?{urlencode({name: value for name, value in values.items() if value not in (None, '')})}"
