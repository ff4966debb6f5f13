"""Errors in the middle of a sync: they come out as they are, and one bad state does not stop the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from tai_state import FieldMerge, StateMachinePersister, StateStore, StoreUnavailable, open_store, sync
from tai_state.engines.sqlite.engine import SqliteEngine
from tai_state.testing import Fault, FaultyEngine, ManualClock, MemoryEngine

from ..support.program import Inside
from ..support.stores import METADATA

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from tai_state.testing import Call, Verb

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Each event loop has groups of its own."""
    return request.param


class Unreachable:
    """An engine that cannot be reached for one verb, once that is said."""

    planned = 0
    is_on = False

    def __init__(self, verb: Verb) -> None:
        self._verb = verb

    def fault(self, call: Call) -> Fault | None:
        """The fault of a call."""
        return Fault.UNAVAILABLE if self.is_on and call.verb == self._verb else None


async def _sync(store: StateStore) -> Any:
    async with open_store("memory://") as other:
        return await sync(store, other)


async def _sync_other(store: StateStore) -> Any:
    async with open_store("memory://", clock=ManualClock(step_us=1)) as other:
        await other.save_state("g", "new", {}, METADATA)
        return await sync(other, store)


async def _recover(store: StateStore) -> Any:
    return await StateMachinePersister(store).recover()


@pytest.mark.parametrize(
    ("work", "verb"),
    [
        (_sync, "read"),
        (_sync, "scan"),
        (_sync_other, "commit"),
        (_recover, "read"),
        (_recover, "scan"),
    ],
    ids=["sync_read", "sync_scan", "sync_commit", "recover_read", "recover_scan"],
)
async def test_an_engine_that_fails_is_told_as_it_is(work: Callable[[StateStore], Awaitable[Any]], verb: Verb):
    """What works on several states at once raises the error that the documents name, and not a group of it."""
    clock = ManualClock(step_us=1)
    plan = Unreachable(verb)
    async with open_store(FaultyEngine(MemoryEngine(clock), plan), clock=clock, timeout_seconds=0) as store:
        for state_id in ("a", "b", "c"):
            await store.save_state("g", state_id, {"n": 1}, METADATA)
        plan.is_on = True
        with pytest.raises(StoreUnavailable):
            await work(store)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
def test_the_command_ends_as_for_every_engine_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], anyio_backend: str
):
    """``tai-state sync`` of a store that fails while it is read ends with 5, and names the error."""

    async def prepare() -> None:
        async with open_store(f"sqlite:///{tmp_path}/a.db") as store:
            await store.save_state("g", "s", {"n": 1}, METADATA)

    anyio.run(prepare)
    read = SqliteEngine.read

    async def failing(self: SqliteEngine, paths: Sequence[str]) -> Any:
        if any("/states/" in path for path in paths):
            raise StoreUnavailable("read", "SQLITE_IOERR", "the disk reports an error")
        return await read(self, paths)

    monkeypatch.setattr(SqliteEngine, "read", failing)
    ended = Inside(tmp_path, monkeypatch, capsys)("sync", "sqlite:///a.db", "sqlite:///b.db", "--json")
    assert ended.error(5)["type"] == "StoreUnavailable"


HUGE = 10**309
"""An integer that no float holds."""


@pytest.mark.parametrize(
    ("ours", "theirs", "total"),
    [
        (HUGE // 10, 3, HUGE // 10 + 2),
        (HUGE, 3, HUGE + 2),
        (3, -HUGE, 2 - HUGE),
        (HUGE, HUGE, 2 * HUGE - 1),
    ],
    ids=["just_fits", "one_side", "below_zero", "both_sides"],
)
async def test_a_counter_has_any_size(ours: int, theirs: int, total: int):
    """Counters are added exactly, whatever their size, and the states after them are synced as well."""
    resolver = FieldMerge({"n": "counter"})
    async with open_store("memory://") as a, open_store("memory://") as b:
        await a.save_state("g", "a", {"n": 1}, METADATA)
        await sync(a, b)
        for store, n in ((a, ours), (b, theirs)):
            await store.update_state("g", "a", {"n": n}, METADATA, expected=1)
        for number in range(20):
            await a.save_state("g", f"z{number}", {}, METADATA)
        report = await sync(a, b, resolver=resolver)
        assert (report.checked, report.joined, report.failed) == (21, 1, ())
        for store in (a, b):
            assert (await store.get_state("g", "a")).data == {"n": total}
            assert await store.count_states("g") == 21
