"""A watch on SQLite costs what changes on its paths: a change elsewhere reads nothing for it, whoever makes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import apsw
import pytest

from tai_state import ANY, StateStore, Transaction, open_store

from ...support.stores import GOVERNOR, METADATA

pytestmark = pytest.mark.anyio

STATES = 500
WATCHES = 50
CHANGES = 20
FEW = 10
"""Statements or rows that a change may cost, the ones that write it included."""


class Traffic:
    """Counts what the connections of this process do.

    Attributes:
        rows: that statements gave.
        statements: that began; without pragmas, by which engines look whether others have committed.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Count from nothing."""
        self.rows = self.statements = 0

    def hook(self, connection: apsw.Connection) -> None:
        """Count on a new connection."""
        connection.trace_v2(apsw.SQLITE_TRACE_ROW | apsw.SQLITE_TRACE_STMT, self._seen)

    def _seen(self, event: dict[str, Any]) -> None:
        if event["code"] == apsw.SQLITE_TRACE_ROW:
            self.rows += 1
        elif not event["sql"].upper().startswith("PRAGMA"):
            self.statements += 1


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: what is read is read in the engine."""
    return "asyncio"


@pytest.fixture
def traffic() -> Iterator[Traffic]:
    """What all connections that are opened from now on do."""
    traffic = Traffic()
    apsw.connection_hooks.append(traffic.hook)
    yield traffic
    apsw.connection_hooks.remove(traffic.hook)


@pytest.fixture
async def store(tmp_path: Path, traffic: Traffic) -> AsyncIterator[StateStore]:
    """A store with many states."""
    async with open_store(f"sqlite:///{tmp_path}/store.db") as store:

        async def write(transaction: Transaction) -> None:
            for n in range(STATES):
                transaction.put(store.state(GOVERNOR, f"s{n}"), {"n": 0})

        await store.transact(write, METADATA)
        yield store


@pytest.fixture(params=["this process", "another connection"])
async def writer(request: pytest.FixtureRequest, tmp_path: Path, store: StateStore) -> AsyncIterator[StateStore]:
    """Who changes something elsewhere: the store itself, or one with connections of its own, as another process."""
    async with AsyncExitStack() as stack:
        if request.param == "this process":
            yield store
        else:
            yield await stack.enter_async_context(open_store(f"sqlite:///{tmp_path}/store.db"))


class Watching:
    """Watches in a task of its own.

    Attributes:
        shown: how often a state was shown.
    """

    def __init__(self, store: StateStore, *state_ids: str) -> None:
        self.shown = 0
        self._store = store
        self._ids = state_ids

    async def run(self) -> None:
        """Watch until cancelled."""
        async with self._store.watch(GOVERNOR, *self._ids) as changes:
            async for _ in changes:
                self.shown += 1

    async def until(self, shown: int) -> None:
        """Until so many were shown."""
        with anyio.fail_after(20):
            while self.shown < shown:
                await anyio.lowlevel.checkpoint()


async def change(store: StateStore, governor_id: str, state_id: str) -> None:
    """One change."""
    await store.save_state(governor_id, state_id, {"n": 1}, METADATA, expected=ANY)


async def test_a_watch_of_many_states_reads_nothing_for_changes_elsewhere(
    store: StateStore, writer: StateStore, traffic: Traffic
) -> None:
    """While others change states elsewhere, a watch of a whole governor reads no rows of it."""
    async with anyio.create_task_group() as tasks:
        watching = Watching(store)
        tasks.start_soon(watching.run)
        await watching.until(STATES)
        await change(writer, GOVERNOR, "s1")
        await watching.until(STATES + 1)
        traffic.reset()
        for _ in range(CHANGES):
            await change(writer, "elsewhere", "x")
        await change(writer, GOVERNOR, "s2")
        await watching.until(STATES + 2)
        rows = traffic.rows
        tasks.cancel_scope.cancel()
    assert watching.shown == STATES + 2
    assert rows <= FEW * (CHANGES + 1)


async def test_many_watches_cost_a_change_one_look(store: StateStore, writer: StateStore, traffic: Traffic) -> None:
    """A change that one of many watches shows is found by one look for all of them."""
    watches = [Watching(store, f"s{n}") for n in range(WATCHES)]
    async with anyio.create_task_group() as tasks:
        for each in watches:
            tasks.start_soon(each.run)
        for each in watches:
            await each.until(1)
        await change(writer, GOVERNOR, "s0")
        await watches[0].until(2)
        traffic.reset()
        for n in range(CHANGES):
            await change(writer, GOVERNOR, "s0")
            await watches[0].until(3 + n)
        await store.get_state(GOVERNOR, "s0")
        statements = traffic.statements
        tasks.cancel_scope.cancel()
    assert [each.shown for each in watches] == [CHANGES + 2, *[1] * (WATCHES - 1)]
    assert statements <= 2 * FEW * CHANGES


async def test_those_who_wait_for_a_lock_read_nothing_for_changes_elsewhere(
    store: StateStore, traffic: Traffic
) -> None:
    """While many wait for a lock, a change elsewhere costs what it costs without them."""
    waiting = 0
    engine: Any = store.core.engine

    async def wait() -> None:
        nonlocal waiting
        waiting += 1
        async with store.lock("job"):
            pass

    async with store.lock("job"), anyio.create_task_group() as tasks:
        for _ in range(WATCHES):
            tasks.start_soon(wait)
        with anyio.fail_after(20):
            while len(engine._watches._entered) < WATCHES:
                await anyio.lowlevel.checkpoint()
        await change(store, "elsewhere", "x")
        traffic.reset()
        for _ in range(CHANGES):
            await change(store, "elsewhere", "x")
        await store.get_state("elsewhere", "x")
        statements = traffic.statements
        tasks.cancel_scope.cancel()
    assert waiting == WATCHES
    assert statements <= FEW * (CHANGES + 1)


def timers() -> int:
    """How many timers the event loop waits for."""
    loop: Any = asyncio.get_running_loop()
    return sum(not each.cancelled() for each in loop._scheduled)


async def test_idle_watches_share_one_timer(store: StateStore) -> None:
    """Many watches of which none has anything to show let the event loop wake for one look, not for each of them."""
    watches = [Watching(store, f"s{n}") for n in range(WATCHES)]
    async with anyio.create_task_group() as tasks:
        for each in watches:
            tasks.start_soon(each.run)
        for each in watches:
            await each.until(1)
        await change(store, GOVERNOR, "s0")
        await watches[0].until(2)
        for _ in range(FEW):
            await store.get_state(GOVERNOR, "s0")
        waited_for = timers()
        tasks.cancel_scope.cancel()
    assert waited_for <= FEW
