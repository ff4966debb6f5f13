"""The ``eventsourcing`` library with its own SQLite module, used as its documentation shows.

The library is synchronous: nothing waits for another thread. Events are declared as classes, which is faster than with
its decorators. They record only the state, and not who changed it and why.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate
from work import Measured, state, timed


class Machine(Aggregate):
    """A state machine with its whole state as one value."""

    class Moved(Aggregate.Event):
        """The state after a transition."""

        data: dict[str, Any]

        def apply(self, aggregate: Machine) -> None:
            """Make it the state of the aggregate."""
            aggregate.data = self.data

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data

    def move(self, data: dict[str, Any]) -> None:
        """Make one transition; the next save stores it."""
        self.trigger_event(self.Moved, data=data)


def application(path: Path) -> Application[Any]:
    """An application on a file."""
    return Application(env={"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(path)})


def settings(path: Path) -> dict[str, object]:
    """The settings that decide durability, read from one of the library's own connections."""
    app = application(path)
    found: dict[str, object] = {}
    with app.recorder.datastore.transaction(commit=True) as cursor:
        for name in ("journal_mode", "synchronous"):
            cursor.execute(f"PRAGMA {name}")
            found[name] = cursor.fetchone()[0]
    app.close()
    return found


def single_saves(path: Path, count: int) -> Measured:
    """Transitions of one aggregate that stays in memory, each saved separately."""
    app = application(path)
    machine = Machine(data=state(0))
    app.save(machine)
    with timed(count) as measured:
        for step in range(1, count + 1):
            machine.move(state(step))
            app.save(machine)
    app.close()
    return measured


def build(path: Path, count: int) -> Any:
    """Make a file with one aggregate of this many events. Returns its id."""
    app = application(path)
    machine = Machine(data=state(0))
    for step in range(1, count):
        machine.move(state(step))
    app.save(machine)
    app.close()
    return machine.id


def replay(path: Path, machine_id: Any, count: int) -> Measured:
    """Load the aggregate from all its events."""
    app = application(path)
    with timed(count) as measured:
        machine: Any = app.repository.get(machine_id)
    app.close()
    if machine.version != count:
        raise AssertionError(f"{machine.version} events were read, not {count}")
    return measured
