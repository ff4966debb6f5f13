"""Keeping a lease: renewing it, noticing when it expires, and releasing it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import anyio

from tai_state.engines.api import ANYTHING, At, Check, Delete, Document, Put, Write
from tai_state.engines.matters import Commit, Done, Failed, Look, Verdict, Waist
from tai_state.engines.rewriting import Rewrite, write
from tai_state.engines.settling import settle
from tai_state.errors import CorruptDocument, LockLost, StoreTimeout, TaiStateError
from tai_state.locks.common import Common, to_its_end
from tai_state.locks.judging import judge_keeping, judge_returning
from tai_state.locks.lease import Tenure
from tai_state.locks.records import BeatRecord

_logger = logging.getLogger("tai_state.locks")

RENEWALS_PER_TTL = 3
"""How often a lease is renewed in its time. A renewal that is not answered by the time of the next is sent again."""


class Keeper:
    """Renews and releases tenures.

    Args:
        common: what all parts of the locks share.

    Attributes:
        renewals: how many renewals are under way.
    """

    def __init__(self, common: Common) -> None:
        self.renewals: int = 0
        self._common = common
        self._layout = common.core.layout
        self._has_shared_clock = common.core.engine.capabilities.shared_clock
        self._releasing = replace(common.few, insists=True)

    async def keep(self, tenure: Tenure, block: anyio.CancelScope) -> None:
        """Renew a tenure until it is over, and then cancel its block, unless the holder released it.

        The block does not wait for a renewal that is under way.
        """

        def end() -> None:
            self.lose_if_over(tenure)
            if tenure.lost is not None:
                block.cancel()
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._renew_on_and_on, tenure, end)
            while tenure.remaining_seconds > 0:
                await self._common.sleep(tenure.remaining_seconds)
            end()

    def lose_if_over(self, tenure: Tenure) -> None:
        """Mark a tenure as lost if it has expired; that is final."""
        if tenure.remaining_seconds <= 0 and not tenure.is_given_up and tenure.lost is None:
            tenure.lost = LockLost(tenure.claim.resources[0])
            _logger.warning("a lease was not renewed in time", extra=tenure.lost.fields())

    async def renew(self, tenure: Tenure) -> None:
        """Renew a tenure for its whole time, counted from now.

        Raises:
            LockLost: it is over.
            StoreUnavailable, StoreTimeout: it is not known to be renewed; try again.
        """
        self.lose_if_over(tenure)
        if tenure.lost is not None or tenure.is_given_up:
            raise tenure.lost or LockLost(tenure.claim.resources[0])
        tenure.beats += 1
        self.renewals += 1

        def renewal(since: float) -> Commit[None]:
            tenure.sent = self._common.monotonic()
            return Commit(self._renewal(tenure), lambda committed: tenure.renewed(committed, since))

        def decide(look: Look) -> Verdict[None]:
            loss = self._loss_error(tenure, look)
            # The copies look the same. When this look was asked for, none had arrived, but then an earlier one may.
            return renewal(look.asked) if loss is None else Failed(loss)

        what = "it is unknown whether the lease was renewed; renew it again"
        rewrite = Rewrite(self._paths(tenure), decide, partial(StoreTimeout, "renew", "UNKNOWN", what))
        try:
            waist = self._common.within(tenure.claim.ttl_seconds / RENEWALS_PER_TTL)
            await settle(waist, rewrite, self._common.few, renewal(self._common.monotonic()))
        except LockLost as loss:
            if not tenure.is_given_up:
                tenure.lost = loss
            raise
        finally:
            self.renewals -= 1

    async def release(self, tenure: Tenure) -> None:
        """Release all locks of a tenure, even after it has expired; once it is released, this does nothing.

        If one of several locks is lost, the others are released all the same.

        Raises:
            LockLost: a lock of it was broken, or its time had passed and another caller has a lock of it or may have
                had one. Each later call raises the same error.
            StoreUnavailable, StoreTimeout: it is not known to be released; it expires by itself.
        """
        await self._release(tenure, self._common)

    async def _release(self, tenure: Tenure, waist: Waist) -> None:
        if not tenure.is_released:
            await self._return_all(tenure, waist)
        if tenure.refusal is not None:
            raise tenure.refusal

    async def _return_all(self, tenure: Tenure, waist: Waist) -> None:
        """Delete what is left of a tenure's locks; ``tenure.refusal`` then says whether one of them was lost."""
        before = tenure.returned_in_time
        was_held = tenure.is_in_time if before is None else before
        tenure.is_given_up, tenure.returned_in_time = True, was_held
        note = self._layout.lockbreak(tenure.claim.nonce)
        is_broken = False

        def decide(look: Look) -> Verdict[None]:
            nonlocal is_broken
            is_broken = look.documents[note] is not None
            locks = self._locks(tenure, look)
            loss = None if tenure.refusal is not None else self._loss_error(tenure, look)
            was_unanswered = before is not None or look.was_unanswered
            if loss is not None and not judge_returning(
                locks,
                tenure.claim.nonce,
                is_broken=is_broken,
                was_held=was_held,
                was_unanswered=was_unanswered,
                is_early=look.time_us < tenure.ends_us if self._has_shared_clock else None,
            ):
                tenure.refusal = tenure.lost = loss
            ours = [each for each, lock in locks.items() if lock and lock.revision == tenure.fence]
            return Commit(self._return(tenure, ours), lambda _: None) if ours else Done(None)

        what = "it is unknown whether the lock was released; release it again, or let it expire"
        unsettled = StoreTimeout("release", "UNKNOWN", what)
        rewrite = Rewrite([*self._paths(tenure), note], decide, lambda: unsettled, is_telling=False)
        first = Commit(self._return(tenure, tenure.claim.resources), lambda _: None) if tenure.refusal is None else None
        try:
            await settle(waist, rewrite, self._releasing, first)
            tenure.is_released = True
        except TaiStateError as error:
            if error is not unsettled:  # nothing was applied
                tenure.returned_in_time = before
            if tenure.refusal is None:
                raise
            _logger.warning(
                "could not release the locks that are left; they expire by themselves", extra=error.fields()
            )
        if is_broken:
            await self._remove(note, waist)

    async def end(self, tenure: Tenure) -> LockLost | None:
        """Release a tenure at the end of its block, without raising; the loss, if it was over before that."""
        self.lose_if_over(tenure)
        return await to_its_end(partial(self._end, tenure)) or tenure.lost

    async def _end(self, tenure: Tenure) -> LockLost | None:
        with anyio.move_on_after(self._common.core.settings.timeout_seconds) as scope:
            try:
                await self._release(tenure, self._common.core.engine)  # this task is not cancelled
            except LockLost as loss:
                return loss
            except TaiStateError as error:
                _logger.warning("could not release a lock; it expires by itself", extra=error.fields())
        if scope.cancelled_caught:
            _logger.warning("could not release a lock in time; it expires by itself")
        return None

    async def _remove(self, note: str, waist: Waist) -> None:
        try:
            await write(waist, [Delete(note, ANYTHING)], self._common.few)
        except TaiStateError as error:
            _logger.debug("could not remove the note of a broken lock; a cleanup will", extra=error.fields())

    async def _renew_on_and_on(self, tenure: Tenure, end: Callable[[], None]) -> None:
        pause = tenure.claim.ttl_seconds / RENEWALS_PER_TTL
        while True:
            await self._common.sleep(max(0.0, tenure.since + pause - self._common.monotonic()))
            try:
                await self.renew(tenure)
            except LockLost:
                end()
                return
            except TaiStateError as error:
                _logger.warning("could not renew a lease; trying again", extra=error.fields())
                await self._common.sleep(pause / RENEWALS_PER_TTL)

    def _paths(self, tenure: Tenure) -> list[str]:
        return self._common.sightings.paths(tenure.claim.resources)

    def _locks(self, tenure: Tenure, look: Look) -> Mapping[str, Document | None]:
        return {each: look.documents[self._layout.lock(each)] for each in tenure.claim.resources}

    def _loss_error(self, tenure: Tenure, look: Look) -> LockLost | None:
        """The error for the first lock that we no longer hold; None if all stand as they were acquired."""
        _, resource = judge_keeping(self._locks(tenure, look), tenure.fence)
        if resource is None:
            return None
        sightings = self._common.sightings
        try:
            standing = sightings.standing(resource, sightings.seen(look))
        except CorruptDocument:
            standing = None
        if standing is None:
            return LockLost(resource)
        return LockLost(resource, standing.record.holder, standing.remaining_seconds)

    def _renewal(self, tenure: Tenure) -> list[Write]:
        beat = BeatRecord(tenure.claim.nonce, tenure.beats)
        checks = [Check(self._layout.lock(each), At(tenure.fence)) for each in tenure.claim.resources]
        return [*checks, *(Put(self._layout.lockbeat(each), beat, ANYTHING) for each in tenure.claim.resources)]

    def _return(self, tenure: Tenure, resources: Sequence[str]) -> list[Write]:
        beats = [Delete(self._layout.lockbeat(each), ANYTHING) for each in resources] if tenure.beats else []
        return [*(Delete(self._layout.lock(each), At(tenure.fence)) for each in resources), *beats]
