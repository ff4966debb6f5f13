"""Export: the whole history of a governor as lines of JSON, including digests.

The first line is a header, and each further line is a document. Markers and the records of retired stores come first.
Then follow, for each state, its events, its kept snapshots and the state itself: an interrupted restore never leaves a
state without its events.
``docs/format.md`` describes the file.
"""

from __future__ import annotations

import gzip
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, nullcontext
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Final

import anyio.to_thread
import msgspec

from tai_state.engines.api import Document, Moment, Scan, Shape
from tai_state.errors import CorruptDocument, EventSourcingError, TaiStateError
from tai_state.history.exportfile import FORMAT, End, ExportCheck, Header, Kind, Line, Problem, TransferStats
from tai_state.history.restoring import path_of
from tai_state.history.survey import lost_states
from tai_state.history.unfinished import unfinished_restore
from tai_state.history.wholefile import whole_file
from tai_state.streams.core import Core
from tai_state.streams.damage import misplaced
from tai_state.streams.layout import Layout
from tai_state.streams.reader import lost_state_error
from tai_state.streams.records import GOVERNOR, MARKER, SNAPSHOT, STATE
from tai_state.streams.retirements import RETIRED
from tai_state.values.ids import split_versioned, unescape_id
from tai_state.values.times import format_us

_BUFFER_BYTES = 1024 * 1024

_SHAPES: Final[Mapping[str, Shape[Any]]] = {
    "governor": GOVERNOR,
    "marker": MARKER,
    "retired": RETIRED,
    "snapshot": SNAPSHOT,
    "state": STATE,
}
_EVENTS: Final = (
    "restore a backup, or copy all that is sound to another store with `tai-state sync`, and export it there;"
    " `tai-state verify` names all of the damage"
)


class Export:
    """Writes the history of a governor to a file.

    Args:
        core: the core of the store.
    """

    def __init__(self, core: Core) -> None:
        self._core = core

    async def run(self, governor_id: str, path: Path) -> TransferStats:
        """Export a governor, as it is at one moment. The file appears under its name only once it is whole.

        It is compressed with gzip if its name ends in ``.gz``. Several exports may write to the same path at the same
        time: the last one to end counts.

        Raises:
            CorruptDocument, EventSourcingError: the stored data is damaged and could not be restored; or a restore of
                the governor is unfinished.
        """
        async with self._core.engine.moment() as moment, whole_file(path) as partial:
            if error := await unfinished_restore(self._core, governor_id, moment):
                raise error
            async with aclosing(lost_states(self._core, governor_id, moment)) as lost:
                async for stream in lost:
                    raise lost_state_error(stream)
            return await self._write(moment, governor_id, partial, is_compressed=path.suffix == ".gz")

    async def _write(self, moment: Moment, governor_id: str, partial: Path, *, is_compressed: bool) -> TransferStats:
        """Write the whole file, and check each line as a restore will."""
        now = format_us(self._core.settings.clock.now_us())
        header = Header(FORMAT, str(uuid.uuid4()), governor_id, self._core.store_id, now)
        check, digest = ExportCheck(header), sha256()
        with partial.open("wb") as file, _compressed(file) if is_compressed else nullcontext(file) as text:
            buffer = bytearray(msgspec.json.encode(header) + b"\n")
            async with aclosing(self._lines(moment, governor_id)) as lines:
                async for line in lines:
                    if problem := check.problem(line):
                        raise _export_error(self._core.layout, governor_id, line, problem)
                    buffer += msgspec.json.encode(line) + b"\n"
                    if len(buffer) >= _BUFFER_BYTES:
                        await anyio.to_thread.run_sync(_write, text, digest, bytes(buffer))
                        buffer.clear()
            await anyio.to_thread.run_sync(_write, text, digest, bytes(buffer))
            end = Line("end", "", msgspec.to_builtins(End(check.lines, digest.hexdigest())))
            await anyio.to_thread.run_sync(text.write, msgspec.json.encode(end) + b"\n")
        return check.stats()

    async def _lines(self, moment: Moment, governor_id: str) -> AsyncGenerator[Line, None]:
        layout = self._core.layout
        [governor] = (await moment.read([layout.governor(governor_id)])).documents
        if governor is not None:
            yield _line("governor", governor)
        async for document in moment.scan(Scan(layout.ids(governor_id))):
            yield _line("marker", document)
        async for document in moment.scan(Scan(layout.retired(governor_id))):
            yield _line("retired", document)
        async for state in moment.scan(Scan(layout.states(governor_id))):
            place, record = layout.placed(governor_id, state), state.decode(STATE)
            if place is None:
                raise misplaced(state.path, "a state")
            stream = place.stream
            start, end = stream.range(1)
            async for event in moment.scan(Scan(stream.events, start=start, end=end)):
                yield _line("event", event)
            kept = [stream.snapshot(version) for version in record.kept]
            for snapshot in (await moment.read(kept)).documents if kept else ():
                if snapshot is not None:
                    yield _line("snapshot", snapshot)
            yield _line("state", state)


def _export_error(layout: Layout, governor_id: str, line: Line, problem: Problem) -> TaiStateError:
    """The error for a line that cannot be exported."""
    if problem.missing is not None:
        segment = line.id if line.kind == "state" else split_versioned(line.id)[0]
        path = layout.stream(governor_id, unescape_id(segment)).event(problem.missing)
        return EventSourcingError(path, f"is missing: {_advice('event')}")
    return CorruptDocument(path_of(layout, governor_id, line), f"{problem.what}: {_advice(line.kind)}")


def _advice(kind: Kind) -> str:
    """What to do about a damaged document of this kind, so that the governor can be exported."""
    return _SHAPES[kind].advice if kind in _SHAPES else _EVENTS


def _line(kind: Kind, document: Document) -> Line:
    try:
        return Line(kind, document.id, document.fields())
    except CorruptDocument as error:
        raise CorruptDocument(error.path, f"{error.what}: {_advice(kind)}") from None


def _compressed(file: IO[bytes]) -> gzip.GzipFile:
    return gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0)


def _write(text: IO[bytes] | gzip.GzipFile, digest: Any, lines: bytes) -> None:
    digest.update(lines)
    text.write(lines)
