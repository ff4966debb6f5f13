"""The definitions that an endpoint knows, and the stored machines that they read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from tai_state.errors import InvalidData, UnknownMachineState
from tai_state.machines.checks import check_definition
from tai_state.machines.definition import Definition
from tai_state.machines.envelope import MachineRecord, Opened, read_envelope, unseal
from tai_state.machines.snapshots import MachineSnapshot, machine_snapshot
from tai_state.values.states import JsonSnapshot


class Known(msgspec.Struct, frozen=True):
    """A stored machine, as the definition reads it that knows it.

    Attributes:
        definition: that definition.
        opened: the machine, as it stands in the data of its state.
        snapshot: the machine, as callers get it.
    """

    definition: Definition[Any, Any]
    opened: Opened[Any, Any]
    snapshot: MachineSnapshot[Any, Any]


class Catalogue:
    """Definitions by name. Of several with one name, a machine is read by the one that wrote it, else by the newest.

    Args:
        definitions: one definition, or several.

    Raises:
        InvalidData: one of them is not a definition, or there is none.
    """

    def __init__(self, definitions: Definition[Any, Any] | Iterable[Definition[Any, Any]]) -> None:
        given: Any = [definitions] if isinstance(definitions, Definition) else definitions
        if not isinstance(given, Iterable):
            raise InvalidData(f"definitions must be one definition or several, not {given!r}")
        self._by_name: dict[str, list[Definition[Any, Any]]] = {}
        for each in given:  # pyright: ignore[reportUnknownVariableType]
            check_definition(each)  # pyright: ignore[reportUnknownArgumentType]
            self._by_name.setdefault(each.name, []).append(each)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
        if not self._by_name:
            raise InvalidData("definitions must name one definition at least")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the machines, in order."""
        return tuple(sorted(self._by_name))

    @property
    def some(self) -> Definition[Any, Any]:
        """One of the definitions, to read a history by that none of them needs to know."""
        return next(iter(self._by_name.values()))[0]

    def read(self, state: JsonSnapshot, path: str) -> Known:
        """The machine in a state.

        Args:
            state: the state.
            path: its path, for errors.

        Raises:
            SerializationError: the state is not that of a machine, or its parts do not fit their models.
            UnknownMachineState: no definition knows the machine, or its state.
        """
        record = read_envelope(state.data, path)[0]
        definition = self._of(record, path)
        opened = unseal(definition, state.data, path)
        return Known(definition, opened, machine_snapshot(state, opened, path))

    def _of(self, record: MachineRecord, path: str) -> Definition[Any, Any]:
        """The definition for a machine.

        Raises:
            UnknownMachineState: there is none of its name.
        """
        known = self._by_name.get(record.name)
        if known is None:
            stored = f"{record.name!r} version {record.version} ({record.definition})"
            here = ", ".join(map(repr, self.names))
            what = f"holds a machine {stored} in the state {record.state!r}, and the definitions here are of {here}"
            raise UnknownMachineState(path, what, record.state, stored, here)
        wrote = (each for each in known if each.hash == record.definition)
        return next(wrote, None) or max(known, key=lambda each: each.version)
