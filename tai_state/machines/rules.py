"""The rules of a machine: which steps it may take, and which it must not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeAlias, overload

import msgspec

from tai_state.machines.contexts import AfterCommit, C, EventContext, P, TransitionContext
from tai_state.machines.events import MachineEvent
from tai_state.machines.states import S, StateKey, facts_of, is_key, key_of, name_of
from tai_state.values.checks import check_items, seconds_option

Proof: TypeAlias = bool | str
"""The answer of a guard or an obligation: True, or False, or a text that says why not."""

States: TypeAlias = StateKey[S] | Sequence[StateKey[S]]
"""One state or several, each without its data."""


class AnyState:
    """The type of :data:`ANY_STATE`."""

    def __repr__(self) -> str:
        return "ANY_STATE"


ANY_STATE: Final = AnyState()
"""Every state; as the source of a step that is allowed, every state that is not terminal."""


class Rule(msgspec.Struct, Generic[S, C], frozen=True, kw_only=True):
    """One rule. Made by :func:`allow`, :func:`forbid` and :func:`time_out`.

    A step needs one rule that allows it, and no rule that forbids it.

    Attributes:
        name: its name, unique in its definition.
        sources: the states that it leads from; None: any.
        targets: the states that it leads to; None: any.
        unless_from: states that ``sources`` does not include.
        is_forbidding: whether it forbids the steps, and does not allow them.
        reason: why a step that needs this rule, or that it forbids, is refused.
        event: the event whose firing takes the step.
        timeout_ms: the time in the source state after which a timer takes the step, in milliseconds.
        guard: whether the rule applies to a step.
        update: gives the machine's data after the step.
        enter: gives the state after the step, where it carries data.
        advances_epoch: whether the step begins a new epoch.
        effects: the names of the effects that the step has.
        after_commit: runs in this process once the step is committed.
    """

    name: str
    sources: tuple[Any, ...] | None
    targets: tuple[Any, ...] | None
    unless_from: tuple[Any, ...] = ()
    is_forbidding: bool = False
    reason: str | None = None
    event: MachineEvent[Any] | None = None
    timeout_ms: int | None = None
    guard: Callable[[Any], Proof] | None = None
    update: Callable[[Any], C] | None = None
    enter: Callable[[Any], S] | None = None
    advances_epoch: bool = False
    effects: tuple[str, ...] = ()
    after_commit: Callable[[Any], Any] | None = None

    def is_valid(self, from_state: S, to_state: S) -> bool:
        """Whether the rule allows the step, or does not forbid it; its guard is not asked."""
        return self.covers(key_of(from_state), key_of(to_state)) is not self.is_forbidding

    def invalid_reason(self, from_state: S, to_state: S) -> str | None:
        """Why the step is not valid by this rule; None if it is, or if the rule has no reason of its own."""
        return None if self.is_valid(from_state, to_state) else self.reason

    def covers(self, source: Any, target: Any) -> bool:
        """Whether the rule says something of a step between two states, given by their keys."""
        if self.sources is None:
            leads_from = self.is_forbidding or not facts_of(source).is_terminal
        else:
            leads_from = source in self.sources
        leads_to = self.targets is None or target in self.targets
        return leads_from and leads_to and source not in self.unless_from

    @property
    def is_for_steps(self) -> bool:
        """Whether the step can be asked for by its target alone, without an event's payload or a timer."""
        return self.timeout_ms is None and (self.event is None or self.event.is_bare)

    @property
    def refusal(self) -> str:
        """Why a step is refused that this rule does not allow, or that it forbids."""
        return self.reason or f"Transition rule '{self.name}' failed"


@overload
def allow(
    source: States[S] | AnyState,
    target: States[S],
    *,
    name: str | None = None,
    reason: str | None = None,
    on: MachineEvent[Any] | None = None,
    advances_epoch: bool = False,
    effects: Sequence[str] = (),
) -> Rule[S, Any]: ...
@overload
def allow(
    source: States[S] | AnyState,
    target: States[S],
    *,
    name: str | None = None,
    reason: str | None = None,
    guard: Callable[[TransitionContext[S, C]], Proof] | None = None,
    update: Callable[[TransitionContext[S, C]], C] | None = None,
    advances_epoch: bool = False,
    effects: Sequence[str] = (),
    after_commit: AfterCommit[S, C] | None = None,
) -> Rule[S, C]: ...
@overload
def allow(
    source: States[S] | AnyState,
    target: States[S],
    *,
    name: str | None = None,
    reason: str | None = None,
    on: MachineEvent[P],
    guard: Callable[[EventContext[S, C, P]], Proof] | None = None,
    update: Callable[[EventContext[S, C, P]], C] | None = None,
    enter: Callable[[P], S] | None = None,
    advances_epoch: bool = False,
    effects: Sequence[str] = (),
    after_commit: AfterCommit[S, C] | None = None,
) -> Rule[S, C]: ...
def allow(  # noqa: D417 - the signatures above name what `more` holds
    source: Any, target: Any, **more: Any
) -> Any:
    """Allow steps from one state, or several, to another one.

    Args:
        source: the states that the step leads from: members of the enum, or classes of states that carry data. From
            ``ANY_STATE`` it leads from every state that is not terminal, the target included.
        target: the states that it leads to.
        name: the name of the rule; by default made of the names of the states.
        reason: why a step to the target is refused if no rule allows it; shown to whoever asked for it.
        on: the event whose firing takes the step. If it brings a payload, nothing else takes the step.
        guard: whether the rule applies: a pure function of the step.
        update: gives the machine's data after the step: a pure function of the step.
        enter: gives the state after the step, for a target that carries data: a pure function of the payload.
        advances_epoch: whether the step begins a new epoch.
        effects: the names of effects that the step has. They stand in the machine's state until they are done, so each
            is run at least once, with its id; see ``PersistentMachine.run_effects``.
        after_commit: runs in the process that took the step once it is committed, at most once: a function, or an
            asynchronous one, which has 30 seconds. The step stands whatever it does; what it raises is logged.
    """
    return _rule(_keys(source), _named_keys(target), **more)


def _rule(sources: Any, targets: Any, *, name: Any = None, on: Any = None, effects: Any = (), **more: Any) -> Any:
    words = "" if on is None else f" on {on.name}"
    return Rule(
        name=name or f"{_joined(sources)}To{_joined(targets)}{words}",
        sources=sources,
        targets=targets,
        event=on,
        effects=_effects(effects),
        **more,
    )


def forbid(
    source: States[S] | AnyState,
    target: States[S] | AnyState,
    reason: str,
    *,
    name: str | None = None,
    unless_from: Sequence[StateKey[S]] = (),
) -> Rule[S, Any]:
    """Forbid steps, whatever allows them, and say why.

    Args:
        source: the states that the step leads from; ``ANY_STATE`` for all.
        target: the states that it leads to; ``ANY_STATE`` for all.
        reason: why; shown to whoever asked for the step, and in diagrams.
        name: the name of the rule; by default made of the names of the states.
        unless_from: states from which the step is not forbidden.
    """
    sources, targets = _keys(source), _keys(target)
    return Rule(
        name=name or f"No{_joined(sources)}To{_joined(targets)}",
        sources=sources,
        targets=targets,
        unless_from=_named_keys(unless_from) if unless_from else (),
        is_forbidding=True,
        reason=reason,
    )


def time_out(
    source: StateKey[S],
    target: StateKey[S],
    *,
    seconds: float,
    name: str | None = None,
    effects: Sequence[str] = (),
    after_commit: AfterCommit[S, Any] | None = None,
) -> Rule[S, Any]:
    """Let a timer take a step, once the machine has been in a state for a time.

    Args:
        source: the state that has the time-out.
        target: the state that it leads to.
        seconds: the time from entering the state.
        name: the name of the rule; by default made of the names of the states.
        effects: as for :func:`allow`.
        after_commit: as for :func:`allow`.
    """
    sources, targets = _named_keys((source,)), _named_keys((target,))
    return Rule(
        name=name or f"{_joined(sources)}To{_joined(targets)} in time",
        sources=sources,
        targets=targets,
        timeout_ms=round(seconds_option(seconds, "seconds") * 1000),
        effects=_effects(effects),
        after_commit=after_commit,
    )


def _effects(names: Sequence[str]) -> tuple[str, ...]:
    """The names of effects.

    Raises:
        TypeError: they are one text, or nothing to go through.
    """
    return check_items(names, lambda: TypeError(f"effects must be a list of names, not {names!r}"))


def _keys(states: Any) -> tuple[Any, ...] | None:
    """The keys of one state or several; None for any.

    Raises:
        TypeError: they are not states, or something is not given by its class.
        ValueError: there is none.
    """
    return None if isinstance(states, AnyState) else _named_keys(states)


def _named_keys(states: Any) -> tuple[Any, ...]:
    """The same, without any."""
    keys: tuple[Any, ...] = tuple(dict.fromkeys(states if isinstance(states, Sequence) else (states,)))  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if not keys:
        raise ValueError("a rule must name at least one state")
    for key in keys:
        if not is_key(key):
            raise TypeError(f"a rule names members of an enum of states, or classes of states with data, not {key!r}")
    return keys


def _joined(keys: tuple[Any, ...] | None) -> str:
    return "Any" if keys is None else "Or".join(map(name_of, keys))
