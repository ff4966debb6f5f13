"""The parts of settling a commit: what is sent, what is read back, and the possible verdicts."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import anyio
import msgspec

from tai_state.engines.api import At, Committed, Delete, Document, Put, Reading, Scan, Write, holds
from tai_state.engines.observing import Observer, SettledKind
from tai_state.engines.paging import Paged
from tai_state.errors import CommitTooLarge, DocumentTooLarge, StoreTimeout, TaiStateError

R = TypeVar("R")

TooLarge: TypeAlias = DocumentTooLarge | CommitTooLarge

ATTEMPTS_MAX = 64
"""How often one change is sent at most, if others are faster or answers are lost."""

LOOKS_MAX = 8
"""How often apparent damage is looked at before it is reported.

The Firestore emulator shows a commit document by document, so for a moment an event may seem to have no state.
"""

_PAUSE_SECONDS_MIN = 0.001
_PAUSE_SECONDS_MAX = 1.0


class Waist(Protocol):
    """The part of an engine that settling needs."""

    async def read(self, paths: Sequence[str]) -> Reading:
        """See :class:`~tai_state.engines.api.Engine`."""
        ...

    def scan(self, scan: Scan) -> Paged[Document]:
        """See :class:`~tai_state.engines.api.Engine`."""
        ...

    async def commit(self, writes: Sequence[Write]) -> Committed:
        """See :class:`~tai_state.engines.api.Engine`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How long and how often a change is tried.

    Attributes:
        timeout_seconds: how long, from the first refusal or lost answer on.
        attempts_max: how often it is sent at most.
        jitter: returns a random number from 0 to 1, for pauses.
        monotonic: a clock in seconds that never goes back.
        sleep: waits for a number of seconds by that clock.
        observer: is told of each commit, and of the outcome; None: no observer.
        kind: what is changed, for the observer.
        insists: also retry after an error of the engine, and not only after a refusal or a lost answer.
    """

    timeout_seconds: float
    attempts_max: int = ATTEMPTS_MAX
    jitter: Callable[[], float] = random.random
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    observer: Observer | None = None
    kind: SettledKind = "upkeep"
    insists: bool = False

    def pause_seconds(self, attempt: int, took_seconds: float) -> float:
        """How long to wait before the next look, with full jitter.

        Args:
            attempt: how many pauses came before this one.
            took_seconds: how long the last commit took. The bound starts there and doubles each time, up to a second.
        """
        bound = max(took_seconds, _PAUSE_SECONDS_MIN) * 2.0 ** min(attempt, 16)
        return min(_PAUSE_SECONDS_MAX, bound) * self.jitter()


class Look(msgspec.Struct, frozen=True):
    """What was read for a judgement.

    Attributes:
        documents: the documents by path; None where there is no document.
        scanned: the results of the scans that a judgement asked for.
        time_us: the engine's time of the read.
        looks: how many reads there were since the last commit was sent, this one included.
        may_arrive: whether an unanswered copy of a commit may still be applied.
        was_unanswered: whether the answer to one of the commits was lost.
        asked: when the read began, by the monotonic clock.
        answered: when the read ended, by the monotonic clock.
    """

    documents: Mapping[str, Document | None]
    scanned: Mapping[Scan, Sequence[Document]] = {}
    time_us: int = 0
    looks: int = 1
    may_arrive: bool = False
    was_unanswered: bool = False
    asked: float = 0.0
    answered: float = 0.0


class Commit(msgspec.Struct, Generic[R]):
    """A commit to send, and its result once it is applied.

    Attributes:
        writes: the writes to send.
        accepted: makes the result from the engine's answer.
    """

    writes: Sequence[Write]
    accepted: Callable[[Committed], R]


class Done(msgspec.Struct, Generic[R], frozen=True):
    """The matter is settled with this result."""

    result: R


class Failed(msgspec.Struct, frozen=True):
    """The change can never be applied, for this reason."""

    error: Exception


class More(msgspec.Struct, frozen=True):
    """The look is not enough for a verdict. Without paths and without a scan: read the same documents again.

    Attributes:
        paths: more documents to read.
        scan: a scan to make; its bounds or its limit keep the result short.
    """

    paths: tuple[str, ...] = ()
    scan: Scan | None = None


Verdict: TypeAlias = Done[R] | Commit[R] | Failed | More


class Matter(Protocol[R]):
    """A change to settle. Its judgement is pure: the same look gives the same verdict."""

    def reads(self, sent: Commit[R] | None) -> Sequence[str]:
        """The paths of the documents that the judgement needs, given what was sent last (None: nothing yet)."""
        ...

    def judge(self, look: Look, sent: Commit[R] | None) -> Verdict[R]:
        """Judge a look, and say what to do next."""
        ...

    def is_overtaken(self, sent: Commit[R], look: Look) -> bool:
        """Whether no copy of a sent commit can be applied any more, however late it arrives."""
        ...

    def smaller(self, sent: Commit[R], error: TooLarge) -> Commit[R] | None:
        """A smaller commit to send instead of one that is too large; None: there is none, and the error is final."""
        ...

    def outrun(self) -> R:
        """The result if others were faster each time until the bounds were reached. May raise."""
        ...

    def unsettled(self) -> TaiStateError:
        """The error to raise if the outcome could not be found out."""
        ...


def overtaken(writes: Iterable[Write], look: Look) -> bool:
    """Whether a document has left a revision that one of the writes requires. Revisions only grow."""
    for write in writes:
        if isinstance(write.require, At) and write.path in look.documents:
            document = look.documents[write.path]
            if document is None or document.revision != write.require.revision:
                return True
    return False


def still_hold(writes: Iterable[Write], look: Look) -> bool:
    """Whether the documents that were read meet all requirements of the writes."""
    documents = ((write.require, look.documents.get(write.path)) for write in writes)
    return all(holds(require, None if each is None else each.revision) for require, each in documents)


def contention_error() -> StoreTimeout:
    """The error to raise if other writers keep changing the same documents."""
    return StoreTimeout("commit", "CONTENTION", "other writers keep changing the same documents")


def standing(writes: Sequence[Write], look: Look) -> Committed | None:
    """The answer that the engine would have given if all documents are as these writes leave them; else None."""
    committed = Committed(0, look.time_us)
    for write in writes:
        document = look.documents.get(write.path)
        if isinstance(write, Delete):
            if document is not None:
                return None
        elif isinstance(write, Put):
            if document is None or document.fields() != _plain(write.fields):
                return None
            committed = Committed(document.revision, document.updated_us)
    return committed


def _plain(fields: Any) -> Any:
    """The fields as they are read back: a tuple in a struct is stored as an array."""
    return msgspec.json.decode(msgspec.json.encode(fields))
