"""Running transactions: again after a conflict, never after an unknown outcome."""

from __future__ import annotations

import logging
import uuid
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from tenacity import (
    AsyncRetrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

from tai_state.errors import CommitOutcomeUnknown, InvalidId, TaiStateError, TransactionFailed, VersionConflict
from tai_state.history.folding import Reducers
from tai_state.streams.changes import Fence
from tai_state.streams.core import Core, HasCore
from tai_state.transactions.recent import RecentWrites
from tai_state.transactions.records import StateVersion, TransactionRecord, TransactionStatus
from tai_state.transactions.transaction import Transaction
from tai_state.values.metadata import ChangeMetadata
from tai_state.values.states import JsonSnapshot
from tai_state.values.times import from_us

R = TypeVar("R")

ATTEMPTS_MAX = 64
"""How often a transaction's function runs when others are faster."""

RECORDS_MAX = 1_000
"""Transactions that a manager remembers."""

_PAUSE_SECONDS = 0.005
_PAUSE_SECONDS_MAX = 1.0

_logger = logging.getLogger("tai_state.transactions")
_under_way: ContextVar[tuple[Transaction, ...]] = ContextVar("tai_state_transactions", default=())


class TransactionManager:
    """Changes several states of a store at once.

    Transactions are optimistic: nobody holds anything on the server, so a process that dies in the middle of one blocks
    nobody. They are serializable for states read by id; see :class:`Transaction`.

    Args:
        store: an open one.
        reducers: by action: what folds the payload-carrying events that a transaction records.
    """

    def __init__(self, store: HasCore, reducers: Reducers | None = None) -> None:
        self._core = core = store.core
        self._reducers: Reducers = {} if reducers is None else reducers
        self._recent = RecentWrites(core.appender.heads)
        self._records: OrderedDict[str, TransactionRecord] = OrderedDict()

    async def transact(
        self,
        function: Callable[[Transaction], Awaitable[R]],
        metadata: ChangeMetadata | None = None,
        *,
        governor_id: str | None = None,
        fence: Fence | None = None,
    ) -> R:
        """Run a function whose reads and writes take effect together; again from the start where others were faster.

        Between attempts there is a pause with full jitter, up to a second; an attempt after a conflict first waits
        for its turn among the tasks of this process that change the same states. A state that the function reads first
        is not read again if a transaction of this manager wrote it last; where others have written it meanwhile, the
        function runs once more. So one that changes a single state again and again costs one call of the engine.

        Args:
            function: reads and writes by the transaction that it is given, and has no other effect: it may run several
                times. Its result is returned.
            metadata: who and why, for every write that does not bring its own.
            governor_id: of states that are named by their id alone.
            fence: a lease; the writes happen only as long as its lock is held.

        Raises:
            TransactionFailed: others were faster each time, 64 times or for as long as the store looks after a change;
                nothing was written.
            CommitOutcomeUnknown: all of it may be written, or nothing. It is not run again; to be able to ask, let the
                function write a state named after the request, and return early where it finds it.
            LockLost: the lease given as fence is over; nothing was written.
            VersionConflict: a write's own ``expected`` does not hold; nothing was written, and it is not run again.
            Anything that the function raises; nothing was written then.
        """
        last: Transaction | None = None
        attempts = AsyncRetrying(
            retry=retry_if_exception(lambda error: last is not None and last.conflict is error),
            stop=stop_after_attempt(ATTEMPTS_MAX) | stop_after_delay(self._core.settings.timeout_seconds),
            wait=wait_random_exponential(multiplier=_PAUSE_SECONDS, max=_PAUSE_SECONDS_MAX),
            reraise=True,
        )
        with self._recorded() as book:
            try:
                async for attempt in attempts:
                    with attempt:
                        async with self._core.turns.of(last.paths if last else ()):
                            last = self._begun(metadata, governor_id, self._recent, is_in_turn=last is not None)
                            return await book.run(last, function, fence)
            except VersionConflict as conflict:
                if last is None or last.conflict is not conflict:
                    raise
                raise TransactionFailed(book.attempts, str(conflict)) from conflict
        raise AssertionError("the last attempt returns or raises")

    async def execute_transaction(
        self,
        governor_id: str,
        function: Callable[[Transaction], Awaitable[R]],
        metadata: ChangeMetadata | None = None,
        *,
        fence: Fence | None = None,
    ) -> R:
        """:meth:`transact` on the states of one governor, which the function may name by their ids."""
        return await self.transact(function, metadata, governor_id=governor_id, fence=fence)

    async def read_write_transaction(
        self,
        governor_id: str,
        to_read: Sequence[str],
        decide: Callable[[dict[str, JsonSnapshot | None]], Mapping[str, dict[str, Any] | None]],
        metadata: ChangeMetadata,
        *,
        fence: Fence | None = None,
    ) -> dict[str, dict[str, Any] | None]:
        """Read some states of a governor, decide, and write what was decided: two calls of the engine at most.

        Args:
            governor_id: the owner and namespace.
            to_read: ids of the states to read.
            decide: pure: from the states as read (None where there is none) to the new data of each state to write
                (None: delete it). It runs again on what was just read where others were faster.
            metadata: who and why.
            fence: a lease; the writes happen only as long as its lock is held.

        Returns:
            What was decided and written.

        Raises:
            InvalidId: one str, which is not a sequence of ids. Otherwise as :meth:`transact`.
        """
        if isinstance(to_read, str):
            raise InvalidId("to_read", "a sequence of ids, not one str")

        async def function(transaction: Transaction) -> dict[str, dict[str, Any] | None]:
            found = await transaction.get_all(*to_read)
            decided = dict(decide(dict(zip(to_read, found, strict=True))))
            for state_id, data in decided.items():
                if data is None:
                    transaction.delete(state_id)
                else:
                    transaction.put(state_id, data)
            return decided

        return await self.execute_transaction(governor_id, function, metadata, fence=fence)

    @asynccontextmanager
    async def transaction(
        self,
        metadata: ChangeMetadata | None = None,
        *,
        governor_id: str | None = None,
        fence: Fence | None = None,
    ) -> AsyncGenerator[Transaction, None]:
        """A transaction around a block; it is committed at the block's end, and never run again.

        Args:
            metadata: who and why, for every write that does not bring its own.
            governor_id: of states that are named by their id alone.
            fence: a lease; the writes happen only as long as its lock is held.

        Raises:
            VersionConflict: at the block's end, or at a read: something that it read has moved; nothing was written.
            Otherwise as :meth:`transact`.
        """
        with self._recorded() as book:
            transaction = self._begun(metadata, governor_id, None)
            with book.begun(transaction):
                yield transaction
                await book.commit(transaction, fence)

    def get_transaction_log(self) -> list[TransactionRecord]:
        """The transactions that this manager ran, the newest last; at most 1,000."""
        return list(self._records.values())

    def get_transaction(self, transaction_id: str) -> TransactionRecord | None:
        """One of them; None where it is not remembered (any more)."""
        return self._records.get(transaction_id)

    def _begun(
        self,
        metadata: ChangeMetadata | None,
        governor_id: str | None,
        recent: RecentWrites | None,
        *,
        is_in_turn: bool = False,
    ) -> Transaction:
        return Transaction(self._core, metadata, governor_id, self._reducers, recent, is_in_turn=is_in_turn)

    @contextmanager
    def _recorded(self) -> Generator[_Book, None, None]:
        """Keep the account of one transaction, from its beginning to its end."""
        book = _Book(self._core)
        self._keep(book.record(TransactionStatus.PENDING))
        try:
            yield book
        except BaseException as error:
            self._keep(book.record(book.status_after(error), error))
            raise
        self._keep(book.record(TransactionStatus.COMMITTED))

    def _keep(self, record: TransactionRecord) -> None:
        self._records[record.transaction_id] = record
        if len(self._records) > RECORDS_MAX:
            self._records.popitem(last=False)


class _Book:
    """The account of one transaction."""

    def __init__(self, core: Core) -> None:
        self.attempts = 0
        self._core = core
        self._id = str(uuid.uuid4())
        self._started_us = core.settings.clock.now_us()
        self._transaction: Transaction | None = None
        self._is_committing = False
        self._written: tuple[StateVersion, ...] = ()

    async def run(
        self, transaction: Transaction, function: Callable[[Transaction], Awaitable[R]], fence: Fence | None
    ) -> R:
        """One attempt."""
        with self.begun(transaction):
            try:
                result = await function(transaction)
            except Exception:
                await transaction.confirm()
                raise
            await self.commit(transaction, fence)
        return result

    @contextmanager
    def begun(self, transaction: Transaction) -> Generator[None, None, None]:
        """While the transaction can be used.

        Raises:
            RuntimeError: another one of this store is under way in this task.
        """
        before = _under_way.get()
        if any(each.is_open and each.core is self._core for each in before):
            raise RuntimeError("a transaction is under way in this task already: go on in it, or end it first")
        self.attempts += 1
        self._transaction, self._is_committing = transaction, False
        _under_way.set((*before, transaction))
        try:
            yield
        finally:
            transaction.end()
            _under_way.set(before)

    async def commit(self, transaction: Transaction, fence: Fence | None) -> None:
        """Write what the transaction is to write."""
        transaction.end()
        self._is_committing = True
        self._written = await transaction.commit(fence)

    def status_after(self, error: BaseException) -> TransactionStatus:
        """How the transaction stands when this error ends it."""
        if isinstance(error, TransactionFailed):
            return TransactionStatus.FAILED
        if not self._is_committing:
            is_own = self._transaction is not None and self._transaction.conflict is error
            return TransactionStatus.FAILED if is_own else TransactionStatus.ROLLED_BACK
        is_known = isinstance(error, TaiStateError) and not isinstance(error, CommitOutcomeUnknown)
        return TransactionStatus.FAILED if is_known else TransactionStatus.UNKNOWN

    def record(self, status: TransactionStatus, error: BaseException | None = None) -> TransactionRecord:
        """As it is remembered."""
        is_over = status is not TransactionStatus.PENDING
        record = TransactionRecord(
            transaction_id=self._id,
            status=status,
            attempts=self.attempts,
            reads=() if self._transaction is None else self._transaction.reads,
            writes=self._written,
            started_at=from_us(self._started_us),
            ended_at=from_us(self._core.settings.clock.now_us()) if is_over else None,
            reason=None if error is None else f"{type(error).__name__}: {error}",
        )
        if is_over:
            level = logging.DEBUG if error is None else logging.WARNING
            facts = {"transaction_id": self._id, "status": status.value, "attempts": self.attempts}
            _logger.log(level, "a transaction ended", extra=facts)
        return record
