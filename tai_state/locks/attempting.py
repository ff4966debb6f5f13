"""Acquiring: one commit for all wanted locks, and how a refused or unanswered commit is judged."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from math import inf

import anyio
import msgspec

from tai_state.engines.api import ABSENT, At, Check, Committed, Delete, Put, Write
from tai_state.engines.matters import Commit, Done, Look, TooLarge, Verdict, overtaken
from tai_state.engines.rewriting import Rewrite, write
from tai_state.engines.settling import settle
from tai_state.errors import CorruptDocument, LockAcquisitionFailed, LockAlreadyHeld, TaiStateError, Unavailable
from tai_state.locks.common import ATTEMPTS_MAX, Common
from tai_state.locks.damage import nonce_of
from tai_state.locks.judging import Outcome, judge_acquiring
from tai_state.locks.lease import Claim, Tenure
from tai_state.locks.records import LOCK, LockRecord
from tai_state.locks.sighting import Standing
from tai_state.streams.damage import as_read
from tai_state.values.times import format_us

_logger = logging.getLogger("tai_state.locks")

_ANSWER_SECONDS_MIN = 1.0
"""How long a caller waits for an answer at least, also one who does not want to wait for the lock."""

_NOBODY = ""
"""A nonce that no tenure has."""

_SECONDS_MIN = 0.01
"""The shortest pause between two looks at locks that are about to expire."""


class Attempt:
    """The tries of one call to acquire the resources of a claim, all with the same nonce.

    The first commit assumes that all locks are free, without reading them. When a commit is refused or not answered,
    one look decides: if any lock has our nonce, we hold all of them, because one commit writes them all. The lease is
    counted from the last moment at which the locks were certainly not ours yet: a look that showed it, or the sending
    of the first try that may have acquired them. If it is over before we know of it, we take our own locks over.

    Args:
        common: what all parts of the locks share.
        claim: what to acquire.
        wait_seconds: how long to wait for the locks; None: without limit. It also bounds the wait for each answer.

    Attributes:
        common: as given, but that ``wait_seconds`` bounds the wait for each answer.
        claim: as given.
        begun: when it began, by the monotonic clock.
        standings: the locks as last seen; None where there was no lock.
        was_found: whether a look found the tenure; any of the tries may have acquired it.
        takeable_at: when all locks can be taken unless one is renewed or released, by the monotonic clock.
    """

    def __init__(self, common: Common, claim: Claim, wait_seconds: float | None) -> None:
        self.claim = claim
        self.common: Common = common
        if wait_seconds is not None:
            self.common = common.within(max(wait_seconds, _ANSWER_SECONDS_MIN))
        self.standings: Mapping[str, Standing | None] = {}
        self._patient = common
        self._layout = common.core.layout
        self.begun: float = common.monotonic()
        self._since = self.begun
        self._until = inf if wait_seconds is None else self.begun + max(wait_seconds, _ANSWER_SECONDS_MIN)
        self._over: int | None = None  # the fence of a tenure that was over before we knew of it
        self._overs = 0
        self._is_open = False
        self.was_found: bool = False
        self.takeable_at: float = self._since
        self.presume_free()

    @property
    def is_open(self) -> bool:
        """Whether the locks are acquired, or a commit was sent that is not known to have failed."""
        return self._is_open

    @property
    def paths(self) -> list[str]:
        """The documents to read for the present standing of all locks."""
        return self.common.sightings.paths(self.claim.resources)

    @property
    def is_takeable(self) -> bool:
        """Whether none of the locks was held when last seen."""
        return all(each is None or each.remaining_seconds <= 0 for each in self.standings.values())

    @property
    def revisions(self) -> dict[str, int | None]:
        """The revisions of the locks' documents, as last seen; None where there was no lock."""
        return {resource: None if each is None else each.lock.revision for resource, each in self.standings.items()}

    def presume_free(self) -> None:
        """Assume that all locks are free; the next commit shows whether they are."""
        self.standings = dict.fromkeys(self.claim.resources)
        self.takeable_at = self.common.monotonic()

    async def at_once(self) -> Tenure | None:
        """Acquire all locks without waiting; None if any of them is held.

        Raises:
            LockAcquisitionFailed: an answer was lost and the outcome could not be looked up, or each answer took longer
                than the lease lasts.
            StoreUnavailable, StoreTimeout: nothing was acquired.
        """
        return await self._settle(_Acquiring(self, is_single=False), self._commit())

    async def send(self, also: Sequence[Write] = ()) -> Tenure | None:
        """Try once to take the locks as last seen; None, after a fresh look, if others were faster.

        Args:
            also: other writes for the same commit.

        Raises:
            LockAcquisitionFailed, StoreUnavailable, StoreTimeout: as for :meth:`at_once`.
        """
        return await self._settle(_Acquiring(self, is_single=True), self._commit(also))

    async def look(self) -> Tenure | None:
        """Look at all locks; the tenure, if they turn out to be ours.

        Raises:
            LockAcquisitionFailed: a commit was sent, and its outcome could not be looked up in time.
            StoreUnavailable, StoreTimeout: the engine could not read, and nothing had been sent.
        """
        return await self._settle(_Acquiring(self, is_single=True), None)

    async def _settle(self, acquiring: _Acquiring, first: Commit[Tenure | None] | None) -> Tenure | None:
        was_open, self._is_open = self._is_open, self._is_open or first is not None
        try:
            tenure = await self._settled(acquiring, first, is_open=was_open)
        except Unavailable:
            # This try applied nothing, but an earlier one may have.
            self._is_open = was_open
            if not was_open or first is None:
                raise
            return await self.look()
        # The locks of a waiter that is cancelled before it has left the line must be given back, too.
        self._is_open = tenure is not None or was_open or acquiring.may_arrive
        while tenure is not None and tenure.remaining_seconds <= 0:
            self._note_over(tenure.fence)
            tenure = await self._settled(acquiring, None, is_open=True)
        return tenure

    async def _settled(
        self, acquiring: _Acquiring, first: Commit[Tenure | None] | None, *, is_open: bool
    ) -> Tenure | None:
        try:
            return await settle(self.common, acquiring, self.common.few, first, is_open=is_open)
        except LockAcquisitionFailed as error:
            # Trying again does not help where a document is damaged or the store was closed, and what they say does.
            if isinstance(error.__cause__, CorruptDocument | RuntimeError):
                raise error.__cause__ from None
            raise

    def judge(self, look: Look, *, is_single: bool) -> Verdict[Tenure | None]:
        """Judge a look, and say what to do next."""
        sightings, resources = self.common.sightings, self.claim.resources
        standings = sightings.standings(resources, sightings.seen(look))
        outcome = judge_acquiring(standings, self.claim.nonce)
        if outcome is Outcome.OURS:
            lock = next(each.lock for each in standings.values() if each and each.record.nonce == self.claim.nonce)
            tenure = self._tenure(Committed(lock.revision, lock.updated_us), self._since)
            if tenure.fence != self._over and tenure.remaining_seconds > 0:
                self.was_found = True
                return Done(tenure)
            self._note_over(tenure.fence)
            standings = {resource: self._takeable(each) for resource, each in standings.items()}
            outcome = judge_acquiring(standings, _NOBODY)
        self._since = look.asked
        self.standings = standings
        left = max((each.remaining_seconds for each in standings.values() if each is not None), default=0.0)
        self.takeable_at = self.common.monotonic() + max(left, _SECONDS_MIN)
        return Done(None) if is_single or outcome is Outcome.HELD else self._commit()

    async def abandon(self, also: Sequence[Write] = ()) -> None:
        """Give back whatever was acquired after all. What fails until the store's timeout expires by itself.

        How long the caller would wait for the lock does not bound this: what is not given back keeps others waiting
        for the whole lease.

        Args:
            also: other writes to make after that, or if it fails.
        """
        paths = [self._layout.lock(each) for each in self.claim.resources]

        def decide(look: Look) -> Verdict[None]:
            there = [each for each in look.documents.values() if each is not None]
            nonces = {each.path: nonce_of(each, LOCK) for each in there}
            fences = {each.revision for each in there if nonces[each.path] == self.claim.nonce}
            ours = [
                Delete(each.path, At(each.revision))
                for each in there
                if each.revision in fences and nonces[each.path] in (None, self.claim.nonce)
            ]
            return Commit(ours, lambda _: None) if ours else Done(None)

        bounds = self._patient.insisting
        steps: list[Callable[[], Awaitable[object]]] = []
        if self._is_open:
            steps.append(lambda: settle(self._patient, Rewrite(paths, decide), bounds, is_open=True))
        if also:
            steps.append(lambda: write(self._patient, also, bounds))
        with anyio.move_on_after(bounds.timeout_seconds) as scope:
            for step in steps:
                try:
                    await step()
                except TaiStateError as error:
                    _logger.warning(
                        "could not clean up after acquiring a lock; it expires by itself", extra=error.fields()
                    )
        if scope.cancelled_caught:
            _logger.warning("could not clean up in time after acquiring a lock; it expires by itself")

    def refusal(self, kind: type[LockAlreadyHeld | LockAcquisitionFailed]) -> LockAlreadyHeld | LockAcquisitionFailed:
        """The error to raise; it names the holder that was last seen."""
        for resource, standing in self.standings.items():
            if standing is not None and standing.remaining_seconds > 0:
                return kind(resource, standing.record.holder, standing.remaining_seconds)
        return kind(self.claim.resources[0], None, None)

    def _writes(self) -> list[Write]:
        record = LockRecord(
            self.claim.holder,
            self.claim.nonce,
            self.claim.ttl_seconds,
            format_us(self.common.core.settings.clock.now_us()),
        )
        writes: list[Write] = []
        for resource, standing in self.standings.items():
            path = self._layout.lock(resource)
            if standing is None:
                writes.append(Put(path, record, ABSENT))
                continue
            beat, lockbeat = standing.beat, self._layout.lockbeat(resource)
            unmoved = Check(lockbeat, ABSENT) if beat is None else Delete(lockbeat, as_read(beat))
            writes += [Put(path, record, At(standing.lock.revision)), unmoved]
        return writes

    def _commit(self, also: Sequence[Write] = ()) -> Commit[Tenure | None]:
        sent = self.common.monotonic()
        if not self._is_open:
            self._since = sent
        return Commit([*self._writes(), *also], lambda committed: self._tenure(committed, sent))

    def _tenure(self, acquired: Committed, since: float) -> Tenure:
        return Tenure(self.claim, acquired, since, self.common.monotonic)

    def _note_over(self, fence: int) -> None:
        """Note that a tenure was over before we knew of it; raises if that goes on for too long."""
        if fence == self._over:
            return
        self._over = fence
        self._overs += 1
        is_late = self._overs > 1 and self.common.monotonic() >= self._until
        if is_late or self._overs >= ATTEMPTS_MAX:
            self.presume_free()
            raise self.refusal(LockAcquisitionFailed)

    def _takeable(self, standing: Standing | None) -> Standing | None:
        """A lock as it stands for us, who may take over our own."""
        if standing is None or standing.record.nonce != self.claim.nonce:
            return standing
        return msgspec.structs.replace(standing, remaining_seconds=0.0)


class _Acquiring:
    """The matter of one try, or of several.

    Args:
        attempt: the attempt that tries.
        is_single: send one commit at most.

    Attributes:
        may_arrive: whether, as of the last look, an unanswered copy may still be applied.
    """

    def __init__(self, attempt: Attempt, *, is_single: bool) -> None:
        self._attempt = attempt
        self._is_single = is_single
        self.may_arrive: bool = False

    def reads(self, sent: Commit[Tenure | None] | None) -> Sequence[str]:  # noqa: ARG002
        return self._attempt.paths

    def judge(self, look: Look, sent: Commit[Tenure | None] | None) -> Verdict[Tenure | None]:  # noqa: ARG002
        self.may_arrive = look.may_arrive
        return self._attempt.judge(look, is_single=self._is_single)

    def is_overtaken(self, sent: Commit[Tenure | None], look: Look) -> bool:
        return overtaken(sent.writes, look)

    def smaller(self, sent: Commit[Tenure | None], error: TooLarge) -> None:  # noqa: ARG002
        return None

    def outrun(self) -> None:
        return None

    def unsettled(self) -> TaiStateError:
        return self._attempt.refusal(LockAcquisitionFailed)
