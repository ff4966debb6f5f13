"""Checks of engines that wrap other engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tai_state.engines.api import Capabilities, Change, Engine, Put, Scan
from tai_state.engines.memory import MemoryEngine
from tai_state.engines.ordering import commit_ordered
from tai_state.errors import CorruptDocument
from tai_state.testing.checking import ids_of, present, until
from tai_state.testing.clocks import ManualClock

_FINDING = CorruptDocument("c/damaged", "the inner engine says so")


class _Marked(MemoryEngine):
    """An engine that can be recognised by its capabilities and its findings."""

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, name="marked", max_ops_per_commit=77)

    async def self_check(self) -> Sequence[CorruptDocument]:
        return (_FINDING,)


async def check_a_wrapper_is_transparent(wrap: Callable[[Engine], Engine]) -> None:
    """An engine around another one declares, finds, stores, reads, scans and watches the same as the inner engine."""
    inner = _Marked(ManualClock())
    async with wrap(inner) as outer:
        assert outer.capabilities == inner.capabilities, "the wrapper declares other capabilities"
        assert list(await outer.self_check()) == [_FINDING], "the wrapper hides the findings of the inner engine"
        committed = await outer.commit([Put("c/a", {"n": 1})])
        for engine in (inner, outer):
            assert (await present(engine, "c/a")).revision == committed.revision
            assert await ids_of(engine.scan(Scan("c"))) == ["a"]
        async with outer.watch("c/a") as changes:
            await until(changes, Change("c/a", committed.revision))
            last = await inner.commit([Put("c/a", {"n": 2})])
            await until(changes, Change("c/a", last.revision))
        event = await inner.commit([Put("g/b/events/a", {})])
        ordered = commit_ordered(outer)
        assert ordered is not None
        assert [each.revision async for each in ordered.changed("g/b/events", last.revision)] == [event.revision]
