"""Checks of committing."""

# ruff: noqa: PT017, PT018 - assertions about small numbers, without pytest

from __future__ import annotations

from collections.abc import Callable, Sequence

from tai_state.engines.api import ABSENT, ANYTHING, PRESENT, At, Check, Delete, Engine, Put, Require, Scan, Write
from tai_state.errors import CommitRefused, CommitTooLarge, DocumentTooLarge
from tai_state.testing.checking import ids_of, present, sized


async def _history(engine: Engine, path: str, history: str) -> tuple[int | None, int]:
    """Give a document this history. Returns its current revision (None: absent) and a revision that is not its own."""
    stale = (await engine.commit([Put("others/a" if history == "never made" else path, {"old": True})])).revision
    if history == "never made":
        return None, stale
    if history != "rewritten":
        await engine.commit([Delete(path)])
    if history == "deleted":
        return None, stale
    return (await engine.commit([Put(path, {"old": False})])).revision, stale


async def _attempt(engine: Engine, write: Write, *, allowed: bool, what: str) -> None:
    """Commit a write between two others, and check the outcome of all three."""
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
    """For every history of a document, each requirement lets each kind of write through or refuses the commit."""
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
                    "at its revision": (At(revision or 0), True),
                    "at another": (At(stale), False),
                    "at zero": (At(0), False),
                    "anything": (ANYTHING, True),
                }
                require, allowed = cases[name]
                await _attempt(engine, make(path, require), allowed=allowed, what=path)


async def check_commit_is_all_or_nothing(engine: Engine) -> None:
    """One refused write, wherever it is in a commit, leaves all documents of the commit as they were."""
    kept = await engine.commit([Put("c/1", {"kept": True}), Put("c/3", {"kept": True})])
    good: list[Write] = [Put("c/0", {}), Put("c/1", {}), Delete("c/3"), Put("other/4", {})]
    for place in range(len(good) + 1):
        try:
            await engine.commit([*good[:place], Check("c/missing", PRESENT), *good[place:]])
        except CommitRefused:
            pass
        else:
            raise AssertionError(f"a refusal at place {place} was not raised")
        assert [(each.id, each.revision) async for each in engine.scan(Scan("c"))] == [
            ("1", kept.revision),
            ("3", kept.revision),
        ]
        assert await ids_of(engine.scan(Scan("other"))) == []
    committed = await engine.commit(good)
    assert [(each.id, each.revision) async for each in engine.scan(Scan("c"))] == [
        ("0", committed.revision),
        ("1", committed.revision),
    ]
    assert await ids_of(engine.scan(Scan("other"))) == ["4"]


async def check_a_path_stands_in_a_commit_once(engine: Engine) -> None:
    """A commit that names a path twice, in any kinds of writes, raises ValueError and changes nothing."""
    kinds: list[Write] = [Put("c/a", {}), Delete("c/a"), Check("c/a", ANYTHING)]
    for one in kinds:
        for other in kinds:
            try:
                await engine.commit([Put("c/b", {}), one, other])
            except ValueError:
                continue
            raise AssertionError(f"{one} and {other} were accepted")
    assert await ids_of(engine.scan(Scan("c"))) == []


async def check_revisions_grow(engine: Engine) -> None:
    """Every commit has one revision, greater than all before it: over rewrites, deletions and new creations."""
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
    """A document's time is that of the last commit that wrote it, even after a deletion. Reads are never earlier."""
    last_us = 0
    for writes in ([Put("c/a", {"n": 1})], [Put("c/a", {"n": 2})], [Delete("c/a")], [Put("c/a", {"n": 3})]):
        committed = await engine.commit([*writes, Put("c/other", {"n": last_us})])
        reading = await engine.read(["c/other", "c/a"])
        times = {document.updated_us for document in reading.documents if document is not None}
        assert times == {committed.time_us}, f"the commit's time is {committed.time_us}, its documents' {times}"
        assert last_us <= committed.time_us <= reading.time_us, (last_us, committed, reading.time_us)
        last_us = committed.time_us


async def check_limits(engine: Engine) -> None:
    """A commit or document over a limit is refused before anything is written; one that just reaches it is stored."""
    limits = engine.capabilities
    document, total = limits.max_document_bytes, limits.max_bytes_per_commit
    await engine.commit([Put("c/full", sized(document))])
    assert (await present(engine, "c/full")).fields() == sized(document)
    whole, rest = divmod(total, document)
    over = [Put(f"c/{n}", sized(document)) for n in range(whole)] + [Put("c/rest", sized(rest + 100))]
    many = [Put(f"c/{n}", {}) for n in range(limits.max_ops_per_commit + 1)]
    checks = [Check(f"c/{n}", ABSENT) for n in range(limits.max_ops_per_commit)]
    too_large: list[tuple[type[Exception], Sequence[Write]]] = [
        (DocumentTooLarge, [Put("c/a", {}), Put("c/b", sized(document + 1)), Check("c/full", ABSENT)]),
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
    assert await ids_of(engine.scan(Scan("c"))) == ["full"]
    await engine.commit(many[1:])
    assert len(await ids_of(engine.scan(Scan("c")))) == limits.max_ops_per_commit + 1
