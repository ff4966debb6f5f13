"""Keeping a lease: renewing it, knowing when it is over, and giving it back."""

from __future__ import annotations

import logging

import anyio

from tai_state.engines.api import ANYTHING, At, Check, Delete, Put, Write
from tai_state.errors import CommitRefused, LockLost, StoreUnavailable, TaiStateError, Unavailable
from tai_state.locks.common import Common
from tai_state.locks.lease import Tenure
from tai_state.locks.records import BeatRecord

_logger = logging.getLogger("tai_state.locks")

RENEWALS_PER_TTL = 3

ATTEMPTS_MAX = 8
"""How often a renewal or a release is sent whose answer is lost, or is a refusal though the lock stands unmoved."""


class Keeper:
    """Renews and releases.

    Args:
        common: what all parts share.
    """

    def __init__(self, common: Common) -> None:
        self._common = common
        self._engine = common.core.engine
        self._layout = common.core.layout

    async def keep(self, tenure: Tenure) -> None:
        """Renew a tenure until it is over; ``tenure.lost`` then says why, unless it was released."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._renew_on_and_on, tenure, tasks.cancel_scope)
            while tenure.remaining > 0:
                await self._common.sleep(tenure.remaining)
            tasks.cancel_scope.cancel()
        self.lose_if_over(tenure)

    def lose_if_over(self, tenure: Tenure) -> None:
        """Where its time has passed, a tenure is lost for good."""
        if tenure.remaining <= 0 and not tenure.is_given_up and tenure.lost is None:
            tenure.lost = LockLost(tenure.claim.resources[0])
            _logger.warning("a lease was not renewed in time", extra=tenure.lost.fields())

    async def renew(self, tenure: Tenure) -> None:
        """Make a tenure last its whole time again, counted from now.

        Raises:
            LockLost: it is over.
            StoreUnavailable, StoreTimeout: it was not renewed, as far as is known; it may be tried again.
        """
        for _ in range(ATTEMPTS_MAX):
            self.lose_if_over(tenure)
            if tenure.lost is not None or tenure.is_given_up:
                raise tenure.lost or LockLost(tenure.claim.resources[0])
            sent = self._common.monotonic()
            tenure.beats += 1
            try:
                await self._engine.commit(self._renewal(tenure))
            except CommitRefused:
                if not tenure.is_given_up:
                    tenure.lost = await self._loss(tenure)
            else:
                tenure.since = max(tenure.since, sent)
                return
        raise StoreUnavailable("commit", "REFUSED", "a renewal is refused, though the lock stands as it was acquired")

    async def release(self, tenure: Tenure) -> None:
        """Give all of a tenure back, also one whose time has passed; one that was given back stays so.

        Raises:
            LockLost: somebody else has it, or had it.
            StoreUnavailable, StoreTimeout: it is not known to be given back; it ends by itself.
        """
        if tenure.is_released:
            return
        was_held = tenure.remaining > 0
        tenure.is_given_up = True
        failure: Unavailable | None = None
        for attempt in range(ATTEMPTS_MAX):
            try:
                await self._common.commit(self._return(tenure))
            except CommitRefused:
                loss = await self._loss(tenure)
                if loss is None:
                    continue
                # Gone, and none of ours was lost on its way: somebody took it. Where nobody has it and its time had
                # not passed, nobody can have taken it: this was the second answer to our own deletion.
                if failure is None and not (was_held and loss.holder is None):
                    tenure.lost = loss
                    raise loss from None
            except Unavailable as error:
                failure = error
                await self._common.pause(attempt)
                continue
            tenure.is_released = True
            return
        raise failure or StoreUnavailable("commit", "REFUSED", "a release is refused, though the lock stands")

    async def end(self, tenure: Tenure) -> LockLost | None:
        """Give a tenure back at the end of its block, whatever happens; the loss, if it was over before that."""
        self.lose_if_over(tenure)
        loss = tenure.lost
        with anyio.move_on_after(self._common.core.settings.timeout_seconds, shield=True):
            try:
                await self.release(tenure)
            except LockLost as error:
                loss = error
            except TaiStateError as error:
                _logger.warning("a lock could not be released; it ends by itself", extra=error.fields())
        return loss

    async def _renew_on_and_on(self, tenure: Tenure, scope: anyio.CancelScope) -> None:
        pause = tenure.claim.ttl / RENEWALS_PER_TTL
        while True:
            await self._common.sleep(max(0.0, tenure.since + pause - self._common.monotonic()))
            try:
                await self.renew(tenure)
            except LockLost:
                scope.cancel()
                return
            except TaiStateError as error:
                _logger.warning("a lease could not be renewed; trying again", extra=error.fields())
                await self._common.sleep(pause / RENEWALS_PER_TTL)

    async def _loss(self, tenure: Tenure) -> LockLost | None:
        """Who has it instead; None where it stands as it was acquired. Its revision, once gone, never comes back."""
        for resource, standing in (await self._common.sightings.locks(tenure.claim.resources)).items():
            if standing is None:
                return LockLost(resource)
            if standing.lock.revision != tenure.fence:
                return LockLost(resource, standing.record.holder, standing.remaining)
        return None

    def _renewal(self, tenure: Tenure) -> list[Write]:
        beat = BeatRecord(tenure.claim.nonce, tenure.beats)
        checks = [Check(self._layout.lock(each), At(tenure.fence)) for each in tenure.claim.resources]
        return [*checks, *(Put(self._layout.lockbeat(each), beat, ANYTHING) for each in tenure.claim.resources)]

    def _return(self, tenure: Tenure) -> list[Write]:
        return [Delete(self._layout.lock(each), At(tenure.fence)) for each in tenure.claim.resources]
