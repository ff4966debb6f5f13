"""What one watch knows: pure bookkeeping of what Firestore reports about its targets."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from tai_state.engines.api import DocumentChange


class Target:
    """One target of a watch: some documents, or a collection.

    Attributes:
        documents: the paths of the documents; empty for a collection.
        collection: the collection's path; empty for documents.
        is_current: whether Firestore has reported all that existed when the target was made.
        revisions: the last reported revision of each document, by path; None: absent.
        removals: how often Firestore has removed the target since it was last current.
    """

    def __init__(self, documents: Iterable[str] = (), collection: str = "") -> None:
        self.documents: tuple[str, ...] = tuple(documents)
        self.collection = collection
        self.is_current: bool = False
        self.revisions: dict[str, int | None] = {}
        self.removals: int = 0
        self._told: set[str] | None = None  # while Firestore reports everything again: the paths reported so far

    def begin(self) -> None:
        """Firestore begins to report everything: at first, after a reset, and after a new connection."""
        self._told = set()

    def tell(self, path: str, revision: int | None) -> None:
        """Firestore reports that a document is at a revision, or absent (None)."""
        if self._told is not None:
            self._told.add(path)
        self._note(path, revision)

    def has(self, path: str) -> bool:
        """Whether a document is one of the target's, as far as Firestore has reported them."""
        return path in self.revisions or path in self.documents

    def end(self) -> list[str]:
        """Firestore has reported everything. Returns the documents that it did not name: they are absent."""
        self.is_current = True
        self.removals = 0
        told, self._told = self._told, None
        if told is None:
            return []
        absent = [path for path in {**self.revisions, **dict.fromkeys(self.documents)} if path not in told]
        for path in absent:
            self._note(path, None)
        return absent

    def _note(self, path: str, revision: int | None) -> None:
        """Remember a revision. An absent document of a collection is forgotten, so that memory cannot grow for ever."""
        if revision is None and self.collection:
            self.revisions.pop(path, None)
        else:
            self.revisions[path] = revision


class Watched:
    """The targets of one watch, and the changes that it has not yielded yet.

    Targets may overlap in named documents, and one may lag behind another. A document counts as absent only if all its
    targets say so, and its revision never goes back; in the end all targets agree. A document that is only in a watched
    collection is forgotten once it is deleted.
    """

    def __init__(self, targets: Iterable[Target]) -> None:
        self.targets: tuple[Target, ...] = tuple(targets)
        self._named = {path for target in self.targets for path in target.documents}
        self._news: OrderedDict[str, DocumentChange] = OrderedDict()
        self._newest: dict[str, int] = {}  # of the named documents
        self._last: dict[str, int | None] = {}

    @property
    def is_established(self) -> bool:
        """Whether every target has been reported once."""
        return all(target.is_current for target in self.targets)

    def look(self, path: str) -> None:
        """Note what a report about a document, to one of the targets, changes."""
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
        self._news[path] = DocumentChange(path, revision)

    @property
    def paths(self) -> list[str]:
        """What is watched, documents one by one."""
        return [path for target in self.targets for path in (*target.documents, target.collection) if path]

    @property
    def waiting(self) -> int:
        """How many changes are not handed on yet."""
        return len(self._news)

    def pop(self) -> DocumentChange | None:
        """The oldest change that was not yielded yet; None if there is none."""
        return self._news.popitem(last=False)[1] if self._news else None
