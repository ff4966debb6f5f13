"""A change: what is requested, and what was recorded."""

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


class Known(msgspec.Struct, frozen=True, gc=False):
    """What is known of a stream: its head and, if it was read, the state's data."""

    head: Head
    data: dict[str, Any] | None = None


class Composed(msgspec.Struct, frozen=True, gc=False):
    """The content of a change, as composed for one commit.

    Attributes:
        compositions: the composition of each append, in order. None: no event; the commit then checks that the state is
            unchanged, since the others depend on it.
        writes: the writes of other documents, each with its requirement.
    """

    compositions: tuple[Composition | None, ...]
    writes: tuple[Write, ...] = ()


Compose: TypeAlias = Callable[[Sequence[Known], Mapping[str, Document | None]], Composed]
"""Composes a change from what is known of each stream and the other documents read. Pure: it may run several times."""

ComposeOne: TypeAlias = Callable[[Known], Composition | None]
"""Composes the part of a change on one stream, from that stream alone."""


def always(*compositions: Composition) -> Compose:
    """A compose function with these compositions, whatever is known of the streams."""
    composed = Composed(compositions)

    def compose(_known: Sequence[Known], _documents: Mapping[str, Document | None]) -> Composed:
        return composed

    return compose


def separately(*composes: ComposeOne) -> Compose:
    """A compose function that composes each append from its own stream alone."""

    def compose(known: Sequence[Known], _documents: Mapping[str, Document | None]) -> Composed:
        return Composed(tuple([one(each) for one, each in zip(composes, known, strict=True)]))

    return compose


class Guard(msgspec.Struct, frozen=True):
    """A document that a commit checks and does not change.

    Once the requirement does not hold, it must never hold again, so that a refusal is final.

    Attributes:
        path: the document's path.
        require: the requirement.
        broken: makes the error to raise if it does not hold, from the present document.
    """

    path: str
    require: Require
    broken: Callable[[Document | None], TaiStateError]

    @property
    def check(self) -> Check:
        """The write that makes the commit fail if the requirement does not hold."""
        return Check(self.path, self.require)

    def holds(self, document: Document | None) -> bool:
        """Whether the present document meets the requirement."""
        return holds(self.require, None if document is None else document.revision)


class Fence(Protocol):
    """Lets a change be applied only while a lock is held. A lease is a fence.

    A fence protects only what is written through the store. To protect another system, send it the fencing number, and
    let it refuse smaller numbers.
    """

    @property
    def store_id(self) -> str:
        """The id of the store that the lock is in."""
        ...

    def guard(self) -> Guard:
        """The check of the lock's document, at the revision of this tenure."""
        ...


class Append(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A change's part on one stream.

    Attributes:
        stream: the stream.
        expected: the version that the caller expects.
        drafts: the events to write. Their ids and markers are fixed before the first commit is sent; compose may change
            all else.
        needs_state: whether compose uses the data, so that a remembered head is not enough.
        must_live: whether the state must exist and not be deleted, whatever else is expected.
        seen: what the caller has read of the stream; it saves a read.
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
        """Whether it names the version to change, so that only one of several concurrent changes can succeed."""
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
    """Make the append of these drafts.

    Raises:
        InvalidData: ``expected`` is not valid for this state.
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
    """A change of one or more streams and other documents, all of it or nothing.

    Attributes:
        appends: its part on each stream; no two name the same stream.
        compose: composes the whole change.
        guards: the guards that must hold too.
        documents: the paths of other documents that compose uses.
        is_in_turn: whether the caller already holds turns of states; it then waits for no other state's.
    """

    appends: tuple[Append, ...]
    compose: Compose
    guards: tuple[Guard, ...] = ()
    documents: tuple[str, ...] = ()
    is_in_turn: bool = False

    @property
    def guards_itself(self) -> bool:
        """Whether a guard is of a document that the change itself writes, or that another guard is of."""
        paths = [*(append.stream.state for append in self.appends), *(guard.path for guard in self.guards)]
        return len(set(paths)) < len(paths)


class Appended(msgspec.Struct, frozen=True, gc=False):
    """What a change recorded on one stream.

    Attributes:
        events: the records, oldest first.
        state: the state's record after them.
        data_before: the state's data before; None if there was none, or if it was not read.
        recorded_us: the engine's time of the commit.
        is_repeated: whether an earlier call with the same ids recorded this.
    """

    events: tuple[EventRecord, ...]
    state: StateRecord
    data_before: dict[str, Any] | None
    recorded_us: int
    is_repeated: bool = False
