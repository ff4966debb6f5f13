"""What a watch of states reads when it begins: the states that there are, at once."""

from __future__ import annotations

import pytest

from tai_state.engines.memory import MemoryEngine
from tai_state.testing import ManualClock

from ..support.stores import GOVERNOR, METADATA, CountingEngine, make_store

pytestmark = pytest.mark.anyio

STATES = 50


@pytest.mark.parametrize("is_named", [False, True], ids=["governor", "states"])
async def test_a_watch_reads_what_is_there_at_once(clock: ManualClock, is_named: bool):  # noqa: FBT001
    """The states that there are when a watch begins are read by one call, each once."""
    counting = CountingEngine(MemoryEngine(clock))
    ids = [f"s{n}" for n in range(STATES)]
    async with make_store(counting, clock) as store:
        for state_id in ids:
            await store.save_state(GOVERNOR, state_id, {}, METADATA)
        counting.reset()
        async with store.watch(GOVERNOR, *(ids if is_named else ())) as changes:
            told = [(await anext(changes)).state_id for _ in range(STATES)]
    assert sorted(told) == sorted(ids)
    assert counting.counts.reads + counting.counts.scans == 1
    assert counting.counts.documents == STATES
