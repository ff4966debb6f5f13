"""Meshes in which backups are put back, stores are replaced and retired, and requests are repeated: all is exact."""

from __future__ import annotations

import os
import random
from contextlib import AsyncExitStack

import pytest

from tai_state import StateMachinePersister, retire_store
from tai_state.testing import ManualClock, MemoryEngine

from ..support.stores import GOVERNOR, METADATA
from .test_meshes import STORES, filled
from .test_meshes_with_backups import Change, Mesh

pytestmark = pytest.mark.anyio

STEPS = 60
"""How much happens in a mesh."""

RUNS = 200 if os.environ.get("TAI_STATE_PROOF") == "1" else 10
"""Meshes that live by chance."""

TOLD_APART_FAR_BACK = (50_193, 50_246)
"""Meshes in which a join told an event from one that is further back than a merge has to read."""


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: what is decided is decided above the engines."""
    return "asyncio"


class FullMesh(Mesh):
    """A mesh in which, besides, stores are replaced by new ones and retired, and requests have ids."""

    def __init__(
        self, engines: list[MemoryEngine], chance: random.Random, stack: AsyncExitStack, clock: ManualClock
    ) -> None:
        super().__init__(engines, chance, stack, clock)
        self.gone: list[str] = []
        self.requests: list[int] = []
        self.retired = 0

    async def request(self, index: int) -> None:
        """Make a request in one of the stores: a new one, or one of the last that this store does not know of."""
        unknown = [each for each in self.requests[-4:] if each not in self.known[index]]
        if unknown and self.chance.random() < 0.7:
            number = self.chance.choice(unknown)
        else:
            number = len(self.changes)
            self.changes.append(Change(count=1 << number))
            self.requests.append(number)
        store = self.stores[index]
        now = await store.get_state(GOVERNOR, "x")
        data = {**now.data, "count": now.data["count"] + self.changes[number].count}
        await store.update_state(GOVERNOR, "x", data, METADATA, expected=now, event_id=f"request {number}")
        self.known[index].add(number)

    async def replace(self, index: int) -> None:
        """A store goes, and a new one is filled from another one."""
        [source] = self.others(index, 1)
        self.gone.append(self.stores[index].store_id)
        self.engines[index] = MemoryEngine(self._clock)
        self.stores[index] = await self._opened(self.engines[index])
        self.known[index] = set()
        await self.sync(source, index)

    async def retire(self, index: int) -> None:
        """A store hears that one that is gone will not write again."""
        if self.gone:
            report = await retire_store(self.stores[index], self.chance.choice(self.gone))
            assert report.complete, report.failed
            self.retired += report.retired

    async def live(self) -> None:
        """Some time in this mesh."""
        for _ in range(STEPS):
            index, act = self.chance.randrange(len(self.stores)), self.chance.random()
            if act < 0.07:
                await self.put_back(index)
            elif act < 0.15:
                await self.replace(index)
            elif act < 0.25:
                await self.retire(index)
            elif act < 0.4:
                await self.change(index)
            elif act < 0.6:
                await self.request(index)
            else:
                await self.sync(index, *self.others(index, 1))


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """A merge reads no more of a stream than it must, as if streams were long."""
    monkeypatch.setattr("tai_state.conflicts.lineages._EVENTS_FIRST", 1)


@pytest.mark.usefixtures("little")
@pytest.mark.parametrize("seed", [*range(RUNS), *TOLD_APART_FAR_BACK])
async def test_a_mesh_with_all_of_it_is_exact(seed: int) -> None:
    """Whoever is put back, replaced, retired or asked twice, and when: nothing is lost, and nothing counts twice."""
    clock = ManualClock(step_us=1_000)
    async with AsyncExitStack() as stack:
        mesh = FullMesh([MemoryEngine(clock) for _ in range(STORES)], random.Random(seed), stack, clock)
        await mesh.open()
        await filled(mesh.stores)
        await mesh.live()
        await mesh.settle()
        for store in mesh.stores:
            report = await StateMachinePersister(store).validate_consistency()
            assert report.consistent, report.findings
