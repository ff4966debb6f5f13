"""What a recovery reports."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

import msgspec

LISTED_MAX: Final = 1_000
"""How many paths of each kind a report lists."""


class RecoveryReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a recovery found and did. It counts all, and lists the first 1,000 paths of each kind.

    Attributes:
        checked: how many states were checked.
        sound: how many states agreed with their streams.
        rebuilt: the paths of states that did not agree, and were rebuilt; also of governors, markers and records of
            retired stores that were missing or wrong, and were made anew; and of documents that belong to nothing and
            were removed, such as snapshots that no state lists.
        unchecked: the paths of states that need a reducer that was not given.
        failed: the path and reason of each document because of which a state cannot be repaired, and of each that
            belongs to no state.
        rebuilt_count: how many documents were rebuilt or made anew.
        unchecked_count: how many states need a reducer that was not given.
        failed_count: how many documents could not be mended.
        new_store_id: the id that the store was given, because its own document was damaged or missing; None if it kept
            its id. Whatever still has the store open writes under the old id until it is started again.
        resume: pass it to go on after an interruption; None when all is done.
    """

    checked: int = 0
    sound: int = 0
    rebuilt: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    rebuilt_count: int = 0
    unchecked_count: int = 0
    failed_count: int = 0
    new_store_id: str | None = None
    resume: tuple[str, str] | None = None

    def with_more(
        self, rebuilt: Sequence[str], unchecked: Sequence[str], failed: Sequence[tuple[str, str]]
    ) -> RecoveryReport:
        """This report with more paths, counted, and listed as long as there is room."""
        return msgspec.structs.replace(
            self,
            rebuilt=(*self.rebuilt, *rebuilt)[:LISTED_MAX],
            unchecked=(*self.unchecked, *unchecked)[:LISTED_MAX],
            failed=(*self.failed, *failed)[:LISTED_MAX],
            rebuilt_count=self.rebuilt_count + len(rebuilt),
            unchecked_count=self.unchecked_count + len(unchecked),
            failed_count=self.failed_count + len(failed),
        )

    @property
    def consistent(self) -> bool:
        """Whether every state now agrees with its stream, as far back as its newest sound snapshot.

        Only :meth:`StateMachinePersister.validate_consistency` checks older events.
        """
        return not self.unchecked and not self.failed


RecoveryProgress: TypeAlias = Callable[[RecoveryReport], Awaitable[None]]
