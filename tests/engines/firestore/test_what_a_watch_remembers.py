"""A watch on Firestore remembers what is there, and not what was."""

from __future__ import annotations

from tai_state.engines.api import DocumentChange
from tai_state.engines.firestore.watching import Target, Watched

COUNT = 500


def remembered(*parts: object) -> int:
    """How many entries the tables of some objects have."""
    tables = [table for part in parts for table in vars(part).values()]
    return sum(len(table) for table in tables if isinstance(table, dict | set | list))


def test_documents_that_are_gone_are_forgotten() -> None:
    """However many documents come and go in a collection, a watch of it holds entries of those that are there."""
    target = Target(collection="c")
    watched = Watched([target])
    target.begin()
    target.end()
    for n in range(COUNT):
        path = f"c/{n}"
        for revision in (n + 1, None):
            target.tell(path, revision)
            watched.look(path)
            assert watched.pop() == DocumentChange(path, revision)
    assert remembered(target, watched) <= COUNT // 10
