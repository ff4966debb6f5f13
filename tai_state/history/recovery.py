"""Recovery: states that agree with their streams, mended where they do not."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import NamedTuple, TypeAlias

import anyio
import msgspec

from tai_state.engines.api import ABSENT, ANYTHING, PRESENT, At, Check, Committed, Delete, Document, Put, Scan, Write
from tai_state.engines.matters import Commit, Done, Look, Verdict, still_hold
from tai_state.engines.paging import take
from tai_state.engines.rewriting import Rewrite, write_unless_moved
from tai_state.engines.settling import settle
from tai_state.errors import (
    CorruptDocument,
    EventSourcingError,
    Inconsistent,
    ReducerMissing,
    StateNotFound,
    TaiStateError,
)
from tai_state.history.folding import first_fold
from tai_state.history.replay import Replay
from tai_state.history.survey import states_without_events, streams_with_events
from tai_state.streams.core import Core
from tai_state.streams.layout import Stream
from tai_state.streams.reading import list_governors
from tai_state.streams.records import (
    STATE,
    StateRecord,
    head_of,
    state_after,
    state_text,
)
from tai_state.streams.snapshots import Kept, sound_snapshot
from tai_state.values.digests import NO_STATE_TEXT, state_hash
from tai_state.values.ids import VERSION_MAX, escape_id
from tai_state.values.json import decode

_logger = logging.getLogger("tai_state.history")

LISTED_MAX = 1_000
"""Paths that a report lists of each kind."""

_ATTEMPTS_MAX = 16
_BESIDE_UNSOUND = 3
"""Writes of the commit that removes unsound snapshots: the state, and checks of its last event and of the next one."""


class RecoveryReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a recovery found and did. Of each kind of path it lists the first 1,000.

    Attributes:
        checked: states looked at.
        sound: that agreed with their streams.
        rebuilt: paths of those that did not, and now do.
        unchecked: paths of those that need a reducer that was not given.
        failed: path and reason of those that cannot be mended, and of documents that belong to no state.
        resume: pass it to go on after an interruption; None when all is done.
    """

    checked: int = 0
    sound: int = 0
    rebuilt: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    resume: tuple[str, str] | None = None

    @property
    def consistent(self) -> bool:
        """Whether every state now agrees with its stream, as far back as its newest sound snapshot.

        Older events are looked at by :meth:`StateMachinePersister.validate_consistency` alone.
        """
        return not self.unchecked and not self.failed


RecoveryProgress: TypeAlias = Callable[[RecoveryReport], Awaitable[None]]


class Recovered(NamedTuple):
    """A state that agrees with its stream, the engine's time of it, and whether it had to be rebuilt."""

    record: StateRecord
    recorded_us: int
    is_rebuilt: bool


class _Rebuilt(NamedTuple):
    """A state as its stream gives it.

    Attributes:
        record: the state.
        unsound: the versions of the snapshots that are kept and cannot be relied on.
        is_followed: the stream goes on after it.
    """

    record: StateRecord
    unsound: tuple[int, ...]
    is_followed: bool


class Recovery:
    """Recovers states one by one, or all of a store.

    Args:
        core: whose states.
        replay: the fold with the application's reducers.
    """

    def __init__(self, core: Core, replay: Replay) -> None:
        self._core = core
        self._replay = replay
        self._strange: list[CorruptDocument] = []

    async def recover(
        self,
        governor_id: str | None,
        concurrency: int,
        progress: RecoveryProgress | None,
        resume: tuple[str, str] | None,
    ) -> RecoveryReport:
        """Recover all states of one governor, or of all."""
        report = RecoveryReport(resume=resume)
        pending: list[Stream] = []
        async with aclosing(self._streams(governor_id, resume)) as streams:
            async for stream in streams:
                pending.append(stream)
                if len(pending) >= concurrency:
                    report = await self._recover_some(pending, report)
                    pending = []
                    if progress is not None:
                        await progress(report)
        report = await self._recover_some(pending, report)
        strange = [(error.path, error.what) for error in self._strange]
        return msgspec.structs.replace(report, failed=(*report.failed, *strange)[:LISTED_MAX], resume=None)

    async def recover_one(self, stream: Stream) -> Recovered:
        """Make one state agree with its stream.

        That reads the state, the newest kept snapshot, the snapshot's event and the events after it. Where the
        state's document is gone, or wrong about which snapshots are kept, it also reads those and the first event.

        Raises:
            StateNotFound: the state was never written.
            ReducerMissing: the stream needs a reducer that was not given.
            EventSourcingError, NotRetained, CorruptDocument: it cannot be mended.
        """
        for _ in range(_ATTEMPTS_MAX):
            [document] = (await self._core.engine.read([stream.state])).documents
            record = _intact(document)
            rebuilt = None if record is None else await self._by_its_own_list(stream, record)
            if (
                document is not None
                and record is not None
                and rebuilt is not None
                and _agree(record, rebuilt.record)
                and (not rebuilt.is_followed or await self._has_moved(stream, document))
            ):
                return Recovered(record, document.updated_us, is_rebuilt=False)
            if rebuilt is None or rebuilt.is_followed:
                rebuilt = await self._rebuild(stream, await self._kept(stream), await self._floor(stream))
            recovered = await self._mend(stream, document, record, rebuilt)
            if recovered is not None:
                return recovered
        raise EventSourcingError(stream.state, f"changed {_ATTEMPTS_MAX} times while it was looked at: run it again")

    async def _has_moved(self, stream: Stream, document: Document) -> bool:
        """Whether a state was written since it was read: what follows it in its stream came after it."""
        [now] = (await self._core.engine.read([stream.state])).documents
        return now is not None and now.revision != document.revision

    async def _by_its_own_list(self, stream: Stream, record: StateRecord) -> _Rebuilt | None:
        """The state at its version, by the snapshots that its document lists; None where that list proves wrong."""
        try:
            rebuilt = await self._rebuild(stream, record.kept, record.floor, record.version)
        except ReducerMissing:
            raise
        except Inconsistent:
            return None
        names = ("kept", "kept_as_of", "unkept_bytes")
        if rebuilt is None or any(getattr(rebuilt.record, name) != getattr(record, name) for name in names):
            return None
        return rebuilt

    async def _mend(
        self, stream: Stream, document: Document | None, record: StateRecord | None, rebuilt: _Rebuilt | None
    ) -> Recovered | None:
        """Store a rebuilt state; None where somebody wrote meanwhile."""
        if rebuilt is None:
            if document is None:
                raise StateNotFound(stream.state)
            raise EventSourcingError(stream.state, "has no events to be rebuilt from: restore an export")
        after = rebuilt.record
        if record is not None and record.version > after.version and record.digest != after.digest:
            raise EventSourcingError(stream.event(record.version), "is missing though the state is at its version")
        as_seen = ABSENT if document is None else At(document.revision)
        unsound = await self._few(stream, Check(stream.state, as_seen), rebuilt.unsound)
        if unsound is None:
            return None
        writes: list[Write] = [
            Put(stream.state, after, as_seen),
            Check(stream.event(after.version), PRESENT),
            Check(stream.event(after.version + 1), ABSENT),
            *(Delete(stream.snapshot(version), ANYTHING) for version in unsound),
        ]
        commit = Commit[Committed | None](writes, _as_is)

        def decide(look: Look) -> Verdict[Committed | None]:
            return commit if still_hold(writes, look) else Done(None)

        paths = [write.path for write in writes]
        committed = await settle(self._core.engine, Rewrite(paths, decide), self._core.bounds, commit)
        if committed is None:
            return None
        self._core.appender.heads.put(stream.state, head_of(after, committed.revision))
        _logger.warning("a state was rebuilt from its events", extra={"path": stream.state})
        return Recovered(after, committed.time_us, is_rebuilt=True)

    async def _few(self, stream: Stream, as_seen: Check, unsound: Sequence[int]) -> Sequence[int] | None:
        """Remove unsound snapshots until one commit takes the rest; None where somebody wrote meanwhile."""
        engine = self._core.engine
        fit = engine.capabilities.max_ops_per_commit - _BESIDE_UNSOUND
        while len(unsound) > fit:
            deletes = [Delete(stream.snapshot(version), ANYTHING) for version in unsound[:fit]]
            if not await write_unless_moved(engine, [as_seen, *deletes], self._core.bounds):
                return None
            unsound = unsound[fit:]
        return unsound

    async def _rebuild(
        self, stream: Stream, kept: Sequence[int], floor: int, until: int = VERSION_MAX
    ) -> _Rebuilt | None:
        """The state that the stream gives; None where the stream has no events.

        Args:
            stream: which.
            kept: the versions of which snapshots are kept.
            floor: the version below which events may be gone.
            until: the last version.
        """
        base, sound = await self._base(stream, kept)
        folding = self._replay.folding()
        folded, last = first_fold(), None
        as_of = kept_as_of = ""
        unkept_bytes = 0
        is_followed = False
        if base is not None:
            folded, last = base.folded, base.stored
            as_of = kept_as_of = base.record.as_of
        async for stored in self._core.reader.records(stream, base.record.version + 1 if base else 1):
            event = stored.record
            if last is not None and event.version > until:
                is_followed = True
                break
            folded = folding.follow(folded, last.record if last else None, stream, event)
            as_of = max(as_of, event.timestamp)
            kept_as_of = kept_as_of or event.timestamp
            unkept_bytes += event.unkept_bytes
            last = stored
        if last is None:
            return None
        if not last.record.is_genuine(stream.governor_id):
            raise EventSourcingError(stream.event(last.record.version), "was edited: its digest does not fit")
        if folded.text is None or state_hash(folded.text) != last.record.state_hash:
            raise EventSourcingError(stream.event(last.record.version), "does not lead to the state it recorded")
        record = msgspec.structs.replace(
            state_after(last.record),
            data=None if folded.text == NO_STATE_TEXT else decode(folded.text),
            deleted=folded.text == NO_STATE_TEXT,
            as_of=as_of,
            kept=sound,
            kept_as_of=kept_as_of,
            unkept_bytes=unkept_bytes,
            floor=floor,
        )
        return _Rebuilt(record, tuple(version for version in kept if version not in sound), is_followed)

    async def _base(self, stream: Stream, kept: Sequence[int]) -> tuple[Kept | None, tuple[int, ...]]:
        """The newest sound snapshot, and its version with those of all older ones."""
        for index in reversed(range(len(kept))):
            found = await sound_snapshot(self._core, stream, kept[index], as_stored=True)
            if found is not None:
                return found, tuple(kept[: index + 1])
        return None, ()

    async def _kept(self, stream: Stream) -> list[int]:
        """The versions of the snapshots that are there."""
        start, end = stream.range(1)
        documents = self._core.engine.scan(Scan(stream.snapshots, start=start, end=end))
        return [
            place.version async for each in documents if (place := self._core.layout.placed(stream.governor_id, each))
        ]

    async def _floor(self, stream: Stream) -> int:
        """The version of the first event that is there."""
        start, end = stream.range(1)
        first = await take(self._core.engine.scan(Scan(stream.events, start=start, end=end, limit=1)), 1)
        place = self._core.layout.placed(stream.governor_id, first[0]) if first else None
        return place.version if place else 1

    async def _recover_some(self, streams: list[Stream], report: RecoveryReport) -> RecoveryReport:
        outcomes: dict[str, bool | TaiStateError] = {}

        async def one(stream: Stream) -> None:
            try:
                outcomes[stream.state] = (await self.recover_one(stream)).is_rebuilt
            except TaiStateError as error:
                outcomes[stream.state] = error

        async with anyio.create_task_group() as tasks:
            for stream in streams:
                tasks.start_soon(one, stream)
        for outcome in outcomes.values():
            if isinstance(outcome, TaiStateError) and not isinstance(outcome, Inconsistent):
                raise outcome
        in_order = [(stream.state, outcomes[stream.state]) for stream in streams]
        rebuilt = [path for path, outcome in in_order if outcome is True]
        unchecked = [path for path, outcome in in_order if isinstance(outcome, ReducerMissing)]
        failed = [
            (path, outcome.what)
            for path, outcome in in_order
            if isinstance(outcome, Inconsistent) and not isinstance(outcome, ReducerMissing)
        ]
        return RecoveryReport(
            checked=report.checked + len(streams),
            sound=report.sound + sum(outcome is False for outcome in outcomes.values()),
            rebuilt=(*report.rebuilt, *rebuilt)[:LISTED_MAX],
            unchecked=(*report.unchecked, *unchecked)[:LISTED_MAX],
            failed=(*report.failed, *failed)[:LISTED_MAX],
            resume=(streams[-1].governor_id, streams[-1].state_id) if streams else report.resume,
        )

    async def _streams(self, governor_id: str | None, resume: tuple[str, str] | None) -> AsyncGenerator[Stream, None]:
        """Every stream that has events, and every state, each once."""
        if governor_id is not None:
            governors = [governor_id]
        else:
            governors = [each async for each in list_governors(self._core)]
        for governor in governors:
            if resume is not None and escape_id(governor) < escape_id(resume[0]):
                continue
            begin = resume[1] if resume is not None and governor == resume[0] else None
            for find in (partial(streams_with_events, after=begin), states_without_events):
                async with aclosing(find(self._core, governor, strange=self._strange)) as streams:
                    async for stream in streams:
                        yield stream


def _agree(record: StateRecord, rebuilt: StateRecord) -> bool:
    """Whether a state is what its stream gives: the same values, and the same text (1 and 1.0 are equal)."""
    return record == rebuilt and state_text(record) == state_text(rebuilt)


def _intact(document: Document | None) -> StateRecord | None:
    """The record, if the document can be read at all."""
    try:
        return None if document is None else document.decode(STATE)
    except Inconsistent:
        return None


def _as_is(committed: Committed) -> Committed:
    return committed
