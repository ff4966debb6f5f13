"""Documents on Firestore: how they are measured, and what foreign ones spoil."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tai_state import ChangeMetadata, FirestoreStore, open_store
from tai_state.engines.api import ANYTHING, Check, Put, Scan
from tai_state.engines.firestore.engine import EMULATOR, FirestoreEngine
from tai_state.errors import CommitTooLarge, CorruptDocument, DocumentTooLarge
from tai_state.testing.checking import present
from tai_state.testing.emulator import fresh_project

if TYPE_CHECKING:
    from collections.abc import Callable


pytest.importorskip("grpc")
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The driver knows no other event loop."""
    return "asyncio"


async def test_a_document_with_many_small_values_is_measured_as_firestore_does(
    firestore: Callable[[], FirestoreEngine],
):
    """What is small as JSON and large for Firestore is refused before it is sent; what just fits is stored."""
    async with firestore() as engine:
        with pytest.raises(DocumentTooLarge):
            await engine.commit([Put("c/a", {"n": [0] * 131_072})])
        await engine.commit([Put("c/a", {"n": [0] * 131_000})])
        assert len((await present(engine, "c/a")).fields()["n"]) == 131_000


async def test_a_commit_is_measured_as_it_is_sent(firestore: Callable[[], FirestoreEngine]):
    """Names count towards what the server takes in one message."""
    async with firestore() as engine:
        deep = "/".join(["c" * 1_400] * 3)
        with pytest.raises(CommitTooLarge):
            await engine.commit([Put(f"{deep}/{n}", {}) for n in range(1_000)])


async def test_nothing_to_do_is_answered_with_the_time(firestore: Callable[[], FirestoreEngine]):
    """A commit that changes and requires nothing, and a read of nothing, still tell the engine's time."""
    async with firestore() as engine:
        made = await engine.commit([Put("c/a", {})])
        for committed in (await engine.commit([]), await engine.commit([Check("c/a", ANYTHING)])):
            assert committed.time_us >= made.time_us
        assert (await engine.read([])).time_us >= made.time_us


async def test_writing_the_same_again_is_a_write(firestore: Callable[[], FirestoreEngine]):
    """A document that is put again with the same content has another revision."""
    async with firestore() as engine:
        revisions = [(await engine.commit([Put("c/a", {"n": 1})])).revision for _ in range(3)]
        assert len(set(revisions)) == 3
        assert (await present(engine, "c/a")).revision == revisions[-1]


async def test_a_foreign_value_spoils_only_its_own_document(firestore: Callable[[], FirestoreEngine]):
    """A document with a timestamp in it is reported as corrupt when it is looked at; others are read."""
    from tai_state.engines.firestore.messages import commit_request

    async with firestore() as engine:
        connection = engine._opened()
        request = commit_request(connection.names, [Put("c/a", {}), Put("c/b", {})], 1, engine.capabilities, 10_000)
        request.writes[0].update.fields["at"].timestamp_value.FromSeconds(1)
        await connection._commit(request, None, [], 15.0)
        spoilt, sound = [each async for each in engine.scan(Scan("c"))]
        with pytest.raises(CorruptDocument):
            spoilt.fields()
        assert sound.fields() == {}


async def test_named_databases_are_apart(firestore: Callable[..., FirestoreEngine]):
    """Two databases of one project share nothing."""
    one = firestore()
    async with one, firestore(one._project, "other") as other:
        await one.commit([Put("c/a", {})])
        assert (await other.read(["c/a"])).documents == (None,)


async def test_the_store_by_its_original_name(
    monkeypatch: pytest.MonkeyPatch, firestore: Callable[[], FirestoreEngine]
):
    """``FirestoreStore`` opens what ``open_store`` opens at the same address."""
    monkeypatch.setenv(EMULATOR, str(firestore()._emulator))
    project, metadata = fresh_project(), ChangeMetadata("tester", "a test")
    async with FirestoreStore(project, "other", indexed=("status",)) as store:
        await store.save_state("bank", "alice", {"status": "open"}, metadata)
    async with open_store(f"firestore://{project}/other") as store:
        assert (await store.get_state("bank", "alice")).data == {"status": "open"}
