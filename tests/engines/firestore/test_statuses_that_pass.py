"""What Firestore answers once and not again: calls, scans and watches go on, whatever the status and the place."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from tai_state import ANY, StateStore, Transaction
from tai_state.engines.api import Change, Put
from tai_state.engines.firestore.engine import EMULATOR, FirestoreEngine
from tai_state.errors import Unavailable
from tai_state.testing import ManualClock

from ...support.ending_proxy import EndingProxy
from ...support.stores import GOVERNOR, METADATA, collected, make_store

if TYPE_CHECKING:
    from tai_state.testing.emulator import Emulator

pytest.importorskip("grpc")
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


@pytest.fixture
async def store(proxy: EndingProxy, firestore_project: str) -> AsyncIterator[StateStore]:
    """An open store behind the proxy, with a state of three versions."""
    async with make_store(FirestoreEngine(firestore_project), ManualClock(step_us=1)) as store:
        for version in range(3):
            await store.save_state(GOVERNOR, "alice", {"n": version}, METADATA, expected=version)
        yield store


def _not_yet(reason: str) -> pytest.MarkDecorator:
    return pytest.mark.xfail(strict=True, raises=Unavailable, reason=reason)


NO_ABORTED = _not_yet("a commit that was broken off because of others ends the call")


# Commits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code", [pytest.param(code, marks=NO_ABORTED) if code == "ABORTED" else code for code in PASSING]
)
async def test_a_commit_is_looked_at_and_sent_again(store: StateStore, proxy: EndingProxy, code: str):
    """A change whose commit is answered by a status that passes is made, once."""
    proxy.end_next("Commit", code)
    await store.update_state(GOVERNOR, "alice", {"n": 3}, METADATA, expected=3)
    assert [each.ending.code for each in proxy.ended] == [code]
    assert [event.version async for event in store.get_events(GOVERNOR, "alice")] == [1, 2, 3, 4]


async def _first(store: StateStore) -> None:
    await store.save_state("another", "bob", {}, METADATA)


async def _any(store: StateStore) -> None:
    await store.update_state(GOVERNOR, "alice", {"n": 3}, METADATA, expected=ANY)


async def _log(store: StateStore) -> None:
    await store.log_event(GOVERNOR, "alice", "ping", METADATA)


async def _update(store: StateStore) -> None:
    await store.state(GOVERNOR, "alice").update(lambda data: {"n": data["n"] + 1}, METADATA)


async def _transact(store: StateStore) -> None:
    async def count(tx: Transaction) -> None:
        tx.put("alice", {"n": (await tx.get("alice")).data["n"] + 1})

    await store.transactions.execute_transaction(GOVERNOR, count, METADATA)


async def _lock(store: StateStore) -> None:
    async with store.lock("r", wait=0):
        pass


VERBS = (_first, _any, _log, _update, _transact, _lock)
NO_FIRST = _not_yet("of a governor's first change, the first commit is not looked after")


@pytest.mark.parametrize(
    ("call", "code"),
    [
        *(pytest.param(call, "ABORTED", marks=NO_ABORTED) for call in VERBS),
        *(pytest.param(call, "CANCELLED", marks=NO_FIRST if call is _first else ()) for call in VERBS),
    ],
)
async def test_every_verb_goes_on(
    store: StateStore, proxy: EndingProxy, call: Callable[[StateStore], Awaitable[None]], code: str
):
    """Where many write at once, Firestore breaks some commits off; whatever the verb, it is made all the same."""
    proxy.end_next("Commit", code)
    await call(store)
    assert len(proxy.ended) == 1


# Reads --------------------------------------------------------------------------------------------------------------


@_not_yet("no read is tried again")
@pytest.mark.parametrize("code", PASSING)
async def test_a_read_is_made_again(store: StateStore, proxy: EndingProxy, code: str):
    """A state is read although the first try is answered by a status that passes."""
    proxy.end_next("BatchGetDocuments", code)
    assert (await store.get_state(GOVERNOR, "alice")).version == 3
    assert len(proxy.ended) == 1


@_not_yet("no query is tried again")
@pytest.mark.parametrize("messages", [0, 2])
@pytest.mark.parametrize("code", PASSING)
async def test_a_scan_goes_on(store: StateStore, proxy: EndingProxy, code: str, messages: int):
    """A history is read to its end although a status that passes breaks off its query, before or after documents."""
    proxy.end_next("RunQuery", code, messages=messages)
    events = await collected(store.get_events(GOVERNOR, "alice"))
    assert [each.version for each in events] == [1, 2, 3]
    assert len(proxy.ended) == 1


# Watches ------------------------------------------------------------------------------------------------------------


@_not_yet("a watch that is not established yet ends with its stream")
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
            assert await anext(changes) == Change("c/a", made.revision)
    assert len(proxy.ended) == 1


@pytest.mark.parametrize(
    "code",
    [*PASSING, pytest.param("UNAUTHENTICATED", marks=_not_yet("credentials that are refused once end all watches"))],
)
async def test_an_established_watch_goes_on_by_another_stream(engine: FirestoreEngine, proxy: EndingProxy, code: str):
    """A watch tells of changes after its stream ended by a status that passes; new credentials pass, too."""
    await engine.commit([Put("c/a", {})])
    with anyio.fail_after(HANG_SECONDS):
        async with engine.watch("c/a") as changes:
            await anext(changes)
            proxy.end_listening(code)
            made = await engine.commit([Put("c/a", {})])
            assert await anext(changes) == Change("c/a", made.revision)
            while not proxy.ended:
                await anyio.lowlevel.checkpoint()
            made = await engine.commit([Put("c/a", {})])
            assert await anext(changes) == Change("c/a", made.revision)
