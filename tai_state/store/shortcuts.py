"""Shortcuts on the store to what is built above it.

The one place that looks up the house instead of down: each method imports what it forwards to when it is called.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar, cast

from tai_state.store.changes import Fence
from tai_state.store.core import StoreCore
from tai_state.values.metadata import ChangeMetadata
from tai_state.values.states import JsonSnapshot

if TYPE_CHECKING:
    from tai_state.history.persister import StateMachinePersister
    from tai_state.history.recovery import RecoveryReport
    from tai_state.locks.lease import Lease
    from tai_state.locks.locking import LockManager
    from tai_state.store.store import StateStore
    from tai_state.transactions.manager import TransactionManager
    from tai_state.transactions.transaction import Transaction

R = TypeVar("R")


class Shortcuts(StoreCore):
    """The part of a store that forwards to the packages above it."""

    async def state_at(self, governor_id: str, state_id: str, version_or_time: int | datetime) -> JsonSnapshot:
        """See :meth:`StateMachinePersister.get_state_at`; events that need a reducer need a persister of one's own."""
        return await self._persister().get_state_at(governor_id, state_id, version_or_time)

    async def recover(self, governor_id: str | None = None, *, concurrency: int = 8) -> RecoveryReport:
        """See :meth:`StateMachinePersister.recover`; events that need a reducer need a persister of one's own."""
        return await self._persister().recover(governor_id, concurrency=concurrency)

    async def transact(
        self,
        function: Callable[[Transaction], Awaitable[R]],
        metadata: ChangeMetadata | None = None,
        *,
        fence: Fence | None = None,
    ) -> R:
        """See :meth:`TransactionManager.transact`."""
        return await self.transactions.transact(function, metadata, fence=fence)

    @cached_property
    def transactions(self) -> TransactionManager:
        """The manager of this store's transactions; it remembers what became of the last ones."""
        from tai_state.transactions.manager import TransactionManager  # noqa: PLC0415

        return TransactionManager(cast("StateStore", self))

    def lock(
        self,
        resource: str,
        *,
        ttl: float = 30.0,
        wait: float | None = None,
        holder: str = "",
        holding: Sequence[Lease] = (),
    ) -> AbstractAsyncContextManager[Lease]:
        """See :meth:`LockManager.lock`."""
        return self.locks.lock(resource, ttl=ttl, wait=wait, holder=holder, holding=holding)

    @cached_property
    def locks(self) -> LockManager:
        """The manager of this store's locks; it remembers which of them it saw standing still."""
        from tai_state.locks.locking import LockManager  # noqa: PLC0415

        return LockManager(cast("StateStore", self))

    def _persister(self) -> StateMachinePersister:
        from tai_state.history.persister import StateMachinePersister  # noqa: PLC0415

        return StateMachinePersister(cast("StateStore", self))
