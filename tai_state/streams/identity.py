"""A store's identity: the document that says which store this is, and in which format."""

from __future__ import annotations

import uuid

from tai_state.engines.api import ABSENT, Engine, Put, SelfChecking
from tai_state.errors import CommitRefused, CorruptDocument, IncompatibleFormat, StoreNotFound
from tai_state.streams.layout import Layout
from tai_state.streams.records import STORE, StoreRecord

FORMAT = 1
"""The version of the documents' format; ``docs/format.md`` describes it."""


async def identify(engine: Engine, layout: Layout, *, create: bool) -> str:
    """The store's id, made when the store is.

    Raises:
        StoreNotFound: there is no store, and none is to be made.
        CorruptDocument: nor can one be found, since what it is stored in is damaged.
        IncompatibleFormat: it was written by a newer release.
    """
    path = layout.store
    for _ in range(2):
        [document] = (await engine.read([path])).documents
        if document is not None:
            record = document.decode(STORE)
            if record.format > FORMAT:
                raise IncompatibleFormat(
                    path,
                    f"has format {record.format}, this release reads up to {FORMAT}: upgrade tai-state",
                )
            return record.store_id
        if not create:
            raise await _absence(engine, path)
        record = StoreRecord(uuid.uuid4().hex[:16], FORMAT)
        try:
            await engine.commit([Put(path, record, ABSENT)])
        except CommitRefused:
            continue  # another process was first: its id is the store's
        return record.store_id
    raise IncompatibleFormat(path, "appears and disappears: is another program writing here?")


async def _absence(engine: Engine, path: str) -> StoreNotFound | CorruptDocument:
    """What it means that the store's own document is not found."""
    if isinstance(engine, SelfChecking):
        for damage in await engine.self_check():
            return damage
    return StoreNotFound(path)
