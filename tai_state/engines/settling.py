"""Settling a commit: what to do when it is refused, or when no answer comes.

A refusal can be an earlier copy of the same commit, applied; a lost answer says nothing at all. So after either,
what stands is read, and a pure function judges it. This is the only place that catches a refusal and weighs an
answer that was lost: every part of the library that writes goes through :func:`settle`.

The order of one round is: commit, pause, look, judge. Nothing is between a look and the commit that rests on it, so
that among many writers a look is as fresh as it can be.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import anyio
import msgspec

from tai_state.engines.api import At, Committed, Delete, Document, Put, Reading, Scan, Write, holds
from tai_state.engines.paging import Paged, taken
from tai_state.errors import (
    CommitOutcomeUnknown,
    CommitRefused,
    CommitTooLarge,
    DocumentTooLarge,
    StoreTimeout,
    TaiStateError,
    Unavailable,
)

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

_logger = logging.getLogger("tai_state.store")


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
    """

    timeout_seconds: float
    attempts_max: int = ATTEMPTS_MAX
    jitter: Callable[[], float] = random.random
    monotonic: Callable[[], float] = anyio.current_time
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep

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


async def settle(
    waist: Waist, matter: Matter[R], bounds: Bounds, first: Commit[R] | None = None, *, is_open: bool = False
) -> R:
    """Commit, and find out what became of it, whatever the engine answers.

    Args:
        waist: the engine.
        matter: what is to be settled.
        bounds: for how long.
        first: what to send without looking; None: look first.
        is_open: something of the matter was sent before, and it is not known what became of it.

    Raises:
        Unavailable: nothing was applied.
        TaiStateError: the error of a verdict, or that of ``unsettled`` where the outcome is not known.
    """
    course = _Course(waist, matter, bounds, is_open=is_open)
    verdict: Verdict[R] | None = first
    while True:
        if isinstance(verdict, Commit):
            verdict = await course.send(verdict)
        if isinstance(verdict, Done):
            return verdict.result
        if verdict is None:
            verdict = await course.look()


class _Course(Generic[R]):
    """The course of one settling: what was sent, and which copies may still be under way."""

    __slots__ = (
        "_attempts",
        "_bounds",
        "_deadline",
        "_failure",
        "_is_open",
        "_looks",
        "_matter",
        "_sent",
        "_took_seconds",
        "_under_way",
        "_waist",
        "_was_unanswered",
    )

    def __init__(self, waist: Waist, matter: Matter[R], bounds: Bounds, *, is_open: bool) -> None:
        self._is_open = is_open
        self._was_unanswered = False
        self._waist = waist
        self._matter = matter
        self._bounds = bounds
        self._deadline = inf
        self._sent: Commit[R] | None = None
        self._under_way: list[Commit[R]] = []
        self._failure: Exception | None = None
        self._attempts = 0
        self._looks = 0
        self._took_seconds = 0.0

    async def send(self, commit: Commit[R]) -> Verdict[R] | None:
        """One try; None: what it means has to be looked up."""
        if self._attempts and (self._attempts >= self._bounds.attempts_max or self._is_over):
            return Done(self._given_up())
        begun = self._bounds.monotonic()
        self._attempts += 1
        try:
            return Done(commit.accepted(await self._waist.commit(commit.writes)))
        except CommitRefused as refusal:
            self._failure = refusal
        except Unavailable as error:
            if not error.unknown and not self._under_way:
                raise
            if error.unknown:
                self._under_way.append(commit)
                self._was_unanswered = True
                _logger.warning("the answer to a commit was lost: looking what became of it", extra=error.fields())
            self._failure = error
        except (DocumentTooLarge, CommitTooLarge) as error:
            smaller = self._matter.smaller(commit, error)
            if smaller is None:
                raise self._final(error) from None
            self._attempts -= 1
            return smaller
        self._sent = commit
        self._is_open = True
        self._looks = 0
        now = self._bounds.monotonic()
        self._took_seconds = now - begun
        self._deadline = min(self._deadline, now + self._bounds.timeout_seconds)
        return None

    async def look(self) -> Verdict[R]:
        """See what stands, and judge it; the verdict is a result, or a commit to be sent."""
        look = Look({})
        wanted, is_again = self._all(), self._attempts > 1
        while True:
            if is_again:
                await self._pause()
            try:
                look = await self._read(look, wanted)
            except TaiStateError as error:
                self._check_may_go_on(error)
                is_again = True
                continue
            self._under_way = [each for each in self._under_way if not self._matter.is_overtaken(each, look)]
            verdict = self._judged(msgspec.structs.replace(look, may_arrive=bool(self._under_way)))
            if isinstance(verdict, Failed):
                raise self._final(verdict.error)
            if not isinstance(verdict, More):
                return verdict
            is_again = not verdict.paths and verdict.scan is None
            wanted = self._all() if is_again else verdict

    def _all(self) -> More:
        return More(tuple(self._matter.reads(self._sent)))

    async def _read(self, look: Look, wanted: More) -> Look:
        """The look with what else was wanted."""
        self._looks += 1
        asked = self._bounds.monotonic()
        documents, time_us, scanned = look.documents, look.time_us, look.scanned
        if wanted.paths:
            reading = await self._waist.read(wanted.paths)
            documents = {**documents, **dict(zip(wanted.paths, reading.documents, strict=True))}
            time_us = reading.time_us
        if wanted.scan is not None:
            found = await taken(self._waist.scan(wanted.scan), wanted.scan.limit)
            scanned = {**scanned, wanted.scan: found}
        return Look(
            documents,
            scanned,
            time_us,
            self._looks,
            was_unanswered=self._was_unanswered,
            asked=asked,
            answered=self._bounds.monotonic(),
        )

    def _judged(self, look: Look) -> Verdict[R]:
        try:
            return self._matter.judge(look, self._sent)
        except Exception as error:  # noqa: BLE001 - it is raised in the end, or is the cause of what is
            return Failed(error)

    def _check_may_go_on(self, error: TaiStateError) -> None:
        """Once something was sent, not being able to look leaves its outcome unknown."""
        if not self._is_open:
            raise error
        if not error.is_transient or self._looks >= self._bounds.attempts_max or self._is_over:
            raise self._unsettled() from error

    def _final(self, error: Exception) -> Exception:
        """The error of something that cannot be applied, unless a copy of it may be applied all the same."""
        if not self._under_way or isinstance(error, CommitOutcomeUnknown):
            return error
        unsettled = self._unsettled()
        unsettled.__cause__ = error
        return unsettled

    def _given_up(self) -> R:
        if self._under_way:
            raise self._unsettled() from self._failure
        return self._matter.outrun()

    def _unsettled(self) -> TaiStateError:
        error = self._matter.unsettled()
        _logger.error("the outcome of a commit is not known", extra=error.fields())
        return error

    @property
    def _is_over(self) -> bool:
        return self._bounds.monotonic() >= self._deadline

    async def _pause(self) -> None:
        attempt = max(self._attempts - 1, self._looks)
        await self._bounds.sleep(self._bounds.pause_seconds(attempt, self._took_seconds))


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
    return fields if isinstance(fields, dict) else msgspec.to_builtins(fields)
