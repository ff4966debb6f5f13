"""One of several processes that share locks: it does as it is told on stdin, and says on stdout what came of it.

Started as a program: ``lock_worker.py URL NAME``. A line on stdin is a job, told as JSON; jobs run one after the other,
until stdin ends. What it says is JSON too, a line each, written at once: ``["what", ...]``.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import anyio

from tai_state import ANY, ChangeMetadata, StateStore, open_store
from tai_state.errors import CommitOutcomeUnknown, DeadlockDetected, LockLost, Unavailable
from tai_state.locks import queueing
from tai_state.locks.deadlocks import DeadlockSearch
from tai_state.locks.lease import Lease

_PACE_SECONDS = 0.002
"""Between two increments, so that a late writer without a fence finds a gap, and the trial its harm."""
GOVERNOR, COUNTER, RESOURCE = "plant", "counter", "plant/counter"


class Worker:
    """Works on one store.

    Args:
        store: open.
        name: of this process; the holder of its locks, and the author of its changes.
    """

    def __init__(self, store: StateStore, name: str) -> None:
        self._store = store
        self._name = name
        self._is_to_stop = False
        self._is_to_end = False

    def stop_at_the_next_write(self, *_: object) -> None:
        """Stop this process between the read and the write of the next increment."""
        self._is_to_stop = True

    def end(self, *_: object) -> None:
        """Count no further than to the end of the present tenure."""
        self._is_to_end = True

    async def count(self, ttl_seconds: float, writes: int, *, fenced: bool) -> None:
        """Increment a counter, tenure by tenure, until told to end; each write says by which fence it was allowed."""
        while not self._is_to_end:
            try:
                async with self._store.lock(RESOURCE, ttl_seconds=ttl_seconds, holder=self._name) as lease:
                    say("holds", lease.fence)
                    for _ in range(writes):
                        await self._increment(lease, fenced=fenced)
            except LockLost:
                say("lost")
            except Unavailable as error:
                say("unavailable", str(error))
        say("ended")

    async def _increment(self, lease: Lease, *, fenced: bool) -> None:
        counter = self._store.state(GOVERNOR, COUNTER)
        data = {"n": (await counter.get()).data["n"] + 1, "fence": lease.fence}
        change = f"{self._name}-{random.randbytes(8).hex()}"
        stopped, self._is_to_stop = self._is_to_stop, False
        if stopped:
            say("stops", lease.fence)
            os.kill(os.getpid(), signal.SIGSTOP)
        # Whoever wakes up too late sends its write all the same. Nothing but the fence is in its way: any version will
        # do, and the loss of the lease does not cancel it.
        with anyio.CancelScope(shield=True):
            say("writes", change, lease.fence)
            try:
                await counter.save(
                    data,
                    ChangeMetadata(self._name, "counts"),
                    expected=ANY,
                    event_id=change,
                    fence=lease if fenced else None,
                )
            except LockLost:
                say("refused", change, lease.fence)
            except CommitOutcomeUnknown:
                say("unknown", change, lease.fence)
            except Unavailable:
                say("failed", change, lease.fence)
            else:
                say("wrote", change, lease.fence)
        await anyio.sleep(_PACE_SECONDS)

    async def ring(self, own: str, other: str, ttl_seconds: float) -> None:
        """Hold one lock and, when told so, want another one as well."""
        async with self._store.lock(own, ttl_seconds=ttl_seconds, holder=self._name):
            say("holds", own)
            await told()
            try:
                async with self._store.lock(other, ttl_seconds=ttl_seconds, holder=self._name):
                    say("got", other)
            except DeadlockDetected as error:
                say("deadlock", *error.cycle)
        say("released", own)

    async def ordered(self, resources: Sequence[str], runs: int, seed: int) -> None:
        """Hold several locks, acquired one inside the other and always in the same order: no circle can come of it."""
        rng = random.Random(seed)
        searches = 0
        search = DeadlockSearch.circle_to_leave

        async def counted(*arguments: Any) -> Any:
            nonlocal searches
            searches += 1
            return await search(*arguments)

        DeadlockSearch.circle_to_leave = counted  # type: ignore[method-assign]
        for _ in range(runs):
            wanted = sorted(rng.sample(list(resources), rng.randint(2, len(resources))))
            try:
                async with AsyncExitStack() as stack:
                    for resource in wanted:
                        await stack.enter_async_context(self._store.lock(resource, ttl_seconds=30.0, holder=self._name))
                        await anyio.sleep(rng.random() * 0.02)
            except DeadlockDetected as error:
                say("false", *error.cycle)
        say("ran", runs, searches)


def say(*words: Any) -> None:
    """Tell whoever started this; written before anything else is done."""
    os.write(1, json.dumps(words).encode() + b"\n")


async def told() -> dict[str, Any] | None:
    """The next line; None at the end of them."""
    line = await anyio.to_thread.run_sync(sys.stdin.readline)
    return json.loads(line) if line else None


async def main(url: str, name: str) -> None:
    """Do the jobs."""
    async with open_store(url) as store:
        worker = Worker(store, name)
        signal.signal(signal.SIGUSR1, worker.stop_at_the_next_write)
        signal.signal(signal.SIGTERM, worker.end)
        say("ready", time.time(), time.monotonic())
        while (job := await told()) is not None:
            queueing.SEARCH_SECONDS = job.pop("search_seconds", queueing.SEARCH_SECONDS)
            await getattr(worker, job.pop("job"))(**job)


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
