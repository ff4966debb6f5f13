"""Documents that were edited past the library, in Google's console or by another program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tai_state.engines.api import Document, Put, Scan, Shape
from tai_state.engines.firestore.engine import FirestoreEngine
from tai_state.engines.firestore.seals import NONCE_BITS, fits, seal
from tai_state.errors import CorruptDocument

pytest.importorskip("grpc")
pytestmark = pytest.mark.anyio

FIELDS: dict[str, Any] = {"text": "a", "n": 1, "data": {"deep": {"list": [1, 2.5, None]}}, "payload": "x" * 3_000}


@pytest.fixture
def anyio_backend() -> str:
    """The driver knows no other event loop."""
    return "asyncio"


async def rewrite(engine: FirestoreEngine, name: str, change: Callable[[Any], object], to: str = "") -> None:
    """Put a document as it is stored somewhere, changed, without the library's codec."""
    from tai_state.engines.firestore.driver import BatchGetDocumentsRequest, CommitRequest

    connection = engine._opened()
    names = connection.names
    request = BatchGetDocumentsRequest(database=names.database, documents=[names.name(name)])
    with connection._channels.borrow() as channel:
        [found] = [each.found async for each in channel.batch_get(request, metadata=connection._by_database)]
        change(found.fields)
        commit = CommitRequest(database=names.database)
        update = commit.writes.add().update
        update.name = names.name(to or name)
        for key, value in found.fields.items():
            update.fields[key].CopyFrom(value)
        await channel.commit(commit, metadata=connection._by_database)


async def both_reads(engine: FirestoreEngine, name: str) -> list[Document]:
    """A document as a read gives it, and as a scan does."""
    [read] = (await engine.read([name])).documents
    [scanned] = [each async for each in engine.scan(Scan("c")) if each.path == name]
    assert read is not None
    return [read, scanned]


EDITS: dict[str, Callable[[Any], object]] = {
    "a text": lambda fields: setattr(fields["text"], "string_value", "b"),
    "a number": lambda fields: setattr(fields["n"], "integer_value", 2),
    "a number's kind": lambda fields: setattr(fields["n"], "double_value", 1.0),
    "something deep": lambda fields: (
        fields["data"].map_value.fields["deep"].map_value.fields["list"].array_value.values.pop()
    ),
    "a field removed": lambda fields: fields.pop("n"),
    "a field added": lambda fields: setattr(fields["more"], "boolean_value", True),
    "a text nested without end": lambda fields: (
        setattr(fields["data"].map_value.fields["deep"].map_value.fields["_json"], "string_value", "[" * 100_000),
        fields["data"].map_value.fields["deep"].map_value.fields.pop("list"),
    ),
    "a name nested without end": lambda fields: setattr(fields["_keys"], "string_value", '{"a":' * 100_000),
    "the checksum": lambda fields: setattr(fields["_w"], "integer_value", fields["_w"].integer_value ^ 1),
    "the random part": lambda fields: setattr(fields["_w"], "integer_value", fields["_w"].integer_value ^ 1 << 40),
}


@pytest.mark.parametrize("edit", EDITS)
async def test_what_was_edited_is_not_given(firestore: Callable[[], FirestoreEngine], edit: str):
    """A document that is not as it was committed is corrupt in every read, by its path, and no other one with it."""
    async with firestore() as engine:
        await engine.commit([Put("c/a", FIELDS), Put("c/b", FIELDS)])
        await rewrite(engine, "c/a", EDITS[edit])
        for document in await both_reads(engine, "c/a"):
            with pytest.raises(CorruptDocument) as caught:
                document.fields()
            assert caught.value.path == "c/a"
        for document in await both_reads(engine, "c/b"):
            assert document.fields() == FIELDS


async def test_a_document_that_was_copied_to_another_place_is_not_given(firestore: Callable[[], FirestoreEngine]):
    """The seal covers the path: two documents that changed places are both corrupt."""
    async with firestore() as engine:
        await engine.commit([Put("c/a", {"of": "a"}), Put("c/b", {"of": "b"})])
        await rewrite(engine, "c/a", lambda _: None, to="c/b")
        for document in await both_reads(engine, "c/b"):
            with pytest.raises(CorruptDocument):
                document.fields()


async def test_a_document_of_format_1_is_given(firestore: Callable[[], FirestoreEngine]):
    """Its number beside the fields is not negative and says nothing; the next write seals it."""
    async with firestore() as engine:
        await engine.commit([Put("c/a", {"n": 1})])
        await rewrite(engine, "c/a", lambda fields: setattr(fields["_w"], "integer_value", 4_711))
        for document in await both_reads(engine, "c/a"):
            assert document.fields() == {"n": 1}
        await engine.commit([Put("c/a", {"n": 2})])
        await rewrite(engine, "c/a", lambda fields: setattr(fields["n"], "integer_value", 3))
        for document in await both_reads(engine, "c/a"):
            with pytest.raises(CorruptDocument):
                document.decode(Shape(_Numbered))


class _Numbered(msgspec.Struct):
    n: int


@pytest.mark.parametrize("nonce", [0, 1, 2**NONCE_BITS - 1])
def test_a_seal_is_a_negative_integer_of_64_bits(nonce: int):
    """Whatever the random part, Firestore can hold the seal, and it fits its own document alone."""
    sealed = seal("c/a", b"{}", nonce)
    assert -(2**63) <= sealed < 0
    assert fits(sealed, "c/a", b"{}")
    assert not fits(sealed, "c/b", b"{}")
    assert not fits(sealed, "c/a", b'{"n":1}')
