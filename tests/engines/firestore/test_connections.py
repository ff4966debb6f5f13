"""Connections to Firestore: many callers at once, and nobody there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

from tai_state.engines.api import ABSENT, At, Put, Scan
from tai_state.engines.firestore.engine import EMULATOR, FirestoreEngine
from tai_state.errors import StoreUnavailable
from tai_state.testing.emulator import fresh_project

from ...support.firestore import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


pytest.importorskip("grpc")
from tai_state.engines.firestore import connection

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The driver knows no other event loop."""
    return "asyncio"


async def test_sixty_four_writers_at_once(firestore: Callable[[], FirestoreEngine]):
    """Many callers of one engine are all served, each with its own documents."""
    async with firestore() as engine:

        async def write(name: int) -> None:
            revision = (await engine.commit([Put(f"c/{name}", {"n": 0}, ABSENT)])).revision
            for n in range(1, 6):
                revision = (await engine.commit([Put(f"c/{name}", {"n": n}, At(revision))])).revision

        async with anyio.create_task_group() as tasks:
            for name in range(64):
                tasks.start_soon(write, name)
        assert [each.fields()["n"] async for each in engine.scan(Scan("c"))] == [5] * 64


async def test_more_calls_than_one_connection_carries(firestore: Callable[[], FirestoreEngine]):
    """With more calls than a channel takes, others are opened, and all are answered."""
    async with firestore() as engine:
        await engine.commit([Put("c/a", {})])
        async with anyio.create_task_group() as tasks:
            for _ in range(300):
                tasks.start_soon(engine.read, ["c/a"])
        assert 1 < len(engine._opened()._channels._channels) <= 8


async def test_nobody_there(monkeypatch: pytest.MonkeyPatch):
    """Where no server answers, each verb says so in the end, and that it may succeed later."""
    monkeypatch.setattr(connection, "DEADLINE_SECONDS", 0.5)
    monkeypatch.setenv(EMULATOR, f"127.0.0.1:{free_port()}")
    async with FirestoreEngine(fresh_project()) as engine:
        for verb in (
            lambda: engine.read(["c/a"]),
            lambda: anext(engine.scan(Scan("c"))),
            lambda: engine.commit([Put("c/a", {}, ABSENT)]),
            lambda: engine.missing("c"),
            lambda: engine.watch("c/a").__aenter__(),
        ):
            with pytest.raises(StoreUnavailable) as failed:
                await verb()
            assert failed.value.code == "UNAVAILABLE"
            assert failed.value.is_transient
            assert not failed.value.unknown


@pytest.mark.parametrize(
    "verb",
    [
        lambda engine: engine.read(["c/a"]),
        lambda engine: engine.scan(Scan("c")).page(),
        lambda engine: engine.commit([Put("c/a", {}, ABSENT)]),
        lambda engine: engine.missing("c"),
    ],
    ids=["read", "scan", "commit", "missing"],
)
async def test_closing_ends_further_tries(
    monkeypatch: pytest.MonkeyPatch, verb: Callable[[FirestoreEngine], Coroutine[Any, Any, Any]]
):
    """A call that failed and was to be made again is not made by an engine that was closed meanwhile."""
    monkeypatch.setenv(EMULATOR, f"127.0.0.1:{free_port()}")
    async with FirestoreEngine(fresh_project()) as engine:
        call = asyncio.create_task(verb(engine))
        await anyio.lowlevel.checkpoint()
    with anyio.fail_after(30), pytest.raises(RuntimeError, match="not open"):
        await call
