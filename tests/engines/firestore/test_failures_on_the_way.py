"""Operations of many reads, and those that wait: a failure that passes, somewhere on the way, ends none of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from tai_state import StateMachinePersister, StateStore, sync
from tai_state.engines.firestore.engine import EMULATOR, FirestoreEngine
from tai_state.engines.memory import MemoryEngine
from tai_state.testing import ManualClock

from ...support.ending_proxy import EndingProxy
from ...support.stores import GOVERNOR, METADATA, collected, make_store

if TYPE_CHECKING:
    from tai_state.testing.emulator import Emulator

pytest.importorskip("grpc")
from tai_state.engines.firestore import connection

pytestmark = pytest.mark.anyio

HANG_SECONDS = 30
"""What takes longer than this hangs."""


@pytest.fixture
def anyio_backend() -> str:
    """The driver knows no other event loop."""
    return "asyncio"


@pytest.fixture
def proxy(firestore_emulator: Emulator) -> Iterator[EndingProxy]:
    """A proxy before the emulator."""
    with EndingProxy(firestore_emulator.host) as proxy:
        yield proxy


@pytest.fixture
async def store(
    proxy: EndingProxy, firestore_project: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[StateStore]:
    """An open store behind the proxy, with a few states of two versions."""
    monkeypatch.setenv(EMULATOR, proxy.host)
    async with make_store(FirestoreEngine(firestore_project), ManualClock(step_us=1)) as store:
        for state_id in ("alice", "bob", "carol"):
            await store.save_state(GOVERNOR, state_id, {"n": 1}, METADATA)
            await store.update_state(GOVERNOR, state_id, {"n": 2}, METADATA, expected=1)
        yield store


async def _first(store: StateStore) -> int:
    return (await store.save_state("another", "alice", {}, METADATA)).version


async def _logged(store: StateStore) -> int:
    return (await store.log_event(GOVERNOR, "alice", "ping", METADATA)).version


@pytest.mark.parametrize(
    ("change", "code", "version"),
    [(_first, "ABORTED", 1), (_first, "CANCELLED", 1), (_logged, "ABORTED", 3), (_logged, "CANCELLED", 3)],
)
async def test_the_first_of_many_commits(
    store: StateStore, proxy: EndingProxy, change: Callable[[StateStore], Awaitable[int]], code: str, version: int
):
    """Where many begin at once, Firestore breaks commits off; each change is made all the same, the very first too."""
    proxy.end_next("Commit", code)
    assert await change(store) == version
    assert len(proxy.ended) == 1


async def _ended(proxy: EndingProxy, task: asyncio.Task[None]) -> None:
    """Until a call has ended as planned, or the task is over."""
    with anyio.fail_after(HANG_SECONDS):
        while not (proxy.ended or task.done()):
            await anyio.lowlevel.checkpoint()


async def _verify(store: StateStore, _: Path) -> None:
    report = await StateMachinePersister(store).validate_consistency(GOVERNOR)
    assert report.consistent
    assert report.events == 6


async def _recover(store: StateStore, _: Path) -> None:
    report = await store.recover(GOVERNOR)
    assert not report.failed


async def _export(store: StateStore, folder: Path) -> None:
    stats = await StateMachinePersister(store).export_history(GOVERNOR, folder / "export.jsonl")
    assert (stats.states, stats.events) == (3, 6)


async def _sync(store: StateStore, _: Path) -> None:
    async with make_store(MemoryEngine(ManualClock(step_us=1)), ManualClock(step_us=1)) as other:
        await sync(store, other, governor_id=GOVERNOR)
        assert await other.count_states(GOVERNOR) == 3


async def _list(store: StateStore, _: Path) -> None:
    assert [state.state_id for state in await collected(store.list_states(GOVERNOR))] == ["alice", "bob", "carol"]


async def _count(store: StateStore, _: Path) -> None:
    assert (await store.get_stats()).states == 3


async def _replay(store: StateStore, _: Path) -> None:
    steps = await collected(StateMachinePersister(store).replay(GOVERNOR, "alice"))
    assert len(steps) == 2


READING = (_verify, _recover, _export, _sync, _replay)


@pytest.mark.parametrize(
    ("method", "operation"),
    [
        *(("RunQuery", each) for each in (*READING, _list, _count)),
        *(("BatchGetDocuments", each) for each in READING),
    ],
)
async def test_a_long_operation_goes_on(
    store: StateStore,
    proxy: EndingProxy,
    tmp_path: Path,
    method: str,
    operation: Callable[[StateStore, Path], Awaitable[None]],
):
    """Whatever reads much is done in the end although one of its calls failed on the way."""
    proxy.end_next(method, "UNAVAILABLE")
    await operation(store, tmp_path)
    assert len(proxy.ended) == 1


async def test_a_scan_gets_on_by_what_arrived(store: StateStore, proxy: EndingProxy, monkeypatch: pytest.MonkeyPatch):
    """A scan whose every query breaks after one document goes on after that document: each has its own time."""
    for number in range(6):
        await store.save_state("many", f"{number}", {}, METADATA)
        proxy.end_next("RunQuery", "UNAVAILABLE", messages=1)
    monkeypatch.setattr(connection, "DEADLINE_SECONDS", 2.0)
    found = [state.state_id for state in await collected(store.list_states("many"))]
    assert found == [f"{number}" for number in range(6)]
    assert len(proxy.ended) == 6


@pytest.mark.parametrize("code", ["UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED"])
async def test_a_watch_reads_again_what_it_was_told_of(store: StateStore, proxy: EndingProxy, code: str):
    """Whoever watches a state is told of its newest version although the read of it failed once."""
    async with store.watch(GOVERNOR, "alice") as states:
        with anyio.fail_after(HANG_SECONDS):
            assert (await anext(states)).version == 2
            proxy.end_next("BatchGetDocuments", code)
            await store.update_state(GOVERNOR, "alice", {"n": 3}, METADATA, expected=2)
            assert (await anext(states)).version == 3


@pytest.mark.parametrize(
    ("method", "code", "messages"),
    [
        *(("Listen", code, 1) for code in ("CANCELLED", "UNAVAILABLE", "ABORTED")),
        ("RunQuery", "UNAVAILABLE", 0),
        ("BatchGetDocuments", "UNAVAILABLE", 0),
    ],
)
async def test_who_waits_for_a_lock_goes_on_waiting(
    store: StateStore, proxy: EndingProxy, method: str, code: str, messages: int
):
    """A failure that passes, of whatever waiting for a lock does, costs nobody their place."""
    lease = await store.locks.acquire_lock("r", ttl_seconds=30)
    proxy.end_next(method, code, messages=messages)

    async def wait() -> None:
        async with store.lock("r", wait_seconds=20):
            pass

    task = asyncio.create_task(wait())
    await _ended(proxy, task)
    await store.locks.release_lock(lease)
    with anyio.fail_after(HANG_SECONDS):
        await task
    assert len(proxy.ended) == 1
