"""Validation: every digest, every fold, every state and kept snapshot, looked at and compared.

What it cannot see without an outside anchor: the newest events of a stream removed together with a state that
was set back to fit, and a stream rewritten as a whole by somebody who recomputes its digests.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from tai_state.engines.api import Document
from tai_state.errors import CorruptDocument, EventSourcingError, Inconsistent, ReducerMissing
from tai_state.history.folding import Folding, first_fold
from tai_state.history.recovery import differences
from tai_state.history.replay import Replay
from tai_state.store.layout import Stream
from tai_state.store.records import EVENT, MARKER, SNAPSHOT, STATE, EventRecord, StateRecord, state_text
from tai_state.store.store import StateStore
from tai_state.store.streams import Folded, Stored
from tai_state.values.digests import GENESIS, NO_STATE_TEXT, state_hash
from tai_state.values.ids import split_versioned, unescape_id

LISTED_MAX = 1_000
_PAGE = 100


class Finding(msgspec.Struct, frozen=True):
    """Something that does not add up.

    Attributes:
        path: the document.
        kind: ``corrupt``, ``gap``, ``chain``, ``digest``, ``state_hash``, ``fold``, ``state``, ``snapshot`` or
            ``marker``.
        message: what is wrong with it, in one sentence.
    """

    path: str
    kind: str
    message: str


class ConsistencyReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a validation saw.

    Attributes:
        consistent: nothing is wrong, and nothing was left unchecked.
        states: looked at.
        events: looked at.
        unchecked: states whose data needs a reducer that was not given; their digests were checked.
        findings: at most 1,000.
    """

    consistent: bool
    states: int
    events: int
    unchecked: int
    findings: tuple[Finding, ...]


class Validation:
    """One pass over a store.

    Args:
        store: which.
        replay: the fold with the application's reducers.
    """

    def __init__(self, store: StateStore, replay: Replay) -> None:
        self._store = store
        self._folding = replay.folding()
        self._states = self._events = self._unchecked = 0
        self._findings: list[Finding] = []

    async def run(self, governor_id: str | None) -> ConsistencyReport:
        """Validate one governor, or all."""
        if governor_id is not None:
            governors = [governor_id]
        else:
            governors = [each async for each in self._store.list_governors()]
        for governor in governors:
            try:
                await self._governor(governor)
            except CorruptDocument as error:
                self._find(error.path, "corrupt", error.what)
        return ConsistencyReport(
            consistent=not self._findings and not self._unchecked,
            states=self._states,
            events=self._events,
            unchecked=self._unchecked,
            findings=tuple(self._findings),
        )

    async def _governor(self, governor_id: str) -> None:
        checker: _StreamCheck | None = None
        async for stream, document in self._events_of(governor_id):
            if checker is None or checker.stream.segment != stream.segment:
                if checker is not None:
                    self._finish(checker)
                checker = await self._start(stream)
            self._events += 1
            checker.event(document)
        if checker is not None:
            self._finish(checker)
        await self._states_without_events(governor_id)
        await self._markers(governor_id)

    async def _events_of(self, governor_id: str) -> AsyncGenerator[tuple[Stream, Document], None]:
        async for document in self._store.engine.scan(self._store.layout.events(governor_id)):
            try:
                segment, _ = split_versioned(document.id)
            except ValueError:
                self._find(document.path, "corrupt", "is no place of an event")
                continue
            yield self._store.layout.stream(governor_id, unescape_id(segment)), document

    async def _start(self, stream: Stream) -> _StreamCheck:
        """The check of one stream, with its state and kept snapshots read beforehand."""
        self._states += 1
        [document] = (await self._store.engine.read([stream.state])).documents
        record: StateRecord | None = None
        if document is None:
            self._find(stream.state, "state", "is missing though it has events: run `tai-state recover`")
        else:
            try:
                record = document.decode(STATE)
            except Inconsistent as error:
                self._find(stream.state, "corrupt", error.what)
        kept = record.kept if record is not None else ()
        snapshots = (await self._store.engine.read([stream.snapshot(each) for each in kept])).documents if kept else ()
        by_version = dict(zip(kept, snapshots, strict=True))
        return _StreamCheck(stream, self._folding, record, by_version, self._find)

    def _finish(self, checker: _StreamCheck) -> None:
        checker.end()
        self._unchecked += checker.unchecked

    async def _states_without_events(self, governor_id: str) -> None:
        page: list[tuple[Stream, StateRecord]] = []
        async for document in self._store.engine.scan(self._store.layout.states(governor_id)):
            stream = self._store.layout.stream(governor_id, unescape_id(document.id))
            try:
                page.append((stream, document.decode(STATE)))
            except Inconsistent:
                continue  # found with its stream already
            if len(page) == _PAGE:
                await self._check_last_events(page)
                page = []
        await self._check_last_events(page)

    async def _check_last_events(self, page: list[tuple[Stream, StateRecord]]) -> None:
        paths = [stream.event(record.version) for stream, record in page]
        documents = (await self._store.engine.read(paths)).documents if paths else ()
        for (stream, record), document in zip(page, documents, strict=True):
            if document is None:
                self._find(stream.event(record.version), "gap", "is missing though the state is at its version")

    async def _markers(self, governor_id: str) -> None:
        page: list[tuple[Document, str, Stream, int]] = []
        async for document in self._store.engine.scan(self._store.layout.ids(governor_id)):
            try:
                marker = document.decode(MARKER)
            except Inconsistent as error:
                self._find(document.path, "corrupt", error.what)
                continue
            stream = self._store.layout.stream(governor_id, marker.state_id)
            page.append((document, unescape_id(document.id), stream, marker.version))
            if len(page) == _PAGE:
                await self._check_markers(page)
                page = []
        await self._check_markers(page)

    async def _check_markers(self, page: list[tuple[Document, str, Stream, int]]) -> None:
        paths = [path for _, _, stream, version in page for path in (stream.event(version), stream.state)]
        documents = (await self._store.engine.read(paths)).documents if paths else ()
        for index, (marker, event_id, _, version) in enumerate(page):
            event, state = documents[2 * index], documents[2 * index + 1]
            try:
                floor = state.decode(STATE).floor if state is not None else 1
                fits = version < floor if event is None else event.decode(EVENT).event_id == event_id
            except Inconsistent:
                continue  # found with its stream already
            if not fits:
                self._find(marker.path, "marker", "names an event that is not there")

    def _find(self, path: str, kind: str, message: str) -> None:
        if len(self._findings) < LISTED_MAX:
            self._findings.append(Finding(path, kind, message))


class _StreamCheck:
    """Walks one stream, event by event."""

    def __init__(
        self,
        stream: Stream,
        folding: Folding,
        state: StateRecord | None,
        snapshots: dict[int, Document | None],
        find: Any,
    ) -> None:
        self.stream = stream
        self.unchecked = 0
        self._folding = folding
        self._state = state
        self._snapshots = snapshots
        self._find = find
        self._last: EventRecord | None = None
        self._folded = first_fold()
        self._as_of: str | None = ""

    def event(self, document: Document) -> None:
        """One more event."""
        try:
            record = document.decode(EVENT)
        except Inconsistent as error:
            self._find(document.path, "corrupt", error.what)
            return
        if document.path != self.stream.event(record.version) or record.state_id != self.stream.state_id:
            self._find(document.path, "chain", "holds an event of another place")
            return
        self._link(document.path, record)
        self._fold(document, record)
        if self._as_of is not None:
            self._as_of = max(self._as_of, record.timestamp)
        self._last = record
        if record.version in self._snapshots:
            self._snapshot(record, self._snapshots.pop(record.version))

    def _link(self, path: str, record: EventRecord) -> None:
        """The event follows the one before, and is what its digest says."""
        if self._last is None:
            floor = self._state.floor if self._state is not None else 1
            if record.version > floor:
                self._find(self.stream.event(floor), "gap", "is missing at the start of the stream")
            if record.version == 1 and record.previous != GENESIS:
                self._find(path, "chain", "does not start a chain of digests")
            if record.version > 1:
                self._folded, self._as_of = Folded(), None
        else:
            if record.version != self._last.version + 1:
                self._find(self.stream.event(self._last.version + 1), "gap", "is missing between two events")
                self._folded = Folded()
            if record.previous != self._last.digest:
                self._find(path, "chain", "does not follow the event before it")
        if record.computed_digest(self.stream.governor_id) != record.digest:
            self._find(path, "digest", "was edited: its digest does not fit")

    def _fold(self, document: Document, record: EventRecord) -> None:
        """The state after the event is what the event says."""
        if record.to_state is not None and state_hash(record.to_state) != record.state_hash:
            self._find(document.path, "state_hash", "carries another state than its hash says")
        try:
            self._folded = self._folding.then(self._folded, self.stream, Stored(record, document.created_us))
        except ReducerMissing:
            self.unchecked = 1
            self._folded = Folded(None, record.schema, record.state_hash)
        except EventSourcingError as error:
            if self._folded.text is not None:
                self._find(document.path, "fold", error.what)
            self._folded = Folded(None, record.schema, record.state_hash)

    def _snapshot(self, event: EventRecord, document: Document | None) -> None:
        path = self.stream.snapshot(event.version)
        if document is None:
            self._find(path, "snapshot", "is listed by the state and missing")
            return
        try:
            snapshot = document.decode(SNAPSHOT)
        except Inconsistent as error:
            self._find(path, "corrupt", error.what)
            return
        if (
            snapshot.digest != event.digest
            or snapshot.state_hash != event.state_hash
            or snapshot.timestamp != event.timestamp
            or snapshot.schema != event.schema
            or snapshot.version != event.version
            or state_hash(snapshot.state) != event.state_hash
            or self._as_of not in (None, snapshot.as_of)
        ):
            self._find(path, "snapshot", "is not the state at its version")
            return
        self._as_of = snapshot.as_of
        if self._folded.text is None:
            self._folded = Folded(snapshot.state, snapshot.schema, snapshot.state_hash)

    def end(self) -> None:
        """The state is what the last event left."""
        state, last = self._state, self._last
        if state is None or last is None:
            return
        path = self.stream.state
        for name in differences(state, last):
            self._find(path, "state", f"its {name} is not what its last event says: run `tai-state recover`")
        if state_hash(state_text(state)) != state.state_hash:
            self._find(path, "state", "its data is not what its hash says: run `tai-state recover`")
        if state.deleted != (state_text(state) == NO_STATE_TEXT) or (state.data is None) != state.deleted:
            self._find(path, "state", "is deleted and has data, or has none and is not deleted")
        if self._as_of not in (None, state.as_of):
            self._find(path, "state", "its as_of is not the latest time of its events: run `tai-state recover`")
        for version in self._snapshots:
            self._find(self.stream.snapshot(version), "snapshot", "is kept of a version that has no event")
