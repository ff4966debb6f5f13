"""An export shows one moment of a governor, and one that was damaged since is not restored."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from tai_state import (
    ANY,
    CorruptDocument,
    EveryEvents,
    IncompatibleFormat,
    InvalidData,
    StateMachinePersister,
    StateStore,
    Transaction,
    open_store,
)
from tai_state.engines.api import Engine
from tai_state.testing import ManualClock, MemoryEngine

from ..support.overtaking import InSmallPages
from ..support.stores import GOVERNOR, METADATA, collected, edit, make_store

ACCOUNTS = ("a", "b", "c")
STRIDE = 149
"""Between the bits that are flipped; a prime, so that every place in a byte comes up."""


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: what is checked is checked above the engines."""
    return "asyncio"


class Between(InSmallPages):
    """Lets something happen right after one of its reads, or right before one of its pages of two documents.

    Attributes:
        calls: so far.
    """

    def __init__(self, engine: Engine, at_call: int, happen: Callable[[], Awaitable[Any]]) -> None:
        super().__init__(engine, lambda *_: self._step())
        self.calls = 0
        self._at_call = at_call
        self._happen = happen

    async def read(self, paths: Sequence[str]) -> Any:  # noqa: D102
        reading = await self._engine.read(paths)
        await self._step()
        return reading

    async def _step(self) -> None:
        self.calls += 1
        if self.calls == self._at_call:
            await self._happen()


async def transfer(store: StateStore) -> None:
    """Move money from the account that is exported first to the last."""
    first, last = store.state(GOVERNOR, ACCOUNTS[0]), store.state(GOVERNOR, ACCOUNTS[-1])

    async def move(transaction: Transaction) -> None:
        one, other = await transaction.get_all(first, last)
        assert one is not None
        assert other is not None
        transaction.put(first, {"n": one.data["n"] - 1})
        transaction.put(last, {"n": other.data["n"] + 1})

    await store.transact(move, METADATA)


async def total_of(path: Path) -> int:
    """What the accounts of an export hold together once it is restored."""
    async with open_store("memory://") as store:
        await StateMachinePersister(store).import_history(path)
        return sum([state.data["n"] async for state in store.list_states(GOVERNOR)])


async def exported_with_a_transfer(path: Path, at_call: int) -> bool:
    """Export three accounts, with a transfer in the middle; whether the export was not over before it."""
    clock = ManualClock(step_us=1)
    engine = MemoryEngine(clock)
    async with open_store(engine, clock=clock) as store:
        for account in ACCOUNTS:
            await store.save_state(GOVERNOR, account, {"n": 100}, METADATA)

        async def happen() -> None:
            await transfer(store)

        async with open_store(Between(engine.beside(), 0, happen), clock=clock) as watched:  # type: ignore[arg-type]
            between: Any = watched.core.engine
            between._at_call = between.calls + at_call
            await StateMachinePersister(watched).export_history(GOVERNOR, path)
            return between.calls >= between._at_call


@pytest.mark.anyio
async def test_an_export_shows_one_moment(tmp_path: Path) -> None:
    """Whenever a transfer comes in between, the accounts of a restored export hold together what they always did."""
    totals = []
    while await exported_with_a_transfer(tmp_path / "x", len(totals) + 1):
        totals.append(await total_of(tmp_path / "x"))
    assert len(totals) > 3
    assert set(totals) == {300}


async def write_small_export(path: Path) -> None:
    """Export a state with events, markers and kept snapshots."""
    async with open_store("memory://", snapshots=EveryEvents(2)) as store:
        for n in range(3):
            await store.save_state(GOVERNOR, "a", {"n": n}, METADATA, expected=ANY, event_id=f"id-{n}")
        await StateMachinePersister(store).export_history(GOVERNOR, path)


async def is_refused(path: Path) -> bool:
    """Whether a restore of a file is refused; then nothing of it is in the store."""
    async with open_store("memory://") as store:
        try:
            await StateMachinePersister(store).import_history(path)
        except (CorruptDocument, InvalidData, IncompatibleFormat):
            assert await collected(store.list_governors()) == []
            return True
    return False


@pytest.mark.parametrize(
    ("kind", "written", "damaged"),
    [
        ("state", b'"changed_by":"tester"', b'"changed_by":"taster"'),
        ("state", b'"timestamp":"2', b'"timestamp":"9'),
        ("marker", b'"version":1', b'"version":2'),
        ("snapshot", b'"as_of":"2', b'"as_of":"9'),
        ("governor", b'"created_at":"2', b'"created_at":"9'),
    ],
)
def test_an_edited_export_is_not_restored(tmp_path: Path, kind: str, written: bytes, damaged: bytes) -> None:
    """A field of any line that was changed in the file is noticed before anything is written."""
    path = tmp_path / "x"
    anyio.run(write_small_export, path)
    whole = path.read_bytes()
    line = next(line for line in whole.splitlines() if f'"kind":"{kind}"'.encode() in line)
    assert written in line
    path.write_bytes(whole.replace(line, line.replace(written, damaged)))
    assert anyio.run(is_refused, path)


def test_an_export_with_a_flipped_bit_is_not_restored(tmp_path: Path) -> None:
    """Wherever one bit of the file is flipped, the restore is refused before anything is written."""
    path = tmp_path / "x"
    anyio.run(write_small_export, path)
    whole = path.read_bytes()
    restored = []
    for bit in range(0, 8 * len(whole), STRIDE):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        if not anyio.run(is_refused, path):
            restored.append(whole[max(bit // 8 - 20, 0) : bit // 8 + 1])
    assert restored == []


@pytest.mark.anyio
async def test_a_marker_of_no_state_is_not_exported(tmp_path: Path, clock: ManualClock) -> None:
    """A restore could not write it, and would stay unfinished for ever."""
    async with make_store(MemoryEngine(clock), clock) as store:
        await store.save_state(GOVERNOR, "a", {}, METADATA, event_id="mine")
        await edit(store.core.engine, f"governors/{GOVERNOR}/ids/mine", state_id="")
        with pytest.raises(CorruptDocument, match="recover"):
            await StateMachinePersister(store).export_history(GOVERNOR, tmp_path / "export.jsonl")
        assert f"governors/{GOVERNOR}/ids/mine" in (await StateMachinePersister(store).recover()).rebuilt
        await StateMachinePersister(store).export_history(GOVERNOR, tmp_path / "export.jsonl")
