"""Streams that listen and end by a status that passes, at any moment: the watches go on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from tai_state.engines.api import DocumentChange, Put
from tai_state.engines.firestore.engine import EMULATOR, FirestoreEngine
from tai_state.errors import StoreUnusable, Unavailable

from ...support.ending_proxy import EndingProxy

if TYPE_CHECKING:
    from tai_state.testing.emulator import Emulator

pytest.importorskip("grpc")
from tai_state.engines.firestore import listening

pytestmark = pytest.mark.anyio

HANG_SECONDS = 30
"""What takes longer than this hangs."""

PASSING = (
    "CANCELLED",
    "UNKNOWN",
    "DEADLINE_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "ABORTED",
    "INTERNAL",
    "UNAUTHENTICATED",
    "UNAVAILABLE",
)


@pytest.fixture
def anyio_backend() -> str:
    """The driver knows no other event loop."""
    return "asyncio"


@pytest.fixture
def proxy(firestore_emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[EndingProxy]:
    """A proxy before the emulator, which what is opened from now on goes through."""
    with EndingProxy(firestore_emulator.host) as proxy:
        monkeypatch.setenv(EMULATOR, proxy.host)
        yield proxy


@pytest.fixture
async def engine(proxy: EndingProxy, firestore_project: str) -> AsyncIterator[FirestoreEngine]:
    """An open engine behind the proxy."""
    async with FirestoreEngine(firestore_project) as engine:
        yield engine


@pytest.mark.parametrize("messages", [0, 1])
@pytest.mark.parametrize("code", PASSING)
async def test_a_watch_is_established_by_another_stream(
    engine: FirestoreEngine, proxy: EndingProxy, code: str, messages: int
):
    """A watch begins although its first stream ends by a status that passes before it is established."""
    made = await engine.commit([Put("c/a", {})])
    proxy.end_next("Listen", code, messages=messages)
    with anyio.fail_after(HANG_SECONDS):
        async with engine.watch("c/a") as changes:
            assert await anext(changes) == DocumentChange("c/a", made.revision)
    assert len(proxy.ended) == 1


@pytest.mark.parametrize("code", PASSING)
async def test_an_established_watch_goes_on_by_another_stream(engine: FirestoreEngine, proxy: EndingProxy, code: str):
    """A watch tells of changes after its stream ended by a status that passes; new credentials pass, too."""
    await engine.commit([Put("c/a", {})])
    with anyio.fail_after(HANG_SECONDS):
        async with engine.watch("c/a") as changes:
            await anext(changes)
            proxy.end_listening(code)
            while not proxy.ended:
                await anyio.lowlevel.checkpoint()
            revision = await _changed(engine)
            while (await anext(changes)).revision != revision:
                pass


async def test_no_stream_is_opened_for_nobody(
    engine: FirestoreEngine, proxy: EndingProxy, monkeypatch: pytest.MonkeyPatch
):
    """After a status that lasts has ended the only watch, no stream is opened until somebody watches again."""
    monkeypatch.setattr(listening, "pause_seconds", lambda _: 0.0)
    made = await engine.commit([Put("c/a", {})])
    with anyio.fail_after(HANG_SECONDS):
        async with engine.watch("c/a") as changes:
            await anext(changes)
            proxy.end_listening("PERMISSION_DENIED")
            with pytest.raises(StoreUnusable):
                await anext(changes)
            for _ in range(20):  # a stream that is opened all the same is seen meanwhile
                await engine.read(["c/a"])
            assert proxy.statistics().calls["Listen"] == 1
            async with engine.watch("c/a") as others:
                assert await anext(others) == DocumentChange("c/a", made.revision)
            assert proxy.statistics().calls["Listen"] == 2


async def _changed(engine: FirestoreEngine) -> int:
    """Change the document; which revision it is at then.

    The emulator breaks off a commit of which it would tell a stream that is just ending.
    """
    while True:
        with suppress(Unavailable):
            return (await engine.commit([Put("c/a", {})])).revision
