"""Meshes in which stores come and go: those that are gone are retired, and all that was done is still exact."""

from __future__ import annotations

import os
import random
from contextlib import AsyncExitStack
from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest

from tai_state import StateMachinePersister, StateStore, retire_store, sync
from tai_state.testing import ManualClock
from tai_state.values.retired import is_mark

from ..support.stores import GOVERNOR, fields_at
from .test_meshes import DAY_US, RULE, STORES, Mesh, filled, make_store

pytestmark = pytest.mark.anyio

RUNS = 200 if os.environ.get("TAI_STATE_PROOF") == "1" else 8
STEPS = 60
"""How much happens in a mesh between two cleanups."""

STATE = f"governors/{GOVERNOR}/states/x"


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: what is decided is decided above the engines."""
    return "asyncio"


class ChangingMesh(Mesh):
    """A mesh in which stores are replaced by new ones and retired, at any moment and by anyone."""

    def __init__(
        self, stores: list[StateStore], chance: random.Random, stack: AsyncExitStack, clock: ManualClock, folder: Path
    ) -> None:
        super().__init__(stores, chance)
        self.gone: list[str] = []
        self.retired = 0
        self._stack, self._clock = stack, clock
        self._paths = (folder / f"{number}.jsonl" for number in count())

    async def new(self) -> StateStore:
        """An empty store."""
        return await self._stack.enter_async_context(make_store(self._clock))

    async def replace(self) -> None:
        """A store goes; in its place comes one with its backup, or an empty one after the old was synced once more."""
        old = self.chance.choice(self.stores)
        new = await self.new()
        if self.chance.random() < 0.5:
            path = next(self._paths)
            await StateMachinePersister(old).export_history(GOVERNOR, path)
            await StateMachinePersister(new).import_history(path)
        else:
            left = [each for each in self.stores if each is not old]
            await self.sync(old, self.chance.choice(left))
            await self.sync(new, self.chance.choice(left))
        self.stores = [new if each is old else each for each in self.stores]
        self.gone.append(old.store_id)

    async def retire(self) -> None:
        """One of the stores hears that one that is gone will not write again."""
        if self.gone:
            report = await retire_store(self.chance.choice(self.stores), self.chance.choice(self.gone))
            assert report.complete
            self.retired += report.retired

    async def live(self) -> None:
        """Some time in this mesh."""
        for _ in range(STEPS):
            act = self.chance.random()
            if act < 0.6:
                await self.change()
            elif act < 0.85:
                await self.sync(*self.chance.sample(self.stores, 2))
            elif act < 0.9:
                await self.replace()
            else:
                await self.retire()

    async def clean_up(self) -> None:
        """All stores lose what is older than two hours; they have settled before that."""
        self._clock.advance_us(2 * DAY_US)
        for store in self.stores:
            await StateMachinePersister(store).cleanup_old_data(GOVERNOR, keep=timedelta(hours=2))

    async def check(self) -> None:
        """All stores are consistent."""
        for store in self.stores:
            report = await StateMachinePersister(store).validate_consistency()
            assert report.consistent, report.findings


@pytest.mark.parametrize("seed", range(RUNS))
async def test_a_mesh_of_stores_that_come_and_go_is_exact(seed: int, tmp_path: Path) -> None:
    """Whoever is retired when and by whom, with cleanups in between, nothing is lost and nothing counts twice."""
    clock = ManualClock(step_us=1_000)
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(make_store(clock)) for _ in range(STORES)]
        sleeper = await stack.enter_async_context(make_store(clock))
        await filled([*stores, sleeper])
        mesh = ChangingMesh(stores, random.Random(seed), stack, clock, tmp_path)
        for _ in range(3):
            await mesh.live()
            await mesh.settle()
            await mesh.judge()
            await mesh.clean_up()
        assert mesh.retired
        living = {each.store_id for each in mesh.stores}
        for each in (await fields_at(mesh.stores[0].core.engine, STATE))["causality"]:
            if each not in living and not is_mark(each):
                assert (await retire_store(mesh.stores[0], each)).retired == 1
        for other in mesh.stores[1:]:
            report = await sync(mesh.stores[0], other, resolver=RULE)
            assert (report.joined, report.failed) == (0, ()), "a store that is only behind takes over"
        for store in mesh.stores:
            entries = (await fields_at(store.core.engine, STATE))["causality"]
            assert {each for each in entries if not is_mark(each)} <= living
        report = await sync(sleeper, mesh.chance.choice(mesh.stores), resolver=RULE)
        assert (report.joined, report.failed) == (0, ()), "a store that slept all the time is only behind"
        mesh.stores.append(sleeper)
        await mesh.judge()
        await mesh.live()
        await mesh.settle()
        await mesh.judge()
        await mesh.check()
