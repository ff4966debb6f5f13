"""Ready-made machines of a cluster that infers: each is a definition, with its states and events.

They are Butterfly's. Its specification has states and descriptions, the coordinator's rules and the request's; its
design document has the edges beyond them. Each module says what it corrects.
"""

from tai_state.machines.ready.connection import CONNECTION as CONNECTION
from tai_state.machines.ready.connection import ConnectionEvents as ConnectionEvents
from tai_state.machines.ready.connection import ConnectionState as ConnectionState
from tai_state.machines.ready.coordinator import COORDINATOR as COORDINATOR
from tai_state.machines.ready.coordinator import CoordinatorState as CoordinatorState
from tai_state.machines.ready.coordinator import CoordinatorStateMachine as CoordinatorStateMachine
from tai_state.machines.ready.coordinator import CoordinatorTransitionRules as CoordinatorTransitionRules
from tai_state.machines.ready.partition import PARTITION as PARTITION
from tai_state.machines.ready.partition import PartitionEvents as PartitionEvents
from tai_state.machines.ready.partition import PartitionState as PartitionState
from tai_state.machines.ready.request import INFERENCE_REQUEST as INFERENCE_REQUEST
from tai_state.machines.ready.request import InferenceRequestStateMachine as InferenceRequestStateMachine
from tai_state.machines.ready.request import RequestState as RequestState
from tai_state.machines.ready.system import SYSTEM as SYSTEM
from tai_state.machines.ready.system import CommitVotes as CommitVotes
from tai_state.machines.ready.system import Phase as Phase
from tai_state.machines.ready.system import Quorum as Quorum
from tai_state.machines.ready.system import SystemEvents as SystemEvents
from tai_state.machines.ready.system import SystemState as SystemState
from tai_state.machines.ready.system import WorkInFlight as WorkInFlight
from tai_state.machines.ready.worker import WORKER as WORKER
from tai_state.machines.ready.worker import FailureConfirmation as FailureConfirmation
from tai_state.machines.ready.worker import WorkerEvents as WorkerEvents
from tai_state.machines.ready.worker import WorkerState as WorkerState
