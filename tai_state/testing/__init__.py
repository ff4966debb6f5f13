"""Tools for tests: the examination that every engine passes, planned faults, and a clock that is set by hand."""

from tai_state.engines.memory import MemoryEngine as MemoryEngine
from tai_state.testing.clocks import ManualClock as ManualClock
from tai_state.testing.conformance import ENGINE_CHECKS as ENGINE_CHECKS
from tai_state.testing.conformance import LIFECYCLE_CHECKS as LIFECYCLE_CHECKS
from tai_state.testing.conformance import REOPEN_CHECKS as REOPEN_CHECKS
from tai_state.testing.conformance import WRAPPER_CHECKS as WRAPPER_CHECKS
from tai_state.testing.faults import AtCalls as AtCalls
from tai_state.testing.faults import Fault as Fault
from tai_state.testing.faults import FaultyEngine as FaultyEngine
from tai_state.testing.faults import Randomly as Randomly

__all__ = [
    "ENGINE_CHECKS",
    "LIFECYCLE_CHECKS",
    "REOPEN_CHECKS",
    "WRAPPER_CHECKS",
    "AtCalls",
    "Fault",
    "FaultyEngine",
    "ManualClock",
    "MemoryEngine",
    "Randomly",
]
