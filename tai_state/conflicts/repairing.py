"""Repairing one state: versions from elsewhere are merged into it, and the result is written back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from tai_state.conflicts.joins import counted
from tai_state.conflicts.notes import ancestry, with_note
from tai_state.conflicts.resolutions import Resolution, same, state_of
from tai_state.conflicts.resolvers import Resolver
from tai_state.conflicts.retirements import retired_for
from tai_state.conflicts.rivals import Counted, Rival, are_apart, compare_rivals
from tai_state.conflicts.sides import Side
from tai_state.errors import StateNotFound, VersionConflict
from tai_state.streams import writing
from tai_state.streams.core import Core
from tai_state.streams.layout import Stream
from tai_state.streams.retirements import check_clock
from tai_state.streams.writing import Intent
from tai_state.values.clocks import ClockOrder, VectorClock, merge
from tai_state.values.events import NEWER_ACTION, RIVAL_ACTION
from tai_state.values.metadata import ChangeMetadata
from tai_state.values.states import JsonSnapshot, JsonState, StateSnapshot, with_data

REPAIRS_MAX = 16
"""How often a repair tries at most, if others are faster each time."""

RECENT_MAX = 32
"""How many of its last events a version names that is read for a repair elsewhere."""


class Conflict(NamedTuple):
    """Two concurrent versions and their resolution."""

    ours: Rival
    theirs: Rival
    resolution: Resolution


class Repaired(NamedTuple):
    """The result of a repair.

    Attributes:
        state: the repaired state; if the repair was needed and not written, the state as it should be.
        conflicts: the conflicts that were resolved.
        is_written: whether a change was written.
    """

    state: JsonState
    conflicts: Sequence[Conflict]
    is_written: bool


class _Repair(NamedTuple):
    """A planned repair.

    Attributes:
        before: the present version.
        after: the repaired version; its clocks include those of everything brought in.
        brought_in: the versions that the present one lacks.
        resolutions: the resolution for each of them, in turn.
        conflicts: the resolutions of concurrent versions.
    """

    before: Rival
    after: Rival
    brought_in: list[Rival]
    resolutions: list[Resolution]
    conflicts: list[Conflict]

    @property
    def proposal(self) -> JsonState:
        """The present version with the repaired data."""
        return with_data(self.before.snapshot, self.after.data)

    @property
    def is_needed(self) -> bool:
        """Whether there is something to write: new data, or a record of what was discarded."""
        is_new = not same(state_of(self.before.data), state_of(self.after.data))
        return is_new or (self.before.data is not None and any(each.discarded for each in self.resolutions))


async def standing(core: Core, stream: Stream) -> Rival | None:
    """The present version of the state, deleted or not; None if it was never written."""
    side = await Side.read(core, stream)
    if side.record is None:
        return None
    retired = await retired_for(core, stream, side.clock)
    check_clock(stream, retired, side.clock)
    snapshot = core.state(stream, side.record, side.recorded_us)
    snapshot = msgspec.structs.replace(snapshot, causality=retired.whole(side.clock))
    return Rival(snapshot=snapshot, hlc=side.record.hlc, tip=side.tip)


async def recent_events(core: Core, stream: Stream, version: int) -> tuple[Counted, ...]:
    """The last events up to a version.

    Raises:
        EventSourcingError: the clock of one of them cannot be compared.
    """
    first = version - RECENT_MAX + 1
    records = [stored.record async for stored in core.reader.records(stream, max(1, first - 1), version)]
    retired = await retired_for(core, stream, records[-1].causality if records else {})
    for record in records:
        check_clock(stream, retired, record.causality)
    pairs = zip(records, [None, *records], strict=False)
    return tuple([counted(event, before, core.store_id) for event, before in pairs if event.version >= first])


async def repair(
    core: Core, stream: Stream, seen: Sequence[Rival], resolver: Resolver, metadata: ChangeMetadata | None
) -> Repaired:
    """Merge versions that were seen elsewhere into a state.

    Args:
        core: our store's core.
        stream: the state's stream.
        seen: the versions seen elsewhere.
        resolver: decides between concurrent versions.
        metadata: who repairs and why; None: write nothing.

    Raises:
        StateNotFound: the state was never written, and no version was seen.
        ConflictResolutionFailed: the resolver cannot decide.
        VersionConflict: others were faster every time.
    """
    attempts = AsyncRetrying(
        retry=retry_if_exception_type(VersionConflict),
        stop=stop_after_attempt(REPAIRS_MAX),
        wait=wait_random_exponential(multiplier=0.005, max=1.0),
        reraise=True,
    )
    async for attempt in attempts:
        with attempt:
            planned = await _planned(core, stream, seen, resolver)
            if metadata is None or not planned.is_needed:
                return Repaired(planned.proposal, planned.conflicts, is_written=False)
            return Repaired(await _written(core, stream, planned, metadata), planned.conflicts, is_written=True)
    raise AssertionError("the last attempt returns or raises")


async def _planned(core: Core, stream: Stream, seen: Sequence[Rival], resolver: Resolver) -> _Repair:
    """Plan the repair; it writes nothing."""
    before = await standing(core, stream) or await _nothing(core, stream, seen)
    planned = _Repair(before, before, [], [], [])
    # Newest first: a newer version already includes what older ones knew.
    for theirs in sorted(seen, key=lambda each: each.rank, reverse=True):
        planned = await _bring_in(core, stream, planned, theirs, resolver)
    return planned


async def _bring_in(core: Core, stream: Stream, planned: _Repair, theirs: Rival, resolver: Resolver) -> _Repair:
    """The plan with one more version, unless the plan already includes it."""
    ours, base = planned.after, None
    if theirs.recent and compare_rivals(ours, theirs) is ClockOrder.BEFORE:
        before = planned.before
        if are_apart(await recent_events(core, stream, before.snapshot.version), theirs.recent):
            ours = _with(ours, ours.data, {**ours.clock, before.tip: 1}, ours.hlc)
    elif compare_rivals(ours, theirs) is ClockOrder.CONCURRENT:
        clock, base = await ancestry(core, stream, planned.before.snapshot.version, ours.clock, theirs.clock)
        ours = _with(ours, ours.data, clock, ours.hlc)
    order = compare_rivals(ours, theirs)
    if order is ClockOrder.AFTER or (order is ClockOrder.SAME and same(state_of(ours.data), state_of(theirs.data))):
        return planned
    resolution = resolver.resolve(ours, theirs, base)
    after = _with(ours, resolution.data, merge(ours.clock, theirs.clock), max(ours.hlc, theirs.hlc))
    conflicts = [] if order is ClockOrder.BEFORE else [Conflict(ours, theirs, resolution)]
    return _Repair(
        planned.before,
        after,
        [*planned.brought_in, theirs],
        [*planned.resolutions, resolution],
        planned.conflicts + conflicts,
    )


async def _written(core: Core, stream: Stream, planned: _Repair, metadata: ChangeMetadata) -> JsonState:
    """Write a repair back."""
    data = planned.after.data
    retired = await retired_for(core, stream, planned.before.clock)
    note = with_note(metadata, planned.brought_in, planned.resolutions, retired)
    intent = Intent(note, RIVAL_ACTION if planned.conflicts else NEWER_ACTION)
    version = planned.before.snapshot.version
    if data is None:
        return await writing.delete(core, stream, intent, version, None)
    return await writing.save(core, stream, data, intent, version, None)


async def _nothing(core: Core, stream: Stream, seen: Sequence[Rival]) -> Rival:
    """The version to begin with if the state was never written.

    Raises:
        StateNotFound: no version was seen elsewhere either.
        EventSourcingError: the state has events, and only its document is missing.
    """
    absence = await core.reader.absence_error(stream)
    if not seen or not isinstance(absence, StateNotFound):
        raise absence
    unsaved: JsonSnapshot = StateSnapshot.unsaved(stream.governor_id, stream.state_id, {})
    return Rival(snapshot=with_data(unsaved, None), hlc=0, tip="")


def _with(version: Rival, data: dict[str, Any] | None, clock: VectorClock, hlc: int) -> Rival:
    snapshot = msgspec.structs.replace(with_data(version.snapshot, data), causality=clock)
    return msgspec.structs.replace(version, snapshot=snapshot, hlc=hlc)
