"""What a recovery reports."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import msgspec

LISTED_MAX = 1_000
"""How many paths of each kind a report lists."""


class RecoveryReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a recovery found and did. It lists the first 1,000 paths of each kind.

    Attributes:
        checked: how many states were checked.
        sound: how many states agreed with their streams.
        rebuilt: the paths of states that did not agree, and were rebuilt; also of governors, markers and records of
            retired stores that were missing or wrong, and were made anew; and of documents that belong to nothing and
            were removed, such as snapshots that no state lists.
        unchecked: the paths of states that need a reducer that was not given.
        failed: the path and reason of each document because of which a state cannot be repaired, and of each that
            belongs to no state.
        new_store_id: the id that the store was given, because its own document was damaged or missing; None if it kept
            its id. Whatever still has the store open writes under the old id until it is started again.
        resume: pass it to go on after an interruption; None when all is done.
    """

    checked: int = 0
    sound: int = 0
    rebuilt: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    new_store_id: str | None = None
    resume: tuple[str, str] | None = None

    @property
    def consistent(self) -> bool:
        """Whether every state now agrees with its stream, as far back as its newest sound snapshot.

        Only :meth:`StateMachinePersister.validate_consistency` checks older events.
        """
        return not self.unchecked and not self.failed


RecoveryProgress: TypeAlias = Callable[[RecoveryReport], Awaitable[None]]
