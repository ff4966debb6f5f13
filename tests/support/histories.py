"""A history to be tried: states of one machine, and the paths of its documents."""

from __future__ import annotations

from tai_state import ANY, NewEvent, StateMachinePersister, StateStore

from .stores import GOVERNOR, METADATA, Place

ALICE = "governors/bank/states/alice"
HOUR = 3_600_000_000


def event_path(version: int, state_id: str = "alice") -> str:
    """The path of an event."""
    return f"governors/bank/events/{state_id}~{version:012d}"


def snapshot_path(version: int, state_id: str = "alice") -> str:
    """The path of a kept snapshot."""
    return f"governors/bank/snapshots/{state_id}~{version:012d}"


async def grow(store: StateStore, versions: int, state_id: str = "alice", governor_id: str = GOVERNOR) -> None:
    """States ``{"n": 1}``, ``{"n": 2}`` and so on."""
    for version in range(versions):
        await store.save_state(governor_id, state_id, {"n": version + 1}, METADATA, expected=version)


async def add(persister: StateMachinePersister, count: int, state_id: str = "alice") -> None:
    """The same states, each by a payload-carrying event."""
    for _ in range(count):
        await persister.record(GOVERNOR, state_id, [NewEvent("add", 1)], METADATA, expected=ANY)


async def grow_old(place: Place, store: StateStore, versions: int = 10, *, after: int = 0) -> None:
    """One version every hour."""
    for version in range(after, versions):
        await store.save_state(GOVERNOR, "alice", {"n": version + 1}, METADATA, expected=version)
        place.clock.advance_us(HOUR)
