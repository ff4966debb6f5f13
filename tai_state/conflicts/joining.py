"""Joining two streams: the event that both get, and what a store that takes over such an event lacks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid5

import msgspec

from tai_state.conflicts.bases import Bases
from tai_state.conflicts.copying import EVENTS_MAX
from tai_state.conflicts.joins import Earlier, Joined, joined_by
from tai_state.conflicts.lineages import Data, Lineage, Version, earlier_versions, is_within
from tai_state.conflicts.resolutions import Resolution
from tai_state.conflicts.resolvers import Resolver
from tai_state.conflicts.sides import Side, Unseen
from tai_state.errors import IncompatibleFormat, Inconsistent
from tai_state.history.persister import StateMachinePersister
from tai_state.streams.core import Core
from tai_state.streams.planning import Draft, Given
from tai_state.values.clocks import ClockOrder, VectorClock, compare, merge
from tai_state.values.digests import NO_STATE_TEXT, state_hash
from tai_state.values.events import JOIN_ACTION
from tai_state.values.json import decode, encode
from tai_state.values.metadata import ChangeMetadata, check_metadata

VERSIONS_BYTES_MAX: Final = 64 * 1024
"""How large the list of versions that a join names is at most."""

_BESIDE_BYTES: Final = 16 * 1024
"""What an event has beside its payload and its state."""

_NAMES: Final = UUID("5a1c6f2e-6a52-4d0e-9d3c-6f0f6d1c0b7a")
"""The namespace of the ids of joining events."""


class Join(NamedTuple):
    """A join that is to be written: the event, the state after it, and what was decided."""

    draft: Draft
    data: Data
    resolution: Resolution


class Joiner:
    """Joins the two sides of states.

    Args:
        resolver: decides between changes made on both sides.
        persisters: for each store, what folds its payload-carrying events.
        metadata: who joins and why.
    """

    def __init__(
        self, resolver: Resolver, persisters: dict[Core, StateMachinePersister], metadata: ChangeMetadata
    ) -> None:
        self._resolver = resolver
        self._persisters = persisters
        self._metadata = metadata
        self._context = check_metadata(metadata)

    async def join(self, here: Side, there: Side) -> Join:
        """The event that joins both sides; it does not depend on which of them is called ``here``."""
        stream = here.stream
        if here.schema != there.schema:
            what = "has different schemas in the two stores: sync with the application's schema and upcasters"
            raise IncompatibleFormat(stream.state, what)
        ours, theirs = self._lineage(here), self._lineage(there)
        bases = Bases(ours, theirs, self._resolver)
        await bases.read()
        resolution = await self._resolve(bases, ours, theirs)
        for lineage in (ours, theirs):
            lineage.check_clocks()
        tips = sorted((here.tip, there.tip))
        event_id = str(uuid5(_NAMES, encode([stream.governor_id, stream.state_id, *tips])))
        text = NO_STATE_TEXT if resolution.data is None else encode(resolution.data)
        joined = Joined(tips, resolution.strategy, [msgspec.to_builtins(each) for each in resolution.discarded])
        versions = [*bases.unseen(ours), *bases.unseen(theirs)]
        joined = await _with_versions(joined, versions, resolution.data, (here, there))
        given = Given(
            causality=here.retired.reduced(_joined_clock(here.clock, there.clock, event_id)),
            hlc=max(side.record.hlc for side in (here, there) if side.record is not None) + 1,
            schema=here.schema,
            state_hash=state_hash(text),
            origin=min(here.core.store_id, there.core.store_id),
        )
        draft = Draft(
            event_id=event_id,
            action=JOIN_ACTION,
            timestamp=max(side.record.timestamp for side in (here, there) if side.record is not None),
            changed_by=self._metadata.changed_by,
            reason=self._metadata.reason,
            context=self._context,
            payload=encode(msgspec.to_builtins(joined)),
            state=text,
            given=given,
        )
        return Join(draft, resolution.data, resolution)

    async def continuing(self, newer: Side, older: Side, unseen: Unseen) -> Unseen | None:
        """What the older side takes over from the newer one; None if the newer one has not seen its last event.

        Whatever the clocks say, it begins with the first event that knows of the older side's last one. That event may
        have joined other events to the older side's, of which that side gets none. It then also names their versions.
        """
        if not unseen.events or unseen.goes_on_from(older):
            return unseen if unseen.events else None
        new, old = self._lineage(newer), self._lineage(older)
        bases = Bases(new, old, self._resolver)
        await bases.read()
        for lineage in (new, old):
            lineage.check_clocks()
        if not bases.is_seen(old) or (start := new.first_after(old.head)) is None:
            return None
        if start != unseen.events[0].version:
            unseen = await newer.unseen(older, EVENTS_MAX, start)
        first = unseen.events[0]
        if _is_own(old, new) and older.hlc >= first.hlc:
            return None
        if (joined := joined_by(first)) is None:
            return unseen
        named = {(each.event_id, tuple(sorted(each.clock.items()))) for each in joined.versions}
        known = new.seen_by(first)
        missing = [
            each
            for each in bases.unseen(new)
            if each.key not in named and each.event_id != first.event_id and is_within(each.seen, known)
        ]
        data: Data = None if first.to_state is None else decode(first.to_state)
        joined = await _with_versions(joined, missing, data, (newer, older))
        first = msgspec.structs.replace(first, payload=encode(msgspec.to_builtins(joined)))
        return msgspec.structs.replace(unseen, events=[first, *unseen.events[1:]])

    def _lineage(self, side: Side) -> Lineage:
        return Lineage(side, self._persisters[side.core])

    async def _resolve(self, bases: Bases, ours: Lineage, theirs: Lineage) -> Resolution:
        """Resolve both sides, unless a read repair has already done so."""
        here, there = ours.side, theirs.side
        for lineage, other in ((ours, theirs), (theirs, ours)):
            is_later = bases.is_seen(other) and not bases.is_seen(lineage)
            if is_later and compare(here.clock, there.clock) is ClockOrder.CONCURRENT:
                return Resolution(data=lineage.side.rival(other.side).data, strategy="read_repair")
        return self._resolver.resolve(here.rival(there), there.rival(here), await _base(bases))


async def _base(bases: Bases) -> Data:
    """The data of what both sides know of, if it can still be read."""
    try:
        base = await bases.base()
        return None if base is None else await base.data()
    except Inconsistent:
        return None


def _is_own(old: Lineage, new: Lineage) -> bool:
    """Whether a side's last event is a change that the other side does not name, because it was cleaned up there.

    A version that knew of a change has a later hybrid clock. If it has not, one of the stores was restored from a
    backup, and its clock does not tell the truth.
    """
    return old.head is not None and bool(old.head.store) and old.head.key not in new.versions


async def _with_versions(joined: Joined, versions: Iterable[Version], data: Data, sides: tuple[Side, Side]) -> Joined:
    """The payload with more versions, as far as there is room in the events of both stores."""
    largest = min(side.core.engine.capabilities.max_document_bytes for side in sides)
    texts: list[Any] = [msgspec.to_builtins(joined), data]
    taken = sum(len(encode(each).encode()) for each in texts) + _BESIDE_BYTES
    room_bytes = min(VERSIONS_BYTES_MAX, largest - taken)
    named: list[Earlier] = await earlier_versions(versions, data, sides[0].retired, room_bytes)
    return msgspec.structs.replace(joined, versions=[*joined.versions, *named])


def _joined_clock(one: VectorClock, other: VectorClock, event_id: str) -> VectorClock:
    """The clock of an event that knows of both sides.

    If, by the clocks, one side seems to know of the other, a new count is added: equal clocks must mean the same event.
    """
    joined = merge(one, other)
    if compare(joined, one) is ClockOrder.AFTER and compare(joined, other) is ClockOrder.AFTER:
        return joined
    return {**joined, event_id: 1}
