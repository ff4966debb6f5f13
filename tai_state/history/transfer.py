"""Export and restore: a governor's whole history as lines of JSON, digests included.

The first line is a header; each further one a document: markers first, then state by state its events, its
kept snapshots and the state itself, so that what an interrupted restore left behind is never a state without
its events. ``docs/format.md`` describes the file.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import IO, Any, Literal

import anyio.to_thread
import msgspec

from tai_state.engines.api import ABSENT, ANYTHING, Delete, Document, Put
from tai_state.errors import (
    CommitRefused,
    CorruptDocument,
    GovernorExists,
    IncompatibleFormat,
    InvalidData,
    Unavailable,
)
from tai_state.store.layout import Stream
from tai_state.store.records import (
    STATE,
    EventRecord,
    GovernorRecord,
    MarkerRecord,
    SnapshotRecord,
    StateRecord,
    state_text,
)
from tai_state.store.store import StateStore
from tai_state.values.digests import GENESIS, state_hash
from tai_state.values.ids import unescape_id
from tai_state.values.times import format_us

FORMAT = 1
_BATCH_BYTES = 1024 * 1024
_BATCH_LINES = 200
_ENDINGS_MAX = 5

Kind = Literal["governor", "marker", "event", "snapshot", "state", "end"]


class End(msgspec.Struct, frozen=True):
    """The fields of the last line: how many lines of documents came before it."""

    lines: int


_SHAPES: dict[str, type[msgspec.Struct]] = {
    "governor": GovernorRecord,
    "marker": MarkerRecord,
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
    """A document: what kind, its id as escaped, its fields."""

    kind: Kind
    id: str
    fields: dict[str, Any]


class TransferStats(msgspec.Struct, frozen=True, kw_only=True):
    """What an export or a restore moved."""

    governor: str
    states: int
    events: int
    snapshots: int
    markers: int


class _Counts:
    def __init__(self) -> None:
        self.by_kind: dict[str, int] = {}
        self.lines = 0

    def add(self, kind: str) -> None:
        self.lines += 1
        self.by_kind[kind] = self.by_kind.get(kind, 0) + 1

    def stats(self, governor_id: str) -> TransferStats:
        return TransferStats(
            governor=governor_id,
            states=self.by_kind.get("state", 0),
            events=self.by_kind.get("event", 0),
            snapshots=self.by_kind.get("snapshot", 0),
            markers=self.by_kind.get("marker", 0),
        )


class Export:
    """Writes a governor's history to a file.

    Args:
        store: whose.
    """

    def __init__(self, store: StateStore) -> None:
        self._store = store

    async def run(self, governor_id: str, path: Path) -> TransferStats:
        """Export a governor; the file appears under its name only when it is whole."""
        partial = path.with_name(path.name + ".partial")
        counts = _Counts()
        now = format_us(self._store.settings.clock.now_us())
        header = Header(FORMAT, str(uuid.uuid4()), governor_id, self._store.store_id, now)
        try:
            with partial.open("wb") as file:
                buffer = bytearray(msgspec.json.encode(header) + b"\n")
                async with aclosing(self._lines(governor_id)) as lines:
                    async for line in lines:
                        counts.add(line.kind)
                        buffer += msgspec.json.encode(line) + b"\n"
                        if len(buffer) >= _BATCH_BYTES:
                            await anyio.to_thread.run_sync(file.write, bytes(buffer))
                            buffer.clear()
                end = Line("end", "", msgspec.to_builtins(End(counts.lines)))
                await anyio.to_thread.run_sync(_finish, file, bytes(buffer) + msgspec.json.encode(end) + b"\n")
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        return counts.stats(governor_id)

    async def _lines(self, governor_id: str) -> AsyncGenerator[Line, None]:
        layout, engine = self._store.layout, self._store.engine
        [governor] = (await engine.read([layout.governor(governor_id)])).documents
        if governor is not None:
            yield Line("governor", governor.id, governor.fields())
        # A marker is written with its event: those seen first have theirs among the events read later.
        async for document in engine.scan(layout.ids(governor_id)):
            yield Line("marker", document.id, document.fields())
        async for document in engine.scan(layout.states(governor_id)):
            async with aclosing(self._stream(layout.stream(governor_id, unescape_id(document.id)), document)) as lines:
                async for line in lines:
                    yield line

    async def _stream(self, stream: Stream, document: Document) -> AsyncGenerator[Line, None]:
        """One state's documents as of one version, whatever is written meanwhile."""
        record = document.decode(STATE)
        while True:
            snapshots = [stream.snapshot(version) for version in record.kept]
            found = (await self._store.engine.read([stream.state, *snapshots])).documents
            present = found[0]
            if present is None:
                raise CorruptDocument(stream.state, "disappeared during the export")
            record, read = present.decode(STATE), record
            if record.kept == read.kept and all(each is not None for each in found):
                break
            if record.kept == read.kept:
                raise CorruptDocument(stream.state, "lists a kept snapshot that is missing: run `tai-state verify`")
        start, end = stream.range(1, record.version)
        async for event in self._store.engine.scan(stream.events, start=start, end=end):
            yield Line("event", event.id, event.fields())
        for snapshot in found[1:]:
            if snapshot is not None:
                yield Line("snapshot", snapshot.id, snapshot.fields())
        yield Line("state", present.id, present.fields())


class Restore:
    """Writes an export into a store that does not have its governor.

    Args:
        store: where to.
    """

    def __init__(self, store: StateStore) -> None:
        self._store = store

    async def run(self, path: Path) -> TransferStats:
        """Restore a file. Interrupted, it goes on where it stopped when run again with the same file.

        Raises:
            GovernorExists: it is there already; nothing was written.
            InvalidData, CorruptDocument, IncompatibleFormat: the file is damaged or none of ours; nothing was written.
        """
        header, counts = await anyio.to_thread.run_sync(check_export, path)
        governor_id = header.governor_id
        await self._begin(header)
        batch: list[Put] = []
        size = 0
        for line, length in _lines_of(path):
            if line.kind == "end":
                break
            batch.append(Put(self._path(governor_id, line), line.fields, ABSENT))
            size += length
            if size >= _BATCH_BYTES or len(batch) >= _BATCH_LINES:
                await self._put(batch)
                batch, size = [], 0
        await self._put(batch)
        await self._end(governor_id)
        return counts.stats(governor_id)

    async def _begin(self, header: Header) -> None:
        """Note that this restore is under way, unless something else is there."""
        engine, layout = self._store.engine, self._store.layout
        note = layout.restore(header.governor_id)
        [document] = (await engine.read([note])).documents
        if document is not None and document.fields().get("export_id") == header.export_id:
            return
        for collection in (layout.states(header.governor_id), layout.events(header.governor_id)):
            async for found in engine.scan(collection, limit=1):
                raise GovernorExists(found.path)
        try:
            await engine.commit([Put(note, {"export_id": header.export_id}, ABSENT)])
        except CommitRefused:
            [document] = (await engine.read([note])).documents
            if document is None or document.fields().get("export_id") != header.export_id:
                raise GovernorExists(note) from None

    async def _end(self, governor_id: str) -> None:
        """Take the note away; where the answer is lost, again, since all is restored by now."""
        for attempt in range(_ENDINGS_MAX):
            try:
                await self._store.engine.commit([Delete(self._store.layout.restore(governor_id), ANYTHING)])
            except Unavailable as error:
                if not error.unknown or attempt == _ENDINGS_MAX - 1:
                    raise
            else:
                return

    async def _put(self, batch: list[Put]) -> None:
        if not batch:
            return
        try:
            await self._store.engine.commit(batch)
        except CommitRefused:
            # An earlier try wrote this batch, by atomicity all of it, unless it wrote other batches then.
            documents = (await self._store.engine.read([put.path for put in batch])).documents
            for put, document in zip(batch, documents, strict=True):
                if document is None:
                    await self._store.engine.commit([put])
                elif document.fields() != put.fields:
                    raise GovernorExists(put.path) from None

    def _path(self, governor_id: str, line: Line) -> str:
        layout = self._store.layout
        if line.kind == "governor":
            return layout.governor(governor_id)
        collections = {
            "marker": layout.ids,
            "event": layout.events,
            "snapshot": layout.snapshots,
            "state": layout.states,
        }
        return f"{collections[line.kind](governor_id)}/{line.id}"


def _finish(file: IO[bytes], rest: bytes) -> None:
    file.write(rest)
    file.flush()
    os.fsync(file.fileno())


def _lines_of(path: Path) -> Iterator[tuple[Line, int]]:
    with path.open("rb") as file:
        file.readline()
        for text in file:
            yield msgspec.json.decode(text, type=Line), len(text)


def check_export(path: Path) -> tuple[Header, _Counts]:
    """Read the whole file and check each chain of digests in it, before anything is written."""
    counts = _Counts()
    try:
        with path.open("rb") as file:
            header = msgspec.json.decode(file.readline(), type=Header)
    except OSError as error:
        raise InvalidData(f"{path} cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise InvalidData(f"{path} is no export of tai-state") from None
    if header.tai_state_export != FORMAT:
        raise IncompatibleFormat(
            str(path),
            f"has export format {header.tai_state_export}, this release reads {FORMAT}: upgrade tai-state",
        )
    last: EventRecord | None = None
    number = 1
    is_whole = False
    try:
        for line, _ in _lines_of(path):
            number += 1
            record = msgspec.convert(line.fields, _SHAPES[line.kind])
            if isinstance(record, End):
                is_whole = record.lines == counts.lines and last is None
                continue
            is_whole = False
            counts.add(line.kind)
            if what := _wrong(header.governor_id, record, last):
                raise CorruptDocument(str(path), f"line {number}: {what}")
            if isinstance(record, EventRecord | StateRecord):
                last = record if isinstance(record, EventRecord) else None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptDocument(str(path), f"line {number + 1} is damaged: {error}") from None
    if not is_whole:
        raise CorruptDocument(str(path), "is cut off: its last line is missing")
    return header, counts


def _wrong(governor_id: str, record: msgspec.Struct, last: EventRecord | None) -> str | None:
    """What is wrong with a document of an export that follows this event; None where it is sound."""
    if isinstance(record, EventRecord):
        return _wrong_event(governor_id, record, last)
    if isinstance(record, StateRecord):
        return _wrong_state(record, last)
    if isinstance(record, SnapshotRecord) and state_hash(record.state) != record.state_hash:
        return "a snapshot is not what its hash says"
    return None


def _wrong_event(governor_id: str, record: EventRecord, last: EventRecord | None) -> str | None:
    if not record.is_genuine(governor_id):
        return "an event was edited: its digest does not fit"
    if record.to_state is not None and state_hash(record.to_state) != record.state_hash:
        return "an event carries another state than its hash says"
    if last is None:
        return None if record.version > 1 or record.previous == GENESIS else "a stream starts in the middle"
    if record.previous != last.digest or record.version != last.version + 1 or record.state_id != last.state_id:
        return "an event does not follow the one before it"
    return None


def _wrong_state(record: StateRecord, last: EventRecord | None) -> str | None:
    if last is None or record.version != last.version or record.digest != last.digest:
        return "a state is not at the version of its last event"
    if state_hash(state_text(record)) != record.state_hash or record.state_hash != last.state_hash:
        return "a state is not what its hash says"
    return None
