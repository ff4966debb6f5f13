"""Breaking a lock: taking it away from its holder."""

from __future__ import annotations

from tai_state.engines.api import Delete, Document, Put, Write
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

    The note of the break names this call. So if the answer is lost, the call knows its own break from another's. The
    holder of a damaged lock gets no note, because its nonce cannot be read.
    """
    lock, beat = common.sightings.paths([resource])
    seen = await common.sightings.read([lock, beat])
    if lock not in seen:
        return None
    call, note, document = new_id(), "", seen[lock].document
    writes: list[Write] = [Delete(lock, as_read(document)), Delete(beat)]
    try:
        standing = common.sightings.standing(resource, seen)
    except CorruptDocument:
        standing = None
    if standing is None:
        info = damaged_info(resource, document)
    else:
        info = info_of(resource, standing)
        note = common.core.layout.lockbreak(standing.record.nonce)
        writes.append(Put(note, BreakRecord(resource, standing.record.ttl, call)))
    commit: Commit[LockInfo | None] = Commit(writes, lambda _: info)

    def decide(look: Look) -> Verdict[LockInfo | None]:
        if _is_by(call, look.documents.get(note)):
            return Done(info)
        return commit if still_hold(writes, look) else Done(None)

    return await settle(
        common, Rewrite([each.path for each in writes], decide, is_telling=False), common.bounds, commit
    )


def _is_by(call: str, note: Document | None) -> bool:
    """Whether this call left the note."""
    try:
        return note is not None and note.decode(BREAK).by == call
    except CorruptDocument:
        return False
