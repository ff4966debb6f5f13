"""Checks of scanning by id."""

from __future__ import annotations

import gc
import warnings
from typing import Final

from tai_state.engines.api import Delete, Engine, Put, Scan, Where, Write, after
from tai_state.testing.checking import MANY, fill, ids_of, let_others_run, sized

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
    """Documents come in the order of their ids by code point, regardless of locale, case, normal form or UTF-16."""
    await fill(engine, {f"c/{each}": {"id": each} for each in reversed(_ORDERED_IDS)})
    found = [(document.id, document.path, document.fields()) async for document in engine.scan(Scan("c"))]
    assert found == [(each, f"c/{each}", {"id": each}) for each in _ORDERED_IDS], found


async def check_scan_bounds(engine: Engine) -> None:
    """A scan starts at its start, ends before its end, and accepts any text for both."""
    await fill(engine, {f"c/{each}": {} for each in _ORDERED_IDS})
    bounds = ("", *_ORDERED_IDS, "a~0", "c", "é0", "\U0010ffff\U0010ffff")
    for start in bounds:
        expected = [each for each in _ORDERED_IDS if each >= start]
        found = await ids_of(engine.scan(Scan("c", start=start)))
        assert found == expected, f"from {start!r}: {found}"
        for end in bounds[:: len(bounds) // 9]:
            found = await ids_of(engine.scan(Scan("c", start=start, end=end)))
            assert found == [each for each in expected if each < end], f"from {start!r} to {end!r}: {found}"


async def check_scan_resumes(engine: Engine) -> None:
    """From ``after(id)`` a scan goes on after that id, even if the id is a prefix of the next one, or was deleted."""
    await fill(engine, {f"c/{each}": {} for each in _ORDERED_IDS})
    seen: list[str] = []
    place = ""
    while page := await ids_of(engine.scan(Scan("c", start=place, limit=3))):
        assert len(seen) < len(_ORDERED_IDS), f"the scan does not go on after {seen[-1]!r}: {page}"
        seen += page
        place = after(page[-1])
        if len(seen) % 2:
            await engine.commit([Delete(f"c/{page[-1]}")])
    assert seen == list(_ORDERED_IDS), seen


async def check_scan_keeps_to_its_collection(engine: Engine) -> None:
    """A scan leaves out collections below, above and beside its own, even those whose names begin the same."""
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
    await fill(engine, {path: {"at": "1", "n": 1} for path in foreign + own})
    for scan in (
        engine.scan(Scan("g/b/states")),
        engine.scan(Scan("g/b/states", where=[Where("n", (1,))])),
        engine.scan(Scan("g/b/states", by="at")),
        engine.scan(Scan("g/b/states", end="~")),
    ):
        assert [document.path async for document in scan] == own
    assert await ids_of(engine.scan(Scan("g"))) == ["b"]
    assert await ids_of(engine.scan(Scan("g/b/states/alice/notes"))) == ["1"]
    assert await ids_of(engine.scan(Scan("g/b/nothing"))) == []


async def check_scan_pages_and_limits(engine: Engine) -> None:
    """Whatever the number of documents and the limit, a scan yields each document once and in order."""
    ids = [f"{n:05}" for n in range(MANY)]
    await fill(engine, {f"c/{each}": {"n": each} for each in ids})
    assert await ids_of(engine.scan(Scan("c"))) == ids
    for limit in (0, 1, 2, 255, 256, 511, 512, 513, 1_023, 1_024, 1_025, MANY - 1, MANY, MANY + 1):
        assert await ids_of(engine.scan(Scan("c", limit=limit))) == ids[:limit], f"with limit {limit}"
        assert await ids_of(engine.scan(Scan("c", end=f"{limit:05}"))) == ids[:limit], f"up to {limit}"
        assert await ids_of(engine.scan(Scan("c", start=f"{limit:05}", limit=600))) == ids[limit : limit + 600]
    assert await ids_of(engine.scan(Scan("empty", limit=1))) == []


async def check_scan_large_documents(engine: Engine) -> None:
    """Documents that take many megabytes together are scanned whole and in order."""
    size = engine.capabilities.max_document_bytes
    documents = {f"c/{n:02}": sized(size // 12 + n) for n in range(48)} | {"c/05": sized(size)}
    await fill(engine, documents)
    found = [(document.path, document.fields()) async for document in engine.scan(Scan("c"))]
    assert found == sorted(documents.items()), "a scan of large documents lost or changed some"
    assert await ids_of(engine.scan(Scan("c", start="03", limit=7))) == [f"{n:02}" for n in range(3, 10)]


async def check_scan_while_written(engine: Engine) -> None:
    """Documents that are not touched during a scan are seen exactly once and in order, whatever happens to others."""
    for collection, by in (("c", None), ("d", "at")):
        await fill(engine, {f"{collection}/{n:05}": {"at": f"{n // 7:05}"} for n in range(MANY)})
        seen: list[str] = []
        async for document in engine.scan(Scan(collection, by=by)):
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
        untouched = [f"{n:05}" for n in range(MANY) if n % 10 > 1]
        assert [each for each in seen if "~" not in each and int(each) % 10 > 1] == untouched, f"by {by}"


async def check_scan_broken_off(engine: Engine) -> None:
    """A caller may leave a scan without closing it: the scan holds nothing, and no warning is raised."""
    await fill(engine, {f"c/{n:05}": {"at": f"{n:05}"} for n in range(MANY)})
    with warnings.catch_warnings():
        # What other code has left behind warns now, and not below, where this check looks for warnings.
        warnings.simplefilter("ignore")
        gc.collect()
        await let_others_run(3)
        gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for by in (None, "at"):
            for place in (1, 600):
                seen = 0
                async for _ in engine.scan(Scan("c", by=by)):
                    seen += 1
                    if seen == place:
                        break
        unused = engine.scan(Scan("c"))
        del unused
        gc.collect()
        await let_others_run(3)
    assert not caught, f"leaving a scan warns: {caught[0].message}"
    await engine.commit([Delete(f"c/{n:05}") for n in range(MANY)][: engine.capabilities.max_ops_per_commit])
