"""The one write path: planned, committed, and settled where the answer is a refusal or none at all.

Nothing runs again before it is settled what became of it: ``settling.py`` says how.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import count
from math import inf
from typing import Any

import anyio
import msgspec

from tai_state.engines.api import ABSENT, Committed, Engine, Put
from tai_state.errors import (
    CommitOutcomeUnknown,
    CommitRefused,
    CommitTooLarge,
    DocumentTooLarge,
    StoreTimeout,
    Unavailable,
)
from tai_state.streams.changes import Append, Appended, Guard, Known
from tai_state.streams.heads import Heads
from tai_state.streams.planning import Author, Plan, plan
from tai_state.streams.policies import Never
from tai_state.streams.reader import LOOKS_AT_DAMAGE, StreamReader
from tai_state.streams.records import (
    EMPTY,
    GovernorRecord,
    head_of,
)
from tai_state.streams.settling import Look, Settling, check_guards, shows_damage
from tai_state.values.expected import NO_STATE
from tai_state.values.times import Clock, format_us

_logger = logging.getLogger("tai_state.store")

ATTEMPTS_MAX = 64
"""How often one change is sent, because others were faster or an answer was lost."""

GOVERNORS_MAX = 10_000

_PAUSE_SECONDS = 0.01
_PAUSE_SECONDS_MAX = 1.0


class Appender:
    """Appends changes to streams, in one commit each.

    Args:
        engine: the waist.
        streams: reads the events that a conflict carries.
        author: this store's id, schema and snapshot policy.
        clock: the writer's own.
        timeout_seconds: how long to go on looking and sending again after a refusal or a lost answer.
        jitter: a random number from 0 to 1, for pauses.
    """

    def __init__(
        self,
        engine: Engine,
        streams: StreamReader,
        author: Author,
        clock: Clock,
        timeout_seconds: float,
        jitter: Callable[[], float],
    ) -> None:
        self.heads: Heads = Heads()
        self._engine = engine
        self._settling = Settling(engine, streams, self.heads)
        self._writer = author
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._jitter = jitter
        self._governors: set[str] = set()

    async def append(self, appends: Sequence[Append], guards: Sequence[Guard] = ()) -> list[Appended]:
        """Record these changes of different states, all or none, and only where all guards hold.

        Raises:
            VersionConflict, StateNotFound: a state is not what its change expects; nothing was written.
            IdempotencyConflict: a caller's event id already stands for something else.
            CommitOutcomeUnknown: no answer in time; call again with the same ids.
            TaiStateError: the error of a guard that does not hold; nothing was written.
            EventSourcingError: events without their state's document; ``recover`` mends it.
            StoreUnavailable, StoreTimeout, CommitTooLarge, DocumentTooLarge: nothing was written.
        """
        now_us = self._clock.now_us()
        deadline = inf
        plans: list[Plan] = []
        failure: Exception | None = None
        unanswered = False
        author = self._writer
        known = self._remembered(appends)
        for attempt in range(ATTEMPTS_MAX):
            if known is None:
                look = await self._look(appends, plans, guards, deadline)
                if done := await self._settling.done_already(appends, plans, look):
                    return done
                check_guards(guards, look)
                known = await self._settling.judge(appends, plans, look)
                unanswered = unanswered and not _are_overtaken(plans, known)
                if anyio.current_time() >= deadline:
                    break
                if attempt > 1:
                    await self._pause(attempt)
            plans = [self._plan(append, each, author, now_us) for append, each in zip(appends, known, strict=True)]
            answer = await self._send(appends, plans, guards, now_us=now_us, unanswered=unanswered)
            if isinstance(answer, Committed):
                return [self._appended(each, was.data, answer) for each, was in zip(plans, known, strict=True)]
            if isinstance(answer, DocumentTooLarge | CommitTooLarge):
                _logger.warning("a snapshot that is due is not kept: it is too large", extra=answer.fields())
                author = msgspec.structs.replace(author, policy=Never())
                continue
            if failure is None:
                deadline = anyio.current_time() + self._timeout_seconds
            unanswered = unanswered or isinstance(answer, Unavailable)
            failure = answer
            known = None
        if unanswered or known is None:
            raise _unknown(appends) from failure
        # Every state is as expected, and yet each try was refused: others move faster than this can follow.
        raise StoreTimeout("commit", "CONTENTION", "others change the same states all the time") from failure

    async def _look(
        self, appends: Sequence[Append], plans: Sequence[Plan], guards: Sequence[Guard], deadline: float
    ) -> Look:
        """See what stands. Once something was sent, not being able to look leaves its outcome unknown.

        Damage is looked at again and again before anybody is told of it: the emulator of Firestore shows a commit
        document by document, and for a while an event may seem to have no state.
        """
        for attempt in count(1):
            try:
                look = await self._settling.look(appends, plans, guards)
            except Unavailable as error:
                if not plans:
                    raise
                if attempt == ATTEMPTS_MAX or anyio.current_time() >= deadline:
                    raise _unknown(appends) from error
            else:
                if attempt >= LOOKS_AT_DAMAGE or not shows_damage(plans, look):
                    return look
            await self._pause(attempt)
        raise AssertionError("the last attempt returns or raises")

    async def _send(
        self,
        appends: Sequence[Append],
        plans: Sequence[Plan],
        guards: Sequence[Guard],
        *,
        now_us: int,
        unanswered: bool,
    ) -> Committed | CommitRefused | Unavailable | DocumentTooLarge | CommitTooLarge:
        """One try. What does not end the matter is returned.

        Returns:
            What was committed. Or a refusal, or that the answer was lost: what they mean has to be looked up. Or that
            a snapshot which is due does not fit: it is to be left out, rather than the change.
        """
        try:
            if new := [each.stream.governor for each in plans if each.before.version == 0]:
                await self._register(new, now_us)
            writes = [write for each in plans for write in each.writes]
            return await self._engine.commit([*writes, *[guard.check for guard in guards]])
        except CommitRefused as refusal:
            return refusal
        except Unavailable as error:
            if not error.unknown and not unanswered:
                raise
            _logger.warning("the answer to a commit was lost: looking whether it happened", extra=error.fields())
            return error
        except (DocumentTooLarge, CommitTooLarge) as error:
            due = [each.snapshot for each in plans if each.snapshot is not None]
            if not due or (isinstance(error, DocumentTooLarge) and error.path not in due):
                raise
            return error
        except BaseException:
            for append in appends:
                self.heads.drop(append.stream.state)
            raise

    def _remembered(self, appends: Sequence[Append]) -> list[Known] | None:
        """The heads to build on without reading, or None where one is not known well enough."""
        known: list[Known] = []
        for append in appends:
            head = self.heads.get(append.stream.state)
            if head is None and append.expected in (NO_STATE, 0):
                head = EMPTY
            if (
                head is None
                or append.needs_state
                or (not isinstance(append.expected, int) and append.expected is not NO_STATE)
                or not append.fits(head)
            ):
                return None
            known.append(Known(head))
        return known

    def _plan(self, append: Append, known: Known, author: Author, now_us: int) -> Plan:
        return plan(append.stream, known.head, append.compose(known.head, known.data), author, now_us)

    async def _register(self, paths: Sequence[str], now_us: int) -> None:
        """Write a governor's own document once, when this process first creates a state in it."""
        for path in paths:
            if path in self._governors:
                continue
            record = GovernorRecord(format_us(now_us), {})
            try:
                await self._engine.commit([Put(path, record, ABSENT)])
            except CommitRefused:
                _logger.debug("the governor is registered already", extra={"path": path})
            except Unavailable as error:
                error.unknown = False  # of the change itself nothing was sent
                raise
            if len(self._governors) >= GOVERNORS_MAX:
                self._governors.clear()
            self._governors.add(path)

    def _appended(self, done: Plan, data_before: dict[str, Any] | None, committed: Committed) -> Appended:
        self.heads.put(done.stream.state, head_of(done.state, committed.revision))
        if _logger.isEnabledFor(logging.INFO):
            for event in done.events:
                facts = {"path": done.stream.state, "version": event.version, "event_id": event.event_id}
                _logger.info("recorded", extra=facts)
        return Appended(done.events, done.state, data_before, committed.time_us)

    async def _pause(self, attempt: int) -> None:
        await anyio.sleep(pause_seconds(attempt, self._jitter))


def _are_overtaken(plans: Sequence[Plan], known: Sequence[Known]) -> bool:
    """Whether every copy sent so far requires a revision that is gone for good."""
    return any(now.head.revision != sent.before.revision for sent, now in zip(plans, known, strict=True))


def pause_seconds(attempt: int, jitter: Callable[[], float]) -> float:
    """How long to wait before another attempt, with full jitter: from nothing up to a bound that doubles each time."""
    return min(_PAUSE_SECONDS_MAX, _PAUSE_SECONDS * 2.0 ** min(attempt, 16)) * jitter()


def _unknown(appends: Sequence[Append]) -> CommitOutcomeUnknown:
    error = CommitOutcomeUnknown(
        tuple(event_id for append in appends for event_id in append.event_ids),
        tuple(append.stream.state for append in appends),
    )
    _logger.error("the outcome of a commit is not known", extra=error.fields())
    return error
