"""Settling a commit: what to do when it is refused, or when its answer is lost.

The cause of a refusal may be an earlier copy of the same commit that was applied; a lost answer says nothing at all.
So in both cases the documents are read again, and a pure function judges them. Only this module handles refusals and
lost answers: every part of the library that writes goes through :func:`settle`.

One round is: commit, pause, look, judge. There is no pause between a look and the commit that is based on it, so that
the look is as fresh as possible even among many writers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf
from typing import Generic, TypeAlias, TypeVar

import msgspec

from tai_state.engines.api import Committed, Write
from tai_state.engines.matters import Bounds, Commit, Done, Failed, Look, Matter, More, Verdict, Waist
from tai_state.engines.observing import Attempted, AttemptOutcome, Observer, Settled, tell
from tai_state.engines.paging import take
from tai_state.errors import (
    CommitOutcomeUnknown,
    CommitRefused,
    CommitTooLarge,
    DocumentTooLarge,
    StoreUnusable,
    TaiStateError,
    Unavailable,
)

R = TypeVar("R")

_Failure: TypeAlias = CommitRefused | Unavailable | DocumentTooLarge | CommitTooLarge
_FAILURES = (CommitRefused, Unavailable, DocumentTooLarge, CommitTooLarge)
"""The errors of a try that was not applied, or may not have been."""

_logger = logging.getLogger("tai_state.store")


async def settle(
    waist: Waist,
    matter: Matter[R],
    bounds: Bounds,
    first: Commit[R] | None = None,
    *,
    is_open: bool = False,
    on_look: Callable[[Look], None] | None = None,
) -> R:
    """Commit, and find out the outcome, whatever the engine answers.

    Args:
        waist: the engine.
        matter: the change to settle.
        bounds: how long and how often to try.
        first: a commit to send without looking first; None: look first.
        is_open: whether a commit of the matter was sent before, and its outcome is unknown.
        on_look: called with each look, before it is judged.

    Raises:
        Unavailable: nothing was applied.
        TaiStateError: the error of a verdict, or the matter's ``unsettled`` error if the outcome is unknown.
    """
    if bounds.observer is not None:
        return await _observed(waist, matter, bounds, bounds.observer, first, is_open=is_open, on_look=on_look)
    begun = bounds.monotonic()
    failure: _Failure | None = None
    if first is not None:
        try:
            return first.accepted(await waist.commit(first.writes))
        except _FAILURES as error:
            failure = error
    course = _Course(waist, matter, bounds, on_look, is_open=is_open)
    verdict = None if first is None or failure is None else course.failed(first, failure, begun)
    while True:
        if isinstance(verdict, Commit):
            verdict = await course.send(verdict)
        if isinstance(verdict, Done):
            return verdict.result
        if isinstance(verdict, Failed):
            raise course.final(verdict.error)
        if verdict is None:
            verdict = await course.look()


class _Course(Generic[R]):
    """The state of a settling that continues after its first try: what was sent, and which copies may be under way."""

    __slots__ = (
        "_attempts",
        "_bounds",
        "_deadline",
        "_failure",
        "_is_open",
        "_looks",
        "_matter",
        "_on_look",
        "_sent",
        "_took_seconds",
        "_under_way",
        "_waist",
        "_was_unanswered",
    )

    def __init__(
        self,
        waist: Waist,
        matter: Matter[R],
        bounds: Bounds,
        on_look: Callable[[Look], None] | None,
        *,
        is_open: bool,
    ) -> None:
        self._on_look = on_look
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
        """Try once; None: a look has to find out the outcome."""
        if self._attempts >= self._bounds.attempts_max or self._is_over or isinstance(self._failure, StoreUnusable):
            return Done(self._given_up())
        begun = self._bounds.monotonic()
        try:
            return Done(commit.accepted(await self._waist.commit(commit.writes)))
        except _FAILURES as failure:
            return self.failed(commit, failure, begun)
        except Exception as error:  # noqa: BLE001 - says nothing of an earlier copy: raised, itself or as the cause
            return Failed(error)

    def failed(self, commit: Commit[R], failure: _Failure, begun: float) -> Verdict[R] | None:
        """Decide what to do after a failed try; None: a look has to find out the outcome."""
        if isinstance(failure, DocumentTooLarge | CommitTooLarge):
            return self._matter.smaller(commit, failure) or Failed(failure)
        if isinstance(failure, Unavailable):
            if not failure.unknown and not self._under_way and not self._bounds.insists:
                raise failure
            if failure.unknown:
                self._under_way.append(commit)
                self._was_unanswered = True
                _logger.warning("the answer to a commit was lost; looking up its outcome", extra=failure.fields())
        self._failure = failure
        self._attempts += 1
        self._sent = commit
        self._is_open = self._is_open or not isinstance(failure, Unavailable) or failure.unknown
        self._looks = 0
        now = self._bounds.monotonic()
        self._took_seconds = now - begun
        self._deadline = min(self._deadline, now + self._bounds.timeout_seconds)
        return None

    async def look(self) -> Verdict[R]:
        """Look and judge, again until the look is enough for a verdict."""
        look = Look({})
        wanted, is_again = self._all(), self._attempts > 1
        while True:
            if is_again:
                await self._pause()
            try:
                look = await self._read(look, wanted)
            except Exception as error:  # noqa: BLE001 - RuntimeError, too: the engine may have been closed meanwhile
                self._check_may_go_on(error)
                is_again = True
                continue
            self._under_way = [each for each in self._under_way if not self._matter.is_overtaken(each, look)]
            verdict = self._judged(msgspec.structs.replace(look, may_arrive=bool(self._under_way)))
            if not isinstance(verdict, More):
                return verdict
            is_again = not verdict.paths and verdict.scan is None
            if is_again:
                look = Look({})
            wanted = self._all() if is_again else verdict

    def final(self, error: Exception) -> Exception:
        """The given error, or the ``unsettled`` error if a copy of the commit may still be applied."""
        if not self._under_way or isinstance(error, CommitOutcomeUnknown):
            return error
        unsettled = self._unsettled()
        unsettled.__cause__ = error
        return unsettled

    def _all(self) -> More:
        return More(tuple(self._matter.reads(self._sent)))

    async def _read(self, look: Look, wanted: More) -> Look:
        """Extend a look by what else is wanted."""
        self._looks += 1
        asked = self._bounds.monotonic()
        documents, time_us, scanned = look.documents, look.time_us, look.scanned
        if wanted.paths:
            reading = await self._waist.read(wanted.paths)
            documents = {**documents, **dict(zip(wanted.paths, reading.documents, strict=True))}
            time_us = reading.time_us
        if wanted.scan is not None:
            found = await take(self._waist.scan(wanted.scan), wanted.scan.limit)
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
            if self._on_look is not None:
                self._on_look(look)
            return self._matter.judge(look, self._sent)
        except Exception as error:  # noqa: BLE001 - raised in the end, itself or as the cause
            return Failed(error)

    def _check_may_go_on(self, error: Exception) -> None:
        """Raise if no further look is possible; the outcome is then unknown if a commit may have been applied."""
        if self._failure is None and not self._is_open:
            raise error
        is_transient = isinstance(error, TaiStateError) and error.is_transient
        if not is_transient or self._looks >= self._bounds.attempts_max or self._is_over:
            raise self._unsettled() if self._is_open else self._failure or error from error

    def _given_up(self) -> R:
        if self._under_way:
            raise self._unsettled() from self._failure
        if isinstance(self._failure, Unavailable):
            raise self._failure
        return self._matter.outrun()

    def _unsettled(self) -> TaiStateError:
        error = self._matter.unsettled()
        _logger.error("the outcome of a commit is unknown", extra=error.fields())
        return error

    @property
    def _is_over(self) -> bool:
        return self._bounds.monotonic() >= self._deadline

    async def _pause(self) -> None:
        attempt = max(self._attempts - 1, self._looks)
        await self._bounds.sleep(self._bounds.pause_seconds(attempt, self._took_seconds))


async def _observed(
    waist: Waist,
    matter: Matter[R],
    bounds: Bounds,
    observer: Observer,
    first: Commit[R] | None,
    *,
    is_open: bool,
    on_look: Callable[[Look], None] | None,
) -> R:
    """As :func:`settle`, and tell the observer of each commit and of the outcome."""
    observed = _ObservedWaist(waist, observer, bounds.monotonic)
    begun, error = bounds.monotonic(), None
    try:
        return await settle(observed, matter, replace(bounds, observer=None), first, is_open=is_open, on_look=on_look)
    except BaseException as raised:
        error = type(raised).__name__
        raise
    finally:
        paths, seconds = tuple(matter.reads(None)), bounds.monotonic() - begun
        facts = Settled(kind=bounds.kind, paths=paths, attempts=observed.attempts, seconds=seconds, error=error)
        tell(observer.settled, facts)


class _ObservedWaist:
    """A waist that tells an observer of each commit.

    Args:
        waist: the engine.
        observer: is told of each commit.
        monotonic: a clock in seconds that never goes back.

    Attributes:
        attempts: how many commits were sent.
    """

    def __init__(self, waist: Waist, observer: Observer, monotonic: Callable[[], float]) -> None:
        self.attempts = 0
        self._observer = observer
        self._monotonic = monotonic
        self.read = waist.read
        self.scan = waist.scan
        self._commit = waist.commit

    async def commit(self, writes: Sequence[Write]) -> Committed:
        self.attempts += 1
        number, begun = self.attempts, self._monotonic()
        outcome: AttemptOutcome = "broken off"
        try:
            committed = await self._commit(writes)
            outcome = "applied"
        except _FAILURES as failure:
            outcome = _outcome(failure)
            raise
        finally:
            paths, seconds = tuple([write.path for write in writes]), self._monotonic() - begun
            tell(self._observer.attempt, Attempted(paths=paths, number=number, seconds=seconds, outcome=outcome))
        return committed


def _outcome(failure: _Failure) -> AttemptOutcome:
    if isinstance(failure, CommitRefused):
        return "refused"
    if isinstance(failure, Unavailable):
        return "unanswered" if failure.unknown else "unavailable"
    return "too large"
