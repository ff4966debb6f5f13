"""Validation: checks every digest, fold, state, kept snapshot and id marker.

It may run while others write: a state is compared with its stream up to the version that the state had when it was
read, and an inconsistency is reported only if a second look finds it, too.
Two things it cannot detect without an anchor outside the store: that the newest events of a stream were removed and
its state was set back to match; and that a whole stream was rewritten with recomputed digests.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing, suppress

import msgspec

from tai_state.engines.api import ABSENT, Document, Scan
from tai_state.engines.paging import take
from tai_state.errors import CorruptDocument, Inconsistent, InvalidId
from tai_state.history.checking import Finding, StreamCheck
from tai_state.history.cleaned import problem_of_note, without_note
from tai_state.history.dropping import stray_snapshots
from tai_state.history.essentials import all_governors, governor_problem, is_marker, without_marker
from tai_state.history.replay import Replay
from tai_state.history.retirements import problem_of, problem_of_place
from tai_state.history.timers import lacking, strays
from tai_state.history.unfinished import unfinished_restore
from tai_state.locks.damage import check_locks
from tai_state.streams.core import Core
from tai_state.streams.damage import fault, misplaced
from tai_state.streams.identity import store_problem
from tai_state.streams.layout import Place, Stream
from tai_state.streams.records import EVENT, MARKER, STATE, EventRecord, StateRecord
from tai_state.streams.repeating import states_said
from tai_state.streams.retirements import retired_in
from tai_state.values.ids import unescape_id
from tai_state.values.retired import Retired, has_marks

FINDINGS_MAX = 1_000
_PAGE = 100
_LOOKS_MAX = 5


class ConsistencyReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a validation found.

    Attributes:
        consistent: whether nothing is wrong and nothing was left unchecked.
        states: how many states were checked.
        events: how many events were checked.
        unchecked: how many states need a reducer that was not given; their digests were checked all the same.
        findings: the inconsistencies, at most 1,000.
    """

    consistent: bool
    states: int
    events: int
    unchecked: int
    findings: tuple[Finding, ...]


class Validation:
    """One pass over a store.

    Args:
        core: the core of the store.
        replay: the fold with the application's reducers.
    """

    def __init__(self, core: Core, replay: Replay) -> None:
        self._core = core
        self._folding = replay.folding()
        self._states = self._events = self._unchecked = 0
        self._findings: list[Finding] = []
        self._strange: list[Inconsistent] = []
        self._mendable: set[str] = set()  # markers that recovering makes anew
        self._stateless: set[str] = set()  # states that are gone, though markers name their events
        self._is_partial = False  # whether a restore of the governor has still to write states, each after its events

    async def run(self, governor_id: str | None) -> ConsistencyReport:
        """Validate one governor, or all."""
        await self._store()
        if governor_id is not None:
            governors = [governor_id]
        else:
            await self._storage()
            await check_locks(self._core, lambda error: self._find(error.path, "corrupt", error.what))
            governors = await all_governors(self._core, self._strange)
            for error in self._strange:
                self._find(error.path, "corrupt", error.what)
        for governor in governors:
            restore = await unfinished_restore(self._core, governor)
            self._is_partial = restore is not None
            if restore is not None:
                self._find(restore.path, "restore", restore.what)
            for check in (
                self._governor,
                self._streams,
                self._all_states,
                self._records,
                self._notes,
                self._snapshots,
                self._markers,
            ):
                try:
                    await check(governor)
                except Inconsistent as error:
                    self._find(error.path, "corrupt", error.what)
        await self._timers(governor_id)
        return ConsistencyReport(
            consistent=not self._findings and not self._unchecked,
            states=self._states,
            events=self._events,
            unchecked=self._unchecked,
            findings=tuple(self._findings),
        )

    async def _store(self) -> None:
        """Check the document of the store itself."""
        if (error := await store_problem(self._core.engine, self._core.layout)) is not None:
            self._find(error.path, "store", error.what)

    async def _storage(self) -> None:
        """Check the storage below the documents: a damaged index could hide documents from all other checks."""
        for error in await self._core.engine.self_check():
            self._find(error.path, "corrupt", error.what)

    async def _streams(self, governor_id: str) -> None:
        check: StreamCheck | None = None
        revision: int | None = None
        marked: list[tuple[Stream, EventRecord]] = []
        async for document in self._core.engine.scan(Scan(self._core.layout.events(governor_id))):
            place = self._place(governor_id, document, "an event")
            if place is None:
                continue
            stream = place.stream
            if check is None or check.stream.segment != stream.segment:
                if check is not None:
                    await self._finish(check, revision)
                check, revision = await self._start(stream)
            record = check.event(document, place.version)
            if record is not None and record.content is not None:
                marked.append((stream, record))
            if len(marked) >= _PAGE:
                await self._marked(marked)
                marked = []
        if check is not None:
            await self._finish(check, revision)
        await self._marked(marked)

    def _place(self, governor_id: str, document: Document, kind: str) -> Place | None:
        """The stream and version that a document's path names; None, and a finding, if it names none."""
        place = self._core.layout.placed(governor_id, document)
        if place is None:
            error = misplaced(document.path, kind)
            self._find(error.path, "corrupt", error.what)
        return place

    async def _start(self, stream: Stream) -> tuple[StreamCheck, int | None]:
        """Start the check of one stream: read its state and kept snapshots. Also returns the state's revision."""
        [document] = (await self._core.engine.read([stream.state])).documents
        latest = self._core.settings.latest
        try:
            record = None if document is None else document.decode(STATE)
            lost = ("state", "is missing though it has events")
        except Inconsistent as error:
            record, lost = None, ("corrupt", fault(error))
        if record is None or document is None:
            check = StreamCheck(stream, self._folding, None, await self._stored(stream), latest, Retired({}), lost)
            return check, None if document is None else document.revision
        retired = [stream.retired] if has_marks(record.causality) else []
        documents = await self._read([*retired, *(stream.snapshot(each) for each in record.kept)])
        by_version = dict(zip(record.kept, documents[len(retired) :], strict=True))
        known = Retired({})
        with suppress(Inconsistent):  # a finding of the check of states
            known = retired_in(stream, documents[0] if retired else None)
        return StreamCheck(stream, self._folding, record, by_version, latest, known), document.revision

    async def _stored(self, stream: Stream) -> dict[int, Document | None]:
        """The snapshots of a stream that are stored, by version."""
        start, end = stream.range(1)
        documents = self._core.engine.scan(Scan(stream.snapshots, start=start, end=end))
        places = [(self._core.layout.placed(stream.governor_id, each), each) async for each in documents]
        return {place.version: each for place, each in places if place is not None}

    async def _finish(self, check: StreamCheck, revision: int | None) -> None:
        """Report the findings of a check, once a second look has confirmed them."""
        if self._is_partial and revision is None:
            return
        await self._end(check, revision)
        findings = check.findings
        for _ in range(_LOOKS_MAX - 1):
            if not findings:
                break
            before = set(check.findings)
            check, revision = await self._start(check.stream)
            start, end = check.stream.range(1)
            async for event in self._core.engine.scan(Scan(check.stream.events, start=start, end=end)):
                if (place := self._core.layout.placed(check.stream.governor_id, event)) is not None:
                    check.event(event, place.version)
            await self._end(check, revision)
            findings = [each for each in check.findings if each in before]
            if findings == check.findings:
                break
        self._states += 1
        self._events += check.events
        self._unchecked += check.is_unchecked
        for finding in findings:
            self._find(finding.path, finding.kind, finding.message)

    async def _end(self, check: StreamCheck, revision: int | None) -> None:
        """End a check. If the stream goes on after the state, read the state again: it may have been written since."""
        has_moved = False
        if check.is_outrun:
            [document] = await self._read([check.stream.state])
            has_moved = (document and document.revision) != revision
        check.end(has_moved=has_moved)

    async def _all_states(self, governor_id: str) -> None:
        """Check that every state has events, and a record of the retired stores that its clock stands for."""
        documents = self._core.engine.scan(Scan(self._core.layout.states(governor_id)))
        while page := await take(documents, _PAGE):
            records = [(self._place(governor_id, document, "a state"), _intact(document)) for document in page]
            present = [(place.stream, record) for place, record in records if place is not None and record is not None]
            await self._retired([(stream, record) for stream, record in present if has_marks(record.causality)])
            for error in await without_note(self._core, present):
                self._find(error.path, "cleaned", error.what)
            for problem in await lacking(self._core, present):
                self._find_timer(problem.error)
            events = await self._read([stream.event(record.version) for stream, record in present])
            for (stream, record), event in zip(present, events, strict=True):
                if event is None and not await self._has_events(stream):
                    path = stream.event(record.version)
                    what = f"is missing, as all events of its state, which is at version {record.version}"
                    self._find(path, "gap", f"{what}: restore a backup")

    async def _retired(self, states: Sequence[tuple[Stream, StateRecord]]) -> None:
        """Check that these states, whose clocks know of retirements, have all of these on record."""
        documents = await self._read([stream.retired for stream, _ in states])
        for (stream, state), document in zip(states, documents, strict=True):
            error = await problem_of(self._core, stream, document, state.causality)
            if error is not None and (error.path, "retired") not in {(each.path, each.kind) for each in self._findings}:
                self._find(error.path, "retired", error.what)

    async def _records(self, governor_id: str) -> None:
        """Check that every record of retired stores can be read, those that no clock needs included."""
        found = {each.path for each in self._findings}
        async for document in self._core.engine.scan(Scan(self._core.layout.retired(governor_id))):
            error = problem_of_place(self._core, governor_id, document)
            if error is not None and document.path not in found:
                self._find(error.path, "retired", error.what)

    async def _notes(self, governor_id: str) -> None:
        """Check that every note of a cleanup is about a stream that is there."""
        async for note in self._core.engine.scan(Scan(self._core.layout.cleaned(governor_id))):
            if (problem := await problem_of_note(self._core, governor_id, note)) is not None:
                self._find(problem[0].path, "cleaned", problem[0].what)

    async def _timers(self, governor_id: str | None) -> None:
        """Check that every entry of the index of time-outs is of a machine that has a time-out then."""
        try:
            async with aclosing(strays(self._core, governor_id)) as problems:
                async for problem in problems:
                    self._find_timer(problem.error)
        except Inconsistent as error:
            self._find(error.path, "corrupt", error.what)

    def _find_timer(self, error: Inconsistent) -> None:
        if error.path not in {each.path for each in self._findings}:
            self._find(error.path, "corrupt" if isinstance(error, CorruptDocument) else "timer", error.what)

    async def _has_events(self, stream: Stream) -> bool:
        """Whether a stream has any event, so that its own check has found what is missing."""
        start, end = stream.range(1)
        return bool(await take(self._core.engine.scan(Scan(stream.events, start=start, end=end, limit=1)), 1))

    async def _snapshots(self, governor_id: str) -> None:
        """Check that every snapshot is one that its state lists."""
        async for stray in stray_snapshots(self._core, governor_id):
            may_come = self._is_partial and stray.is_needed and stray.state is None
            if not may_come:
                self._find(stray.snapshot.path, "snapshot", stray.problem)

    async def _governor(self, governor_id: str) -> None:
        """Check the governor's own document."""
        if (what := await governor_problem(self._core, governor_id)) is not None:
            self._find(self._core.layout.governor(governor_id), "governor", f"{what}: run `tai-state recover`")

    async def _marked(self, events: Sequence[tuple[Stream, EventRecord]]) -> None:
        """Check that these events, whose ids callers gave, have their markers, and note those that are not theirs."""
        for put in await without_marker(self._core, events):
            if put.require is not ABSENT:
                self._mendable.add(put.path)
                continue  # a damaged or wrong marker is a finding of the check of markers
            what = "is missing, so the call with this id would be applied again: run `tai-state recover`"
            self._find(put.path, "marker", what)

    async def _markers(self, governor_id: str) -> None:
        """Check that every id marker names the event that has its id and its content."""
        async for document in self._core.engine.scan(Scan(self._core.layout.ids(governor_id))):
            is_mendable = document.path in self._mendable or not is_marker(document)
            advice = "run `tai-state recover`" if is_mendable else "restore a backup"
            try:
                what, kind = await self._problem_of_marker(governor_id, document), "marker"
            except Inconsistent as error:
                what, kind = fault(error), "corrupt"
            if what is not None:
                self._find(document.path, kind, f"{what}: {advice}")

    async def _problem_of_marker(self, governor_id: str, document: Document) -> str | None:
        """What is wrong with a marker; None if nothing is.

        Raises:
            CorruptDocument: it is damaged.
        """
        if not is_marker(document):
            raise CorruptDocument(document.path, "is not the path of a marker")
        marker = document.decode(MARKER)
        try:
            stream = self._core.layout.stream(governor_id, marker.state_id)
        except InvalidId:
            raise CorruptDocument(document.path, "names a state id that is not valid") from None
        if document.path in self._mendable:
            return "does not name the event that has its id"
        state, event = await self._read([stream.state, stream.event(marker.version)])
        if state is None and self._is_partial:
            return None
        if event is None and state is None:
            # A stream without a state is a finding of its check; of one that is gone, the first marker stands for all.
            fits = stream.state in self._stateless or await self._has_events(stream)
            self._stateless.add(stream.state)
        elif event is None:
            # A damaged state and a missing event below the head are findings of their stream's check.
            intact = None if state is None else _intact(state)
            fits = intact is None or 1 <= marker.version <= intact.version
        else:
            try:
                record = event.decode(EVENT)
            except Inconsistent:
                return None  # a finding of its stream's check
            is_genuine = record.is_genuine(governor_id)
            said = record.event_id == unescape_id(document.id) and bool(states_said(marker.content, record))
            fits = said or not is_genuine
        return None if fits else "names an event that is missing, or that is not its own"

    async def _read(self, paths: Sequence[str]) -> tuple[Document | None, ...]:
        return (await self._core.engine.read(paths)).documents if paths else ()

    def _find(self, path: str, kind: str, message: str) -> None:
        if len(self._findings) < FINDINGS_MAX:
            self._findings.append(Finding(path, kind, message))


def _intact(document: Document) -> StateRecord | None:
    """The record of a state; None if it is damaged, which is a finding of its stream's check."""
    try:
        return document.decode(STATE)
    except Inconsistent:
        return None
