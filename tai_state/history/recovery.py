"""Recovery: states that agree with their streams, mended where they do not."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import NamedTuple, TypeAlias

import anyio
import msgspec

from tai_state.engines.api import ABSENT, PRESENT, At, Check, Document, Put
from tai_state.errors import (
    CommitRefused,
    EventSourcingError,
    Inconsistent,
    ReducerMissing,
    StateNotFound,
    TaiStateError,
)
from tai_state.history.replay import BEGINNING, Base, Replay
from tai_state.store.appending import state_after
from tai_state.store.layout import Stream
from tai_state.store.records import (
    SNAPSHOT,
    STATE,
    EventRecord,
    StateRecord,
    head_of,
    state_text,
)
from tai_state.store.store import StateStore
from tai_state.store.streams import Folded, Stored
from tai_state.values.digests import NO_STATE_TEXT, state_hash
from tai_state.values.ids import VERSION_MAX, escape_id, split_versioned, unescape_id, versioned
from tai_state.values.json import decode

_logger = logging.getLogger("tai_state.history")

LISTED_MAX = 1_000
"""Paths that a report lists of each kind; it counts them all."""

_ATTEMPTS_MAX = 16


class RecoveryReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a recovery found and did.

    Attributes:
        checked: states looked at.
        sound: that agreed with their streams.
        rebuilt: paths of those that did not, and now do.
        unchecked: paths of those that need a reducer that was not given.
        failed: path and reason of those that cannot be mended.
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
        """Whether every state now agrees with its stream."""
        return not self.unchecked and not self.failed


Progress: TypeAlias = Callable[[RecoveryReport], Awaitable[None]]


class Recovered(NamedTuple):
    """A state that agrees with its stream, the engine's time of it, and whether it had to be rebuilt."""

    record: StateRecord
    recorded_us: int
    is_rebuilt: bool


class Recovery:
    """Recovers states one by one, or all of a store.

    Args:
        store: whose states.
        replay: the fold with the application's reducers.
    """

    def __init__(self, store: StateStore, replay: Replay) -> None:
        self._store = store
        self._replay = replay

    async def recover(
        self,
        governor_id: str | None,
        concurrency: int,
        progress: Progress | None,
        resume: tuple[str, str] | None,
    ) -> RecoveryReport:
        """Recover all states of one governor, or of all."""
        report = RecoveryReport(resume=resume)
        pending: list[Stream] = []
        async for stream in self._streams(governor_id, resume):
            pending.append(stream)
            if len(pending) >= concurrency:
                report = await self._recover_some(pending, report)
                pending = []
                if progress is not None:
                    await progress(report)
        report = await self._recover_some(pending, report)
        return msgspec.structs.replace(report, resume=None)

    async def recover_one(self, stream: Stream) -> Recovered:
        """Make one state agree with its stream. Reads at most three documents more than follow a kept snapshot.

        Raises:
            StateNotFound: the state was never written.
            ReducerMissing: the stream needs a reducer that was not given.
            EventSourcingError, NotRetained, CorruptDocument: it cannot be mended.
        """
        for _ in range(_ATTEMPTS_MAX):
            [document] = (await self._store.engine.read([stream.state])).documents
            record = self._intact(document)
            found = await self._rebuild(stream, record)
            if found is None:
                if document is None:
                    raise StateNotFound(stream.state)
                raise EventSourcingError(stream.state, "has no events to be rebuilt from: restore an export")
            rebuilt, is_exact = found
            if document is not None and record is not None and _agree(record, rebuilt, is_exact=is_exact):
                return Recovered(record, document.updated_us, is_rebuilt=False)
            if record is not None and record.version > rebuilt.version and record.digest != rebuilt.digest:
                raise EventSourcingError(stream.event(record.version), "is missing though the state is at its version")
            try:
                committed = await self._store.engine.commit(
                    [
                        Put(
                            stream.state,
                            msgspec.to_builtins(rebuilt),
                            ABSENT if document is None else At(document.revision),
                        ),
                        Check(stream.event(rebuilt.version), PRESENT),
                        Check(stream.event(rebuilt.version + 1), ABSENT),
                    ]
                )
            except CommitRefused:
                continue  # somebody wrote meanwhile: look again
            self._store.appender.heads.put(stream.state, head_of(rebuilt, committed.revision))
            _logger.warning("a state was rebuilt from its events", extra={"path": stream.state})
            return Recovered(rebuilt, committed.time_us, is_rebuilt=True)
        raise EventSourcingError(stream.state, f"changed {_ATTEMPTS_MAX} times while it was looked at: run it again")

    def _intact(self, document: Document | None) -> StateRecord | None:
        """The record, if the document can be read at all."""
        if document is None:
            return None
        try:
            return document.decode(STATE)
        except Inconsistent:
            return None

    async def _rebuild(self, stream: Stream, record: StateRecord | None) -> tuple[StateRecord, bool] | None:
        """The state that the stream gives, and whether its snapshot bookkeeping is known as exactly.

        None where the stream has no events.
        """
        base, kept = await self._base(stream, record)
        folding = self._replay.folding()
        folded, as_of, kept_as_of, unkept_bytes = base.folded, base.as_of, base.as_of, 0
        last: Stored | None = None
        expected = max(base.version, 1)
        async for stored in self._store.streams.records(stream, expected):
            event = stored.record
            if event.version != expected:
                raise EventSourcingError(stream.event(expected), "is missing, and no snapshot stands for it")
            if not event.is_genuine(stream.governor_id):
                raise EventSourcingError(stream.event(expected), "was edited: its digest does not fit")
            if last is not None and event.previous != last.record.digest:
                raise EventSourcingError(stream.event(expected), "does not follow the event before it")
            if event.version > base.version:
                folded = folding.then(folded, stream, event)
                unkept_bytes += len(event.payload or "") + len(event.to_state or "")
            as_of = max(as_of, event.timestamp)
            kept_as_of = kept_as_of or event.timestamp
            last = stored
            expected += 1
        if last is None:
            return None
        if folded.text is None or state_hash(folded.text) != last.record.state_hash:
            raise EventSourcingError(stream.event(last.record.version), "does not lead to the state it recorded")
        is_exact = base.version == (kept[-1] if kept else 0)
        floor = await self._floor(stream, record, kept)
        rebuilt = msgspec.structs.replace(
            state_after(last.record),
            data=None if folded.text == NO_STATE_TEXT else decode(folded.text),
            deleted=folded.text == NO_STATE_TEXT,
            as_of=as_of,
            kept=tuple(version for version in kept if version < expected),
            kept_as_of=kept_as_of,
            unkept_bytes=unkept_bytes,
            floor=floor,
        )
        return rebuilt, is_exact

    async def _base(self, stream: Stream, record: StateRecord | None) -> tuple[Base, tuple[int, ...]]:
        """The newest sound snapshot whose event agrees, and the versions of which snapshots are kept."""
        kept = record.kept if record is not None else await self._kept(stream)
        for version in reversed(kept):
            snapshot = await self._store.sound_snapshot(stream, version)
            if snapshot is None:
                continue
            event = await self._store.streams.one(stream, version)
            if event is not None and event.record.digest == snapshot.digest:
                folded = Folded(snapshot.state, snapshot.schema, snapshot.state_hash)
                return Base(version, folded, snapshot.as_of), kept
        return BEGINNING, kept

    async def _kept(self, stream: Stream) -> tuple[int, ...]:
        """The versions of kept snapshots, where no state tells."""
        start, end = stream.range(1)
        versions: list[int] = []
        async for document in self._store.engine.scan(stream.snapshots, start=start, end=end):
            try:
                versions.append(document.decode(SNAPSHOT).version)
            except Inconsistent:
                _logger.warning("a kept snapshot is skipped: it is damaged", extra={"path": document.path})
        return tuple(versions)

    async def _floor(self, stream: Stream, record: StateRecord | None, kept: tuple[int, ...]) -> int:
        """The version below which events may be gone."""
        if record is not None:
            return record.floor
        [first] = (await self._store.engine.read([stream.event(1)])).documents
        return kept[0] if first is None and kept else 1

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
        rebuilt = [path for path, outcome in outcomes.items() if outcome is True]
        unchecked = [path for path, outcome in outcomes.items() if isinstance(outcome, ReducerMissing)]
        failed = [
            (path, outcome.what)
            for path, outcome in outcomes.items()
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
            governors = [each async for each in self._store.list_governors()]
        for governor in governors:
            if resume is not None and escape_id(governor) < escape_id(resume[0]):
                continue
            begin = resume[1] if resume is not None and governor == resume[0] else None
            async for stream in streams_with_events(self._store, governor, begin):
                yield stream
            async for stream in states_without_events(self._store, governor):
                yield stream


async def streams_with_events(
    store: StateStore, governor_id: str, after: str | None = None
) -> AsyncGenerator[Stream, None]:
    """The streams of a governor, one look each: whatever their length, their events are not read."""
    collection = store.layout.events(governor_id)
    start = "" if after is None else store.layout.stream(governor_id, after).range(VERSION_MAX)[1]
    while True:
        found = None
        async for document in store.engine.scan(collection, start=start, limit=1):
            found = document
        if found is None:
            return
        segment, _ = split_versioned(found.id)
        yield store.layout.stream(governor_id, unescape_id(segment))
        start = versioned(segment, VERSION_MAX) + "\x00"


async def states_without_events(store: StateStore, governor_id: str) -> AsyncGenerator[Stream, None]:
    """The states of a governor that have no event at all, so that their streams do not show them."""
    async for document in store.engine.scan(store.layout.states(governor_id)):
        stream = store.layout.stream(governor_id, unescape_id(document.id))
        version = max(1, document.fields().get("version", 1))
        if (await store.engine.read([stream.event(version)])).documents != (None,):
            continue
        start, end = stream.range(1)
        if not [each async for each in store.engine.scan(stream.events, start=start, end=end, limit=1)]:
            yield stream


def differences(record: StateRecord, event: EventRecord) -> list[str]:
    """The fields in which a state differs from what its version's event says."""
    expected = state_after(event)
    names = ("version", "timestamp", "metadata", "causality", "hlc", "state_hash", "digest", "schema")
    return [name for name in names if getattr(record, name) != getattr(expected, name)]


def _agree(record: StateRecord, rebuilt: StateRecord, *, is_exact: bool) -> bool:
    """Whether a state is what its stream gives."""
    if not is_exact:
        rebuilt = msgspec.structs.replace(rebuilt, kept_as_of=record.kept_as_of, unkept_bytes=record.unkept_bytes)
    return record == rebuilt and state_text(record) == state_text(rebuilt)
