"""The definition of a machine: a value that says what its states are, and which steps it may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic

from tai_state.errors import InvalidData
from tai_state.machines.contexts import C
from tai_state.machines.diffing import DefinitionDifference, difference_of
from tai_state.machines.invariants import Invariant
from tai_state.machines.obligations import ProofObligation
from tai_state.machines.outline import Outline
from tai_state.machines.rules import Rule
from tai_state.machines.states import S, key_of, name_of
from tai_state.machines.tables import Tables


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Definition(Generic[S, C]):
    """What the states of a machine are, and which steps it may take. Made by :func:`define`, which checks it.

    Two definitions are equal if their outlines are: functions count by their names alone.

    Attributes:
        name: the name of the kind of machine.
        version: counts the definitions of this name, for people.
        states: all states, each without its data: members of the enum, or classes.
        initial: the state in which a machine begins.
        starts: all states in which a machine may begin, without their data; that of ``initial`` first.
        rules: which steps are allowed, and which are forbidden.
        context: the model of the data that a machine keeps beside its state; None if it keeps none.
        obligations: what must be proven before any step.
        invariants: what holds after every step.
        dead_ends: states that are not terminal and that no rule leaves, on purpose.
        unreached: states that no rule leads to, on purpose.
        outline: all of this as a JSON object, functions by their names.
        hash: tells definitions apart by what they allow: two that differ in descriptions and reasons alone share it.
        keys: the states without their data, by their names.
    """

    name: str
    version: int
    states: tuple[Any, ...]
    initial: S
    starts: tuple[Any, ...]
    rules: tuple[Rule[S, C], ...]
    context: type[C] | None
    obligations: tuple[ProofObligation[S, C], ...]
    invariants: tuple[Invariant[S, C], ...]
    dead_ends: tuple[Any, ...]
    unreached: tuple[Any, ...]
    outline: Outline
    hash: str
    _tables: Tables
    keys: dict[str, Any]

    @property
    def tables(self) -> Tables:
        """The rules as tables, for the library's own use; not part of the public interface."""
        return self._tables

    def __repr__(self) -> str:
        return f"<Definition {self.name!r} version {self.version}, {len(self.states)} states, hash {self.hash}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Definition) and self.outline == other.outline

    def __hash__(self) -> int:
        return hash(self.hash)

    def allowed(self, state: S) -> tuple[str, ...]:
        """The names of the states that rules lead to from a state. Guards, obligations and invariants are not asked."""
        return tuple(map(name_of, self._tables.exits.get(key_of(state), ())))

    def knows(self, state: object) -> bool:
        """Whether something is a state of this definition."""
        return key_of(state) in self._tables.exits

    def diff(self, other: Definition[Any, Any]) -> DefinitionDifference:
        """What changes from this definition to another one.

        Raises:
            InvalidData: it is not a definition.
        """
        if not isinstance(other, Definition):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
            raise InvalidData(f"a definition can be compared with another one, not with {other!r}")
        return difference_of(self.outline, other.outline)
