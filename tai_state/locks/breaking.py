"""Breaking a lock: taking it away from its holder."""

from __future__ import annotations

from tai_state.engines.api import ABSENT, Delete, Document, Put, Write
from tai_state.engines.matters import Commit, Done, Look, Verdict, still_hold
from tai_state.engines.rewriting import Rewrite
from tai_state.engines.settling import settle
from tai_state.errors import CorruptDocument, InvalidId
from tai_state.locks.common import Common
from tai_state.locks.damage import nonce_of
from tai_state.locks.listing import damaged_info, info_of
from tai_state.locks.records import BEAT, BREAK, BreakRecord, LockInfo
from tai_state.streams.damage import as_read
from tai_state.streams.settings import new_id
from tai_state.values.ids import escape_id

_DAMAGED_SECONDS = 86_400.0
"""For how long the note of a damaged lock counts: nothing says how long its holder could go on working."""


async def broken(common: Common, resource: str) -> LockInfo | None:
    """Remove the lock that is there now, damaged or not. See :meth:`LockManager.break_lock`.

    The note of the break names this call. So if the answer is lost, the call knows its own break from another's, also
    if another lock of the same tenure is broken meanwhile. There is none if nothing tells any more which tenure held
    the lock.
    """
    lock, beat = common.sightings.paths([resource])
    seen = await common.sightings.read([lock, beat])
    if lock not in seen:
        return None
    call, note, document = new_id(), "", seen[lock].document
    removal: list[Write] = [Delete(lock, as_read(document)), Delete(beat)]
    try:
        standing = common.sightings.standing(resource, seen)
    except CorruptDocument:
        standing = None
    if standing is None:
        info, ttl = damaged_info(resource, document), _DAMAGED_SECONDS
        nonce = _nonce_left(document, seen[beat].document if beat in seen else None)
    else:
        info, ttl, nonce = info_of(resource, standing), standing.record.ttl, standing.record.nonce
    if _is_name(nonce):
        note = common.core.layout.lockbreak(nonce)

    def breaking(before: Document | None) -> Commit[LockInfo | None]:
        """The removal and its note, which replaces one of an earlier break of another lock of the tenure."""
        writes = list(removal)
        if note:
            by = " ".join([call, *_callers(before)])
            unmoved = ABSENT if before is None else as_read(before)
            writes.append(Put(note, BreakRecord(resource, ttl, by), unmoved))
        return Commit(writes, lambda _: info)

    def decide(look: Look) -> Verdict[LockInfo | None]:
        before = look.documents.get(note)
        if call in _callers(before):
            return Done(info)
        return breaking(before) if still_hold(removal, look) else Done(None)

    paths = [lock, beat, note] if note else [lock, beat]
    return await settle(common, Rewrite(paths, decide, is_telling=False), common.bounds, breaking(None))


def _nonce_left(lock: Document, beat: Document | None) -> str:
    """The nonce of the tenure that holds a damaged lock, by its renewals or by what is left of the lock; else empty."""
    renewed = None if beat is None else nonce_of(beat, BEAT)
    if renewed is not None:
        return renewed
    try:
        nonce = lock.fields().get("nonce")
    except CorruptDocument:
        return ""
    return nonce if isinstance(nonce, str) else ""


def _is_name(nonce: str) -> bool:
    """Whether a document can have this nonce for its name: a damaged one may be anything."""
    try:
        return escape_id(nonce) == nonce
    except InvalidId:
        return False


def _callers(note: Document | None) -> list[str]:
    """The calls that have broken locks of the tenure that a note is about, the last one first."""
    try:
        return [] if note is None else note.decode(BREAK).by.split()
    except CorruptDocument:
        return []
