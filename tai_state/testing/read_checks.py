"""Checks of reading."""

from __future__ import annotations

from typing import Any

from tai_state.engines.api import Delete, Engine, Fields, Put, Scan
from tai_state.testing.checking import JSON_VALUES, exactly, present, written_together


async def check_read_keeps_order_and_absence(engine: Engine) -> None:
    """A read returns documents in the order of the paths: None for a missing one, twice if a path is given twice."""
    first = await engine.commit([Put("c/a", {"n": 1})])
    second = await engine.commit([Put("c/b", {"n": 2})])
    reading = await engine.read(["c/b", "c/missing", "c/a", "c/b", "missing/a"])
    found = [document and (document.path, document.id, document.revision) for document in reading.documents]
    b = ("c/b", "b", second.revision)
    assert found == [b, None, ("c/a", "a", first.revision), b, None], found
    assert (await engine.read([])).documents == ()


async def check_read_sees_acknowledged_commits(engine: Engine) -> None:
    """Once a commit is acknowledged, every read and scan sees it."""
    for n in range(50):
        committed = await engine.commit([Put("c/a", {"n": n})])
        document = await present(engine, "c/a")
        assert (document.fields(), document.revision) == ({"n": n}, committed.revision)
        assert [each.revision async for each in engine.scan(Scan("c"))] == [committed.revision]


async def check_read_is_one_snapshot(engine: Engine) -> None:
    """Documents that are always written together are never read as of two different moments."""
    async with written_together(engine) as (paths, written):
        while not written.is_set():
            seen = {document and document.revision for document in (await engine.read(paths)).documents}
            assert len(seen) == 1, f"one read saw the revisions {seen}"


async def check_fields_are_not_shared(engine: Engine) -> None:
    """Changing fields after they were put, or after they were read, does not change what is stored."""
    fields: Fields = {"list": [1], "map": {"a": 1}}
    await engine.commit([Put("c/a", fields)])
    fields["list"].append(2)
    fields["map"]["b"] = 2
    for _ in range(2):
        read = (await present(engine, "c/a")).fields()
        assert read == {"list": [1], "map": {"a": 1}}, read
        read["list"].append(3)
        del read["map"]["a"]
    [scanned] = [document.fields() async for document in engine.scan(Scan("c"))]
    assert scanned == {"list": [1], "map": {"a": 1}}, scanned


async def check_json_round_trip(engine: Engine) -> None:
    """Every plain JSON value comes back as it was, including its types."""
    deep: Any = 1
    for _ in range(60):
        deep = [{"deep": deep}]
    samples: dict[str, Fields] = {"all": JSON_VALUES, "none": {}, "deep": {"deep": deep}}
    await engine.commit([Put(f"c/{name}", fields) for name, fields in samples.items()])
    for name, fields in samples.items():
        read = (await present(engine, f"c/{name}")).fields()
        assert set(read) == set(fields), f"{name}: keys differ: {set(read) ^ set(fields)}"
        for key, value in fields.items():
            assert exactly(read[key]) == exactly(value), f"{name}[{key!r}]: {value!r} came back as {read[key]!r}"
    scanned = {document.id: document.fields() async for document in engine.scan(Scan("c"))}
    assert exactly(scanned) == exactly(samples), "a scan yields different fields than a read"


async def check_missing_documents_are_named(engine: Engine) -> None:
    """A document that is not there is named if documents lie below it, at any depth, and no other one is."""
    ids = ["a", "a!", "a0", "ab"]
    below = [*[f"c/{each}/d/x" for each in ids], "c/far/d/x/e/y"]
    await engine.commit([*[Put(path, {}) for path in below], Put("c/a", {}), Put("c/alone", {}), Put("cc/z/d/x", {})])
    assert sorted(await engine.missing("c")) == ["a!", "a0", "ab", "far"]
    await engine.commit([Delete("c/a0/d/x"), Put("c/ab", {})])
    assert sorted(await engine.missing("c")) == ["a!", "far"]
    assert sorted(await engine.missing("c/far/d")) == ["x"]
    assert list(await engine.missing("nothing")) == []
