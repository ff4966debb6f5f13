"""Transactions that expect a version: what the function says it expects is not waited for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tai_state import EXISTS, NO_STATE, StateNotFound, StateStore, VersionConflict
from tai_state.testing import ManualClock, MemoryEngine

from ..support.stores import METADATA, make_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tai_state import Transaction

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """What cannot hold does not depend on the event loop."""
    return "asyncio"


@pytest.fixture
async def store() -> AsyncIterator[StateStore]:
    """A store with a state at version 2, which gives up soon."""
    clock = ManualClock(step_us=1)
    async with make_store(MemoryEngine(clock), clock, timeout_seconds=0.05) as store:
        for version in range(2):
            await store.save_state("g", "s", {"n": version}, METADATA, expected=version)
        yield store


@pytest.mark.parametrize("reads", [False, True], ids=["blind", "read_before"])
@pytest.mark.parametrize("writes", ["put", "delete"])
@pytest.mark.parametrize("expected", [1, 7, NO_STATE], ids=["passed", "not_reached", "no_state"])
async def test_a_wrong_expectation_is_told_at_once(store: StateStore, expected: Any, writes: str, reads: bool):  # noqa: FBT001
    """The function runs once, and its caller is told what stands in place of what it expected."""
    runs = 0

    async def function(transaction: Transaction) -> None:
        nonlocal runs
        runs += 1
        state = store.state("g", "s")
        if reads:
            await transaction.get(state)
        if writes == "put":
            transaction.put(state, {"n": 9}, expected=expected)
        else:
            transaction.delete(state, expected=expected)

    with pytest.raises(VersionConflict) as told:
        await store.transact(function, METADATA)
    assert told.value.actual == 2
    assert runs == 1
    assert (await store.get_state("g", "s")).version == 2


async def test_a_state_that_is_not_there_is_told_at_once(store: StateStore):
    """The same of a state that must be there and is not."""
    runs = 0

    async def function(transaction: Transaction) -> None:
        nonlocal runs
        runs += 1
        transaction.put(store.state("g", "other"), {}, expected=EXISTS)

    with pytest.raises(StateNotFound):
        await store.transact(function, METADATA)
    assert runs == 1


async def test_what_was_read_is_tried_again(store: StateStore):
    """A state that moved since it was read is read again: that expectation was not the caller's."""
    runs = 0

    async def function(transaction: Transaction) -> None:
        nonlocal runs
        runs += 1
        state = await transaction.get(store.state("g", "s"))
        if runs == 1:
            await store.update_state("g", "s", {"n": 5}, METADATA, expected=2)
        transaction.put(store.state("g", "s"), {"n": state.data["n"] + 1})

    await store.transact(function, METADATA)
    assert runs == 2
    assert (await store.get_state("g", "s")).data == {"n": 6}
