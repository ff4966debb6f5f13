"""A store's identity: the document with the store's id and its format."""

from __future__ import annotations

import uuid

import msgspec

from tai_state.engines.api import ABSENT, At, Engine, Put, Scan, Shape
from tai_state.engines.matters import Bounds, Commit, Done, Failed, Look, Verdict
from tai_state.engines.paging import take
from tai_state.engines.rewriting import Rewrite, write_unless_moved
from tai_state.engines.settling import settle
from tai_state.errors import CorruptDocument, IncompatibleFormat, StoreNotFound
from tai_state.streams.damage import Report, raising
from tai_state.streams.layout import Layout

FORMAT = 2
"""The version of the documents' format; ``docs/format.md`` describes it."""

UNKNOWN = ""
"""Stands for the id of a store whose own document is damaged or missing. Nothing may be written under it."""

_RECOVER = "run `tai-state recover`, which gives the store a new id"


class StoreRecord(msgspec.Struct, frozen=True):
    """``meta/store``: the store's identity."""

    store_id: str
    format: int


STORE = Shape(StoreRecord, _RECOVER)


async def identify(engine: Engine, layout: Layout, bounds: Bounds, *, create: bool, report: Report = raising) -> str:
    """The store's id; it is made together with the store.

    An id is never made where other documents are: one that another process or another store goes by could be lost.

    Args:
        engine: the engine.
        layout: the paths of the documents.
        bounds: how long and how often it is tried.
        create: make the store if there is none.
        report: called if the document is damaged, or missing beside others; if it returns, the id is :data:`UNKNOWN`.

    Raises:
        StoreNotFound: there is no store, and ``create`` is false.
        CorruptDocument: there is no store to be found because its storage is damaged.
        IncompatibleFormat: a newer release wrote the store.
    """
    try:
        store_id = await _found(engine, layout, bounds)
    except CorruptDocument as error:
        if error.path != layout.store:
            raise
        report(error)
        return UNKNOWN
    if store_id is None and create:
        store_id = await _store_id(engine, layout, bounds, _new())
    if store_id is not None:
        return store_id
    for damage in await engine.self_check():
        raise damage
    raise StoreNotFound(layout.store)


async def _found(engine: Engine, layout: Layout, bounds: Bounds) -> str | None:
    """The id of a store that is there; None if there is none.

    Raises:
        CorruptDocument: the document is damaged, or missing beside others; or the storage is damaged and hides it.
    """
    store_id = await _store_id(engine, layout, bounds)
    if store_id is None and await _has_documents(engine, layout):
        store_id = await _store_id(engine, layout, bounds)  # it may have been made meanwhile
        if store_id is None:
            for damage in await engine.self_check():
                raise damage
            raise _missing(layout.store)
    return store_id


async def _store_id(engine: Engine, layout: Layout, bounds: Bounds, made: StoreRecord | None = None) -> str | None:
    """The id of the store, once its format is the present one; if there is none, it is made or None."""
    path = layout.store

    def decide(look: Look) -> Verdict[str | None]:
        document = look.documents[path]
        if document is None:
            # If another process is faster, its id becomes the store's id.
            if made is None:
                return Done(None)
            made_id = made.store_id
            return Commit([Put(path, made, ABSENT)], lambda _: made_id)
        record = document.decode(STORE)
        if record.format > FORMAT:
            what = f"has format {record.format}, but this release reads formats up to {FORMAT}: upgrade tai-state"
            return Failed(IncompatibleFormat(path, what))
        if record.format < FORMAT:
            # Documents of format 1 can be read as they are; each becomes format 2 when it is written again.
            upgraded = StoreRecord(record.store_id, FORMAT)
            return Commit([Put(path, upgraded, At(document.revision))], lambda _: record.store_id)
        return Done(record.store_id)

    return await settle(engine, Rewrite([path], decide), bounds)


async def store_problem(engine: Engine, layout: Layout) -> CorruptDocument | None:
    """What is wrong with the document of an open store; None if it is sound."""
    [document] = (await engine.read([layout.store])).documents
    try:
        if document is None:
            return _missing(layout.store)
        document.decode(STORE)
    except CorruptDocument as error:
        return error
    return None


async def mend_store(engine: Engine, layout: Layout, bounds: Bounds, store_id: str) -> str | None:
    """Make the document of an open store anew if it is missing or damaged. Returns the id that it then has, else None.

    Args:
        engine: the engine.
        layout: the paths of the documents.
        bounds: how long and how often it is tried.
        store_id: the id by which the store was opened. If it is :data:`UNKNOWN`, the store gets a new one: its changes
            count on in vector clocks beside those under the old id, as if another store had joined.
    """
    if await store_problem(engine, layout) is None:
        return None
    [document] = (await engine.read([layout.store])).documents
    record = StoreRecord(store_id, FORMAT) if store_id else _new()
    require = ABSENT if document is None else At(document.revision)
    is_written = await write_unless_moved(engine, [Put(layout.store, record, require)], bounds)
    return record.store_id if is_written else None


def _new() -> StoreRecord:
    return StoreRecord(uuid.uuid4().hex[:16], FORMAT)


def _missing(path: str) -> CorruptDocument:
    return CorruptDocument(path, f"is missing though the store has other documents: {_RECOVER}")


async def _has_documents(engine: Engine, layout: Layout) -> bool:
    """Whether there is any governor, lock or note of a restore."""
    for collection in (layout.governors, layout.locks, layout.restores):
        if await take(engine.scan(Scan(collection, limit=1)), 1):
            return True
    return bool(await engine.missing(layout.governors))
