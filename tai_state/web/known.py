"""A stored machine, as the definition reads it that knows it."""

from __future__ import annotations

from typing import Any

import msgspec

from tai_state.machines.catalogue import Catalogue
from tai_state.machines.definition import Definition
from tai_state.machines.envelope import Opened, read_envelope, unseal
from tai_state.machines.snapshots import MachineSnapshot, machine_snapshot
from tai_state.values.states import JsonSnapshot


class Known(msgspec.Struct, frozen=True):
    """A stored machine.

    Attributes:
        definition: the definition that knows it.
        opened: the machine, as it stands in the data of its state.
        snapshot: the machine, as callers get it.
    """

    definition: Definition[Any, Any]
    opened: Opened[Any, Any]
    snapshot: MachineSnapshot[Any, Any]


def known(catalogue: Catalogue, state: JsonSnapshot, path: str) -> Known:
    """The machine in a state.

    Args:
        catalogue: the definitions at hand.
        state: the state.
        path: its path, for errors.

    Raises:
        SerializationError: the state is not that of a machine, or its parts do not fit their models.
        UnknownMachineState: no definition knows the machine, or its state.
    """
    definition = catalogue.reading(read_envelope(state.data, path)[0], path)
    opened = unseal(definition, state.data, path)
    return Known(definition, opened, machine_snapshot(state, opened, path))
