"""The note that a repair leaves in its event, and how later comparisons use it.

The clock of a repair's event counts only this store's changes, like that of any other event. The note in the event's
context says which changes of other stores it brought in; without it, the same version would be merged again and again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from tai_state.conflicts.resolutions import Discarded, Resolution
from tai_state.conflicts.retirements import retired_for
from tai_state.conflicts.rivals import Rival
from tai_state.errors import InvalidData, NotRetained, ReducerMissing
from tai_state.history.replay import Replay
from tai_state.streams.core import Core
from tai_state.streams.layout import Stream
from tai_state.streams.records import EventRecord
from tai_state.values.clocks import ClockOrder, VectorClock, common, compare, merge
from tai_state.values.events import NEWER_ACTION, RIVAL_ACTION
from tai_state.values.json import NOT_JSON, decode, encode
from tai_state.values.metadata import ChangeMetadata
from tai_state.values.retired import Retired

CONTEXT_KEY = "conflict"
"""The key of the note in the context of a repair's event."""

LISTED_MAX = 100
"""How many discarded changes a note lists at most."""

VALUE_BYTES_MAX = 1_024
"""The size of a value's canonical text up to which a note includes the discarded value itself."""


class Listed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A discarded change as a note lists it.

    Attributes:
        bytes: the size of the value's text, if the value is too large to include; the events of ``tip`` have it.
        others: as in :class:`Discarded`.
    """

    path: str
    stores: tuple[str, ...]
    tip: str = msgspec.field(name="head")
    value: Any = None
    removed: bool = False
    bytes: int = 0


class RepairNote(msgspec.Struct, frozen=True, kw_only=True):
    """What an event brought in.

    Attributes:
        clock: the merged clock of the versions brought in.
        tips: the ids of their last events.
        strategies: the names of the resolvers that decided, in the order in which versions were brought in.
        discarded: the first of the discarded changes.
        discarded_total: how many changes were discarded.
    """

    clock: VectorClock
    tips: tuple[str, ...] = msgspec.field(name="heads")
    strategies: tuple[str, ...]
    discarded: tuple[Listed, ...]
    discarded_total: int


class Ancestry(NamedTuple):
    """What two versions have in common, as far as our stream shows.

    Attributes:
        clock: the clock of all changes in our version, including those that repairs brought in.
        base: the data of the last version that both knew of; None if unknown.
    """

    clock: VectorClock
    base: dict[str, Any] | None


def with_note(
    metadata: ChangeMetadata, brought_in: Sequence[Rival], resolutions: Sequence[Resolution], retired: Retired
) -> ChangeMetadata:
    """The metadata of a repair's event: the caller's, with the note. Its clock leaves out what retirements stand for.

    Raises:
        InvalidData: the caller's context uses the note's key.
    """
    if CONTEXT_KEY in metadata.context:
        raise InvalidData(f"metadata.context must not have the key {CONTEXT_KEY!r} here")
    clock: VectorClock = {}
    for version in brought_in:
        clock = merge(clock, version.clock)
    discarded = [each for resolution in resolutions for each in resolution.discarded]
    note = RepairNote(
        clock=retired.reduced(clock),
        tips=tuple(version.tip for version in brought_in),
        strategies=tuple(resolution.strategy for resolution in resolutions),
        discarded=tuple(map(_listed, discarded[:LISTED_MAX])),
        discarded_total=len(discarded),
    )
    context = {**metadata.context, CONTEXT_KEY: decode(encode(note))}
    return msgspec.structs.replace(metadata, context=context)


async def ancestry(core: Core, stream: Stream, version: int, ours: VectorClock, theirs: VectorClock) -> Ancestry:
    """What two versions have in common. Reads a few events, and all events that theirs did not know of.

    Args:
        core: our store's core.
        stream: the state's stream.
        version: the version of our stream up to which to look.
        ours: the clock of that version, merged with those of versions already brought in.
        theirs: the clock of the other version.
    """
    shared, clock = await _last_shared(core, stream, version, theirs)
    retired = await retired_for(core, stream, clock)
    async for stored in core.reader.records(stream, shared + 1, version):
        if (note := note_of(stored.record)) is not None:
            ours = merge(ours, note.clock)
    # If both also know of changes that our stream has only in merged form, this version is not their common base.
    if not shared or compare(common(ours, theirs), retired.whole(clock)) is not ClockOrder.SAME:
        return Ancestry(ours, None)
    try:
        parted = await Replay(core, {}).at(stream, shared)
    except (NotRetained, ReducerMissing):
        return Ancestry(ours, None)
    return Ancestry(ours, parted.data)


async def _last_shared(core: Core, stream: Stream, version: int, theirs: VectorClock) -> tuple[int, VectorClock]:
    """The last version of our stream that theirs knew of (0: none), and its clock. Cleaned-up ones count as known."""
    shared, unknown = 0, version + 1
    clock: VectorClock = {}
    while unknown - shared > 1:
        middle = (shared + unknown) // 2
        stored = await core.reader.one(stream, middle)
        if stored is None or compare(stored.record.causality, theirs) in {ClockOrder.BEFORE, ClockOrder.SAME}:
            shared, clock = middle, {} if stored is None else stored.record.causality
        else:
            unknown = middle
    return shared, clock


def note_of(event: EventRecord) -> RepairNote | None:
    """The note in a repair's event; None for other events, and if the context does not hold a note under the key."""
    if event.action not in {NEWER_ACTION, RIVAL_ACTION}:
        return None
    try:
        return msgspec.convert(decode(event.metadata.context)[CONTEXT_KEY], RepairNote)
    except (KeyError, TypeError, *NOT_JSON):
        return None


def _listed(discarded: Discarded) -> Listed:
    size = len(encode(discarded.value).encode())
    is_large = size > VALUE_BYTES_MAX
    return Listed(
        path=discarded.path,
        stores=discarded.stores,
        tip=discarded.tip,
        value=None if is_large else discarded.value,
        removed=discarded.removed,
        bytes=size if is_large else 0,
    )
