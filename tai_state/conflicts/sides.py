"""One side of a sync: a state in one of two stores, and the events that the other store has not seen."""

from __future__ import annotations

from typing import Self

import msgspec

from tai_state.conflicts.joins import counter_of, joined_by
from tai_state.conflicts.rivals import Rival
from tai_state.errors import EventSourcingError
from tai_state.streams.core import Core
from tai_state.streams.layout import Stream
from tai_state.streams.reader import check_genuine
from tai_state.streams.records import EVENT, EventRecord, StateRecord
from tai_state.streams.retirements import check_clock
from tai_state.values.clocks import ClockOrder, VectorClock, common, compare, split_hybrid
from tai_state.values.retired import Retired


class Side(msgspec.Struct, frozen=True):
    """A state in one of the stores.

    Attributes:
        core: the store's core.
        stream: the state's paths.
        record: the state's document; None if it was never written.
        last: the record of its last event; None if it was never written.
        recorded_us: the engine's update time of the state's document.
        retired: what is known of retired stores; see :mod:`tai_state.values.retired`.
        kept: what of that the store was seen to have on record.
    """

    core: Core
    stream: Stream
    record: StateRecord | None
    last: EventRecord | None
    recorded_us: int = 0
    retired: Retired = Retired({})
    kept: Retired = Retired({})

    @classmethod
    async def read(cls, core: Core, stream: Stream) -> Self:
        """Read the state.

        Raises:
            CorruptDocument, EventSourcingError: it is damaged; ``recover`` repairs it.
        """
        found = await core.read_state(stream)
        if found is None:
            return cls(core, stream, None, None)
        document, record = found
        if record.floor > record.version:
            raise EventSourcingError(stream.state, "has its floor above its version: run `tai-state recover`")
        [event] = (await core.engine.read([stream.event(record.version)])).documents
        if event is None:
            raise EventSourcingError(stream.state, "lacks its last event: run `tai-state verify`")
        last = event.decode(EVENT)
        if last.digest != record.digest:
            raise EventSourcingError(stream.state, "does not agree with its last event: run `tai-state verify`")
        return cls(core, stream, record, last, document.updated_us)

    @property
    def clock(self) -> VectorClock:
        """The state's vector clock, with all that it stands for; empty if it was never written."""
        return {} if self.record is None else self.retired.whole(self.record.causality)

    @property
    def floor(self) -> int:
        """Below this version, a cleanup may have left some events; they are not read."""
        return 1 if self.record is None else self.record.floor

    @property
    def version(self) -> int:
        """The length of the state's stream."""
        return 0 if self.record is None else self.record.version

    @property
    def hlc(self) -> int:
        """The hybrid clock of the state's last event; 0 if it was never written."""
        return 0 if self.record is None else self.record.hlc

    def ahead_us(self, now_us: int) -> int:
        """By how much the hybrid clock is ahead of a time; negative if it is behind."""
        return split_hybrid(self.hlc)[0] * 1_000 - now_us

    @property
    def tip(self) -> str:
        """The id of the state's last event; empty if it was never written."""
        return "" if self.last is None else self.last.event_id

    @property
    def schema(self) -> int:
        """The schema of the data as this store returns it."""
        upcasting = self.core.settings.upcasting
        return self.record.schema if self.record and upcasting.is_current(self.record.schema) else upcasting.schema

    def is_equal(self, other: Side) -> bool:
        """Whether both have the same data, the same clock and the same last event."""
        if self.record is None or other.record is None:
            return self.record is other.record
        return (
            compare(self.clock, other.clock) is ClockOrder.SAME
            and self.record.state_hash == other.record.state_hash
            and self.tip == other.tip
        )

    async def unseen(self, other: Side, limit: int, start: int | None = None) -> Unseen:
        """The first events of this side that know of everything on the other side, and more.

        Along a stream, each event's clock is greater by at least one. So no more events know of everything on the other
        side, and more, than the clocks differ by, and the rest of the stream need not be read. Only joins of events
        that were counted alike can share a clock. Then fewer are read, and do not go on from the other side.

        Args:
            other: the other side.
            limit: how many events at most.
            start: the version of the first of them, if that is known; None: clocks tell.

        Raises:
            EventSourcingError: one of them was edited, or a clock cannot be compared.
        """
        clock, known = self.clock, other.clock
        differing = sum(clock.values()) - sum(common(clock, known).values())
        first = self.version - differing if start is None else start - 1
        before: EventRecord | None = None
        last: EventRecord | None = None
        events: list[EventRecord] = []
        is_apart = False
        async for stored in self.core.reader.records(self.stream, max(self.floor, first), self.version):
            check_clock(self.stream, self.retired, stored.record.causality)
            order = compare(self.retired.whole(stored.record.causality), known)
            if order is ClockOrder.AFTER if start is None else stored.record.version >= start:
                check_genuine(self.stream, stored.record)
                origin = counter_of(stored.record, last, self.core.store_id)
                events.append(msgspec.structs.replace(stored.record, origin=origin))
                if len(events) >= limit:
                    break
            elif order is ClockOrder.CONCURRENT:
                is_apart = True
            else:
                before = stored.record
            last = stored.record
        return Unseen(before, events, is_apart)

    def rival(self, other: Side) -> Rival:
        """The state as a rival, for a resolver.

        If the clocks are not concurrent although the sides are, this side gets a count of its own in its clock.

        Raises:
            ValueError: the state was never written.
        """
        if self.record is None:
            raise ValueError("a state that was never written is not a rival")
        snapshot, clock = self.core.state(self.stream, self.record, self.recorded_us), self.clock
        if compare(clock, other.clock) is not ClockOrder.CONCURRENT:
            clock = {**clock, self.tip: 1}
        snapshot = msgspec.structs.replace(snapshot, causality=clock)
        return Rival(snapshot=snapshot, hlc=self.record.hlc, tip=self.tip)


class Unseen(msgspec.Struct, frozen=True):
    """What a stream has and another store does not know of.

    Attributes:
        before: the last event that the other store knows of; None if it was not read, or if there is none.
        events: the first events that know of everything in the other store, oldest first, each with its ``origin``.
        is_apart: whether concurrent events were read between ``before`` and these.
    """

    before: EventRecord | None
    events: list[EventRecord]
    is_apart: bool

    def goes_on_from(self, older: Side) -> bool:
        """Whether the events continue the stream in the other store.

        They do if the event before them is the last one there, or if the first of them joined that one to this stream.
        Clocks alone do not show it: a store restored from a backup uses the same counts again for new changes. Nor do
        ids alone: one request can have been made in two stores under one id.
        """
        if older.record is None or not self.events:
            return True
        tip = older.tip, older.record.causality
        if not self.is_apart and self.before is not None and (self.before.event_id, self.before.causality) == tip:
            return True
        joined = joined_by(self.events[0])
        named = () if joined is None or older.tip not in joined.tips else joined.versions
        return any((each.event_id, each.clock) == tip for each in named)
