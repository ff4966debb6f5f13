"""Dropping kept snapshots that are damaged, and those that no state lists."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import msgspec

from tai_state.engines.api import ANYTHING, At, Check, Delete, Document, Put, Scan, Write
from tai_state.engines.paging import take
from tai_state.engines.rewriting import write_unless_moved
from tai_state.errors import Inconsistent
from tai_state.history.extents import first_known
from tai_state.streams.core import Core
from tai_state.streams.damage import as_read
from tai_state.streams.layout import Place, Stream
from tai_state.streams.records import EVENT, SNAPSHOT, STATE, StateRecord
from tai_state.streams.snapshots import is_state_after, where_kept

_PAGE = 100


class Stray(msgspec.Struct, frozen=True):
    """A kept snapshot that no state lists.

    Attributes:
        snapshot: its document.
        stream: the stream that it belongs to; None: its path is that of no snapshot.
        state: the document of the state that does not list it; None: there is none.
        is_needed: whether it may be all that is left of its version.
    """

    snapshot: Document
    stream: Stream | None = None
    state: Document | None = None
    is_needed: bool = False

    @property
    def problem(self) -> str:
        """What is wrong with it, and what to do about it."""
        if self.stream is None:
            return "is not the path of a snapshot: run `tai-state recover`"
        if self.state is None:
            return "belongs to a state of which nothing else is left: restore a backup"
        if self.is_needed:
            return "is not listed by its state, and its event is missing or damaged: restore a backup"
        return "is not listed by its state: run `tai-state recover`"


async def drop_damaged_snapshots(core: Core, stream: Stream) -> bool:
    """Drop the kept snapshots, older ones too, that are not the state at their version. Returns whether any was.

    One whose event is damaged or missing stays: it may be all that is left of that version. If the stream rested on one
    that is dropped, it rests on the next one from then on.
    """
    found = await core.read_state(stream)
    if found is None or not found[1].kept:
        return False
    document, record = found
    paths = [path for version in record.kept for path in where_kept(stream, version)]
    documents = (await core.engine.read(paths)).documents
    damaged = [
        version
        for version, snapshot, event in zip(record.kept, documents[::2], documents[1::2], strict=True)
        if not _is_needed(stream, record, version, event) and not _is_kept(snapshot, event)
    ][: core.engine.capabilities.max_ops_per_commit - 1]
    if not damaged:
        return False
    kept = tuple(version for version in record.kept if version not in damaged)
    floor = record.floor if record.floor == 1 else max(record.floor, await first_known(core, stream, kept))
    after = msgspec.structs.replace(record, kept=kept, floor=floor)
    writes: list[Write] = [Put(stream.state, after, At(document.revision))]
    writes += [Delete(stream.snapshot(version), ANYTHING) for version in damaged]
    core.appender.heads.drop(stream.state)
    return await write_unless_moved(core.engine, writes, core.bounds)


async def stray_snapshots(core: Core, governor_id: str) -> AsyncGenerator[Stray, None]:
    """The snapshots of a governor that no state lists. Those of a state that can be recovered are not among them."""
    documents = core.engine.scan(Scan(core.layout.snapshots(governor_id)))
    while page := await take(documents, _PAGE):
        places = [(core.layout.placed(governor_id, each), each) for each in page]
        paths = list(dict.fromkeys([place.stream.state for place, _ in places if place is not None]))
        states = dict(zip(paths, (await core.engine.read(paths)).documents, strict=True)) if paths else {}
        for place, snapshot in places:
            if place is None:
                yield Stray(snapshot)
            elif not _may_list(states[place.stream.state], place) and (stray := await _stray(core, place)) is not None:
                yield stray


async def drop_stray(core: Core, stray: Stray, *holds: Check) -> bool:
    """Drop a snapshot that no state lists, unless it may be all that is left of its version. Returns whether it did.

    ``holds`` is what the commit requires beside.
    """
    if stray.is_needed:
        return False
    writes: list[Write] = [*holds]
    if stray.state is not None:
        writes.append(Check(stray.state.path, At(stray.state.revision)))
    writes.append(Delete(stray.snapshot.path, as_read(stray.snapshot)))
    return await write_unless_moved(core.engine, writes, core.bounds)


async def _stray(core: Core, place: Place) -> Stray | None:
    """What a second look says of a snapshot that seemed to be a stray one; None: it is none."""
    stream, version = place.stream, place.version
    snapshot, event, state = (await core.engine.read([*where_kept(stream, version), stream.state])).documents
    if snapshot is None or _may_list(state, place):
        return None
    if state is not None:
        return Stray(snapshot, stream, state, _is_needed(stream, state.decode(STATE), version, event))
    start, end = stream.range(1)
    has_events = await take(core.engine.scan(Scan(stream.events, start=start, end=end, limit=1)), 1)
    return None if has_events else Stray(snapshot, stream, is_needed=True)


def _may_list(state: Document | None, place: Place) -> bool:
    """Whether a state lists a snapshot, or is so damaged that it may."""
    try:
        return state is not None and place.version in state.decode(STATE).kept
    except Inconsistent:
        return True


def _is_needed(stream: Stream, record: StateRecord, version: int, event: Document | None) -> bool:
    """Whether a snapshot may be all that is left of its version: not if that was cleaned up, or has its event."""
    return version >= record.floor if event is None else not _is_sound(stream, event)


def _is_sound(stream: Stream, event: Document) -> bool:
    try:
        return event.decode(EVENT).is_genuine(stream.governor_id)
    except Inconsistent:
        return False


def _is_kept(snapshot: Document | None, event: Document | None) -> bool:
    """Whether a snapshot and its event are there, and it is the state after that."""
    if snapshot is None or event is None:
        return False
    try:
        record, of_event = snapshot.decode(SNAPSHOT), event.decode(EVENT)
    except Inconsistent:
        return False
    return is_state_after(record, of_event) and of_event.as_of in ("", record.as_of)
