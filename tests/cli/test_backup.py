"""A backup by the program, so that nobody needs another library for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tai_state import open_store

from ..support.program import Program
from ..support.stores import GOVERNOR, METADATA, collected

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: the program has its own."""
    return "asyncio"


@pytest.mark.xfail(strict=True, reason="there is no such command", raises=AssertionError)
async def test_a_backup_opens_as_a_store(tmp_path: Path):
    """What was acknowledged before a backup is in it, while a service goes on writing and loses nothing."""
    async with open_store(f"sqlite:///{tmp_path}/tai-state.db") as store:
        await store.save_state(GOVERNOR, "before", {"n": 1}, METADATA)
        done = Program(tmp_path)("backup", "copy.db", "--json")
        assert (done.code, done.err) == (0, "")
        await store.save_state(GOVERNOR, "after", {"n": 2}, METADATA)
    async with open_store(f"sqlite:///{tmp_path}/copy.db", create=False) as backup:
        assert {state.state_id: state.data for state in await collected(backup.list_states(GOVERNOR))} == {
            "before": {"n": 1}
        }
    async with open_store(f"sqlite:///{tmp_path}/tai-state.db") as store:
        assert await store.count_states(GOVERNOR) == 2
