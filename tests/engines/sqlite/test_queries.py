"""Queries use the indexes, and the file is plain SQLite."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tai_state.engines.api import ABSENT, Delete, Put, Scan

from ...support.sqlite import connected, engine_over, statements_seen

anyio_test = pytest.mark.anyio


@anyio_test
async def test_a_scan_by_timestamp_uses_the_index(file: Path):
    """Events are found by the index on their timestamp, and in its order, on every page."""
    async with engine_over(file) as engine:
        await engine.commit([Put(f"g/b/events/a~{n}", {"timestamp": f"2026-{n:04}"}) for n in range(600)])
        await engine.commit([Put(f"g/c/events/a~{n}", {"timestamp": f"2026-{n:04}"}) for n in range(600)])
    with statements_seen() as statements:
        async with engine_over(file) as engine:
            statements.clear()
            found = [
                document.fields()["timestamp"]
                async for document in engine.scan(
                    Scan("g/b/events", by="timestamp", start="2026-0010", end="2026-0590")
                )
            ]
    assert found == [f"2026-{n:04}" for n in range(10, 590)]
    pages = [(sql, bindings) for sql, bindings in statements if "SELECT" in sql]
    assert len(pages) == 2
    with closing(connected(file)) as connection:
        for sql, bindings in pages:
            plan = [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + sql, bindings)]
            assert len(plan) == 1, plan
            assert "SEARCH documents USING INDEX documents_by_timestamp (collection=? AND " in plan[0]


@anyio_test
async def test_scans_and_reads_use_the_primary_key(file: Path):
    """Reading a document and scanning a range of ids search the key, and sort nothing."""
    with statements_seen() as statements:
        async with engine_over(file) as engine:
            statements.clear()
            await engine.read(["c/a", "c/b"])
            [document async for document in engine.scan(Scan("c", start="a", end="b"))]
            await engine.commit([Put("c/a", {}, ABSENT), Delete("c/b")])
    queries = [(sql, bindings) for sql, bindings in statements if "documents" in sql]
    assert len(queries) >= 5
    with closing(connected(file)) as connection:
        for sql, bindings in queries:
            for row in connection.execute("EXPLAIN QUERY PLAN " + sql, bindings):
                assert row[3].startswith("SEARCH documents USING"), (sql, row[3])


@anyio_test
async def test_the_file_is_plain_sqlite(made: Path):
    """Any SQLite of this century's third decade reads the documents, and finds the file sound."""
    async with engine_over(made) as engine:
        await engine.commit([Put("g/b/events/a~1", {"timestamp": "2026"}), Delete("c/000")])
    with closing(sqlite3.connect(made)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        [row] = connection.execute("SELECT collection, id, revision, fields FROM documents WHERE path = 'c/001'")
        assert row == ("c", "001", 1, '{"n":1,"text":"' + "x" * 1_000 + '"}')
        [(reserved,)] = connection.execute("SELECT revision FROM counter")
        assert reserved >= connection.execute("SELECT max(revision) FROM documents").fetchone()[0]
