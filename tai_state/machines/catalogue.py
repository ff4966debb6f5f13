"""The definitions that an application has at hand: those of its machines today, and older versions of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from tai_state.errors import InvalidData
from tai_state.machines.checks import check_definition
from tai_state.machines.definition import Definition
from tai_state.machines.envelope import MachineRecord, unknown_state
from tai_state.values.checks import check_items

Definitions: TypeAlias = Definition[Any, Any] | Sequence[Definition[Any, Any]]
"""One definition or several, older versions of the same machine among them."""


class Catalogue:
    """Definitions, found by their names and by what is stored of them.

    Args:
        definitions: the definitions. Of one name, the newest is that of the highest version; of equal versions, the
            last one.

    Attributes:
        newest: the newest definition of each name.

    Raises:
        InvalidData: they are not definitions, or there is none.
    """

    def __init__(self, definitions: Definitions) -> None:
        def refusal() -> InvalidData:
            return InvalidData(f"definitions must be a definition or a sequence of them, not {definitions!r}")

        given = (definitions,) if isinstance(definitions, Definition) else check_items(definitions, refusal)
        if not given:
            raise refusal()
        self.newest: dict[str, Definition[Any, Any]] = {}
        self._by_hash: dict[str, dict[int, Definition[Any, Any]]] = {}
        for each in given:
            check_definition(each)
        for each in sorted(given, key=lambda definition: definition.version):
            self.newest[each.name] = each
            self._by_hash.setdefault(each.hash, {})[each.version] = each

    def of(self, record: MachineRecord) -> Definition[Any, Any] | None:
        """The definition that a stored machine was written under; None if it is not at hand.

        It is found by its hash. Of several that decide alike it is the one of the version that wrote the machine, or
        else the newest.
        """
        alike = self._by_hash.get(record.definition, {})
        return alike.get(record.version) or (alike[max(alike)] if alike else None)

    def reading(self, record: MachineRecord, path: str) -> Definition[Any, Any]:
        """The definition to show a stored machine by: the newest of its name, or the one that it was written under.

        Raises:
            UnknownMachineState: neither is at hand and knows its state.
        """
        return self._knowing(record, path, self.newest.get(record.name), self.of(record))

    def moving(self, record: MachineRecord, path: str) -> Definition[Any, Any]:
        """The definition to move a machine by: the one that it was written under, or the newest of its name.

        Raises:
            UnknownMachineState: neither is at hand and knows its state.
        """
        return self._knowing(record, path, self.of(record), self.newest.get(record.name))

    def merging(self, record: MachineRecord, states: Sequence[str]) -> Definition[Any, Any] | None:
        """The definition to judge a merge by: the one that the machine taken was written under, or the newest.

        Returns:
            None if neither is at hand and knows all these states.
        """
        there = self.of(record), self.newest.get(record.name)
        return next((each for each in there if each is not None and all(state in each.keys for state in states)), None)

    def _knowing(
        self, record: MachineRecord, path: str, *definitions: Definition[Any, Any] | None
    ) -> Definition[Any, Any]:
        """The first of these definitions that is there and knows the state of a machine."""
        there = [each for each in definitions if each is not None]
        for each in there:
            if record.state in each.keys:
                return each
        raise unknown_state((*there, *self.newest.values())[0], record, path)
