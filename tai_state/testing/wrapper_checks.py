"""Checks of engines that wrap other engines."""

# ruff: noqa: PT017 - without pytest

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tai_state.engines.api import ABSENT, Capabilities, Check, Delete, DocumentChange, Engine, Put, Scan, Where
from tai_state.engines.memory import MemoryEngine
from tai_state.engines.ordering import commit_ordered
from tai_state.errors import CommitRefused, CorruptDocument
from tai_state.testing.checking import ids_of, present, raises, until
from tai_state.testing.clocks import ManualClock

_FINDING = CorruptDocument("c/damaged", "the inner engine says so")


class _Marked(MemoryEngine):
    """An engine that can be recognised by its capabilities and its findings."""

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, name="marked", max_ops_per_commit=77)

    async def self_check(self) -> Sequence[CorruptDocument]:
        return (_FINDING,)

    async def missing(self, collection: str) -> Sequence[str]:
        return (f"missing in {collection}",)


async def check_a_wrapper_is_transparent(wrap: Callable[[Engine], Engine]) -> None:
    """An engine around another one opens, closes, declares, reads, writes and watches the same as the inner engine."""
    inner = _Marked(ManualClock())
    async with wrap(inner) as outer:
        assert outer.capabilities == inner.capabilities, "the wrapper declares other capabilities"
        assert list(await outer.self_check()) == [_FINDING], "the wrapper hides the findings of the inner engine"
        assert list(await outer.missing("c")) == ["missing in c"], "the wrapper hides what the inner engine misses"
        committed = await outer.commit([Put("c/a", {"n": 1})])
        for engine in (inner, outer):
            assert (await present(engine, "c/a")).revision == committed.revision
            assert await ids_of(engine.scan(Scan("c"))) == ["a"]
        async with outer.moment() as moment:
            await inner.commit([Put("c/z", {"n": 1})])
            [found] = (await moment.read(["c/a"])).documents
            assert found is not None
            assert found.revision == committed.revision
            assert await ids_of(moment.scan(Scan("c"))) == ["a"], "the wrapper gives no moment of the inner engine"
        await inner.commit([Delete("c/z")])
        await _refuses(outer)
        async with outer.watch("c/a") as changes:
            await until(changes, DocumentChange("c/a", committed.revision))
            last = await inner.commit([Put("c/a", {"n": 2})])
            await until(changes, DocumentChange("c/a", last.revision))
        await _streams(outer, last.revision)
    assert await raises(RuntimeError, inner.read(["c/a"])), "the wrapper leaves the inner engine open"


async def _refuses(outer: Engine) -> None:
    """A commit with a requirement that does not hold is refused, and the refusal names the path."""
    try:
        await outer.commit([Put("c/b", {}), Check("c/a", ABSENT)])
    except CommitRefused as refused:
        assert refused.path == "c/a", f"the refusal names {refused.path}"
    else:
        raise AssertionError("a commit that the inner engine refuses was accepted")


async def _streams(outer: Engine, after: int) -> None:
    """The arguments of a scan, and of the order of commits, reach the inner engine."""
    collection = "g/b/events"
    for n, timestamp in enumerate("dacb"):
        await outer.commit([Put(f"{collection}/{n}", {"timestamp": timestamp, "even": n % 2 == 0})])
    for scan, expected in (
        (Scan(collection, start="1", end="3"), ["1", "2"]),
        (Scan(collection, limit=1), ["0"]),
        (Scan(collection, by="timestamp", start="b"), ["3", "2", "0"]),
        (Scan(collection, where=[Where("even", (True,))]), ["0", "2"]),
    ):
        assert await ids_of(outer.scan(scan)) == expected, f"{scan} yields something else"
    ordered = commit_ordered(outer)
    assert ordered is not None
    assert await ids_of(ordered.changed(collection, after)) == list("0123"), "the order of commits is different"
    assert await ids_of(ordered.changed(collection, after + 1, 2)) == list("12"), "start or limit is ignored"
