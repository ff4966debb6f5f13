"""The time-outs that stand in stored machines, as the index of a store lists them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Final

import msgspec

from tai_state.engines.api import Document, Scan
from tai_state.engines.paging import take
from tai_state.errors import Inconsistent, UnknownMachineState
from tai_state.machines.catalogue import Catalogue
from tai_state.machines.envelope import MachineRecord, read_envelope
from tai_state.machines.states import name_of
from tai_state.streams.changes import Known
from tai_state.streams.core import Core
from tai_state.streams.damage import Report
from tai_state.streams.records import checked_state, head_of, moment
from tai_state.streams.timers import Timer, due_of, timer_in
from tai_state.streams.writing import present_data

TIMERS_AT_ONCE: Final = 100
"""How many machines are read at once."""


class DueTimer(msgspec.Struct, frozen=True):
    """A time-out that stands in a machine.

    Attributes:
        due: when it is due.
        governor_id: the owner and namespace.
        state_id: the machine under it.
        state: the name of the state that the machine is in.
        target: the name of the state that the time-out leads to; None if the machine's definition is not at hand.
    """

    due: datetime
    governor_id: str
    state_id: str
    state: str
    target: str | None


async def list_timers(
    core: Core, catalogue: Catalogue | None, before: str | None, report: Report
) -> AsyncGenerator[DueTimer, None]:
    """The time-outs in a store, in the order in which they are due.

    Args:
        core: the core of the store.
        catalogue: the definitions at hand; None if there are none.
        before: only those that are due before this time, as text; None: all.
        report: called with what is wrong with an entry of the index or a machine, which is left out.
    """
    documents = core.engine.scan(Scan(core.layout.timers, end=before))
    while page := await take(documents, TIMERS_AT_ONCE):
        timers: list[Timer] = []
        for document in page:
            try:
                timers.append(timer_in(core.layout, document))
            except Inconsistent as error:
                report(error)
        states = (await core.engine.read([each.stream.state for each in timers])).documents if timers else ()
        for timer, state in zip(timers, states, strict=True):
            try:
                if (found := _due_timer(core, catalogue, timer, state)) is not None:
                    yield found
            except Inconsistent as error:
                report(error)


def _due_timer(core: Core, catalogue: Catalogue | None, timer: Timer, document: Document | None) -> DueTimer | None:
    """The time-out that an entry stands for, by the state of its machine; None if it stands for none any more."""
    if document is None or (read := read_at(timer, document)) is None:
        return None
    stream = timer.stream
    machine, _ = read_envelope(present_data(core, stream, read), stream.state)
    due = moment(timer.due, timer.path)
    return DueTimer(due, stream.governor_id, stream.state_id, machine.state, _target(catalogue, machine, stream.state))


def _target(catalogue: Catalogue | None, machine: MachineRecord, path: str) -> str | None:
    """The name of the state to which the time-out of a machine leads; None if no definition at hand says it."""
    if catalogue is None:
        return None
    try:
        definition = catalogue.moving(machine, path)
    except UnknownMachineState:
        return None
    rule = definition.tables.timeouts.get(definition.keys[machine.state])
    return None if rule is None or not rule.targets else name_of(rule.targets[0])


def read_at(timer: Timer, document: Document) -> Known | None:
    """The state of a machine, as it was read; None if it has no time-out at the time of the entry.

    Raises:
        CorruptDocument: the state is damaged.
    """
    record = checked_state(document)
    return Known(head_of(record, document.revision), record.data) if due_of(record.data) == timer.due else None
