"""What callers are told about Firestore's answers: what lasts, what was never sent, what was not said at all."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tai_state import CommitOutcomeUnknown, StateStore, StoreUnavailable, StoreUnusable
from tai_state.engines.api import ABSENT, Put
from tai_state.engines.firestore.engine import EMULATOR, FirestoreEngine
from tai_state.testing import ManualClock

from ...support.ending_proxy import EndingProxy
from ...support.stores import GOVERNOR, METADATA, make_store
from ...support.wire_faults import Fault, at_calls

if TYPE_CHECKING:
    from tai_state.testing.emulator import Emulator

pytest.importorskip("grpc")
import grpc

from tai_state.engines.firestore import connection, messages
from tai_state.engines.firestore.connection import Connection

pytestmark = pytest.mark.anyio

SHORT_SECONDS = 0.5
"""So long a call is tried where it never succeeds."""


@pytest.fixture
def anyio_backend() -> str:
    """The driver knows no other event loop."""
    return "asyncio"


@pytest.fixture
def proxy(firestore_emulator: Emulator) -> Iterator[EndingProxy]:
    """A proxy before the emulator; what has strayed arrives at the very end."""
    with EndingProxy(firestore_emulator.host, stray_calls=1_000) as proxy:
        yield proxy


@pytest.fixture
async def store(
    proxy: EndingProxy, firestore_project: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[StateStore]:
    """An open store behind the proxy, with one state."""
    monkeypatch.setenv(EMULATOR, proxy.host)
    async with make_store(FirestoreEngine(firestore_project), ManualClock(step_us=1)) as store:
        await store.save_state(GOVERNOR, "alice", {"n": 1}, METADATA)
        yield store


@pytest.mark.parametrize("code", ["PERMISSION_DENIED", "UNIMPLEMENTED", "NOT_FOUND", "DATA_LOSS"])
async def test_what_lasts_says_so(store: StateStore, proxy: EndingProxy, code: str):
    """An error that stays until somebody changes something is not transient: a loop that tries again ends."""
    proxy.end_next("BatchGetDocuments", code)
    with pytest.raises(StoreUnusable) as failed:
        await store.get_state(GOVERNOR, "alice")
    assert not failed.value.is_transient


async def test_missing_credentials_last(monkeypatch: pytest.MonkeyPatch):
    """That there are no credentials is not transient."""
    monkeypatch.delenv(EMULATOR, raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/key.json")
    with pytest.raises(StoreUnusable) as failed:
        await FirestoreEngine("p").__aenter__()
    assert not failed.value.is_transient


async def test_what_was_never_sent_was_not_applied(monkeypatch: pytest.MonkeyPatch):
    """Where the connection is refused, nothing was sent, and a commit is known to have failed."""
    monkeypatch.setattr(connection, "DEADLINE_SECONDS", SHORT_SECONDS)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen, so that nobody can connect
        monkeypatch.setenv(EMULATOR, f"127.0.0.1:{closed.getsockname()[1]}")
        async with FirestoreEngine("p") as engine:
            with pytest.raises(StoreUnavailable) as failed:
                await engine.commit([Put("c/a", {}, ABSENT)])
    assert not failed.value.unknown
    assert failed.value.is_transient


async def test_what_a_server_says_of_another_one_is_no_proof(
    proxy: EndingProxy, firestore_project: str, monkeypatch: pytest.MonkeyPatch
):
    """A server that answers in the driver's words for a refused connection may have applied the commit before."""

    def refuse(_: str, __: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses; last error: planned")

    monkeypatch.setenv(EMULATOR, proxy.host)
    monkeypatch.setattr(proxy, "one_answer", refuse)
    async with FirestoreEngine(firestore_project) as engine:
        with pytest.raises(StoreUnavailable) as failed:
            await engine.commit([Put("c/a", {}, ABSENT)])
    assert failed.value.unknown


async def test_what_no_answer_names_is_not_absent(store: StateStore, proxy: EndingProxy):
    """A read that ends well without a word about a document does not make a state that is there absent."""
    proxy.end_next("BatchGetDocuments", "OK")
    assert await store.exists(GOVERNOR, "alice")
    assert len(proxy.ended) == 1


async def test_a_read_of_several_that_ends_early_loses_none(store: StateStore, proxy: EndingProxy):
    """A read that ends well after the first of two documents does not make the second one absent."""
    await store.save_state(GOVERNOR, "bob", {"n": 1}, METADATA)
    proxy.end_next("BatchGetDocuments", "OK", messages=1)
    assert None not in (await store.batch_get_states(GOVERNOR, ["alice", "bob"])).values()
    assert len(proxy.ended) == 1


async def test_answers_that_stay_incomplete(store: StateStore, proxy: EndingProxy, monkeypatch: pytest.MonkeyPatch):
    """If no answer names all documents until the time is over, the store cannot read: it never says absent."""
    monkeypatch.setattr(connection, "DEADLINE_SECONDS", SHORT_SECONDS)
    for _ in range(50):
        proxy.end_next("BatchGetDocuments", "OK")
    with pytest.raises(StoreUnavailable, match="names 0 of 1") as failed:
        await store.exists(GOVERNOR, "alice")
    assert failed.value.code == "INCOMPLETE"
    assert failed.value.is_transient


async def test_more_ids_than_a_request_takes(store: StateStore, proxy: EndingProxy):
    """A read of so many ids that one request cannot name them is made by several."""
    ids = ["alice", *(f"{n:0>1000}" for n in range(4_400))]
    proxy.reset_counts()
    found = await store.batch_get_states(GOVERNOR, ids)
    assert [state_id for state_id, state in found.items() if state is not None] == ["alice"]
    assert list(found) == ids
    assert proxy.statistics().calls["BatchGetDocuments"] > 1


async def test_a_read_by_several_requests_is_of_one_moment(
    firestore: Callable[[], FirestoreEngine], monkeypatch: pytest.MonkeyPatch
):
    """What changes between two requests of one read is read as it was at the first of them."""
    monkeypatch.setattr(messages, "_READ_MAX", 1)
    read = Connection._read
    async with firestore() as engine:
        await engine.commit([Put("c/a", {"n": 1}), Put("c/b", {"n": 1})])

        async def read_and_change(self: Connection, *args: Any) -> int:
            time_us = await read(self, *args)
            await engine.commit([Put("c/a", {"n": 2}), Put("c/b", {"n": 2})])
            return time_us

        monkeypatch.setattr(Connection, "_read", read_and_change)
        reading = await engine.read(["c/a", "c/b"])
    assert [each and each.fields() for each in reading.documents] == [{"n": 1}, {"n": 1}]
    assert all(each and each.updated_us <= reading.time_us for each in reading.documents)


async def test_a_refused_copy_says_nothing_of_one_under_way(store: StateStore, proxy: EndingProxy):
    """A change whose first copy is under way still is not reported as failed because the second one was refused."""
    proxy.plan = at_calls({("Commit", proxy.statistics().calls["Commit"] + 1): Fault.STRAY})
    proxy.end_next("Commit", "INVALID_ARGUMENT", passing=1)
    outcome: BaseException | None = None
    try:
        await store.update_state(GOVERNOR, "alice", {"n": 2}, METADATA, expected=1)
    except Exception as error:  # noqa: BLE001 - which it is, is what is asked
        outcome = error
    proxy.settle()
    assert [each.ending.code for each in proxy.ended] == ["INVALID_ARGUMENT"]
    state = await store.get_state(GOVERNOR, "alice")
    assert isinstance(outcome, CommitOutcomeUnknown) or state.data == {"n": 1 if outcome else 2}
