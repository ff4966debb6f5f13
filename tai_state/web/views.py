"""What the endpoint shows of machines. Each of these is a JSON object, and the matter of a page.

No data that a machine keeps beside its state is in them, and none that a state carries.
"""

from __future__ import annotations

from typing import Final

import msgspec

TEXT_MAX: Final = 1000
"""How many characters of a text are shown: of a reason, for example, that fills a document."""


def brief(text: str) -> str:
    """A text, cut if it is long."""
    return text if len(text) <= TEXT_MAX else f"{text[: TEXT_MAX - 1]}…"


class TransitionView(msgspec.Struct, frozen=True, rename={"from_state": "from", "to_state": "to"}):
    """A step that a machine took, in the words of the original endpoint.

    Attributes:
        from_state: the name of the state before; that of the state after, if the machine began.
        to_state: the name of the state after.
        trigger: what caused it, as text.
        timestamp: when it happened, in RFC 3339.
    """

    from_state: str
    to_state: str
    trigger: str
    timestamp: str


class StateView(msgspec.Struct, frozen=True):
    """A machine's state, in the words of the original endpoint.

    Attributes:
        state: its name.
        description: what it means.
        time_in_state_ms: how long the machine has been in it, in milliseconds.
        epoch: the machine's epoch.
        recent_transitions: the newest steps, newest first.
    """

    state: str
    description: str
    time_in_state_ms: int
    epoch: int
    recent_transitions: tuple[TransitionView, ...]


class ProblemView(msgspec.Struct, frozen=True):
    """What is wrong with a document among sound ones.

    Attributes:
        path: its path.
        kind: the name of the error.
        message: what is wrong, and what to do.
    """

    path: str
    kind: str
    message: str


class OutlookView(msgspec.Struct, frozen=True):
    """A state that a machine may be asked to enter.

    Attributes:
        to: its name.
        refused_because: why the step is refused if it is asked for now; None if it is not.
        by: what takes the step besides asking for it: events, each with its guard, and time-outs.
    """

    to: str
    refused_because: str | None
    by: tuple[str, ...]


class MachineView(msgspec.Struct, frozen=True, kw_only=True):
    """A machine at one version.

    Attributes:
        governor: the owner and namespace.
        state_id: the machine under it.
        machine: the name of its definition.
        definition: the hash of that definition.
        version: the version of its state.
        state: the name of the state that it is in.
        description: what that means.
        is_failure: whether being in it is a failure.
        is_terminal: whether it is final.
        epoch: its epoch.
        entered_at: when it entered its state.
        time_in_state_ms: how long ago that was, in milliseconds.
        due: when the time-out of its state is due; None if the state has none.
        changed_by: who made the last change.
        reason: why.
        timestamp: when that happened.
        allowed: each state of the definition, and why a step there is refused.
        recent_transitions: the newest steps, newest first.
        problems: what is wrong with its newest events.
    """

    governor: str
    state_id: str
    machine: str
    definition: str
    version: int
    state: str
    description: str
    is_failure: bool
    is_terminal: bool
    epoch: int
    entered_at: str
    time_in_state_ms: int
    due: str | None
    changed_by: str
    reason: str
    timestamp: str
    allowed: tuple[OutlookView, ...]
    recent_transitions: tuple[TransitionView, ...]
    problems: tuple[ProblemView, ...]


class EntryView(msgspec.Struct, frozen=True, kw_only=True):
    """A machine in a list; of one that no definition knows, and of a state that is none, what can be told.

    Attributes:
        governor: the owner and namespace.
        state_id: the machine under it.
        version: the version of its state.
        machine: the name of its definition; None if it is not a machine.
        state: the name of the state that it is in; None if it is not a machine.
        description: what that means; None if no definition knows it.
        is_failure: whether being in it is a failure.
        is_terminal: whether it is final.
        epoch: its epoch.
        entered_at: when it entered its state.
        time_in_state_ms: how long ago that was, in milliseconds.
        due: when the time-out of its state is due.
        problem: why no definition here reads it; None if one does.
    """

    governor: str
    state_id: str
    version: int
    machine: str | None = None
    state: str | None = None
    description: str | None = None
    is_failure: bool = False
    is_terminal: bool = False
    epoch: int | None = None
    entered_at: str | None = None
    time_in_state_ms: int | None = None
    due: str | None = None
    problem: ProblemView | None = None


class ListView(msgspec.Struct, frozen=True):
    """A page of a list.

    Attributes:
        machines: the machines, in the order of their governors and ids.
        problems: the documents that are damaged.
        next: the link to the next page, relative to this one; None: this is the last one.
    """

    machines: tuple[EntryView, ...]
    problems: tuple[ProblemView, ...]
    next: str | None


class EventView(msgspec.Struct, frozen=True, kw_only=True, rename={"from_state": "from", "to_state": "to"}):
    """An event of a machine's stream; see :class:`~tai_state.machines.MachineEventRecord`."""

    version: int
    kind: str
    from_state: str | None
    to_state: str | None
    trigger: str | None
    reason: str
    changed_by: str
    timestamp: str
    duration_us: int
    epoch: int
    event_id: str


class HistoryView(msgspec.Struct, frozen=True, kw_only=True):
    """A page of a machine's history.

    Attributes:
        governor: the owner and namespace.
        state_id: the machine under it.
        version: the version of its state.
        events: the events, newest first.
        problems: the events that are damaged or missing, among these.
        next: the link to older events, relative to this page; None: there are none.
    """

    governor: str
    state_id: str
    version: int
    events: tuple[EventView, ...]
    problems: tuple[ProblemView, ...]
    next: str | None


class DiagramView(msgspec.Struct, frozen=True, kw_only=True):
    """The definition of a machine, drawn, with the state that it is in.

    Attributes:
        governor: the owner and namespace.
        state_id: the machine under it.
        machine: the name of its definition.
        state: the name of the state that it is in.
        mermaid: the diagram for Mermaid.
        dot: the diagram for Graphviz.
        table: the rules as a table.
    """

    governor: str
    state_id: str
    machine: str
    state: str
    mermaid: str
    dot: str
    table: str


class HealthView(msgspec.Struct, frozen=True):
    """That the store can be read.

    Attributes:
        status: ``ok``.
        store_id: the id of the store.
        machines: the names of the definitions.
    """

    status: str
    store_id: str
    machines: tuple[str, ...]


class EpochView(msgspec.Struct, frozen=True):
    """The epoch of a system."""

    epoch: int
