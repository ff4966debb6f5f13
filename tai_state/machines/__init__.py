"""Typed machines: what their states are, which steps they may take, and why another step is refused.

Start with :func:`define`. A definition is a value; :class:`StateMachine` is a machine in memory.
"""

from tai_state.machines.contexts import EventContext as EventContext
from tai_state.machines.contexts import Present as Present
from tai_state.machines.contexts import TransitionContext as TransitionContext
from tai_state.machines.defining import define as define
from tai_state.machines.definition import Definition as Definition
from tai_state.machines.diffing import DefinitionDifference as DefinitionDifference
from tai_state.machines.diffing import PartDifference as PartDifference
from tai_state.machines.drawing import to_dot as to_dot
from tai_state.machines.drawing import to_mermaid as to_mermaid
from tai_state.machines.drawing import to_table as to_table
from tai_state.machines.events import MachineEvent as MachineEvent
from tai_state.machines.invariants import CustomViolation as CustomViolation
from tai_state.machines.invariants import EpochSkew as EpochSkew
from tai_state.machines.invariants import IncompleteAssignment as IncompleteAssignment
from tai_state.machines.invariants import Invariant as Invariant
from tai_state.machines.invariants import MultipleCoordinators as MultipleCoordinators
from tai_state.machines.invariants import OverlappingAssignment as OverlappingAssignment
from tai_state.machines.invariants import QuorumLost as QuorumLost
from tai_state.machines.invariants import Severity as Severity
from tai_state.machines.invariants import VerticalIncoherence as VerticalIncoherence
from tai_state.machines.invariants import Violation as Violation
from tai_state.machines.judging import Refusal as Refusal
from tai_state.machines.judging import Step as Step
from tai_state.machines.judging import StepKind as StepKind
from tai_state.machines.machine import MachineClock as MachineClock
from tai_state.machines.machine import StateMachine as StateMachine
from tai_state.machines.obligations import ProofObligation as ProofObligation
from tai_state.machines.records import TransitionRecord as TransitionRecord
from tai_state.machines.rules import ANY_STATE as ANY_STATE
from tai_state.machines.rules import AnyState as AnyState
from tai_state.machines.rules import Proof as Proof
from tai_state.machines.rules import Rule as Rule
from tai_state.machines.rules import allow as allow
from tai_state.machines.rules import forbid as forbid
from tai_state.machines.rules import time_out as time_out
from tai_state.machines.states import ComponentState as ComponentState
from tai_state.machines.states import DataState as DataState
from tai_state.machines.states import MachineState as MachineState
from tai_state.machines.states import StateFacts as StateFacts
from tai_state.machines.states import described as described
from tai_state.machines.triggers import Cascade as Cascade
from tai_state.machines.triggers import Command as Command
from tai_state.machines.triggers import Event as Event
from tai_state.machines.triggers import Failure as Failure
from tai_state.machines.triggers import Recovery as Recovery
from tai_state.machines.triggers import Timeout as Timeout
from tai_state.machines.triggers import Trigger as Trigger
