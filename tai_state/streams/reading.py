"""Reading states and events. Results that can be long are async iterators."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import msgspec

from tai_state.engines.api import Document, Scan, Where
from tai_state.engines.api import after as right_after
from tai_state.engines.filtering import passes
from tai_state.engines.paging import Paged, chained, converted, mapped, resized
from tai_state.errors import Inconsistent, InvalidData, InvalidId, StateNotFound, UnindexedField
from tai_state.streams.backwards import Backwards
from tai_state.streams.core import Core
from tai_state.streams.damage import Report, misplaced, raising
from tai_state.streams.layout import Place, Stream
from tai_state.streams.reader import Folded, check_beginning, follows, missing_event_error
from tai_state.streams.records import EVENT, GOVERNOR, STATE, EventRecord, StateRecord
from tai_state.streams.surveying import Beginning, beginnings_of, every_governor
from tai_state.streams.walking import Walk
from tai_state.values.checks import check_flag, check_items, check_whole
from tai_state.values.events import JsonEvent
from tai_state.values.ids import escape_id, stored_id
from tai_state.values.json import normalise
from tai_state.values.states import DeletedState, JsonSnapshot, JsonState
from tai_state.values.times import format_time

T = TypeVar("T")

_PAGE = 100


class StoreStats(msgspec.Struct, frozen=True, kw_only=True):
    """How much a store holds.

    Attributes:
        governors: how many governors there are.
        states: how many live states there are.
        deleted: how many states have a deletion as their newest version.
        versions: how many changes were ever recorded, cleaned-up ones included.
        max_version: the version of the state with the longest stream.
        snapshots: how many snapshots are kept for recovery.
    """

    governors: int
    states: int
    deleted: int
    versions: int
    max_version: int
    snapshots: int


async def get_state(core: Core, stream: Stream) -> JsonSnapshot:
    """A state as it is now, with its version. This is one read, which sees every acknowledged change.

    Raises:
        StateNotFound: it was never written, or is deleted.
        EventSourcingError: it is missing though it has events; ``recover`` repairs it.
        CorruptDocument: the stored data is damaged.
    """
    found = await core.read_state(stream)
    if found is None:
        raise await core.reader.absence_error(stream)
    return core.snapshot(stream, found[1], found[0].updated_us)


async def exists(core: Core, stream: Stream) -> bool:
    """Whether a state exists and is not deleted."""
    found = await core.read_state(stream)
    return found is not None and not found[1].deleted


async def batch_get_states(core: Core, governor_id: str, ids: Sequence[str]) -> dict[str, JsonSnapshot | None]:
    """Several states at one moment, in one read; None for each that does not exist.

    Raises:
        InvalidId: ``ids`` is not a collection of ids, or an id cannot be stored.
    """
    ids = check_items(ids, lambda: InvalidId("ids", "a sequence of ids, not one str"))
    streams = [core.layout.stream(governor_id, state_id) for state_id in ids]
    reading = await core.engine.read([stream.state for stream in streams])
    states: dict[str, JsonSnapshot | None] = dict.fromkeys(ids)
    for stream, document in zip(streams, reading.documents, strict=True):
        if document is not None:
            found = core.state(stream, core.checked(stream, document), document.updated_us)
            states[stream.state_id] = None if isinstance(found, DeletedState) else found
    return states


def list_states(
    core: Core, governor_id: str, *, after: str | None = None, report: Report = raising
) -> Paged[JsonSnapshot]:
    """The live states of a governor in the order of their ids.

    Args:
        core: the store's core.
        governor_id: the governor.
        after: begin with the first state after this id; None: begin with the first state.
        report: called with what is wrong with a damaged state.

    Raises:
        GovernorNotFound: nothing was ever written under this governor.
    """

    def take(page: Iterable[Document]) -> Iterator[JsonSnapshot]:
        return (state for state in states_in(core, governor_id, page, report) if not isinstance(state, DeletedState))

    return _of_governor(core, governor_id, mapped(_documents(core, governor_id, after), take))


def list_all_states(
    core: Core, governor_id: str, *, after: str | None = None, report: Report = raising
) -> Paged[JsonState]:
    """As :func:`list_states`, deleted states included."""

    def take(page: Iterable[Document]) -> Iterator[JsonState]:
        return states_in(core, governor_id, page, report)

    return _of_governor(core, governor_id, mapped(_documents(core, governor_id, after), take))


def _documents(core: Core, governor_id: str, after: str | None) -> Paged[Document]:
    return core.engine.scan(Scan(core.layout.states(governor_id), start=_start(after)))


def states_in(core: Core, governor_id: str, page: Iterable[Document], report: Report = raising) -> Iterator[JsonState]:
    """The states in these documents of a governor, deleted ones included; ``report`` is told of damaged ones."""
    for document in page:
        try:
            stream = _place(core, governor_id, document, "a state").stream
            state = core.state(stream, core.checked(stream, document), document.updated_us)
        except Inconsistent as error:
            report(error)
        else:
            yield state


def _of_governor(core: Core, governor_id: str, items: Paged[T]) -> Paged[T]:
    """The same items; if there are none, the governor must exist."""
    is_empty = True

    def seen(page: Iterable[T]) -> Iterator[T]:
        nonlocal is_empty
        for item in page:
            is_empty = False
            yield item

    async def end() -> None:
        if is_empty:
            await core.require_governor(governor_id)

    return mapped(items, seen, end)


def list_governors(core: Core, *, after: str | None = None) -> Paged[str]:
    """The ids of all governors that have a document, in order; with ``after``, only those after that id.

    Raises:
        CorruptDocument: a governor's own document is damaged, so its id may be, too.
    """

    def ids(page: Iterable[Document]) -> Iterator[str]:
        for document in page:
            document.decode(GOVERNOR)
            yield stored_id(document.path)

    return mapped(core.engine.scan(Scan(core.layout.governors, start=_start(after))), ids)


def _start(after: str | None) -> str:
    """The start of a scan by ids."""
    return "" if after is None else right_after(escape_id(after, "after"))


async def count_states(core: Core, governor_id: str, report: Report = raising) -> int:
    """How many live states a governor has; it reads all of them.

    Raises:
        GovernorNotFound: nothing was ever written under this governor.
    """
    count = 0
    async for record in _of_governor(core, governor_id, _records(core, governor_id, report)):
        count += not record.deleted
    return count


def _records(core: Core, governor_id: str, report: Report) -> Paged[StateRecord]:
    """The records of a governor's states; their data is not checked against its hash."""

    def decoded(page: Iterable[Document]) -> Iterator[StateRecord]:
        for document in page:
            try:
                record = document.decode(STATE)
            except Inconsistent as error:
                report(error)
            else:
                yield record

    return mapped(_documents(core, governor_id, None), decoded)


def find_states(core: Core, governor_id: str, where: Mapping[str, Any]) -> Paged[JsonSnapshot]:
    """The live states whose data, in the present schema, has these values, like ``{"status": "failed"}``.

    The engine searches data as it is stored. So with a ``schema`` above 1, all states of older schemas are read too,
    and come first. One of these that is written meanwhile may come twice.

    Args:
        core: the store's core.
        governor_id: the governor.
        where: by field (a dotted path into the data): a value, or a list of values of which one must match.

    Raises:
        UnindexedField: the store was not opened with this field ``indexed``.
        InvalidData: a value is not text, a number, a boolean or None.
        GovernorNotFound: nothing was ever written under this governor.
    """
    if not isinstance(where, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise InvalidData(f"where must be a mapping of fields to values, not {type(where).__name__}")
    for name in where:
        if name not in core.settings.indexed:
            raise UnindexedField(name, core.settings.indexed)
    filters = [Where(f"data.{name}", _values(name, value)) for name, value in where.items()]
    states, older = core.layout.states(governor_id), core.settings.upcasting.older

    def of_today(page: Iterable[Document]) -> Iterator[JsonSnapshot]:
        today = (each for each in page if not older or each.decode(STATE).schema not in older)
        return (state for state in states_in(core, governor_id, today) if not isinstance(state, DeletedState))

    found = mapped(core.engine.scan(Scan(states, where=filters)), of_today)
    parts = chained([_older_with(core, governor_id, filters, older), found]) if older else found
    return _of_governor(core, governor_id, parts)


def _older_with(core: Core, governor_id: str, filters: list[Where], schemas: tuple[int, ...]) -> Paged[JsonSnapshot]:
    """The live states of these schemas whose data, in the present schema, meets the filters."""

    def take(page: Iterable[Document]) -> Iterator[JsonSnapshot]:
        for state in states_in(core, governor_id, page):
            if not isinstance(state, DeletedState) and passes({"data": state.data}, filters):
                yield state

    scan = core.engine.scan(Scan(core.layout.states(governor_id), where=[Where("schema", schemas)]))
    return mapped(scan, take)


def get_events(
    core: Core,
    stream: Stream,
    *,
    after: int = 0,
    until: int | None = None,
    limit: int | None = None,
    newest_first: bool = False,
) -> Paged[JsonEvent]:
    """The events of one state from version ``after + 1`` to ``until`` (included); see ``StateStore.get_events``.

    Raises:
        InvalidData: a version or the limit is not a whole number from 0 up.
        StateNotFound: the state was never written.
        NotRetained: events were cleaned up during this read.
        EventSourcingError: an event is missing between two others.
    """
    check_whole(after, "after")
    for what, number in (("until", until), ("limit", limit)):
        if number is not None:
            check_whole(number, what)
    if check_flag(newest_first, "newest_first"):
        return Backwards(core, stream, after, until, limit).events()
    walk = Walk(core.reader, stream, after=after)

    async def end() -> None:
        if walk.reached is not None:
            return
        found = await core.read_state(stream)
        if found is None:
            raise StateNotFound(stream.state)
        version, floor = found[1].version, found[1].floor
        if limit != 0 and max(floor, after + 1) <= min(version - 1, version if until is None else until):
            raise missing_event_error(stream, max(floor, after + 1), floor)

    return walk.over(core.engine, until, limit, end)


def get_all_events(core: Core, governor_id: str) -> Paged[JsonEvent]:
    """All events of a governor: state by state in the order of their ids, each oldest first.

    Raises:
        GovernorNotFound: nothing was ever written under this governor.
        NotRetained: events were cleaned up during this read.
        EventSourcingError: an event is missing between two others.
    """
    walk: Walk | None = None
    beginnings: dict[str, Beginning] = {}

    def take(page: Iterable[Document]) -> Iterator[JsonEvent]:
        nonlocal walk
        for document in page:
            stream = _place(core, governor_id, document, "an event").stream
            if walk is None or walk.stream.segment != stream.segment:
                floor, shown = beginnings.get(stream.segment, (1, None))
                check_beginning(stream, document.decode(EVENT).version, floor)
                walk = Walk(core.reader, stream, first=shown)
            yield from walk.events([document])

    documents = core.engine.scan(Scan(core.layout.events(governor_id)))

    async def convert(page: Sequence[Document]) -> Iterator[JsonEvent]:
        if walk is not None and not follows(walk.stream, page, walk.reached):
            await walk.look_at_floor(core.engine)
        beginnings.clear()
        beginnings.update(await beginnings_of(core, governor_id, page, None if walk is None else walk.stream.segment))
        return take(page)

    return _of_governor(core, governor_id, converted(documents, convert))


def get_events_between(core: Core, governor_id: str, start: datetime, end: datetime) -> Paged[JsonEvent]:
    """The events of a governor with timestamps from one time to another, both included, in order of time.

    Raises:
        GovernorNotFound: nothing was ever written under this governor.
    """
    first, last = format_time(start), right_after(format_time(end))
    documents = core.engine.scan(Scan(core.layout.events(governor_id), by="timestamp", start=first, end=last))
    events = converted(resized(documents, _PAGE), partial(_with_states_before, core, governor_id))
    return _of_governor(core, governor_id, events)


async def get_stats(core: Core, report: Report = raising) -> StoreStats:
    """Counts over the whole store; it reads every state."""
    governors = states = deleted = versions = max_version = snapshots = 0
    for governor_id in await every_governor(core, report):
        governors += 1
        async for record in _records(core, governor_id, report):
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


def _place(core: Core, governor_id: str, document: Document, kind: str) -> Place:
    """What a document's path names.

    Raises:
        CorruptDocument: the path is not valid.
    """
    place = core.layout.placed(governor_id, document)
    if place is None:
        raise misplaced(document.path, kind)
    return place


async def _with_states_before(core: Core, governor_id: str, page: Sequence[Document]) -> list[JsonEvent]:
    """Events of different streams, with the events before them read in one call."""
    places = [(_place(core, governor_id, document, "an event"), document) for document in page]
    paths = [place.stream.event(place.version - 1) for place, _ in places if place.version > 1]
    befores: dict[str, EventRecord] = {}
    for document in (await core.engine.read(paths)).documents if paths else ():
        if document is not None:
            befores[document.path] = document.decode(EVENT)
    events: list[JsonEvent] = []
    states: dict[str, Folded] = {}
    for place, document in places:
        stream, path = place.stream, place.stream.event(place.version - 1)
        before = states.get(path)
        if before is None:
            previous = befores.get(path)
            before = Folded() if previous is None else await core.reader.shown(stream, previous)
        record = document.decode(EVENT)
        first = None if before.state_hash else await core.reader.shown_by_others(stream, record)
        now = states[document.path] = first or before.then(record)
        events.append(core.reader.event(stream, record, document.updated_us, before, now))
    return events


def _values(name: str, value: Any) -> tuple[Any, ...]:
    """The values of a filter, given as one value or as several.

    Raises:
        InvalidData: one of them is not a plain value, which an index could hold.
    """
    given = [*value] if isinstance(value, list | tuple) else [value]  # pyright: ignore[reportUnknownVariableType]
    values: list[Any] = [normalise(each, f"the value of {name!r} in where")[1] for each in given]  # pyright: ignore[reportUnknownVariableType]
    if any(isinstance(each, dict | list) for each in values):
        raise InvalidData(f"the value of {name!r} in where must be text, a number, a boolean or None")
    return tuple(values)
