"""What all parts of the locks share: the store, the clock, and this process's own waiters."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from copy import copy
from dataclasses import replace
from functools import partial
from math import inf
from typing import Any, TypeVar

import anyio

from tai_state.engines.api import Committed, Document, DocumentChange, Engine, Reading, Scan, Write
from tai_state.engines.matters import Bounds
from tai_state.engines.paging import Paged
from tai_state.errors import StoreTimeout
from tai_state.locks.precedence import Precedence
from tai_state.locks.sighting import Sightings
from tai_state.locks.statistics import LockWaiter
from tai_state.streams.core import Core

R = TypeVar("R")

ATTEMPTS_MAX = 8
"""How often a caller tries a lock that looks free before it joins the queue, and how often a renewal or a release is
sent if its answer is lost, or if it is refused while the lock is unchanged."""


class Common:
    """What the parts of a :class:`~tai_state.locks.locking.LockManager` share.

    Args:
        core: the store's core.
        monotonic: a clock in seconds that never goes back.
        sleep: waits for a number of seconds by that clock.

    Attributes:
        core: as given.
        monotonic: as given.
        sleep: as given.
        bounds: how long and how often a change of locks is tried, by the clock of the locks.
        few: the same, for a caller who waits for the outcome of one step.
        insisting: the same as ``bounds``, also after errors of the engine, for clean-up.
        sightings: reads documents and remembers how long they stood still.
        waiting: by the owner of each place in the queue that belongs to this process, what that waiter is doing.
        precedence: what this process knows of those who may have to go first.
        limited: the engine for one who waits for each answer only so long; None: it waits as long as the engine does.
    """

    def __init__(self, core: Core, monotonic: Callable[[], float], sleep: Callable[[float], Awaitable[None]]) -> None:
        self.core = core
        self.monotonic = monotonic
        self.sleep = sleep
        settings = core.settings
        self.bounds: Bounds = Bounds(
            timeout_seconds=settings.timeout_seconds,
            jitter=settings.jitter,
            monotonic=monotonic,
            sleep=sleep,
            observer=settings.observer,
            kind="locks",
        )
        self.few: Bounds = replace(self.bounds, attempts_max=ATTEMPTS_MAX)
        self.insisting: Bounds = replace(self.bounds, insists=True)
        self.sightings: Sightings = Sightings(core.engine, core.layout, monotonic)
        self.waiting: dict[str, Callable[[], LockWaiter]] = {}
        self.precedence: Precedence = Precedence(monotonic)
        self.limited: _Within | None = None

    @property
    def _engine(self) -> Engine | _Within:
        return self.core.engine if self.limited is None else self.limited

    async def read(self, paths: Sequence[str]) -> Reading:
        """See :class:`~tai_state.engines.api.Engine`."""
        return await self._engine.read(paths)

    def scan(self, scan: Scan) -> Paged[Document]:
        """See :class:`~tai_state.engines.api.Engine`."""
        return self._engine.scan(scan)

    async def commit(self, writes: Sequence[Write]) -> Committed:
        """Commit without being cancelled before the answer: the next step depends on it."""
        return await to_its_end(partial(self._engine.commit, writes))

    def watch(self, *targets: str) -> AbstractAsyncContextManager[AsyncIterator[DocumentChange]]:
        """See :class:`~tai_state.engines.api.Engine`."""
        return self._engine.watch(*targets)

    def within(self, seconds: float) -> Common:
        """The same for one who waits no longer than this for each answer of the engine, and for the outcome of a step.

        What is known of others is shared.
        """
        found = copy(self)
        found.limited = within = _Within(self.core.engine, seconds)
        found.sightings = self.sightings.through(within)
        timeout_seconds = min(seconds, self.bounds.timeout_seconds)
        found.bounds = replace(self.bounds, timeout_seconds=timeout_seconds)
        found.few = replace(self.few, timeout_seconds=timeout_seconds)
        return found

    async def pause(self, attempt: int) -> None:
        """Pause before another attempt, as the store does between its own."""
        await self.sleep(self.bounds.pause_seconds(attempt, 0.0))

    async def wait(self, event: anyio.Event, seconds: float) -> None:
        """Wait until the event is set, for a number of seconds at most."""

        async def wake() -> None:
            await event.wait()
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wake)
            await self.sleep(seconds)
            tasks.cancel_scope.cancel()


class _Within:
    """An engine for one who waits no longer than this for each answer."""

    def __init__(self, engine: Engine, seconds: float) -> None:
        self._engine = engine
        self._seconds = seconds

    async def read(self, paths: Sequence[str]) -> Reading:
        with anyio.move_on_after(self._seconds):
            return await self._engine.read(paths)
        raise self._timeout("read")

    def scan(self, scan: Scan) -> Paged[Document]:
        documents = self._engine.scan(scan)

        async def fetch() -> Sequence[Document] | None:
            with anyio.move_on_after(self._seconds):
                return await documents.page()
            raise self._timeout("scan")

        return Paged(fetch)

    async def commit(self, writes: Sequence[Write]) -> Committed:
        with anyio.move_on_after(self._seconds):
            return await self._engine.commit(writes)
        raise self._timeout("commit")

    @asynccontextmanager
    async def watch(self, *targets: str) -> AsyncGenerator[AsyncIterator[DocumentChange], None]:
        with anyio.move_on_after(self._seconds) as scope:
            async with self._engine.watch(*targets) as changes:
                scope.deadline = inf  # it bounds how long it takes to establish the watch
                yield changes
        if scope.cancelled_caught:
            raise self._timeout("watch")

    def _timeout(self, operation: str) -> StoreTimeout:
        what = f"no answer within {self._seconds:g} s"
        return StoreTimeout(operation, "DEADLINE_EXCEEDED", what, unknown=operation == "commit")


async def to_its_end(work: Callable[[], Awaitable[R]]) -> R:
    """Do some work that cancelling the caller does not break off.

    The work runs in its own task, because a shield does not stop asyncio's ``task.cancel()``.
    """
    outcome: list[R | Exception] = []

    async def run() -> None:
        with anyio.CancelScope(shield=True):
            try:
                outcome.append(await work())
            except Exception as error:  # noqa: BLE001 - raised again below, and in no group
                outcome.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
    [result] = outcome
    if isinstance(result, Exception):
        raise result
    return result


@asynccontextmanager
async def alongside(work: Callable[[], Coroutine[Any, Any, None]]) -> AsyncGenerator[None, None]:
    """Run some work beside the block, and cancel it when the block ends.

    The block's own error is raised as it is, not in an exception group. The work raises nothing.
    """
    failure: BaseException | None = None
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
            try:
                yield
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:  # noqa: BLE001 - raised again below
                failure = error
            tasks.cancel_scope.cancel()
    finally:
        if failure is not None:
            raise failure
