"""For tests: the examination that every engine passes, and a clock set by hand."""

from tai_state.testing.clocks import ManualClock as ManualClock
from tai_state.testing.conformance import ENGINE_CHECKS as ENGINE_CHECKS
from tai_state.testing.conformance import REOPEN_CHECKS as REOPEN_CHECKS

__all__ = ["ENGINE_CHECKS", "REOPEN_CHECKS", "ManualClock"]
