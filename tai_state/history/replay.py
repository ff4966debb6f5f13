"""Replay and time travel: any past state, from the nearest sound base and the events after it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from tai_state.engines.api import Document
from tai_state.engines.paging import Paged
from tai_state.errors import EventSourcingError, InvalidData, NotRetained, StateNotFound
from tai_state.history.extents import Extent, extent_of
from tai_state.history.folding import Folding, Reducer, Reducers, first_fold
from tai_state.history.searching import TimeSearch
from tai_state.streams.core import Core
from tai_state.streams.layout import Stream
from tai_state.streams.reader import Folded, Stored, floor_of, missing_event_error, stored_record
from tai_state.streams.records import EventRecord
from tai_state.streams.snapshots import kept_if_sound, where_kept
from tai_state.streams.walking import Walk
from tai_state.values.checks import check_callable, check_whole
from tai_state.values.digests import state_hash
from tai_state.values.events import JsonEvent
from tai_state.values.ids import VERSION_MAX
from tai_state.values.states import JsonState
from tai_state.values.times import format_time

_logger = logging.getLogger("tai_state.history")


_NEAR = 8
"""If a snapshot is so few events away, they are folded, without a look for an event that carries the state."""


class Base(msgspec.Struct, frozen=True):
    """The starting point of a fold.

    Attributes:
        folded: the state at that point.
        stored: the event that led to it; None before the first event.
    """

    folded: Folded
    stored: Stored | None

    @property
    def version(self) -> int:
        """The version of the state; 0 before the first event."""
        return 0 if self.stored is None else self.stored.record.version


BEGINNING = Base(first_fold(), None)


class Replay:
    """Folds the stream of a state from the nearest sound base.

    Args:
        core: the core of the store.
        reducers: the application's reducers, by action.
    """

    def __init__(self, core: Core, reducers: Reducers) -> None:
        self._core = core
        self._reducers = reducers

    def folding(self, fallback: Reducer | None = None) -> Folding:
        """The fold with this application's reducers."""
        return Folding(self._core.reader, self._core.settings.upcasting, self._reducers, fallback)

    def events(self, stream: Stream, after: int, until: int | None, reducer: Reducer | None) -> Paged[JsonEvent]:
        """The events after version ``after`` up to version ``until``, each with the states before and after it."""
        check_whole(after, "after")
        if until is not None:
            check_whole(until, "until")
        if reducer is not None:
            check_callable(reducer, "reducer")
        begun: tuple[Extent, Walk, Paged[JsonEvent]] | None = None

        async def fetch() -> Iterable[JsonEvent] | None:
            nonlocal begun
            begun = begun or await self._walk(stream, after, until, reducer)
            state, walk, events = begun
            page = await events.rest()
            reached = walk.reached or 0
            if page is None and reached < (state.version if until is None else min(until, state.version)):
                raise missing_event_error(stream, reached + 1, walk.floor)
            return page

        return Paged(fetch)

    async def _walk(
        self, stream: Stream, after: int, until: int | None, reducer: Reducer | None
    ) -> tuple[Extent, Walk, Paged[JsonEvent]]:
        """The extent of a stream, and a walk over its events, from the nearest base."""
        state, base = await self.begin(stream, after)
        before, reached = base.folded, base.version
        if base is BEGINNING and 0 < after == state.floor - 1:
            # The event before the first one that is left is gone, and so is the state before it.
            before, reached = Folded(), after
        walk = Walk(
            self._core.reader,
            stream,
            after=after,
            before=before,
            reached=reached,
            floor=state.floor,
            fold=self.folding(reducer).then,
        )
        return state, walk, walk.over(self._core.engine, until)

    async def begin(self, stream: Stream, version: int | None, until: str | None = None) -> tuple[Extent, Base]:
        """The extent of a stream, and the newest sound base at or before a version (or a time, if none is given).

        This takes one read if the event of that version carries the state, or if a snapshot is near that this process
        knows of. Otherwise it takes two to four, and more if many events before it left the state as it was.

        Raises:
            StateNotFound: the state was never written.
        """
        head = self._core.appender.heads.get(stream.state)
        hinted = next(iter(_rounds(head.kept if head else (), version)), ())
        exact = [stream.event(version)] if version else []
        document, *others = await self._read([stream.state, *exact, *_places(stream, hinted)])
        record = await extent_of(self._core, stream, document)
        if exact and (event := others.pop(0)) is not None:
            stored = stored_record(stream, event)
            folded = await self._shown(stream, stored.record, record.kept)
            if folded.text is not None:
                return record, Base(folded, stored)
        base = self._newest(stream, hinted, others, until)
        for versions in _rounds([each for each in record.kept if each not in hinted], version):
            if base is None:
                base = self._newest(stream, versions, await self._read(_places(stream, versions)), until)
        base = base or BEGINNING
        _logger.debug("a fold begins", extra={"path": stream.state, "version": base.version})
        return record, base

    async def _shown(self, stream: Stream, event: EventRecord, kept: Sequence[int]) -> Folded:
        """The state after an event, if it or one before it shows it, after the nearest kept snapshot."""
        nearest = next((each for each in reversed(kept) if each <= event.version), 0)
        if event.to_state is not None or event.version - nearest <= _NEAR:
            return Folded().then(event)
        return await self._core.reader.shown(stream, event, above=nearest)

    async def _read(self, paths: Sequence[str]) -> tuple[Document | None, ...]:
        return (await self._core.engine.read(paths)).documents

    def _newest(
        self, stream: Stream, versions: Sequence[int], documents: Sequence[Document | None], until: str | None
    ) -> Base | None:
        """The first sound snapshot that is not later than ``until``; the documents are ordered newest first."""
        for version, (snapshot, event) in zip(versions, zip(documents[::2], documents[1::2], strict=True), strict=True):
            kept = kept_if_sound(stream, version, snapshot, event, self._core.settings.upcasting)
            if kept is not None and (until is None or kept.record.as_of <= until):
                return Base(kept.folded, kept.stored)
        return None

    async def at(self, stream: Stream, version_or_time: int | datetime) -> JsonState:
        """The state at a version or at a time. At a time: the last version with no event up to it after that time."""
        if isinstance(version_or_time, datetime):
            until = format_time(version_or_time)
            version = await TimeSearch(self._core, stream, until).version()
        elif type(version_or_time) is int and 1 <= version_or_time <= VERSION_MAX:
            until, version = None, version_or_time
        else:
            raise InvalidData("version_or_time must be a version of 1 or more, or a time with an offset")
        if version is None:
            state, base = await self.begin(stream, None, until)
            return await self._fold_to(stream, base, state.version, until)
        state, base = await self.begin(stream, version)
        if version > state.version:
            raise StateNotFound(stream.state, version, state.version)
        return await self._fold_to(stream, base, version, None)

    async def _missing(self, stream: Stream, version: int) -> NotRetained | EventSourcingError:
        """Why an event is not there, as of now."""
        return missing_event_error(stream, version, await floor_of(self._core.engine, stream))

    async def _fold_to(self, stream: Stream, base: Base, version: int, until: str | None) -> JsonState:
        folding = self.folding()
        folded, stored = base.folded, base.stored
        reached = base.version
        if reached < version:
            async for each in self._core.reader.records(stream, reached + 1, version):
                if each.record.version != reached + 1:
                    raise await self._missing(stream, reached + 1)
                if until is not None and each.record.timestamp > until:
                    break
                folded, stored = folding.then(folded, stream, each.record), each
                reached += 1
        if until is None and reached < version:
            raise await self._missing(stream, reached + 1)
        if stored is None:
            raise StateNotFound(stream.state)
        _check(stream, stored, folded)
        return self._core.reader.state_at(stream, stored, folded)


def _check(stream: Stream, stored: Stored, folded: Folded) -> None:
    """Raise an error if a state that an event or a snapshot carried does not match the event's hash."""
    text, record = folded.text, stored.record
    if folded.state_hash != record.state_hash or (
        text is not None and folded.schema == record.schema and state_hash(text) != record.state_hash
    ):
        raise EventSourcingError(
            stream.event(record.version),
            "does not lead to the state it recorded; `recover` cannot repair events: restore a backup",
        )


def _rounds(kept: Sequence[int], version: int | None) -> list[list[int]]:
    """The snapshots to read together, newest first.

    With a version: the nearest one at or before it, then all older ones. Without a version: all at once.
    """
    versions = [each for each in reversed(kept) if version is None or each <= version]
    rounds = [versions] if version is None else [versions[:1], versions[1:]]
    return [each for each in rounds if each]


def _places(stream: Stream, versions: Sequence[int]) -> list[str]:
    return [path for version in versions for path in where_kept(stream, version)]
