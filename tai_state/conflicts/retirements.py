"""Retired stores, where states are compared: what is on record is read with the clocks, and goes where the events go.

See :mod:`tai_state.values.retired`. A record is only ever added to, and what it says is true in every store. So it can
be passed on before the events that need it. A clock without a mark needs no record, and none is read.
"""

from __future__ import annotations

import msgspec

from tai_state.conflicts.sides import Side
from tai_state.engines.api import ABSENT, At, Put
from tai_state.engines.matters import Commit, Done, Look, Verdict
from tai_state.engines.rewriting import Rewrite
from tai_state.engines.settling import settle
from tai_state.streams.core import Core
from tai_state.streams.layout import Stream
from tai_state.streams.retirements import RetiredRecord, retired_in
from tai_state.values.clocks import VectorClock
from tai_state.values.retired import Retired, has_marks


async def retired_for(core: Core, stream: Stream, clock: VectorClock) -> Retired:
    """The retirements that a clock in a store stands for."""
    if not has_marks(clock):
        return Retired({})
    [document] = (await core.engine.read([stream.retired])).documents
    return retired_in(stream, document)


async def with_retired(here: Side, there: Side) -> tuple[Side, Side]:
    """Both sides, each with the retirements that the clocks of the two stand for."""
    retired = Retired({})
    for side in (here, there):
        retired |= await retired_for(side.core, side.stream, side.clock)
    return msgspec.structs.replace(here, retired=retired), msgspec.structs.replace(there, retired=retired)


def refused(here: Side, there: Side) -> str:
    """Why two sides cannot be synced: the store of one of them was retired; empty if none was.

    Clocks no longer name it. If it took over such a clock, it would count its next change as one of its first.
    """
    for side in (here, there):
        if side.core.store_id in side.retired.stores:
            new = "export it, restore that into a new store, and sync the new one"
            return f"store {side.core.store_id} was retired, and must not be synced any more: {new}"
    return ""


async def keep(side: Side) -> None:
    """Put on record in the store of a side what is known of retired stores."""
    stream, path, known = side.stream, side.stream.retired, side.retired

    def decide(look: Look) -> Verdict[None]:
        document = look.documents[path]
        there = retired_in(stream, document)
        if known.taken_out.keys() <= there.taken_out.keys():
            return Done(None)
        require = ABSENT if document is None else At(document.revision)
        return Commit([Put(path, RetiredRecord(stream.state_id, (there | known).taken_out), require)], lambda _: None)

    if known.taken_out:
        await settle(side.core.engine, Rewrite([path], decide, is_telling=False), side.core.bounds)
