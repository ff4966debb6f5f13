"""Time-outs: how many documents a look reads among 100,000 machines of which 100 are due, in memory and on SQLite.

``python benchmarks/timers.py`` makes the machines, each by a commit of its own, and counts what ``run_timers`` asks of
the engine: a look that finds what is due, and one that finds nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import anyio

from tai_state import ChangeMetadata, StateStore, open_store
from tai_state.engines.api import Committed, Document, Engine, Reading, Scan, Write
from tai_state.engines.memory import MemoryEngine
from tai_state.engines.paging import Paged, mapped
from tai_state.engines.sqlite.engine import SqliteEngine
from tai_state.machines import ComponentState, allow, define, described, run_timers, time_out
from tai_state.testing import ManualClock

MACHINES = 100_000
DUE = 100
DOCUMENTS_MAX = 2 * DUE
TASKS = 256
SECOND_US = 1_000_000


class Lamp(ComponentState):
    """The states of the machines."""

    On = described("Is lit")
    Off = described("Is dark")


LAMP = define(
    "lamp",
    Lamp,
    initial=Lamp.On,
    rules=[allow(Lamp.Off, Lamp.On), time_out(Lamp.On, Lamp.Off, seconds=60)],
)


class Counting:
    """An engine around another one. It counts the calls, and the documents that the other one gives."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.counts: dict[str, int] = {}
        self.reset()

    def reset(self) -> None:
        """Count from nothing again."""
        self.counts = {"scans": 0, "reads": 0, "commits": 0, "entries read": 0, "states read": 0}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def __aenter__(self) -> Self:
        await self._engine.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._engine.__aexit__(*exc)

    async def read(self, paths: Sequence[str]) -> Reading:
        """See ``Engine``."""
        reading = await self._engine.read(paths)
        self.counts["reads"] += 1
        self.counts["states read"] += len(reading.documents)
        return reading

    def scan(self, scan: Scan) -> Paged[Document]:
        """See ``Engine``."""
        self.counts["scans"] += 1
        return mapped(self._engine.scan(scan), self._counted)

    def _counted(self, page: Iterable[Document]) -> Sequence[Document]:
        documents = list(page)
        self.counts["entries read"] += len(documents)
        return documents

    async def commit(self, writes: Sequence[Write]) -> Committed:
        """See ``Engine``."""
        self.counts["commits"] += 1
        return await self._engine.commit(writes)


async def measured(engine: Engine, clock: ManualClock, machines: int) -> dict[str, Any]:
    """What a look costs that finds what is due, and one that finds nothing."""
    counting: Any = Counting(engine)
    async with open_store(counting, clock=clock, metadata=ChangeMetadata("benchmark", "")) as store:
        begun = time.perf_counter()
        await made(store, range(DUE))
        clock.advance_us(SECOND_US)
        await made(store, range(DUE, machines))
        made_seconds = time.perf_counter() - begun
        clock.advance_us(59 * SECOND_US)
        result: dict[str, Any] = {"machines": machines, "made in seconds": round(made_seconds, 1)}
        for look, fired in (("what is due", DUE), ("nothing", 0)):
            counting.reset()
            begun = time.perf_counter()
            report = await run_timers(store, LAMP)
            seconds = time.perf_counter() - begun
            if report.fired != fired:
                raise AssertionError(f"{report.fired} steps were taken")
            result[look] = {**counting.counts, "milliseconds": round(1_000 * seconds, 1)}
        found = result["what is due"]
        result["kept"] = found["entries read"] + found["states read"] <= DOCUMENTS_MAX
        return result


async def made(store: StateStore, numbers: range) -> None:
    """Make machines, many at once."""
    limiter = anyio.CapacityLimiter(TASKS)

    async def make(number: int) -> None:
        async with limiter:
            await store.machine(f"hall-{number % 10}", f"lamp-{number}", LAMP).initialize()

    for first in range(numbers.start, numbers.stop, 10_000):
        async with anyio.create_task_group() as tasks:
            for number in range(first, min(first + 10_000, numbers.stop)):
                tasks.start_soon(make, number)


async def main(machines: int, folder: Path) -> dict[str, Any]:
    """Measure both engines."""
    clocks = ManualClock(step_us=0), ManualClock(step_us=0)
    return {
        "memory": await measured(MemoryEngine(clocks[0]), clocks[0], machines),
        "sqlite": await measured(SqliteEngine(str(folder / "timers.db"), clocks[1]), clocks[1], machines),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--machines", type=int, default=MACHINES)
    parser.add_argument("--folder", type=Path, help="where the file goes")
    parser.add_argument("--json", type=Path, help="where to write the results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        account = json.dumps(anyio.run(main, options.machines, Path(temporary)), indent=2)
    print(account)
    if options.json:
        options.json.write_text(account + "\n")
