"""How much room a store takes."""

from __future__ import annotations

import msgspec

from tai_state.engines.api import Scan
from tai_state.errors import CorruptDocument
from tai_state.streams.core import Core
from tai_state.streams.reading import list_governors


class StoreSize(msgspec.Struct, frozen=True, kw_only=True):
    """How much room the documents of governors take, as JSON.

    An engine's own overhead is not counted, nor is what is on record about retired stores.

    Attributes:
        documents: how many documents there are.
        state_bytes: the size of all states.
        event_bytes: the size of all events.
        snapshot_bytes: the size of all kept snapshots.
        marker_bytes: the size of all markers of callers' event ids.
        total_bytes: the size of all of them.
        damaged: how many of the documents are damaged; their sizes are not known, and not counted.
    """

    documents: int
    state_bytes: int
    event_bytes: int
    snapshot_bytes: int
    marker_bytes: int
    total_bytes: int
    damaged: int


async def get_size(core: Core) -> StoreSize:
    """How much room a store takes. It reads every document of its governors."""
    layout = core.layout
    collections = (layout.states, layout.events, layout.snapshots, layout.ids)
    sizes = [0] * len(collections)
    documents = damaged = 0
    async for governor_id in list_governors(core):
        for index, collection in enumerate(collections):
            async for document in core.engine.scan(Scan(collection(governor_id))):
                documents += 1
                try:
                    sizes[index] += document.size
                except CorruptDocument:
                    damaged += 1
    states, events, kept, markers = sizes
    return StoreSize(
        documents=documents,
        state_bytes=states,
        event_bytes=events,
        snapshot_bytes=kept,
        marker_bytes=markers,
        total_bytes=sum(sizes),
        damaged=damaged,
    )
