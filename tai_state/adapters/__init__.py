"""Machines of other libraries, stored: a machine of yours stays as it is, and each event that it takes is one commit.

:class:`StatemachineAdapter` takes machines of python-statemachine, :class:`TransitionsAdapter` those of transitions.
"""

from tai_state.adapters.handle import AdaptedMachine as AdaptedMachine
from tai_state.adapters.handle import AfterCommit as AfterCommit
from tai_state.adapters.records import AdaptedEventRecord as AdaptedEventRecord
from tai_state.adapters.records import AdaptedSnapshot as AdaptedSnapshot
from tai_state.adapters.records import AdaptedStep as AdaptedStep
from tai_state.adapters.statemachine import StatemachineAdapter as StatemachineAdapter
from tai_state.adapters.transitions import TransitionsAdapter as TransitionsAdapter
