"""The order of commits: the examination finds engines that get it wrong, and SQLite reads it by an index."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import apsw
import pytest

from tai_state.engines.api import Document, Put, Scan
from tai_state.engines.memory import MemoryDocuments, MemoryEngine
from tai_state.engines.ordering import commit_ordered
from tai_state.engines.paging import Paged
from tai_state.testing import ManualClock
from tai_state.testing.order_checks import (
    check_changes_come_in_the_order_of_commits,
    check_changes_of_a_commit_stay_together,
    check_nothing_is_missed_by_following,
)

from ..support.sqlite import connected, engine_over

if TYPE_CHECKING:
    from pathlib import Path

    from tai_state.testing.conformance import EngineCheck

pytestmark = pytest.mark.anyio


class CutsCommits(MemoryEngine):
    """Gives no more documents than the limit."""

    def changed(self, collection: str, after: int = 0, limit: int | None = None) -> Paged[Document]:  # noqa: D102
        inner = super().changed(collection, after)

        async def fetch() -> list[Document] | None:
            page = await inner.page()
            return page if page is None or limit is None else page[:limit]

        return Paged(fetch)


class BeginsAgain(MemoryEngine):
    """Gives what was written at the revision as well."""

    def changed(self, collection: str, after: int = 0, limit: int | None = None) -> Paged[Document]:  # noqa: D102
        return super().changed(collection, after - 1, limit)


class GoesByName(MemoryEngine):
    """Gives the documents in the order of their ids."""

    def changed(self, collection: str, after: int = 0, limit: int | None = None) -> Paged[Document]:  # noqa: D102
        inner = super().changed(collection, after, limit)

        async def fetch() -> list[Document] | None:
            page = await inner.page()
            return None if page is None else sorted(page, key=lambda each: each.id)

        return Paged(fetch)


class GivesRevisionsEarly(MemoryDocuments):
    """Each other commit gets a revision that is given before the one of the commit that is visible first."""

    def next_revision(self) -> int:  # noqa: D102
        number = super().next_revision()
        return number + 1 if number % 2 else number - 1


def _early(clock: ManualClock) -> MemoryEngine:
    return MemoryEngine(clock, GivesRevisionsEarly())


@pytest.mark.parametrize(
    ("make", "check"),
    [
        (CutsCommits, check_changes_of_a_commit_stay_together),
        (BeginsAgain, check_changes_come_in_the_order_of_commits),
        (BeginsAgain, check_nothing_is_missed_by_following),
        (GoesByName, check_changes_come_in_the_order_of_commits),
        (_early, check_nothing_is_missed_by_following),
    ],
)
async def test_the_examination_finds_mistakes_of_order(make: Any, check: EngineCheck, clock: ManualClock):
    """An engine that cuts commits, repeats, goes by names, or shows a lower revision later, fails the check."""
    async with make(clock) as engine:
        with pytest.raises(AssertionError):
            await check(engine)


def _indexes(file: Path) -> set[object]:
    with closing(apsw.Connection(str(file))) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'index'")}


async def test_the_index_is_made_for_those_who_need_it(tmp_path: Path):
    """A file has no index by revision until the order is asked for; then it has it, however it is opened later."""
    file = tmp_path / "store.db"
    for _ in range(2):
        async with engine_over(file) as engine:
            await engine.commit([Put("g/b/events/a", {"timestamp": "1"})])
            assert [each.id async for each in engine.scan(Scan("g/b/events", by="timestamp"))] == ["a"]
    assert "documents_by_revision" not in _indexes(file)
    for _ in range(2):
        async with engine_over(file) as engine:
            ordered = commit_ordered(engine)
            assert ordered is not None
            assert [each.id async for each in ordered.changed("g/b/events")] == ["a"]
    assert "documents_by_revision" in _indexes(file)


async def test_a_look_reads_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """From a position on, the index is searched, for this collection alone, and what was before is not read."""
    file = tmp_path / "store.db"
    seen: list[tuple[str, Any]] = []

    def hook(connection: apsw.Connection) -> None:
        connection.exec_trace = lambda _, sql, bindings: seen.append((sql, bindings)) or True

    monkeypatch.setattr(apsw, "connection_hooks", [*apsw.connection_hooks, hook])
    async with engine_over(file) as engine:
        for name in "bc":
            committed = await engine.commit([Put(f"g/{name}/events/{n:04}", {"timestamp": "1"}) for n in range(900)])
        last = await engine.commit([Put("g/b/events/new", {"timestamp": ""}), Put("g/b/states/x", {})])
        ordered = commit_ordered(engine)
        assert ordered is not None
        seen.clear()
        found = [(each.id, each.revision) async for each in ordered.changed("g/b/events", committed.revision)]
        assert found == [("new", last.revision)]
    [(sql, bindings)] = [each for each in seen if "revision, id)" in each[0]]
    with closing(connected(file)) as connection:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", bindings)]
    assert plan[0] == ("SEARCH documents USING INDEX documents_by_revision (collection=? AND revision>?)"), plan
