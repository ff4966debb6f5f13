"""A store that is put back to a backup, after others were made from its export: no change is taken for another one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tai_state import FieldMerge, StateMachinePersister, StateStore, open_store, sync
from tai_state.engines.memory import MemoryDocuments
from tai_state.testing import ManualClock, MemoryEngine

from ..support.stores import GOVERNOR, METADATA

pytestmark = pytest.mark.anyio

RULE = FieldMerge({"n": "counter"})


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: what is decided is decided above the engines."""
    return "asyncio"


@pytest.fixture
async def others(clock: ManualClock) -> AsyncIterator[list[StateStore]]:
    """Three empty stores."""
    async with (
        open_store(MemoryEngine(clock), clock=clock) as one,
        open_store(MemoryEngine(clock), clock=clock) as other,
        open_store(MemoryEngine(clock), clock=clock) as third,
    ):
        yield [one, other, third]


async def add(store: StateStore, step: int) -> None:
    """Count further."""
    now = await store.get_state(GOVERNOR, "x")
    await store.update_state(GOVERNOR, "x", {"n": now.data["n"] + step}, METADATA, expected=now)


@pytest.mark.parametrize("is_exported", [False, True], ids=["synced", "made from an export"])
async def test_a_count_that_is_used_again_is_noticed(
    clock: ManualClock, others: list[StateStore], tmp_path: Path, *, is_exported: bool
) -> None:
    """A change after a backup was put back has the count of one that is known elsewhere: both count."""
    witness, new, third = others
    documents = MemoryDocuments()
    async with open_store(MemoryEngine(clock, documents), clock=clock) as store:
        await store.save_state(GOVERNOR, "x", {"n": 0}, METADATA)
        await sync(store, witness)
    backup = dict(documents._documents)
    async with open_store(MemoryEngine(clock, documents), clock=clock) as store:
        await add(store, 1)
        if is_exported:
            path = tmp_path / "store.jsonl"
            await StateMachinePersister(store).export_history(GOVERNOR, path)
            await StateMachinePersister(new).import_history(path)
        else:
            await sync(store, new)
        await sync(new, third)
    for path in documents._documents.keys() - backup.keys():
        documents.set(path, None)
    for path, document in backup.items():
        documents.set(path, document)
    async with open_store(MemoryEngine(clock, documents), clock=clock) as store:
        await add(witness, 10)
        await sync(store, witness)
        await add(store, 100)
        assert (await sync(store, third, resolver=RULE)).complete
        for each in (store, third):
            assert (await each.get_state(GOVERNOR, "x")).data == {"n": 111}
        assert (await sync(store, new, resolver=RULE)).complete
        assert (await new.get_state(GOVERNOR, "x")).data == {"n": 111}
