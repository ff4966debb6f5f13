"""A thread that owns a connection and serves any number of tasks of one event loop.

Why not apsw's own asynchronous connections: there, cancelling a task interrupts the whole function in the
thread, and here one function serves many tasks; a connection must be replaceable after a disk error; and one
wake-up of the event loop answers a whole batch. ``docs/decisions/0003-own-sqlite-thread.md`` has the figures.
"""

from __future__ import annotations

import asyncio
import os
import select
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

import anyio

from tai_state.engines.api import NOT_OPEN

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


class _Bell:
    """Wakes a thread by a pipe, which takes half the time that a lock takes. It rings once until it is heard."""

    def __init__(self) -> None:
        self._ends: tuple[int, ...] = ()
        self._ends = self.pipe, self._cord = os.pipe()
        self._rung = False

    def ring(self) -> None:
        """Called whenever there is more to do."""
        if not self._rung:
            self._rung = True
            os.write(self._cord, b"!")

    def hear(self, seconds: float | None = None) -> None:
        """Wait for a ring, or so many seconds; what there is to do is looked up after it."""
        if seconds is not None:
            waiting = select.poll()
            waiting.register(self.pipe, select.POLLIN)
            if not waiting.poll(seconds * 1_000):
                return
        os.read(self.pipe, 1)
        self._rung = False

    def __del__(self) -> None:
        # Not earlier: who rings late must not write into a file that has got the number since.
        for end in self._ends:
            os.close(end)


class Home(Protocol):
    """The event loop whose tasks a worker serves."""

    def waiter(self) -> Any:
        """What a task can wait for.

        Raises:
            RuntimeError: the task runs in another event loop.
        """
        ...

    def wait(self, waiter: Any) -> Awaitable[object]:
        """Until it is woken."""
        ...

    def wake(self, waiter: Any) -> None:
        """From the event loop: let its task go on, if it still waits."""
        ...

    def soon(self, function: Callable[[], None]) -> None:
        """From the event loop: call a function once the tasks that are woken already have had their turn."""
        ...

    def notify(self) -> None:
        """From the worker's thread: there is something to collect."""
        ...

    def leave(self) -> None:
        """From the event loop: nothing more will be collected."""
        ...


class _AsyncioHome:
    def __init__(self, loop: asyncio.AbstractEventLoop, collect: Callable[[], None]) -> None:
        self._loop = loop
        self._collect = collect
        self._bell = _Bell()
        loop.add_reader(self._bell.pipe, self._heard)

    def waiter(self) -> asyncio.Future[None]:
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(_ELSEWHERE)
        return self._loop.create_future()

    def wait(self, waiter: asyncio.Future[None]) -> asyncio.Future[None]:
        return waiter

    def wake(self, waiter: asyncio.Future[None]) -> None:
        if not waiter.done():
            waiter.set_result(None)

    def soon(self, function: Callable[[], None]) -> None:
        self._loop.call_soon(function)

    def notify(self) -> None:
        self._bell.ring()

    def _heard(self) -> None:
        self._bell.hear()
        self._collect()

    def leave(self) -> None:
        self._loop.remove_reader(self._bell.pipe)


class _TrioHome:
    def __init__(self, collect: Callable[[], None]) -> None:
        import trio  # noqa: PLC0415 - an optional dependency

        self._trio = trio
        self._token = trio.lowlevel.current_trio_token()
        self._collect = collect

    def waiter(self) -> Any:
        if self._trio.lowlevel.current_trio_token() is not self._token:
            raise RuntimeError(_ELSEWHERE)
        return self._trio.Event()

    def wait(self, waiter: Any) -> Awaitable[object]:
        woken: Awaitable[object] = waiter.wait()
        return woken

    def wake(self, waiter: Any) -> None:
        waiter.set()

    def soon(self, function: Callable[[], None]) -> None:
        # Who is called soon runs beside the tasks that are woken already; who is called from there, after them.
        self._token.run_sync_soon(self._call, function)

    def notify(self) -> None:
        self._call(self._collect)

    def _call(self, function: Callable[[], None]) -> None:
        with suppress(self._trio.RunFinishedError):  # that event loop has ended, and its tasks with it
            self._token.run_sync_soon(function)

    def leave(self) -> None:
        pass


_ELSEWHERE = "the store was opened in another event loop: open one in each"


def _home(collect: Callable[[], None]) -> Home:
    try:
        return _AsyncioHome(asyncio.get_running_loop(), collect)
    except RuntimeError:  # no asyncio loop runs here
        return _TrioHome(collect)


class Job(Generic[R]):
    """A request, then its result or error. Where no task waits for it, there is no waiter."""

    __slots__ = ("abandoned", "error", "request", "result", "waiter")

    def __init__(self, request: Any, waiter: Any) -> None:
        self.request: Any = request
        self.result: R | None = None
        self.error: BaseException | None = None
        self.abandoned: bool = False
        self.waiter: Any = waiter


class Worker:
    """The thread. Jobs run in the order they were given; those that wait together are handed over together.

    Tasks that were answered together are likely to ask together. So after such an answer the thread is rung only when
    each of them has had its turn: rung by the first, it would serve that one alone, and let the others wait meanwhile.

    Args:
        name: of the thread.
        serve: called in the thread with the jobs that wait (at most 256); sets each one's result or error.
        close: called in the thread at the end.
        tell: called in the event loop with each job that was served, in their order, before its task goes on.
        idle: how many seconds to wait for jobs (None: as long as it takes), and what to do after them, or after so many
            seconds: it may give a job to tell. Both are called in the thread.
    """

    def __init__(
        self,
        name: str,
        serve: Callable[[Sequence[Job[Any]]], None],
        close: Callable[[], None],
        tell: Callable[[Job[Any]], None] | None = None,
        idle: tuple[Callable[[], float | None], Callable[[], Job[Any] | None]] | None = None,
    ) -> None:
        self._serve = serve
        self._close = close
        self._tell = tell
        self._idle = idle
        self._bell = _Bell()
        self._home = _home(self._collect)
        self._queue: deque[Job[Any]] = deque()
        self._done: deque[Job[Any]] = deque()
        self._answered = 0
        self._closers: list[Any] = []
        self._is_closing = False
        self._has_ended = False
        self._is_closed = False
        self._generation = _forks.generation
        threading.Thread(target=self._run, name=f"tai-state sqlite {name}", daemon=True).start()

    async def do(self, request: Any) -> Any:
        """Have a request served. A caller who is cancelled before its turn comes is skipped; later it is not."""
        if self._is_closing:
            raise RuntimeError(NOT_OPEN)
        if self._generation != _forks.generation:
            raise RuntimeError("the store was opened before a fork: open it again in the child process")
        job: Job[Any] = Job(request, self._home.waiter())
        self._queue.append(job)
        if len(self._queue) == 1:  # else whoever came first sees to it
            if self._answered > 1:
                self._home.soon(self._bell.ring)
            else:
                self._bell.ring()
        try:
            await self._home.wait(job.waiter)
        except BaseException:
            job.abandoned = True
            raise
        if job.error is not None:
            raise job.error
        return job.result

    def post(self, request: Any) -> None:
        """Have a request served that nobody waits for; once the worker is closing, nothing happens."""
        if self._is_closing or self._generation != _forks.generation:
            return
        self._queue.append(Job(request, None))
        if len(self._queue) == 1:
            self._bell.ring()

    def close(self) -> None:
        """Take no more jobs, serve those that wait, close the connection, and end the thread."""
        if self._generation == _forks.generation:
            self._is_closing = True
            self._bell.ring()

    async def closed(self) -> None:
        """Until that is done; a caller who is cancelled all the same leaves nothing undone."""
        if self._is_closing and not self._is_closed:
            self._closers.append(self._home.waiter())
            with anyio.CancelScope(shield=True):
                await self._home.wait(self._closers[-1])

    def _run(self) -> None:
        while not self._is_closing or self._queue:
            self._bell.hear(None if self._idle is None else self._idle[0]())
            waiting = [self._queue.popleft() for _ in range(min(len(self._queue), BATCH_MAX))]
            if self._queue:
                self._bell.ring()
            jobs = [job for job in waiting if not job.abandoned]
            if jobs:
                self._serve_all(jobs)
                self._answer(jobs)
            if self._idle is not None and (found := self._idle[1]()) is not None:
                self._answer([found])
        with suppress(Exception):  # what it held is gone with the thread
            self._close()
        self._has_ended = True
        self._home.notify()

    def _serve_all(self, jobs: Sequence[Job[Any]]) -> None:
        try:
            self._serve(jobs)
        except BaseException as error:  # noqa: BLE001 - every task must be answered, whatever went wrong
            for job in jobs:
                if job.result is None and job.error is None:
                    job.error = error

    def _answer(self, jobs: Sequence[Job[Any]]) -> None:
        self._done.extend(jobs)
        self._home.notify()

    def _collect(self) -> None:
        """In the event loop: wake the tasks whose jobs are done."""
        self._answered = len(self._done) or self._answered
        while self._done:
            job = self._done.popleft()
            if self._tell is not None:
                self._tell(job)
            if job.waiter is not None:
                self._home.wake(job.waiter)
        if self._has_ended:
            self._is_closed = True
            self._home.leave()
            for waiter in self._closers:
                self._home.wake(waiter)
