"""One attempt at a transaction: what it has read, and what it will write."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar, cast, overload

import anyio

from tai_state.errors import InvalidData, StateNotFound, TransitionRefused, VersionConflict
from tai_state.history.folding import Reducers
from tai_state.history.recording import drafts_of
from tai_state.machines.contexts import C
from tai_state.machines.persistent import PersistentMachine
from tai_state.machines.states import S
from tai_state.streams import writing
from tai_state.streams.changes import Append, Change, Fence, append_of, separately
from tai_state.streams.core import Core
from tai_state.streams.layout import Stream
from tai_state.streams.repeating import Results
from tai_state.streams.turns import Held
from tai_state.streams.typed import TypedState
from tai_state.streams.writing import Intent
from tai_state.transactions.machines import MachineInTransaction
from tai_state.transactions.recent import RecentWrites, SeenState, met, seen_in
from tai_state.transactions.records import StateVersion
from tai_state.transactions.steps import Step, Written, delete_step, log_step, overlaid, put_step, record_step
from tai_state.transactions.writes import Writes
from tai_state.values.digests import NO_STATE_TEXT
from tai_state.values.events import NewEvent
from tai_state.values.expected import ANY, NO_STATE, Expected
from tai_state.values.json import normalise_object
from tai_state.values.metadata import ChangeMetadata
from tai_state.values.states import DeletedState, JsonSnapshot, StateSnapshot

D = TypeVar("D")


class Transaction:
    """Reads and writes of states that take effect at one moment, or not at all.

    All its reads are one snapshot: if a state that it has read has changed by a later read, the attempt ends. Its
    writes wait in memory, where its own reads see them. One commit sends them all, and also checks every state that
    was only read, whether it existed or not. So transactions are serializable for states read by id. The results of
    queries are not checked: a state that appears afterwards goes unnoticed.

    Made by :class:`~tai_state.TransactionManager`; use it in one task, or in tasks that end before it does.

    With ``recent``, the first state that it reads may come from this process's memory. Then the next read also checks
    that state, and so does the commit. An attempt that ends without a commit, by a result or an error, checks it too.
    """

    def __init__(
        self,
        core: Core,
        metadata: ChangeMetadata | None,
        governor_id: str | None,
        reducers: Reducers,
        turn: Held,
        recent: RecentWrites | None = None,
    ) -> None:
        self.core: Core = core
        self.conflict: VersionConflict | None = None
        self._metadata = metadata
        self._governor_id = governor_id
        self._reducers = reducers
        self._recent = recent
        self.turn: Held = turn
        self._reading = anyio.Lock(fast_acquire=True)
        self._recalled: str | None = None
        self._seen: dict[str, SeenState] = {}
        self._writes = Writes(core)
        self._is_open = True

    def __repr__(self) -> str:
        standing = "overtaken" if self.conflict else "open" if self._is_open else "ended"
        return f"<{type(self).__name__}, {standing}, {len(self._seen)} states read, {len(self._writes)} to be written>"

    # For its function ------------------------------------------------------------------------------------------

    @overload
    async def get(self, state: TypedState[D]) -> StateSnapshot[D]: ...
    @overload
    async def get(self, state: str) -> JsonSnapshot: ...
    async def get(self, state: TypedState[Any] | str) -> StateSnapshot[Any]:
        """A state as stored, or as this transaction will write it (then at its future version).

        Args:
            state: a handle, or the id of a state of the transaction's governor.

        Raises:
            StateNotFound: there is no such state. The commit checks that too: it fails if the state was written since.
            VersionConflict: a state read before has changed. Do not catch this: the attempt is over.
            RuntimeError: the transaction has ended.
        """
        found = await self.find(state)
        if found is None:
            raise StateNotFound(self._stream(state).state)
        return found

    @overload
    async def find(self, state: TypedState[D]) -> StateSnapshot[D] | None: ...
    @overload
    async def find(self, state: str) -> JsonSnapshot | None: ...
    async def find(self, state: TypedState[Any] | str) -> StateSnapshot[Any] | None:
        """As :meth:`get`, but None if there is no such state."""
        return (await self.get_all(state))[0]

    @overload
    async def get_all(self, *states: TypedState[D]) -> list[StateSnapshot[D] | None]: ...
    @overload
    async def get_all(self, *states: str) -> list[JsonSnapshot | None]: ...
    @overload
    async def get_all(self, *states: TypedState[Any] | str) -> list[StateSnapshot[Any] | None]: ...
    async def get_all(self, *states: TypedState[Any] | str) -> list[StateSnapshot[Any] | None]:
        """Several states in one read; None for each that does not exist."""
        self._check_open()
        streams = [self._stream(state) for state in states]
        await self._read({stream.state: stream for stream in streams})
        return [self._present(state, stream) for state, stream in zip(states, streams, strict=True)]

    def put(
        self,
        state: TypedState[D] | str,
        value: D | dict[str, Any],
        metadata: ChangeMetadata | None = None,
        *,
        expected: Expected | None = None,
        action: str = "update",
        payload: Any = None,
        event_id: str | None = None,
        timestamp: datetime | None = None,
    ) -> None:
        """Write a state at the end, by one event. Several writes of one state become several events, in order.

        A state that this transaction has read is written only if it is still at the version that was read. Any other
        state is written at whatever version it has, unless ``expected`` is given. A write through a model keeps the
        fields of the state that the model does not know.

        Args:
            state: a handle, or the id of a state of the transaction's governor.
            value: the new data: a model if the handle has one, otherwise a JSON object.
            metadata: who and why; by default that of the transaction, the handle or the store.
            expected: what the writer believes the version to be, its earlier writes here included.
            action: what happens.
            payload: any JSON value, kept with the event and not part of the state.
            event_id: the caller's own id, so that running the same transaction again changes nothing.
            timestamp: when it happened; by default now.

        Raises:
            InvalidData: the data cannot be stored, or there is no metadata.
            VersionConflict: after earlier writes here, the state is not at the expected version.
            RuntimeError: the transaction has ended.
        """
        self._check_open()
        stream = self._stream(state)
        encoded = value if isinstance(state, str) else state.codec.to_json(cast("D", value))
        text, data = normalise_object(encoded, "state data")
        intent = Intent(self.who(state, metadata), action, event_id, timestamp, payload)
        draft = writing.draft(self.core, stream, intent, state=text)
        keep = None if isinstance(state, str) or state.codec.is_plain else state.codec.keep_unknown
        self.add(state, put_step(self.core, stream, draft, intent.metadata, data, keep), expected)

    def machine(self, machine: PersistentMachine[S, C]) -> MachineInTransaction[S, C]:
        """A machine in this transaction: its steps are judged and written with all else, or nothing is."""
        return MachineInTransaction(self, machine)

    def delete(
        self,
        state: TypedState[Any] | str,
        metadata: ChangeMetadata | None = None,
        *,
        expected: Expected | None = None,
        action: str = "delete",
        event_id: str | None = None,
        timestamp: datetime | None = None,
    ) -> None:
        """Delete a state at the end, by one event; see :meth:`put`. A missing state is reported only at the end."""
        stream = self._stream(state)
        intent = Intent(self.who(state, metadata), action, event_id, timestamp)
        draft = writing.draft(self.core, stream, intent, state=NO_STATE_TEXT)
        self.add(state, delete_step(draft, intent.metadata), expected)

    def log(
        self,
        state: TypedState[Any] | str,
        action: str,
        metadata: ChangeMetadata | None = None,
        *,
        payload: Any = None,
        expected: Expected | None = None,
        event_id: str | None = None,
        timestamp: datetime | None = None,
    ) -> None:
        """Record, at the end, an event that leaves a state as it is; see :meth:`put`."""
        stream = self._stream(state)
        intent = Intent(self.who(state, metadata), action, event_id, timestamp, payload)
        draft = writing.draft(self.core, stream, intent)
        self.add(state, log_step(self.core, stream, draft, intent.metadata), expected)

    def record(
        self,
        state: TypedState[Any] | str,
        events: Sequence[NewEvent],
        metadata: ChangeMetadata | None = None,
        *,
        expected: Expected | None = None,
    ) -> None:
        """Record payload-carrying events at the end; the manager's reducers fold them into the state. See :meth:`put`.

        An event whose action has no reducer leaves the state as it is.
        """
        stream, who = self._stream(state), self.who(state, metadata)
        drafts = drafts_of(self.core, stream, events, who)
        self.add(state, record_step(self.core, stream, drafts, who, self._reducers), expected)

    # For its manager -------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether the transaction can still be used."""
        return self._is_open

    def is_overtaken_by(self, error: BaseException) -> bool:
        """Whether an error is this transaction's conflict, or the group of a task group in which it was raised."""

        def is_conflict(each: BaseException) -> bool:
            return each is self.conflict

        if isinstance(error, BaseExceptionGroup):
            return error.subgroup(is_conflict) is not None  # pyright: ignore[reportUnknownMemberType]
        return is_conflict(error)

    def end(self) -> None:
        """Allow no more reads and writes."""
        self._is_open = False

    def leave(self) -> None:
        """End, and give back the turn."""
        self._is_open = False
        self.turn.give()

    @property
    def paths(self) -> set[str]:
        """The paths of the states that it has read or will write."""
        return {*self._seen, *self._writes.paths}

    @property
    def reads(self) -> tuple[StateVersion, ...]:
        """The states that it has read, at the versions it read."""
        return tuple([StateVersion(path, seen.version) for path, seen in self._seen.items()])

    async def commit(self, fence: Fence | None) -> tuple[StateVersion, ...]:
        """Commit all writes at once; the written states at their new versions.

        Raises:
            VersionConflict: a state that it read has changed; nothing was written.
            Otherwise as ``HasCore.save_state``.
        """
        if self.conflict is not None:
            raise self.conflict
        if not self._writes:
            await self.confirm()
            return ()
        if self._recalled is not None and any(each.expected is not None for each in self._writes):
            await self.confirm()
        appends = tuple([self._part(each) for each in self._writes])
        compose = separately(*[each.compose_as_expected for each in self._writes])
        checks = [seen.guard(path) for path, seen in self._seen.items() if path not in self._writes]
        guards = (*checks, *self.core.guards(fence))
        done = await self._append(Change(appends, compose, guards, is_in_turn=self.turn.is_asked))
        written = self._writes.committed(done)
        if self._recent is not None:
            for each, appended in written:
                self._recent.note(self.core, each.stream, appended)
        return tuple([StateVersion(each.stream.state, appended.state.version) for each, appended in written])

    async def run_afterwards(self) -> None:
        """Run what its steps want to run once they are committed; only when it holds no turn and is over."""
        await self._writes.run_afterwards()

    async def confirm(self) -> None:
        """Check that a state taken from memory is still as stored.

        Raises:
            VersionConflict: the state has changed.
        """
        if self._recalled is not None and self.conflict is None:
            await self._look({})

    # Internal --------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if not self._is_open:
            raise RuntimeError("the transaction has ended: read and write inside its function or block")

    def _stream(self, state: TypedState[Any] | str) -> Stream:
        if isinstance(state, str):
            if self._governor_id is None:
                raise InvalidData("an id alone does not name a state here: pass a handle, store.state(governor, id)")
            return self.core.layout.stream(self._governor_id, state)
        if not isinstance(state, TypedState):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
            raise InvalidData(f"a state must be a handle or an id, not {type(state).__name__}")
        if state.core is not self.core:
            raise InvalidData("the handle belongs to a different store")
        return state.stream

    async def _read(self, streams: dict[str, Stream]) -> None:
        """See these states. A single first state may come from memory: alone, it is a snapshot of one moment too."""
        async with self._reading:
            new = {path: stream for path, stream in streams.items() if path not in self._seen}
            if not new:
                return
            if not (self._seen or self.turn.is_asked) and self.core.turns.are_taken(new):
                # Whoever has the turn runs again. Only who holds no other turn may wait, or two wait for each other.
                await self.turn.take(new)
                self._check_open()
            if self._recent is not None and not self._seen and len(new) == 1:
                seen = self._recent.recall(path := next(iter(new)))
                if seen is not None:
                    self._seen[path] = seen
                    self._recalled = path
                    return
            await self._look(new)

    async def _look(self, new: dict[str, Stream]) -> None:
        """Read new states and check, at the same moment, that the states seen before have not changed."""
        documents = (await self.core.engine.read([*new, *self._seen])).documents
        for (path, seen), document in zip(self._seen.items(), documents[len(new) :], strict=True):
            if seen.revision != (None if document is None else document.revision):
                raise self._fail(met(self.core, seen.moved_error(path, document)))
        self._recalled = None
        for (path, stream), document in zip(new.items(), documents, strict=False):
            self._seen[path] = seen_in(self.core, stream, document)

    def _fail(self, conflict: VersionConflict) -> VersionConflict:
        """End this attempt; the conflict, to raise."""
        self.conflict = conflict
        if self._recent is not None and self._recalled is not None:
            self._recent.doubt(self._recalled)
        return conflict

    def _is_of_a_read(self, error: VersionConflict | StateNotFound) -> bool:
        """Whether an error is about a state that has moved since it was read, and not the transaction's own."""
        if any(each.refusal is error for each in self._writes):
            return False
        written = self._writes.get(error.path)
        return written is None or written.expected is None or (error.path in self._seen and not written.is_wrong)

    def _present(self, state: TypedState[Any] | str, stream: Stream) -> StateSnapshot[Any] | None:
        """A state as this transaction sees it: as read, with the transaction's own writes applied."""
        seen, written = self._seen[stream.state], self._writes.get(stream.state)
        present = seen.state if written is None else overlaid(seen, written)
        if present is None or isinstance(present, DeletedState):
            return None
        own = present.with_data(normalise_object(present.data, "state data")[1])
        return own if isinstance(state, str) else state.typed(own)

    def who(self, state: TypedState[Any] | str, metadata: ChangeMetadata | None) -> ChangeMetadata:
        """Who makes a write and why, for the library's own use; not part of the public interface."""
        self._check_open()
        return self.core.who(metadata, self._metadata, None if isinstance(state, str) else state.metadata)

    def add(self, state: TypedState[Any] | str, step: Step, expected: Expected | None = None) -> None:
        """Add a write, for the library's own use; not part of the public interface."""
        self._check_open()
        stream = self._stream(state)
        self._writes.add(stream, step, expected, self._seen.get(stream.state))

    async def _append(self, change: Change) -> Results:
        try:
            return await self.core.appender.append(change)
        except VersionConflict as error:
            if self._is_of_a_read(error):
                self._fail(error)
            raise
        except TransitionRefused:
            await self.confirm()  # a refusal that rests on memory alone would be a guess
            raise
        except StateNotFound as error:
            seen = self._seen.get(error.path)
            if seen is None or seen.revision is None or seen.is_deleted or not self._is_of_a_read(error):
                raise
            raise self._fail(seen.moved_error(error.path, None)) from error  # it was read, and was removed since

    def _part(self, written: Written) -> Append:
        seen, first, said = self._seen.get(written.stream.state), written.steps[0], written.expected
        expected, known = ANY if said is None else said, None
        if seen is not None:
            unmet = None if said is None else written.unmet_by(said, seen.version, deleted=seen.is_deleted)
            if unmet is None:
                expected, known = seen.version, seen.known
            else:  # the commit is refused, with the events that the caller had not seen
                written.unmet, written.is_wrong = unmet, True
        needs_state = first.needs_state and seen is None and expected not in (NO_STATE, 0)
        return append_of(
            written.stream, expected, written.drafts, needs_state=needs_state, must_live=first.must_live, seen=known
        )
