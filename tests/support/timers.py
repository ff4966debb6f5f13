"""Machines with time-outs, and looks at the index of these."""

from __future__ import annotations

from typing import Any

from tai_state import StateStore
from tai_state.engines.api import Scan
from tai_state.machines import Definition, PersistentMachine
from tai_state.streams.timers import due_of

from .kettles import KETTLE, ON, Kettle
from .stores import GOVERNOR, METADATA, Place, collected

SECOND_US = 1_000_000


async def switched_on(
    store: StateStore, state_id: str = "k", definition: Definition[Kettle, None] = KETTLE, governor_id: str = GOVERNOR
) -> PersistentMachine[Kettle, None]:
    """A kettle that heats: its time-out is due in 30 seconds."""
    machine = store.machine(governor_id, state_id, definition, metadata=METADATA)
    await machine.initialize()
    await machine.transition_to(Kettle.On, ON)
    return machine


def later(place: Place, seconds: float) -> None:
    """Move the clock of a place, which is that of its engine, too."""
    place.clock.advance_us(round(seconds * SECOND_US))


async def entries(store: StateStore) -> dict[str, dict[str, Any]]:
    """The index of time-outs, by path."""
    layout = store.core.layout
    return {each.path: each.fields() async for each in store.core.engine.scan(Scan(layout.timers))}


async def entries_by_states(store: StateStore) -> dict[str, dict[str, Any]]:
    """The index as it follows from the states."""
    found: dict[str, dict[str, Any]] = {}
    for governor_id in await collected(store.list_governors()):
        async for state in store.list_states(governor_id):
            if (due := due_of(state.data)) is not None:
                stream = store.core.layout.stream(governor_id, state.state_id)
                found[stream.timer(due)] = {"governor_id": governor_id, "state_id": state.state_id}
    return found


async def check_index(store: StateStore) -> int:
    """Check that the index is as the states say. Returns how many entries it has."""
    found = await entries(store)
    assert found == await entries_by_states(store)
    return len(found)
