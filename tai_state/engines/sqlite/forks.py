"""What a fork leaves to the child process: no thread, and a table of locks that are its parent's alone.

SQLite keeps a table of the files that its process has locked. A child of a fork inherits the table, but not the locks.
So if it opened such a file, SQLite would take it to be locked, and others would delete the log that the child writes.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Final, TypeAlias

Identity: TypeAlias = tuple[int, ...]
"""Which file a path leads to: its numbers of inode and device."""

AFTER_A_FORK: Final = (
    "the store was opened before a fork: start this process by spawn, or open the store only after the fork"
)


class _Forks:
    """The forks between this process and its first ancestor that imported this module.

    Attributes:
        generation: how many there are.
        inherited: the files that were open at one of them.
    """

    def __init__(self) -> None:
        self.generation: int = 0
        self.inherited: set[Identity] = set()
        self._open: Counter[Identity] = Counter()
        os.register_at_fork(after_in_child=self._count)

    def opened(self, file: Identity) -> None:
        """A file is open from now on, until as many calls of :meth:`closed`."""
        self._open[file] += 1

    def closed(self, file: Identity) -> None:
        """A file is closed."""
        self._open[file] -= 1

    def _count(self) -> None:
        self.generation += 1
        self.inherited.update(+self._open)
        self._open.clear()


forks: Final = _Forks()
