"""The work that every contestant does, and how it is timed."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tai_state import ChangeMetadata

GOVERNOR = "bench"
MACHINE = "machine"
METADATA = ChangeMetadata("bench", "one step")


@dataclass
class Measured:
    """What one contestant took for its work in one round.

    Attributes:
        count: how many transitions or events it did.
        seconds: the time it took.
        cpu_seconds: the processor time of the whole process, with all its threads.
    """

    count: int
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def rate(self) -> float:
        """How many transitions or events it did per second."""
        return self.count / self.seconds

    @property
    def cpu_us(self) -> float:
        """The processor time for each, in microseconds."""
        return self.cpu_seconds / self.count * 1e6


@contextmanager
def timed(count: int) -> Iterator[Measured]:
    """Time the block, which does ``count`` pieces of work. Garbage from before is collected first."""
    gc.collect()
    measured = Measured(count)
    seconds, cpu_seconds = time.perf_counter(), time.process_time()
    yield measured
    measured.cpu_seconds = time.process_time() - cpu_seconds
    measured.seconds = time.perf_counter() - seconds


def state(step: int) -> dict[str, Any]:
    """A machine's state after this many steps: about 100 bytes of JSON."""
    return {
        "status": "running",
        "step": step,
        "owner": "worker-7",
        "queue": "default",
        "progress": 0.25,
        "retries": {"done": 1, "left": 2},
    }
