"""Replay and time travel: any past state, from the nearest kept snapshot and the events after it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime

import msgspec

from tai_state.errors import EventSourcingError, InvalidData, NotRetained, StateNotFound
from tai_state.history.folding import Folding, Reducer, Reducers, first_fold
from tai_state.store.layout import Stream
from tai_state.store.records import StateRecord
from tai_state.store.store import StateStore
from tai_state.store.streams import Folded, Stored, stored_record
from tai_state.values.digests import state_hash
from tai_state.values.events import JsonEvent
from tai_state.values.states import JsonSnapshot
from tai_state.values.times import format_time


class Base(msgspec.Struct, frozen=True):
    """Where a fold starts.

    Attributes:
        version: of the state; 0 before the first event.
        folded: the state there.
        as_of: the latest time of any event up to there.
    """

    version: int
    folded: Folded
    as_of: str


BEGINNING = Base(0, first_fold(), "")


class Replay:
    """Folds the stream of a state from the nearest sound base.

    Args:
        store: whose streams.
        reducers: by action.
    """

    def __init__(self, store: StateStore, reducers: Reducers) -> None:
        self._store = store
        self._reducers = reducers

    def folding(self, fallback: Reducer | None = None) -> Folding:
        """The fold with this application's reducers."""
        return Folding(self._store.streams, self._store.settings.upcasting, self._reducers, fallback)

    async def events(
        self, stream: Stream, after: int, until: int | None, reducer: Reducer | None
    ) -> AsyncGenerator[JsonEvent, None]:
        """The events after one version and up to another, each with the states before and after it."""
        found = await self._store.read_state(stream)
        if found is None:
            raise StateNotFound(stream.state)
        folding = self.folding(reducer)
        base = await self.base(stream, found[1], after)
        before = base.folded
        expected = base.version + 1
        last = found[1].version if until is None else min(until, found[1].version)
        streams = self._store.streams
        start, end = stream.range(expected, until)
        async for document in self._store.engine.scan(stream.events, start=start, end=end):
            record = stored_record(stream, document)
            if record.version != expected:
                raise _missing(stream, expected, found[1])
            expected += 1
            now = folding.then(before, stream, record)
            if record.version > after:
                yield streams.event(stream, record, document.created_us, before, now)
            before = now
        if expected <= last:
            raise _missing(stream, expected, found[1])

    async def base(self, stream: Stream, record: StateRecord, version: int, until: str | None = None) -> Base:
        """The newest sound base at or before a version (and, if given, a time)."""
        for kept in reversed(record.kept):
            if kept > version:
                continue
            snapshot = await self._store.sound_snapshot(stream, kept)
            if snapshot is not None and (until is None or snapshot.as_of <= until):
                return Base(kept, Folded(snapshot.state, snapshot.schema, snapshot.state_hash), snapshot.as_of)
        return BEGINNING

    async def at(self, stream: Stream, version_or_time: int | datetime) -> JsonSnapshot:
        """The state at a version, or at a time: the last version whose events had all happened by then."""
        found = await self._store.read_state(stream)
        if found is None:
            raise StateNotFound(stream.state)
        record = found[1]
        if isinstance(version_or_time, datetime):
            until, version = format_time(version_or_time), record.version
        elif type(version_or_time) is int and version_or_time >= 1:
            until, version = None, version_or_time
        else:
            raise InvalidData("a version must be 1 or more, or a time with an offset")
        if version > record.version:
            raise StateNotFound(stream.event(version))
        base = await self.base(stream, record, version, until)
        return await self._fold_to(stream, record, base, version, until)

    async def _fold_to(
        self, stream: Stream, state: StateRecord, base: Base, version: int, until: str | None
    ) -> JsonSnapshot:
        folding = self.folding()
        folded, last = base.folded, None
        expected = max(base.version, 1)
        async with aclosing(self._store.streams.records(stream, expected, version)) as records:
            async for stored in records:
                record = stored.record
                if record.version != expected:
                    raise _missing(stream, expected, state)
                if until is not None and record.timestamp > until and record.version > base.version:
                    break
                if record.version > base.version:
                    folded = folding.then(folded, stream, record)
                last = stored
                expected += 1
        if until is None and expected <= version:
            raise _missing(stream, expected, state)
        if last is None:
            raise StateNotFound(stream.event(1))
        _check(stream, last, folded)
        return self._store.streams.snapshot(stream, last, folded)


def _missing(stream: Stream, version: int, state: StateRecord) -> NotRetained | EventSourcingError:
    """Why an event is not there."""
    if version < state.floor:
        return NotRetained(stream.event(version), "was cleaned up, and no snapshot stands for it")
    return EventSourcingError(stream.event(version), "is missing: run `tai-state verify`")


def _check(stream: Stream, stored: Stored, folded: Folded) -> None:
    """A state carried by an event or a snapshot must be what the event's hash says."""
    text, record = folded.text, stored.record
    if folded.state_hash != record.state_hash or (
        text is not None and folded.schema == record.schema and state_hash(text) != record.state_hash
    ):
        raise EventSourcingError(stream.event(record.version), "does not lead to the state it recorded")
