"""What watches cost writers on SQLite, with the writer in the watching process and in another process.

Each round does the same work without, with, again with and again without the watches; the next round begins with them.
The ratio of the two is taken within each round, and the median of these ratios is judged. Processor time is that of all
processes that take part.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ours import url
from work import METADATA

from tai_state import StateStore, open_store
from tai_state.engines.api import Put

STATES = 20_000
WATCHES = 1_000
WAITERS = 100
IDLE_SECONDS = 3.0
SETTLED_SECONDS = 2.0
"""The time from entering or leaving the watches to the first change."""
BATCH = 5_000

COST_MOST = 1.05
IDLE_MOST = 0.02
THROUGHPUT_LEAST = 0.9

Watching: TypeAlias = Callable[[StateStore], AbstractAsyncContextManager[None]]


@dataclass(frozen=True)
class Written:
    """What some changes took.

    Attributes:
        cpu_us: the processor time for each change, of all processes.
        rate: the changes per second.
    """

    cpu_us: float
    rate: float


async def change(store: StateStore, state_id: str, count: int) -> None:
    """Change a state that is not watched, again and again."""
    for version in range(count):
        await store.update_state("elsewhere", state_id, {"n": version}, METADATA, expected=version)


async def written_here(store: StateStore, state_id: str, count: int) -> Written:
    """What changes by this process take."""
    cpu, began = time.process_time(), time.perf_counter()
    await change(store, state_id, count)
    return Written((time.process_time() - cpu) / count * 1e6, count / (time.perf_counter() - began))


class Other:
    """Another process that changes states of the same file when it is told to."""

    def __init__(self, path: Path, count: int) -> None:
        command = [sys.executable, __file__, "--writes", str(path), "--changes", str(count)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    async def written(self, _: StateStore, state_id: str, count: int) -> Written:
        """What changes by that process take."""
        cpu = time.process_time()
        found = json.loads(await asyncio.to_thread(self._asked, state_id))
        return Written((time.process_time() - cpu) / count * 1e6 + found["cpu_us"], found["rate"])

    def _asked(self, state_id: str) -> str:
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: PT018 - both are pipes
        self._process.stdin.write(f"{state_id}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


async def write_as_told(path: str, count: int) -> None:
    """Do the work of the other process."""
    async with open_store(url(Path(path))) as store:
        while line := await asyncio.to_thread(sys.stdin.readline):
            done = await written_here(store, line.strip(), count)
            print(json.dumps({"cpu_us": done.cpu_us, "rate": done.rate}), flush=True)


@asynccontextmanager
async def one_large_watch(store: StateStore) -> AsyncGenerator[None]:
    """One watch of a collection with many documents."""
    async with store.core.engine.watch("governors/watched/states") as changes:
        for _ in range(STATES):
            await anext(changes)
        yield


@asynccontextmanager
async def many_watches(store: StateStore) -> AsyncGenerator[None]:
    """Many watches, each of one document."""
    watched = asyncio.Semaphore(0)

    async def look(number: int) -> None:
        async with store.core.engine.watch(f"governors/watched/states/{number:06}") as changes:
            async for _ in changes:
                watched.release()

    async with _beside([look(number) for number in range(WATCHES)]):
        for _ in range(WATCHES):
            await watched.acquire()
        yield


@asynccontextmanager
async def many_waiters(store: StateStore) -> AsyncGenerator[None]:
    """Many waiters for one lock."""

    async def wait() -> None:
        async with store.lock("wanted"):
            pass

    async with store.lock("wanted", ttl_seconds=600.0), _beside([wait() for _ in range(WAITERS)]):
        yield


@asynccontextmanager
async def _beside(work: Sequence[Any]) -> AsyncGenerator[None]:
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


async def compared(store: StateStore, other: Other, watching: Watching, count: int, rounds: int) -> dict[str, Any]:
    """Ratios of what changes take with and without the watches, by the process that writes."""
    writers = {"this process": written_here, "another process": other.written}
    ratios: dict[str, list[tuple[float, float]]] = {name: [] for name in writers}
    for number in range(rounds):
        for name, write in writers.items():
            found: dict[bool, list[Written]] = {False: [], True: []}
            begins_watched = number % 2 == 1
            for is_watched, times in ((begins_watched, 1), (not begins_watched, 2), (begins_watched, 1)):
                async with watching(store) if is_watched else _beside([]):
                    await asyncio.sleep(SETTLED_SECONDS)
                    for _ in range(times):
                        gc.collect()
                        state_id = f"{watching.__name__}-{number}-{name}-{is_watched}-{len(found[is_watched])}"
                        found[is_watched].append(await write(store, state_id, count))
            ratios[name].append((_ratio(found, "cpu_us"), _ratio(found, "rate")))
    return {
        name: {
            "cpu": round(statistics.median([cpu for cpu, _ in each]), 3),
            "throughput": round(statistics.median([rate for _, rate in each]), 3),
        }
        for name, each in ratios.items()
    }


def _ratio(found: dict[bool, list[Written]], of: str) -> float:
    """With the watches, in relation to without."""
    return sum(getattr(each, of) for each in found[True]) / sum(getattr(each, of) for each in found[False])


async def idle(store: StateStore) -> float:
    """The share of a core that watches take while nothing happens."""
    async with many_watches(store):
        cpu, began = time.process_time(), time.perf_counter()
        await asyncio.sleep(IDLE_SECONDS)
        return (time.process_time() - cpu) / (time.perf_counter() - began)


async def main(folder: Path, count: int, rounds: int) -> dict[str, Any]:
    """Run everything. Returns the results."""
    path = folder / "store.db"
    async with open_store(url(path)) as store:
        await change(store, "first", 1)
        for start in range(0, STATES, BATCH):
            paths = [f"governors/watched/states/{each:06}" for each in range(start, start + BATCH)]
            await store.core.engine.commit([Put(path, {"n": start}) for path in paths])
        other = Other(path, count)
        try:
            await other.written(store, "warm", count)
            large = await compared(store, other, one_large_watch, count, rounds)
            waiting = await compared(store, other, many_waiters, count, rounds)
            part = await idle(store)
        finally:
            other.close()
    kept = {
        f"a watch of {STATES} states: processor time of a change elsewhere, at most {COST_MOST}": all(
            each["cpu"] <= COST_MOST for each in large.values()
        ),
        f"{WAITERS} waiters for a lock: throughput of others, at least {THROUGHPUT_LEAST}": all(
            each["throughput"] >= THROUGHPUT_LEAST for each in waiting.values()
        ),
        f"{WATCHES} idle watches: part of a core, at most {IDLE_MOST}": part <= IDLE_MOST,
    }
    return {
        "rounds": rounds,
        "changes": count,
        "one large watch": large,
        "waiters": waiting,
        "idle watches": round(part, 4),
        "kept": kept,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--changes", type=int, default=5_000)
    parser.add_argument("--folder", type=Path, help="where the file goes; by default, a temporary folder")
    parser.add_argument("--writes", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a promise is not kept")
    options = parser.parse_args()
    if options.writes:
        asyncio.run(write_as_told(options.writes, options.changes))
        sys.exit()
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        result = asyncio.run(main(Path(temporary), options.changes, options.rounds))
    account = json.dumps(result, indent=2)
    print(account)
    if options.json:
        options.json.write_text(account + "\n")
    sys.exit(1 if options.check and not all(result["kept"].values()) else 0)
