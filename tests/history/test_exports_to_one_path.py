"""Two exports to one path at the same time: each has its own file until it is whole."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from tai_state import StateMachinePersister, StoreUnavailable, TaiStateError, TransferStats
from tai_state.engines.api import Document, Engine, Scan
from tai_state.engines.memory import MemoryEngine
from tai_state.engines.paging import Paged
from tai_state.testing import ManualClock

from ..support.stores import GOVERNOR, METADATA, AroundEngine, make_store

pytestmark = pytest.mark.anyio

STATES = f"governors/{GOVERNOR}/states"


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: the file is the same."""
    return "asyncio"


class Gated(AroundEngine):
    """Holds back whoever scans the states, until the gate is opened; or fails them.

    Attributes:
        reached: set once somebody is held back.
        gate: lets them go on.
    """

    def __init__(self, engine: Engine, error: Exception | None = None) -> None:
        super().__init__(engine)
        self.reached = anyio.Event()
        self.gate = anyio.Event()
        self._error = error

    def scan(self, scan: Scan) -> Paged[Document]:  # noqa: D102
        documents = self._engine.scan(scan)

        async def fetch() -> list[Document] | None:
            if scan.collection == STATES:
                self.reached.set()
                await self.gate.wait()
                if self._error is not None:
                    raise self._error
            return await documents.page()

        return Paged(fetch)


def names_in(folder: Path) -> list[str]:
    """The files of a folder."""
    return [each.name for each in folder.iterdir()]


async def restored(path: Path) -> int:
    """The version of the state in an export, restored into an empty store; 0 where it cannot be."""
    clock = ManualClock()
    async with make_store(MemoryEngine(clock), clock) as store:
        try:
            await StateMachinePersister(store).import_history(path)
        except TaiStateError:
            return 0
        return (await store.get_state(GOVERNOR, "s")).version


async def export(engine: Engine, clock: ManualClock, path: Path) -> TransferStats | TaiStateError | OSError:
    """What an export by a process of its own gives."""
    async with make_store(engine, clock) as store:
        try:
            return await StateMachinePersister(store).export_history(GOVERNOR, path)
        except (TaiStateError, OSError) as error:
            return error


@pytest.mark.parametrize("second", ["ends well", "fails"])
async def test_exports_to_one_path(tmp_path: Path, clock: ManualClock, second: str):
    """While one export is under way another ends: the file is whole at each moment, and nobody is told wrong."""
    path = tmp_path / "backup.jsonl"
    engine = MemoryEngine(clock)
    done: dict[str, TransferStats | TaiStateError | OSError] = {}

    async with make_store(engine, clock) as store:
        await store.save_state(GOVERNOR, "s", {"n": 1}, METADATA)
        await StateMachinePersister(store).export_history(GOVERNOR, path)
        await store.save_state(GOVERNOR, "s", {"n": 2}, METADATA, expected=1)
        slow = Gated(engine.beside())
        quick = Gated(engine.beside(), StoreUnavailable("read", "TEST") if second == "fails" else None)
        quick.gate.set()

        async def first() -> None:
            done["first"] = await export(slow, clock, path)  # type: ignore[arg-type]

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(first)
                await slow.reached.wait()
                done["second"] = await export(quick, clock, path)  # type: ignore[arg-type]
                assert await restored(path) == (2 if isinstance(done["second"], TransferStats) else 1)
                slow.gate.set()
    assert not [error for error in done.values() if isinstance(error, OSError)]
    assert second == "ends well" or isinstance(done["second"], TaiStateError)
    assert any(isinstance(each, TransferStats) for each in done.values())
    assert await restored(path) == 2
    assert names_in(tmp_path) == [path.name]


async def test_an_export_that_fails_leaves_the_earlier_one(tmp_path: Path, clock: ManualClock):
    """The file of before stays as it is until the new one is whole, and nothing is left beside it."""
    path = tmp_path / "backup.jsonl"
    engine = MemoryEngine(clock)
    async with make_store(engine, clock) as store:
        await store.save_state(GOVERNOR, "s", {"n": 1}, METADATA)
        await StateMachinePersister(store).export_history(GOVERNOR, path)
        before = path.read_bytes()
        failing = Gated(engine.beside(), StoreUnavailable("read", "TEST"))
        failing.gate.set()
        assert isinstance(await export(failing, clock, path), StoreUnavailable)  # type: ignore[arg-type]
    assert path.read_bytes() == before
    assert names_in(tmp_path) == [path.name]
