"""Acquiring: one commit for all that is wanted, and what it means if it is refused or not answered."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import count

from tai_state.engines.api import ABSENT, At, Check, Delete, Put, Write
from tai_state.errors import CommitRefused, LockAcquisitionFailed, LockAlreadyHeld, TaiStateError, Unavailable
from tai_state.locks.common import Common
from tai_state.locks.lease import Claim, Tenure
from tai_state.locks.records import LockRecord
from tai_state.locks.sighting import Standing
from tai_state.values.times import format_us

_logger = logging.getLogger("tai_state.locks")

ATTEMPTS_MAX = 8
"""How often a lock that seems to be free is tried before its caller gets in line."""

LOOKS_MAX = 64
"""How often it is looked up what came of a try."""

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
        self._engine = common.core.engine
        self._layout = common.core.layout
        self._since = common.monotonic()
        self._is_open = False
        self._is_unanswered = False
        self.was_found: bool = False
        self.takeable_at: float = self._since
        self.presume_free()

    @property
    def is_open(self) -> bool:
        """Whether something was sent of which it is not known that it failed."""
        return self._is_open

    @property
    def is_takeable(self) -> bool:
        """Whether, as last seen, nobody holds any of it."""
        return all(each is None or each.remaining <= 0 for each in self.standings.values())

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
        for attempt in range(ATTEMPTS_MAX):
            tenure = await self.send()
            if tenure is not None or not self.is_takeable:
                return tenure
            await self._common.pause(attempt)
        return None

    async def send(self, also: Sequence[Write] = ()) -> Tenure | None:
        """One try to take it from where it stood when last looked at; None, and a fresh look, if others were faster.

        Args:
            also: what else is to be written with it.

        Raises:
            LockAcquisitionFailed, StoreUnavailable, StoreTimeout: as for :meth:`at_once`.
        """
        was_open, self._is_open = self._is_open, True
        sent = self._common.monotonic()
        try:
            committed = await self._common.commit([*self._writes(), *also])
        except CommitRefused:
            return await self.look()
        except Unavailable as error:
            if not error.unknown and not was_open:
                self._is_open = False
                raise
            self._is_unanswered = self._is_unanswered or error.unknown
            _logger.warning("the answer to acquiring a lock was lost: looking whether it is held", extra=error.fields())
            return await self.look()
        return self._accepted(committed.revision, sent)

    async def look(self) -> Tenure | None:
        """See how all of it stands; the tenure, if it turns out to be ours.

        Raises:
            LockAcquisitionFailed: something was sent, and what came of it could not be looked up in time.
            StoreUnavailable, StoreTimeout: the engine could not look, and nothing had been sent.
        """
        asked = self._common.monotonic()
        for standing in (standings := await self._read()).values():
            if standing is not None and standing.record.nonce == self.claim.nonce:
                self.was_found = True
                return self._accepted(standing.lock.revision, self._since)
        self._since = asked
        self._is_open = self._is_unanswered
        self.standings = standings
        left = max((each.remaining for each in standings.values() if each is not None), default=0.0)
        self.takeable_at = self._common.monotonic() + max(left, _SECONDS_MIN)
        return None

    async def abandon(self, also: Sequence[Write] = ()) -> None:
        """Give back what was perhaps acquired all the same. Where that fails, it ends by itself.

        Args:
            also: what else is to be written.
        """
        try:
            if also:
                await self._engine.commit(also)
            if self._is_open:
                for standing in (await self._common.sightings.locks(self.claim.resources)).values():
                    if standing is not None and standing.record.nonce == self.claim.nonce:
                        fence = At(standing.lock.revision)
                        await self._engine.commit(
                            [Delete(self._layout.lock(each), fence) for each in self.claim.resources]
                        )
                        break
        except TaiStateError as error:
            _logger.warning("what a lock's acquiring left ends by itself", extra=error.fields())

    def refusal(self, kind: type[LockAlreadyHeld | LockAcquisitionFailed]) -> LockAlreadyHeld | LockAcquisitionFailed:
        """The error that names who was last seen to hold something of it."""
        for resource, standing in self.standings.items():
            if standing is not None and standing.remaining > 0:
                return kind(resource, standing.record.holder, standing.remaining)
        return kind(self.claim.resources[0], None, None)

    def _writes(self) -> list[Write]:
        record = LockRecord(
            self.claim.holder,
            self.claim.nonce,
            self.claim.ttl,
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

    async def _read(self) -> dict[str, Standing | None]:
        """A look; again and again where something was sent, for as long as the store looks after a change."""
        deadline = self._common.monotonic() + self._common.core.settings.timeout_seconds
        for attempt in count():
            try:
                return await self._common.sightings.locks(self.claim.resources)
            except Unavailable as error:
                if not self._is_open:
                    raise
                if attempt == LOOKS_MAX or self._common.monotonic() >= deadline:
                    raise self.refusal(LockAcquisitionFailed) from error
                await self._common.pause(attempt)
        raise AssertionError("counting has no end")

    def _accepted(self, fence: int, since: float) -> Tenure:
        """A tenure, unless it was over before the answer came."""
        tenure = Tenure(self.claim, fence, since, self._common.monotonic)
        if tenure.remaining > 0:
            return tenure
        self.presume_free()
        raise self.refusal(LockAcquisitionFailed)
