"""The examination that every engine passes: what the docstrings of the waist promise, as checks.

For authors of engines, with whatever runs their tests::

    for check in ENGINE_CHECKS:
        async with MyEngine(...) as engine:      # new and empty for each check
            await check(engine)
    for check in REOPEN_CHECKS:                  # engines that are durable
        await check(lambda: MyEngine(...))       # each call: the same store, empty at first

A check raises AssertionError where the engine breaks its contract. Nothing here waits for time to pass, and a
hang ends after a minute. Let the engine's clock move with each look, or the check of times shows little. The
whole examination is in this one file, long as it is, so that an author has one place to look.
"""

# ruff: noqa: PLR2004, PT017, PT018 - assertions about small numbers, without pytest

from __future__ import annotations

import gc
import json
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import anyio
import anyio.lowlevel
import msgspec

from tai_state.engines.api import (
    ABSENT,
    ANYTHING,
    PRESENT,
    Change,
    Check,
    Committed,
    Delete,
    Document,
    Engine,
    Fields,
    Put,
    Require,
    Where,
    Write,
    after,
    at,
)
from tai_state.errors import CommitRefused, CommitTooLarge, DocumentTooLarge

EngineCheck: TypeAlias = Callable[[Engine], Awaitable[None]]
EngineMaker: TypeAlias = Callable[[], Engine]
ReopenCheck: TypeAlias = Callable[[EngineMaker], Awaitable[None]]

_HANG_SECONDS: Final = 60
_MANY: Final = 1_300
"""Documents that fill more than two of any engine's pages."""


# What the checks have in common


async def _document(engine: Engine, path: str) -> Document:
    [document] = (await engine.read([path])).documents
    assert document is not None, f"{path} is not there"
    return document


async def _ids(scan: AsyncIterator[Document]) -> list[str]:
    return [document.id async for document in scan]


async def _fill(engine: Engine, documents: Mapping[str, Fields]) -> None:
    """Store these documents in as few commits as the engine's limits allow."""
    limits = engine.capabilities
    batch: list[Put] = []
    size = 0
    for path, fields in documents.items():
        more = len(msgspec.json.encode(fields))
        if len(batch) == limits.max_ops_per_commit or size + more > limits.max_bytes_per_commit:
            await engine.commit(batch)
            batch, size = [], 0
        batch.append(Put(path, fields))
        size += more
    await engine.commit(batch)


async def _let_others_run(times: int) -> None:
    for _ in range(times):
        await anyio.lowlevel.checkpoint()


async def _until(changes: AsyncIterator[Change], *wanted: Change) -> list[Change]:
    """All that a watch yields, up to the last of the changes wanted."""
    missing = set(wanted)
    seen: list[Change] = []
    with anyio.fail_after(_HANG_SECONDS):
        while missing:
            seen.append(await anext(changes))
            missing.discard(seen[-1])
    return seen


def _sized(size: int) -> Fields:
    """Fields whose JSON is of exactly so many bytes."""
    return {"text": "x" * (size - len('{"text":""}'))}


# Reading


async def check_read_keeps_order_and_absence(engine: Engine) -> None:
    """A read answers in the order asked, None for what is missing, and twice for what is asked twice."""
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
        document = await _document(engine, "c/a")
        assert (document.fields(), document.revision) == ({"n": n}, committed.revision)
        assert [each.revision async for each in engine.scan("c")] == [committed.revision]


async def check_read_is_one_snapshot(engine: Engine) -> None:
    """Documents that are always written together are never read from two moments."""
    paths = [f"c/{n:02}" for n in range(40)]
    written = anyio.Event()

    async def write() -> None:
        for n in range(40):
            await engine.commit([Put(path, {"n": n}) for path in paths])
        written.set()

    await engine.commit([Put(path, {"n": -1}) for path in paths])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        while not written.is_set():
            seen = {document and document.revision for document in (await engine.read(paths)).documents}
            assert len(seen) == 1, f"one read saw the revisions {seen}"


async def check_fields_are_not_shared(engine: Engine) -> None:
    """What a caller does to fields that were put, or that were read, changes nothing stored."""
    fields: Fields = {"list": [1], "map": {"a": 1}}
    await engine.commit([Put("c/a", fields)])
    fields["list"].append(2)
    fields["map"]["b"] = 2
    for _ in range(2):
        read = (await _document(engine, "c/a")).fields()
        assert read == {"list": [1], "map": {"a": 1}}, read
        read["list"].append(3)
        del read["map"]["a"]
    [scanned] = [document.fields() async for document in engine.scan("c")]
    assert scanned == {"list": [1], "map": {"a": 1}}, scanned


_JSON: Final[Fields] = {
    "ints": [0, -1, 2**53 + 1, 2**63 - 1, -(2**63), 2**63, 2**64, -(2**64), 10**60],
    "floats": [0.0, -0.0, 1.0, 0.1, 1e16, 5e-324, 1.7976931348623157e308, -2.5],
    "texts": ["", " ", "é", "e\u0301", "😀", "\x00", "\x1f\x7f", "\ud7ff\ue000\uffff", '"\\/', "\u2028"],
    "true": True,
    "false": False,
    "null": None,
    "empty": {"map": {}, "list": [], "text": ""},
    "nested": [[[]], [{}], [None, [True, {"a": [{"b": {"c": [1, [2, [3]]]}}]}]]],
    "": "the empty key",
    "a.b/c~d": {"__x__": 1, "😀": 2, " ": 3, "\x00": 4},
}


def _exactly(value: Any) -> str:
    """A text that differs where values differ, types included: 1 is not 1.0 nor true, and -0.0 is not 0.0."""
    return json.dumps(value, sort_keys=True)


async def check_json_round_trip(engine: Engine) -> None:
    """Every plain JSON value comes back as it was, types included."""
    deep: Any = 1
    for _ in range(60):
        deep = [{"deep": deep}]
    samples: dict[str, Fields] = {"all": _JSON, "none": {}, "deep": {"deep": deep}}
    await engine.commit([Put(f"c/{name}", fields) for name, fields in samples.items()])
    for name, fields in samples.items():
        read = (await _document(engine, f"c/{name}")).fields()
        assert set(read) == set(fields), f"{name}: keys differ: {set(read) ^ set(fields)}"
        for key, value in fields.items():
            assert _exactly(read[key]) == _exactly(value), f"{name}[{key!r}]: {value!r} came back as {read[key]!r}"
    scanned = {document.id: document.fields() async for document in engine.scan("c")}
    assert _exactly(scanned) == _exactly(samples), "a scan gives other fields than a read"


# Committing


async def _history(engine: Engine, path: str, history: str) -> tuple[int | None, int]:
    """Give a document its past. Returns its revision now (None: absent) and one that is not its own."""
    stale = (await engine.commit([Put("others/a" if history == "never made" else path, {"old": True})])).revision
    if history == "never made":
        return None, stale
    if history != "rewritten":
        await engine.commit([Delete(path)])
    if history == "deleted":
        return None, stale
    return (await engine.commit([Put(path, {"old": False})])).revision, stale


async def _attempt(engine: Engine, write: Write, *, allowed: bool, what: str) -> None:
    """Commit a write between two others, and look at what became of all three."""
    await engine.commit([Put("companions/put", {}), Put("companions/deleted", {})])
    paths = ["companions/put", write.path, "companions/deleted"]
    before = (await engine.read(paths)).documents
    try:
        committed = await engine.commit([Put(paths[0], {"new": True}), write, Delete(paths[2])])
    except CommitRefused as refused:
        assert not allowed, f"{what} was refused"
        assert refused.path in {write.path, ""}, f"{what}: the refusal names {refused.path}"
        assert (await engine.read(paths)).documents == before, f"{what}: the refused commit changed something"
        return
    assert allowed, f"{what} was applied"
    companion, document, deleted = (await engine.read(paths)).documents
    assert companion is not None and companion.revision == committed.revision, what
    assert companion.fields() == {"new": True}, what
    assert deleted is None, what
    if isinstance(write, Put):
        assert document is not None and document.revision == committed.revision, what
        assert document.fields() == write.fields, what
    else:
        assert document == (None if isinstance(write, Delete) else before[1]), what


async def check_preconditions(engine: Engine) -> None:
    """Each requirement, on each past of a document, lets each kind of write through or refuses the commit."""
    kinds: dict[str, Callable[[str, Require], Write]] = {
        "put": lambda path, require: Put(path, {"put": True}, require),
        "delete": Delete,
        "check": Check,
    }
    for history in ("never made", "rewritten", "deleted", "made again"):
        for kind, make in kinds.items():
            for name in ("absent", "present", "at its revision", "at another", "at zero", "anything"):
                path = f"c/{history} {kind} {name}"
                revision, stale = await _history(engine, path, history)
                if name == "at its revision" and revision is None:
                    continue
                cases: dict[str, tuple[Require, bool]] = {
                    "absent": (ABSENT, revision is None),
                    "present": (PRESENT, revision is not None),
                    "at its revision": (at(revision or 0), True),
                    "at another": (at(stale), False),
                    "at zero": (at(0), False),
                    "anything": (ANYTHING, True),
                }
                require, allowed = cases[name]
                await _attempt(engine, make(path, require), allowed=allowed, what=path)


async def check_commit_is_all_or_nothing(engine: Engine) -> None:
    """One refusal, at whatever place of a commit, leaves all of its documents as they were."""
    kept = await engine.commit([Put("c/1", {"kept": True}), Put("c/3", {"kept": True})])
    good: list[Write] = [Put("c/0", {}), Put("c/1", {}), Delete("c/3"), Put("other/4", {})]
    for place in range(len(good) + 1):
        try:
            await engine.commit([*good[:place], Check("c/missing", PRESENT), *good[place:]])
        except CommitRefused:
            pass
        else:
            raise AssertionError(f"a refusal at place {place} was not raised")
        assert [(each.id, each.revision) async for each in engine.scan("c")] == [
            ("1", kept.revision),
            ("3", kept.revision),
        ]
        assert await _ids(engine.scan("other")) == []
    committed = await engine.commit(good)
    assert [(each.id, each.revision) async for each in engine.scan("c")] == [
        ("0", committed.revision),
        ("1", committed.revision),
    ]
    assert await _ids(engine.scan("other")) == ["4"]


async def check_a_path_stands_in_a_commit_once(engine: Engine) -> None:
    """A commit that names a path twice, in whatever kinds of writes, is a ValueError and changes nothing."""
    kinds: list[Write] = [Put("c/a", {}), Delete("c/a"), Check("c/a", ANYTHING)]
    for one in kinds:
        for other in kinds:
            try:
                await engine.commit([Put("c/b", {}), one, other])
            except ValueError:
                continue
            raise AssertionError(f"{one} and {other} were taken")
    assert await _ids(engine.scan("c")) == []


async def check_revisions_grow(engine: Engine) -> None:
    """Every commit has one revision, above all before it: over rewrites, deletions, and being made again."""
    revisions: list[int] = []
    for writes in (
        [Put("c/a", {"n": 1}), Put("c/b", {"n": 1})],
        [Put("c/a", {"n": 1})],
        [Put("c/a", {"n": 1}), Put("d/c", {})],
        [Delete("c/a")],
        [Put("c/a", {"n": 1})],
        [Delete("c/a"), Delete("c/b"), Delete("d/c")],
        [Put("c/a", {"n": 1}, ABSENT), Put("e/f", {})],
    ):
        revisions.append((await engine.commit(writes)).revision)
        puts = [write.path for write in writes if isinstance(write, Put)]
        found = {document and document.revision for document in (await engine.read(puts)).documents}
        assert found <= {revisions[-1]}, f"the commit's revision is {revisions[-1]}, its documents' {found}"
    assert revisions == sorted(set(revisions)), f"the revisions {revisions} do not grow"


async def check_times(engine: Engine) -> None:
    """A document keeps its create time over rewrites; deleted and made again, it has a new one."""
    await engine.commit([Put("c/a", {"n": 1})])
    first = await _document(engine, "c/a")
    await engine.commit([Put("c/a", {"n": 2})])
    rewritten = await _document(engine, "c/a")
    await engine.commit([Delete("c/a")])
    again_committed = await engine.commit([Put("c/a", {"n": 3})])
    again = await _document(engine, "c/a")
    assert first.created_us == first.updated_us
    assert rewritten.created_us == first.created_us <= rewritten.updated_us, (first, rewritten)
    assert again.created_us == again.updated_us == again_committed.time_us >= rewritten.updated_us, again
    reading = await engine.read(["c/a"])
    assert reading.time_us >= again.updated_us, "the time of a read is before what it read"


async def check_limits(engine: Engine) -> None:
    """What is over a limit is refused before anything is written; what just reaches it is stored."""
    limits = engine.capabilities
    document, total = limits.max_document_bytes, limits.max_bytes_per_commit
    await engine.commit([Put("c/full", _sized(document))])
    assert (await _document(engine, "c/full")).fields() == _sized(document)
    whole, rest = divmod(total, document)
    over = [Put(f"c/{n}", _sized(document)) for n in range(whole)] + [Put("c/rest", _sized(rest + 100))]
    many = [Put(f"c/{n}", {}) for n in range(limits.max_ops_per_commit + 1)]
    checks = [Check(f"c/{n}", ABSENT) for n in range(limits.max_ops_per_commit)]
    too_large: list[tuple[type[Exception], Sequence[Write]]] = [
        (DocumentTooLarge, [Put("c/a", {}), Put("c/b", _sized(document + 1)), Check("c/full", ABSENT)]),
        (CommitTooLarge, [*over, Check("c/full", ABSENT)]),
        (CommitTooLarge, many),
        (CommitTooLarge, [Put("c/a", {}), *checks]),
    ]
    for error, writes in too_large:
        try:
            await engine.commit(writes)
        except error:
            continue
        raise AssertionError(f"{error.__name__} was not raised for {len(writes)} writes")
    assert await _ids(engine.scan("c")) == ["full"]
    await engine.commit(many[1:])
    assert len(await _ids(engine.scan("c"))) == limits.max_ops_per_commit + 1


# Scanning

_ORDERED_IDS: Final = (
    *(
        "!",
        "%2F",
        "%2Fa",
        "-",
        "0",
        "00",
        "1",
        "10",
        "2",
        "A",
        "B",
        "Z",
        "_",
        "a",
        "a b",
        "a!",
        "a%2Fb",
        "a0",
    ),
    *(
        "aa",
        "az",
        "a~",
        "a~000000000009",
        "a~000000000010",
        "a~000000000010~",
        "b",
        "e\u0301",
        "z",
        "|",
        "~",
        "~~",
    ),
    *("é", "ê", "\u0fff", "\ud7ff", "\ue000", "ﬁ", "\uffff", "𐀀", "😀", "😀a", "\U0010ffff"),
)


async def check_scan_order(engine: Engine) -> None:
    """Documents come in the order of their ids by code point: no locale, case, normal form or UTF-16."""
    await _fill(engine, {f"c/{each}": {"id": each} for each in reversed(_ORDERED_IDS)})
    found = [(document.id, document.path, document.fields()) async for document in engine.scan("c")]
    assert found == [(each, f"c/{each}", {"id": each}) for each in _ORDERED_IDS], found


async def check_scan_bounds(engine: Engine) -> None:
    """A scan starts with its first bound, ends before its second, and takes any text for either."""
    await _fill(engine, {f"c/{each}": {} for each in _ORDERED_IDS})
    bounds = ("", *_ORDERED_IDS, "a~0", "c", "é0", "\U0010ffff\U0010ffff")
    for start in bounds:
        expected = [each for each in _ORDERED_IDS if each >= start]
        found = await _ids(engine.scan("c", start=start))
        assert found == expected, f"from {start!r}: {found}"
        for end in bounds[:: len(bounds) // 9]:
            found = await _ids(engine.scan("c", start=start, end=end))
            assert found == [each for each in expected if each < end], f"from {start!r} to {end!r}: {found}"


async def check_scan_resumes(engine: Engine) -> None:
    """From ``after(id)`` a scan goes on behind that id, also where it is a prefix of the next, or gone."""
    await _fill(engine, {f"c/{each}": {} for each in _ORDERED_IDS})
    seen: list[str] = []
    place = ""
    while page := await _ids(engine.scan("c", start=place, limit=3)):
        seen += page
        place = after(page[-1])
        await engine.commit([Delete(f"c/{page[-1]}")])
    assert seen == list(_ORDERED_IDS), seen


async def check_scan_keeps_to_its_collection(engine: Engine) -> None:
    """A scan leaves out collections below, above and beside its own, also those whose names begin alike."""
    own = [f"g/b/states/{each}" for each in ("alice", "alice~1", "bob")]
    foreign = [
        "g/b",
        "g/b/states/alice/notes/1",
        "g/b/states2/x",
        "g/b/state/x",
        "g/b/states~/x",
        "g/bb/states/x",
    ]
    foreign += ["states/x", "g/b/states/alice/notes/1/states/x", "g/B/states/x", "g/b/states%2Fx/y"]
    await _fill(engine, {path: {"at": "1", "n": 1} for path in foreign + own})
    for scan in (
        engine.scan("g/b/states"),
        engine.scan("g/b/states", where=[Where("n", (1,))]),
        engine.scan("g/b/states", by="at"),
        engine.scan("g/b/states", end="~"),
    ):
        assert [document.path async for document in scan] == own
    assert await _ids(engine.scan("g")) == ["b"]
    assert await _ids(engine.scan("g/b/states/alice/notes")) == ["1"]
    assert await _ids(engine.scan("g/b/nothing")) == []


async def check_scan_pages_and_limits(engine: Engine) -> None:
    """However many documents there are and are asked for, a scan gives them once each and in order."""
    ids = [f"{n:05}" for n in range(_MANY)]
    await _fill(engine, {f"c/{each}": {"n": each} for each in ids})
    assert await _ids(engine.scan("c")) == ids
    for limit in (0, 1, 2, 255, 256, 511, 512, 513, 1_023, 1_024, 1_025, _MANY - 1, _MANY, _MANY + 1):
        assert await _ids(engine.scan("c", limit=limit)) == ids[:limit], f"with limit {limit}"
        assert await _ids(engine.scan("c", end=f"{limit:05}")) == ids[:limit], f"up to {limit}"
        assert await _ids(engine.scan("c", start=f"{limit:05}", limit=600)) == ids[limit : limit + 600]
    assert await _ids(engine.scan("empty", limit=1)) == []


async def check_scan_large_documents(engine: Engine) -> None:
    """Documents of many megabytes together are scanned whole and in order."""
    size = engine.capabilities.max_document_bytes // 3
    documents = {f"c/{n:02}": _sized(size + n) for n in range(12)} | {"c/05": _sized(size * 3)}
    await _fill(engine, documents)
    found = [(document.path, document.fields()) async for document in engine.scan("c")]
    assert found == sorted(documents.items()), "a scan of large documents lost or changed some"
    assert await _ids(engine.scan("c", start="03", limit=7)) == [f"{n:02}" for n in range(3, 10)]


async def check_scan_while_written(engine: Engine) -> None:
    """What is not touched while a scan runs is seen exactly once, in order, whatever happens around it."""
    for collection, by in (("c", None), ("d", "at")):
        await _fill(engine, {f"{collection}/{n:05}": {"at": f"{n // 7:05}"} for n in range(_MANY)})
        seen: list[str] = []
        async for document in engine.scan(collection, by=by):
            seen.append(document.id)
            if len(seen) % 100 == 1:
                tens = int(document.id[:5]) // 10 * 10
                writes: list[Write] = [
                    Put(f"{collection}/{tens:05}", {"at": "99999"}),
                    Delete(f"{collection}/{tens + 1:05}"),
                    Delete(f"{collection}/{tens + 311:05}"),
                    Put(f"{collection}/{tens + 2:05}~new", {"at": f"{tens // 7:05}"}),
                    Put(f"{collection}/{tens + 502:05}~new", {"at": f"{tens // 7 + 60:05}"}),
                ]
                await engine.commit(writes)
        untouched = [f"{n:05}" for n in range(_MANY) if n % 10 > 1]
        assert [each for each in seen if "~" not in each and int(each) % 10 > 1] == untouched, f"by {by}"


async def check_scan_broken_off(engine: Engine) -> None:
    """A scan that its caller leaves, without closing anything, holds nothing and warns of nothing."""
    await _fill(engine, {f"c/{n:05}": {"at": f"{n:05}"} for n in range(_MANY)})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for by in (None, "at"):
            for place in (1, 600):
                seen = 0
                async for _ in engine.scan("c", by=by):
                    seen += 1
                    if seen == place:
                        break
        unused = engine.scan("c")
        del unused
        gc.collect()
        await _let_others_run(3)
    assert not caught, f"leaving a scan warns: {caught[0].message}"
    await engine.commit([Delete(f"c/{n:05}") for n in range(_MANY)][: engine.capabilities.max_ops_per_commit])


async def check_scan_by_field(engine: Engine) -> None:
    """A scan by a field is in its order, ties by id, within bounds, and leaves out documents without it."""
    values = dict(e="1", d="2", c="2", b="10", a="😀", f="ﬁ", g="", h="2", i="é", j="Z")  # noqa: C408 - short
    for collection, by in (("c", "at"), ("deep/d/c", "meta.at"), ("g/b/events", "timestamp")):
        for each, value in values.items():
            fields: Fields = {by.rpartition(".")[2]: value}
            await engine.commit([Put(f"{collection}/{each}", {"meta": fields} if "." in by else fields)])
        without: list[Fields] = [{}, {"meta": {}}, {"other": "2"}]
        await _fill(engine, {f"{collection}/{n}": fields for n, fields in enumerate(without)})
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
            found = await _ids(engine.scan(collection, by=by, start=start, end=end))
            expected = [each for value, each in ordered if value >= start and (end is None or value < end)]
            assert found == expected, f"{collection} by {by} from {start!r} to {end!r}: {found}"
        assert await _ids(engine.scan(collection, by=by, start="2", limit=2)) == ["c", "d"]
        assert await _ids(engine.scan(collection, by=by, limit=0)) == []


async def check_scan_by_field_leaves_out_what_is_no_text(engine: Engine) -> None:
    """Where the field holds a number, a truth value, null, a list or a map, the document is left out."""
    values: list[Any] = ["text", 1, 1.5, True, False, None, [], ["text"], {}, {"at": "text"}]
    await _fill(engine, {f"c/{n}": {"at": value} for n, value in enumerate(values)})
    found = [document.fields()["at"] async for document in engine.scan("c", by="at")]
    assert found == ["text"], found


async def check_scan_by_field_pages(engine: Engine) -> None:
    """Ties that are longer than a page are neither lost nor doubled, with a filter or without."""
    documents = {f"c/{n:05}": {"at": "b" if n % 10 else "ac"[n % 20 // 10], "n": n % 3} for n in range(_MANY)}
    await _fill(engine, documents)
    ordered = [(fields["at"], fields["n"], path[2:]) for path, fields in documents.items()]
    ordered.sort(key=lambda each: (each[0], each[2]))
    assert await _ids(engine.scan("c", by="at")) == [each for _, _, each in ordered]
    third = [each for _, n, each in ordered if n == 1]
    for limit in (None, 1, 300):
        assert await _ids(engine.scan("c", by="at", where=[Where("n", (1,))], limit=limit)) == third[:limit]
    middle = [each for at_, _, each in ordered if at_ == "b"]
    for limit in (None, 511, 512, 513, 1_024, 1_025):
        assert await _ids(engine.scan("c", by="at", start="b", end="c", limit=limit)) == middle[:limit]


async def check_where(engine: Engine) -> None:
    """Filters take equality and membership, all must hold, and types, null and absence are kept apart."""
    values: dict[str, Any] = {"one": 1, "true": True, "zero": 0, "false": False, "text": "1", "null": None}
    values |= {"half": 0.5, "list": [1], "map": {"v": 1}, "empty": ""}
    await _fill(engine, {f"c/{name}": {"v": value, "deep": {"v": value}} for name, value in values.items()})
    await _fill(engine, {"c/absent": {}, "c/flat": {"deep": 1}, "c/dotted": {"deep.v": 1}})
    scalars = [name for name in values if name not in {"list", "map"}]
    for dotted in ("v", "deep.v"):
        for name in scalars:
            found = await _ids(engine.scan("c", where=[Where(dotted, (values[name],))]))
            assert found == [name], f"{dotted} = {values[name]!r} found {found}"
        for members, expected in (
            ((1, "1", None), ["null", "one", "text"]),
            ((True, 0, "none such"), ["true", "zero"]),
            ((), []),
        ):
            found = await _ids(engine.scan("c", where=[Where(dotted, members)]))
            assert found == expected, f"{dotted} in {members} found {found}"
    both = [Where("v", (1, 0, "1")), Where("deep.v", (0, "1", None))]
    assert await _ids(engine.scan("c", where=both)) == ["text", "zero"]
    assert await _ids(engine.scan("c", where=both, start="u")) == ["zero"]
    assert await _ids(engine.scan("c", where=both, limit=1)) == ["text"]
    assert await _ids(engine.scan("c", where=[Where("v", (1,)), Where("v", (0,))])) == []


async def check_where_on_few_of_many(engine: Engine) -> None:
    """A filter finds the few that match among more documents than a page holds."""
    await _fill(engine, {f"c/{n:05}": {"n": n % 400} for n in range(_MANY)})
    expected = [f"{n:05}" for n in range(_MANY) if n % 400 == 399]
    for limit in (None, 0, 1, 2, 3, 4):
        assert await _ids(engine.scan("c", where=[Where("n", (399,))], limit=limit)) == expected[:limit]


# Watching


async def check_watch_begins_with_what_is(engine: Engine) -> None:
    """A watch first yields each named document's revision or absence, and what is in the collections."""
    first = await engine.commit(
        [Put("c/a", {}), Put("c/b", {}), Put("c/b/below/x", {}), Put("d/a", {}), Put("e/a", {})]
    )
    second = await engine.commit([Put("c/b", {})])
    expected = [Change("c/a", first.revision), Change("c/b", second.revision)]
    expected += [Change("d/a", first.revision), Change("d/missing", None)]
    async with engine.watch("c", "d/a", "d/missing") as changes:
        seen = await _until(changes, *expected)
    assert len(seen) == len(expected), f"the watch also yielded something else: {seen}"


async def check_watch_misses_nothing_after_entering(engine: Engine) -> None:
    """What is written between entering the watch and the first wait is yielded."""
    await engine.commit([Put("c/a", {}), Put("d/a", {})])
    async with engine.watch("c/a", "d", "c/b") as changes:
        gone = await engine.commit([Delete("c/a")])
        made = await engine.commit([Put("d/a", {}), Put("d/b", {}), Put("c/b", {})])
        last = [Change("c/a", None), *(Change(path, made.revision) for path in ("d/a", "d/b", "c/b"))]
        await _until(changes, *last)
    assert made.revision > gone.revision


async def check_watch_tells_of_a_deletion_right_after_entering(engine: Engine) -> None:
    """What is deleted from a watched collection between entering and the first wait is reported gone."""
    await engine.commit([Put("c/gone", {})])
    seen: list[Change] = []
    async with engine.watch("c") as changes:
        await engine.commit([Delete("c/gone")])
        for _ in range(5):
            marker = await engine.commit([Put("c/marker", {})])
            seen += await _until(changes, Change("c/marker", marker.revision))
    assert Change("c/gone", None) in seen, f"the deletion was never yielded: {seen}"


async def check_watch_always_ends_with_the_last(engine: Engine) -> None:
    """Changes may be joined into one, but revisions never go back, and the last always arrives."""
    committed = await engine.commit([Put("c/a", {})])
    async with engine.watch("c/a") as changes:
        await _until(changes, Change("c/a", committed.revision))
        for n in range(1, 30):
            for _ in range(n % 4 + 1):
                committed = await engine.commit([Put("c/a", {"n": n})])
            last = Change("c/a", committed.revision)
            seen = [each.revision or 0 for each in await _until(changes, last)]
            assert seen == sorted(set(seen)), f"the watch went back: {seen}"


async def check_watch_tells_of_deletions(engine: Engine) -> None:
    """Deleted documents are yielded as absent, and those made again at their new revision."""
    for targets in (("c/a",), ("c",), ("c", "c/a")):
        made = await engine.commit([Put("c/a", {})])
        async with engine.watch(*targets) as changes:
            await _until(changes, Change("c/a", made.revision))
            await engine.commit([Delete("c/a")])
            await _until(changes, Change("c/a", None))
            again = await engine.commit([Put("c/a", {})])
            await _until(changes, Change("c/a", again.revision))
            await engine.commit([Delete("c/a")])
            at_last = await engine.commit([Put("c/a", {})])
            await _until(changes, Change("c/a", at_last.revision))


async def check_watch_wakes_everybody(engine: Engine) -> None:
    """Several watches at once, of the same and of other targets, each learn of what concerns them."""
    made = last = (await engine.commit([Put("c/a", {}), Put("c/b", {})])).revision
    woken: list[Change] = []

    async def wait(changes: AsyncIterator[Change]) -> None:
        woken.append(await anext(changes))

    async with (
        engine.watch("c/a") as one,
        engine.watch("c/a") as same,
        engine.watch("c") as collection,
        engine.watch("c/b", "c/a") as two,
    ):
        for changes in (one, same):
            await _until(changes, Change("c/a", made))
        for changes in (collection, two):
            await _until(changes, Change("c/a", made), Change("c/b", made))
        with anyio.fail_after(_HANG_SECONDS):
            async with anyio.create_task_group() as tasks:
                for changes in (one, same, collection, two):
                    tasks.start_soon(wait, changes)
                await _let_others_run(5)
                await engine.commit([Put("e/a", {}), Put("c/a/below/x", {})])
                last = (await engine.commit([Put("c/a", {})])).revision
    assert woken == [Change("c/a", last)] * 4, woken


async def check_watch_left_early(engine: Engine) -> None:
    """A watch may be left unused, after its first change, or by cancelling; nothing is held or broken."""
    committed = await engine.commit([Put("c/a", {})])
    async with engine.watch("c/a"):
        pass
    async with engine.watch("c/a", "c") as changes:
        assert await anext(changes) == Change("c/a", committed.revision)
    for moment in range(6):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_watch_for_ever, engine)
            await _let_others_run(moment)
            tasks.cancel_scope.cancel()
    async with engine.watch("c/a") as changes:
        committed = await engine.commit([Put("c/a", {})])
        await _until(changes, Change("c/a", committed.revision))


async def _watch_for_ever(engine: Engine) -> None:
    async with engine.watch("c/a") as changes:
        async for _ in changes:
            pass


# Many at once

_WRITERS: Final = 32


async def check_one_writer_wins(engine: Engine) -> None:
    """Of many writers at once that saw the same revision, or the same absence, exactly one succeeds."""
    revision: int | None = None
    for _ in range(20):
        winners: list[tuple[int, int]] = []

        async def attempt(name: int, require: Require, winners: list[tuple[int, int]] = winners) -> None:
            try:
                committed = await engine.commit([Put("c/a", {"winner": name}, require), Put(f"d/{name}", {})])
            except CommitRefused:
                return
            winners.append((name, committed.revision))

        async with anyio.create_task_group() as tasks:
            for name in range(_WRITERS):
                tasks.start_soon(attempt, name, ABSENT if revision is None else at(revision))
        assert len(winners) == 1, f"{len(winners)} writers won at once"
        [(winner, revision)] = winners
        document = await _document(engine, "c/a")
        assert (document.fields(), document.revision) == ({"winner": winner}, revision)
        assert await _ids(engine.scan("d")) == [str(winner)], "a loser's other document is there"
        await engine.commit([Delete(f"d/{winner}")])


async def check_no_increment_is_lost(engine: Engine) -> None:
    """Many writers that read, add one and compare and set until they succeed count every addition."""
    await engine.commit([Put("c/a", {"n": 0})])

    async def increment() -> None:
        while True:
            document = await _document(engine, "c/a")
            try:
                await engine.commit([Put("c/a", {"n": document.fields()["n"] + 1}, at(document.revision))])
            except CommitRefused:
                continue
            return

    async with anyio.create_task_group() as tasks:
        for _ in range(_WRITERS):
            tasks.start_soon(increment)
    assert (await _document(engine, "c/a")).fields() == {"n": _WRITERS}


# Cancelling

_MOMENTS: Final = 32
_CALLERS: Final = 8


def _batch(moment: int, caller: int) -> list[Put]:
    return [Put(f"c/{moment}-{caller}-{n:02}", {"caller": caller}) for n in range(20)]


async def _judge_cancelled(engine: Engine, moment: int, acknowledged: Mapping[int, int]) -> None:
    """Each commit is there whole or not at all; those acknowledged are, and so are the odd callers', all."""
    for caller in range(_CALLERS):
        documents = (await engine.read([put.path for put in _batch(moment, caller)])).documents
        revisions = {document and document.revision for document in documents}
        assert len(revisions) == 1, f"of a commit cancelled at moment {moment} only a part is there"
        if caller in acknowledged:
            assert revisions == {acknowledged[caller]}, f"an acknowledged commit is not there (moment {moment})"
        assert caller in acknowledged or caller % 2 == 0, f"another caller's commit was lost (moment {moment})"


async def check_cancelled_commits(engine: Engine) -> None:
    """A cancelled commit is there wholly or not at all, and other callers' are applied and answered."""
    for moment in range(_MOMENTS):
        acknowledged: dict[int, int] = {}

        async def commit(
            caller: int, scope: anyio.CancelScope, moment: int = moment, to: dict[int, int] = acknowledged
        ) -> None:
            with scope:
                to[caller] = (await engine.commit(_batch(moment, caller))).revision

        scopes = [anyio.CancelScope() for _ in range(_CALLERS)]
        with anyio.fail_after(_HANG_SECONDS):
            async with anyio.create_task_group() as tasks:
                for caller, scope in enumerate(scopes):
                    tasks.start_soon(commit, caller, scope)
                await _let_others_run(moment)
                for scope in scopes[::2]:
                    scope.cancel()
        await _judge_cancelled(engine, moment, acknowledged)


async def check_watch_sees_cancelled_commits(engine: Engine) -> None:
    """What commits wrote whose callers were cancelled reaches a watch like everything else."""
    async with engine.watch("c") as changes:
        for moment in range(_MOMENTS):
            async with anyio.create_task_group() as tasks:
                for caller in range(_CALLERS):
                    tasks.start_soon(engine.commit, _batch(moment, caller))
                await _let_others_run(moment)
                tasks.cancel_scope.cancel()
        marker = await engine.commit([Put("c/marker", {})])
        seen = await _until(changes, Change("c/marker", marker.revision))
        present = {Change(each.path, each.revision) async for each in engine.scan("c")}
        await _until(changes, *(present - set(seen)))


async def check_natively_cancelled_commits(engine: Engine) -> None:
    """Under asyncio, ``task.cancel()`` does no more harm than a cancel scope; else this shows nothing."""
    if not anyio.get_cancelled_exc_class().__module__.startswith("asyncio"):
        return
    import asyncio  # noqa: PLC0415 - no other event loop needs it

    async def commit(moment: int, caller: int) -> Committed:
        return await engine.commit(_batch(moment, caller))

    for moment in range(_MOMENTS):
        tasks = [asyncio.create_task(commit(moment, caller)) for caller in range(_CALLERS)]
        await _let_others_run(moment)
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), _HANG_SECONDS)
        odd = [each for each in results if not isinstance(each, Committed | asyncio.CancelledError)]
        assert not odd, f"a cancelled commit ended in {odd[0]!r}"
        acknowledged = {n: each.revision for n, each in enumerate(results) if isinstance(each, Committed)}
        await _judge_cancelled(engine, moment, acknowledged)


async def check_cancelled_reads(engine: Engine) -> None:
    """Cancelled reads and scans, at whatever moment, leave the engine as usable as before."""
    paths = [f"c/{n:05}" for n in range(_MANY)]
    await _fill(engine, {path: {"at": path} for path in paths})

    async def scan(by: str | None) -> None:
        await _ids(engine.scan("c", by=by))

    for moment in range(_MOMENTS):
        with anyio.fail_after(_HANG_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(engine.read, paths)
                tasks.start_soon(scan, None)
                tasks.start_soon(scan, "at")
                await _let_others_run(moment * 4)
                tasks.cancel_scope.cancel()
            committed = await engine.commit([Put("c/00000", {"moment": moment})])
            assert (await _document(engine, "c/00000")).revision == committed.revision
    assert await _ids(engine.scan("c")) == [path[2:] for path in paths]


# Opening again


async def check_commits_survive_closing(make: EngineMaker) -> None:
    """What was committed is there, with its revision and times, when the store is opened again."""
    async with make() as engine:
        assert engine.capabilities.durable, "only engines that are durable are examined by opening them again"
        await engine.commit([Put("c/a", _JSON), Put("c/b", {}), Put("c/gone", {})])
        await engine.commit([Put("c/b", {"n": 2}), Delete("c/gone")])
        before = [document async for document in engine.scan("c")]
    for _ in range(2):
        async with make() as engine:
            assert [document async for document in engine.scan("c")] == before
            assert (await engine.read(["c/gone", "c/a"])).documents == (None, before[0])
            assert _exactly((await _document(engine, "c/a")).fields()) == _exactly(_JSON)


async def check_revisions_grow_over_reopening(make: EngineMaker) -> None:
    """Revisions go on growing after opening again, also when the newest documents are all deleted."""
    last = stale = 0
    for _ in range(4):
        async with make() as engine:
            committed = await engine.commit([Put("c/a", {}, ABSENT)])
            assert committed.revision > last, f"revision {committed.revision} after {last}"
            try:
                await engine.commit([Put("c/a", {}, at(stale))])
            except CommitRefused:
                pass
            else:
                raise AssertionError("a revision of a former life was taken for the present one")
            stale = committed.revision
            last = (await engine.commit([Delete("c/a")])).revision
            assert last > committed.revision


async def check_closing_waits_for_commits(make: EngineMaker) -> None:
    """Commits under way when the engine is closed are applied and answered first."""
    acknowledged: dict[int, int] = {}

    async def commit(engine: Engine, caller: int) -> None:
        acknowledged[caller] = (await engine.commit(_batch(0, caller))).revision

    with anyio.fail_after(_HANG_SECONDS):
        async with anyio.create_task_group() as tasks, make() as engine:
            for caller in range(_CALLERS):
                tasks.start_soon(commit, engine, caller)
                if caller % 3 == 1:
                    await _let_others_run(2)
            await _let_others_run(2)
    assert len(acknowledged) == _CALLERS
    async with make() as engine:
        await _judge_cancelled(engine, 0, acknowledged)


async def check_two_users_of_one_store(make: EngineMaker) -> None:
    """Where several may use a store at once, each sees, watches and respects what the other commits."""
    async with make() as one:
        if not one.capabilities.processes:
            return
        made = await one.commit([Put("c/a", {"n": 1})])
        async with make() as other, other.watch("c/a", "c/b") as changes:
            await _until(changes, Change("c/a", made.revision), Change("c/b", None))
            for n in range(5):
                theirs = await one.commit([Put("c/a", {"n": n}), Delete("c/b")])
                await _until(changes, Change("c/a", theirs.revision))
                assert (await _document(other, "c/a")).revision == theirs.revision
                ours = await other.commit([Put("c/a", {"n": -n}, at(theirs.revision)), Put("c/b", {}, ABSENT)])
                assert ours.revision > theirs.revision
                assert (await _document(one, "c/b")).revision == ours.revision
                try:
                    await one.commit([Put("c/a", {}, at(theirs.revision))])
                except CommitRefused:
                    continue
                raise AssertionError("a commit was taken at a revision that another user had replaced")


ENGINE_CHECKS: Final[tuple[EngineCheck, ...]] = (
    check_read_keeps_order_and_absence,
    check_read_sees_acknowledged_commits,
    check_read_is_one_snapshot,
    check_fields_are_not_shared,
    check_json_round_trip,
    check_preconditions,
    check_commit_is_all_or_nothing,
    check_a_path_stands_in_a_commit_once,
    check_revisions_grow,
    check_times,
    check_limits,
    check_scan_order,
    check_scan_bounds,
    check_scan_resumes,
    check_scan_keeps_to_its_collection,
    check_scan_pages_and_limits,
    check_scan_large_documents,
    check_scan_while_written,
    check_scan_broken_off,
    check_scan_by_field,
    check_scan_by_field_leaves_out_what_is_no_text,
    check_scan_by_field_pages,
    check_where,
    check_where_on_few_of_many,
    check_watch_begins_with_what_is,
    check_watch_misses_nothing_after_entering,
    check_watch_tells_of_a_deletion_right_after_entering,
    check_watch_always_ends_with_the_last,
    check_watch_tells_of_deletions,
    check_watch_wakes_everybody,
    check_watch_left_early,
    check_one_writer_wins,
    check_no_increment_is_lost,
    check_cancelled_commits,
    check_watch_sees_cancelled_commits,
    check_natively_cancelled_commits,
    check_cancelled_reads,
)
"""For every engine."""

REOPEN_CHECKS: Final[tuple[ReopenCheck, ...]] = (
    check_commits_survive_closing,
    check_revisions_grow_over_reopening,
    check_closing_waits_for_commits,
    check_two_users_of_one_store,
)
"""For engines that are durable."""
