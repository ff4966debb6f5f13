"""The events that a writer had not seen, for a version conflict: the newest ones, in bounded memory. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from tai_state.engines.api import Document, Scan
from tai_state.streams.layout import Stream
from tai_state.streams.records import EVENT

UNSEEN_MAX = 100
"""How many events a version conflict carries at most."""

UNSEEN_BYTES_MAX = 1024 * 1024
"""How many bytes they have together at most, as JSON; the newest event is carried in any case."""

_FIRST = 8
"""How many events are read before their sizes are known."""


class Unseen(NamedTuple):
    """Events to carry.

    Attributes:
        documents: their documents, oldest first, and before them that of the event at ``after``, if it was read: it
            shows the state before them.
        after: the version before the first of them.
    """

    documents: Sequence[Document]
    after: int


def newest_unseen(stream: Stream, after: int, newest: int, scanned: Mapping[Scan, Sequence[Document]]) -> Unseen | Scan:
    """The newest events after a version, as many as a conflict carries; or the scan to make before this can be said.

    Args:
        stream: the stream.
        after: the newest version that the writer has seen.
        newest: the version that stands.
        scanned: what the scans that were asked for have found.
    """
    found: list[Document] = []
    low, bottom = newest + 1, max(after, 1)
    while low > bottom and len(found) <= _fitting(found):
        first = max(bottom, low - _further(found) if found else low - _FIRST)
        start, end = stream.range(first, low - 1)
        scan = Scan(stream.events, start=start, end=end)
        page = scanned.get(scan)
        if page is None:
            return scan
        found[:0] = page
        if len(page) < low - first:  # the events before these were cleaned up
            break
        low = first
    fit = _fitting(found)
    if len(found) <= fit:
        return Unseen(found, after)
    return Unseen(found[-fit - 1 :], found[-fit - 1].decode(EVENT).version)


def _fitting(found: Sequence[Document]) -> int:
    """How many of these events, the newest ones, a conflict carries."""
    sizes = accumulate(each.size for each in reversed(found[-UNSEEN_MAX:]))
    return max(1, sum(size <= UNSEEN_BYTES_MAX for size in sizes))


def _further(found: Sequence[Document]) -> int:
    """How many more events to read, so that they probably fill what is left, and one before them."""
    sizes = [each.size for each in found]
    room = (UNSEEN_BYTES_MAX - sum(sizes)) // max(sizes)
    return max(1, min(UNSEEN_MAX - len(found), room) + 1)
