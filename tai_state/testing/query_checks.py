"""Checks of scanning by a field and with filters."""

# ruff: noqa: PLR2004 - assertions about small numbers, without pytest

from __future__ import annotations

from typing import Any

from tai_state.engines.api import Engine, Fields, Put, Scan, Where
from tai_state.testing.checking import MANY, fill, ids_of


async def check_scan_by_field(engine: Engine) -> None:
    """A scan by a field is in order of the field, then of the id, within its bounds, and omits documents without it."""
    values = dict(e="1", d="2", c="2", b="10", a="😀", f="ﬁ", g="", h="2", i="é", j="Z")  # noqa: C408 - short
    for collection, by in (("c", "at"), ("deep/d/c", "meta.at"), ("g/b/events", "timestamp")):
        for each, value in values.items():
            fields: Fields = {by.rpartition(".")[2]: value}
            await engine.commit([Put(f"{collection}/{each}", {"meta": fields} if "." in by else fields)])
        without: list[Fields] = [{}, {"meta": {}}, {"other": "2"}]
        await fill(engine, {f"{collection}/{n}": fields for n, fields in enumerate(without)})
        ordered = sorted((value, each) for each, value in values.items())
        for start, end in (
            ("", None),
            ("2", None),
            ("", "2"),
            ("1", "2"),
            ("2", "2"),
            ("3", "1"),
            ("11", "\uffff"),
        ):
            found = await ids_of(engine.scan(Scan(collection, by=by, start=start, end=end)))
            expected = [each for value, each in ordered if value >= start and (end is None or value < end)]
            assert found == expected, f"{collection} by {by} from {start!r} to {end!r}: {found}"
        assert await ids_of(engine.scan(Scan(collection, by=by, start="2", limit=2))) == ["c", "d"]
        assert await ids_of(engine.scan(Scan(collection, by=by, limit=0))) == []


async def check_scan_by_field_leaves_out_what_is_no_text(engine: Engine) -> None:
    """A document whose field holds a number, a boolean, null, a list or a map is left out."""
    values: list[Any] = ["text", 1, 1.5, True, False, None, [], ["text"], {}, {"at": "text"}]
    await fill(engine, {f"c/{n}": {"at": value} for n, value in enumerate(values)})
    found = [document.fields()["at"] async for document in engine.scan(Scan("c", by="at"))]
    assert found == ["text"], found


async def check_a_timestamp_may_be_anything(engine: Engine) -> None:
    """In a collection of events ``timestamp`` may be any JSON value; a scan by it yields documents where it is text."""
    values: list[Any] = ["2026-02", "2026-01", "", 5, 2.5, True, None, [1], {"a": 1}, 10**30]
    for collection in ("governors/b/events", "logs/x/events", "deep/d/events"):
        documents: dict[str, Fields] = {f"{collection}/{n}": {"timestamp": each} for n, each in enumerate(values)}
        await fill(engine, documents | {f"{collection}/none": {}})
        assert [document.fields() async for document in engine.scan(Scan(collection, end="none"))] == list(
            documents.values()
        )
        for start, end, expected in (
            ("", None, ["2", "1", "0"]),
            ("", "2", ["2"]),
            ("2026-01", "2026-02", ["1"]),
            ("0", None, ["1", "0"]),
        ):
            found = await ids_of(engine.scan(Scan(collection, by="timestamp", start=start, end=end)))
            assert found == expected, f"{collection} from {start!r} to {end!r}: {found}"
        await engine.commit(
            [Put(f"{collection}/3", {"timestamp": "2026-03"}), Put(f"{collection}/0", {"timestamp": 0})]
        )
        assert await ids_of(engine.scan(Scan(collection, by="timestamp"))) == ["2", "1", "3"]


async def check_scan_by_field_pages(engine: Engine) -> None:
    """More ties than fit on a page are neither lost nor doubled, with or without a filter."""
    documents = {f"c/{n:05}": {"at": "b" if n % 10 else "ac"[n % 20 // 10], "n": n % 3} for n in range(MANY)}
    await fill(engine, documents)
    ordered = [(fields["at"], fields["n"], path[2:]) for path, fields in documents.items()]
    ordered.sort(key=lambda each: (each[0], each[2]))
    assert await ids_of(engine.scan(Scan("c", by="at"))) == [each for _, _, each in ordered]
    third = [each for _, n, each in ordered if n == 1]
    for limit in (None, 1, 300):
        assert await ids_of(engine.scan(Scan("c", by="at", where=[Where("n", (1,))], limit=limit))) == third[:limit]
    middle = [each for at_, _, each in ordered if at_ == "b"]
    for limit in (None, 511, 512, 513, 1_024, 1_025):
        assert await ids_of(engine.scan(Scan("c", by="at", start="b", end="c", limit=limit))) == middle[:limit]


async def check_where(engine: Engine) -> None:
    """Filters test equality or membership, and all must match. Types, null and absence are kept apart."""
    values: dict[str, Any] = {"one": 1, "true": True, "zero": 0, "false": False, "text": "1", "null": None}
    values |= {"half": 0.5, "list": [1], "map": {"v": 1}, "empty": ""}
    await fill(engine, {f"c/{name}": {"v": value, "deep": {"v": value}} for name, value in values.items()})
    await fill(engine, {"c/absent": {}, "c/flat": {"deep": 1}, "c/dotted": {"deep.v": 1}})
    scalars = [name for name in values if name not in {"list", "map"}]
    for dotted in ("v", "deep.v"):
        for name in scalars:
            found = await ids_of(engine.scan(Scan("c", where=[Where(dotted, (values[name],))])))
            assert found == [name], f"{dotted} = {values[name]!r} found {found}"
        for members, expected in (
            ((1, "1", None), ["null", "one", "text"]),
            ((True, 0, "none such"), ["true", "zero"]),
            ((), []),
        ):
            found = await ids_of(engine.scan(Scan("c", where=[Where(dotted, members)])))
            assert found == expected, f"{dotted} in {members} found {found}"
    both = [Where("v", (1, 0, "1")), Where("deep.v", (0, "1", None))]
    assert await ids_of(engine.scan(Scan("c", where=both))) == ["text", "zero"]
    assert await ids_of(engine.scan(Scan("c", where=both, start="u"))) == ["zero"]
    assert await ids_of(engine.scan(Scan("c", where=both, limit=1))) == ["text"]
    assert await ids_of(engine.scan(Scan("c", where=[Where("v", (1,)), Where("v", (0,))]))) == []


async def check_where_on_few_of_many(engine: Engine) -> None:
    """A filter finds the few matching documents among more than fit on a page, even after pages without a match."""
    await fill(engine, {f"c/{n:05}": {"n": n % 800} for n in range(MANY)})
    expected = [f"{n:05}" for n in range(MANY) if n % 800 == 399]
    for limit in (None, 0, 1, 2, 3):
        assert await ids_of(engine.scan(Scan("c", where=[Where("n", (399,))], limit=limit))) == expected[:limit]
