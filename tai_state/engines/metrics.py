"""A ready-made observer that counts what a service wants to show on its monitoring."""

from __future__ import annotations

from collections import Counter

from tai_state.engines.observing import Observer, RecoveryTime, Settled


class Metrics(Observer):
    """Counts the changes of states: ``open_store(…, observer=Metrics())``. All counts only grow.

    A change is one call, such as ``save_state``; a whole transaction; or a batch of an import. If a transaction runs
    again because a read or its commit met a conflict, each run is a change of its own. Changes of locks are not
    counted.

    Attributes:
        updates: how many changes were made, or found made by an earlier call with the same event ids.
        errors: how many changes ended with an error, by the name of its class.
        retries: how many changes, by the number of commits that they needed beyond the first.
        recovered_states: how many states ``recover`` and ``load_state`` have checked.
        recovery_seconds: how long that took, all together.
    """

    def __init__(self) -> None:
        self.updates: int = 0
        self.errors: Counter[str] = Counter()
        self.retries: Counter[int] = Counter()
        self.recovered_states: int = 0
        self.recovery_seconds: float = 0.0

    @property
    def conflict_rate(self) -> float:
        """The share of changes that ended with ``VersionConflict``, from 0 to 1; 0 if there was no change."""
        changes = self.updates + self.errors.total()
        return self.errors["VersionConflict"] / changes if changes else 0.0

    def settled(self, settled: Settled) -> None:
        """Count a change of states."""
        if settled.kind != "states":
            return
        if settled.error is None:
            self.updates += 1
        else:
            self.errors[settled.error] += 1
        self.retries[max(0, settled.attempts - 1)] += 1

    def recovered(self, recovery: RecoveryTime) -> None:
        """Count a recovery."""
        self.recovered_states += recovery.states
        self.recovery_seconds += recovery.seconds
