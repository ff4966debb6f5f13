"""Breaking a lock: taking it away from its holder."""

from __future__ import annotations

from tai_state.engines.api import ABSENT, Delete, Document, Put, Write
from tai_state.engines.matters import Commit, Done, Look, Verdict, still_hold
from tai_state.engines.rewriting import Rewrite
from tai_state.engines.settling import settle
from tai_state.errors import CorruptDocument
from tai_state.locks.common import Common
from tai_state.locks.damage import as_read
from tai_state.locks.listing import damaged_info, info_of
from tai_state.locks.records import BREAK, BreakRecord, LockInfo
from tai_state.streams.settings import new_id


async def broken(common: Common, resource: str) -> LockInfo | None:
    """Remove the lock that is there now, damaged or not. See :meth:`LockManager.break_lock`.

    The note of the break names this call. So if the answer is lost, the call knows its own break from another's, also
    if another lock of the same tenure is broken meanwhile. The holder of a damaged lock gets no note, because its nonce cannot be read.
    """
    lock, beat = common.sightings.paths([resource])
    seen = await common.sightings.read([lock, beat])
    if lock not in seen:
        return None
    call, note, document, record = new_id(), "", seen[lock].document, None
    removal: list[Write] = [Delete(lock, as_read(document)), Delete(beat)]
    try:
        standing = common.sightings.standing(resource, seen)
    except CorruptDocument:
        standing = None
    if standing is None:
        info = damaged_info(resource, document)
    else:
        info = info_of(resource, standing)
        record = standing.record
        note = common.core.layout.lockbreak(record.nonce)

    def breaking(before: Document | None) -> Commit[LockInfo | None]:
        """The removal, with a note; other locks of the tenure may have been broken, and a note of that be there."""
        writes = list(removal)
        if record is not None:
            by = " ".join([call, *_callers(before)])
            unmoved = ABSENT if before is None else as_read(before)
            writes.append(Put(note, BreakRecord(resource, record.ttl, by), unmoved))
        return Commit(writes, lambda _: info)

    def decide(look: Look) -> Verdict[LockInfo | None]:
        before = look.documents.get(note)
        if call in _callers(before):
            return Done(info)
        return breaking(before) if still_hold(removal, look) else Done(None)

    paths = [lock, beat] if record is None else [lock, beat, note]
    return await settle(common, Rewrite(paths, decide, is_telling=False), common.bounds, breaking(None))


def _callers(note: Document | None) -> list[str]:
    """The calls that have broken locks of the tenure that a note is about, the last one first."""
    try:
        return [] if note is None else note.decode(BREAK).by.split()
    except CorruptDocument:
        return []
