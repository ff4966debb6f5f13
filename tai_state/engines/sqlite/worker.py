"""A thread that owns a connection and serves any number of tasks.

Why not apsw's own asynchronous connections: there, cancelling a task interrupts the whole function in the
thread, and here one function serves many tasks; a connection must be replaceable after a disk error; and one
wake-up of the event loop answers a whole batch. ``docs/decisions/0003-own-sqlite-thread.md`` has the figures.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty, SimpleQueue
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
        self._queue: SimpleQueue[Job[Any] | None] = SimpleQueue()
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
        self._queue.put(job)
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
        self._queue.put(None)
        self._queue.put(last)
        with anyio.CancelScope(shield=True):
            await last.waiter.wait()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            jobs = [first]
            ended = False
            while len(jobs) < BATCH_MAX:
                try:
                    job = self._queue.get_nowait()
                except Empty:
                    break
                if job is None:
                    ended = True
                    break
                jobs.append(job)
            self._serve_and_wake([job for job in jobs if not job.abandoned])
            if ended:
                break
        self._close()
        last = self._queue.get()
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
