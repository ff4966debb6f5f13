"""Running transactions: they are retried after a conflict, never after an unknown outcome."""

from __future__ import annotations

import inspect
import logging
import uuid
from collections import Counter, OrderedDict
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

from tai_state.engines.loops import current_task
from tai_state.errors import (
    CommitOutcomeUnknown,
    InvalidData,
    InvalidId,
    LockLost,
    TaiStateError,
    TransactionFailed,
)
from tai_state.history.folding import Reducers, check_reducers
from tai_state.locks.lease import Lease
from tai_state.locks.locking import LockManager
from tai_state.streams.changes import Fence
from tai_state.streams.core import Core, HasCore, core_of
from tai_state.streams.turns import Held
from tai_state.transactions.recent import RecentWrites
from tai_state.transactions.records import StateVersion, TransactionRecord, TransactionStatus
from tai_state.transactions.transaction import Transaction
from tai_state.values.checks import check_callable, check_items
from tai_state.values.ids import escape_id
from tai_state.values.metadata import ChangeMetadata, check_default, check_text
from tai_state.values.states import JsonSnapshot
from tai_state.values.times import from_us

R = TypeVar("R")

ATTEMPTS_MAX = 64
"""How often a transaction's function runs at most, if others are faster each time."""

RECORDS_MAX = 1_000
"""How many transactions a manager remembers."""

_LEASES_MAX = 100
"""How many leases a manager has before it first looks which of them are over."""

_PAUSE_SECONDS = 0.005
_PAUSE_SECONDS_MAX = 1.0

_logger = logging.getLogger("tai_state.transactions")
_under_way: ContextVar[tuple[tuple[object, Transaction], ...]] = ContextVar("tai_state_transactions", default=())
"""The transactions that are under way around this code, each with its task: a task begun in one inherits it."""


class TransactionManager:
    """Changes several states of a store at once.

    Transactions are optimistic: they hold nothing on the server, so a process that dies during one blocks no other.
    They are serializable for states read by id; see :class:`Transaction`.

    Args:
        store: an open store.
        reducers: by action: the reducers for the payload-carrying events that a transaction records.
        locks: the manager of the locks; give it ``store.locks``, so that callers of both stand in one line. By default,
            it has one of its own.
    """

    def __init__(self, store: HasCore, reducers: Reducers | None = None, *, locks: LockManager | None = None) -> None:
        self._core = core = core_of(store)
        self._reducers = check_reducers(reducers)
        self._recent = RecentWrites(core.appender.heads)
        self._records: OrderedDict[str, TransactionRecord] = OrderedDict()
        self._locks = LockManager(store) if locks is None else locks
        self._leases: dict[tuple[str, str], Lease] = {}
        self._leases_max = _LEASES_MAX

    def __repr__(self) -> str:
        counts = Counter(record.status.value for record in self._records.values())
        shown = ", ".join(f"{count} {status}" for status, count in counts.items()) or "none so far"
        return f"<{type(self).__name__}, {shown}>"

    async def transact(
        self,
        function: Callable[[Transaction], Awaitable[R]],
        metadata: ChangeMetadata | None = None,
        *,
        governor_id: str | None = None,
        fence: Fence | None = None,
    ) -> R:
        """Run a function whose reads and writes take effect together; if others were faster, run it again.

        Between attempts there is a pause with full jitter, of a second at most. An attempt after a conflict first waits
        for its turn among the tasks of this process that change the same states. So does the first attempt if another
        one has the turn when it first reads.

        The first state that the function reads comes from memory if a transaction of this manager was the last to write
        it. If others have written it since, the function runs once more. So changing a single state again and again
        costs one engine call each time.

        Args:
            function: reads and writes through the transaction that it is given. It must have no other effect, since it
                may run several times. Its result is returned.
            metadata: who and why, for every write without metadata of its own; by default the handle's or the
                store's own.
            governor_id: the governor of states that the function names by their id alone.
            fence: a lease; the writes are applied only while its lock is held.

        Raises:
            TransactionFailed: others were faster 64 times, or until the store's ``timeout_seconds`` had passed; nothing
                was written.
            CommitOutcomeUnknown: either everything was written or nothing. It is not retried. To be able to check, let
                the function write a state named after the request, and return early if it finds that state.
            LockLost: the lease given as fence has ended; nothing was written.
            VersionConflict: a write's own ``expected`` does not hold; nothing was written, and it is not retried.
            TypeError: the function is not async.
            InvalidId, InvalidData: another argument is not valid; the function did not run.
            Whatever the function raises; nothing was written then.
        """
        check_callable(function, "function")
        self._check(metadata, governor_id, fence)
        last: Transaction | None = None
        attempts = AsyncRetrying(
            retry=retry_if_exception(lambda error: last is not None and last.is_overtaken_by(error)),
            stop=stop_after_attempt(ATTEMPTS_MAX) | stop_after_delay(self._core.settings.timeout_seconds),
            wait=wait_random_exponential(multiplier=_PAUSE_SECONDS, max=_PAUSE_SECONDS_MAX),
            reraise=True,
        )
        async with self._recording() as book:
            stopped = StopAsyncIteration()
            try:
                async for attempt in attempts:
                    with attempt:
                        async with self._core.turns.of(last.paths if last else ()) as turn:
                            last = self._new(metadata, governor_id, turn, self._recent)
                            try:
                                return await book.run(last, function, fence)
                            except StopAsyncIteration as error:  # the loop would take it for its own end
                                stopped = error
            except Exception as error:
                if last is None or not last.is_overtaken_by(error):
                    raise
                raise TransactionFailed(book.attempts, str(last.conflict)) from last.conflict
            raise stopped

    async def execute_transaction(
        self,
        governor_id: str,
        function: Callable[[Transaction], Awaitable[R]],
        metadata: ChangeMetadata | None = None,
        *,
        fence: Fence | None = None,
    ) -> R:
        """Run :meth:`transact` on the states of one governor; the function may name them by id alone."""
        self._core.layout.governor(governor_id)
        return await self.transact(function, metadata, governor_id=governor_id, fence=fence)

    async def read_write_transaction(
        self,
        governor_id: str,
        to_read: Sequence[str],
        decide: Callable[[dict[str, JsonSnapshot | None]], Mapping[str, dict[str, Any] | None]],
        metadata: ChangeMetadata | None = None,
        *,
        fence: Fence | None = None,
    ) -> dict[str, dict[str, Any] | None]:
        """Read some states of a governor, decide, and write the decision: two engine calls per attempt at most.

        Args:
            governor_id: the owner and namespace.
            to_read: ids of the states to read.
            decide: a pure function. It gets the states as read (None where there is no state), and returns the new
                data of each state to write (None: delete it). If others were faster, it runs again on fresh states.
            metadata: who and why; by default the store's own.
            fence: a lease; the writes are applied only while its lock is held.

        Returns:
            What was decided and written.

        Raises:
            InvalidId: ``to_read`` is not a collection of ids, such as a single str. Otherwise as :meth:`transact`.
            InvalidData: ``decide`` does not return a mapping of ids to data.
        """
        to_read = check_items(to_read, lambda: InvalidId("to_read", "a sequence of ids, not one str"))
        check_callable(decide, "decide")

        async def function(transaction: Transaction) -> dict[str, dict[str, Any] | None]:
            found = await transaction.get_all(*to_read)
            decision = decide(dict(zip(to_read, found, strict=True)))
            if not isinstance(decision, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
                raise InvalidData(f"decide must return a mapping of ids to data, not {type(decision).__name__}")
            decided = dict(decision)
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
        """A transaction around a block. It is committed at the end of the block, and never retried.

        Args:
            metadata: who and why, for every write without metadata of its own; by default the handle's or the
                store's own.
            governor_id: the governor of states that the block names by their id alone.
            fence: a lease; the writes are applied only while its lock is held.

        Raises:
            VersionConflict: at a read or at the end of the block: a state that it read has changed; nothing was
                written.
            Otherwise as :meth:`transact`.
        """
        self._check(metadata, governor_id, fence)
        async with self._recording() as book:
            transaction = self._new(metadata, governor_id, self._core.turns.of(()))
            with book.under_way(transaction):
                yield transaction
                await book.commit(transaction, fence)

    async def acquire_lock(
        self, resource: str, client: str, ttl: float = 30.0, *, wait_seconds: float | None = None
    ) -> Lease:
        """Acquire a lock, as :meth:`LockManager.acquire_lock` does, which says more; release it by its token.

        Args:
            resource: any name.
            client: the holder, for people to read. It gives no rights: the same client waits for itself.
            ttl: how many seconds from now until others may take over. Nothing renews it.
            wait_seconds: how long to wait; 0: do not wait; None: wait without limit.
        """
        lease = await self._locks.acquire_lock(resource, ttl_seconds=ttl, wait_seconds=wait_seconds, holder=client)
        self._leases[resource, lease.token] = lease
        if len(self._leases) > self._leases_max:  # once for each doubling, so that a lock costs the same beside many
            self._leases = {key: each for key, each in self._leases.items() if each.tenure.may_stand}
            self._leases_max = max(_LEASES_MAX, 2 * len(self._leases))
        return lease

    async def release_lock(self, resource: str, token: str) -> None:
        """Release a lock that this manager acquired, by the ``token`` of its lease.

        The token can be used until the lock is known to be released, or it has expired.

        Raises:
            LockLost: this manager has no such lease: it has expired, it was released, or the token is of another lock.
                Or as :meth:`LockManager.release_lock`.
            StoreUnavailable, StoreTimeout: it is not known to be released; call again, or let it expire.
            InvalidId, InvalidData: an argument is not valid.
        """
        escape_id(resource, "resource")
        lease = self._leases.get((resource, check_text(token, "token")))
        if lease is None:
            raise LockLost(resource)
        await self._locks.release_lock(lease)
        self._leases.pop((resource, token), None)

    def get_transaction_log(self) -> list[TransactionRecord]:
        """The last 1,000 transactions that this manager ran, the newest last."""
        return list(self._records.values())

    def get_transaction(self, transaction_id: str) -> TransactionRecord | None:
        """One of these transactions; None if the manager does not remember it."""
        return self._records.get(check_text(transaction_id, "transaction_id"))

    def _check(self, metadata: ChangeMetadata | None, governor_id: str | None, fence: Fence | None) -> None:
        """Check what all transactions are given, before their functions run."""
        check_default(metadata)
        if governor_id is not None:
            self._core.layout.governor(governor_id)
        self._core.guards(fence)

    def _new(
        self, metadata: ChangeMetadata | None, governor_id: str | None, turn: Held, recent: RecentWrites | None = None
    ) -> Transaction:
        return Transaction(self._core, metadata, governor_id, self._reducers, turn, recent)

    @asynccontextmanager
    async def _recording(self) -> AsyncGenerator[_Book, None]:
        """Keep the record of one transaction, from beginning to end; then run what its steps want to run."""
        book = _Book(self._core)
        self._keep(book.record(TransactionStatus.PENDING))
        try:
            yield book
        except BaseException as error:
            self._keep(book.record(book.status_after(error), error))
            raise
        self._keep(book.record(TransactionStatus.COMMITTED))
        if book.transaction is not None:
            await book.transaction.run_afterwards()

    def _keep(self, record: TransactionRecord) -> None:
        self._records[record.transaction_id] = record
        if len(self._records) > RECORDS_MAX:
            self._records.popitem(last=False)


class _Book:
    """Follows one transaction, and makes its records."""

    def __init__(self, core: Core) -> None:
        self.attempts = 0
        self._core = core
        self._id = str(uuid.uuid4())
        self._started_us = core.settings.clock.now_us()
        self.transaction: Transaction | None = None
        self._is_committing = False
        self._written: tuple[StateVersion, ...] = ()

    async def run(
        self, transaction: Transaction, function: Callable[[Transaction], Awaitable[R]], fence: Fence | None
    ) -> R:
        """Run one attempt.

        Raises:
            TypeError: the function is not async.
        """
        with self.under_way(transaction):
            running = function(transaction)
            if not inspect.isawaitable(running):
                raise TypeError(f"the function of a transaction must be async, and {function!r} is not")
            try:
                result = await running
            except Exception:
                await transaction.confirm()
                raise
            await self.commit(transaction, fence)
        return result

    @contextmanager
    def under_way(self, transaction: Transaction) -> Generator[None, None, None]:
        """Let the transaction be used while the block runs.

        Raises:
            RuntimeError: another transaction of this store is under way in this task.
        """
        task, before = current_task(), _under_way.get()
        if any(each.is_open and each.core is self._core and its_task is task for its_task, each in before):
            raise RuntimeError("a transaction is already under way in this task: use it, or end it first")
        self.attempts += 1
        self.transaction, self._is_committing = transaction, False
        _under_way.set((*before, (task, transaction)))
        try:
            with transaction.turn.around():
                yield
        finally:
            transaction.leave()
            _under_way.set(before)

    async def commit(self, transaction: Transaction, fence: Fence | None) -> None:
        """Commit the transaction's writes."""
        transaction.end()
        self._is_committing = True
        self._written = await transaction.commit(fence)

    def status_after(self, error: BaseException) -> TransactionStatus:
        """The transaction's status after an error has ended it."""
        if isinstance(error, TransactionFailed):
            return TransactionStatus.FAILED
        if not self._is_committing:
            is_own = self.transaction is not None and self.transaction.is_overtaken_by(error)
            return TransactionStatus.FAILED if is_own else TransactionStatus.ROLLED_BACK
        is_known = isinstance(error, TaiStateError) and not isinstance(error, CommitOutcomeUnknown)
        return TransactionStatus.FAILED if is_known else TransactionStatus.UNKNOWN

    def record(self, status: TransactionStatus, error: BaseException | None = None) -> TransactionRecord:
        """The transaction's record at this moment."""
        is_over = status is not TransactionStatus.PENDING
        record = TransactionRecord(
            transaction_id=self._id,
            status=status,
            attempts=self.attempts,
            reads=() if self.transaction is None else self.transaction.reads,
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
