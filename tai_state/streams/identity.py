"""A store's identity: the document that says which store this is, and in which format."""

from __future__ import annotations

import uuid

from tai_state.engines.api import ABSENT, At, Engine, Put
from tai_state.engines.matters import Bounds, Commit, Done, Failed, Look, Verdict
from tai_state.engines.rewriting import Rewrite
from tai_state.engines.settling import settle
from tai_state.errors import IncompatibleFormat, StoreNotFound
from tai_state.streams.layout import Layout
from tai_state.streams.records import STORE, StoreRecord

FORMAT = 2
"""The version of the documents' format; ``docs/format.md`` describes it."""


async def identify(engine: Engine, layout: Layout, bounds: Bounds, *, create: bool) -> str:
    """The store's id, made when the store is.

    Raises:
        StoreNotFound: there is no store, and none is to be made.
        CorruptDocument: nor can one be found, since what it is stored in is damaged.
        IncompatibleFormat: it was written by a newer release.
    """
    path = layout.store
    made = StoreRecord(uuid.uuid4().hex[:16], FORMAT)

    def decide(look: Look) -> Verdict[str | None]:
        document = look.documents[path]
        if document is not None:
            record = document.decode(STORE)
            if record.format > FORMAT:
                what = f"has format {record.format}, this release reads up to {FORMAT}: upgrade tai-state"
                return Failed(IncompatibleFormat(path, what))
            if record.format < FORMAT:
                # Documents of format 1 are read as they are, and are of format 2 once they are written again.
                upgraded = StoreRecord(record.store_id, FORMAT)
                return Commit([Put(path, upgraded, At(document.revision))], lambda _: record.store_id)
            return Done(record.store_id)
        # Where another process is first, its id is the store's.
        return Commit([Put(path, made, ABSENT)], lambda _: made.store_id) if create else Done(None)

    store_id = await settle(engine, Rewrite([path], decide), bounds)
    if store_id is None:
        for damage in await engine.self_check():
            raise damage
        raise StoreNotFound(path)
    return store_id
