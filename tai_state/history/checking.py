"""The check of one stream: its events, the state that they lead to, and its kept snapshots."""

from __future__ import annotations

import msgspec

from tai_state.engines.api import Document
from tai_state.errors import Inconsistent, ReducerMissing
from tai_state.history.folding import Folding, first_fold
from tai_state.streams.layout import Stream
from tai_state.streams.reader import Folded
from tai_state.streams.records import (
    EVENT,
    SNAPSHOT,
    EventRecord,
    StateRecord,
    change_metadata,
    moment,
    state_after,
    state_text,
)
from tai_state.streams.snapshots import is_state_after
from tai_state.values.digests import GENESIS, state_hash


class Finding(msgspec.Struct, frozen=True):
    """An inconsistency in the stored data.

    Attributes:
        path: the document.
        kind: ``corrupt``, ``gap``, ``chain``, ``digest``, ``state_hash``, ``fold``, ``state``, ``snapshot`` or
            ``marker``.
        message: what is wrong with the document, in one sentence.
    """

    path: str
    kind: str
    message: str


class StreamCheck:
    """Checks one stream, event by event, oldest first.

    Args:
        stream: the stream to check.
        folding: the fold with the application's reducers.
        state: the record of the state; None if it is missing or damaged.
        snapshots: the documents of the snapshots that the state lists, by version; None for a missing one.
    """

    def __init__(
        self, stream: Stream, folding: Folding, state: StateRecord | None, snapshots: dict[int, Document | None]
    ) -> None:
        self.stream = stream
        self.findings: list[Finding] = []
        self.events: int = 0
        self.is_unchecked: bool = False
        self._folding = folding
        self._state = state
        self._snapshots = snapshots
        self._last: EventRecord | None = None
        self._folded = first_fold()
        self._as_of: str | None = ""
        self._kept_as_of: str | None = ""
        self._unkept_bytes = 0

    def find(self, path: str, kind: str, message: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(path, kind, message))

    def event(self, document: Document) -> None:
        """Check the next event."""
        self.events += 1
        try:
            record = document.decode(EVENT)
            change_metadata(record, document.path)
            moment(record.timestamp, document.path)
        except Inconsistent as error:
            self.find(document.path, "corrupt", error.what)
            return
        if document.path != self.stream.event(record.version) or record.state_id != self.stream.state_id:
            self.find(document.path, "chain", "holds an event that belongs at another path")
            return
        self._link(document.path, record)
        self._fold(document, record)
        self._count(record)
        self._last = record
        if record.version in self._snapshots:
            self._snapshot(record, self._snapshots.pop(record.version))
        if self._state is not None and record.version == self._state.version:
            self._compare(self._state, record)

    @property
    def is_outrun(self) -> bool:
        """Whether the stream has events after the state's version: the state has moved on since, or lags behind."""
        return self._state is not None and self._last is not None and self._last.version > self._state.version

    def end(self, *, has_moved: bool) -> None:
        """Finish the check, after the last event.

        Args:
            has_moved: whether the state has been written since it was read, so that it may be behind its last event.
        """
        for version in self._snapshots:
            self.find(self.stream.snapshot(version), "snapshot", "is a snapshot of a version that has no event")
        if self._state is None or self._last is None or (self.is_outrun and has_moved):
            return
        if self._last.version != self._state.version:
            self.find(self.stream.state, "state", "its version is not that of its last event: run `tai-state recover`")

    def _compare(self, state: StateRecord, event: EventRecord) -> None:
        """Check that the state is what the event of its version left."""
        path = self.stream.state
        try:
            different = _differences(state, event, self.stream.event(event.version))
        except Inconsistent:  # the event cannot be read, which is a finding already
            return
        for name in different:
            self.find(path, "state", f"its {name} does not match its last event: run `tai-state recover`")
        if state_hash(state_text(state)) != state.state_hash or (state.data is None) != state.deleted:
            self.find(path, "state", "its data does not match its hash: run `tai-state recover`")
        if self._as_of not in (None, state.as_of):
            self.find(path, "state", "its as_of is not the latest time of its events: run `tai-state recover`")
        if self._kept_as_of is not None and (self._kept_as_of, self._unkept_bytes) != (
            state.kept_as_of,
            state.unkept_bytes,
        ):
            self.find(path, "state", "its count of events since the last snapshot is wrong: run `tai-state recover`")

    def _link(self, path: str, record: EventRecord) -> None:
        """Check that the event follows the one before it, and that its digest matches."""
        if self._last is not None:
            if record.version != self._last.version + 1:
                self.find(self.stream.event(self._last.version + 1), "gap", "is missing between two events")
                self._folded = Folded()
            if record.previous != self._last.digest:
                self.find(path, "chain", "does not follow the event before it")
        else:
            floor = self._state.floor if self._state is not None else 1
            if record.version > floor:
                self.find(self.stream.event(floor), "gap", "is missing at the start of the stream")
            if record.version == 1 and record.previous != GENESIS:
                self.find(path, "chain", "does not start a chain of digests")
            if record.version > 1:
                self._folded, self._as_of, self._kept_as_of = Folded(), None, None
        if not record.is_genuine(self.stream.governor_id):
            self.find(path, "digest", "was edited: its digest does not match")

    def _fold(self, document: Document, record: EventRecord) -> None:
        """Check that the state after the event is the one that the event recorded."""
        if record.to_state is not None and state_hash(record.to_state) != record.state_hash:
            self.find(document.path, "state_hash", "carries a state that does not match its hash")
        try:
            self._folded = self._folding.then(self._folded, self.stream, record)
        except ReducerMissing:
            self.is_unchecked = True
            self._folded = Folded(None, record.schema, record.state_hash)
        except Inconsistent as error:
            if self._folded.text is not None:
                self.find(document.path, "fold", error.what)
            self._folded = Folded(None, record.schema, record.state_hash)

    def _count(self, record: EventRecord) -> None:
        """Count what a state counts since its last kept snapshot, and check the event's ``as_of``."""
        if self._as_of is not None:
            self._as_of = max(self._as_of, record.timestamp)
            if record.as_of not in ("", self._as_of):
                path = self.stream.event(record.version)
                self.find(path, "chain", "its as_of is not the latest time of the events up to it: restore a backup")
        if self._kept_as_of is not None:
            self._kept_as_of = self._kept_as_of or record.timestamp
            self._unkept_bytes += record.unkept_bytes

    def _snapshot(self, event: EventRecord, document: Document | None) -> None:
        path = self.stream.snapshot(event.version)
        if document is None:
            self.find(path, "snapshot", "is missing although the state lists it")
            self._kept_as_of = None
            return
        try:
            snapshot = document.decode(SNAPSHOT)
        except Inconsistent as error:
            self.find(path, "corrupt", error.what)
            return
        if not is_state_after(snapshot, event) or self._as_of not in (None, snapshot.as_of):
            self.find(path, "snapshot", "is not the state at its version")
            return
        self._as_of = self._kept_as_of = snapshot.as_of
        self._unkept_bytes = 0
        if self._folded.text is None:
            self._folded = Folded(snapshot.state, snapshot.schema, snapshot.state_hash)


def _differences(record: StateRecord, event: EventRecord, path: str) -> list[str]:
    """The fields in which a state differs from what the event of its version recorded."""
    expected = state_after(event, path)
    names = ("version", "timestamp", "metadata", "causality", "hlc", "state_hash", "digest", "schema")
    return [name for name in names if getattr(record, name) != getattr(expected, name)]
