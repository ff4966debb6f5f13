"""Splitting writes that do not fit into one commit, by the engine's limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple, TypeVar

import msgspec

from tai_state.engines.api import Capabilities, Put, Write

T = TypeVar("T")

_OPERATIONS_MAX: Final = 1_000
_BYTES_MAX: Final = 4 * 1024 * 1024
"""A larger commit is not faster, and other writers have to wait while it runs."""


class Weight(NamedTuple):
    """The share of a commit's limits that an item uses.

    Attributes:
        operations: how many writes.
        size: how many bytes of paths, and of fields as JSON.
    """

    operations: int
    size: int


_NOTHING: Final = Weight(0, 0)


def weight_of(write: Write) -> Weight:
    """The weight of one write."""
    size = len(msgspec.json.encode(write.fields)) if isinstance(write, Put) else 0
    return Weight(1, size + len(write.path.encode()))


def weight_of_all(writes: Iterable[Write]) -> Weight:
    """The weight of several writes together."""
    weights = [weight_of(each) for each in writes]
    return Weight(len(weights), sum(each.size for each in weights))


class Batches:
    """Splits items to write into batches, each of which fits into one commit.

    Args:
        capabilities: the engine's capabilities. With at least 128 writes and 1.5 MiB per commit, every commit of this
            library fits.

    Attributes:
        operations_max: how many writes one batch may have.
        bytes_max: how many bytes one batch may have.
    """

    def __init__(self, capabilities: Capabilities) -> None:
        self.operations_max: int = min(capabilities.max_ops_per_commit, _OPERATIONS_MAX)
        self.bytes_max: int = min(capabilities.max_bytes_per_commit, _BYTES_MAX)

    def split(self, items: Iterable[T], weigh: Callable[[T], Weight], beside: Weight = _NOTHING) -> Iterator[list[T]]:
        """Split the items, in order, into as few batches as possible; an item that is too large gets its own batch.

        Args:
            items: the items; each goes into one commit as a whole.
            weigh: returns the weight of an item.
            beside: the weight of all else that goes into each commit.
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
