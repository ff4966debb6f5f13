"""State machines whose state survives: event-sourced, versioned, atomic.

Start with :func:`open_store`. What is not named here is private to the library.
"""

import logging

from tai_state.conflicts.consistency import ConsistencyStats as ConsistencyStats
from tai_state.conflicts.consistency import EventualConsistency as EventualConsistency
from tai_state.conflicts.latest import ConflictHistory as ConflictHistory
from tai_state.conflicts.latest import ConflictRecord as ConflictRecord
from tai_state.conflicts.machines import MachineMerge as MachineMerge
from tai_state.conflicts.merging import FieldMerge as FieldMerge
from tai_state.conflicts.merging import FieldStrategy as FieldStrategy
from tai_state.conflicts.recorded import RecordedConflict as RecordedConflict
from tai_state.conflicts.recorded import recorded_conflicts as recorded_conflicts
from tai_state.conflicts.resolutions import Discarded as Discarded
from tai_state.conflicts.resolutions import Resolution as Resolution
from tai_state.conflicts.resolvers import Causal as Causal
from tai_state.conflicts.resolvers import Custom as Custom
from tai_state.conflicts.resolvers import LastWriteWins as LastWriteWins
from tai_state.conflicts.resolvers import Resolver as Resolver
from tai_state.conflicts.resolvers import ResolverFunction as ResolverFunction
from tai_state.conflicts.resolvers import VersionBased as VersionBased
from tai_state.conflicts.retiring import RetirementReport as RetirementReport
from tai_state.conflicts.retiring import retire_store as retire_store
from tai_state.conflicts.rivals import Counted as Counted
from tai_state.conflicts.rivals import Rival as Rival
from tai_state.conflicts.sync import SyncConflict as SyncConflict
from tai_state.conflicts.sync import SyncProgress as SyncProgress
from tai_state.conflicts.sync import SyncReport as SyncReport
from tai_state.conflicts.sync import sync as sync
from tai_state.engines.api import Engine as Engine
from tai_state.engines.metrics import Metrics as Metrics
from tai_state.engines.observing import Attempted as Attempted
from tai_state.engines.observing import AttemptOutcome as AttemptOutcome
from tai_state.engines.observing import Observer as Observer
from tai_state.engines.observing import RecoveryTime as RecoveryTime
from tai_state.engines.observing import Settled as Settled
from tai_state.engines.observing import SettledKind as SettledKind
from tai_state.engines.observing import Waited as Waited
from tai_state.engines.paging import Paged as Paged
from tai_state.errors import CausalityViolation as CausalityViolation
from tai_state.errors import CommitOutcomeUnknown as CommitOutcomeUnknown
from tai_state.errors import CommitTooLarge as CommitTooLarge
from tai_state.errors import ConcurrentModification as ConcurrentModification
from tai_state.errors import Conflict as Conflict
from tai_state.errors import ConflictResolutionFailed as ConflictResolutionFailed
from tai_state.errors import CorruptDocument as CorruptDocument
from tai_state.errors import DeadlockDetected as DeadlockDetected
from tai_state.errors import DocumentTooLarge as DocumentTooLarge
from tai_state.errors import EventSourcingError as EventSourcingError
from tai_state.errors import GovernorExists as GovernorExists
from tai_state.errors import GovernorNotFound as GovernorNotFound
from tai_state.errors import IdempotencyConflict as IdempotencyConflict
from tai_state.errors import ImportConflict as ImportConflict
from tai_state.errors import IncompatibleFormat as IncompatibleFormat
from tai_state.errors import Inconsistent as Inconsistent
from tai_state.errors import InvalidData as InvalidData
from tai_state.errors import InvalidDefinition as InvalidDefinition
from tai_state.errors import InvalidId as InvalidId
from tai_state.errors import InvalidTransition as InvalidTransition
from tai_state.errors import InvariantViolation as InvariantViolation
from tai_state.errors import LockAcquisitionFailed as LockAcquisitionFailed
from tai_state.errors import LockAlreadyHeld as LockAlreadyHeld
from tai_state.errors import LockLost as LockLost
from tai_state.errors import NotFound as NotFound
from tai_state.errors import NotRetained as NotRetained
from tai_state.errors import PreconditionFailed as PreconditionFailed
from tai_state.errors import ReducerMissing as ReducerMissing
from tai_state.errors import Rejected as Rejected
from tai_state.errors import SerializationError as SerializationError
from tai_state.errors import StaleRead as StaleRead
from tai_state.errors import StateNotFound as StateNotFound
from tai_state.errors import StoreNotFound as StoreNotFound
from tai_state.errors import StoreTimeout as StoreTimeout
from tai_state.errors import StoreUnavailable as StoreUnavailable
from tai_state.errors import StoreUnusable as StoreUnusable
from tai_state.errors import TaiStateError as TaiStateError
from tai_state.errors import TransactionFailed as TransactionFailed
from tai_state.errors import TransitionRefused as TransitionRefused
from tai_state.errors import Unavailable as Unavailable
from tai_state.errors import UnindexedField as UnindexedField
from tai_state.errors import UnknownMachineState as UnknownMachineState
from tai_state.errors import UnknownStore as UnknownStore
from tai_state.errors import VersionConflict as VersionConflict
from tai_state.history.checking import Finding as Finding
from tai_state.history.cleanup import CleanupStats as CleanupStats
from tai_state.history.csvfile import Columns as Columns
from tai_state.history.exportfile import TransferStats as TransferStats
from tai_state.history.folding import Reducer as Reducer
from tai_state.history.folding import Reducers as Reducers
from tai_state.history.importing import Acknowledged as Acknowledged
from tai_state.history.importing import ImportStats as ImportStats
from tai_state.history.persister import LoadedState as LoadedState
from tai_state.history.persister import StateMachinePersister as StateMachinePersister
from tai_state.history.reporting import RecoveryProgress as RecoveryProgress
from tai_state.history.reporting import RecoveryReport as RecoveryReport
from tai_state.history.validation import ConsistencyReport as ConsistencyReport
from tai_state.locks.lease import Lease as Lease
from tai_state.locks.locking import LockManager as LockManager
from tai_state.locks.records import LockInfo as LockInfo
from tai_state.locks.statistics import LockStatistics as LockStatistics
from tai_state.locks.statistics import LockWaiter as LockWaiter
from tai_state.store.handle import StateHandle as StateHandle
from tai_state.store.opening import FirestoreStore as FirestoreStore
from tai_state.store.opening import open_store as open_store
from tai_state.store.store import StateStore as StateStore
from tai_state.streams.changes import Fence as Fence
from tai_state.streams.changes import Guard as Guard
from tai_state.streams.core import HasCore as HasCore
from tai_state.streams.policies import AnyOf as AnyOf
from tai_state.streams.policies import EveryBytes as EveryBytes
from tai_state.streams.policies import EveryEvents as EveryEvents
from tai_state.streams.policies import EveryInterval as EveryInterval
from tai_state.streams.policies import Never as Never
from tai_state.streams.policies import OnStates as OnStates
from tai_state.streams.policies import SinceKept as SinceKept
from tai_state.streams.policies import SnapshotPolicy as SnapshotPolicy
from tai_state.streams.reading import StoreStats as StoreStats
from tai_state.streams.sizes import StoreSize as StoreSize
from tai_state.streams.typed import TypedState as TypedState
from tai_state.streams.upcasting import Upcast as Upcast
from tai_state.transactions.machines import MachineInTransaction as MachineInTransaction
from tai_state.transactions.manager import TransactionManager as TransactionManager
from tai_state.transactions.records import StateVersion as StateVersion
from tai_state.transactions.records import TransactionRecord as TransactionRecord
from tai_state.transactions.records import TransactionStatus as TransactionStatus
from tai_state.transactions.transaction import Transaction as Transaction
from tai_state.values.clocks import ClockOrder as ClockOrder
from tai_state.values.clocks import LamportClock as LamportClock
from tai_state.values.clocks import VectorClock as VectorClock
from tai_state.values.events import JsonEvent as JsonEvent
from tai_state.values.events import NewEvent as NewEvent
from tai_state.values.events import StateEvent as StateEvent
from tai_state.values.expected import ANY as ANY
from tai_state.values.expected import EXISTS as EXISTS
from tai_state.values.expected import NO_STATE as NO_STATE
from tai_state.values.expected import Expected as Expected
from tai_state.values.metadata import ChangeMetadata as ChangeMetadata
from tai_state.values.states import DeletedState as DeletedState
from tai_state.values.states import JsonSnapshot as JsonSnapshot
from tai_state.values.states import JsonState as JsonState
from tai_state.values.states import StateSnapshot as StateSnapshot
from tai_state.values.times import WallClock as WallClock

logging.getLogger("tai_state").addHandler(logging.NullHandler())

__all__ = [
    "ANY",
    "EXISTS",
    "NO_STATE",
    "Acknowledged",
    "AnyOf",
    "AttemptOutcome",
    "Attempted",
    "Causal",
    "CausalityViolation",
    "ChangeMetadata",
    "CleanupStats",
    "ClockOrder",
    "Columns",
    "CommitOutcomeUnknown",
    "CommitTooLarge",
    "ConcurrentModification",
    "Conflict",
    "ConflictHistory",
    "ConflictRecord",
    "ConflictResolutionFailed",
    "ConsistencyReport",
    "ConsistencyStats",
    "CorruptDocument",
    "Counted",
    "Custom",
    "DeadlockDetected",
    "DeletedState",
    "Discarded",
    "DocumentTooLarge",
    "Engine",
    "EventSourcingError",
    "EventualConsistency",
    "EveryBytes",
    "EveryEvents",
    "EveryInterval",
    "Expected",
    "Fence",
    "FieldMerge",
    "FieldStrategy",
    "Finding",
    "FirestoreStore",
    "GovernorExists",
    "GovernorNotFound",
    "Guard",
    "HasCore",
    "IdempotencyConflict",
    "ImportConflict",
    "ImportStats",
    "IncompatibleFormat",
    "Inconsistent",
    "InvalidData",
    "InvalidDefinition",
    "InvalidId",
    "InvalidTransition",
    "InvariantViolation",
    "JsonEvent",
    "JsonSnapshot",
    "JsonState",
    "LamportClock",
    "LastWriteWins",
    "Lease",
    "LoadedState",
    "LockAcquisitionFailed",
    "LockAlreadyHeld",
    "LockInfo",
    "LockLost",
    "LockManager",
    "LockStatistics",
    "LockWaiter",
    "MachineInTransaction",
    "MachineMerge",
    "Metrics",
    "Never",
    "NewEvent",
    "NotFound",
    "NotRetained",
    "Observer",
    "OnStates",
    "Paged",
    "PreconditionFailed",
    "RecordedConflict",
    "RecoveryProgress",
    "RecoveryReport",
    "RecoveryTime",
    "Reducer",
    "ReducerMissing",
    "Reducers",
    "Rejected",
    "Resolution",
    "Resolver",
    "ResolverFunction",
    "RetirementReport",
    "Rival",
    "SerializationError",
    "Settled",
    "SettledKind",
    "SinceKept",
    "SnapshotPolicy",
    "StaleRead",
    "StateEvent",
    "StateHandle",
    "StateMachinePersister",
    "StateNotFound",
    "StateSnapshot",
    "StateStore",
    "StateVersion",
    "StoreNotFound",
    "StoreSize",
    "StoreStats",
    "StoreTimeout",
    "StoreUnavailable",
    "StoreUnusable",
    "SyncConflict",
    "SyncProgress",
    "SyncReport",
    "TaiStateError",
    "Transaction",
    "TransactionFailed",
    "TransactionManager",
    "TransactionRecord",
    "TransactionStatus",
    "TransferStats",
    "TransitionRefused",
    "TypedState",
    "Unavailable",
    "UnindexedField",
    "UnknownMachineState",
    "UnknownStore",
    "Upcast",
    "VectorClock",
    "VersionBased",
    "VersionConflict",
    "Waited",
    "WallClock",
    "open_store",
    "recorded_conflicts",
    "retire_store",
    "sync",
]
