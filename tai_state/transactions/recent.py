"""States as this process last wrote them. A transaction that begins on one saves a read, and its commit checks it."""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from tai_state.streams.changes import Known
from tai_state.streams.heads import Heads
from tai_state.values.states import JsonState

REMEMBERED_MAX = 1_024
"""States that are remembered, and those that are doubted."""

CHARACTERS_MAX = 16_384
"""Larger data is not remembered."""


class SeenState(msgspec.Struct, frozen=True):
    """A state as a transaction read it, or remembers it.

    Attributes:
        known: its head, and its data as stored.
        state: as callers get it; None where it was never written.
    """

    known: Known
    state: JsonState | None

    @property
    def revision(self) -> int | None:
        """Of the state's document; None where there is none."""
        return self.known.head.revision

    @property
    def version(self) -> int:
        """0 where it was never written."""
        return self.known.head.version

    @property
    def is_deleted(self) -> bool:
        """Whether the state was written, and is deleted."""
        return self.known.head.deleted


class RecentWrites:
    """What transactions wrote, the least recently written forgotten first.

    A state that others write as well is out of date here more often than not, and every time costs a commit in vain. So
    one that was found to be is remembered again only after it was read and written once more.

    Args:
        heads: the heads that the store last saw; a state of which it saw another one is not as remembered.
    """

    def __init__(self, heads: Heads) -> None:
        self._heads = heads
        self._written: OrderedDict[str, tuple[str, JsonState]] = OrderedDict()
        self._doubted: OrderedDict[str, None] = OrderedDict()

    def recall(self, path: str) -> SeenState | None:
        """The state as it was written here, if the head last seen is that of this very history."""
        written, head = self._written.get(path), self._heads.get(path)
        if written is None or head is None or head.digest != written[0]:
            return None
        return SeenState(Known(head, written[1].data), written[1])

    def note(self, path: str, digest: str, state: JsonState) -> None:
        """A transaction has just written this, by an event with this digest."""
        if path in self._doubted:
            del self._doubted[path]
            return
        self._written[path] = (digest, state)
        self._written.move_to_end(path)
        if len(self._written) > REMEMBERED_MAX:
            self._written.popitem(last=False)

    def doubt(self, path: str) -> None:
        """What was remembered of this state was out of date."""
        self._written.pop(path, None)
        self._doubted[path] = None
        if len(self._doubted) > REMEMBERED_MAX:
            self._doubted.popitem(last=False)
