"""Observers for tests."""

from __future__ import annotations

from tai_state import Attempted, Observer, Settled, Waited


class Recorder(Observer):
    """Remembers all that it is told.

    Attributes:
        attempts: the commits.
        outcomes: how changes ended.
        waits: for locks and turns.
    """

    def __init__(self) -> None:
        self.attempts: list[Attempted] = []
        self.outcomes: list[Settled] = []
        self.waits: list[Waited] = []

    def attempt(self, attempted: Attempted) -> None:
        """Remember a commit."""
        self.attempts.append(attempted)

    def settled(self, settled: Settled) -> None:
        """Remember an outcome."""
        self.outcomes.append(settled)

    def waited(self, waited: Waited) -> None:
        """Remember a wait."""
        self.waits.append(waited)

    def forget(self) -> None:
        """Begin anew."""
        for each in (self.attempts, self.outcomes, self.waits):
            each.clear()
