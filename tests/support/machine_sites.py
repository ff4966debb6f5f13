"""Stores of machines, each opened by two processes and by one that only looks; and what was said of each store."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tai_state import EXISTS, ChangeMetadata, StateEvent, StateNotFound, StateStore
from tai_state.machines import Command, Definition, MachineEventRecord, PersistentMachine, Trigger
from tai_state.testing import ManualClock
from tai_state.values.times import parse_time, to_us

from .machine_worlds import EVENTS, LOADED, Tally, World
from .sites import GOVERNOR, LOG, STATES, Data, Site
from .stores import collected, make_store

Machine = PersistentMachine[Any, Tally]
FACTS = {"sure": "yes"}
"""What proves the obligation of a world."""
GO: Trigger = Command("go")
EVERY_EVENT: list[Any] = [*EVENTS, *LOADED]


@dataclass(frozen=True)
class Ask:
    """One call of a user, which may be made again.

    Attributes:
        number: tells it from every other call.
        state: the machine.
        how: begin, step, event, force, delete or log.
        what: the number of the state, or of the event.
        sure: whether the caller proves what must be proven.
        event_id: the caller's, or None.
    """

    number: int
    state: str
    how: str
    what: int
    sure: bool
    event_id: str | None

    @property
    def metadata(self) -> ChangeMetadata:
        """Who calls, and what it proves."""
        return ChangeMetadata("tester", "", FACTS if self.sure else {})

    async def make(self, store: StateStore, machine: Machine, expected: dict[str, Any]) -> int:
        """Make it; the version of its event."""
        given: dict[str, Any] = {"event_id": self.event_id, **expected}
        if self.how == "begin":
            return (await machine.initialize(self.metadata, context=Tally(), event_id=self.event_id)).version
        if self.how == "step":
            return (await machine.transition_to(self.target(machine), GO, self.metadata, **given)).version
        if self.how == "event":
            event = EVERY_EVENT[self.what % len(EVERY_EVENT)]
            return (await machine.fire(event, None if event in EVENTS else 7, self.metadata, **given)).version
        if self.how == "force":
            return (await machine.force_state(self.target(machine), "by hand", self.metadata, **given)).version
        if self.how == "delete":
            given.setdefault("expected", EXISTS)
            return (await store.delete_state(GOVERNOR, self.state, self.metadata, **given)).version
        return (await store.log_event(GOVERNOR, self.state, LOG, self.metadata, payload=self.number, **given)).version

    def target(self, machine: Machine) -> Any:
        """The state that is asked for."""
        return machine.definition.states[self.what % len(machine.definition.states)]


class Seen:
    """A machine in the data of a state, read without the library."""

    def __init__(self, world: World, data: dict[str, Any]) -> None:
        machine = data["machine"]
        self.machine = str(sorted(machine.items()))
        """Tells it from every other one: no two were entered at one time."""
        self.state = [each.name for each in world.members].index(machine["state"])
        self.facts = self.state, machine["epoch"], data["context"]["n"]
        self.is_forced = bool(machine.get("is_forced"))
        due = machine.get("due")
        self.wait_us = None if due is None else to_us(parse_time(due)) - to_us(parse_time(machine["entered_at"]))


class Side:
    """A machine on one of two sites.

    Attributes:
        data: its data; None if it is deleted, or was never there.
        tip: the id of its last event.
        known: the ids of all events that the site has, or that a join in it stands for.
        last: the machine that its stream has shown last, though it may be deleted since.
        hybrid: the hybrid clock of its last event.
    """

    def __init__(self, data: Data, tip: str, known: set[str], last: str, hybrid: int) -> None:
        self.data, self.tip, self.known, self.last, self.hybrid = data, tip, known, last, hybrid


@dataclass
class Said:
    """What was said of one store; it goes back when a backup is put back.

    Attributes:
        results: by a call's number, the version and the id of the event that it was told.
        asked: the numbers of the calls that were made here.
        known: by state, the ids of all events that the store has, or that a join in it stands for.
    """

    results: dict[int, tuple[int, str]] = field(default_factory=dict)
    asked: set[int] = field(default_factory=set)
    known: dict[str, set[str]] = field(default_factory=lambda: {each: set() for each in STATES})


class MachineSite(Site):
    """One store of machines. What is looked at goes past the two processes, whose memory of the store gets stale.

    Args:
        folder: where its documents are, and its backups.
        clock: the one of all sites.
        ids: numbers for the ids that stores make.
        definition: of its machines.
        on_disk: on SQLite; else in memory.
    """

    def __init__(
        self, folder: Path, clock: ManualClock, ids: Iterator[int], definition: Definition[Any, Tally], *, on_disk: bool
    ) -> None:
        super().__init__(folder, clock, ids, on_disk=on_disk, seconds=(60.0, 0.0))
        self.said = Said()
        self.kept: Said | None = None
        self._definition = definition
        self._time = clock

    async def open(self) -> None:
        """Open it for the processes, and for whoever looks."""
        await super().open()
        self.watcher = make_store(self.engine(), self._time)
        await self.watcher.__aenter__()
        self.machines = [self._machines(store) for store in (*self.stores, self.watcher)]

    def _machines(self, store: StateStore) -> dict[str, Machine]:
        return {each: store.machine(GOVERNOR, each, self._definition) for each in STATES}

    async def close(self) -> None:
        """Close all."""
        await self.watcher.__aexit__(None, None, None)
        await super().close()

    async def back_up(self) -> None:
        """Copy the whole file, and what was said of it."""
        await super().back_up()
        self.kept = copy.deepcopy(self.said)

    async def put_back(self) -> None:
        """Replace the file by its backup; what was changed since is gone."""
        await super().put_back()
        assert self.kept is not None
        self.said = copy.deepcopy(self.kept)

    async def events(self, state: str, process: int = 0) -> list[StateEvent[Any]]:  # noqa: ARG002
        """The events of a machine; none if it was never written."""
        try:
            return await collected(self.watcher.get_events(GOVERNOR, state))
        except StateNotFound:
            return []

    async def data(self, state: str, process: int = 0) -> Data:  # noqa: ARG002
        """The data of a machine; None if it is deleted or was never written."""
        found = (await self.watcher.batch_get_states(GOVERNOR, [state]))[state]
        return None if found is None or found.deleted else found.data

    async def history(self, state: str) -> list[MachineEventRecord[Any]]:
        """The events of a machine, as its definition reads them."""
        return await collected(self.machines[2][state].history())

    async def hybrid(self, state: str) -> int:
        """The hybrid clock of a machine's last event."""
        found = await self.watcher.core.read_state(self.watcher.core.layout.stream(GOVERNOR, state))
        return 0 if found is None else found[1].hlc
