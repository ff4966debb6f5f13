"""One machine as it stands, its newest steps, its history and its diagram. Each is of one committed version."""

from __future__ import annotations

from itertools import takewhile
from typing import Any, Final

import msgspec

from tai_state.errors import Inconsistent, InvalidData
from tai_state.machines.catalogue import Catalogue
from tai_state.machines.definition import Definition
from tai_state.machines.drawing import to_dot, to_mermaid, to_table
from tai_state.machines.edges import causes, edges_max
from tai_state.machines.history import MachineEventRecord, machine_events
from tai_state.machines.outlook import outlooks
from tai_state.machines.picture import to_svg
from tai_state.machines.snapshots import MachineSnapshot
from tai_state.machines.states import key_of
from tai_state.streams.core import Core
from tai_state.streams.layout import Stream
from tai_state.streams.reading import get_events, get_state
from tai_state.streams.salvaging import sound_events
from tai_state.values.events import JsonEvent
from tai_state.values.ids import split_versioned
from tai_state.values.times import format_time, from_us
from tai_state.web.known import Known, known
from tai_state.web.views import (
    DiagramView,
    EventView,
    MachineView,
    OutlookView,
    ProblemView,
    StateView,
    TransitionView,
    brief,
)

RECENT: Final = 10
"""How many steps are shown with a state."""
_EVENTS_MAX: Final = 100
"""Among how many events they are sought: others, such as those that are only logged, may stand between them."""

_EDGES_MAX: Final = 20_000
"""How many edges a diagram has at most: each is a line of its text."""


class Machine(msgspec.Struct, frozen=True):
    """A stored machine that a definition here knows.

    Attributes:
        stream: its paths.
        known: the machine.
    """

    stream: Stream
    known: Known


class Events(msgspec.Struct):
    """Events of a machine, newest first.

    Attributes:
        events: those that are sound.
        problems: what is wrong with those among them that are not.
        oldest: the version of the last one that was looked at; 0 if there are no older ones.
    """

    events: list[MachineEventRecord[Any]]
    problems: list[ProblemView]
    oldest: int


async def machine_at(core: Core, catalogue: Catalogue, stream: Stream) -> Machine:
    """A machine as it is now: one read.

    Raises:
        StateNotFound: there is no such machine, or it is deleted.
        SerializationError: the state is not that of a machine.
        UnknownMachineState: no definition knows the machine, or its state.
        EventSourcingError, CorruptDocument: what is stored is damaged.
    """
    return Machine(stream, known(catalogue, await get_state(core, stream), stream.state))


async def events_of(core: Core, catalogue: Catalogue, stream: Stream, until: int, limit: int) -> Events:
    """The events of a machine up to a version, newest first. One that is damaged takes the place of a sound one.

    Raises:
        StateNotFound: the state was never written.
        Inconsistent: its own document is damaged.
    """
    found, top = Events([], [], until), until
    reading = next(iter(catalogue.newest.values()))  # whichever: nothing is shown that only a definition knows
    while top > 0 and (left := limit - len(found.events) - len(found.problems)) > 0:
        events = get_events(core, stream, until=top, limit=left, newest_first=True)
        try:
            async for event in events:
                found.events += machine_events(reading, [event])
                top = event.version - 1
        except Inconsistent as error:
            version = _version_in(stream, error)
            if version is None or version > top:
                raise
            found.problems.append(problem_of(error))
            found.events += await _past(core, stream, version, top, reading)
            top = version - 1
        else:
            if len(found.events) + len(found.problems) < limit:
                top = 0  # what is older was cleaned up
    found.oldest = top + 1 if top > 0 else 0
    return found


async def _past(
    core: Core, stream: Stream, damaged: int, top: int, reading: Definition[Any, Any]
) -> list[MachineEventRecord[Any]]:
    """The sound events from a damaged one, which the one after it needs for the state before it, up to a version."""
    events: list[JsonEvent] = []
    if top > damaged:
        sound = sound_events(core, stream, lambda _: None, after=damaged, limit=top - damaged)
        events = [event async for event in sound if event.version <= top]
    return [*machine_events(reading, reversed(events))]


def _version_in(stream: Stream, error: Inconsistent) -> int | None:
    """The version of the event of a stream that an error is about; None if it is about something else."""
    collection, _, document_id = error.path.rpartition("/")
    if collection != stream.events:
        return None
    try:
        segment, version = split_versioned(document_id)
    except ValueError:
        return None
    return version if segment == stream.segment else None


async def recent_steps(core: Core, catalogue: Catalogue, machine: Machine) -> Events:
    """The newest steps of a machine, newest first, up to the version at which it was read."""
    version = machine.known.snapshot.version
    found = await events_of(core, catalogue, machine.stream, version, RECENT)
    steps = list(filter(_is_step, found.events))
    if found.oldest and len(steps) < RECENT:
        older = await events_of(core, catalogue, machine.stream, found.oldest - 1, _EVENTS_MAX - RECENT)
        steps += filter(_is_step, older.events)
        found.problems += older.problems
    return Events(steps[:RECENT], found.problems, 0)


def _is_step(event: MachineEventRecord[Any]) -> bool:
    """Whether a machine began with an event, or took a step."""
    return event.to_state is not None and (event.trigger is not None or event.from_state != event.to_state)


def state_view(core: Core, machine: Machine, steps: Events) -> StateView:
    """A machine's state, in the words of the original endpoint."""
    snapshot = machine.known.snapshot
    return StateView(
        machine.known.opened.record.state,
        snapshot.state.description,
        time_in_state_ms(core, snapshot),
        snapshot.epoch,
        tuple(map(_transition_view, steps.events)),
    )


def machine_view(core: Core, machine: Machine, steps: Events) -> MachineView:
    """A machine, with what it may do next."""
    snapshot, opened, definition = machine.known.snapshot, machine.known.opened, machine.known.definition
    state = snapshot.state
    return MachineView(
        governor=snapshot.governor_id,
        state_id=snapshot.state_id,
        machine=definition.name,
        definition=definition.hash,
        version=snapshot.version,
        state=opened.record.state,
        description=state.description,
        is_failure=state.is_failure_state,
        is_terminal=state.is_terminal,
        epoch=snapshot.epoch,
        entered_at=format_time(snapshot.entered_at),
        time_in_state_ms=time_in_state_ms(core, snapshot),
        due=None if snapshot.due is None else format_time(snapshot.due),
        changed_by=brief(snapshot.metadata.changed_by),
        reason=brief(snapshot.metadata.reason),
        timestamp=format_time(snapshot.timestamp),
        allowed=tuple(
            OutlookView(each.to, each.refused_because, _ways(definition, state, each.to))
            for each in outlooks(definition, opened.present)
        ),
        recent_transitions=tuple(map(_transition_view, steps.events)),
        problems=tuple(steps.problems),
    )


def _ways(definition: Definition[Any, Any], state: Any, name: str) -> tuple[str, ...]:
    """What takes a machine from one state to another besides asking for it: events, and time-outs."""
    pair = key_of(state), definition.keys[name]
    return tuple(
        causes(outline)
        for rule, outline in zip(definition.rules, definition.outline.rules, strict=True)
        if (rule.event is not None or rule.timeout_ms is not None) and not rule.is_forbidding
        if rule.covers(*pair) and pair not in definition.tables.forbidden
    )


def diagram_view(machine: Machine, steps: Events) -> DiagramView:
    """The definition of a machine as text, with the state that it is in and the newest steps marked.

    Raises:
        InvalidData: it is too large for that.
    """
    definition, state = machine.known.definition, machine.known.opened.record.state
    if edges_max(definition.outline) > _EDGES_MAX:
        raise InvalidData(f"the machine {definition.name!r} has too many steps to be drawn")
    path = _path(machine, steps)
    return DiagramView(
        governor=machine.known.snapshot.governor_id,
        state_id=machine.known.snapshot.state_id,
        machine=definition.name,
        state=state,
        mermaid=to_mermaid(definition, state, path),
        dot=to_dot(definition, state, path),
        table=to_table(definition, state, path),
    )


def picture(machine: Machine, steps: Events) -> str:
    """The same as a picture."""
    return to_svg(machine.known.definition, machine.known.opened.record.state, _path(machine, steps))


def _path(machine: Machine, steps: Events) -> list[str]:
    """The states that the newest steps went through, oldest first, as far as the definition knows them."""
    names = {state.name for state in machine.known.definition.outline.states}
    came = [event.to_state for event in steps.events] + [event.from_state for event in steps.events[-1:]]
    return [name for name in takewhile(names.__contains__, came) if name is not None][::-1]


def event_view(event: MachineEventRecord[Any]) -> EventView:
    """An event of a machine's stream."""
    return EventView(
        version=event.version,
        kind=brief(event.kind),
        from_state=None if event.from_state is None else brief(event.from_state),
        to_state=None if event.to_state is None else brief(event.to_state),
        trigger=None if event.trigger is None else brief(str(event.trigger)),
        reason=brief(event.reason),
        changed_by=brief(event.changed_by),
        timestamp=format_time(event.timestamp),
        duration_us=event.duration_us,
        epoch=event.epoch,
        event_id=event.event_id,
    )


def problem_of(error: Inconsistent) -> ProblemView:
    """What is wrong with a document."""
    return ProblemView(error.path, type(error).__name__, brief(str(error)))


def time_in_state_ms(core: Core, machine: MachineSnapshot[Any, Any]) -> int:
    """How long a machine has been in its state, in milliseconds, by the store's clock."""
    spent = machine.time_in_state(from_us(core.settings.clock.now_us()))
    return int(spent.total_seconds() * 1000)


def _transition_view(event: MachineEventRecord[Any]) -> TransitionView:
    to_state = event.to_state or ""
    trigger = event.kind if event.trigger is None else str(event.trigger)
    from_state = event.from_state or to_state
    return TransitionView(brief(from_state), brief(to_state), brief(trigger), format_time(event.timestamp))
