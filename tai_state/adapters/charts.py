"""How a machine of another library stands in the data of its state: as one object, and its context.

::

    {"chart": {"library", "name", "state", "configuration", "history"?, "is_final"?}, "context": {…}?}

``state`` is always a text, so that machines can be found by it. The key is not ``machine``: no reader of typed machines
takes the one for the other.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from tai_state.errors import SerializationError, UnknownMachineState
from tai_state.values.json import decode, to_bytes

JOIN: Final = "|"
"""Stands between the states of a machine that is in several at once."""


class ChartRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """The object ``chart`` in the data of a state.

    Attributes:
        library: the library of the machine.
        name: the name of the machine.
        state: the innermost states that are active, in the order of the machine's definition, as one text.
        configuration: the ids of the active states, in the library's order.
        history: the states that history states lead back to, by the ids of the history states.
        is_final: whether the machine has ended.
    """

    library: str
    name: str
    state: str
    configuration: tuple[str, ...]
    history: dict[str, tuple[str, ...]] = {}
    is_final: bool = False


class Chart(msgspec.Struct, frozen=True, omit_defaults=True):
    """The data of the state of a machine.

    Attributes:
        chart: the machine.
        context: the attributes that are kept; None if there are none.
    """

    chart: ChartRecord
    context: dict[str, Any] | None = None


def sealed(chart: Chart) -> dict[str, Any]:
    """The data of a state."""
    record: dict[str, Any] = decode(to_bytes(chart.chart))
    return {"chart": record} if chart.context is None else {"chart": record, "context": chart.context}


def read_chart(data: Any, path: str) -> Chart:
    """The machine in the data of a state, whatever its library.

    Raises:
        SerializationError: the data is not that of a machine of another library.
    """
    try:
        return msgspec.convert(data, Chart)
    except msgspec.ValidationError as error:
        raise SerializationError(path, f"does not hold a machine of another library: {error}") from None


def chart_in(data: Any) -> ChartRecord | None:
    """The machine in the data of a state; None where there is none."""
    try:
        return read_chart(data, "").chart
    except SerializationError:
        return None


def unknown_state(chart: ChartRecord, known: str, what: str, path: str) -> UnknownMachineState:
    """The error that an adapter does not know a stored machine, or its configuration.

    Args:
        chart: the stored machine.
        known: the machine of the adapter.
        what: what the adapter does not know.
        path: the path of the state.
    """
    stored = f"{chart.library} machine {chart.name!r}"
    holds = f"holds a {stored} in {chart.state!r}; the {known} {what}: open it with the machine that wrote it"
    return UnknownMachineState(path, holds, chart.state, stored, known)
