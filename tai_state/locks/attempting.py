"""Acquiring: one commit for all that is wanted, and what it means if it is refused or not answered."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from tai_state.engines.api import ABSENT, At, Check, Delete, Put, Write
from tai_state.engines.matters import Commit, Done, Look, TooLarge, Verdict, overtaken
from tai_state.engines.rewriting import Rewrite, write
from tai_state.engines.settling import settle
from tai_state.errors import LockAcquisitionFailed, LockAlreadyHeld, TaiStateError, Unavailable
from tai_state.locks.common import Common
from tai_state.locks.judging import Outcome, judge_acquiring
from tai_state.locks.lease import Claim, Tenure
from tai_state.locks.records import LOCK, LockRecord
from tai_state.locks.sighting import Standing
from tai_state.values.times import format_us

_logger = logging.getLogger("tai_state.locks")

ATTEMPTS_MAX = 8
"""How often a lock that seems to be free is tried before its caller gets in line."""

_SECONDS_MIN = 0.01
"""Between two looks at locks whose time is almost over."""


class Attempt:
    """The tries of one call to acquire what a claim names, all with the same nonce.

    A commit is sent as if all were free, at first without looking. When one is refused or not answered, one look
    decides: where our nonce stands we hold all of it, since one commit wrote it. The lease is counted from the last
    moment at which it was certainly not ours yet.

    Args:
        common: what all parts share.
        claim: what is wanted.

    Attributes:
        claim: as given.
        standings: how the locks stood when last looked at; None where there was none.
        was_found: the tenure was found by looking; it may be from any of the tries.
        takeable_at: when all of it can be taken if nobody renews or releases, by the monotonic clock.
    """

    def __init__(self, common: Common, claim: Claim) -> None:
        self.claim = claim
        self.standings: Mapping[str, Standing | None] = {}
        self._common = common
        self._layout = common.core.layout
        self._since = common.monotonic()
        self._is_open = False
        self.was_found: bool = False
        self.takeable_at: float = self._since
        self.presume_free()

    @property
    def is_open(self) -> bool:
        """Whether something was sent of which it is not known that it failed."""
        return self._is_open

    @property
    def paths(self) -> list[str]:
        """What must be read to know how all of it stands."""
        return self._common.sightings.paths(self.claim.resources)

    @property
    def is_takeable(self) -> bool:
        """Whether, as last seen, nobody holds any of it."""
        return all(each is None or each.remaining_seconds <= 0 for each in self.standings.values())

    @property
    def revisions(self) -> dict[str, int | None]:
        """Of the locks' documents, as last seen; None where there was none."""
        return {resource: None if each is None else each.lock.revision for resource, each in self.standings.items()}

    def presume_free(self) -> None:
        """Go on as if there were no locks on any of it: the next commit tells."""
        self.standings = dict.fromkeys(self.claim.resources)
        self.takeable_at = self._common.monotonic()

    async def at_once(self) -> Tenure | None:
        """Acquire it if nobody holds it, without waiting; None if somebody does.

        Raises:
            LockAcquisitionFailed: answers were lost and what came of it could not be looked up.
            StoreUnavailable, StoreTimeout: nothing was acquired.
        """
        return await self._settle(_Acquiring(self, is_single=False), self._commit())

    async def send(self, also: Sequence[Write] = ()) -> Tenure | None:
        """One try to take it from where it stood when last looked at; None, and a fresh look, if others were faster.

        Args:
            also: what else is to be written with it.

        Raises:
            LockAcquisitionFailed, StoreUnavailable, StoreTimeout: as for :meth:`at_once`.
        """
        return await self._settle(_Acquiring(self, is_single=True), self._commit(also))

    async def look(self) -> Tenure | None:
        """See how all of it stands; the tenure, if it turns out to be ours.

        Raises:
            LockAcquisitionFailed: something was sent, and what came of it could not be looked up in time.
            StoreUnavailable, StoreTimeout: the engine could not look, and nothing had been sent.
        """
        return await self._settle(_Acquiring(self, is_single=True), None)

    async def _settle(self, acquiring: _Acquiring, first: Commit[Tenure | None] | None) -> Tenure | None:
        was_open, self._is_open = self._is_open, self._is_open or first is not None
        bounds = self._common.bounds(ATTEMPTS_MAX)
        try:
            tenure = await settle(self._common, acquiring, bounds, first, is_open=was_open)
        except Unavailable:
            # Of this try nothing was applied; of an earlier one, something may have been.
            self._is_open = was_open
            if not was_open or first is None:
                raise
            return await self.look()
        self._is_open = tenure is None and (was_open or acquiring.may_arrive)
        return tenure

    def judge(self, look: Look, *, is_single: bool) -> Verdict[Tenure | None]:
        """What a look means, and what is done."""
        sightings, resources = self._common.sightings, self.claim.resources
        standings = sightings.standings(resources, sightings.seen(look))
        outcome = judge_acquiring(standings, self.claim.nonce)
        if outcome is Outcome.OURS:
            fence = next(
                each.lock.revision for each in standings.values() if each and each.record.nonce == self.claim.nonce
            )
            self.was_found = True
            return Done(self._accepted(fence, self._since))
        self._since = look.asked
        self.standings = standings
        left = max((each.remaining_seconds for each in standings.values() if each is not None), default=0.0)
        self.takeable_at = self._common.monotonic() + max(left, _SECONDS_MIN)
        return Done(None) if is_single or outcome is Outcome.HELD else self._commit()

    async def abandon(self, also: Sequence[Write] = ()) -> None:
        """Give back what was perhaps acquired all the same. Where that fails, it ends by itself.

        Args:
            also: what else is to be written.
        """
        paths = [self._layout.lock(each) for each in self.claim.resources]

        def decide(look: Look) -> Verdict[None]:
            there = [each for each in look.documents.values() if each is not None]
            ours = [
                Delete(each.path, At(each.revision)) for each in there if each.decode(LOCK).nonce == self.claim.nonce
            ]
            return Commit(ours, lambda _: None) if ours else Done(None)

        try:
            if also:
                await write(self._common, also, self._common.bounds())
            if self._is_open:
                await settle(self._common, Rewrite(paths, decide), self._common.bounds())
        except TaiStateError as error:
            _logger.warning("what a lock's acquiring left ends by itself", extra=error.fields())

    def refusal(self, kind: type[LockAlreadyHeld | LockAcquisitionFailed]) -> LockAlreadyHeld | LockAcquisitionFailed:
        """The error that names who was last seen to hold something of it."""
        for resource, standing in self.standings.items():
            if standing is not None and standing.remaining_seconds > 0:
                return kind(resource, standing.record.holder, standing.remaining_seconds)
        return kind(self.claim.resources[0], None, None)

    def _writes(self) -> list[Write]:
        record = LockRecord(
            self.claim.holder,
            self.claim.nonce,
            self.claim.ttl_seconds,
            format_us(self._common.core.settings.clock.now_us()),
        )
        writes: list[Write] = []
        for resource, standing in self.standings.items():
            path = self._layout.lock(resource)
            if standing is None:
                writes.append(Put(path, record, ABSENT))
                continue
            beat = standing.beat
            writes += [
                Put(path, record, At(standing.lock.revision)),
                Check(self._layout.lockbeat(resource), ABSENT if beat is None else At(beat.revision)),
            ]
        return writes

    def _commit(self, also: Sequence[Write] = ()) -> Commit[Tenure | None]:
        sent = self._common.monotonic()
        return Commit([*self._writes(), *also], lambda committed: self._accepted(committed.revision, sent))

    def _accepted(self, fence: int, since: float) -> Tenure:
        """A tenure, unless it was over before the answer came."""
        tenure = Tenure(self.claim, fence, since, self._common.monotonic)
        if tenure.remaining_seconds > 0:
            return tenure
        self.presume_free()
        raise self.refusal(LockAcquisitionFailed)


class _Acquiring:
    """The matter of one try, or of several.

    Args:
        attempt: that tries.
        is_single: one commit at most.

    Attributes:
        may_arrive: a copy of which no answer came may still be under way, as of the last look.
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
