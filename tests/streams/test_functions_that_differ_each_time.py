"""A caller's function that gives something else each time, as one that reads a clock, and an answer that is lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import pytest

from tai_state import EXISTS, NewEvent, StateMachinePersister, StateStore, Transaction, TransactionManager
from tai_state.testing import AtCalls, Fault, FaultyEngine, ManualClock, MemoryEngine

from ..support.stores import GOVERNOR, METADATA, collected, make_store

pytestmark = pytest.mark.anyio

Function = Callable[[dict[str, Any]], dict[str, Any]]
Change = Callable[[StateStore, Function], Awaitable[Any]]


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: all of it is decided above the engines."""
    return "asyncio"


async def _update(store: StateStore, function: Function) -> None:
    await store.state(GOVERNOR, "alice").update(function, METADATA)


async def _update_a_version(store: StateStore, function: Function) -> None:
    await store.state(GOVERNOR, "alice").update(function, METADATA, expected=1)


async def _record(store: StateStore, function: Function) -> None:
    persister = StateMachinePersister(store, {"add": lambda data, _: function(data or {})})
    [event] = await persister.record(GOVERNOR, "alice", [NewEvent("add")], METADATA, expected=EXISTS)
    assert event.to_state == {"n": 10, "run": 1}


async def _transact(store: StateStore, function: Function) -> None:
    async def body(transaction: Transaction) -> None:
        transaction.record(store.state(GOVERNOR, "alice"), [NewEvent("add")])

    await TransactionManager(store, {"add": lambda data, _: function(data or {})}).transact(body, METADATA)


@pytest.mark.parametrize("fault", [Fault.DELAYED, Fault.LOST_BEFORE, Fault.LOST_AFTER, Fault.DUPLICATED])
@pytest.mark.parametrize("delay", [1, 2, 3])
@pytest.mark.parametrize("change", [_update, _update_a_version, _record, _transact])
async def test_it_is_asked_once(clock: ManualClock, change: Change, fault: Fault, delay: int):
    """The change is made once, and succeeds, whenever its first commit arrives; the function runs once."""
    engine = FaultyEngine(MemoryEngine(clock), AtCalls({("commit", 3): fault}), delay_calls=delay)
    runs = count(1)

    def add_ten(data: dict[str, Any]) -> dict[str, Any]:
        return {"n": data["n"] + 10, "run": next(runs)}

    async with make_store(engine, clock) as store:
        await store.save_state(GOVERNOR, "alice", {"n": 0}, METADATA)
        await change(store, add_ten)
        await engine.settle()
        assert engine.statistics().all_hit
        assert (await store.get_state(GOVERNOR, "alice")).data == {"n": 10, "run": 1}
        assert [event.version for event in await collected(store.get_events(GOVERNOR, "alice"))] == [1, 2]
        assert next(runs) == 2
