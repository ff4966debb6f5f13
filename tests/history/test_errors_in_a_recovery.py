"""Errors in the middle of a recovery: one of a reducer stops no other state, any other one comes out as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tai_state import NewEvent, StateMachinePersister, StoreUnavailable
from tai_state.engines.api import ANYTHING, Delete, Engine
from tai_state.testing import ManualClock, MemoryEngine

from ..support.stores import GOVERNOR, METADATA, AroundEngine, make_store

pytestmark = pytest.mark.anyio

STATES = "abcdef"
BROKEN = "c"


class Failing(AroundEngine):
    """An engine that fails each read of one document, once it is told to."""

    def __init__(self, engine: Engine, path: str, error: Exception) -> None:
        super().__init__(engine)
        self.fails = False
        self._path = path
        self._error = error

    async def read(self, paths: Sequence[str]) -> Any:  # noqa: D102
        if self.fails and self._path in paths:
            raise self._error
        return await self._engine.read(paths)


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: what is tested is above it."""
    return "asyncio"


def add(state: dict[str, Any] | None, event: Any) -> dict[str, Any]:
    """The sum of what was added."""
    return {"n": (state or {"n": 0})["n"] + event.payload}


def add_but(state: dict[str, Any] | None, event: Any) -> dict[str, Any]:
    """The same, with an error for one state."""
    if event.state_id == BROKEN:
        raise ZeroDivisionError("the application's own")
    return add(state, event)


@pytest.mark.parametrize("concurrency", [1, 2, 8])
async def test_recover_goes_on_after_an_error_of_a_reducer(clock: ManualClock, concurrency: int):
    """All other states are rebuilt, and the report names the state and the error."""
    async with make_store(MemoryEngine(clock), clock) as store:
        persister = StateMachinePersister(store, {"add": add})
        for state in STATES:
            await persister.record(GOVERNOR, state, [NewEvent("add", 1)] * 2, METADATA, expected=0)
        paths = [f"governors/{GOVERNOR}/states/{state}" for state in STATES]
        await store.core.engine.commit([Delete(path, ANYTHING) for path in paths])
        report = await StateMachinePersister(store, {"add": add_but}).recover(concurrency=concurrency)
        assert len(report.rebuilt) == len(STATES) - 1
        [(path, why)] = report.failed
        assert path == f"governors/{GOVERNOR}/events/{BROKEN}~000000000001"
        assert "ZeroDivisionError" in why


@pytest.mark.parametrize("error", [StoreUnavailable("read", "TEST"), RuntimeError("the engine's own")], ids=repr)
async def test_recover_ends_with_an_error_that_is_no_states(clock: ManualClock, error: Exception):
    """What is not about one state comes out as it is, and in no group."""
    engine: Any = Failing(MemoryEngine(clock), f"governors/{GOVERNOR}/states/{BROKEN}", error)
    async with make_store(engine, clock) as store:
        for state in STATES:
            await store.save_state(GOVERNOR, state, {"n": 1}, METADATA)
        engine.fails = True
        with pytest.raises(type(error)) as raised:
            await StateMachinePersister(store).recover()
        assert raised.value is error
