"""The order of commits: SQLite reads it by an index."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import apsw
import pytest

from tai_state.engines.api import Put, Scan
from tai_state.engines.ordering import commit_ordered

from ...support.sqlite import connected, engine_over

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.anyio


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
