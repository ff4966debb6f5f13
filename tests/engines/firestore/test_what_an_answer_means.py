"""What callers are told about Firestore's answers: what lasts, what was never sent, what was not said at all."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tai_state import CommitOutcomeUnknown, StateStore, StoreUnavailable
from tai_state.engines.api import ABSENT, Put
from tai_state.engines.firestore.engine import EMULATOR, FirestoreEngine
from tai_state.errors import Rejected, Unavailable
from tai_state.testing import ManualClock

from ...support.ending_proxy import EndingProxy
from ...support.stores import GOVERNOR, METADATA, make_store
from ...support.wire_faults import Fault, at_calls

if TYPE_CHECKING:
    from tai_state.testing.emulator import Emulator

pytest.importorskip("grpc")
pytestmark = pytest.mark.anyio


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


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="every error of the engine says that it passes")
@pytest.mark.parametrize("code", ["PERMISSION_DENIED", "UNIMPLEMENTED", "NOT_FOUND", "DATA_LOSS"])
async def test_what_lasts_says_so(store: StateStore, proxy: EndingProxy, code: str):
    """An error that stays until somebody changes something is not transient: a loop that tries again ends."""
    proxy.end_next("BatchGetDocuments", code)
    with pytest.raises(StoreUnavailable) as failed:
        await store.get_state(GOVERNOR, "alice")
    assert not failed.value.is_transient


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="every error of the engine says that it passes")
async def test_missing_credentials_last(monkeypatch: pytest.MonkeyPatch):
    """That there are no credentials is not transient."""
    monkeypatch.delenv(EMULATOR, raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/key.json")
    with pytest.raises(StoreUnavailable) as failed:
        await FirestoreEngine("p").__aenter__()
    assert not failed.value.is_transient


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="a refused connection is taken for a lost answer")
async def test_what_was_never_sent_was_not_applied(monkeypatch: pytest.MonkeyPatch):
    """Where the connection is refused, nothing was sent, and a commit is known to have failed."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen, so that nobody can connect
        monkeypatch.setenv(EMULATOR, f"127.0.0.1:{closed.getsockname()[1]}")
        async with FirestoreEngine("p") as engine:
            with pytest.raises(StoreUnavailable) as failed:
                await engine.commit([Put("c/a", {}, ABSENT)])
    assert not failed.value.unknown


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="a document that no answer names is taken for absent")
async def test_what_no_answer_names_is_not_absent(store: StateStore, proxy: EndingProxy):
    """A read that ends well without a word about a document does not make a state that is there absent."""
    proxy.end_next("BatchGetDocuments", "OK")
    with suppress(Unavailable):  # as good as reading it again
        assert await store.exists(GOVERNOR, "alice")


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="a document that no answer names is taken for absent")
async def test_a_read_of_several_that_ends_early_loses_none(store: StateStore, proxy: EndingProxy):
    """A read that ends well after the first of two documents does not make the second one absent."""
    await store.save_state(GOVERNOR, "bob", {"n": 1}, METADATA)
    proxy.end_next("BatchGetDocuments", "OK", messages=1)
    with suppress(Unavailable):
        assert None not in (await store.batch_get_states(GOVERNOR, ["alice", "bob"])).values()


@pytest.mark.xfail(
    strict=True, raises=Unavailable, reason="a request over the server's limit is told as a used-up quota"
)
async def test_more_ids_than_a_request_takes(store: StateStore):
    """A read of so many ids that one request cannot name them is made by several, or refused as too large."""
    ids = ["alice", *(f"{n:0>1000}" for n in range(4_400))]
    with suppress(Rejected):
        found = await store.batch_get_states(GOVERNOR, ids)
        assert [state_id for state_id, state in found.items() if state is not None] == ["alice"]
        assert len(found) == len(ids)


@pytest.mark.xfail(
    strict=True, reason="a refusal of the second copy is taken for one of the first", raises=AssertionError
)
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
