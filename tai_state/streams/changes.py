"""A change: what is asked for, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import msgspec

from tai_state.engines.api import Check, Document, Require, Write, holds
from tai_state.errors import TaiStateError
from tai_state.streams.layout import Stream
from tai_state.streams.planning import Composition, Draft
from tai_state.streams.records import EventRecord, Head, StateRecord
from tai_state.values.expected import NO_STATE, Expectation, Expected, expectation, matches


class Known(msgspec.Struct, frozen=True):
    """What is known of a stream: its head and, where it was read, the state's data."""

    head: Head
    data: dict[str, Any] | None = None


class Composed(msgspec.Struct, frozen=True):
    """What is to happen.

    Attributes:
        compositions: for each append, in order; None: nothing. Its state is then checked, since the others rest on it.
        writes: of other documents, each with its requirement.
    """

    compositions: tuple[Composition | None, ...]
    writes: tuple[Write, ...] = ()


Compose: TypeAlias = Callable[[Sequence[Known], Mapping[str, Document | None]], Composed]
"""Says what is to happen, given what is known of each stream and the other documents read. Pure: it may run again."""

ComposeOne: TypeAlias = Callable[[Known], Composition | None]
"""The same for one stream alone."""


def always(*compositions: Composition) -> Compose:
    """What is to happen, whatever stands."""
    composed = Composed(compositions)

    def compose(_known: Sequence[Known], _documents: Mapping[str, Document | None]) -> Composed:
        return composed

    return compose


def separately(*composes: ComposeOne) -> Compose:
    """For each append its own composition, which depends on its own stream alone."""

    def compose(known: Sequence[Known], _documents: Mapping[str, Document | None]) -> Composed:
        return Composed(tuple([one(each) for one, each in zip(composes, known, strict=True)]))

    return compose


class Guard(msgspec.Struct, frozen=True):
    """A document that a commit checks and leaves as it is.

    Where the requirement does not hold once, it must never hold again: the refusal is final.

    Attributes:
        path: the document's.
        require: what must hold of it.
        broken: the error where it does not, given the document that stands there.
    """

    path: str
    require: Require
    broken: Callable[[Document | None], TaiStateError]

    @property
    def check(self) -> Check:
        """The write that makes the commit fail where the requirement does not hold."""
        return Check(self.path, self.require)

    def holds(self, document: Document | None) -> bool:
        """Whether the requirement holds of what stands there."""
        return holds(self.require, None if document is None else document.revision)


class Fence(Protocol):
    """What lets a change happen only as long as a lock is held. A lease is one.

    It protects what is written through the store. What the holder does to the world outside, it does not: hand on the
    fencing number there, and refuse smaller ones.
    """

    @property
    def store_id(self) -> str:
        """The identity of the store that gave it."""
        ...

    def guard(self) -> Guard:
        """The check of the lock's document, at the revision of this tenure."""
        ...


class Append(msgspec.Struct, frozen=True, kw_only=True):
    """A change's part on one stream.

    Attributes:
        stream: which.
        expected: the version the caller believes in.
        drafts: the events to be; their ids and markers are fixed before the first send, whatever compose makes of them.
        needs_state: compose looks at the data, so that a remembered head is not enough.
        must_live: the state must be there and not deleted, whatever else is expected.
        seen: what the caller has read of the stream; it saves another read.
    """

    stream: Stream
    expected: int | Expectation
    drafts: tuple[Draft, ...]
    needs_state: bool = False
    must_live: bool = False
    seen: Known | None = None

    @property
    def event_ids(self) -> tuple[str, ...]:
        """The ids of its events."""
        return tuple(draft.event_id for draft in self.drafts)

    @property
    def has_version(self) -> bool:
        """Whether it names the version that it changes, so that of several at once only one can succeed."""
        return isinstance(self.expected, int) or self.expected is NO_STATE

    def fits(self, head: Head) -> bool:
        """Whether the state is as the change expects it."""
        return matches(self.expected, head.version, deleted=head.deleted) and not (
            self.must_live and (head.version == 0 or head.deleted)
        )


def append_of(
    stream: Stream,
    expected: Expected,
    drafts: tuple[Draft, ...],
    *,
    needs_state: bool = False,
    must_live: bool = False,
    seen: Known | None = None,
) -> Append:
    """The append of these drafts.

    Raises:
        InvalidData: what is expected is no expectation for this state.
    """
    return Append(
        stream=stream,
        expected=expectation(expected, stream.governor_id, stream.state_id),
        drafts=drafts,
        needs_state=needs_state,
        must_live=must_live,
        seen=seen,
    )


class Change(msgspec.Struct, frozen=True):
    """One change: over several streams and other documents, all or nothing.

    Attributes:
        appends: its part on each stream; no two name the same.
        compose: what is to happen, jointly.
        guards: what must hold besides.
        documents: paths of other documents that compose looks at.
        is_in_turn: the caller holds the turns of the states already.
    """

    appends: tuple[Append, ...]
    compose: Compose
    guards: tuple[Guard, ...] = ()
    documents: tuple[str, ...] = ()
    is_in_turn: bool = False


class Appended(msgspec.Struct, frozen=True):
    """What a change recorded on one stream.

    Attributes:
        events: the records, oldest first.
        state: the state's record after them.
        data_before: the state's data before, where it was read; None also where there was none.
        recorded_us: the engine's time.
        is_repeated: an earlier call with the same ids recorded it.
    """

    events: tuple[EventRecord, ...]
    state: StateRecord
    data_before: dict[str, Any] | None
    recorded_us: int
    is_repeated: bool = False
