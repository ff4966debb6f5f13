"""The file of an export: compressed where its name says so, and restored to the end whatever came in between."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest

from tai_state import (
    CorruptDocument,
    StateMachinePersister,
    StateStore,
    open_store,
)
from tai_state.testing import AtCalls, Fault, FaultyEngine, ManualClock, MemoryEngine

from ..support.program import Program
from ..support.stores import GOVERNOR, METADATA, dump, make_store

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

STATES = 3
MAGIC = b"\x1f\x8b"


@pytest.fixture
def anyio_backend() -> str:
    """A file is the same under every event loop."""
    return "asyncio"


async def write(store: StateStore) -> None:
    """Some history."""
    for number in range(STATES):
        await store.save_state(GOVERNOR, f"s{number}", {"n": number}, METADATA, event_id=f"made {number}")


async def exported(path: Path) -> None:
    """Export some history to a file."""
    async with open_store("memory://") as store:
        await write(store)
        await StateMachinePersister(store).export_history(GOVERNOR, path)


async def restored(path: Path) -> int:
    """Restore a file into an empty store; how many states there are then."""
    async with open_store("memory://") as store:
        stats = await StateMachinePersister(store).import_history(path)
        assert (await StateMachinePersister(store).validate_consistency()).consistent
        assert stats.states == await store.count_states(GOVERNOR)
        return stats.states


async def test_an_export_is_compressed_where_its_name_says_so(tmp_path: Path):
    """A name that ends in ``.gz`` makes a gzip file, which is restored like the plain one."""
    await exported(tmp_path / "x.jsonl.gz")
    await exported(tmp_path / "x.jsonl")
    written = (tmp_path / "x.jsonl.gz").read_bytes()
    assert written.startswith(MAGIC)
    assert gzip.decompress(written).count(b"\n") == (tmp_path / "x.jsonl").read_bytes().count(b"\n")
    assert await restored(tmp_path / "x.jsonl.gz") == STATES


async def test_a_compressed_export_is_restored(tmp_path: Path):
    """An export that somebody compressed with gzip is restored."""
    await exported(tmp_path / "x.jsonl")
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress((tmp_path / "x.jsonl").read_bytes()))
    assert await restored(tmp_path / "x.jsonl.gz") == STATES


async def test_a_compressed_export_that_breaks_off_is_damaged(tmp_path: Path):
    """A gzip file that was cut is refused as one that is damaged, and nothing is written."""
    await exported(tmp_path / "x.jsonl")
    whole = gzip.compress((tmp_path / "x.jsonl").read_bytes())
    (tmp_path / "x.jsonl.gz").write_bytes(whole[:-20])
    async with open_store("memory://") as store:
        with pytest.raises(CorruptDocument):
            await StateMachinePersister(store).import_history(tmp_path / "x.jsonl.gz")
        assert [each async for each in store.list_governors()] == []


def test_the_commands_compress_alike(tmp_path: Path):
    """``export`` to a name that ends in ``.gz`` and ``restore`` from it work on the command line, too."""
    import anyio

    async def prepare() -> None:
        async with open_store(f"sqlite:///{tmp_path}/a.db") as store:
            await write(store)

    anyio.run(prepare)
    program = Program(tmp_path)
    assert program("export", GOVERNOR, "x.jsonl.gz", "--store", "sqlite:///a.db").code == 0
    assert (tmp_path / "x.jsonl.gz").read_bytes().startswith(MAGIC)
    done = program("restore", "x.jsonl.gz", "--store", "sqlite:///b.db", "--json").json()
    assert done["states"] == STATES


@pytest.mark.parametrize(
    "fault",
    [Fault.CANCELLED_BEFORE, Fault.CANCELLED_AFTER],
    ids=lambda each: each.value,
)
async def test_a_restore_that_was_interrupted_is_completed(tmp_path: Path, fault: Fault):
    """Interrupted at any commit, the last one too, the restore of the same file is completed by running it again."""
    path = tmp_path / "x.jsonl"
    await exported(path)
    clock = ManualClock(step_us=1)
    async with make_store(MemoryEngine(clock), clock) as store:
        stats = await StateMachinePersister(store).import_history(path)
        whole = await dump(store.core.engine)
    number = 2  # the first commit makes the store
    while True:
        faulty = FaultyEngine(MemoryEngine(clock), AtCalls({("commit", number): fault}))
        async with make_store(faulty, clock) as store:
            persister = StateMachinePersister(store)
            with faulty.cancellable():
                await persister.import_history(path)
            if not faulty.statistics().all_hit:
                break
            assert await persister.import_history(path) == stats
            assert await dump(store.core.engine) == whole
        number += 1
    assert number > 3
