"""Kept snapshots are trimmed by the policy of the service that keeps them, and kept for a reason of its own."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from tai_state import (
    ANY,
    Columns,
    EveryEvents,
    OnStates,
    StateMachinePersister,
    StateStore,
    TaiStateError,
    VersionConflict,
    open_store,
    sync,
)
from tai_state.engines.api import Committed, Write
from tai_state.errors import CommitRefused
from tai_state.testing import AtCalls, Fault, FaultyEngine, ManualClock, MemoryEngine

from ..support.faults import NextCommit
from ..support.program import Inside
from ..support.stores import GOVERNOR, METADATA, AroundEngine

pytestmark = pytest.mark.anyio

KEEP = 20
SERVICE = EveryEvents(2, keep=KEEP)


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: policies are judged above the engines."""
    return "asyncio"


async def fill(store: StateStore, count: int) -> list[int]:
    """Save a state so often; the versions that are kept then."""
    for n in range(count):
        await store.save_state(GOVERNOR, "x", {"n": n}, METADATA, expected=ANY)
    return await store.list_snapshots(GOVERNOR, "x")


async def test_an_operator_s_snapshot_trims_nothing_of_the_service_s(clock: ManualClock) -> None:
    """A snapshot that is asked for through a store without that policy is kept beside those that the policy kept."""
    engine = MemoryEngine(clock)
    async with open_store(engine, clock=clock, snapshots=SERVICE) as service:
        before = await fill(service, 2 * KEEP + 1)
    async with open_store(engine, clock=clock, schema=None) as operator:
        await operator.create_snapshot(GOVERNOR, "x")
        assert set(before[1:]) <= set(await operator.list_snapshots(GOVERNOR, "x"))


async def test_a_sync_trims_nothing_of_the_service_s(clock: ManualClock) -> None:
    """Events taken over by a store without that policy leave the snapshots that the policy kept."""
    engine, other = MemoryEngine(clock), MemoryEngine(clock)
    async with open_store(engine, clock=clock, snapshots=SERVICE) as service, open_store(other, clock=clock) as device:
        before = await fill(service, 2 * KEEP)
        await sync(service, device)
        for n in range(100):
            await device.save_state(GOVERNOR, "x", {"n": n}, METADATA, expected=ANY)
    async with (
        open_store(engine, clock=clock, schema=None) as centre,
        open_store(other, clock=clock, schema=None) as device,
    ):
        await sync(centre, device)
        assert (await centre.get_state(GOVERNOR, "x")).version == 2 * KEEP + 100
        assert set(before[5:]) <= set(await centre.list_snapshots(GOVERNOR, "x"))


def test_the_command_trims_nothing_of_the_service_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``tai-state snapshot`` keeps one more, and leaves those of the service."""

    async def kept(count: int) -> list[int]:
        async with open_store(f"sqlite:///{tmp_path}/tai-state.db", snapshots=SERVICE) as service:
            return await fill(service, count)

    before = anyio.run(kept, 2 * KEEP + 1)
    assert Inside(tmp_path, monkeypatch, capsys)("snapshot", GOVERNOR, "x").code == 0
    assert set(before[1:]) <= set(anyio.run(kept, 0))


def test_an_import_trims_nothing_of_the_service_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``tai-state import`` goes on with a log that a service began to import, and leaves what that has kept."""
    rows = [f"pump,on,2023-01-31T09:{n // 60:02}:{n % 60:02}Z\n" for n in range(2 * KEEP + 110)]
    log = tmp_path / "log.csv"

    async def acknowledged(_: Any) -> None:
        pass

    async def imported(count: int) -> list[int]:
        """What is kept once the service has imported so many rows."""
        log.write_text("machine,status,time\n" + "".join(rows[:count]))
        async with open_store(f"sqlite:///{tmp_path}/tai-state.db", snapshots=SERVICE) as service:
            columns = Columns("machine", ("status",), "time")
            await StateMachinePersister(service).import_csv(GOVERNOR, log, columns, acknowledged)
            return await service.list_snapshots(GOVERNOR, "pump")

    before = [anyio.run(imported, count) for count in range(2, 2 * KEEP + 2, 2)][-1]
    assert len(before) == KEEP
    log.write_text("machine,status,time\n" + "".join(rows))
    arguments = ("--machine", "machine", "--state", "status", "--time", "time")
    assert Inside(tmp_path, monkeypatch, capsys)("import", "log.csv", "--governor", GOVERNOR, *arguments).code == 0
    assert set(before[2:]) <= set(anyio.run(imported, len(rows)))


async def test_a_cleanup_trims_nothing_of_the_service_s(clock: ManualClock) -> None:
    """A cleanup by a store without that policy removes old events, and no kept snapshot younger than it is told."""
    engine = MemoryEngine(clock)
    async with open_store(engine, clock=clock, snapshots=SERVICE) as service:
        await fill(service, 40)
        clock.advance_us(2 * 24 * 3600 * 1_000_000)
        before = (await fill(service, 2 * KEEP))[1:]
    async with open_store(engine, clock=clock, schema=None) as operator:
        stats = await StateMachinePersister(operator).cleanup_old_data(GOVERNOR, keep=timedelta(days=1))
        assert stats.skipped == 0
        assert set(before) <= set(await operator.list_snapshots(GOVERNOR, "x"))


@pytest.mark.parametrize("count", [3, 12])
async def test_an_operator_s_snapshots_do_not_add_up(clock: ManualClock, count: int) -> None:
    """However often a store without a policy keeps a snapshot, there are as many as there were, or five."""
    engine = MemoryEngine(clock)
    async with open_store(engine, clock=clock, snapshots=EveryEvents(1, keep=count)) as service:
        await fill(service, count)
    async with open_store(engine, clock=clock, schema=None) as operator:
        for _ in range(20):
            await operator.log_event(GOVERNOR, "x", "looked at", METADATA)
            await operator.create_snapshot(GOVERNOR, "x")
        assert len(await operator.list_snapshots(GOVERNOR, "x")) == max(count, 5)


async def test_an_operator_with_a_policy_uses_it(clock: ManualClock) -> None:
    """A policy that is given is followed, with or without a schema."""
    engine = MemoryEngine(clock)
    async with open_store(engine, clock=clock, snapshots=SERVICE) as service:
        await fill(service, 2 * KEEP)
    async with open_store(engine, clock=clock, schema=None, snapshots=EveryEvents(1, keep=2)) as operator:
        assert await fill(operator, 1) == [2 * KEEP, 2 * KEEP + 1]


async def test_each_new_state_is_kept(clock: ManualClock) -> None:
    """A policy by states keeps each new state that has the value, also if another field is what changed."""
    policy = OnStates("status", ("done",))
    async with open_store(MemoryEngine(clock), clock=clock, snapshots=policy) as store:
        for n, status in enumerate(["new", "done", "done", "new", "done"]):
            await store.save_state(GOVERNOR, "x", {"status": status, "n": n}, METADATA, expected=ANY)
            await store.save_state(GOVERNOR, "x", {"status": status, "n": n}, METADATA, expected=ANY)
        assert await store.list_snapshots(GOVERNOR, "x") == [3, 5, 9]


async def test_a_state_that_is_reached_is_kept_once(clock: ManualClock) -> None:
    """A policy by states keeps a snapshot when the state is reached, not at each event that leaves it there."""
    policy = OnStates("status", ("done",))
    async with open_store(MemoryEngine(clock), clock=clock, snapshots=policy) as store:
        await store.save_state(GOVERNOR, "x", {"status": "new"}, METADATA)
        await store.update_state(GOVERNOR, "x", {"status": "done"}, METADATA, expected=1)
        for _ in range(6):
            await store.log_event(GOVERNOR, "x", "seen", METADATA)
        assert await store.list_snapshots(GOVERNOR, "x") == [2]


@pytest.mark.parametrize("fault", [Fault.LOST_BEFORE, Fault.LOST_AFTER])
async def test_a_snapshot_on_request_whose_answer_is_lost(clock: ManualClock, fault: Fault) -> None:
    """Where the answer to a snapshot is lost, it is looked up, and the snapshot is kept once."""
    engine = FaultyEngine(MemoryEngine(clock), AtCalls({}))
    async with open_store(engine, clock=clock, timeout_seconds=1.0) as store:
        await fill(store, 3)
        engine.plan = NextCommit(fault)
        assert (await store.create_snapshot(GOVERNOR, "x")).version == 3
        assert engine.statistics().all_hit
        assert await store.list_snapshots(GOVERNOR, "x") == [3]
        assert (await StateMachinePersister(store).validate_consistency()).consistent


class Refusing(AroundEngine):
    """Refuses commits, once that is switched on."""

    is_on = False

    async def commit(self, writes: list[Write]) -> Committed:  # noqa: D102
        if self.is_on:
            raise CommitRefused(writes[0].path)
        return await self._engine.commit(writes)


async def test_a_snapshot_on_request_among_refusals_tells_the_truth(clock: ManualClock) -> None:
    """A snapshot that is refused each time is not reported as a conflict with a version that is not there."""
    engine: Any = Refusing(MemoryEngine(clock))
    async with open_store(engine, clock=clock, timeout_seconds=0.05) as store:
        await fill(store, 3)
        engine.is_on = True
        with pytest.raises(TaiStateError) as caught:
            await store.create_snapshot(GOVERNOR, "x")
        if isinstance(caught.value, VersionConflict):
            assert caught.value.actual <= 3
