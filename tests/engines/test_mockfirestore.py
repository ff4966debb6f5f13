"""The engine over a MockFirestore: what is particular to it. The examination of all engines is beside this."""

from __future__ import annotations

from typing import Any

import pytest
from mockfirestore import MockFirestore

from tai_state import ChangeMetadata, StateStore, open_store
from tai_state.engines.api import ABSENT, PRESENT, Delete, Put, Scan
from tai_state.errors import CommitRefused, CorruptDocument
from tai_state.testing.mockfirestore import OWN_FIELD, MockFirestoreEngine

pytestmark = pytest.mark.anyio

METADATA = ChangeMetadata("tester", "a test")


@pytest.fixture
def client() -> MockFirestore:
    """A mock that holds nothing."""
    return MockFirestore()


def _store(client: MockFirestore) -> StateStore:
    return open_store(MockFirestoreEngine(client))


async def test_a_suite_sees_states_with_the_mocks_own_api(client: MockFirestore):
    """A saved state is a document of the mock, its data a native map; its event is one of the collection."""
    async with _store(client) as store:
        await store.save_state("bank", "alice", {"balance": 100, "tags": ["a", {"b": None}]}, METADATA)
        await store.update_state("bank", "alice", {"balance": 70}, METADATA, expected=1)
    state = client.document("governors/bank/states/alice").get().to_dict()
    assert state["data"] == {"balance": 70}
    assert state["version"] == 2
    assert state["metadata"]["changed_by"] == "tester"
    events = client.collection("governors/bank/events").order_by("version").stream()
    assert [each.to_dict()["action"] for each in events] == ["save", "update"]
    found = client.collection("governors/bank/states").where("version", "==", 2).stream()
    assert [each.id for each in found] == ["alice"]


async def test_what_was_written_is_there_for_the_next_store(client: MockFirestore):
    """A second store over the same client goes on where the first one stopped, and a reset client is empty."""
    async with _store(client) as store:
        await store.save_state("bank", "alice", {"balance": 100}, METADATA)
    async with _store(client) as store:
        assert (await store.update_state("bank", "alice", {"balance": 70}, METADATA, expected=1)).version == 2
    client.reset()
    async with _store(client) as store:
        assert not await store.exists("bank", "alice")
        await store.save_state("bank", "alice", {"balance": 5}, METADATA)


async def test_revisions_grow_whatever_becomes_of_the_engine(client: MockFirestore):
    """Neither another engine over the client, nor a reset, gives a revision that was given before."""
    revisions = []
    for _ in range(3):
        async with MockFirestoreEngine(client) as engine:
            revisions.append((await engine.commit([Put("c/a", {})])).revision)
            revisions.append((await engine.commit([Delete("c/a")])).revision)
        client.reset()
    assert revisions == sorted(set(revisions))


async def test_a_document_and_its_subcollections_do_not_harm_each_other(client: MockFirestore):
    """A parent may be written, rewritten and deleted at any time, though the mock keeps children among its fields."""
    async with MockFirestoreEngine(client) as engine:
        await engine.commit([Put("c/a/d/x", {"n": 1})])
        assert (await engine.read(["c/a"])).documents == (None,)
        await engine.commit([Put("c/a", {"d": {"x": "a field"}, "e": 1}, ABSENT)])
        await engine.commit([Put("c/a/e/y", {"n": 2})])
        parent, child, other = (await engine.read(["c/a", "c/a/d/x", "c/a/e/y"])).documents
        assert parent is not None
        assert child is not None
        assert other is not None
        assert parent.fields() == {"d": {"x": "a field"}, "e": 1}
        assert (child.fields(), other.fields()) == ({"n": 1}, {"n": 2})
        await engine.commit([Delete("c/a")])
        assert [each and each.fields() for each in (await engine.read(["c/a", "c/a/d/x"])).documents] == [
            None,
            {"n": 1},
        ]
        assert [each.id async for each in engine.scan(Scan("c"))] == []
        await engine.commit([Delete("c/a/d/x"), Delete("c/a/e/y"), Put("c/a", {OWN_FIELD: 1})])
        [parent] = (await engine.read(["c/a"])).documents
        assert parent is not None
        assert parent.fields() == {OWN_FIELD: 1}


async def test_documents_of_others_are_left_alone(client: MockFirestore):
    """What the suite itself put into the mock is no document of the engine's, and stays as it is."""
    client.collection("users").document("u").set({"name": "Ann"})
    async with MockFirestoreEngine(client) as engine:
        assert [each.id async for each in engine.scan(Scan("users"))] == []
        assert (await engine.read(["users/u", "users/u/name/x", "users/missing"])).documents == (None, None, None)
        await engine.commit([Put("users/v", {}), Delete("users/missing")])
    assert client.document("users/u").get().to_dict() == {"name": "Ann"}
    assert not client.document("users/missing").get().exists


async def test_reading_makes_nothing(client: MockFirestore):
    """Asking for a document that is not there leaves no trace of it in the mock."""
    async with MockFirestoreEngine(client) as engine:
        await engine.read(["c/a", "c/a/d/x"])
        with pytest.raises(CommitRefused):
            await engine.commit([Put("c/b", {}), Put("c/a", {}, PRESENT)])
    assert list(client.collections()) == []


async def test_a_change_made_with_the_mock_is_seen(client: MockFirestore):
    """A suite can damage a document to see what its service makes of it; what is no JSON is reported."""
    async with MockFirestoreEngine(client) as engine:
        await engine.commit([Put("c/a", {"n": 1})])
        client.document("c/a").update({"n": 2})
        [document] = (await engine.read(["c/a"])).documents
        assert document is not None
        assert document.fields() == {"n": 2}
        endless: list[Any] = []
        endless.append(endless)
        for no_json in (object(), endless):
            client.document("c/a").update({"n": no_json})
            [damaged] = (await engine.read(["c/a"])).documents
            assert damaged is not None
            with pytest.raises(CorruptDocument):
                damaged.fields()


def test_what_is_no_mock_is_refused():
    """Anything but a MockFirestore is a TypeError at once."""
    with pytest.raises(TypeError, match="MockFirestore"):
        MockFirestoreEngine(object())
