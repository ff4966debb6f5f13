"""Dropping kept snapshots that are damaged, and those that no state lists."""

from __future__ import annotations

import msgspec

from tai_state.engines.api import ANYTHING, At, Check, Delete, Document, Put, Scan, Write
from tai_state.engines.rewriting import write_unless_moved
from tai_state.errors import Inconsistent
from tai_state.streams.core import Core
from tai_state.streams.layout import Stream
from tai_state.streams.records import EVENT, SNAPSHOT, STATE
from tai_state.streams.snapshots import is_state_after, where_kept


async def drop_damaged_snapshots(core: Core, stream: Stream) -> bool:
    """Drop the kept snapshots, older ones too, that are not the state at their version. Returns whether any was.

    One whose event is damaged or missing stays: it may be all that is left of that version.
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
        if event is not None and _is_sound(stream, event) and not _is_kept(snapshot, event)
    ][: core.engine.capabilities.max_ops_per_commit - 1]
    if not damaged:
        return False
    kept = tuple(version for version in record.kept if version not in damaged)
    after = msgspec.structs.replace(record, kept=kept)
    writes: list[Write] = [Put(stream.state, after, At(document.revision))]
    writes += [Delete(stream.snapshot(version), ANYTHING) for version in damaged]
    core.appender.heads.drop(stream.state)
    return await write_unless_moved(core.engine, writes, core.bounds)


async def drop_unlisted_snapshots(core: Core, governor_id: str) -> None:
    """Drop the snapshots that the state of their stream does not list.

    One whose state is damaged or missing stays, and so does one whose event is.
    """
    async for found in core.engine.scan(Scan(core.layout.snapshots(governor_id))):
        place = core.layout.placed(governor_id, found)
        if place is None:
            continue
        paths = [place.stream.state, place.stream.event(place.version), found.path]
        state, event, snapshot = (await core.engine.read(paths)).documents
        if state is None or event is None or snapshot is None or not _is_sound(place.stream, event):
            continue
        try:
            if place.version in state.decode(STATE).kept:
                continue
        except Inconsistent:
            continue
        writes: list[Write] = [Check(state.path, At(state.revision)), Delete(snapshot.path, At(snapshot.revision))]
        await write_unless_moved(core.engine, writes, core.bounds)


def _is_sound(stream: Stream, event: Document) -> bool:
    try:
        return event.decode(EVENT).is_genuine(stream.governor_id)
    except Inconsistent:
        return False


def _is_kept(snapshot: Document | None, event: Document) -> bool:
    """Whether a snapshot is there, and is the state after its event."""
    if snapshot is None:
        return False
    try:
        record, of_event = snapshot.decode(SNAPSHOT), event.decode(EVENT)
    except Inconsistent:
        return False
    return is_state_after(record, of_event) and of_event.as_of in ("", record.as_of)
