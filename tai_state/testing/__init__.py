"""Tools for tests: given, when, then; planned faults; a clock that is set by hand; the examination of engines.

``tai_state.testing.strategies`` has strategies for Hypothesis.
"""

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
from tai_state.testing.given import Given as Given
from tai_state.testing.given import Outcome as Outcome
from tai_state.testing.given import given as given
from tai_state.testing.given_store import GivenStore as GivenStore
from tai_state.testing.given_store import Happened as Happened
from tai_state.testing.given_store import given_store as given_store
from tai_state.testing.replays import assert_replays as assert_replays

__all__ = [
    "ENGINE_CHECKS",
    "LIFECYCLE_CHECKS",
    "REOPEN_CHECKS",
    "WRAPPER_CHECKS",
    "AtCalls",
    "Fault",
    "FaultyEngine",
    "Given",
    "GivenStore",
    "Happened",
    "ManualClock",
    "MemoryEngine",
    "Outcome",
    "Randomly",
    "assert_replays",
    "given",
    "given_store",
]
