"""One change of one state: what is asked for, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import msgspec

from tai_state.engines.api import Check, Document, Require, holds
from tai_state.errors import TaiStateError
from tai_state.streams.layout import Stream
from tai_state.streams.planning import Composition, Draft
from tai_state.streams.records import EventRecord, Head, StateRecord
from tai_state.values.expected import Expectation, Expected, expectation, matches

Compose: TypeAlias = Callable[[Head, dict[str, Any] | None], Composition]
"""Says what is to happen, given the head and the state's data before. Pure: it may be called again."""


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
    """A change of one state.

    Attributes:
        stream: which.
        expected: the version the caller believes in.
        drafts: the events to be; their ids and markers are fixed before the first send, whatever compose makes of them.
        compose: what is to happen.
        needs_state: compose looks at the data, so that a remembered head is not enough.
        must_live: the state must be there and not deleted, whatever else is expected.
    """

    stream: Stream
    expected: int | Expectation
    drafts: tuple[Draft, ...]
    compose: Compose
    needs_state: bool = False
    must_live: bool = False

    @property
    def event_ids(self) -> tuple[str, ...]:
        """The ids of its events."""
        return tuple(draft.event_id for draft in self.drafts)

    @property
    def marked(self) -> tuple[tuple[str, str], ...]:
        """The ids that the caller gave, each with the digest of the content it stands for."""
        return tuple((draft.event_id, draft.marker) for draft in self.drafts if draft.marker is not None)

    def fits(self, head: Head) -> bool:
        """Whether the state is as the change expects it."""
        return matches(self.expected, head.version, deleted=head.deleted) and not (
            self.must_live and (head.version == 0 or head.deleted)
        )


def append_of(
    stream: Stream,
    expected: Expected,
    drafts: tuple[Draft, ...],
    compose: Compose,
    *,
    needs_state: bool = False,
    must_live: bool = False,
) -> Append:
    """The change that records these drafts.

    Raises:
        InvalidData: what is expected is no expectation for this state.
    """
    return Append(
        stream=stream,
        expected=expectation(expected, stream.governor_id, stream.state_id),
        drafts=drafts,
        compose=compose,
        needs_state=needs_state,
        must_live=must_live,
    )


def always(composition: Composition) -> Compose:
    """What is to happen, whatever stands."""

    def compose(_head: Head, _data: dict[str, Any] | None) -> Composition:
        return composition

    return compose


class Appended(msgspec.Struct, frozen=True):
    """What an append recorded.

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


class Known(msgspec.Struct, frozen=True):
    """What is known of a stream: its head and, where it was read just now, the state's data."""

    head: Head
    data: dict[str, Any] | None = None
