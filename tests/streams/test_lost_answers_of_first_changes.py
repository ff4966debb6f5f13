"""The first change under a governor, the answer to whose own document is lost: looked after as any other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from tai_state import (
    NO_STATE,
    NewEvent,
    StateMachinePersister,
    StateSnapshot,
    StateStore,
    StoreTimeout,
    Transaction,
)
from tai_state.engines.api import Engine, Write
from tai_state.engines.memory import MemoryEngine
from tai_state.testing import ManualClock

from ..support.operations import REDUCERS
from ..support.stores import GOVERNOR, METADATA, AroundEngine, collected, make_store

pytestmark = pytest.mark.anyio

Change = Callable[[StateStore], Awaitable[Any]]


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: all of it is decided above the engines."""
    return "asyncio"


class Losing(AroundEngine):
    """Loses the answer to the first commit that writes a governor's own document.

    Attributes:
        is_lost: whether that happened.
    """

    def __init__(self, engine: Engine, fate: str) -> None:
        super().__init__(engine)
        self.is_lost = False
        self._fate = fate

    async def commit(self, writes: Sequence[Write]) -> Any:  # noqa: D102
        if self.is_lost or all(write.path != f"governors/{GOVERNOR}" for write in writes):
            return await self._engine.commit(writes)
        self.is_lost = True
        if self._fate == "applied":
            await self._engine.commit(writes)
        raise StoreTimeout("commit", "TEST", unknown=True)


async def _save(store: StateStore) -> None:
    await store.save_state(GOVERNOR, "s", {"n": 1}, METADATA)


async def _record(store: StateStore) -> None:
    persister = StateMachinePersister(store, REDUCERS)
    await persister.record(GOVERNOR, "s", [NewEvent("add", 1)], METADATA, expected=NO_STATE)


async def _transition(store: StateStore) -> None:
    state = StateSnapshot.unsaved(GOVERNOR, "s", {"n": 1})
    await StateMachinePersister(store).log_transition(GOVERNOR, None, state, "open", METADATA)


async def _transact(store: StateStore) -> None:
    async def function(transaction: Transaction) -> None:
        transaction.put(store.state(GOVERNOR, "s"), {"n": 1})

    await store.transact(function, METADATA)


@pytest.mark.parametrize("change", [_save, _record, _transition, _transact])
@pytest.mark.parametrize("fate", ["applied", "never arrived"])
async def test_the_first_change_is_made_once(clock: ManualClock, change: Change, fate: str):
    """Whether the commit arrived or not, the change and its governor are there, and the caller is told so."""
    engine = Losing(MemoryEngine(clock), fate)
    async with make_store(engine, clock) as store:  # type: ignore[arg-type]
        await change(store)
        assert engine.is_lost
        assert [event.version for event in await collected(store.get_events(GOVERNOR, "s"))] == [1]
        assert (await store.get_state(GOVERNOR, "s")).data == {"n": 1}
        assert await collected(store.list_governors()) == [GOVERNOR]
