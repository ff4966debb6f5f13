"""Restores that are under way, or were interrupted. What they have written so far is only a part of a history."""

from __future__ import annotations

import msgspec

from tai_state.engines.api import Document, Moment, Scan, Shape
from tai_state.errors import CorruptDocument, EventSourcingError, Inconsistent
from tai_state.streams.core import Core


class RestoreRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """``meta/store/restores/{g}``: a restore of a governor, under way or finished."""

    export_id: str
    finished: bool = False


_AGAIN = "run `tai-state restore` again, with the same file; if it is lost, with another export and --keep-changed"
RESTORE = Shape(RestoreRecord, _AGAIN, is_small=True)


async def unfinished_restore(core: Core, governor_id: str, at: Moment | None = None) -> Inconsistent | None:
    """What to say of a governor whose restore is unfinished, or may be, now or at a moment; None if it is finished."""
    path = core.layout.restore(governor_id)
    [document] = (await (at or core.engine).read([path])).documents
    return None if document is None else _unfinished(document)


def _unfinished(note: Document) -> Inconsistent | None:
    """What to say of a restore, by its note; None if it is finished."""
    try:
        if note.decode(RESTORE).finished:
            return None
    except CorruptDocument:
        what = f"is damaged, so it does not say whether a restore of this governor is finished: {_AGAIN}"
        return CorruptDocument(note.path, what)
    what = f"says that a restore of this governor is unfinished: {_AGAIN}"
    return EventSourcingError(note.path, what)


async def unfinished_restores(core: Core, governor_id: str | None = None) -> list[Inconsistent]:
    """What to say of each governor of this store, or of one, whose restore is unfinished, or may be."""
    if governor_id is not None:
        one = await unfinished_restore(core, governor_id)
        return [] if one is None else [one]
    found = [_unfinished(note) async for note in core.engine.scan(Scan(core.layout.restores))]
    return [each for each in found if each is not None]


async def governors_of_restores(core: Core) -> list[str]:
    """The escaped ids of the governors of which a restore was ever begun in this store, finished ones included."""
    return [each.id async for each in core.engine.scan(Scan(core.layout.restores))]
