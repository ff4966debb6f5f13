"""How much room a store takes."""

from __future__ import annotations

import msgspec

from tai_state.engines.api import Document, Scan
from tai_state.errors import CorruptDocument, Inconsistent
from tai_state.streams.core import Core
from tai_state.streams.damage import Report, fault
from tai_state.streams.surveying import every_governor, lock_collections


class StoreSize(msgspec.Struct, frozen=True, kw_only=True):
    """How much room the documents of a store take, as JSON. An engine's own overhead is not counted.

    Attributes:
        documents: how many documents there are.
        state_bytes: the size of all states.
        event_bytes: the size of all events.
        snapshot_bytes: the size of all kept snapshots.
        marker_bytes: the size of all markers of callers' event ids.
        other_bytes: the size of all other documents: those of governors, retired stores, cleanups, time-outs, locks,
            restores and the store itself.
        total_bytes: the size of all of them.
        damaged: how many of the documents are damaged; their sizes are not known, and not counted.
    """

    documents: int
    state_bytes: int
    event_bytes: int
    snapshot_bytes: int
    marker_bytes: int
    other_bytes: int
    total_bytes: int
    damaged: int


def unreported(_: Inconsistent) -> None:
    """A report that is not told to anybody; damaged documents are only counted."""


async def get_size(core: Core, report: Report = unreported) -> StoreSize:
    """How much room a store takes. It reads every document.

    Args:
        core: the store's core.
        report: called with what is wrong with a damaged document, or with a governor whose document is missing.
    """
    layout = core.layout
    kinds = (layout.states, layout.events, layout.snapshots, layout.ids)
    sizes = [0] * (len(kinds) + 1)
    documents = damaged = 0

    def add(kind: int, document: Document) -> None:
        nonlocal documents, damaged
        documents += 1
        try:
            sizes[kind] += document.size
        except CorruptDocument as error:
            damaged += 1
            report(CorruptDocument(error.path, f"{fault(error)}: run `tai-state verify`"))

    for governor_id in await every_governor(core, report):
        for kind, collection_of in enumerate((*kinds, layout.retired, layout.cleaned)):
            async for document in core.engine.scan(Scan(collection_of(governor_id))):
                add(min(kind, len(kinds)), document)
    [store] = (await core.engine.read([layout.store])).documents
    if store is not None:
        add(len(kinds), store)
    for collection in (layout.governors, layout.restores, layout.timers, *await lock_collections(core)):
        async for document in core.engine.scan(Scan(collection)):
            add(len(kinds), document)
    states, events, kept, markers, others = sizes
    return StoreSize(
        documents=documents,
        state_bytes=states,
        event_bytes=events,
        snapshot_bytes=kept,
        marker_bytes=markers,
        other_bytes=others,
        total_bytes=sum(sizes),
        damaged=damaged,
    )
