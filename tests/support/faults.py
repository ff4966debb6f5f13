"""Plans of faults."""

from __future__ import annotations

from tai_state.testing import Fault
from tai_state.testing.faults import Call


class NextCommit:
    """A fault at the next commit, once."""

    planned = 1

    def __init__(self, fault: Fault) -> None:
        self._fault: Fault | None = fault

    def fault(self, call: Call) -> Fault | None:
        """The fault of a call."""
        if call.verb != "commit":
            return None
        fault, self._fault = self._fault, None
        return fault
