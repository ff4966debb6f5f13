"""A thread that owns a connection and serves any number of tasks of one event loop.

apsw's own asynchronous connections do not fit, for three reasons. There, cancelling a task interrupts the function in
the thread, but here one function serves many tasks. A connection must be replaceable after a disk error. And here one
wake-up of the event loop answers a whole batch. ``docs/decisions/0003-own-sqlite-thread.md`` has the figures.
"""

from __future__ import annotations

import asyncio
import os
import select
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

import anyio
import msgspec

from tai_state.engines.api import NOT_OPEN
from tai_state.engines.loops import is_in_trio
from tai_state.engines.sqlite.forks import AFTER_A_FORK, forks

R = TypeVar("R")


BATCH_MAX = 256
"""How many jobs are served together at most."""


class _Bell:
    """Wakes a thread through a pipe, in half the time that a lock takes. A ring does nothing while one is unheard."""

    def __init__(self) -> None:
        self._ends: tuple[int, ...] = ()
        self._ends = self.pipe, self._cord = os.pipe()
        self._rung = False

    def ring(self) -> None:
        """Wake the thread, because there is more to do."""
        if not self._rung:
            self._rung = True
            os.write(self._cord, b"!")

    def hear(self, seconds: float | None = None) -> None:
        """Wait for a ring, or for a number of seconds. The caller must look for work after this, not before."""
        if seconds is not None:
            waiting = select.poll()
            waiting.register(self.pipe, select.POLLIN)
            if not waiting.poll(seconds * 1_000):
                return
        os.read(self.pipe, 1)
        self._rung = False

    def __del__(self) -> None:
        # Not closed earlier: a late ring must not write into another file that has got the same descriptor since.
        for end in self._ends:
            os.close(end)


class Home(Protocol):
    """The event loop whose tasks a worker serves."""

    def waiter(self) -> Any:
        """An object that a task can wait for.

        Raises:
            RuntimeError: the task runs in another event loop.
        """
        ...

    def wait(self, waiter: Any) -> Awaitable[object]:
        """Wait until the waiter is woken."""
        ...

    def wake(self, waiters: Iterable[Any]) -> None:
        """Wake the tasks that are still waiting (event loop only)."""
        ...

    def soon(self, function: Callable[[], None]) -> None:
        """Call a function after the tasks that are already woken have run (event loop only)."""
        ...

    def notify(self) -> None:
        """Report that there is something to collect (worker's thread only)."""
        ...

    def leave(self) -> None:
        """End: nothing more will be collected (event loop only)."""
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

    def wake(self, waiters: Iterable[asyncio.Future[None]]) -> None:
        for waiter in waiters:
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

    def wake(self, waiters: Iterable[Any]) -> None:
        for waiter in waiters:
            waiter.set()

    def soon(self, function: Callable[[], None]) -> None:
        # A function called soon runs among the tasks already woken; one called soon from there runs after them.
        self._token.run_sync_soon(self._call, function)

    def notify(self) -> None:
        self._call(self._collect)

    def _call(self, function: Callable[[], None]) -> None:
        with suppress(self._trio.RunFinishedError):  # the event loop has ended, and all its tasks with it
            self._token.run_sync_soon(function)

    def leave(self) -> None:
        pass


_ELSEWHERE = "the store was opened in another event loop: open one in each"


def _home(collect: Callable[[], None]) -> Home:
    return _TrioHome(collect) if is_in_trio() else _AsyncioHome(asyncio.get_running_loop(), collect)


class Job(msgspec.Struct, Generic[R], eq=False):
    """A request, and later its result or error. The waiter is None if no task waits for the job."""

    request: Any
    waiter: Any
    result: R | None = None
    error: BaseException | None = None
    abandoned: bool = False


class Worker:
    """The thread. It serves jobs in the order in which they came; jobs that wait together are served together.

    Tasks that were answered together are likely to make their next requests together. So after such an answer, the
    thread is woken only after each of them has run. If the first one woke it, it would serve that one alone while the
    others wait.

    Args:
        name: the name of the thread.
        serve: called in the thread with the waiting jobs (at most 256); it sets the result or error of each.
        close: called in the thread at the end.
        tell: called in the event loop with the served jobs, in order, before their tasks continue.
        idle: two functions, both called in the thread. The first one returns how many seconds to wait for jobs (None:
            without limit). The second one is called after the jobs, or after that time; it may return a job to tell.
    """

    def __init__(
        self,
        name: str,
        serve: Callable[[Sequence[Job[Any]]], None],
        close: Callable[[], None],
        tell: Callable[[Sequence[Job[Any]]], None] | None = None,
        idle: tuple[Callable[[], float | None], Callable[[], Job[Any] | None]] | None = None,
    ) -> None:
        self._serve = serve
        self._close = close
        self._tell = tell
        self._idle = idle
        self._bell = _Bell()
        self._home = _home(self._collect)
        self._queue: deque[Job[Any]] = deque()
        self._done: deque[Sequence[Job[Any]]] = deque()
        self._answered = 0
        self._closers: list[Any] = []
        self._is_closing = False
        self._has_ended = False
        self._is_closed = False
        self._generation = forks.generation
        threading.Thread(target=self._run, name=f"tai-state sqlite {name}", daemon=True).start()

    @property
    def is_closing(self) -> bool:
        """Whether it accepts no more jobs."""
        return self._is_closing

    async def do(self, request: Any) -> Any:
        """Have a request served. The request is skipped if its caller is cancelled before its turn, but not later."""
        if self._is_closing:
            raise RuntimeError(NOT_OPEN)
        if self._generation != forks.generation:
            raise RuntimeError(AFTER_A_FORK)
        job: Job[Any] = Job(request, self._home.waiter())
        self._queue.append(job)
        if len(self._queue) == 1:  # otherwise the first caller in the queue has seen to it
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
        """Have a request served without waiting for it. Once the worker is closing, this does nothing."""
        if self._is_closing or self._generation != forks.generation:
            return
        self._queue.append(Job(request, None))
        if len(self._queue) == 1:
            self._bell.ring()

    def close(self) -> None:
        """Accept no more jobs, serve the waiting ones, close the connection, and end the thread."""
        if self._generation == forks.generation:
            self._is_closing = True
            self._bell.ring()

    async def wait_closed(self) -> None:
        """Wait until the thread has ended. It ends all the same if the caller is cancelled."""
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
        with suppress(Exception):  # the thread ends in any case
            self._close()
        self._has_ended = True
        self._home.notify()

    def _serve_all(self, jobs: Sequence[Job[Any]]) -> None:
        try:
            self._serve(jobs)
        except BaseException as error:  # noqa: BLE001 - every task must get an answer, whatever went wrong
            for job in jobs:
                if job.result is None and job.error is None:
                    job.error = error

    def _answer(self, jobs: Sequence[Job[Any]]) -> None:
        self._done.append(jobs)
        self._home.notify()

    def _collect(self) -> None:
        """Wake the tasks whose jobs are done (event loop only)."""
        answered = 0
        while self._done:
            jobs = self._done.popleft()
            answered += len(jobs)
            if self._tell is not None:
                self._tell(jobs)
            self._home.wake([job.waiter for job in jobs if job.waiter is not None])
        self._answered = answered or self._answered
        if self._has_ended:
            self._is_closed = True
            self._home.leave()
            self._home.wake(self._closers)
