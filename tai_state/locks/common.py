"""What every part of the locks shares: the store, the time, and who is alive in this process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio

from tai_state.engines.api import Committed, Document, Reading, Scan, Write
from tai_state.engines.matters import ATTEMPTS_MAX, Bounds
from tai_state.engines.paging import Paged
from tai_state.locks.sighting import Sightings
from tai_state.locks.statistics import LockWaiter
from tai_state.streams.core import Core


class Common:
    """What the parts of a :class:`~tai_state.locks.locking.LockManager` share.

    Args:
        core: of the store.
        monotonic: seconds of a clock that never goes back.
        sleep: waits so many seconds of that clock.

    Attributes:
        core: as given.
        monotonic: as given.
        sleep: as given.
        sightings: looks at documents.
        waiting: what those do who wait in this process, by the owners of their places in line.
    """

    def __init__(self, core: Core, monotonic: Callable[[], float], sleep: Callable[[float], Awaitable[None]]) -> None:
        self.core = core
        self.monotonic = monotonic
        self.sleep = sleep
        self.sightings: Sightings = Sightings(core.engine, core.layout, monotonic)
        self.waiting: dict[str, Callable[[], LockWaiter]] = {}

    def bounds(self, attempts_max: int = ATTEMPTS_MAX, *, insists: bool = False) -> Bounds:
        """For how long a change of locks is looked after, by the clock of the locks."""
        return Bounds(
            timeout_seconds=self.core.settings.timeout_seconds,
            attempts_max=attempts_max,
            jitter=self.core.settings.jitter,
            monotonic=self.monotonic,
            sleep=self.sleep,
            insists=insists,
        )

    async def read(self, paths: Sequence[str]) -> Reading:
        """See :class:`~tai_state.engines.api.Engine`."""
        return await self.core.engine.read(paths)

    def scan(self, scan: Scan) -> Paged[Document]:
        """See :class:`~tai_state.engines.api.Engine`."""
        return self.core.engine.scan(scan)

    async def commit(self, writes: Sequence[Write]) -> Committed:
        """Commit, and never be cancelled before it is known what came of it: what is done next follows it.

        It runs in a task of its own, since a shield does not hold off asyncio's ``task.cancel()``.
        """
        outcome: list[Committed | Exception] = []

        async def work() -> None:
            with anyio.CancelScope(shield=True):
                try:
                    outcome.append(await self.core.engine.commit(writes))
                except Exception as error:  # noqa: BLE001 - raised again below, and in no group
                    outcome.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
        [result] = outcome
        if isinstance(result, Exception):
            raise result
        return result

    async def pause(self, attempt: int) -> None:
        """Before another attempt, as the store pauses between its own."""
        await self.sleep(self.bounds().pause_seconds(attempt, 0.0))

    async def wait(self, event: anyio.Event, seconds: float) -> None:
        """Until the event is set, so many seconds at most."""

        async def wake() -> None:
            await event.wait()
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wake)
            await self.sleep(seconds)
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def alongside(work: Callable[[], Coroutine[Any, Any, None]]) -> AsyncGenerator[None, None]:
    """Do some work beside the block, and cancel it at the block's end.

    What the block raises comes out as it is, and in no group. The work raises nothing.
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
