"""Restores that are under way, or were interrupted. What they have written so far is only a part of a history."""

from __future__ import annotations

import msgspec

from tai_state.engines.api import Moment, Scan, Shape
from tai_state.errors import CorruptDocument, EventSourcingError, Inconsistent
from tai_state.streams.core import Core


class RestoreRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """``meta/store/restores/{g}``: a restore of a governor, under way or finished."""

    export_id: str
    finished: bool = False


RESTORE = Shape(RestoreRecord)


async def unfinished_restore(core: Core, governor_id: str, at: Moment | None = None) -> Inconsistent | None:
    """What to say of a governor whose restore is unfinished, or may be, now or at a moment; None if it is finished."""
    path = core.layout.restore(governor_id)
    [document] = (await (at or core.engine).read([path])).documents
    try:
        if document is None or document.decode(RESTORE).finished:
            return None
    except CorruptDocument:
        what = "is damaged, so it does not say whether a restore of this governor is finished: restore a backup"
        return CorruptDocument(path, what)
    what = "says that a restore of this governor is unfinished: run `tai-state restore` again, with the same file"
    return EventSourcingError(path, what)


async def governors_of_restores(core: Core) -> list[str]:
    """The escaped ids of the governors of which a restore was ever begun in this store, finished ones included."""
    return [each.id async for each in core.engine.scan(Scan(core.layout.restores))]
