"""The check of one stream: its events, the state that they lead to, and its kept snapshots."""

from __future__ import annotations

import msgspec

from tai_state.engines.api import Document
from tai_state.errors import CorruptDocument, Inconsistent, ReducerMissing
from tai_state.history.folding import Folding, first_fold
from tai_state.streams.damage import fault
from tai_state.streams.layout import Stream
from tai_state.streams.reader import Folded
from tai_state.streams.records import (
    EVENT,
    SNAPSHOT,
    EventRecord,
    StateRecord,
    change_metadata,
    moment,
    recorded,
    state_after,
    state_text,
)
from tai_state.streams.repeating import states_said
from tai_state.streams.retirements import lateness
from tai_state.streams.snapshots import is_state_after
from tai_state.values.digests import GENESIS, state_hash
from tai_state.values.json import encode
from tai_state.values.retired import Retired
from tai_state.values.times import is_far_ahead

_FAR_AHEAD = (
    "says a time far ahead: until then, time travel to a time sees nothing from this event on,"
    " but a version number does"
)


_TWICE = (
    "has the event id of an earlier event: one change was made twice; undo the second one by a change of its own,"
    " for it stays, and so does this finding"
)


class Finding(msgspec.Struct, frozen=True):
    """An inconsistency in the stored data.

    Attributes:
        path: the document.
        kind: ``corrupt``, ``gap``, ``chain``, ``digest``, ``state_hash``, ``fold``, ``state``, ``snapshot``,
            ``marker``, ``retired``, ``cleaned``, ``timer``, ``governor``, ``store``, ``restore`` or ``time``.
        message: what is wrong with the document, in one sentence.
    """

    path: str
    kind: str
    message: str


_RECOVER = "run `tai-state recover`"
_RESTORE = "restore a backup"
_RESTORE_OR_GIVE_UP = f"{_RESTORE}; if there is none, {_RECOVER}, which gives up the versions before the next snapshot"


class StreamCheck:
    """Checks one stream, event by event, oldest first. One cause is one finding: what follows from it is not told.

    Args:
        stream: the stream to check.
        folding: the fold with the application's reducers.
        state: the record of the state; None if it is missing or damaged.
        snapshots: the documents of the snapshots that the state lists, by version; None for a missing one.
        latest: the latest time that a caller may give now, as text.
        retired: what is on record about the retired stores of the state.
        lost: what is wrong with the state's document if there is no record of it: the kind of the finding, and what.
    """

    def __init__(
        self,
        stream: Stream,
        folding: Folding,
        state: StateRecord | None,
        snapshots: dict[int, Document | None],
        latest: str,
        retired: Retired,
        lost: tuple[str, str] | None = None,
    ) -> None:
        self.stream = stream
        self.findings: list[Finding] = []
        self.events: int = 0
        self.is_unchecked: bool = False
        self._folding = folding
        self._state = state
        self._snapshots = snapshots
        self._rests_on = min(snapshots, default=0) if state is None else state.floor
        self._latest = latest
        self._retired = retired
        self._lost = lost
        self._reached = self._begins_at = 0
        self._last: EventRecord | None = None
        self._is_mendable = True
        self._ids: set[int] = set()
        self._wrong: list[str] = []
        self._folded = first_fold()
        self._as_of: str | None = ""
        self._kept_as_of: str | None = ""
        self._unkept_bytes = 0

    def find(self, path: str, kind: str, message: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(path, kind, message))

    def event(self, document: Document, version: int) -> EventRecord | None:
        """Check the next event, whose path says that it is of this version. Returns its record if nothing is wrong."""
        self.events += 1
        self._step_to(version)
        record: EventRecord | None = None
        try:
            record = document.decode(EVENT)
            change_metadata(record, document.path)
            moment(record.timestamp, document.path)
            recorded(document.updated_us, document.path)
            problem = self._problem(document.path, version, record)
        except Inconsistent as error:
            problem = ("corrupt", _to_restore(error))
        if problem is not None or record is None:
            self._damaged(version, record)
            self.find(document.path, *(problem or ("corrupt", "cannot be read")))
            return None
        self._kept_as_of = None if self._kept_as_of is None else self._kept_as_of or record.timestamp
        self._unkept_bytes += record.unkept_bytes
        if record.timestamp > self._latest and is_far_ahead(record.timestamp, document.updated_us):
            self.find(document.path, "time", _FAR_AHEAD)
        late = lateness(self.stream, self._retired, record.causality)
        if late is not None and not any(each.kind == "retired" for each in self.findings):
            self.find(late.path, "retired", late.what)
        self._last = record
        is_shown = version not in self._snapshots or self._snapshot(record, self._snapshots.pop(version))
        if self._folded.text is None and version == self._begins_at:
            self._is_mendable = self._state is not None
            self.is_unchecked = is_shown and version >= self._rests_on
        if self._state is not None and version == self._state.version:
            self._compare(self._state, record)
        return record

    @property
    def is_outrun(self) -> bool:
        """Whether the stream has events after the state's version: the state has moved on since, or lags behind."""
        return self._state is not None and self._reached > self._state.version

    def end(self, *, has_moved: bool) -> None:
        """Finish the check, after the last event.

        Args:
            has_moved: whether the state has been written since it was read, so that it may be behind its last event.
        """
        state, last = self._state, self._last
        wrong = self._wrong
        if state is not None and (state_hash(state_text(state)) != state.state_hash):
            wrong.append("its data does not match its hash")
        if state is not None and sorted(set(state.kept)) != list(state.kept):
            wrong.append("its list of kept snapshots is not in order")
        if state is not None and state.floor > state.version:
            wrong.append("its floor is above its version")
        if state is not None and self._reached < state.version:
            # If the digests agree, the state is that of the last event. Otherwise either document may be at fault.
            wrong.append("its version is not that of its last event")
            if last is None or last.digest != state.digest:
                missing = self.stream.event(self._reached + 1)
                self.find(missing, "gap", f"is missing although the state is at version {state.version}: {_RESTORE}")
                self._is_mendable = False
                self._forget_snapshots(state.version)
        elif self.is_outrun and not has_moved:
            wrong.append("its version is not that of its last event")
        for version in self._snapshots:
            self.find(
                self.stream.snapshot(version), "snapshot", f"is a snapshot of a version that has no event: {_RECOVER}"
            )
        kind, what = self._lost or ("state", "; ".join(wrong))
        if what:
            self.find(self.stream.state, kind, f"{what}: {_RECOVER if self._is_mendable else _RESTORE}")

    def _step_to(self, version: int) -> None:
        """Go on to the next event that is there; a gap before it is one finding."""
        reached, self._reached = self._reached, version
        self._begins_at = version if not reached and version > 1 else 0
        floor = version if self._state is None else self._state.floor
        expected = reached + 1 if reached else min(version, floor)
        if version > expected:
            where = "between two events" if reached else "at the start of the stream"
            self.find(self.stream.event(expected), "gap", f"is missing {where}: {_RESTORE}")
            self._is_mendable = False
            self._forget_snapshots(version - 1)
        if version != reached + 1:
            self._last, self._folded, self._as_of, self._kept_as_of = None, Folded(), None, None

    def _forget_snapshots(self, until: int) -> None:
        """Leave out the snapshots up to a version: their events are missing, which is a finding already."""
        self._snapshots = {version: each for version, each in self._snapshots.items() if version > until}

    def _damaged(self, version: int, record: EventRecord | None) -> None:
        """Go past a damaged event: what follows from it is unknown until the next sound snapshot."""
        self._is_mendable = False
        self._snapshots.pop(version, None)
        self._last, self._as_of, self._kept_as_of = None, None, None
        self._folded = Folded() if record is None else Folded(None, record.schema, record.state_hash)

    def _compare(self, state: StateRecord, event: EventRecord) -> None:
        """Check that the state is what the event of its version left."""
        different = _differences(state, event, self.stream.event(event.version))
        if different:
            self._wrong.append(f"its {', '.join(different)} does not match its last event")
        if (state.data is None) != state.deleted:
            self._wrong.append("it is deleted and has data, or neither")
        if self._as_of not in (None, state.as_of):
            self._wrong.append("its as_of is not the latest time of its events")
        if self._kept_as_of is not None and (self._kept_as_of, self._unkept_bytes) != (
            state.kept_as_of,
            state.unkept_bytes,
        ):
            self._wrong.append("its count of events since the last snapshot is wrong")

    def _problem(self, path: str, version: int, record: EventRecord) -> tuple[str, str] | None:
        """The kind and the first of the problems of an event; None if it has none."""
        if record.version != version or record.state_id != self.stream.state_id:
            return "chain", f"holds an event that belongs at another path: {_RESTORE}"
        if not record.is_genuine(self.stream.governor_id):
            return "digest", f"was edited: its digest does not match: {_RESTORE}"
        if record.to_state is not None and state_hash(record.to_state) != record.state_hash:
            return "state_hash", f"carries a state that does not match its hash: {_RESTORE}"
        if self._last is not None and record.previous != self._last.digest:
            return "chain", f"does not follow the event before it: {_RESTORE}"
        if version == 1 and record.previous != GENESIS:
            return "chain", f"does not start a chain of digests: {_RESTORE}"
        if self._as_of is not None:
            self._as_of = max(self._as_of, record.timestamp)
            if record.as_of not in ("", self._as_of):
                return "chain", f"its as_of is not the latest time of the events up to it: {_RESTORE}"
        if record.content is not None and not states_said(record.content, record):
            return "marker", f"its content is not the digest of what its caller asked for: {_RESTORE}"
        if (id_hash := hash(record.event_id)) in self._ids:
            self.find(path, "marker", _TWICE)
        self._ids.add(id_hash)
        return self._fold(record)

    def _fold(self, record: EventRecord) -> tuple[str, str] | None:
        """Check that the state after the event is the one that the event recorded."""
        unknown = Folded(None, record.schema, record.state_hash)
        if self._folded.text is None and record.to_state is None:
            self._folded = unknown
            return None
        try:
            self._folded = self._folding.then(self._folded, self.stream, record)
        except ReducerMissing:
            self.is_unchecked = True
            self._folded = unknown
        except Inconsistent as error:
            return "fold", error.what
        return None

    def _snapshot(self, event: EventRecord, document: Document | None) -> bool:
        """Check a snapshot, which gives the state where no event does. Returns whether it is sound."""
        path = self.stream.snapshot(event.version)
        as_of = self._as_of or event.as_of
        self._kept_as_of = None
        advice = _RESTORE_OR_GIVE_UP if self._folded.text is None and not self.is_unchecked else _RECOVER
        if document is None:
            self.find(path, "snapshot", f"is missing although the state lists it: {advice}")
            return False
        try:
            snapshot = document.decode(SNAPSHOT)
        except Inconsistent as error:
            self.find(path, "corrupt", f"{fault(error)}: {advice}")
            return False
        if not is_state_after(snapshot, event) or as_of not in ("", snapshot.as_of):
            self.find(path, "snapshot", f"is not the state at its version: {advice}")
            return False
        self._is_mendable = True
        self._as_of = self._kept_as_of = snapshot.as_of
        self._unkept_bytes = 0
        if self._folded.text is None:
            self._folded = Folded(snapshot.state, snapshot.schema, snapshot.state_hash)
        return True


def _to_restore(error: Inconsistent) -> str:
    """What is wrong with an event that cannot be read, with the advice that holds for events."""
    if not isinstance(error, CorruptDocument):
        return error.what
    return f"{fault(error)}: {_RESTORE}"


def _differences(record: StateRecord, event: EventRecord, path: str) -> list[str]:
    """The fields in which a state differs from what the event of its version recorded."""
    expected = state_after(event, path)
    names = ("version", "timestamp", "metadata", "causality", "hlc", "state_hash", "digest", "schema")
    different = [name for name in names if getattr(record, name) != getattr(expected, name)]
    if "metadata" not in different and encode(record.metadata.context) != event.metadata.context:  # 1 == 1.0 == true
        different.append("metadata")
    return different
