"""What a caller's resolver raises."""

from __future__ import annotations

from typing import Any

import pytest

from tai_state import Custom, sync
from tai_state.engines.memory import MemoryEngine
from tai_state.testing import ManualClock

from ..support.stores import GOVERNOR, METADATA, make_store

pytestmark = pytest.mark.anyio


async def test_a_resolvers_own_error_is_told_as_itself(clock: ManualClock):
    """What a resolver raises comes out of the sync as it is, and in no group; all other states are synced."""

    def refuse(*_: Any) -> Any:
        raise ZeroDivisionError

    async with make_store(MemoryEngine(clock), clock) as first, make_store(MemoryEngine(clock), clock) as second:
        await first.save_state(GOVERNOR, "s", {"x": 1}, METADATA)
        await sync(first, second)
        await first.update_state(GOVERNOR, "s", {"x": 2}, METADATA, expected=1)
        await second.update_state(GOVERNOR, "s", {"x": 3}, METADATA, expected=1)
        for number in range(20):
            await first.save_state(GOVERNOR, f"t{number}", {"x": number}, METADATA)
        with pytest.raises(ZeroDivisionError) as raised:
            await sync(first, second, resolver=Custom(refuse))
        assert raised.value.__notes__ == [f"while syncing {GOVERNOR} s"]
        assert await second.count_states(GOVERNOR) == 21
