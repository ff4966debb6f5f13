"""What fails in one of several tasks comes out of a call as the error that it is, and in no group."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import pytest

from tai_state import Custom, StateMachinePersister, StateStore, sync
from tai_state.engines.memory import MemoryEngine
from tai_state.errors import Unavailable
from tai_state.testing import Fault, FaultyEngine, ManualClock
from tai_state.testing.faults import Call

from ..support.stores import GOVERNOR, METADATA, make_store

pytestmark = pytest.mark.anyio


class Down:
    """No read is answered, from a moment on."""

    def __init__(self) -> None:
        self.planned = 0
        self.is_down = False

    def fault(self, call: Call) -> Fault | None:
        """See the plans of ``tai_state.testing``."""
        return Fault.UNAVAILABLE if self.is_down and call.verb == "read" else None


class Pair(NamedTuple):
    """Two stores with one state in common, and another in the first; the first one's engine can be down."""

    first: StateStore
    second: StateStore
    plan: Down


@pytest.fixture
async def pair(clock: ManualClock) -> AsyncIterator[Pair]:
    """Such stores, open; they give up soon."""
    plan = Down()
    faulty = FaultyEngine(MemoryEngine(clock), plan)
    options = {"timeout_seconds": 0.1}
    async with make_store(faulty, clock, **options) as first, make_store(MemoryEngine(clock), clock) as second:
        await first.save_state(GOVERNOR, "s", {"x": 1}, METADATA)
        await sync(first, second)
        await first.save_state(GOVERNOR, "t", {"x": 1}, METADATA)
        yield Pair(first, second, plan)


async def _sync(pair: Pair) -> Any:
    return await sync(pair.first, pair.second)


async def _sync_back(pair: Pair) -> Any:
    return await sync(pair.second, pair.first)


async def _verify(pair: Pair) -> Any:
    return await StateMachinePersister(pair.first).validate_consistency()


async def _recover(pair: Pair) -> Any:
    return await pair.first.recover()


GROUP = pytest.mark.xfail(strict=True, raises=ExceptionGroup, reason="what fails while syncing comes out as a group")


@pytest.mark.parametrize(
    "operation",
    [pytest.param(_sync, marks=GROUP), pytest.param(_sync_back, marks=GROUP), _verify, _recover],
)
async def test_a_failing_engine_is_told_as_itself(pair: Pair, operation: Callable[[Pair], Awaitable[Any]]):
    """Operations on many states at once raise the engine's error, so that ``except StoreUnavailable`` works."""
    pair.plan.is_down = True
    with pytest.raises(Unavailable):
        await operation(pair)


@GROUP
async def test_a_resolvers_own_error_is_told_as_itself(pair: Pair):
    """What a caller's resolver raises comes out of the sync as it is."""

    def refuse(*_: Any) -> Any:
        raise ZeroDivisionError

    await pair.first.update_state(GOVERNOR, "s", {"x": 2}, METADATA, expected=1)
    await pair.second.update_state(GOVERNOR, "s", {"x": 3}, METADATA, expected=1)
    with pytest.raises(ZeroDivisionError):
        await sync(pair.first, pair.second, resolver=Custom(refuse))
