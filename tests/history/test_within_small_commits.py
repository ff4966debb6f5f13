"""Long operations work on an engine whose commits take few operations, and leave the event loop to others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tai_state import (
    ANY,
    Columns,
    EveryEvents,
    Never,
    NewEvent,
    SnapshotPolicy,
    StateMachinePersister,
    StateStore,
    open_store,
    sync,
)
from tai_state.engines.api import Committed, Delete, Write
from tai_state.engines.batching import weight_of
from tai_state.errors import CommitTooLarge
from tai_state.testing import ManualClock, MemoryEngine

from ..support.small_engine import COMMIT_BYTES
from ..support.stores import GOVERNOR, METADATA, AroundEngine, Opened, edit

pytestmark = pytest.mark.anyio

OPERATIONS_MAX = 128
COUNT = 300
COLUMNS = Columns("machine", ("status",), "time")
DAY_US = 86_400_000_000


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: batches are made above the engines."""
    return "asyncio"


class Small(MemoryEngine):
    """An engine with the least operations a commit that one may have."""

    @property
    def capabilities(self) -> Any:  # noqa: D102
        return replace(super().capabilities, max_ops_per_commit=OPERATIONS_MAX)


@pytest.fixture
async def small(clock: ManualClock) -> AsyncIterator[StateStore]:
    """An empty store on such an engine."""
    async with open_store(Small(clock), clock=clock, snapshots=EveryEvents(50)) as store:
        yield store


@pytest.fixture
async def large(clock: ManualClock) -> AsyncIterator[StateStore]:
    """A store on an engine that takes more, with a long history."""
    async with open_store(MemoryEngine(clock), clock=clock, snapshots=EveryEvents(50)) as store:
        await fill(store)
        yield store


async def fill(store: StateStore) -> None:
    """Give a state a long history, each change with an id."""
    for n in range(COUNT):
        await store.save_state(GOVERNOR, "x", {"n": n}, METADATA, expected=ANY, event_id=f"id-{n}")


def write_log(path: Path, machines: int, rows: int) -> Path:
    """A log of so many rows."""
    lines = [f"m{n % machines},on,2023-01-31T09:15:00Z\n" for n in range(rows)]
    path.write_text("machine,status,time\n" + "".join(lines))
    return path


async def assert_whole(store: StateStore, events: int) -> None:
    """All events are there, and everything adds up."""
    report = await StateMachinePersister(store).validate_consistency()
    assert (report.consistent, report.events) == (True, events)


@pytest.mark.parametrize("machines", [COUNT, 1])
async def test_import_of_a_log(small: StateStore, tmp_path: Path, machines: int) -> None:
    """A log is imported, whether its rows are of many machines or of one."""
    log = write_log(tmp_path / "log.csv", machines, COUNT)
    await StateMachinePersister(small).import_csv(GOVERNOR, log, COLUMNS)
    await assert_whole(small, COUNT)


async def test_restore(small: StateStore, large: StateStore, tmp_path: Path) -> None:
    """An export of a store that took more in one commit is restored."""
    await StateMachinePersister(large).export_history(GOVERNOR, tmp_path / "x")
    await StateMachinePersister(small).import_history(tmp_path / "x")
    await assert_whole(small, COUNT)


async def test_sync(small: StateStore, large: StateStore) -> None:
    """A long history is taken over by a sync."""
    await sync(large, small)
    await assert_whole(small, COUNT)


async def test_cleanup(small: StateStore, clock: ManualClock) -> None:
    """Old events are removed, however many they are."""
    await fill(small)
    clock.advance_us(3 * DAY_US)
    for n in range(COUNT, COUNT + 120):
        await small.save_state(GOVERNOR, "x", {"n": n}, METADATA, expected=ANY)
    cleaned = await StateMachinePersister(small).cleanup_old_data(GOVERNOR, keep=timedelta(days=1))
    assert cleaned.events_deleted > OPERATIONS_MAX


async def test_recover(small: StateStore) -> None:
    """States that are missing are rebuilt, however long their history is."""
    await fill(small)
    await small.core.engine.commit([Delete(f"governors/{GOVERNOR}/states/x")])
    report = await StateMachinePersister(small).recover()
    assert len(report.rebuilt) == 1
    await assert_whole(small, COUNT)


async def test_recover_of_many_unsound_snapshots(clock: ManualClock) -> None:
    """A state of which more kept snapshots are damaged than a commit takes is mended, and they are gone."""
    async with open_store(Small(clock), clock=clock, snapshots=EveryEvents(1, keep=COUNT)) as store:
        await fill(store)
        kept = await store.list_snapshots(GOVERNOR, "x")
        await store.core.engine.commit([Delete(f"governors/{GOVERNOR}/states/x")])
        stream = store.core.layout.stream(GOVERNOR, "x")
        for version in kept:
            await edit(store.core.engine, stream.snapshot(version), digest="damaged")
        report = await StateMachinePersister(store).recover()
        assert (len(kept), len(report.rebuilt)) == (COUNT, 1)
        assert await store.list_snapshots(GOVERNOR, "x") == []
        await assert_whole(store, COUNT)


@pytest.mark.parametrize("policy", [Never(keep=2), EveryEvents(1, keep=2)], ids=["asked for", "by policy"])
async def test_a_much_smaller_retention(clock: ManualClock, policy: SnapshotPolicy) -> None:
    """Where far fewer snapshots are to stay than there are, each that is kept drops as many as its commit takes."""
    engine = Small(clock)
    async with engine:
        async with open_store(Opened(engine), clock=clock, snapshots=EveryEvents(1, keep=COUNT)) as store:
            await fill(store)
        async with open_store(Opened(engine), clock=clock, snapshots=policy) as store:
            left = []
            for n in range(4):
                await store.save_state(GOVERNOR, "x", {"n": -n}, METADATA, expected=ANY)
                await store.create_snapshot(GOVERNOR, "x")
                left.append(len(await store.list_snapshots(GOVERNOR, "x")))
            assert left == [COUNT - 99, COUNT - 198, COUNT - 297, 2]
            await assert_whole(store, COUNT + 4)


async def test_record_within_one_commit(small: StateStore) -> None:
    """As many events as fit are recorded by one commit: the others are the state, its governor, and that it is new."""
    events = [NewEvent("seen", n) for n in range(OPERATIONS_MAX - 3)]
    await StateMachinePersister(small).record(GOVERNOR, "x", events, METADATA, expected=0)
    await assert_whole(small, OPERATIONS_MAX - 3)


class _DoneError(Exception):
    """The first rows are recorded."""


async def stop(_: Any) -> None:
    """Only the check of the file is of interest."""
    raise _DoneError


class UntilFirstCommit(AroundEngine):
    """Tells when something is written for the first time.

    Attributes:
        has_begun: whether it was.
    """

    has_begun = False

    async def commit(self, writes: Sequence[Write]) -> Committed:  # noqa: D102
        self.has_begun = True
        return await self._engine.commit(writes)


async def test_checking_a_log_lets_others_run(clock: ManualClock, tmp_path: Path) -> None:
    """While the rows of a log are checked, before the first is recorded, other tasks get a turn again and again."""
    engine: Any = UntilFirstCommit(MemoryEngine(clock))
    async with open_store(engine, clock=clock) as store:
        engine.has_begun = False
        log = write_log(tmp_path / "log.csv", 4_000, 4_000)
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while not engine.has_begun:
                turns += 1
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(count_turns)
            with pytest.raises(_DoneError):
                await StateMachinePersister(store).import_csv(GOVERNOR, log, COLUMNS, stop)
        assert turns >= 20


class Weighed(MemoryEngine):
    """An engine with the fewest bytes a commit that one may have, which counts the names of documents as well."""

    @property
    def capabilities(self) -> Any:  # noqa: D102
        return replace(super().capabilities, max_bytes_per_commit=COMMIT_BYTES)

    async def commit(self, writes: Sequence[Write]) -> Committed:  # noqa: D102
        size = sum(weight_of(each).size for each in writes)
        if size > COMMIT_BYTES:
            raise CommitTooLarge("bytes", size, COMMIT_BYTES)
        return await super().commit(writes)


LONG = "x" * 1_400
MANY = 600
"""The names of so many snapshots, of a governor and a state with such names, are more than a commit takes."""


@pytest.fixture
async def weighed(clock: ManualClock) -> AsyncIterator[StateStore]:
    """A store on such an engine, with a state of which so many snapshots are kept."""
    async with open_store(Weighed(clock), clock=clock, snapshots=EveryEvents(1, keep=MANY)) as store:
        for n in range(MANY):
            await store.save_state(LONG, LONG, {"n": n}, METADATA, expected=ANY)
        yield store


async def test_recover_of_unsound_snapshots_with_long_names(weighed: StateStore) -> None:
    """A state of which more snapshots are damaged than a commit can name is mended, and they are gone."""
    stream = weighed.core.layout.stream(LONG, LONG)
    await weighed.core.engine.commit([Delete(stream.state)])
    for version in range(1, MANY + 1):
        await edit(weighed.core.engine, stream.snapshot(version), digest="damaged")
    report = await StateMachinePersister(weighed).recover()
    assert (len(report.rebuilt), report.failed) == (1, ())
    assert await weighed.list_snapshots(LONG, LONG) == []
    await assert_whole(weighed, MANY)


async def test_cleanup_of_snapshots_with_long_names(weighed: StateStore, clock: ManualClock) -> None:
    """A state of which more snapshots are to be dropped than a commit can name is cleaned up."""
    clock.advance_us(3 * DAY_US)
    for n in range(2):
        await weighed.save_state(LONG, LONG, {"n": n}, METADATA, expected=ANY)
    cleaned = await StateMachinePersister(weighed).cleanup_old_data(LONG, keep=timedelta(days=1))
    assert (cleaned.failed, cleaned.events_deleted) == ((), MANY - 1)
    assert await weighed.list_snapshots(LONG, LONG) == [MANY, MANY + 1, MANY + 2]
