"""Writing more than one commit takes: what goes into each is decided here, by the engine's limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple, TypeVar

import msgspec

from tai_state.engines.api import Capabilities, Put, Write

T = TypeVar("T")

_OPERATIONS_MAX: Final = 1_000
_BYTES_MAX: Final = 4 * 1024 * 1024
"""Larger commits gain nothing, and others wait for each as long as it takes."""


class Weight(NamedTuple):
    """What something takes of a commit.

    Attributes:
        operations: writes.
        size: bytes, of paths and of fields as JSON.
    """

    operations: int
    size: int


_NOTHING: Final = Weight(0, 0)


def weight_of(write: Write) -> Weight:
    """What one write takes."""
    size = len(msgspec.json.encode(write.fields)) if isinstance(write, Put) else 0
    return Weight(1, size + len(write.path.encode()))


class Batches:
    """Splits what is to be written into commits that an engine takes.

    Args:
        capabilities: the engine's. From 128 writes and 1.5 MiB a commit up, everything in this library fits.

    Attributes:
        operations_max: writes in one batch.
        bytes_max: bytes in one batch.
    """

    def __init__(self, capabilities: Capabilities) -> None:
        self.operations_max: int = min(capabilities.max_ops_per_commit, _OPERATIONS_MAX)
        self.bytes_max: int = min(capabilities.max_bytes_per_commit, _BYTES_MAX)

    def split(self, items: Iterable[T], weigh: Callable[[T], Weight], beside: Weight = _NOTHING) -> Iterator[list[T]]:
        """The items in their order, in as few batches as they fit into; one that is too large stands alone.

        Args:
            items: each goes into one commit as a whole.
            weigh: what an item takes.
            beside: what else goes into each commit.
        """
        batch: list[T] = []
        operations, size = beside
        for item in items:
            more = weigh(item)
            operations += more.operations
            size += more.size
            if batch and (operations > self.operations_max or size > self.bytes_max):
                yield batch
                batch = []
                operations, size = beside.operations + more.operations, beside.size + more.size
            batch.append(item)
        if batch:
            yield batch
