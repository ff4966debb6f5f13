"""How much memory the replay of a long stream adds to a process that does nothing else.

Run on its own, ``python benchmarks/memory.py store.db 1000000`` replays the events of a store that ``run.py`` made, and
prints one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time
from pathlib import Path

from ours import url
from work import GOVERNOR, MACHINE

from tai_state import StateMachinePersister, open_store

_MIB = 1024 * 1024


def resident(name: str) -> float:
    """The memory in use (``VmRSS``), or the most so far (``VmHWM``), in MiB, as Linux counts it."""
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields[name].split()[0]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # other systems only report the peak
    return peak / (_MIB if sys.platform == "darwin" else 1024)


async def measure(path: Path, count: int) -> dict[str, float]:
    """Replay all events, and measure the memory before and after."""
    async with open_store(url(path)) as store:
        before = resident("VmRSS")
        started = time.perf_counter()
        found = 0
        async for _ in StateMachinePersister(store).replay(GOVERNOR, MACHINE):
            found += 1
        seconds = time.perf_counter() - started
    if found != count:
        raise AssertionError(f"{found} events were read, not {count}")
    peak = resident("VmHWM")
    return {"events": found, "before_mib": before, "peak_mib": peak, "grown_mib": peak - before, "seconds": seconds}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("events", type=int)
    arguments = parser.parse_args()
    print(json.dumps(asyncio.run(measure(arguments.path, arguments.events))))
