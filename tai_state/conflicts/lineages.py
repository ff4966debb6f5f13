"""The versions that one side of a sync knows of: those of its own stream, and those that joins brought in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from tai_state.conflicts.joins import Earlier, counted, joined_by
from tai_state.conflicts.notes import note_of
from tai_state.conflicts.rivals import Counted, Place, places_of
from tai_state.conflicts.sides import Side
from tai_state.errors import EventSourcingError, Inconsistent
from tai_state.history.persister import StateMachinePersister
from tai_state.streams.reader import Folded, check_genuine
from tai_state.streams.records import EventRecord
from tai_state.streams.retirements import check_clock
from tai_state.values.clocks import ClockOrder, VectorClock, compare, merge
from tai_state.values.digests import NO_STATE_HASH
from tai_state.values.json import decode, encode
from tai_state.values.patch import diff, patched
from tai_state.values.retired import Retired

EVENTS_MAX: Final = 2_000
"""How many events of a stream are read at most in search of what two sides have in common."""

NAMED_MAX: Final = 256
"""How many versions a join names at most."""

_EVENTS_FIRST: Final = 8
"""How many events are read at first; each further time twice as many."""

_SIGN: Final = "="
"""The first character of the entry of an event in what a version includes. No id of a store begins with it."""

Key: TypeAlias = tuple[str, tuple[tuple[str, int], ...]]
"""The id of an event and its clock: one request can have been made in two stores under one id."""

Data: TypeAlias = dict[str, Any] | None


class Version(msgspec.Struct, frozen=True):
    """A version of a state that a side knows of.

    Attributes:
        event_id: the id of its event.
        clock: the vector clock of its event.
        seen: all that it includes: its clock with all that it stands for, and those of versions that read repairs
            brought in; and one entry for each included event that shares its place with another one.
        hlc: the hybrid clock of its event.
        store: the id of the store that counted the event in its clock; empty for an event that joins two streams.
        data: reads the state's data in the present schema; None: deleted.
    """

    event_id: str
    clock: VectorClock
    seen: VectorClock
    hlc: int
    store: str
    data: Callable[[], Awaitable[Data]]

    @property
    def key(self) -> Key:
        """What tells the version from every other one."""
        return self.event_id, tuple(sorted(self.clock.items()))

    @property
    def places(self) -> list[Place]:
        """See :func:`~tai_state.conflicts.rivals.places_of`."""
        return places_of(Counted(self.event_id, self.store, self.clock))


class Doubled(NamedTuple):
    """An event that shares its place with others, since a store was restored from a backup and counted anew.

    Attributes:
        clock: its vector clock.
        hlc: its hybrid clock.
        rivals: the ids of the others.
    """

    clock: VectorClock
    hlc: int
    rivals: frozenset[str]


class Lineage:
    """The versions that one side knows of, read from its newest event backwards.

    Args:
        side: the side.
        persister: folds payload-carrying events whose state is needed.

    Attributes:
        side: as given.
        versions: what was found so far, by key.
        is_whole: whether there is nothing more to read.
        told: the ids of events that joins in what was read told apart.
    """

    def __init__(self, side: Side, persister: StateMachinePersister) -> None:
        self.side: Side = side
        self.versions: dict[Key, Version] = {}
        self.is_whole: bool = side.record is None
        self.told: set[str] = set()
        self._persister = persister
        self._records: list[EventRecord] = []
        self._seen: dict[int, VectorClock] = {}
        self._stores: dict[int, str] = {}
        self._since: dict[Key, int] = {}
        self._doubled: dict[str, Doubled] = {}

    @property
    def head(self) -> Version | None:
        """The side's present version, once something was read; None if the state was never written."""
        return self._version(self._records[0]) if self._records else None

    @property
    def oldest(self) -> Version | None:
        """The version of the oldest event that was read."""
        return self._version(self._records[-1]) if self._records else None

    @property
    def seen(self) -> VectorClock:
        """All that the side includes."""
        return self.head.seen if self.head else {}

    def seen_by(self, event: EventRecord) -> VectorClock:
        """All that an event includes that was read."""
        return self._seen[event.version]

    def first_after(self, version: Version | None) -> int | None:
        """The version of the first event that includes this one, and more; None if none does, as far as was read."""
        if version is None:
            return None
        since = self._since.get(version.key)
        for number, seen in sorted(self._seen.items()):
            is_after = is_within(version.seen, seen) if since is None else number >= since
            if is_after and not is_within(seen, version.seen):
                return number
        return None

    async def read_more(self) -> None:
        """Read some earlier events."""
        top = self._records[-1].version - 1 if self._records else self.side.version
        size = min(max(_EVENTS_FIRST, len(self._records)), EVENTS_MAX - len(self._records))
        first = max(self.side.floor, top - size + 1)
        if top >= first:
            records = self.side.core.reader.records(self.side.stream, first, top)
            self._records += [stored.record async for stored in records][::-1]
        reached = self._records[-1].version if self._records else 1
        self.is_whole = reached != first or first == self.side.floor or len(self._records) >= EVENTS_MAX
        self._arrange()

    def check_clocks(self) -> None:
        """Check that the clocks of what was read tell the truth.

        Raises:
            EventSourcingError: one of them cannot be compared.
        """
        for record in self._records:
            check_clock(self.side.stream, self.side.retired, record.causality)

    async def read_back_to(self, clock: VectorClock) -> None:
        """Read back to an event that the owner of this clock has seen."""
        while not self.is_whole and not (self.oldest and is_within(self.oldest.seen, clock)):
            await self.read_more()

    def tell_apart(self, doubled: dict[str, Doubled]) -> bool:
        """From now on, tell these events apart, by event id, in all that versions include; whether that is new."""
        if doubled == self._doubled:
            return False
        self._doubled = doubled
        self._arrange()
        return True

    def _arrange(self) -> None:
        """Find the versions in what was read; each event includes what the one before it does."""
        self.versions, self._seen, self._since = {}, {}, {}
        seen: VectorClock = {}
        whole = self.side.retired.whole
        last: EventRecord | None = None
        for record in reversed(self._records):
            self._stores[record.version] = counted(record, last, self.side.core.store_id).store
            last = record
            for version in self._brought_in(record):
                seen = merge(seen, version.seen)
                self.versions.setdefault(version.key, version)
                self._since.setdefault(version.key, record.version)
            if (note := note_of(record)) is not None:
                seen = merge(seen, whole(note.clock))
            seen = self._told_apart(merge(seen, whole(record.causality)), record.event_id, record.hlc)
            self._seen[record.version] = seen
            own = self._version(record)
            self.versions[own.key] = own
            self._since.setdefault(own.key, record.version)

    def _told_apart(self, seen: VectorClock, event_id: str, hlc: int) -> VectorClock:
        """What a version includes, with an entry for each event in it that shares its place with another one.

        Where no entry of the place is on record, the version includes those of the events that the side has. If the
        side has none of them, as after a cleanup, only the clock speaks: it includes all of them.
        """
        whole, doubled = self.side.retired.whole, self._doubled
        told = {each for each in doubled if each == event_id or _entry_of(each) in seen}
        here = {event for event, _ in self.versions} if doubled else set[str]()
        found = {
            each
            for each, one in doubled.items()
            if not one.rivals & told
            and one.hlc < hlc
            and is_within(whole(one.clock), seen)
            and (each in here or not one.rivals & here)
        }
        return merge(seen, {_entry_of(each): 1 for each in told | found})

    def _version(self, record: EventRecord) -> Version:
        return Version(
            event_id=record.event_id,
            clock=record.causality,
            seen=self._seen[record.version],
            hlc=record.hlc,
            store=self._stores[record.version],
            data=partial(self._data_after, record),
        )

    def _brought_in(self, record: EventRecord) -> Iterable[Version]:
        joined = joined_by(record)
        for each in sorted(joined.versions, key=lambda one: one.hlc) if joined else ():
            self.told |= {entry.removeprefix(_SIGN) for entry in each.seen or () if entry.startswith(_SIGN)}
            recorded = self._without_others(each.seen or each.clock)
            seen = self._told_apart(self.side.retired.whole(recorded), each.event_id, each.hlc)
            data = partial(self._data_earlier, record, each)
            yield Version(each.event_id, each.clock, seen, each.hlc, each.store, data)

    def _without_others(self, seen: VectorClock) -> VectorClock:
        """What a version includes, without the entries of events that need not be told apart on these two sides."""
        entries = {_entry_of(each) for each in self._doubled}
        return {each: count for each, count in seen.items() if not each.startswith(_SIGN) or each in entries}

    async def _data_after(self, record: EventRecord) -> Data:
        side = self.side
        check_genuine(side.stream, record)
        if record.state_hash == NO_STATE_HASH:
            return None
        if record.to_state is not None:
            folded = Folded(record.to_state, record.schema, record.state_hash)
            return side.core.reader.state(folded, side.stream, record.version)
        found = await self._persister.get_state_at(side.stream.governor_id, side.stream.state_id, record.version)
        return found.data

    async def _data_earlier(self, join: EventRecord, earlier: Earlier) -> Data:
        side = self.side
        if earlier.patch is None:
            return None
        if join.to_state is None:
            raise EventSourcingError(side.stream.event(join.version), "joins two streams and holds no state")
        text = encode(patched(decode(join.to_state) or {}, earlier.patch))
        return side.core.reader.state(Folded(text, join.schema), side.stream, join.version)


async def earlier_versions(versions: Iterable[Version], data: Data, retired: Retired, room_bytes: int) -> list[Earlier]:
    """The versions as a join names them, newest first, as far as there is room; those that cannot be read are left out.

    Args:
        versions: the versions.
        data: the state after the join.
        retired: what is known of retired stores.
        room_bytes: how large the list can be.
    """
    named: list[Earlier] = []
    for version in sorted(versions, key=lambda each: (-each.hlc, each.key))[:NAMED_MAX]:
        try:
            there = await version.data()
        except Inconsistent:
            continue
        named.append(
            Earlier(
                event_id=version.event_id,
                clock=version.clock,
                hlc=version.hlc,
                store=version.store,
                patch=None if there is None else diff(data or {}, there),
                seen=None if version.seen == retired.whole(version.clock) else retired.reduced(version.seen),
            )
        )
        room_bytes -= len(encode(msgspec.to_builtins(named[-1])).encode())
        if room_bytes < 0:
            return named[:-1]
    return named


def doubled_in(versions: Iterable[Version]) -> dict[str, Doubled]:
    """The events of these versions that share a place, by id."""
    by_place: dict[Place, dict[str, Version]] = {}
    for version in versions:
        for place in version.places:
            by_place.setdefault(place, {}).setdefault(version.event_id, version)
    found: dict[str, Doubled] = {}
    for group in by_place.values():
        for event_id, version in group.items() if len(group) > 1 else ():
            rivals = frozenset(group.keys() - {event_id})
            if event_id in found:
                rivals |= found[event_id].rivals
            found[event_id] = Doubled(version.clock, version.hlc, rivals)
    return found


def is_within(clock: VectorClock, other: VectorClock) -> bool:
    """Whether all that one clock counts is in the other one."""
    return compare(clock, other) in {ClockOrder.BEFORE, ClockOrder.SAME}


def _entry_of(event_id: str) -> str:
    return _SIGN + event_id
