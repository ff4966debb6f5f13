"""A file is checked, and then it is used: whatever becomes of it in between, nothing unchecked is written."""

from __future__ import annotations

import gzip
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tai_state import (
    ANY,
    Columns,
    GovernorNotFound,
    InvalidData,
    StateMachinePersister,
    StateStore,
)
from tai_state.engines.api import Write
from tai_state.engines.memory import MemoryEngine
from tai_state.testing import ManualClock

from ..support.stores import GOVERNOR, METADATA, AroundEngine, Killed, dump, make_store

pytestmark = pytest.mark.anyio

COLUMNS = Columns("machine", ("state",), "time")
_NOISE = random.Random(1)
CSV = "machine,time,state\n" + "".join(f"m{n % 3},2026-01-01,s{_NOISE.randbytes(750).hex()}\n" for n in range(2_000))


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: all of it is decided above the engines."""
    return "asyncio"


class Meanwhile(AroundEngine):
    """Lets something happen right before the first commit that writes a document of this kind."""

    def __init__(self, engine: Any, kind: str, act: Callable[[], object]) -> None:
        super().__init__(engine)
        self._kind = kind
        self._act: Callable[[], object] | None = act

    async def commit(self, writes: Sequence[Write]) -> Any:  # noqa: D102
        if self._act is not None and any(self._kind in each.path for each in writes):
            self._act()
            self._act = None
        return await self._engine.commit(writes)


@pytest.fixture(params=["export.jsonl", "export.jsonl.gz"])
async def export(tmp_path: Path, clock: ManualClock, request: pytest.FixtureRequest) -> Path:
    """The export of a governor that fits into one commit, and beside it that of another governor: ``other``."""
    for name, governor in ((request.param, GOVERNOR), ("other" + request.param, "plant")):
        async with make_store(MemoryEngine(clock), clock) as store:
            for state in "abcd":
                for n in range(3):
                    await store.save_state(governor, state, {"n": n}, METADATA, expected=ANY)
            await StateMachinePersister(store).export_history(governor, tmp_path / name)
    return tmp_path / request.param


def _other(file: Path) -> Path:
    return file.with_name("other" + file.name)


def _replaced(file: Path) -> None:
    _other(file).replace(file)


def _removed(file: Path) -> None:
    file.unlink()


def _overwritten(file: Path) -> None:
    file.write_bytes(_other(file).read_bytes())


def _cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-300])


def _cut_between_lines(file: Path) -> None:
    if file.suffix == ".gz":
        file.write_bytes(gzip.compress(b"".join(gzip.decompress(file.read_bytes()).splitlines(keepends=True)[:5])))
    else:
        file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:5]))


def _longer(file: Path) -> None:
    file.write_bytes(file.read_bytes() + _other(file).read_bytes())


def _store(clock: ManualClock, kind: str, act: Callable[[], object]) -> StateStore:
    engine: Any = Meanwhile(MemoryEngine(clock), kind, act)
    return make_store(engine, clock)


@pytest.mark.parametrize("change", [_replaced, _removed])
async def test_a_file_that_is_replaced_is_read_on(export: Path, clock: ManualClock, change: Callable[[Path], None]):
    """The restore writes what it has checked, whatever stands at the path by now."""
    async with make_store(MemoryEngine(clock), clock) as sound:
        await StateMachinePersister(sound).import_history(export)
        there = await dump(sound.core.engine)
    async with _store(clock, "/restores/", lambda: change(export)) as store:
        assert (await StateMachinePersister(store).import_history(export)).states == 4
        assert await dump(store.core.engine) == there
        assert [each async for each in store.list_governors()] == [GOVERNOR]


@pytest.mark.parametrize("change", [_overwritten, _cut_off, _cut_between_lines, _longer])
async def test_a_file_that_is_overwritten_is_refused(export: Path, clock: ManualClock, change: Callable[[Path], None]):
    """Nothing of what was not checked is written; if nothing was written before, the governor is not there."""
    async with _store(clock, "/restores/", lambda: change(export)) as store:
        persister = StateMachinePersister(store)
        with pytest.raises(InvalidData, match="was changed"):
            await persister.import_history(export)
        assert [each async for each in store.list_governors()] == []
        with pytest.raises(GovernorNotFound):
            await persister.recover(GOVERNOR)


async def test_a_part_of_a_file_is_not_the_whole(tmp_path: Path, clock: ManualClock):
    """A file of several mebibytes is cut off while its beginning is written: the restore is unfinished, and says so."""
    file = tmp_path / "export.jsonl"
    async with make_store(MemoryEngine(clock), clock) as store:
        for n in range(40):
            await store.save_state(GOVERNOR, f"s{n:02}", {"text": "x" * 100_000}, METADATA)
        await StateMachinePersister(store).export_history(GOVERNOR, file)
    whole = file.read_bytes()
    async with _store(clock, "/events/", lambda: file.write_bytes(whole[:-200_000])) as store:
        persister = StateMachinePersister(store)
        with pytest.raises(InvalidData, match="was changed"):
            await persister.import_history(file)
        assert [each.kind for each in (await persister.validate_consistency()).findings] == ["restore"]
        file.write_bytes(whole)
        assert (await persister.import_history(file)).states == 40
        assert (await persister.validate_consistency()).findings == ()


async def test_a_pipe_is_refused(clock: ManualClock):
    """It can be read only once, and so it cannot be checked first."""
    reading, writing = os.pipe()
    os.close(writing)
    async with make_store(MemoryEngine(clock), clock) as store:
        with pytest.raises(InvalidData, match="cannot be read"):
            await StateMachinePersister(store).import_history(f"/dev/fd/{reading}")
    os.close(reading)


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz"])
@pytest.mark.parametrize("is_replaced", [True, False])
async def test_a_log_that_changes_is_not_mixed_with_another(
    tmp_path: Path, clock: ManualClock, name: str, *, is_replaced: bool
):
    """Every row that is recorded is one of the file that was checked."""
    file, other = tmp_path / name, tmp_path / f"other-{name}"
    packed = gzip.compress if name.endswith(".gz") else bytes
    file.write_bytes(packed(CSV.encode()))
    other.write_bytes(packed(CSV.replace(",s", ",t").encode()))
    change = (lambda: other.replace(file)) if is_replaced else (lambda: file.write_bytes(other.read_bytes()))
    engine: Any = Killed(MemoryEngine(clock), "nothing")
    async with make_store(engine, clock) as store:
        persister, told = StateMachinePersister(store), list[int]()

        async def acknowledged(_: object) -> None:
            if not told:
                change()
            told.append(1)

        if is_replaced:
            assert (await persister.import_csv("g", file, COLUMNS, acknowledged)).events == 2_000
        else:
            with pytest.raises(InvalidData, match="was changed"):
                await persister.import_csv("g", file, COLUMNS, acknowledged)
        states = [str(each.data["state"]) async for each in store.list_states("g")]
        assert all(each.startswith("s") for each in states)
