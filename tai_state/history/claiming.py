"""The claim of a restore: of all that work on one governor, only the last one to begin may write.

A restore writes its note when it begins, also if it goes on from another one. Each of its commits then requires the
note at that revision. So a restore that stood still meanwhile, for however long, can write nothing more.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import msgspec

from tai_state.engines.api import ABSENT, At, Check, Delete, Document, Put, Scan
from tai_state.engines.matters import Commit, Done, Failed, Look, Verdict
from tai_state.engines.rewriting import Rewrite, write_unless_moved
from tai_state.engines.settling import settle
from tai_state.errors import CorruptDocument, GovernorExists
from tai_state.history.unfinished import RESTORE, RestoreRecord, is_finished, said_of
from tai_state.streams.core import Core
from tai_state.streams.damage import as_read


class Begun(Enum):
    """How far an earlier restore of a file has come."""

    NEW = "new"
    UNDER_WAY = "under way"
    FINISHED = "finished"


class Claim(msgspec.Struct, frozen=True):
    """The note of a restore, as the one who holds the claim wrote it.

    Attributes:
        note: its path.
        revision: its revision.
        begun: how far the restore had come before.
    """

    note: str
    revision: int
    begun: Begun = Begun.UNDER_WAY

    @property
    def check(self) -> Check:
        """The requirement that nobody else has claimed the restore, or ended it."""
        return Check(self.note, At(self.revision))

    def is_held(self, look: Look) -> bool:
        """Whether that holds in a look in which the note was read."""
        there = look.documents[self.note]
        return there is not None and there.revision == self.revision

    @property
    def lost(self) -> Failed:
        """The verdict on any commit of a restore that has lost its claim."""
        return Failed(GovernorExists(self.note, is_overtaken=True))


async def claim(core: Core, governor_id: str, export_id: str, *, keep_changed: bool) -> Claim:
    """Claim the restore of a file, unless that is finished already, or the governor exists.

    Args:
        core: the core of the store.
        governor_id: the governor.
        export_id: that of the file.
        keep_changed: also go on from a restore of another file, or of one that a damaged note does not name.

    Raises:
        GovernorExists: the governor exists, or such a restore is unfinished.
        CorruptDocument: the note does not say so, because it is damaged.
    """
    note = core.layout.restore(governor_id)
    [first] = (await core.engine.read([note])).documents
    if _begun(first, export_id) is Begun.NEW:
        await _check_empty(core, governor_id)

    def decide(look: Look) -> Verdict[Claim]:
        there = look.documents[note]
        begun = _begun(there, export_id)
        if there is not None and begun is Begun.FINISHED:
            return Done(Claim(note, there.revision, begun))
        if begun is Begun.NEW and _revision(there) != _revision(first):
            return Failed(GovernorExists(note, is_overtaken=True))  # who knows whether the governor is still empty
        if there is not None and begun is None and not keep_changed:
            damage = said_of(there)
            return Failed(damage if isinstance(damage, CorruptDocument) else GovernorExists(note, is_unfinished=True))
        return _taken(note, there, RestoreRecord(export_id), begun or Begun.UNDER_WAY)

    return await _claimed(core, note, decide)


async def claim_to_end(core: Core, governor_id: str) -> Claim:
    """Claim a restore that is unfinished, whichever it is, to end it.

    Raises:
        GovernorExists: it is not unfinished any more.
    """
    note = core.layout.restore(governor_id)

    def decide(look: Look) -> Verdict[Claim]:
        there = look.documents[note]
        if there is None or is_finished(there):
            return Failed(GovernorExists(note, is_overtaken=True))
        try:
            return _taken(note, there, there.decode(RESTORE), Begun.UNDER_WAY)
        except CorruptDocument:
            return _taken(note, there, RestoreRecord(""), Begun.UNDER_WAY)

    return await _claimed(core, note, decide)


async def finish(core: Core, held: Claim, record: RestoreRecord) -> None:
    """Note that a restore is finished. The note stays, so a caller that did not get this answer may ask again.

    Raises:
        GovernorExists: the claim is lost.
    """
    commit = Commit([Put(held.note, record, At(held.revision))], lambda _: None)

    def decide(look: Look) -> Verdict[None]:
        return commit if held.is_held(look) else held.lost

    await settle(core.engine, Rewrite([held.note], decide), core.bounds, commit)


async def withdraw(core: Core, held: Claim) -> None:
    """Remove the note of a restore that has written nothing, unless somebody else has claimed that."""
    await write_unless_moved(core.engine, [Delete(held.note, At(held.revision))], core.bounds)


async def _claimed(core: Core, note: str, decide: Callable[[Look], Verdict[Claim]]) -> Claim:
    # A note that is as this call would write it may be that of another restore of the same file.
    return await settle(core.engine, Rewrite([note], decide, is_telling=False), core.bounds)


def _taken(note: str, there: Document | None, record: RestoreRecord, begun: Begun) -> Commit[Claim]:
    require = ABSENT if there is None else as_read(there)
    return Commit([Put(note, record, require)], lambda committed: Claim(note, committed.revision, begun))


async def _check_empty(core: Core, governor_id: str) -> None:
    """Check that a governor has neither states nor events.

    Raises:
        GovernorExists: it has.
    """
    layout = core.layout
    for collection in (layout.states(governor_id), layout.events(governor_id)):
        async for found in core.engine.scan(Scan(collection, limit=1)):
            raise GovernorExists(found.path)


def _begun(note: Document | None, export_id: str) -> Begun | None:
    """How far the restore of a file is, by a note; None if it may be that of another one, which is unfinished."""
    if note is None:
        return Begun.NEW
    try:
        record = note.decode(RESTORE)
    except CorruptDocument:
        return None
    if record.export_id == export_id:
        return Begun.FINISHED if record.finished else Begun.UNDER_WAY
    return Begun.NEW if record.finished else None


def _revision(note: Document | None) -> int | None:
    return None if note is None else note.revision
