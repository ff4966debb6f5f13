"""One attempt at a transaction: what it read, and what it is to write."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any, TypeVar, cast, overload

import anyio

from tai_state.engines.api import ABSENT, At, Document
from tai_state.errors import InvalidData, StateNotFound, VersionConflict
from tai_state.history.folding import Reducers
from tai_state.history.recording import drafts_of
from tai_state.streams import writing
from tai_state.streams.changes import Append, Appended, Change, Fence, Guard, Known, append_of, separately
from tai_state.streams.core import Core
from tai_state.streams.layout import Stream
from tai_state.streams.records import EMPTY, STATE, head_of
from tai_state.streams.typed import TypedState
from tai_state.streams.writing import Intent
from tai_state.transactions.recent import CHARACTERS_MAX, RecentWrites, SeenState
from tai_state.transactions.records import StateVersion
from tai_state.transactions.steps import Step, Written, check_expected, logging_, overlaid, putting, recording
from tai_state.values.digests import NO_STATE_TEXT
from tai_state.values.events import NewEvent
from tai_state.values.expected import ANY, Expected
from tai_state.values.json import normalise_object
from tai_state.values.metadata import ChangeMetadata
from tai_state.values.states import DeletedState, JsonSnapshot, StateSnapshot

D = TypeVar("D")


class Transaction:
    """Reads and writes of states that take effect at one moment, or not at all.

    What it reads is one snapshot of all the states that it names: a state that has moved by the time of a later read
    ends the attempt. Its writes wait in recent, where its own reads see them, and are sent in one commit, which also
    checks every state that was only read, present or absent. So transactions are serializable for states read by id.
    What a query finds is not checked: states that appear afterwards are missed.

    Made by :class:`~tai_state.TransactionManager`; for one task, or for tasks that end before it does.

    With a recent, the first state that it reads may be one that this process wrote last: a second read looks at it as
    well, the commit checks it, and an attempt that ends without a commit, by its result or by an error, is confirmed.
    """

    def __init__(
        self,
        core: Core,
        metadata: ChangeMetadata | None,
        governor_id: str | None,
        reducers: Reducers,
        recent: RecentWrites | None = None,
        *,
        is_in_turn: bool = False,
    ) -> None:
        self.core: Core = core
        self.conflict: VersionConflict | None = None
        self._metadata = metadata
        self._governor_id = governor_id
        self._reducers = reducers
        self._recent = recent
        self._is_in_turn = is_in_turn
        self._reading = anyio.Lock(fast_acquire=True)
        self._recalled: str | None = None
        self._seen: dict[str, SeenState] = {}
        self._written: dict[str, Written] = {}
        self._ids: set[str] = set()
        self._is_open = True

    def __repr__(self) -> str:
        standing = "overtaken" if self.conflict else "open" if self._is_open else "ended"
        return f"<{type(self).__name__}, {standing}, {len(self._seen)} states read, {len(self._written)} to be written>"

    # What its function uses ------------------------------------------------------------------------------------

    @overload
    async def get(self, state: TypedState[D]) -> StateSnapshot[D]: ...
    @overload
    async def get(self, state: str) -> JsonSnapshot: ...
    async def get(self, state: TypedState[Any] | str) -> StateSnapshot[Any]:
        """A state as it is, or as this transaction is to write it (then at the version that it will have).

        Args:
            state: a handle, or the id of a state of the governor that the transaction was begun for.

        Raises:
            StateNotFound: there is none. That, too, is checked at the end: nobody may have written it meanwhile.
            VersionConflict: a state read before has moved. Let it pass: the attempt is over.
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
        """As :meth:`get`; None where there is no state."""
        return (await self.get_all(state))[0]

    async def get_all(self, *states: TypedState[Any] | str) -> list[StateSnapshot[Any] | None]:
        """Several states in one read; None where there is none."""
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
        """Write a state at the end, by one event. Several writes of one state are several events, in their order.

        A state that this transaction has read is written only at the version it had then. Any other is written
        whatever stands there, unless it is said what is expected.

        Args:
            state: a handle, or the id of a state of the governor that the transaction was begun for.
            value: the new data, a model or a JSON object as the handle has it.
            metadata: who and why; that of the transaction, of the handle or of the store, if not given.
            expected: what the writer believes the version to be, its earlier writes here included.
            action: what happens.
            payload: any JSON value, kept with the event and no part of the state.
            event_id: the caller's own, so that the same transaction again changes nothing.
            timestamp: when it happened; now, if not given.

        Raises:
            InvalidData: it cannot be stored, or there is no metadata.
            VersionConflict: an earlier write here does not leave what is expected.
            RuntimeError: the transaction has ended.
        """
        self._check_open()
        stream = self._stream(state)
        encoded = value if isinstance(state, str) else state.codec.to_json(cast("D", value))
        text, data = normalise_object(encoded, "state data")
        intent = Intent(self._who(state, metadata), action, event_id, timestamp, payload)
        draft = writing.draft(self.core, stream, intent, state=text)
        self._add(state, putting(draft, intent.metadata, data), expected)

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
        """Delete a state at the end, by one event; see :meth:`put`. That there is none to delete shows then."""
        stream = self._stream(state)
        intent = Intent(self._who(state, metadata), action, event_id, timestamp)
        draft = writing.draft(self.core, stream, intent, state=NO_STATE_TEXT)
        self._add(state, putting(draft, intent.metadata, None), expected)

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
        """Record at the end that something happened to a state and left it as it is; see :meth:`put`."""
        stream = self._stream(state)
        intent = Intent(self._who(state, metadata), action, event_id, timestamp, payload)
        draft = writing.draft(self.core, stream, intent)
        self._add(state, logging_(self.core, stream, draft, intent.metadata), expected)

    def record(
        self,
        state: TypedState[Any] | str,
        events: Sequence[NewEvent],
        metadata: ChangeMetadata | None = None,
        *,
        expected: Expected | None = None,
    ) -> None:
        """Record payload-carrying events at the end, folded into the state by the manager's reducers; see :meth:`put`.

        An event whose action has no reducer leaves the state as it is.
        """
        stream, who = self._stream(state), self._who(state, metadata)
        drafts = drafts_of(self.core, stream, events, who)
        self._add(state, recording(self.core, stream, drafts, who, self._reducers), expected)

    # What its manager uses -------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether it can still be used."""
        return self._is_open

    def end(self) -> None:
        """Nothing more can be read or written."""
        self._is_open = False

    @property
    def paths(self) -> set[str]:
        """The states that it has named."""
        return {*self._seen, *self._written}

    @property
    def reads(self) -> tuple[StateVersion, ...]:
        """The states that it has read."""
        return tuple([StateVersion(path, seen.version) for path, seen in self._seen.items()])

    async def commit(self, fence: Fence | None) -> tuple[StateVersion, ...]:
        """Write all of it at once, and say what was written.

        Raises:
            VersionConflict: something that it read has moved; nothing was written.
            Otherwise as ``HasCore.save_state``.
        """
        if self.conflict is not None:
            raise self.conflict
        if not self._written:
            await self.confirm()
            return ()
        if self._recalled is not None and any(each.expected is not None for each in self._written.values()):
            await self.confirm()
        appends = tuple([self._append(each) for each in self._written.values()])
        compose = separately(*[each.compose for each in self._written.values()])
        guards = (*self._guards(), *self.core.guards(fence))
        try:
            done = await self.core.appender.append(Change(appends, compose, guards, is_in_turn=self._is_in_turn))
        except VersionConflict as error:
            if self._is_of_a_read(error):
                self._fail(error)
            raise
        versions: list[StateVersion] = []
        for written, appended in zip(self._written.values(), done, strict=True):
            if appended is not None:
                self._note(written, appended)
                versions.append(StateVersion(written.stream.state, appended.state.version))
        return tuple(versions)

    async def confirm(self) -> None:
        """See that a state that was remembered, and not read, is still so.

        Raises:
            VersionConflict: it is not.
        """
        if self._recalled is not None and self.conflict is None:
            await self._look({})

    # Its inside ------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if not self._is_open:
            raise RuntimeError("the transaction has ended: read and write inside its function or block")

    def _stream(self, state: TypedState[Any] | str) -> Stream:
        if isinstance(state, str):
            if self._governor_id is None:
                raise InvalidData("a state's id alone names no state here: give a handle, store.state(governor, id)")
            return self.core.layout.stream(self._governor_id, state)
        if state.core is not self.core:
            raise InvalidData("the handle is of another store than the transaction")
        return state.stream

    async def _read(self, streams: dict[str, Stream]) -> None:
        """See these states. One that is the first and only one so far may be remembered: it is of one moment, too."""
        async with self._reading:
            new = {path: stream for path, stream in streams.items() if path not in self._seen}
            if not new:
                return
            if self._recent is not None and not self._seen and len(new) == 1:
                [path] = new
                seen = self._recent.recall(path)
                if seen is not None:
                    self._seen[path] = seen
                    self._recalled = path
                    return
            await self._look(new)

    async def _look(self, new: dict[str, Stream]) -> None:
        """Read these states, and see that those seen before have not moved meanwhile: all of one moment."""
        documents = (await self.core.engine.read([*new, *self._seen])).documents
        for (path, seen), document in zip(self._seen.items(), documents[len(new) :], strict=True):
            if seen.revision != (None if document is None else document.revision):
                raise self._fail(_moved(path, seen, document))
        self._recalled = None
        for (path, stream), document in zip(new.items(), documents, strict=False):
            self._seen[path] = self._as_seen(stream, document)

    def _fail(self, conflict: VersionConflict) -> VersionConflict:
        """This attempt is over."""
        self.conflict = conflict
        if self._recent is not None and self._recalled is not None:
            self._recent.doubt(self._recalled)
        return conflict

    def _is_of_a_read(self, conflict: VersionConflict) -> bool:
        """Whether a conflict is about what was read, and not about what the caller said to expect."""
        written = self._written.get(conflict.path)
        return conflict.path in self._seen or written is None or written.expected is None

    def _note(self, written: Written, done: Appended) -> None:
        """Remember what was written, for the transactions that begin on it."""
        text = done.events[-1].to_state
        if self._recent is not None and not done.is_repeated and text is not None and len(text) <= CHARACTERS_MAX:
            state = self.core.state(written.stream, done.state, done.recorded_us)
            self._recent.note(written.stream.state, done.state.digest, state)

    def _as_seen(self, stream: Stream, document: Document | None) -> SeenState:
        if document is None:
            return SeenState(Known(EMPTY), None)
        record = self.core.checked(stream, document)
        known = Known(head_of(record, document.revision), record.data)
        return SeenState(known, self.core.state(stream, record, document.updated_us))

    def _present(self, state: TypedState[Any] | str, stream: Stream) -> StateSnapshot[Any] | None:
        """A state as this transaction sees it: as it was read, with its own writes on top."""
        seen = self._seen[stream.state]
        present = seen.state
        written = self._written.get(stream.state)
        if written is not None:
            present = overlaid(seen, written)
        if present is None or isinstance(present, DeletedState):
            return None
        own = present.with_data(normalise_object(present.data, "state data")[1])
        return own if isinstance(state, str) else state.typed(own)

    def _who(self, state: TypedState[Any] | str, metadata: ChangeMetadata | None) -> ChangeMetadata:
        self._check_open()
        return self.core.who(metadata, self._metadata, None if isinstance(state, str) else state.metadata)

    def _add(self, state: TypedState[Any] | str, step: Step, expected: Expected | None) -> None:
        stream = self._stream(state)
        written = self._written.get(stream.state)
        if written is None:
            written = Written(stream, expected, self.core.settings.upcasting.schema)
        elif expected is not None:
            self._check_left(written, expected)
        ids = [stream.marker(draft.event_id) for draft in step.drafts if draft.marker is not None]
        if not self._ids.isdisjoint(ids):
            raise InvalidData("two events of one transaction have the same event id")
        self._ids.update(ids)
        written.steps.append(step)
        self._written[stream.state] = written

    def _check_left(self, written: Written, expected: Expected) -> None:
        """See that the writes so far leave a state as a further one expects it."""
        stream, seen = written.stream, self._seen.get(written.stream.state)
        if seen is None:
            raise InvalidData("what a second write of a state expects can be checked only once the state was read")
        after = written.compose(seen.known)
        check_expected(stream, expected, seen.version + len(written.drafts), deleted=after.data is None)

    def _append(self, written: Written) -> Append:
        stream, seen, first = written.stream, self._seen.get(written.stream.state), written.steps[0]
        expected = ANY if written.expected is None else written.expected
        if seen is not None:
            check_expected(stream, expected, seen.version, deleted=seen.is_deleted)
            expected = seen.version
        return append_of(
            stream,
            expected,
            written.drafts,
            needs_state=first.needs_state and seen is None,
            must_live=first.must_live,
            seen=None if seen is None else seen.known,
        )

    def _guards(self) -> list[Guard]:
        """What checks the states that were only read."""
        return [
            Guard(path, ABSENT if seen.revision is None else At(seen.revision), partial(_moved, path, seen))
            for path, seen in self._seen.items()
            if path not in self._written
        ]


def _moved(path: str, seen: SeenState, document: Document | None) -> VersionConflict:
    """What it means that a state that was read stands elsewhere now."""
    return VersionConflict(path, seen.version, 0 if document is None else document.decode(STATE).version)
