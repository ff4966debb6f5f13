"""Stores to which everything is done that can be done to a store, and what was said of each."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tai_state import (
    ChangeMetadata,
    EveryEvents,
    NewEvent,
    StateEvent,
    StateMachinePersister,
    StateNotFound,
    StateStore,
)
from tai_state.engines.memory import MemoryEngine
from tai_state.engines.sqlite.engine import SqliteEngine
from tai_state.testing import AtCalls, Fault, FaultyEngine, ManualClock

from .stores import collected, make_store

GOVERNOR = "g"
STATES = ("a", "b")
LOG = "ping"
METADATA = ChangeMetadata("tester", "a test")
REDUCERS = {"put": lambda _, event: {"n": event.payload}}
Data = dict[str, Any] | None
Faults = dict[int, Fault]
"""By the number of a call of the engine, how it fails."""


@dataclass(frozen=True)
class Call:
    """One call of a user, which may be made again.

    Attributes:
        number: stands in what it writes, and nowhere else.
        state: the state concerned.
        kind: save, delete, log or record.
        event_id: the caller's, or None.
        expected: the version, or ANY.
        extra: whether the data has another field.
    """

    number: int
    state: str
    kind: str
    event_id: str | None
    expected: Any
    extra: bool

    async def make(self, store: StateStore) -> int:
        """Make it; the version of its event."""
        given: Any = {"expected": self.expected, "event_id": self.event_id}
        place = GOVERNOR, self.state
        if self.kind == "record":
            persister = StateMachinePersister(store, REDUCERS)
            events = [NewEvent("put", self.number, self.event_id)]
            [event] = await persister.record(*place, events, METADATA, expected=self.expected)
            return int(event.version)
        if self.kind == "log":
            return (await store.log_event(*place, LOG, METADATA, payload=self.number, **given)).version
        if self.kind == "delete":
            return (await store.delete_state(*place, METADATA, **given)).version
        data = {"n": self.number} | ({"x": self.number} if self.extra else {})
        return (await store.save_state(*place, data, METADATA, **given)).version


@dataclass
class Ledger:
    """What was said of one store; it goes back when a backup is put back.

    Attributes:
        results: by a call's number, the version of the event that it was told, and the event's id.
        known: by state, the ids of all events that it has, or had, or that a join in it names.
        floors: by state, the first version of which the event was seen last.
        asked: the numbers of the calls that were made here.
    """

    results: dict[int, tuple[int, str]] = field(default_factory=dict)
    known: dict[str, set[str]] = field(default_factory=lambda: {each: set() for each in STATES})
    floors: dict[str, int] = field(default_factory=dict)
    asked: set[int] = field(default_factory=set)


class Site:
    """One store, opened twice.

    Args:
        folder: where its documents are, and its backups.
        clock: the one of all sites.
        ids: numbers for the ids that stores make.
        on_disk: on SQLite; else in memory.
        seconds: how long each of its processes tries again.
    """

    def __init__(
        self,
        folder: Path,
        clock: ManualClock,
        ids: Iterator[int],
        *,
        on_disk: bool,
        seconds: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        folder.mkdir()
        self.path = folder / "store.db"
        self.ledger = Ledger()
        self.backup: Ledger | None = None
        self._clock = clock
        self._ids = ids
        self._seconds = seconds
        self._memory = None if on_disk else MemoryEngine(clock)

    def engine(self) -> Any:
        """Another engine over its documents."""
        return SqliteEngine(str(self.path), self._clock) if self._memory is None else self._memory.beside()

    async def open(self) -> None:
        """Open it twice."""
        options: dict[str, Any] = {
            "snapshots": EveryEvents(2, keep=2),
            "new_id": lambda: f"made-{next(self._ids)}",
        }
        self.faulty = [FaultyEngine(self.engine(), AtCalls({})) for _ in range(2)]
        self.stores = [
            make_store(each, self._clock, timeout_seconds=seconds, **options)
            for each, seconds in zip(self.faulty, self._seconds, strict=True)
        ]
        for store in self.stores:
            await store.__aenter__()

    async def close(self) -> None:
        """Close both."""
        for store in self.stores:
            await store.__aexit__(None, None, None)

    def persister(self, process: int = 0) -> StateMachinePersister:
        """What folds the events that carry no state."""
        return StateMachinePersister(self.stores[process], REDUCERS)

    async def under(self, faults: Faults, process: int, act: Callable[[], Awaitable[Any]]) -> Any:
        """Act while calls of the engine fail, counted from here; what is under way then arrives."""
        faulty = self.faulty[process]
        before = faulty.statistics().calls
        faulty.plan = AtCalls({("any", before + number): fault for number, fault in faults.items()})
        try:
            return await act()
        finally:
            faulty.plan = AtCalls({})
            await faulty.settle()

    async def back_up(self) -> None:
        """Copy the whole file, and what was said of it."""
        target = self.path.with_name("backup.db")
        target.unlink(missing_ok=True)
        async with self.engine() as engine:
            assert not (await engine.backup(str(target), lambda *_: None)).damage
        self.backup = copy.deepcopy(self.ledger)

    async def put_back(self) -> None:
        """Replace the file by its backup; what was changed since is gone."""
        assert self.backup is not None
        await self.close()
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(f"{self.path.name}{suffix}").unlink(missing_ok=True)
        shutil.copy(self.path.with_name("backup.db"), self.path)
        self.ledger = copy.deepcopy(self.backup)
        await self.open()

    async def events(self, state: str, process: int = 0) -> list[StateEvent[Any]]:
        """The events of a state; none if it was never written."""
        try:
            return await collected(self.stores[process].get_events(GOVERNOR, state))
        except StateNotFound:
            return []

    async def data(self, state: str, process: int = 0) -> Data:
        """The data of a state; None if it is deleted or was never written."""
        found = (await self.stores[process].batch_get_states(GOVERNOR, [state]))[state]
        return None if found is None or found.deleted else found.data


def number_of(event: StateEvent[Any]) -> int | None:
    """The number of the call that made an event; None if the event does not show it."""
    if event.action in ("put", LOG):
        return int(event.payload)
    return int((event.to_state or {})["n"]) if event.action == "save" else None
