"""Transactions that expect a version: what the function says it expects is not waited for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tai_state import (
    ANY,
    EXISTS,
    NO_STATE,
    NewEvent,
    StateNotFound,
    StateStore,
    TransactionManager,
    VersionConflict,
)
from tai_state.testing import ManualClock, MemoryEngine

from ..support.stores import METADATA, make_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

    from tai_state import Transaction

pytestmark = pytest.mark.anyio

STATE = "governors/g/states/s"


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


@pytest.mark.parametrize("expected", [1, NO_STATE, 0])
async def test_a_conflict_tells_what_was_not_seen(store: StateStore, expected: Any):
    """Whether the state was read or not, the conflict has the events that the caller had not seen."""
    alike: list[list[int]] = []
    for reads in (False, True):

        async def function(transaction: Transaction, reads: bool = reads) -> None:  # noqa: FBT001
            if reads:
                await transaction.get(store.state("g", "s"))
            transaction.put(store.state("g", "s"), {}, expected=expected)

        with pytest.raises(VersionConflict) as told:
            await store.transact(function, METADATA)
        alike.append([event.version for event in told.value.events])
    assert alike[0] == alike[1] == ([2] if expected == 1 else [1, 2])


async def _refusal(change: Awaitable[Any]) -> type[Exception] | None:
    """What a change raises."""
    try:
        await change
    except (VersionConflict, StateNotFound) as error:
        return type(error)
    return None


@pytest.mark.parametrize("reads", [False, True], ids=["blind", "read_before"])
@pytest.mark.parametrize("how", ["put", "delete", "log"])
@pytest.mark.parametrize("expected", [NO_STATE, EXISTS, ANY, 0, 1, 2, 3, 7])
@pytest.mark.parametrize("stands", ["live", "deleted", "absent"])
async def test_the_same_as_outside_a_transaction(store: StateStore, stands: str, expected: Any, how: str, reads: bool):  # noqa: FBT001
    """What an expectation means for a state does not depend on the way in which it is changed."""
    for state_id in ("inside", "outside"):
        if stands != "absent":
            for version in range(2):
                await store.save_state("g", state_id, {"n": version}, METADATA, expected=version)
        if stands == "deleted":
            await store.delete_state("g", state_id, METADATA, expected=2)

    async def function(transaction: Transaction) -> None:
        state = store.state("g", "inside")
        if reads:
            await transaction.find(state)
        if how == "put":
            transaction.put(state, {}, expected=expected)
        elif how == "delete":
            transaction.delete(state, expected=expected)
        else:
            transaction.log(state, "seen", expected=expected)

    state = store.state("g", "outside")
    outside = {
        "put": state.save({}, METADATA, expected=expected),
        "delete": state.delete(METADATA, expected=expected),
        "log": state.log("seen", METADATA, expected=expected),
    }
    for other in outside.keys() - {how}:
        outside[other].close()  # type: ignore[attr-defined]
    assert await _refusal(store.transact(function, METADATA)) == await _refusal(outside[how])


@pytest.mark.parametrize(
    "error", [StateNotFound("governors/g/states/s"), VersionConflict("governors/g/states/s", 1, 2)]
)
async def test_an_error_of_a_reducer_is_not_what_others_did(store: StateStore, error: Exception):
    """An error that a reducer raises comes out at once, whatever state it names."""
    runs = 0

    def reduce(_state: Any, _event: Any) -> Any:
        raise error

    async def function(transaction: Transaction) -> None:
        nonlocal runs
        runs += 1
        await transaction.get(store.state("g", "s"))
        transaction.record(store.state("g", "s"), [NewEvent("add")])

    with pytest.raises(type(error)):
        await TransactionManager(store, {"add": reduce}).transact(function, METADATA)
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
