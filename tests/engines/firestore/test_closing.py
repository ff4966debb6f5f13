"""A close that does not wait: whoever has a call under way hears that the connection is gone, and what may be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from tai_state.engines.api import Put, Scan
from tai_state.engines.firestore.engine import EMULATOR, FirestoreEngine
from tai_state.errors import Unavailable

from ...support.fault_proxy import FaultProxy
from ...support.wire_faults import Fault

if TYPE_CHECKING:
    from tai_state.testing.emulator import Emulator

pytest.importorskip("grpc")
from tai_state.engines.firestore import connection

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The driver knows no other event loop."""
    return "asyncio"


@pytest.fixture
def proxy(firestore_emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy before the emulator, which what is opened from now on goes through."""
    with FaultProxy(firestore_emulator.host) as proxy:
        monkeypatch.setenv(EMULATOR, proxy.host)
        yield proxy


async def _commit(engine: FirestoreEngine) -> object:
    return await engine.commit([Put("c/a", {"n": 2})])


async def _read(engine: FirestoreEngine) -> object:
    return await engine.read(["c/a"])


async def _missing(engine: FirestoreEngine) -> object:
    return await engine.missing("c")


async def _scan(engine: FirestoreEngine) -> object:
    return await anext(engine.scan(Scan("c")))


@pytest.mark.parametrize("call", [_commit, _read, _missing, _scan])
async def test_a_call_that_closing_breaks_off(
    proxy: FaultProxy,
    firestore_project: str,
    call: Callable[[FirestoreEngine], Coroutine[Any, Any, object]],
    monkeypatch: pytest.MonkeyPatch,
):
    """If closing is itself cancelled, a commit under way is unknown, other calls fail, and no caller is cancelled."""
    engine = FirestoreEngine(firestore_project)
    await engine.__aenter__()
    await engine.commit([Put("c/a", {"n": 1})])
    monkeypatch.setattr(connection, "DEADLINE_SECONDS", 1.0)  # a scan is waited for
    proxy.plan = lambda _: Fault.DELAYED
    task = asyncio.create_task(call(engine))
    await anyio.wait_all_tasks_blocked()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await engine.__aexit__(None, None, None)
    with pytest.raises((RuntimeError, Unavailable)) as failed:
        await task
    assert getattr(failed.value, "unknown", False) == (call is _commit)
