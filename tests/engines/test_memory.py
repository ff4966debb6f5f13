"""What is particular to the memory engine: where its documents are, and what a watch costs."""

from __future__ import annotations

from collections import Counter

import pytest

from tai_state.engines.api import Delete, DocumentChange, Put
from tai_state.engines.memory import MemoryDocuments, MemoryEngine
from tai_state.testing import ManualClock
from tai_state.testing.checking import present, until

pytestmark = pytest.mark.anyio


class Counted(MemoryDocuments):
    """Counts how often it is asked for what."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[str] = Counter()

    def get(self, path: str) -> object:  # noqa: D102  # noqa: D102
        self.asked[path] += 1
        return super().get(path)

    def ordered(self, collection: str, start: str, end: str | None) -> object:  # noqa: D102  # noqa: D102
        self.asked[collection] += 1
        return super().ordered(collection, start, end)


async def test_a_commit_reads_nothing_that_is_watched(clock: ManualClock):
    """Watches of a document and of its collection are told by the commit itself: neither is read for them again."""
    documents = Counted()
    async with MemoryEngine(clock, documents) as engine:
        await engine.commit([Put(f"c/{n}", {}) for n in range(100)])
        async with engine.watch("c") as collection, engine.watch("c/7") as one:
            documents.asked.clear()
            for n in range(20):
                await engine.commit([Put("elsewhere/a", {"n": n})])
            assert set(documents.asked) == {"elsewhere/a"}
            last = await engine.commit([Put("c/7", {}), Delete("c/8")])
            await until(one, DocumentChange("c/7", last.revision))
            await until(collection, DocumentChange("c/7", last.revision), DocumentChange("c/8", None))
            assert set(documents.asked) == {"elsewhere/a", "c/7", "c/8"}


async def test_users_of_one_memory(clock: ManualClock):
    """Two engines beside each other share documents, revisions and watches; closing one leaves the other's open."""
    one = MemoryEngine(clock)
    async with one, one.watch("c/a") as changes:
        await until(changes, DocumentChange("c/a", None))
        async with one.beside() as other:
            first = await other.commit([Put("c/a", {"n": 1})])
            await until(changes, DocumentChange("c/a", first.revision))
            second = await one.commit([Put("c/b", {"n": 2})])
            assert second.revision > first.revision
            assert (await present(other, "c/b")).fields() == {"n": 2}
        with pytest.raises(RuntimeError, match="not open"):
            await other.read(["c/a"])
        third = await one.commit([Put("c/a", {"n": 3})])
        await until(changes, DocumentChange("c/a", third.revision))
