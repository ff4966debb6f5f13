"""The file of an export: its lines, and what a restore requires of each. ``docs/format.md`` describes the file."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Literal, cast

import msgspec

from tai_state.errors import CorruptDocument, IncompatibleFormat, InvalidData, InvalidId
from tai_state.history.samefile import SameFile
from tai_state.streams.records import (
    EventRecord,
    GovernorRecord,
    MarkerRecord,
    SnapshotRecord,
    StateRecord,
    state_text,
)
from tai_state.streams.retirements import RetiredRecord
from tai_state.values.clocks import VectorClock
from tai_state.values.digests import GENESIS, state_hash
from tai_state.values.ids import escape_id, unescape_id, versioned
from tai_state.values.json import NOT_JSON
from tai_state.values.retired import Retired

FORMAT = 3
"""Exports of format 1 and 2 have no digest of their own; a restore accepts them without it."""

_DIGEST_SINCE = 3
_GZIP = b"\x1f\x8b"
_NOT_LINES = (*NOT_JSON, EOFError, gzip.BadGzipFile, zlib.error)
"""What reading lines raises if the file is damaged."""

Kind = Literal["governor", "marker", "retired", "event", "snapshot", "state", "end"]


class End(msgspec.Struct, frozen=True, omit_defaults=True):
    """The fields of the last line: the number of documents before it, and the SHA-256 of all lines before it."""

    lines: int
    digest: str = ""


_SHAPES: dict[str, type[msgspec.Struct]] = {
    "governor": GovernorRecord,
    "marker": MarkerRecord,
    "retired": RetiredRecord,
    "event": EventRecord,
    "snapshot": SnapshotRecord,
    "state": StateRecord,
    "end": End,
}


class Header(msgspec.Struct, frozen=True):
    """The first line of an export."""

    tai_state_export: int
    export_id: str
    governor_id: str
    store_id: str
    exported_at: str


class Line(msgspec.Struct, frozen=True):
    """A document: its kind, its escaped id and its fields."""

    kind: Kind
    id: str
    fields: dict[str, Any]


class TransferStats(msgspec.Struct, frozen=True, kw_only=True):
    """What an export or a restore moved.

    Attributes:
        governor: the id of the governor.
        states: how many states the file has.
        events: how many events it has.
        snapshots: how many kept snapshots it has.
        markers: how many markers of callers' event ids it has.
        kept: the paths of what the restore left out, to keep what others have made meanwhile; the first 1,000.
    """

    governor: str
    states: int
    events: int
    snapshots: int
    markers: int
    kept: tuple[str, ...] = ()


_taken_out = msgspec.json.Decoder(Mapping[str, VectorClock]).decode


class Problem(msgspec.Struct, frozen=True):
    """Why a line cannot be restored.

    Attributes:
        what: what is wrong with it.
        missing: the version that its stream lacks before this line; None if none is missing.
    """

    what: str
    missing: int | None = None


class ExportCheck:
    """Checks the lines of an export in order: while they are written, and before they are restored.

    Args:
        header: the first line of the export.

    Attributes:
        header: as given.
        lines: how many documents there were so far.
        is_whole: whether the last line was there.
        retired: the ids of the stores that were retired.
    """

    def __init__(self, header: Header) -> None:
        self.header: Header = header
        self._governor_id = header.governor_id
        self._needs_digest = header.tai_state_export >= _DIGEST_SINCE
        self._first: EventRecord | None = None
        self._last: EventRecord | None = None
        self._kept: tuple[int, ...] = ()
        self._ids: dict[str, str] = {}
        self._by_kind: dict[str, int] = {}
        self._taken_out: dict[str, bytes] = {}
        self.lines: int = 0
        self.is_whole: bool = False
        self.retired: set[str] = set()

    def problem(self, line: Line, digest: str = "") -> Problem | None:
        """The problem with the next line; None if it has none. The last line says what the digest up to it must be."""
        try:
            record = msgspec.convert(line.fields, _SHAPES[line.kind])
            if isinstance(record, End):
                self.is_whole = record.lines == self.lines and self._last is None
                is_same = record.digest == digest if record.digest else not self._needs_digest
                return None if is_same else Problem("the file was edited or damaged: its digest does not match")
            found = self._problem(line, record)
        except NOT_JSON as error:
            return Problem(f"is damaged: {error}")
        except (InvalidId, CorruptDocument):
            return Problem("an id is not valid")
        self.is_whole = False
        self.lines += 1
        self._by_kind[line.kind] = self._by_kind.get(line.kind, 0) + 1
        return found

    def stats(self) -> TransferStats:
        """The counts of the lines so far."""
        return TransferStats(
            governor=self._governor_id,
            states=self._by_kind.get("state", 0),
            events=self._by_kind.get("event", 0),
            snapshots=self._by_kind.get("snapshot", 0),
            markers=self._by_kind.get("marker", 0),
        )

    def _problem(self, line: Line, record: msgspec.Struct) -> Problem | None:
        found: Problem | None = None
        if isinstance(record, EventRecord):
            found = self._problem_of_event(line, record)
            self._first, self._last = self._first or record, record
        elif isinstance(record, SnapshotRecord):
            found = self._problem_of_snapshot(line, record)
            self._kept = (*self._kept, record.version)
        elif isinstance(record, StateRecord):
            found = self._problem_of_state(line, record) or self._problem_of_order(line)
            self._first, self._last, self._kept = None, None, ()
        elif isinstance(record, MarkerRecord):
            is_id = escape_id(unescape_id(line.id)) == line.id and bool(escape_id(record.state_id))
            found = self._problem_of_order(line) if is_id else Problem("an id is not valid")
        elif isinstance(record, RetiredRecord):
            self.retired |= Retired(record.taken_out).stores
            self._taken_out[line.id] = msgspec.json.encode(record.taken_out)
            is_place = line.id == escape_id(record.state_id)
            found = self._problem_of_order(line) if is_place else Problem("a record is not that of its state")
        elif self.lines or line.id != escape_id(self._governor_id):
            found = Problem("a governor is in a place where it does not belong")
        return found

    def _problem_of_order(self, line: Line) -> Problem | None:
        before = self._ids.get(line.kind, "")
        self._ids[line.kind] = line.id
        return None if line.id > before else Problem(f"a {line.kind} comes twice or in the wrong order")

    def _problem_of_event(self, line: Line, record: EventRecord) -> Problem | None:
        last = self._last
        if line.id != versioned(escape_id(record.state_id), record.version):
            return Problem("an event is in a place where it does not belong")
        if not record.is_genuine(self._governor_id):
            return Problem("an event was edited: its digest does not match")
        if record.to_state is not None and state_hash(record.to_state) != record.state_hash:
            return Problem("an event carries a state that does not match its hash")
        if last is None:
            is_start = record.version > 1 or record.previous == GENESIS
            return None if is_start else Problem("the first event of a stream does not start a chain of digests")
        is_next = record.state_id == last.state_id and record.version == last.version + 1
        if is_next and record.previous == last.digest:
            return None
        is_gap = record.state_id == last.state_id and record.version > last.version + 1
        return Problem("an event does not follow the one before it", last.version + 1 if is_gap else None)

    def _problem_of_snapshot(self, line: Line, record: SnapshotRecord) -> Problem | None:
        last = self._last
        if line.id != versioned(escape_id(record.state_id), record.version):
            return Problem("a snapshot is in a place where it does not belong")
        if state_hash(record.state) != record.state_hash:
            return Problem("a snapshot does not match its hash")
        if last is None or record.state_id != last.state_id or record.version <= max(self._kept, default=0):
            return Problem("a snapshot comes twice or in the wrong order")
        return None

    def _problem_of_state(self, line: Line, record: StateRecord) -> Problem | None:
        first, last = self._first, self._last
        if first is None or last is None or first.version > record.floor:
            return Problem("a stream lacks events from the floor of its state on", record.floor)
        if line.id != escape_id(last.state_id):
            return Problem("a state is in a place where it does not belong")
        if record.version != last.version or record.digest != last.digest:
            missing = last.version + 1 if record.version > last.version else None
            return Problem("a state is not at the version of its last event", missing)
        if state_hash(state_text(record)) != record.state_hash or record.state_hash != last.state_hash:
            return Problem("a state does not match its hash")
        if Retired(_taken_out(self._taken_out.pop(line.id, b"{}"))).lacking(record.causality):
            return Problem("a state lacks the record of retirements that its clock stands for")
        return None if record.kept == self._kept else Problem("a state does not list the snapshots that are there")


def opened_export(path: Path) -> SameFile:
    """Open an export.

    Raises:
        InvalidData: it cannot be opened.
    """
    try:
        return SameFile(path)
    except OSError as error:
        raise _unreadable(path, error) from None


def lines_of(file: SameFile) -> Iterator[tuple[Line, int]]:
    """The lines after the header, each with its length in bytes.

    Raises:
        InvalidData: the file cannot be read, or is not the one that was checked.
    """
    with _text_of(file) as lines:
        lines.readline()
        for text in lines:
            yield msgspec.json.decode(text, type=Line), len(text)


def check_export(file: SameFile) -> ExportCheck:
    """Read the whole file and check each line of it, before anything is written. Returns the check."""
    with _text_of(file) as lines:
        return _checked(file.path, lines)


@contextmanager
def _text_of(file: SameFile) -> Generator[IO[bytes]]:
    """The text of a file, compressed or not; in the block, an error of reading is one of this library."""
    try:
        stored = file.from_start()
        is_compressed = stored.peek(len(_GZIP)).startswith(_GZIP)
        with cast("IO[bytes]", gzip.open(stored)) if is_compressed else stored as text:
            yield text
    except _NOT_LINES as error:
        raise CorruptDocument(str(file.path), f"is damaged: {error}") from None
    except OSError as error:
        raise _unreadable(file.path, error) from None


def _unreadable(path: Path, error: OSError) -> InvalidData:
    return InvalidData(f"{path} cannot be read: {error.strerror or error}")


def _checked(path: Path, file: IO[bytes]) -> ExportCheck:
    first = file.readline()
    try:
        header = msgspec.json.decode(first, type=Header)
    except NOT_JSON:
        raise InvalidData(f"{path} is not an export of tai-state") from None
    if not 1 <= header.tai_state_export <= FORMAT:
        raise IncompatibleFormat(
            str(path),
            f"has export format {header.tai_state_export}; this release reads up to {FORMAT}: upgrade tai-state",
        )
    check = ExportCheck(header)
    digest = sha256(first)
    for number, text in enumerate(file, 2):
        try:
            line = msgspec.json.decode(text, type=Line)
        except NOT_JSON as error:
            raise CorruptDocument(str(path), f"line {number} is damaged: {error}") from None
        if problem := check.problem(line, digest.hexdigest() if line.kind == "end" else ""):
            raise CorruptDocument(str(path), f"line {number}: {problem.what}")
        digest.update(text)
    if not check.is_whole:
        raise CorruptDocument(str(path), "is cut off: its last line is missing")
    return check
