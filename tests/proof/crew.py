"""The processes that share the work, each with a workload process of its own."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tracing import Workloads

T = TypeVar("T")
R = TypeVar("R")

PROCESSES = 2
_own: list[Workloads] = []


class Crew:
    """Some processes that do tasks side by side."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """The function's results, in the order of the tasks."""
        return self._pool.map(function, tasks)


@contextmanager
def crew() -> Iterator[Crew]:
    """A crew for as long as the block lasts."""
    context: Any = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
        yield Crew(pool)


def workloads() -> Workloads:
    """The workload process of this process, started when first asked for; it ends with this one."""
    if not _own:
        _own.append(Workloads())
    return _own[0]


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for a store, in memory where the system has such a place, gone afterwards."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="tai-state-proof-", dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)
