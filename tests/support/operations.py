"""Changes of a store, each with what it starts from: what faults and mutants are let loose on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from tai_state import ANY, EXISTS, NO_STATE, EveryEvents, NewEvent, StateMachinePersister, StateSnapshot, StateStore

from .stores import GOVERNOR, METADATA

STATE_ID = "alice"
EVENT_ID = "the caller's id"

POLICY = EveryEvents(2, keep=1)
"""So that a change of a state at version 3 keeps a snapshot and drops one."""


def _add(state: dict[str, Any] | None, event: Any) -> dict[str, Any]:
    return {"n": (state or {"n": 0})["n"] + event.payload}


REDUCERS = {"add": _add}


@dataclass(frozen=True)
class Change:
    """One change of one state.

    Attributes:
        name: for the test's id.
        versions: how many versions the state has beforehand.
        run: makes the change, with a caller's event id or none.
        warm: the store has read the state before.
        events: how many events it records.
    """

    name: str
    versions: int
    run: Callable[[StateStore, str | None], Awaitable[Any]]
    warm: bool = False
    events: int = 1

    async def prepare(self, store: StateStore) -> None:
        """Write what the change starts from."""
        for version in range(self.versions):
            await store.save_state(GOVERNOR, STATE_ID, {"n": version}, METADATA, expected=version)


async def _save_new(store: StateStore, event_id: str | None) -> Any:
    return await store.save_state(GOVERNOR, STATE_ID, {"n": 10}, METADATA, expected=NO_STATE, event_id=event_id)


async def _save_any(store: StateStore, event_id: str | None) -> Any:
    return await store.save_state(GOVERNOR, STATE_ID, {"n": 10}, METADATA, expected=ANY, event_id=event_id)


async def _update_exact(store: StateStore, event_id: str | None) -> Any:
    return await store.update_state(GOVERNOR, STATE_ID, {"n": 10}, METADATA, expected=3, event_id=event_id)


async def _update_existing(store: StateStore, event_id: str | None) -> Any:
    return await store.update_state(GOVERNOR, STATE_ID, {"n": 10}, METADATA, expected=EXISTS, event_id=event_id)


async def _delete(store: StateStore, event_id: str | None) -> Any:
    return await store.delete_state(GOVERNOR, STATE_ID, METADATA, expected=3, event_id=event_id)


async def _log_event(store: StateStore, event_id: str | None) -> Any:
    return await store.log_event(GOVERNOR, STATE_ID, "ping", METADATA, payload=[1], event_id=event_id)


async def _record(store: StateStore, event_id: str | None) -> Any:
    events = [NewEvent("add", 5, event_id), NewEvent("add", 6, event_id and f"{event_id}, the second")]
    return await StateMachinePersister(store, REDUCERS).record(GOVERNOR, STATE_ID, events, METADATA, expected=ANY)


async def _record_new(store: StateStore, event_id: str | None) -> Any:
    events = [NewEvent("add", 5, event_id)]
    return await StateMachinePersister(store, REDUCERS).record(GOVERNOR, STATE_ID, events, METADATA, expected=NO_STATE)


async def _log_transition(store: StateStore, event_id: str | None) -> Any:
    after = StateSnapshot.unsaved(GOVERNOR, STATE_ID, {"n": 10})
    before = after.with_data({"n": 2})
    standing = type(before)(**{**{name: getattr(before, name) for name in before.__struct_fields__}, "version": 3})
    return await StateMachinePersister(store).log_transition(
        GOVERNOR, standing, after, "move", METADATA, event_id=event_id
    )


CHANGES = (
    Change("save_new", 0, _save_new),
    Change("save_any", 3, _save_any),
    Change("update_exact", 3, _update_exact),
    Change("update_exact_warm", 3, _update_exact, warm=True),
    Change("update_existing", 3, _update_existing),
    Change("delete", 3, _delete),
    Change("log_event", 3, _log_event),
    Change("record", 3, _record, events=2),
    Change("record_new", 0, _record_new),
    Change("log_transition", 3, _log_transition, warm=True),
)
