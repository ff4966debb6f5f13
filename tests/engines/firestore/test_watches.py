"""Watches on Firestore: they outlive their connection, and leave nothing behind."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from tai_state.engines.api import At, DocumentChange, Put
from tai_state.engines.firestore.engine import EMULATOR, FirestoreEngine
from tai_state.engines.firestore.watching import Target, Watched
from tai_state.errors import StoreUnavailable
from tai_state.testing.checking import present, until
from tai_state.testing.emulator import fresh_project, started_emulator

from ...support.firestore import free_port

if TYPE_CHECKING:
    from collections.abc import Callable


pytest.importorskip("grpc")
from tai_state.engines.firestore import connection

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The driver knows no other event loop."""
    return "asyncio"


async def test_a_thousand_watched_machines(firestore: Callable[[], FirestoreEngine]):
    """One stream carries a thousand documents, each with a watch of its own, and every change arrives."""
    async with firestore() as engine:
        made = await engine.commit([Put(f"c/{n}", {}) for n in range(1_000)])
        arrived: set[str] = set()

        async def watch(path: str) -> None:
            async with engine.watch(path) as changes:
                await until(changes, DocumentChange(path, made.revision))
                entered.append(path)
                if len(entered) == 1_000:
                    all_entered.set()
                arrived.add((await anext(changes)).path)

        entered: list[str] = []
        all_entered = anyio.Event()
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for n in range(1_000):
                    tasks.start_soon(watch, f"c/{n}")
                await all_entered.wait()
                await engine.commit([Put(f"c/{n}", {"n": 1}) for n in range(1_000)])
        assert len(arrived) == 1_000


async def test_a_watch_outlives_its_connection(monkeypatch: pytest.MonkeyPatch, firestore: Any):
    """When the server goes away and comes back, a watch goes on and tells what is different then, and calls work."""
    port = free_port()
    monkeypatch.setenv(EMULATOR, f"127.0.0.1:{port}")
    project = fresh_project()
    with started_emulator(port=port):
        engine = FirestoreEngine(project)
        await engine.__aenter__()
        await engine.commit([Put("c/a", {}), Put("c/gone", {})])
        watch = engine.watch("c/a", "c")
        changes = await watch.__aenter__()
        first = [await anext(changes), await anext(changes)]
        assert {each.path for each in first} == {"c/a", "c/gone"}
    # This emulator kept its documents in memory: to the next one, both are gone.
    with monkeypatch.context() as impatient:
        impatient.setattr(connection, "DEADLINE_SECONDS", 0.5)
        with pytest.raises(StoreUnavailable):
            await engine.read(["c/a"])
    with started_emulator(port=port):
        await until(changes, DocumentChange("c/a", None), DocumentChange("c/gone", None))
        async with FirestoreEngine(project) as other:
            made = await other.commit([Put("c/a", {})])
        await until(changes, DocumentChange("c/a", made.revision))
        made = await engine.commit([Put("c/a", {"n": 2}, At(made.revision))])
        await until(changes, DocumentChange("c/a", made.revision))
        assert (await present(engine, "c/a")).fields() == {"n": 2}
        await watch.__aexit__(None, None, None)
        await engine.__aexit__(None, None, None)


async def test_a_watch_outlives_what_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, firestore: Callable[[], FirestoreEngine]
):
    """A message that is no message begins the stream anew, for a watch that is not established yet as for others."""
    from tai_state.engines.firestore import driver

    parse, seen = driver.ListenResponse.FromString, []

    def garbled(data: bytes) -> Any:
        seen.append(data)
        return parse(b"\xff" if len(seen) in (1, 6) else data)

    monkeypatch.setattr(driver, "ListenResponse", SimpleNamespace(FromString=garbled))
    async with firestore() as engine:
        await engine.commit([Put("c/a", {})])
        async with engine.watch("c/a") as changes:
            await anext(changes)
            for n in range(4):
                made = await engine.commit([Put("c/a", {"n": n})])
                await until(changes, DocumentChange("c/a", made.revision))
    assert len(seen) > 6


async def test_what_was_watched_leaves_nothing_behind(firestore: Callable[[], FirestoreEngine]):
    """No task that waits for the driver outlives a watch, or its end would arrive in the next event loop; no thread."""
    tasks, threads = asyncio.all_tasks(), set(threading.enumerate())
    async with firestore() as engine:
        for _ in range(60):
            async with anyio.create_task_group() as commits:
                for n in range(20):
                    commits.start_soon(engine.commit, [Put(f"c/{n}", {})])
            async with engine.watch("c/a"):
                pass
            assert asyncio.all_tasks() <= tasks
    left = [each.name for each in set(threading.enumerate()) - threads]
    assert not [name for name in left if name.startswith("tai-state")]


async def test_watches_that_begin_together_end_apart(firestore: Callable[[], FirestoreEngine]):
    """Of streams begun in one turn of the event loop, each ends by itself, in whatever order."""
    for order in ((0, 1), (1, 0)):
        async with firestore() as first, firestore() as second:
            watches = [each.watch("c/a") for each in (first, second)]
            await asyncio.gather(*(each.__aenter__() for each in watches))
            with anyio.fail_after(30):
                for each in order:
                    await watches[each].__aexit__(None, None, None)


def _told(*targets: Target) -> Watched:
    watched = Watched(targets)
    for target in targets:
        target.begin()
    return watched


def _tell(watched: Watched, target: Target, revision: int | None) -> DocumentChange | None:
    target.tell("c/a", revision)
    watched.look("c/a")
    return watched.pop()


def test_a_lagging_target_changes_nothing():
    """Of two targets with one document, the one behind neither takes it back nor makes it absent."""
    document, collection = Target(["c/a"]), Target(collection="c")
    watched = _told(document, collection)
    assert _tell(watched, document, 3) == DocumentChange("c/a", 3)
    assert [_tell(watched, collection, each) for each in (1, 2, None, 3)] == [None] * 4
    assert _tell(watched, document, None) is None
    assert _tell(watched, collection, None) == DocumentChange("c/a", None)
    assert _tell(watched, collection, 5) == DocumentChange("c/a", 5)


def test_what_is_not_told_again_is_gone():
    """After a reset, what was there before and is not named again is absent, and so are missing documents."""
    target = Target(["c/a", "c/b"])
    watched = _told(target)
    assert not watched.is_established
    assert _tell(watched, target, 3) == DocumentChange("c/a", 3)
    assert target.end() == ["c/b"]
    assert watched.is_established
    target.begin()
    target.tell("c/b", 4)
    assert target.end() == ["c/a"]


def test_changes_are_coalesced():
    """Of several changes of a document, the last one is handed on."""
    target = Target(["c/a"])
    watched = _told(target)
    for revision in (1, 2, 3):
        target.tell("c/a", revision)
        watched.look("c/a")
    assert watched.pop() == DocumentChange("c/a", 3)
    assert watched.pop() is None
