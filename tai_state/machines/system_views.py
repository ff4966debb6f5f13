"""What is seen of a system at one moment: values that whoever watches reads from wherever the machines stand."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import msgspec

from tai_state.machines.contexts import Present
from tai_state.machines.definition import Definition
from tai_state.machines.ready.coordinator import CoordinatorState
from tai_state.machines.ready.partition import PartitionState
from tai_state.machines.ready.request import RequestState
from tai_state.machines.ready.system import Phase, SystemState
from tai_state.machines.ready.worker import WorkerState
from tai_state.machines.states import ComponentState


class CoordinatorView(msgspec.Struct, frozen=True, kw_only=True):
    """What is seen of a coordinator.

    Attributes:
        id: the node that coordinates.
        state: its state.
        epoch: the epoch in which it is.
    """

    id: str
    state: CoordinatorState
    epoch: int = 0


class WorkerView(msgspec.Struct, frozen=True, kw_only=True):
    """What is seen of a worker.

    Attributes:
        id: the node that works.
        state: its state.
        epoch: the epoch in which it is.
        coordinator: the id of the coordinator that it follows; None: of none.
        partition: the id of the partition that is assigned to it; None: of none.
        seen_at: when it was last heard of; None: that is not known.
    """

    id: str
    state: WorkerState
    epoch: int = 0
    coordinator: str | None = None
    partition: str | None = None
    seen_at: datetime | None = None


class PartitionView(msgspec.Struct, frozen=True, kw_only=True):
    """What is seen of a partition.

    Attributes:
        id: its id.
        state: its state.
        layers: the numbers of the layers that it has, from 0 up.
    """

    id: str
    state: PartitionState
    layers: tuple[int, ...] = ()


class RequestView(msgspec.Struct, frozen=True, kw_only=True):
    """What is seen of an inference request.

    Attributes:
        id: its id.
        state: its state.
    """

    id: str
    state: RequestState


class MachineView(msgspec.Struct, frozen=True, kw_only=True):
    """What is seen of any machine, whose own invariants are checked.

    Attributes:
        id: its id.
        definition: has the invariants.
        present: the machine as it stands.
    """

    id: str
    definition: Definition[Any, Any]
    present: Present[Any, Any]


class SystemView(msgspec.Struct, frozen=True, kw_only=True):
    """What is seen of a system at one moment; what is left out is not checked.

    Attributes:
        state: the state of the system.
        phase: the phase of its computation.
        quorum: how many nodes a decision needs.
        layers: how many layers the model has.
        coordinators: its coordinators.
        workers: its workers.
        partitions: the partitions of its model.
        requests: the requests that it was given.
        machines: machines of any kind, whose own invariants are checked.
    """

    state: SystemState | None = None
    phase: Phase | None = None
    quorum: int = 0
    layers: int = 0
    coordinators: tuple[CoordinatorView, ...] = ()
    workers: tuple[WorkerView, ...] = ()
    partitions: tuple[PartitionView, ...] = ()
    requests: tuple[RequestView, ...] = ()
    machines: tuple[MachineView, ...] = ()

    def components(self) -> Iterator[tuple[str, ComponentState]]:
        """The ids and states of those that the state of the system binds: what is final takes no part any more."""
        for part in (self.coordinators, self.workers, self.requests):
            for each in part:
                if not each.state.is_terminal:
                    yield each.id, each.state

    def assignments(self) -> Iterator[tuple[WorkerView, PartitionView]]:
        """The workers that have not failed, each with the partition that is assigned to it."""
        partitions = {each.id: each for each in self.partitions}
        for worker in self.workers:
            if worker.partition in partitions and not worker.state.is_terminal:
                yield worker, partitions[worker.partition]
