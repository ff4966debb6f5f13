"""Checks of reading from one moment."""

from __future__ import annotations

from tai_state.engines.api import Delete, Engine, Put, Scan, Where
from tai_state.testing.checking import MANY, fill, ids_of, present, raises, written_together


async def check_a_moment_stands_still(engine: Engine) -> None:
    """Nothing that is written, changed or deleted after a moment began is seen in it, by any read or scan."""
    events = "g/b/events"
    await engine.commit([Put("c/a", {"n": 1}), Put("c/b", {"n": 1}), Put(f"{events}/1", {"timestamp": "a"})])
    async with engine.moment() as moment:
        await engine.commit([Put("c/a", {"n": 2}), Delete("c/b"), Put("c/c", {"n": 1})])
        await engine.commit([Put(f"{events}/1", {"timestamp": "b"}), Put(f"{events}/2", {"timestamp": "a"})])
        for _ in range(2):
            reading = await moment.read(["c/a", "c/b", "c/c"])
            assert [each and each.fields() for each in reading.documents] == [{"n": 1}, {"n": 1}, None]
            assert await ids_of(moment.scan(Scan("c"))) == ["a", "b"]
            assert await ids_of(moment.scan(Scan("c", where=[Where("n", (1,))]))) == ["a", "b"]
            assert await ids_of(moment.scan(Scan(events, by="timestamp", end="b"))) == ["1"]
        assert await ids_of(engine.scan(Scan("c"))) == ["a", "c"], "the engine itself stands still"
    assert (await present(engine, "c/a")).fields() == {"n": 2}


async def check_a_moment_of_many_pages(engine: Engine) -> None:
    """A scan of a moment gives each document that was there, however many pages it takes and others write meanwhile."""
    ids = [f"{n:04}" for n in range(MANY)]
    await fill(engine, {f"c/{each}": {"n": 0} for each in ids})
    async with engine.moment() as moment:
        scan = moment.scan(Scan("c"))
        seen = [await anext(scan)]
        await fill(engine, {f"c/{each}+": {"n": 1} for each in ids} | {f"c/{ids[-1]}": {"n": 1}})
        seen += [document async for document in scan]
        for found in (seen, [document async for document in moment.scan(Scan("c"))]):
            assert [document.id for document in found] == ids
            assert {document.fields()["n"] for document in found} == {0}


async def check_a_moment_tears_no_commit(engine: Engine) -> None:
    """Documents that are always written together are the same in all reads and scans of a moment."""
    async with written_together(engine) as (paths, written):
        while not written.is_set():
            async with engine.moment() as moment:
                found = [document.revision async for document in moment.scan(Scan("c"))]
                found += [document.revision for document in (await moment.read(paths)).documents if document]
            assert (len(found), len(set(found))) == (80, 1), f"one moment has the revisions {set(found)}"


async def check_closing_ends_moments(engine: Engine) -> None:
    """What is read from a moment after the engine was closed raises RuntimeError."""
    async with engine:
        await engine.commit([Put("c/a", {"n": 1})])
        opened = engine.moment()
        moment = await opened.__aenter__()
        assert await ids_of(moment.scan(Scan("c"))) == ["a"]

    async def scan() -> None:
        await anext(moment.scan(Scan("c")))

    assert await raises(RuntimeError, moment.read(["c/a"])), "a moment is read after its engine was closed"
    assert await raises(RuntimeError, scan()), "a moment is scanned after its engine was closed"
    await opened.__aexit__(None, None, None)
