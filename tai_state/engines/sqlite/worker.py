"""A thread that owns a connection and serves any number of tasks.

Why not apsw's own asynchronous connections: there, cancelling a task interrupts the whole function in the
thread, and here one function serves many tasks; a connection must be replaceable after a disk error; and one
wake-up of the event loop answers a whole batch. ``docs/decisions/0003-own-sqlite-thread.md`` has the figures.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import anyio

R = TypeVar("R")


class _Forks:
    """Counts the forks between a process and its first ancestor that imported this module."""

    def __init__(self) -> None:
        self.generation = 0
        os.register_at_fork(after_in_child=self._count)

    def _count(self) -> None:
        self.generation += 1


_forks = _Forks()

BATCH_MAX = 256
"""Jobs handed over at once."""


class Waiter(Protocol):
    """One task's wait for its job, in the event loop it came from."""

    async def wait(self) -> None:
        """Until the job is done."""
        ...

    def wake(self) -> None:
        """Called in the event loop once the job is done."""
        ...

    def call_soon(self, function: Callable[[], None]) -> None:
        """From any thread: run the function in the task's event loop."""
        ...

    @property
    def loop(self) -> object:
        """The event loop; jobs of one loop are woken together."""
        ...


class _AsyncioWaiter:
    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._future = self.loop.create_future()

    async def wait(self) -> None:
        await self._future

    def wake(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    def call_soon(self, function: Callable[[], None]) -> None:
        self.loop.call_soon_threadsafe(function)


class _TrioWaiter:
    def __init__(self) -> None:
        import trio  # noqa: PLC0415 - an optional dependency

        self.loop = trio.lowlevel.current_trio_token()
        self._event = trio.Event()

    async def wait(self) -> None:
        await self._event.wait()

    def wake(self) -> None:
        self._event.set()

    def call_soon(self, function: Callable[[], None]) -> None:
        self.loop.run_sync_soon(function)


def _waiter() -> Waiter:
    try:
        return _AsyncioWaiter()
    except RuntimeError:  # no asyncio loop runs here
        return _TrioWaiter()


class Job(Generic[R]):
    """A request, then its result or error."""

    __slots__ = ("abandoned", "error", "request", "result", "waiter")

    def __init__(self, request: Any) -> None:
        self.request: Any = request
        self.result: R | None = None
        self.error: BaseException | None = None
        self.abandoned: bool = False
        self.waiter: Waiter = _waiter()


class _Bell:
    """Wakes a thread that has nothing to do: by a pipe, which takes half the time that a lock takes."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self._waits = False

    def ring(self) -> None:
        """Called once there is something to do. Costs next to nothing while the thread is busy."""
        if self._waits:
            self._waits = False
            os.write(self._write, b"!")

    def wait(self, queue: deque[Any]) -> None:
        """Until there is something in the queue."""
        while not queue:
            self._waits = True
            # Looked at again: what came before the line above has not rung. A ring too many only wakes for nothing.
            if queue and self._waits:
                self._waits = False
            else:
                os.read(self._read, 1)

    def __del__(self) -> None:
        # Not earlier: who rings late must not write into a file that has got the number since.
        os.close(self._read)
        os.close(self._write)


class Worker:
    """The thread. Jobs run in the order they were given; those that wait together are handed over together.

    Args:
        name: of the thread.
        serve: called in the thread with the jobs that wait (at most 256); sets each one's result or error.
        close: called in the thread at the end.
    """

    def __init__(self, name: str, serve: Callable[[Sequence[Job[Any]]], None], close: Callable[[], None]) -> None:
        self._name = name
        self._serve = serve
        self._close = close
        self._queue: deque[Job[Any] | None] = deque()
        self._bell = _Bell()
        self._closed = False
        self._generation = _forks.generation
        threading.Thread(target=self._run, name=name, daemon=True).start()

    async def do(self, request: Any) -> Any:
        """Have a request served. A caller who is cancelled before its turn comes is skipped; later it is not."""
        if self._closed:
            raise RuntimeError("the store is closed: use it inside its `async with` block")
        if self._generation != _forks.generation:
            raise RuntimeError("the store was opened before a fork: open it again in the child process")
        job: Job[Any] = Job(request)
        self._put(job)
        try:
            await job.waiter.wait()
        except BaseException:
            job.abandoned = True
            raise
        if job.error is not None:
            raise job.error
        return job.result

    async def aclose(self) -> None:
        """Serve what waits, close the connection and end the thread."""
        if self._closed or self._generation != _forks.generation:
            return
        self._closed = True
        last: Job[None] = Job(None)
        self._put(None)
        self._put(last)
        with anyio.CancelScope(shield=True):
            await last.waiter.wait()

    def _put(self, job: Job[Any] | None) -> None:
        self._queue.append(job)
        self._bell.ring()

    def _run(self) -> None:
        queue = self._queue
        ended = False
        while not ended:
            self._bell.wait(queue)
            jobs: list[Job[Any]] = []
            while queue and len(jobs) < BATCH_MAX and not ended:
                job = queue.popleft()
                if job is None:
                    ended = True
                elif not job.abandoned:
                    jobs.append(job)
            self._serve_and_wake(jobs)
        self._close()
        self._bell.wait(queue)
        last = queue.popleft()
        if last is not None:
            _wake([last])

    def _serve_and_wake(self, jobs: Sequence[Job[Any]]) -> None:
        if not jobs:
            return
        try:
            self._serve(jobs)
        except BaseException as error:  # noqa: BLE001 - every task must be answered, whatever went wrong
            for job in jobs:
                if job.result is None and job.error is None:
                    job.error = error
        _wake(jobs)


def _wake(jobs: Sequence[Job[Any]]) -> None:
    by_loop: dict[object, list[Job[Any]]] = {}
    for job in jobs:
        by_loop.setdefault(job.waiter.loop, []).append(job)
    for group in by_loop.values():
        try:
            group[0].waiter.call_soon(partial(_wake_all, group))
        except RuntimeError:
            continue  # that event loop has ended, and its tasks with it


def _wake_all(jobs: Sequence[Job[Any]]) -> None:
    for job in jobs:
        job.waiter.wake()
