"""What one watch knows: a pure account of what Firestore says about its targets."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from tai_state.engines.api import Change


class Target:
    """One thing that Firestore watches: some documents, or a collection.

    Attributes:
        documents: the paths of the documents; empty for a collection.
        collection: the collection's path; empty for documents.
        is_current: all that was there when the target was made has been told.
    """

    def __init__(self, documents: Iterable[str] = (), collection: str = "") -> None:
        self.documents: tuple[str, ...] = tuple(documents)
        self.collection = collection
        self.is_current: bool = False
        self.revisions: dict[str, int | None] = {}
        self._told: set[str] | None = None  # while everything is told anew: what was told already

    def begin(self) -> None:
        """Firestore tells everything anew: at first, after a reset, after a new connection."""
        self._told = set()

    def tell(self, path: str, revision: int | None) -> None:
        """A document stands at a revision, or is absent."""
        if self._told is not None:
            self._told.add(path)
        self._note(path, revision)

    def end(self) -> list[str]:
        """Firestore has told everything. Returns the documents that it did not name: they are absent."""
        self.is_current = True
        told, self._told = self._told, None
        if told is None:
            return []
        absent = [path for path in {**self.revisions, **dict.fromkeys(self.documents)} if path not in told]
        for path in absent:
            self._note(path, None)
        return absent

    def _note(self, path: str, revision: int | None) -> None:
        """Remember a revision; of a collection only what is there, or whatever ever was in it would be remembered."""
        if revision is None and self.collection:
            self.revisions.pop(path, None)
        else:
            self.revisions[path] = revision


class Watched:
    """The targets of one watch, and the changes that it has not handed on yet.

    Targets may overlap in documents that are named, and one may lag behind the other. A document is absent only where
    all of them say so, and its revision never goes back; in the end all say the same. What is in collections alone is
    forgotten once it is gone.
    """

    def __init__(self, targets: Iterable[Target]) -> None:
        self.targets: tuple[Target, ...] = tuple(targets)
        self._named = {path for target in self.targets for path in target.documents}
        self._news: OrderedDict[str, Change] = OrderedDict()
        self._newest: dict[str, int] = {}  # of those that are named
        self._last: dict[str, int | None] = {}

    @property
    def is_established(self) -> bool:
        """Whether every target has been told once."""
        return all(target.is_current for target in self.targets)

    def look(self, path: str) -> None:
        """One of the targets was told of a document: note what that changes."""
        told = [target.revisions[path] for target in self.targets if path in target.revisions]
        revision = max([each for each in told if each is not None], default=None)
        if revision is not None and path in self._named:
            if revision < self._newest.get(path, 0):
                return
            self._newest[path] = revision
        if path in self._last and self._last[path] == revision:
            return
        if revision is not None or path in self._named:
            self._last[path] = revision
        elif self._last.pop(path, None) is None:
            return
        self._news[path] = Change(path, revision)

    @property
    def paths(self) -> list[str]:
        """What is watched, documents one by one."""
        return [path for target in self.targets for path in (*target.documents, target.collection) if path]

    @property
    def waiting(self) -> int:
        """How many changes are not handed on yet."""
        return len(self._news)

    def pop(self) -> Change | None:
        """The oldest change not handed on, if there is one."""
        return self._news.popitem(last=False)[1] if self._news else None
