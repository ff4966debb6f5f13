"""The watches of one engine: a change of a document reaches only watches of that document or its collection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence

import anyio

from tai_state.engines.api import DocumentChange
from tai_state.values.counting import counted

_LISTED_MAX = 3
"""Targets that a watch names when it is shown."""


class Signal:
    """Wakes all waiting tasks each time it is raised."""

    def __init__(self) -> None:
        self._event: anyio.Event | None = None  # made only if a task waits, since every commit raises it

    def next(self) -> anyio.Event:
        """The event that the next :meth:`raise_` sets. Get it before you look, or you may miss a change."""
        if self._event is None:
            self._event = anyio.Event()
        return self._event

    def raise_(self) -> None:
        """Wake all waiting tasks."""
        event, self._event = self._event, None
        if event is not None:
            event.set()


class Watch(AsyncIterator[DocumentChange]):
    """One watch as its user sees it: yields, for each path, the newest change that it has not yielded yet.

    It has no task of its own, so it may be abandoned at any moment.

    Args:
        targets: paths of documents and collections.
    """

    def __init__(self, targets: Iterable[str]) -> None:
        self.targets: tuple[str, ...] = tuple(dict.fromkeys(targets))
        self._news: dict[str, int | None] = {}
        self._error: BaseException | None = None
        self._signal = Signal()

    def __repr__(self) -> str:
        ended = "" if self._error is None else f", ended by {type(self._error).__name__}"
        return f"<{type(self).__name__} of {listed(self.targets)}, {counted(len(self._news), 'change')} at hand{ended}>"

    def tell(self, path: str, revision: int | None) -> None:
        """Report that a document is now at a revision; None: absent."""
        self._news[path] = revision
        self._signal.raise_()

    def fail(self, error: BaseException) -> None:
        """Raise this error once all reported changes are yielded."""
        self._error = error
        self._signal.raise_()

    async def __anext__(self) -> DocumentChange:
        while not self._news:
            if self._error is not None:
                raise self._error
            await self._signal.next().wait()
        path = next(iter(self._news))
        return DocumentChange(path, self._news.pop(path))


class Watches:
    """All watches of an engine, by their targets."""

    def __init__(self) -> None:
        self._of: dict[str, set[Watch]] = {}

    def __bool__(self) -> bool:
        return bool(self._of)

    def targets(self, path: str) -> list[str]:
        """The watched targets that include a document: the document, its collection, or both."""
        return [target for target in (path, path.rpartition("/")[0]) if target in self._of]

    def add(self, watch: Watch) -> None:
        """Start to report changes to a watch."""
        for target in watch.targets:
            self._of.setdefault(target, set()).add(watch)

    def remove(self, watch: Watch) -> bool:
        """Stop reporting changes to a watch; returns whether it was there."""
        was_told = False
        for target in watch.targets:
            watches = self._of.get(target, set())
            if watch in watches:
                was_told = True
                watches.discard(watch)
                if not watches:
                    del self._of[target]
        return was_told

    def tell(self, target: str, path: str, revision: int | None) -> None:
        """Report a document's new revision, or its absence, to the watches of a target."""
        for watch in self._of.get(target, ()):
            watch.tell(path, revision)

    def fail(self, error: BaseException) -> None:
        """End all watches with an error."""
        ended = {watch for watches in self._of.values() for watch in watches}
        self._of.clear()
        for watch in ended:
            watch.fail(error)


def listed(targets: Sequence[str]) -> str:
    """The first few of them, for people to read."""
    shown = ", ".join(map(repr, targets[:_LISTED_MAX])) or "nothing"
    return f"{shown}, …" if len(targets) > _LISTED_MAX else shown


def is_collection(path: str) -> bool:
    """Whether a path names a collection (it has an odd number of segments) rather than a document."""
    return path.count("/") % 2 == 0
