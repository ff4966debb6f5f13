"""The states of a machine: members of an enum, or models that carry data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True, slots=True, eq=False)
class StateFacts:
    """What is known of a state besides its name. Made by :func:`described`.

    Attributes:
        description: what it means, for people.
        is_failure: whether being in it is a failure.
        is_operational: whether the component works in it.
        is_terminal: whether it is final: no step leaves it, except a forced one.
        accepts_new_work: whether new work may be given to the component.
    """

    description: str
    is_failure: bool
    is_operational: bool
    is_terminal: bool
    accepts_new_work: bool


def described(
    description: str,
    *,
    failure: bool = False,
    operational: bool | None = None,
    terminal: bool = False,
    accepts_new_work: bool = False,
) -> StateFacts:
    """Say what a state means: the value of a member of a :class:`ComponentState`, or ``facts`` of a :class:`DataState`.

    Args:
        description: what it means, for people.
        failure: whether being in it is a failure.
        operational: whether the component works in it; by default, unless it is a failure.
        terminal: whether no step leaves it.
        accepts_new_work: whether new work may be given to the component.
    """
    if type(description) is not str:
        raise TypeError(f"description must be text, not {description!r}")
    works = not failure if operational is None else operational
    return StateFacts(description, failure, works, terminal, accepts_new_work)


class MachineState:
    """What both kinds of states have: a :class:`ComponentState` and a :class:`DataState` are one."""

    __slots__ = ()

    def _facts(self) -> StateFacts:
        raise NotImplementedError

    @property
    def description(self) -> str:
        """What the state means, for people."""
        return self._facts().description

    @property
    def is_failure_state(self) -> bool:
        """Whether being in it is a failure."""
        return self._facts().is_failure

    @property
    def is_operational(self) -> bool:
        """Whether the component works in it."""
        return self._facts().is_operational

    @property
    def is_terminal(self) -> bool:
        """Whether it is final."""
        return self._facts().is_terminal

    @property
    def accepts_new_work(self) -> bool:
        """Whether new work may be given to the component."""
        return self._facts().accepts_new_work


S = TypeVar("S", bound=MachineState)
StateKey: TypeAlias = S | type[S]
"""A state without its data: a member of an enum, or the class of states that carry data."""


def facts_of(key: Any) -> StateFacts:
    """What is known of a state, by its key."""
    facts: StateFacts = key.value if isinstance(key, ComponentState) else key.facts
    return facts


def name_of(key: Any) -> str:
    """The name of a state, by its key."""
    name: str = key._name_ if isinstance(key, ComponentState) else key.__name__  # enum's own `name` is slow
    return name


class ComponentState(MachineState, Enum):
    """The base of states that are told apart by their name alone; its members are what :func:`described` returns.

    ::

        class Door(ComponentState):
            Open = described("Somebody can walk in")
            Shut = described("Nobody can walk in")

    A machine stores the name of a member, so a member must not be renamed without a migration.

    Args:
        component_type: the kind of component that has these states; by default, the name of the class.
    """

    _value_: StateFacts
    _component: ClassVar[str]

    def __init_subclass__(cls, *, component_type: str | None = None) -> None:
        cls._component = cls.__name__ if component_type is None else component_type

    def __init__(self, facts: StateFacts) -> None:
        if not isinstance(facts, StateFacts):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
            raise TypeError(f"a member of {type(self).__name__} must be what described() returns, not {facts!r}")

    if not TYPE_CHECKING:
        __hash__ = object.__hash__  # members are told apart by identity, and enum's own hash takes a call in Python

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return getattr, (type(self), self.name)

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"{type(self).__name__}.{self.name}"

    def _facts(self) -> StateFacts:
        return self._value_

    @property
    def component_type(self) -> str:
        """The kind of component that this is a state of."""
        return self._component


class DataState(MachineState, BaseModel):
    """The base of states that carry data, so that data which belongs to one state cannot stand beside another one.

    ::

        class Job(DataState):
            pass

        class Waiting(Job):
            facts = described("Waits for a worker")

        class Running(Job):
            facts = described("A worker runs it")
            worker: str

    A state is an instance, which does not change. Its name is the name of its class; a machine stores it, so a class
    must not be renamed without a migration.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    facts: ClassVar[StateFacts]

    def __str__(self) -> str:
        return type(self).__name__

    def _facts(self) -> StateFacts:
        return self.facts

    @property
    def name(self) -> str:
        """The name of the state: that of its class."""
        return type(self).__name__

    @property
    def component_type(self) -> str:
        """The kind of component that this is a state of: the name of the base that its states share."""
        family = [each for each in type(self).__mro__ if issubclass(each, DataState)]
        return family[max(len(family) - 2, 0)].__name__


OWN_NAMES: Final = frozenset(
    name for base in (MachineState, DataState) for name, member in vars(base).items() if isinstance(member, property)
)
"""What every state has, so that a field of this name could not be read."""


def is_key(key: object) -> bool:
    """Whether something is the key of a state."""
    return isinstance(key, ComponentState) or (isinstance(key, type) and issubclass(key, DataState))


def key_of(state: Any) -> Any:
    """The key of a state: itself, or its class if it carries data. No table holds the key of anything else."""
    return state if isinstance(state, ComponentState) else type(state)  # pyright: ignore[reportUnknownVariableType]
