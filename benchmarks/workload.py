"""The work by which two releases are compared, done by the release that is installed where this runs.

It uses only public names that both releases have. On stdin, a line of JSON asks it to run a row, or to prepare what the
reading rows read. It answers with a line of JSON.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import tempfile
from collections.abc import AsyncIterable, Awaitable, Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from work import GOVERNOR, MACHINE, METADATA, Measured, state, timed

from tai_state import Columns, NewEvent, StateMachinePersister, StateStore, Transaction, open_store

LISTED = "listed"
"""The governor with many states. The one with a long stream is ``GOVERNOR``."""
BATCH = 100
SQLITE_TASKS = 64
FIRESTORE_TASKS = 16
CONTENDERS = 30
_START = datetime(2026, 1, 1, tzinfo=UTC)
"""The time in the first row of an imported file; each further row is a second later."""


async def save(store: StateStore, label: str, count: int) -> Measured:
    """Write new states, one after the other."""
    await store.save_state(GOVERNOR, label, state(0), METADATA)
    with timed(count) as measured:
        for number in range(count):
            await store.save_state(GOVERNOR, f"{label}-{number}", state(number), METADATA)
    return measured


async def update(store: StateStore, label: str, count: int) -> Measured:
    """Change one state again and again; each change expects the version that the one before wrote."""
    await _steps(store, label, 0, 1)
    with timed(count) as measured:
        await _steps(store, label, 1, count)
    return measured


async def log(store: StateStore, label: str, count: int) -> Measured:
    """Log events that do not change a state's data, one after the other."""
    await _steps(store, label, 0, 1)
    with timed(count) as measured:
        for number in range(count):
            await store.log_event(GOVERNOR, label, "noted", METADATA, payload={"number": number})
    return measured


async def transact(store: StateStore, label: str, count: int) -> Measured:
    """Run transactions that read one state and write it, one after the other."""
    await _steps(store, label, 0, 1)
    with timed(count) as measured:
        await _transactions(store, label, count)
    return measured


async def lock(store: StateStore, label: str, count: int) -> Measured:
    """Acquire and release a lock that no other task wants."""
    with timed(count) as measured:
        for _ in range(count):
            async with store.lock(label):
                pass
    return measured


def update_by(tasks: int) -> Callable[[StateStore, str, int], Awaitable[Measured]]:
    """Like :func:`update`, but by this many tasks at once, each with a state of its own."""

    async def run(store: StateStore, label: str, count: int) -> Measured:
        ids = [f"{label}-{number}" for number in range(tasks)]
        for each in ids:
            await _steps(store, each, 0, 1)
        with timed(count) as measured:
            await asyncio.gather(*[_steps(store, each, 1, count // tasks) for each in ids])
        return measured

    return run


async def contended(store: StateStore, label: str, count: int) -> Measured:
    """Run transactions in many tasks at once, all of which read and write the same state."""
    await _steps(store, label, 0, 1)
    with timed(count) as measured:
        await asyncio.gather(*[_transactions(store, label, count // CONTENDERS) for _ in range(CONTENDERS)])
    return measured


async def record(store: StateStore, label: str, count: int) -> Measured:
    """Record payload-carrying events, many in each commit."""
    persister = StateMachinePersister(store, {"moved": lambda _, event: event.payload})
    with timed(count) as measured:
        for version in range(0, count, BATCH):
            events = [NewEvent("moved", state(number)) for number in range(version, version + BATCH)]
            await persister.record(GOVERNOR, label, events, METADATA, expected=version)
    return measured


async def imported(store: StateStore, label: str, count: int) -> Measured:
    """Import the rows of a file that names one machine."""
    return await _import(store, GOVERNOR, [label] * count)


async def get_state(store: StateStore, _label: str, count: int) -> Measured:
    """Read one state again and again."""
    with timed(count) as measured:
        for _ in range(count):
            await store.get_state(GOVERNOR, MACHINE)
    return measured


async def get_events(store: StateStore, _label: str, count: int) -> Measured:
    """Read the events of one state."""
    return await _taken(store.get_events(GOVERNOR, MACHINE, until=count), count)


async def replay(store: StateStore, _label: str, count: int) -> Measured:
    """Read the same events, folded."""
    return await _taken(StateMachinePersister(store).replay(GOVERNOR, MACHINE, until=count), count)


async def list_states(store: StateStore, _label: str, count: int) -> Measured:
    """List the states of a governor."""
    return await _taken(store.list_states(LISTED), count)


async def _steps(store: StateStore, state_id: str, version: int, count: int) -> None:
    for at in range(version, version + count):
        await store.update_state(GOVERNOR, state_id, state(at), METADATA, expected=at)


async def _transactions(store: StateStore, state_id: str, count: int) -> None:
    handle = store.state(GOVERNOR, state_id)

    async def step(tx: Transaction) -> None:
        tx.put(handle, state((await tx.get(handle)).data["step"] + 1))

    for _ in range(count):
        await store.transact(step, METADATA)


async def _taken(found: AsyncIterable[object], count: int) -> Measured:
    with timed(count) as measured:
        seen = 0
        async for _ in found:
            seen += 1
            if seen == count:
                break
    if seen != count:
        raise AssertionError(f"{seen} were read, not {count}")
    return measured


async def _import(store: StateStore, governor: str, machines: list[str]) -> Measured:
    fields = tuple(state(0))

    async def acknowledged(_: object) -> None:
        pass

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        with path.open("w") as file:
            print("machine", "time", *fields, sep=",", file=file)
            for number, machine in enumerate(machines):
                texts = [json.dumps(value).replace('"', "").replace(",", ";") for value in state(number).values()]
                print(machine, (_START + timedelta(seconds=number)).isoformat(), *texts, sep=",", file=file)
        with timed(len(machines)) as measured:
            columns = Columns("machine", fields, "time")
            await StateMachinePersister(store).import_csv(governor, path, columns, acknowledged)
    return measured


@dataclass(frozen=True)
class Row:
    """One kind of work.

    Attributes:
        run: does the work; takes the store, a label for its states, and how much to do.
        count: how much to do.
        is_reading: whether it only reads what :func:`prepare` made.
    """

    run: Callable[[StateStore, str, int], Awaitable[Measured]]
    count: int
    is_reading: bool = False


SQLITE = {
    "save": Row(save, 500),
    "update": Row(update, 600),
    "log": Row(log, 400),
    "transact": Row(transact, 500),
    "lock": Row(lock, 200),
    f"{SQLITE_TASKS} tasks": Row(update_by(SQLITE_TASKS), SQLITE_TASKS * 50),
    "record": Row(record, BATCH * 25),
    "import": Row(imported, 2_500),
    "get_state": Row(get_state, 1_500, is_reading=True),
    "get_events": Row(get_events, 20_000, is_reading=True),
    "replay": Row(replay, 20_000, is_reading=True),
    "list_states": Row(list_states, 5_000, is_reading=True),
}
FIRESTORE = {
    "save": Row(save, 100),
    "update": Row(update, 150),
    "log": Row(log, 80),
    "transact": Row(transact, 100),
    "lock": Row(lock, 50),
    f"{FIRESTORE_TASKS} tasks": Row(update_by(FIRESTORE_TASKS), FIRESTORE_TASKS * 20),
    f"{CONTENDERS} tasks, one state": Row(contended, CONTENDERS),
    "record": Row(record, BATCH * 10),
    "get_state": Row(get_state, 200, is_reading=True),
    "get_events": Row(get_events, 5_000, is_reading=True),
    "replay": Row(replay, 5_000, is_reading=True),
    "list_states": Row(list_states, 2_000, is_reading=True),
}
TABLES = {"sqlite": SQLITE, "firestore": FIRESTORE}


async def prepare(url: str, table: dict[str, Row]) -> None:
    """Prepare what the reading rows of this table read."""
    async with open_store(url) as store:
        await _import(store, GOVERNOR, [MACHINE] * table["get_events"].count)
        await _import(store, LISTED, [f"machine-{number}" for number in range(table["list_states"].count)])


async def done(url: str, row: Row) -> Measured:
    """Run a row, after a tenth of it to warm up."""
    async with open_store(url) as store:
        await row.run(store, "warm", row.count // 10)
        return await row.run(store, "run", row.count)


def serve() -> None:
    """Answer requests until stdin is closed."""
    gc.freeze()
    for line in sys.stdin:
        asked = json.loads(line)
        table = TABLES[asked["engine"]]
        if asked["row"] is None:
            asyncio.run(prepare(asked["url"], table))
            answer: dict[str, Any] = {}
        else:
            answer = asdict(asyncio.run(done(asked["url"], table[asked["row"]])))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
