"""States as this process last wrote them. They save transactions a read; the commit checks them."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import TypeVar

import msgspec

from tai_state.engines.api import ABSENT, At, Document
from tai_state.engines.observing import Settled, tell
from tai_state.errors import StateNotFound, VersionConflict
from tai_state.streams.changes import Appended, Guard, Known
from tai_state.streams.core import Core
from tai_state.streams.heads import Heads
from tai_state.streams.layout import Stream
from tai_state.streams.records import EMPTY, STATE, head_of
from tai_state.values.states import JsonState

Met = TypeVar("Met", bound=VersionConflict | StateNotFound)

REMEMBERED_MAX = 1_024
"""How many states are remembered, and how many are doubted."""

CHARACTERS_MAX = 16_384
"""A state whose data has more characters is not remembered."""


class SeenState(msgspec.Struct, frozen=True):
    """A state as a transaction read it, or as it is remembered.

    Attributes:
        known: its head, and its data as stored.
        state: the state as callers get it; None if it was never written.
    """

    known: Known
    state: JsonState | None

    @property
    def revision(self) -> int | None:
        """The revision of the state's document; None if there is none."""
        return self.known.head.revision

    @property
    def version(self) -> int:
        """The state's version; 0 if it was never written."""
        return self.known.head.version

    @property
    def is_deleted(self) -> bool:
        """Whether the state was written and is now deleted."""
        return self.known.head.deleted

    def guard(self, path: str) -> Guard:
        """The check that the state has not changed since."""
        require = ABSENT if self.revision is None else At(self.revision)
        return Guard(path, require, partial(self.moved_error, path))

    def moved_error(self, path: str, document: Document | None) -> VersionConflict:
        """The error for a state that has changed since, given its document now."""
        return VersionConflict(path, self.version, 0 if document is None else document.decode(STATE).version)


def met(core: Core, error: Met) -> Met:
    """Tell the store's observer of an error that a transaction met before its commit; the error, to raise."""
    observer = core.settings.observer
    if observer is not None:
        name = type(error).__name__
        tell(observer.settled, Settled(kind="states", paths=(error.path,), attempts=0, seconds=0.0, error=name))
    return error


def seen_in(core: Core, stream: Stream, document: Document | None) -> SeenState:
    """The state in a document, as it was read; None: there is none."""
    if document is None:
        return SeenState(Known(EMPTY), None)
    record = core.checked(stream, document)
    known = Known(head_of(record, document.revision), record.data)
    return SeenState(known, core.state(stream, record, document.updated_us))


class RecentWrites:
    """Remembers what transactions wrote; the least recently written state is forgotten first.

    A state that other processes write too is usually out of date here, and each time costs a failed commit. So a state
    that was found out of date is not remembered after its next write, only after a later one.

    Args:
        heads: the heads that the store last saw; they show whether a remembered state has changed since.
    """

    def __init__(self, heads: Heads) -> None:
        self._heads = heads
        self._written: OrderedDict[str, tuple[str, JsonState]] = OrderedDict()
        self._doubted: OrderedDict[str, None] = OrderedDict()

    def recall(self, path: str) -> SeenState | None:
        """The state as remembered, if the head last seen has the digest that it was written with."""
        written, head = self._written.get(path), self._heads.get(path)
        if written is None or head is None or head.digest != written[0]:
            return None
        return SeenState(Known(head, written[1].data), written[1])

    def note(self, core: Core, stream: Stream, done: Appended) -> None:
        """Remember a state that a transaction has just written."""
        path, text = stream.state, done.events[-1].to_state
        if done.is_repeated or text is None or len(text) > CHARACTERS_MAX:
            return
        if path in self._doubted:
            del self._doubted[path]
            return
        self._written[path] = (done.state.digest, core.state(stream, done.state, done.recorded_us))
        self._written.move_to_end(path)
        if len(self._written) > REMEMBERED_MAX:
            self._written.popitem(last=False)

    def doubt(self, path: str) -> None:
        """Forget a state that was remembered and turned out to be out of date."""
        self._written.pop(path, None)
        self._doubted[path] = None
        if len(self._doubted) > REMEMBERED_MAX:
            self._doubted.popitem(last=False)
