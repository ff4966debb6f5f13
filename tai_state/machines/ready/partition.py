"""A partition of a model: some of its layers, as a worker loads them.

Corrections of Butterfly, whose design document has the states and edges:

- A download or a validation that fails leads back to Unloaded. There no step follows from it.
- A partition in use is never evicted: the step is forbidden. There a sentence says so.
"""

from __future__ import annotations

from typing import Final

from tai_state.machines.defining import define
from tai_state.machines.events import MachineEvent
from tai_state.machines.rules import allow, forbid
from tai_state.machines.states import ComponentState, described


class PartitionState(ComponentState, component_type="Partition"):
    """The state of a partition on a worker."""

    Unloaded = described("Known, and none of it is loaded", operational=False)
    Downloading = described("Its weights are fetched from storage", operational=False)
    Validating = described("Its weights are checked", operational=False)
    Loaded = described("In memory, and not yet prepared for computing", operational=False)
    Warming = described("Prepared for computing", operational=False)
    Ready = described("Can be assigned to work at once", accepts_new_work=True)
    InUse = described("A worker computes with it")
    Evicted = described("Removed from memory, and can be loaded again", operational=False)


class PartitionEvents:
    """The events that move a partition."""

    download_initiated: Final = MachineEvent("download_initiated")
    download_complete: Final = MachineEvent("download_complete")
    download_failed: Final = MachineEvent("download_failed")
    validation_passed: Final = MachineEvent("validation_passed")
    validation_failed: Final = MachineEvent("validation_failed")
    warmup_initiated: Final = MachineEvent("warmup_initiated")
    warmup_complete: Final = MachineEvent("warmup_complete")
    assigned: Final = MachineEvent("assigned")
    released: Final = MachineEvent("released")
    evict: Final = MachineEvent("evict")


PARTITION: Final = define(
    "partition",
    PartitionState,
    initial=PartitionState.Unloaded,
    rules=[
        allow(
            [PartitionState.Unloaded, PartitionState.Evicted],
            PartitionState.Downloading,
            on=PartitionEvents.download_initiated,
        ),
        allow(PartitionState.Downloading, PartitionState.Validating, on=PartitionEvents.download_complete),
        allow(PartitionState.Downloading, PartitionState.Unloaded, on=PartitionEvents.download_failed),
        allow(PartitionState.Validating, PartitionState.Loaded, on=PartitionEvents.validation_passed),
        allow(PartitionState.Validating, PartitionState.Unloaded, on=PartitionEvents.validation_failed),
        allow(PartitionState.Loaded, PartitionState.Warming, on=PartitionEvents.warmup_initiated),
        allow(PartitionState.Warming, PartitionState.Ready, on=PartitionEvents.warmup_complete),
        allow(PartitionState.Ready, PartitionState.InUse, on=PartitionEvents.assigned),
        allow(PartitionState.InUse, PartitionState.Ready, on=PartitionEvents.released),
        allow(PartitionState.Ready, PartitionState.Evicted, on=PartitionEvents.evict),
        forbid(PartitionState.InUse, PartitionState.Evicted, "a partition in use is released before it is evicted"),
    ],
)
"""How a partition is loaded, used, evicted and loaded again."""
