"""Restores that are under way, or were interrupted. What they have written so far is only a part of a history."""

from __future__ import annotations

import msgspec

from tai_state.engines.api import ABSENT, At, Check, Document, Moment, Scan, Shape
from tai_state.errors import CorruptDocument, EventSourcingError, Inconsistent
from tai_state.streams.core import Core
from tai_state.streams.damage import Report, misplaced
from tai_state.values.commands import command
from tai_state.values.ids import stored_id


class RestoreRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """``meta/store/restores/{g}``: a restore of a governor, under way or finished."""

    export_id: str
    finished: bool = False


RESTORE = Shape(RestoreRecord, is_small=True)


async def unfinished_restore(core: Core, governor_id: str, at: Moment | None = None) -> Inconsistent | None:
    """What to say of a governor whose restore is unfinished, or may be, now or at a moment; None if it is finished."""
    path = core.layout.restore(governor_id)
    [document] = (await (at or core.engine).read([path])).documents
    return None if document is None else said_of(document)


async def no_restore(core: Core, governor_id: str) -> Check:
    """What a commit has to require so that no restore of a governor has begun, or gone on, since this call.

    Raises:
        Inconsistent: one is unfinished, or may be.
    """
    path = core.layout.restore(governor_id)
    [note] = (await core.engine.read([path])).documents
    if note is not None and (error := said_of(note)) is not None:
        raise error
    return Check(path, ABSENT if note is None else At(note.revision))


def is_finished(note: Document) -> bool:
    """Whether a note says that its restore is finished; one that is damaged does not say so."""
    try:
        return note.decode(RESTORE).finished
    except CorruptDocument:
        return False


def said_of(note: Document) -> Inconsistent | None:
    """What to say of a restore, by its note; None if it is finished."""
    if is_finished(note):
        return None
    try:
        end = command("recover", stored_id(note.path), "--end-restore")
    except CorruptDocument:
        return misplaced(note.path, "a note of a restore")
    try:
        note.decode(RESTORE)
    except CorruptDocument:
        again = (
            f"run `tai-state restore` with the same file and --keep-changed; if it is lost, or all is there, run {end}"
        )
        what = "is damaged, so it does not say whether a restore of this governor is finished, nor of which file"
        return CorruptDocument(note.path, f"{what}: {again}")
    again = "run `tai-state restore` again, with the same file; if it is lost, with another export and --keep-changed"
    what = "says that a restore of this governor is unfinished"
    return EventSourcingError(note.path, f"{what}: {again}; if there is none either, run {end}")


async def unfinished_restores(core: Core, governor_id: str | None = None) -> list[Inconsistent]:
    """What to say of each governor of this store, or of one, whose restore is unfinished, or may be."""
    if governor_id is not None:
        one = await unfinished_restore(core, governor_id)
        return [] if one is None else [one]
    found = [said_of(note) async for note in core.engine.scan(Scan(core.layout.restores))]
    return [each for each in found if each is not None]


async def governors_of_restores(core: Core, report: Report) -> list[str]:
    """The escaped ids of the governors of which a restore was ever begun in this store, finished ones included.

    Args:
        core: the core of the store.
        report: called with what is wrong with a note that is that of no governor.
    """
    found: list[str] = []
    async for note in core.engine.scan(Scan(core.layout.restores)):
        try:
            stored_id(note.path)
            found.append(note.id)
        except CorruptDocument:
            report(misplaced(note.path, "a note of a restore"))
    return found
