"""Connections to Firestore: many callers at once, and nobody there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from tai_state.engines.api import ABSENT, At, Put, Scan
from tai_state.engines.firestore.engine import EMULATOR, FirestoreEngine
from tai_state.errors import StoreUnavailable
from tai_state.testing.emulator import fresh_project

from ...support.firestore import free_port

if TYPE_CHECKING:
    from collections.abc import Callable


pytest.importorskip("grpc")
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
    """Where no server answers, each verb says so, and a commit that perhaps arrived says that."""
    monkeypatch.setenv(EMULATOR, f"127.0.0.1:{free_port()}")
    async with FirestoreEngine(fresh_project()) as engine:
        with pytest.raises(StoreUnavailable) as failed:
            await engine.read(["c/a"])
        assert not failed.value.unknown
        assert failed.value.is_transient
        with pytest.raises(StoreUnavailable):
            await anext(engine.scan(Scan("c")))
        with pytest.raises(StoreUnavailable) as failed:
            await engine.commit([Put("c/a", {}, ABSENT)])
        assert failed.value.unknown
        with pytest.raises(StoreUnavailable):
            async with engine.watch("c/a"):
                pass
