"""Watches of one engine: what is told of a path wakes those who watch that path or its collection, and nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence

import anyio

from tai_state.engines.api import Change

_LISTED_MAX = 3
"""Targets that a watch names when it is shown."""


class Signal:
    """Wakes everybody who waits, each time it is raised."""

    def __init__(self) -> None:
        self._event: anyio.Event | None = None  # made only when somebody waits: raising is part of every commit

    def next(self) -> anyio.Event:
        """The event that the next :meth:`raise_` sets. Take it before looking, or a change is missed."""
        if self._event is None:
            self._event = anyio.Event()
        return self._event

    def raise_(self) -> None:
        """Wake all who wait."""
        event, self._event = self._event, None
        if event is not None:
            event.set()


class Watch(AsyncIterator[Change]):
    """One watch as its user sees it: yields what it was told and has not yielded yet, the newest of each path.

    Nothing runs for it, so it may be left at any moment.

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
        return f"<{type(self).__name__} of {listed(self.targets)}, {len(self._news)} changes at hand{ended}>"

    def tell(self, path: str, revision: int | None) -> None:
        """A document stands at a revision now; None: it is absent."""
        self._news[path] = revision
        self._signal.raise_()

    def fail(self, error: BaseException) -> None:
        """Raise this once all that was told is yielded."""
        self._error = error
        self._signal.raise_()

    async def __anext__(self) -> Change:
        while not self._news:
            if self._error is not None:
                raise self._error
            await self._signal.next().wait()
        path = next(iter(self._news))
        return Change(path, self._news.pop(path))


class Watches:
    """All watches of an engine, by what they watch."""

    def __init__(self) -> None:
        self._of: dict[str, set[Watch]] = {}

    def __bool__(self) -> bool:
        return bool(self._of)

    def targets(self, path: str) -> list[str]:
        """The targets by which somebody watches a document: itself, its collection, or both."""
        return [target for target in (path, path.rpartition("/")[0]) if target in self._of]

    def add(self, watch: Watch) -> None:
        """Tell a watch from now on."""
        for target in watch.targets:
            self._of.setdefault(target, set()).add(watch)

    def remove(self, watch: Watch) -> bool:
        """Tell a watch no longer; whether it was told until now."""
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
        """Tell those who watch a target what became of one of its documents."""
        for watch in self._of.get(target, ()):
            watch.tell(path, revision)

    def fail(self, error: BaseException) -> None:
        """End all watches."""
        ended = {watch for watches in self._of.values() for watch in watches}
        self._of.clear()
        for watch in ended:
            watch.fail(error)


def listed(targets: Sequence[str]) -> str:
    """The first few of them, for people to read."""
    shown = ", ".join(map(repr, targets[:_LISTED_MAX])) or "nothing"
    return f"{shown}, …" if len(targets) > _LISTED_MAX else shown


def is_collection(path: str) -> bool:
    """Whether a path names a collection (an odd number of segments) and no document."""
    return path.count("/") % 2 == 0
