"""A store's identity: the document with the store's id and its format."""

from __future__ import annotations

import uuid

import msgspec

from tai_state.engines.api import ABSENT, At, Engine, Put, Shape
from tai_state.engines.matters import Bounds, Commit, Done, Failed, Look, Verdict
from tai_state.engines.rewriting import Rewrite
from tai_state.engines.settling import settle
from tai_state.errors import IncompatibleFormat, StoreNotFound
from tai_state.streams.layout import Layout

FORMAT = 2
"""The version of the documents' format; ``docs/format.md`` describes it."""


class StoreRecord(msgspec.Struct, frozen=True):
    """``meta/store``: the store's identity."""

    store_id: str
    format: int


STORE = Shape(StoreRecord)


async def identify(engine: Engine, layout: Layout, bounds: Bounds, *, create: bool) -> str:
    """The store's id; it is made together with the store.

    Raises:
        StoreNotFound: there is no store, and ``create`` is false.
        CorruptDocument: there is no store to be found because its storage is damaged.
        IncompatibleFormat: a newer release wrote the store.
    """
    path = layout.store
    made = StoreRecord(uuid.uuid4().hex[:16], FORMAT)

    def decide(look: Look) -> Verdict[str | None]:
        document = look.documents[path]
        if document is not None:
            record = document.decode(STORE)
            if record.format > FORMAT:
                what = f"has format {record.format}, but this release reads formats up to {FORMAT}: upgrade tai-state"
                return Failed(IncompatibleFormat(path, what))
            if record.format < FORMAT:
                # Documents of format 1 can be read as they are; each becomes format 2 when it is written again.
                upgraded = StoreRecord(record.store_id, FORMAT)
                return Commit([Put(path, upgraded, At(document.revision))], lambda _: record.store_id)
            return Done(record.store_id)
        # If another process is faster, its id becomes the store's id.
        return Commit([Put(path, made, ABSENT)], lambda _: made.store_id) if create else Done(None)

    store_id = await settle(engine, Rewrite([path], decide), bounds)
    if store_id is None:
        for damage in await engine.self_check():
            raise damage
        raise StoreNotFound(path)
    return store_id
