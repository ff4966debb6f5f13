"""What is to be settled: what is sent, what is seen, and what a judgement of it can say."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import anyio
import msgspec

from tai_state.engines.api import At, Committed, Delete, Document, Put, Reading, Scan, Write, holds
from tai_state.engines.paging import Paged
from tai_state.errors import CommitTooLarge, DocumentTooLarge, StoreTimeout, TaiStateError

R = TypeVar("R")

TooLarge: TypeAlias = DocumentTooLarge | CommitTooLarge

ATTEMPTS_MAX = 64
"""How often one change is sent, because others were faster or an answer was lost."""

LOOKS_MAX = 8
"""How often what seems to be damage is looked at before anybody is told of it.

The emulator of Firestore shows a commit document by document; for a while, an event may seem to have no state.
"""

_PAUSE_SECONDS_MIN = 0.001
_PAUSE_SECONDS_MAX = 1.0


class Waist(Protocol):
    """What settling needs of an engine."""

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
    """For how long a change is looked after.

    Attributes:
        timeout_seconds: from the first refusal or lost answer on.
        attempts_max: how often it is sent.
        jitter: a random number from 0 to 1, for pauses.
        monotonic: seconds of a clock that never goes back.
        sleep: waits so many seconds of that clock.
        insists: what the engine could not do is tried again as well, and not only what it refused or left unanswered.
    """

    timeout_seconds: float
    attempts_max: int = ATTEMPTS_MAX
    jitter: Callable[[], float] = random.random
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    insists: bool = False

    def pause_seconds(self, attempt: int, took_seconds: float) -> float:
        """How long to wait before looking again, with full jitter.

        Args:
            attempt: how many pauses there were before this one.
            took_seconds: how long the last commit took. The bound begins there and doubles each time, up to a second.
        """
        bound = max(took_seconds, _PAUSE_SECONDS_MIN) * 2.0 ** min(attempt, 16)
        return min(_PAUSE_SECONDS_MAX, bound) * self.jitter()


class Look(msgspec.Struct, frozen=True):
    """What was read to decide.

    Attributes:
        documents: by path; None where there is no document.
        scanned: what the scans found that a judgement asked for.
        time_us: the engine's time of the read.
        looks: how many reads there were since the last commit was sent, this one included.
        may_arrive: a copy of which no answer came may still be under way.
        was_unanswered: the answer to one of the commits was lost.
        asked: when the read was begun, by the monotonic clock.
        answered: when it ended, likewise.
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
    """A commit to be sent, and what it is worth once it is applied.

    Attributes:
        writes: what is sent.
        accepted: the result, from what the engine answered.
    """

    writes: Sequence[Write]
    accepted: Callable[[Committed], R]


class Done(msgspec.Struct, Generic[R], frozen=True):
    """It is settled, and this is the result."""

    result: R


class Failed(msgspec.Struct, frozen=True):
    """It can never be applied, and this is why."""

    error: Exception


class More(msgspec.Struct, frozen=True):
    """What was read is not enough. Without paths and without a scan: the same must be read again.

    Attributes:
        paths: to be read as well.
        scan: to be made as well; its result is short, by its bounds or its limit.
    """

    paths: tuple[str, ...] = ()
    scan: Scan | None = None


Verdict: TypeAlias = Done[R] | Commit[R] | Failed | More


class Matter(Protocol[R]):
    """One thing to be settled. Its judgement is pure: the same look gives the same verdict."""

    def reads(self, sent: Commit[R] | None) -> Sequence[str]:
        """The paths of the documents that decide, given what was sent last; None: nothing yet."""
        ...

    def judge(self, look: Look, sent: Commit[R] | None) -> Verdict[R]:
        """What stands, what it means, and what is done."""
        ...

    def is_overtaken(self, sent: Commit[R], look: Look) -> bool:
        """Whether no copy of what was sent can be applied any more, however late it arrives."""
        ...

    def smaller(self, sent: Commit[R], error: TooLarge) -> Commit[R] | None:
        """What to send in place of a commit that is too large; None: nothing, the error stands."""
        ...

    def outrun(self) -> R:
        """What it means that others were faster each time, until the bounds were reached. May raise."""
        ...

    def unsettled(self) -> TaiStateError:
        """The error for an outcome that could not be found out."""
        ...


def overtaken(writes: Iterable[Write], look: Look) -> bool:
    """Whether a document has moved on from a revision that one of the writes requires. Revisions only grow."""
    for write in writes:
        if isinstance(write.require, At) and write.path in look.documents:
            document = look.documents[write.path]
            if document is None or document.revision != write.require.revision:
                return True
    return False


def still_hold(writes: Iterable[Write], look: Look) -> bool:
    """Whether all that the writes require holds of what was read."""
    documents = ((write.require, look.documents.get(write.path)) for write in writes)
    return all(holds(require, None if each is None else each.revision) for require, each in documents)


def contended() -> StoreTimeout:
    """The error where others change the same documents all the time."""
    return StoreTimeout("commit", "CONTENTION", "others change the same documents all the time")


def standing(writes: Sequence[Write], look: Look) -> Committed | None:
    """What the engine would have answered, if everything stands as these writes leave it; else None."""
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
    """As they are read back: what is a tuple in a struct is an array there."""
    return msgspec.json.decode(msgspec.json.encode(fields))
