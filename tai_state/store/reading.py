"""Reading states and events. What can be long is an async iterator."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from tai_state.engines.api import Document, Scan, Where, after, split
from tai_state.engines.filtering import passes
from tai_state.engines.paging import Paged, chained, mapped
from tai_state.errors import CorruptDocument, InvalidId, StateNotFound, UnindexedField
from tai_state.store.core import StoreCore
from tai_state.store.layout import Stream
from tai_state.store.records import EVENT, STATE, EventRecord
from tai_state.store.streams import Folded, follows
from tai_state.store.walking import Walk
from tai_state.values.events import JsonEvent
from tai_state.values.ids import escape_id, split_versioned, unescape_id
from tai_state.values.states import JsonSnapshot
from tai_state.values.times import format_time

T = TypeVar("T")

_PAGE = 100


class StoreStats(msgspec.Struct, frozen=True, kw_only=True):
    """How much a store holds.

    Attributes:
        governors: that have states.
        states: live ones.
        deleted: states whose newest version is a deletion.
        versions: all changes ever recorded, cleaned-up ones included.
        max_version: of the state with the longest stream.
        snapshots: kept for recovery.
    """

    governors: int
    states: int
    deleted: int
    versions: int
    max_version: int
    snapshots: int


class StateReading(StoreCore):
    """The part of a store that reads."""

    async def get_state(self, governor_id: str, state_id: str) -> JsonSnapshot:
        """A state as it is now, its version inside. One read, which sees every acknowledged change.

        Raises:
            StateNotFound: it was never written, or is deleted.
            EventSourcingError: it is missing though it has events; ``recover`` mends it.
            CorruptDocument: what is stored is damaged.
        """
        stream = self.layout.stream(governor_id, state_id)
        found = await self.read_state(stream)
        if found is None:
            raise await self.streams.absence(stream)
        if found[1].deleted:
            raise StateNotFound(stream.state)
        return self.snapshot(stream, found[1], found[0].updated_us)

    async def exists(self, governor_id: str, state_id: str) -> bool:
        """Whether a state is there and not deleted."""
        found = await self.read_state(self.layout.stream(governor_id, state_id))
        return found is not None and not found[1].deleted

    async def batch_get_states(self, governor_id: str, ids: Sequence[str]) -> dict[str, JsonSnapshot | None]:
        """Several states of one moment, in one read; None for those that are not there.

        Raises:
            InvalidId: one str, which is no sequence of ids, or an id that cannot be stored.
        """
        if isinstance(ids, str):
            raise InvalidId("ids", "a sequence of ids, not one str")
        streams = [self.layout.stream(governor_id, state_id) for state_id in ids]
        reading = await self.engine.read([stream.state for stream in streams])
        states: dict[str, JsonSnapshot | None] = {}
        for stream, document in zip(streams, reading.documents, strict=True):
            record = None if document is None else self.checked(stream, document)
            states[stream.state_id] = (
                None
                if document is None or record is None or record.deleted
                else self.snapshot(stream, record, document.updated_us)
            )
        return states

    def list_states(self, governor_id: str, *, start: str | None = None, deleted: bool = False) -> Paged[JsonSnapshot]:
        """The states of a governor in the order of their ids.

        Args:
            governor_id: whose.
            start: the first id; to resume after one, pass it and skip it.
            deleted: deleted states as well.

        Raises:
            GovernorNotFound: nothing was ever written under this governor.
        """
        documents = self.engine.scan(
            Scan(self.layout.states(governor_id), start="" if start is None else escape_id(start, "start"))
        )

        def take(page: Iterable[Document]) -> Iterator[JsonSnapshot]:
            for document in page:
                yield from self._listed(governor_id, document, deleted=deleted)

        return self._of_governor(governor_id, mapped(documents, take))

    def _of_governor(self, governor_id: str, items: Paged[T]) -> Paged[T]:
        """The same items; where there are none, the governor must be there."""
        is_empty = True

        def seen(page: Iterable[T]) -> Iterator[T]:
            nonlocal is_empty
            for item in page:
                is_empty = False
                yield item

        async def end() -> None:
            if is_empty:
                await self.require_governor(governor_id)

        return mapped(items, seen, end)

    def _listed(self, governor_id: str, document: Document, *, deleted: bool) -> Iterator[JsonSnapshot]:
        """A state's document as it is listed; nothing where it is deleted and deleted ones are not asked for."""
        stream = self.layout.stream(governor_id, unescape_id(document.id))
        record = self.checked(stream, document)
        if deleted or not record.deleted:
            yield self.snapshot(stream, record, document.updated_us)

    def list_governors(self) -> Paged[str]:
        """The ids of all governors, in order."""
        return mapped(
            self.engine.scan(Scan(self.layout.governors)), lambda page: (unescape_id(document.id) for document in page)
        )

    async def count_states(self, governor_id: str) -> int:
        """How many live states a governor has; reads them all.

        Raises:
            GovernorNotFound: nothing was ever written under this governor.
        """
        count = 0
        async for document in self._of_governor(governor_id, self.engine.scan(Scan(self.layout.states(governor_id)))):
            count += not document.decode(STATE).deleted
        return count

    def find_states(self, governor_id: str, where: Mapping[str, Any]) -> Paged[JsonSnapshot]:
        """The live states whose data, brought up to date, has these values, like ``{"status": "failed"}``.

        An engine looks for data as it is stored: with a ``schema`` above 1, all states of older ones are read as well,
        and come first. One of them that is written meanwhile may come twice.

        Args:
            governor_id: whose.
            where: by field (a dotted path into the data): a value, or a list of values any of which will do.

        Raises:
            UnindexedField: the store was not opened with this field ``indexed``.
            GovernorNotFound: nothing was ever written under this governor.
        """
        for name in where:
            if name not in self.settings.indexed:
                raise UnindexedField(name, self.settings.indexed)
        filters = [Where(f"data.{name}", _values(value)) for name, value in where.items()]
        states, older = self.layout.states(governor_id), self.settings.upcasting.older

        def of_today(page: Iterable[Document]) -> Iterator[JsonSnapshot]:
            for document in page:
                if not older or document.decode(STATE).schema not in older:
                    yield from self._listed(governor_id, document, deleted=False)

        found = mapped(self.engine.scan(Scan(states, where=filters)), of_today)
        parts = chained([self._older_with(governor_id, filters, older), found]) if older else found
        return self._of_governor(governor_id, parts)

    def _older_with(self, governor_id: str, filters: list[Where], schemas: tuple[int, ...]) -> Paged[JsonSnapshot]:
        """The live states of these schemas whose data passes once it is brought up to date."""

        def take(page: Iterable[Document]) -> Iterator[JsonSnapshot]:
            for document in page:
                for state in self._listed(governor_id, document, deleted=False):
                    if passes({"data": state.data}, filters):
                        yield state

        scan = self.engine.scan(Scan(self.layout.states(governor_id), where=[Where("schema", schemas)]))
        return mapped(scan, take)

    def get_events(
        self, governor_id: str, state_id: str, *, after: int = 0, until: int | None = None
    ) -> Paged[JsonEvent]:
        """The events of one state, oldest first, from version ``after + 1`` to ``until`` (included).

        Where old events were cleaned up, it starts with the oldest that is left.

        Raises:
            StateNotFound: the state was never written.
            NotRetained: events were cleaned up while this read.
            EventSourcingError: an event is missing between two others.
        """
        stream = self.layout.stream(governor_id, state_id)
        walk = Walk(self.streams, stream, after=after)

        async def end() -> None:
            if walk.reached is None and await self.read_state(stream) is None:
                raise StateNotFound(stream.state)

        return walk.over(self.engine, until, end=end)

    def get_all_events(self, governor_id: str) -> Paged[JsonEvent]:
        """All events of a governor: state by state in the order of their ids, each oldest first.

        Raises:
            GovernorNotFound: nothing was ever written under this governor.
            NotRetained: events were cleaned up while this read.
            EventSourcingError: an event is missing between two others.
        """
        walk: Walk | None = None

        def take(page: Iterable[Document]) -> Iterator[JsonEvent]:
            nonlocal walk
            for document in page:
                stream, _ = self._place(governor_id, document)
                if walk is None or walk.stream.segment != stream.segment:
                    walk = Walk(self.streams, stream)
                yield from walk.events([document])

        documents = self.engine.scan(Scan(self.layout.events(governor_id)))

        async def fetch() -> Iterable[JsonEvent] | None:
            page = await documents.page()
            if page is None:
                return None
            page = list(page)
            if walk is not None and not follows(walk.stream, page, walk.reached):
                await walk.look_at_floor(self.engine)
            return take(page)

        return self._of_governor(governor_id, Paged(fetch))

    def get_events_between(self, governor_id: str, start: datetime, end: datetime) -> Paged[JsonEvent]:
        """The events of a governor that happened from one time to another, both included, in order of time.

        Raises:
            GovernorNotFound: nothing was ever written under this governor.
        """
        documents = self.engine.scan(
            Scan(self.layout.events(governor_id), by="timestamp", start=format_time(start), end=after(format_time(end)))
        )
        page: list[Document] = []

        async def fetch() -> Sequence[JsonEvent] | None:
            nonlocal page
            # What a try that failed has taken is still there.
            while len(page) < _PAGE and (document := await anext(documents, None)) is not None:
                page.append(document)
            events = await self._with_states_before(governor_id, page) if page else None
            page = []
            return events

        return self._of_governor(governor_id, Paged(fetch))

    async def get_stats(self) -> StoreStats:
        """Counts over the whole store; reads every state."""
        governors = states = deleted = versions = max_version = snapshots = 0
        async for governor_id in self.list_governors():
            governors += 1
            async for document in self.engine.scan(Scan(self.layout.states(governor_id))):
                record = document.decode(STATE)
                states += not record.deleted
                deleted += record.deleted
                versions += record.version
                max_version = max(max_version, record.version)
                snapshots += len(record.kept)
        return StoreStats(
            governors=governors,
            states=states,
            deleted=deleted,
            versions=versions,
            max_version=max_version,
            snapshots=snapshots,
        )

    async def watch(self, governor_id: str, *state_ids: str) -> AsyncGenerator[JsonSnapshot, None]:
        """The states as they are now, then each as it changes; without ids, all states of the governor.

        Changes in quick succession may come as one, but the newest version always comes. A deletion comes as a
        snapshot with ``deleted``. For every single event, read the events after the version last seen.
        """
        streams = {stream.state: stream for stream in (self.layout.stream(governor_id, each) for each in state_ids)}
        collection = self.layout.states(governor_id)
        shown: dict[str, int] = {}
        async with self.engine.watch(*(streams or (collection,))) as changes:
            async for change in changes:
                path = change.path
                if change.revision is None:
                    continue
                stream = streams.get(path) or self.layout.stream(governor_id, unescape_id(split(path)[1]))
                found = await self.read_state(stream)
                if found is not None and found[1].version > shown.get(path, 0):
                    shown[path] = found[1].version
                    yield self.snapshot(stream, found[1], found[0].updated_us)

    def _place(self, governor_id: str, document: Document) -> tuple[Stream, int]:
        """The stream and version that an event's path names."""
        try:
            segment, version = split_versioned(document.id)
        except ValueError:
            raise CorruptDocument(document.path, "is no place of an event") from None
        return self.layout.stream(governor_id, unescape_id(segment)), version

    async def _with_states_before(self, governor_id: str, page: Sequence[Document]) -> list[JsonEvent]:
        """Events of different streams, with the states before them read in one go."""
        places = [(*self._place(governor_id, document), document) for document in page]
        paths = [stream.event(version - 1) for stream, version, _ in places if version > 1]
        befores: dict[str, EventRecord] = {}
        for document in (await self.engine.read(paths)).documents if paths else ():
            if document is not None:
                befores[document.path] = document.decode(EVENT)
        events: list[JsonEvent] = []
        for stream, version, document in places:
            previous = befores.get(stream.event(version - 1)) if version > 1 else None
            before = Folded().then(previous) if previous is not None else Folded()
            record = document.decode(EVENT)
            events.append(self.streams.event(stream, record, document.updated_us, before, before.then(record)))
        return events


def _values(value: Any) -> tuple[Any, ...]:
    """One value, or any of several."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
