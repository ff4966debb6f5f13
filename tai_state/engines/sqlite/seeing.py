"""The last seen revisions of all watched documents in a file, and the changes since."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias

import apsw
import msgspec

from tai_state.engines.api import split
from tai_state.engines.watching import is_collection

LARGE: Final = 256
"""A collection with more documents is looked at separately."""

# A damaged page may hold any bytes in the place of an id or a revision. Whoever reads the document sees the damage.
_WHOLE: Final = "iif(typeof(documents.revision) IN ('text', 'blob'), 0, documents.revision)"
_REVISION: Final = f"SELECT {_WHOLE} FROM documents WHERE collection = ? AND id = ?"  # noqa: S608 - columns
_MOVED_SINCE: Final = f"SELECT CAST(id AS BLOB), {_WHOLE} FROM documents WHERE collection = ? AND revision > ?"  # noqa: S608
_COUNT: Final = "SELECT count(*) FROM documents WHERE collection = ?"
_IDS: Final = "SELECT CAST(id AS BLOB) FROM documents WHERE collection = ?"
_MOVED_OF: Final = f"""
SELECT watched.value ->> 0, watched.value ->> 1, {_WHOLE} FROM json_each(?) AS watched
LEFT JOIN documents ON documents.collection = watched.value ->> 0 AND documents.id = watched.value ->> 1
WHERE {_WHOLE} IS NOT watched.value ->> 2
"""  # noqa: S608 - columns

_encode = msgspec.json.Encoder().encode

Move: TypeAlias = tuple[str, str, int | None]
"""A target, the path of one of its documents, and the document's present revision; None: it is absent."""


class Sight:
    """The revisions that were seen last; used by one thread. The connection given is inside a read transaction."""

    def __init__(self) -> None:
        self._users: Counter[str] = Counter()
        self._documents: dict[str, int | None] = {}
        self._collections: dict[str, _Collection] = {}

    def __bool__(self) -> bool:
        """Whether anything is watched."""
        return bool(self._users)

    @property
    def has_small(self) -> bool:
        """Whether single documents, or collections that are not large, are watched."""
        return bool(self._documents) or not all(each.is_large for each in self._collections.values())

    @property
    def large(self) -> list[str]:
        """The large collections, the one looked at longest ago first."""
        return [path for path, each in self._collections.items() if each.is_large]

    def enter(self, connection: apsw.Connection, targets: Sequence[str]) -> tuple[list[Move], list[Move]]:
        """Watch more targets. Returns the moves for watches that have them already, and all present documents."""
        moves: list[Move] = []
        present: list[Move] = []
        self._users.update(targets)
        try:
            for target in targets:
                if is_collection(target):
                    collection = self._collections.setdefault(target, _Collection(target))
                    found = collection.look(connection)
                    present += collection.present()
                else:
                    now: Any = connection.execute(_REVISION, split(target)).get
                    found = [(target, target, now)] if self._documents.get(target) != now else []
                    present.append((target, target, now))
                    self._documents[target] = now
                moves += found if self._users[target] > 1 else ()
        except BaseException:
            self.leave(targets)
            raise
        return moves, present

    def leave(self, targets: Iterable[str]) -> None:
        """Remove one watch of these targets."""
        for target in targets:
            self._users[target] -= 1
            if not self._users[target]:
                del self._users[target]
                self._collections.pop(target, None)
                self._documents.pop(target, None)

    def look_again(self, connection: apsw.Connection, paths: Iterable[tuple[str, str]]) -> list[Move]:
        """Look at documents again; each is given with the target by which it is watched."""
        moves: list[Move] = []
        for target, path in paths:
            now: Any = connection.execute(_REVISION, split(path)).get
            if target in self._collections:
                if self._collections[target].note(split(path)[1], now):
                    moves.append((target, path, now))
            elif target in self._documents and self._documents[target] != now:
                self._documents[target] = now
                moves.append((target, path, now))
        return moves

    def look_at_all_but_large(self, connection: apsw.Connection) -> list[Move]:
        """Look at all documents that are watched as such, and at all collections that are not large."""
        small = [each for each in self._collections.values() if not each.is_large]
        moves = [move for collection in small for move in collection.look(connection)]
        watched = _encode([(*split(path), revision) for path, revision in self._documents.items()]).decode()
        moved: list[Any] = connection.execute(_MOVED_OF, (watched,)).fetchall()
        for collection, document_id, now in moved:
            path = f"{collection}/{document_id}"
            self._documents[path] = now
            moves.append((path, path, now))
        return moves

    def look_at(self, connection: apsw.Connection, collection: str) -> list[Move]:
        """Look at one collection, if it is still watched."""
        found = self._collections.pop(collection, None)
        if found is None:
            return []
        self._collections[collection] = found  # now the last in the order of `large`
        return found.look(connection)


class _Collection:
    """The last seen revisions of a collection's documents, by id.

    Args:
        path: the collection's path.

    Attributes:
        is_large: whether a look takes so long that others should not wait for it. Only a look changes this, so a look
            that is due after another process has committed stays due until it is made.
    """

    def __init__(self, path: str) -> None:
        self.is_large: bool = False
        self._path = path
        self._newest = 0
        self._revisions: dict[str, int] = {}

    def present(self) -> list[Move]:
        """All documents that were seen in it."""
        return [(self._path, f"{self._path}/{each}", revision) for each, revision in self._revisions.items()]

    def note(self, document_id: str, revision: int | None) -> bool:
        """Note the revision of one document; returns whether it is new.

        The newest revision of the whole collection stays the same: there may be unseen revisions of others below it.
        """
        if self._revisions.get(document_id) == revision:
            return False
        if revision is None:
            del self._revisions[document_id]
        else:
            self._revisions[document_id] = revision
        return True

    def look(self, connection: apsw.Connection) -> list[Move]:
        """Find what has changed. A document that becomes visible later has a greater revision than all before."""
        moved: list[Any] = connection.execute(_MOVED_SINCE, (self._path, self._newest)).fetchall()
        named = [(_text(document_id), revision) for document_id, revision in moved]
        found: list[tuple[str, int | None]] = [each for each in named if self.note(*each)]
        self._newest = max([self._newest, *(revision for _, revision in moved)])
        if connection.execute(_COUNT, (self._path,)).get != len(self._revisions):
            there = {_text(row[0]) for row in connection.execute(_IDS, (self._path,))}
            gone = self._revisions.keys() - there
            found += [(each, None) for each in gone if self.note(each, None)]
        self.is_large = len(self._revisions) > LARGE
        return [(self._path, f"{self._path}/{document_id}", revision) for document_id, revision in found]


def _text(document_id: Any) -> str:
    return document_id.decode(errors="backslashreplace") if isinstance(document_id, bytes) else str(document_id)
