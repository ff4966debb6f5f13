"""What another library does for a stored machine: it makes one, and runs its events."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib import import_module
from inspect import isawaitable
from typing import Any, Protocol

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from tai_state.adapters.charts import Chart, ChartRecord
from tai_state.engines.loops import is_in_trio
from tai_state.errors import InvalidData, InvalidTransition


def imported(library: str) -> Any:
    """The module of a library, whose extra has the same name.

    Raises:
        ModuleNotFoundError: it is not installed; the error names the extra.
    """
    try:
        return import_module(library)
    except ModuleNotFoundError as error:
        what = f'its adapter needs the extra {library}; run: pip install "tai-state[{library}]"'
        raise ModuleNotFoundError(what, name=error.name) from error


class Library(Protocol):
    """A kind of machine of another library. It stores nothing, and keeps no machine that a caller still uses."""

    @property
    def name(self) -> str:
        """The name of the machine."""
        ...

    async def begin(self, context: dict[str, Any] | None, path: str) -> Chart:
        """Make a machine that enters its initial states.

        Args:
            context: the attributes that it begins with; None: those that its model begins with.
            path: the path of its state, for errors.

        Raises:
            Exception: whatever a callback raised.
            InvalidDefinition: a callback asked for what lives in memory alone.
            InvalidData: an attribute cannot be stored.
        """
        ...

    async def run(self, chart: Chart, event: str, arguments: dict[str, Any], path: str) -> Chart:
        """Make a machine at a configuration, without any callback, and let it run one event.

        Args:
            chart: the machine as it is stored.
            event: the event.
            arguments: what the event brings; they are the callee's own.
            path: the path of its state, for errors.

        Raises:
            InvalidTransition: the event takes no transition.
            Otherwise as :meth:`check` and :meth:`begin`.
        """
        ...

    def check(self, chart: ChartRecord, path: str) -> None:
        """Check that the machine has a stored configuration.

        Raises:
            UnknownMachineState: it is of another machine, or the configuration is not one of this machine.
        """
        ...

    def check_event(self, event: str, arguments: dict[str, Any]) -> None:
        """Check what can be known of an event before a machine is made.

        Raises:
            InvalidData: the machine has no such event, or an argument has a name that the library uses itself.
        """
        ...


async def finished(result: Any, timeout_seconds: float) -> None:
    """Wait for what the call of a library returned, if it is asynchronous.

    A library may swallow a cancellation, and leave a machine halfway: here it goes on.

    Args:
        result: what the call returned.
        timeout_seconds: how long it may take.

    Raises:
        TimeoutError: it took longer.
    """
    if not isawaitable(result):
        return
    task = None if is_in_trio() else asyncio.current_task()
    before = 0 if task is None else task.cancelling()
    with anyio.move_on_after(timeout_seconds) as scope:
        await result
    if scope.cancel_called:
        raise TimeoutError(f"the callbacks took longer than {timeout_seconds:g} seconds; nothing was written")
    await checkpoint_if_cancelled()
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError


def check_names(arguments: dict[str, Any], reserved: frozenset[str], library: str) -> None:
    """Check that no argument has a name that a library uses itself.

    Raises:
        InvalidData: one has.
    """
    if taken := sorted(reserved & arguments.keys()):
        raise InvalidData(f"an argument cannot be named {', '.join(taken)}: {library} uses the name itself")


def refusal(chart: ChartRecord, event: str, allowed: Sequence[str], path: str) -> InvalidTransition:
    """The error that an event takes no transition.

    Args:
        chart: the machine before it.
        event: the event.
        allowed: the events that lead on from there, whatever their conditions.
        path: the path of its state.
    """
    if chart.is_final:
        reason = "the machine has ended"
    elif event in allowed:
        reason = f"no condition of the event {event!r} holds"
    else:
        reason = f"the event {event!r} leads nowhere from here"
    return InvalidTransition(path, chart.state, "", "", reason, tuple(dict.fromkeys(allowed)))
