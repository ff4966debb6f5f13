"""Walks of machines, as strategies for Hypothesis; they need the extra ``hypothesis``.

::

    @given(walks(ORDER, contexts=st.builds(Cart)))
    def test_what_is_delivered_was_paid(walk):
        if walk.after.state is Order.Delivered:
            assert walk.after.context.paid >= walk.after.context.cents
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Generic, TypeAlias, TypeVar, overload

import msgspec

from tai_state.machines.checks import NO_FACTS, check_definition, check_start
from tai_state.machines.contexts import C, Present
from tai_state.machines.definition import Definition
from tai_state.machines.events import MachineEvent
from tai_state.machines.judging import Step, judge_event, judge_step, judge_time_out
from tai_state.machines.states import MachineState, S, key_of
from tai_state.machines.triggers import Command
from tai_state.values.checks import whole_option

try:
    from hypothesis import strategies as st
except ModuleNotFoundError as _error:
    _needed = 'strategies of machines need the extra hypothesis: run: pip install "tai-state[hypothesis]"'
    raise ModuleNotFoundError(_needed, name=_error.name) from _error

T = TypeVar("T", bound=MachineState)

Payloads: TypeAlias = Mapping[MachineEvent[Any], st.SearchStrategy[Any]]
"""What events bring in a walk."""

_WALKS: Final = Command("walk")


class Move(msgspec.Struct, Generic[S, C], frozen=True):
    """A step of a walk.

    Attributes:
        step: the step: the machine before it and after it, and its trigger.
        event: the event that was fired; None if the step was asked for by its target, or was a time-out.
        payload: what the event brought.
    """

    step: Step[S, C]
    event: MachineEvent[Any] | None = None
    payload: Any = None


class Walk(msgspec.Struct, Generic[S, C], frozen=True):
    """A way of a machine through its states, each step of which its definition allows.

    Attributes:
        before: the machine at its beginning.
        moves: the steps.
    """

    before: Present[S, C]
    moves: tuple[Move[S, C], ...]

    @property
    def after(self) -> Present[S, C]:
        """The machine at the end."""
        return self.moves[-1].step.after if self.moves else self.before


@overload
def walks(
    definition: Definition[T, None], *, payloads: Payloads | None = None, most: int = 20
) -> st.SearchStrategy[Walk[T, None]]: ...
@overload
def walks(
    definition: Definition[S, C],
    *,
    contexts: st.SearchStrategy[C],
    payloads: Payloads | None = None,
    most: int = 20,
) -> st.SearchStrategy[Walk[S, C]]: ...
def walks(
    definition: Definition[Any, Any],
    *,
    contexts: st.SearchStrategy[Any] | None = None,
    payloads: Payloads | None = None,
    most: int = 20,
) -> st.SearchStrategy[Walk[Any, Any]]:
    """Walks of a machine from any of its starts: steps asked for by their targets, events and time-outs.

    A step that a guard, an obligation or an invariant refuses is not taken, and the walk goes on with another one.

    Args:
        definition: what decides on the steps.
        contexts: the machine's data beside its state at the beginning, if the definition has a model for it.
        payloads: what events bring; by default, whatever Hypothesis makes of the payload's class.
        most: how many steps are tried, at most.

    Raises:
        InvalidData: it is not a definition.
        ValueError: no step may be tried.
    """
    check_definition(definition)
    tried = whole_option(most, "most", 1)
    return _walks(definition, st.none() if contexts is None else contexts, payloads or {}, tried)


@st.composite
def _walks(
    draw: st.DrawFn, definition: Definition[Any, Any], contexts: st.SearchStrategy[Any], payloads: Payloads, most: int
) -> Walk[Any, Any]:
    start = draw(st.sampled_from(definition.starts))
    initial = definition.initial if start is key_of(definition.initial) else draw(_states(start))
    before = present = check_start(definition, initial, draw(contexts))
    moves: list[Move[Any, Any]] = []
    for _ in range(draw(st.integers(0, most))):
        ways = _ways(definition, present)
        if not ways:
            break
        move = _tried(draw, definition, present, draw(st.sampled_from(ways)), payloads)
        if move is not None:
            moves.append(move)
            present = move.step.after
    return Walk(before, tuple(moves))


def _ways(definition: Definition[Any, Any], present: Present[Any, Any]) -> list[Any]:
    """What may move a machine on: the key of a state, an event, or None for the time-out."""
    source, tables = key_of(present.state), definition.tables
    ways: list[Any] = [target for target in tables.exits[source] if (source, target) in tables.steps]
    ways += [edges[0][1].event for (key, _), edges in tables.events.items() if key is source]
    return [*ways, None] if source in tables.timeouts else ways


def _tried(
    draw: st.DrawFn, definition: Definition[Any, Any], present: Present[Any, Any], way: Any, payloads: Payloads
) -> Move[Any, Any] | None:
    """A step in one of these ways; None if it is refused."""
    event: MachineEvent[Any] | None = None
    payload: Any = None
    if way is None:
        verdict = judge_time_out(definition, present, NO_FACTS)
    elif isinstance(way, MachineEvent):
        event = way  # pyright: ignore[reportUnknownVariableType]
        if not event.is_bare:
            payload = draw(payloads[event] if event in payloads else st.from_type(event.payload))
        verdict = judge_event(definition, present, event.name, payload, NO_FACTS)
    else:
        verdict = judge_step(definition, present, draw(_states(way)), _WALKS, NO_FACTS)
    return Move(verdict, event, payload) if isinstance(verdict, Step) else None


def _states(key: Any) -> st.SearchStrategy[Any]:
    """The states that a key stands for."""
    return st.from_type(key) if isinstance(key, type) else st.just(key)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
