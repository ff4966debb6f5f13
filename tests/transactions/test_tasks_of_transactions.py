"""What a transaction's function does beside its own reads and writes: other changes, and tasks that it starts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import anyio
import pytest

from tai_state import Observer, StateHandle, Transaction, TransactionFailed, VersionConflict, Waited
from tai_state.testing.checking import let_others_run
from tai_state.transactions import manager

from ..support.stores import GOVERNOR, METADATA, Places

pytestmark = pytest.mark.anyio


class Waits(Observer):
    """Counts how tasks fared that waited for a turn."""

    def __init__(self) -> None:
        self.acquired: Counter[bool] = Counter()

    def waited(self, waited: Waited) -> None:
        """Count a wait."""
        self.acquired[waited.is_acquired] += waited.kind == "turn"


@pytest.mark.parametrize("is_task", [False, True], ids=["in its task", "in a task of its own"])
async def test_a_change_made_inside_waits_for_no_second_turn(memory_places: Places, *, is_task: bool):
    """A function that has the turn of one state, and changes another one by itself, does not wait for that one's."""
    waits = Waits()
    async with memory_places.new().store(observer=waits) as store:
        states = [store.state(GOVERNOR, name) for name in "ab"]
        for each in states:
            await each.save({"n": 0}, METADATA)

        async def add(state: StateHandle[Any]) -> None:
            await state.update(lambda now: {"n": now["n"] + 1}, METADATA)

        async def change(mine: Sequence[StateHandle[Any]]) -> None:
            async def function(tx: Transaction) -> None:
                now = await tx.get(mine[0])
                if is_task:
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(add, mine[1])
                else:
                    await add(mine[1])
                tx.put(mine[0], {"n": now.data["n"] + 1})

            await store.transact(function, METADATA)

        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(change, states[:: 1 if number % 2 else -1])
    assert waits.acquired[True] > 0
    assert waits.acquired[False] == 0


async def test_a_transaction_begun_inside_waits_for_no_turn_of_the_outer_one(memory_places: Places):
    """A task that a function starts may run a transaction over the same state, and does not wait for its turn."""
    waits = Waits()
    place = memory_places.new()
    runs = 0
    async with place.store() as other, place.store(observer=waits) as store:
        state = store.state(GOVERNOR, "s")
        await state.save({"n": 0}, METADATA)

        async def inner(tx: Transaction) -> None:
            tx.put(state, {"n": (await tx.get(state)).data["n"] + 10})

        async def outer(tx: Transaction) -> None:
            nonlocal runs
            runs += 1
            now = await tx.get(state)
            if runs == 1:  # somebody elsewhere is faster
                await other.update_state(GOVERNOR, "s", {"n": 100}, METADATA, expected=1)
            elif runs == 2:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(store.transact, inner, METADATA)
            tx.put(state, {"n": now.data["n"] + 1})

        await store.transact(outer, METADATA)
        assert (await state.get()).data == {"n": 111}
    assert runs == 3
    assert not waits.acquired


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_task_that_outlives_its_transaction_keeps_no_turn(memory_places: Places):
    """A read that waits for its turn until after the end of its transaction gives the turn back, and is refused."""
    async with memory_places.new().store() as store:
        state = store.state(GOVERNOR, "s")
        await state.save({"n": 0}, METADATA)
        reads: list[asyncio.Task[Any]] = []

        async def function(tx: Transaction) -> None:
            reads.append(asyncio.create_task(tx.get(state)))
            await let_others_run(3)
            raise LookupError

        async with store.core.turns.of([state.stream.state]):
            with pytest.raises(LookupError):
                await store.transact(function, METADATA)
            assert not reads[0].done()
        with pytest.raises(RuntimeError, match="the transaction has ended"):
            await reads[0]
        assert not store.core.turns.are_taken([state.stream.state])


@pytest.fixture(params=["one task group", "one inside another"])
def is_nested(request: pytest.FixtureRequest) -> bool:
    """Whether the task group of the reads is in another one."""
    return request.param == "one inside another"


async def _read(tx: Transaction, states: Sequence[StateHandle[Any]], *, is_nested: bool) -> None:
    """Read states, each in a task of its own."""
    async with anyio.create_task_group() as tasks:
        if is_nested:
            async with anyio.create_task_group() as more:
                for each in states:
                    more.start_soon(tx.find, each)
        else:
            for each in states:
                tasks.start_soon(tx.find, each)


async def test_a_conflict_in_a_task_group_runs_the_function_again(memory_places: Places, *, is_nested: bool):
    """If a read in a task group finds that a state has changed, the function runs again, as after any such read."""
    place = memory_places.new()
    runs = 0
    async with place.store() as other, place.store() as store:
        state, *others = (store.state(GOVERNOR, name) for name in "abc")
        await state.save({"n": 0}, METADATA)

        async def function(tx: Transaction) -> int:
            nonlocal runs
            runs += 1
            now = await tx.get(state)
            if runs == 1:
                await other.update_state(GOVERNOR, "a", {"n": 100}, METADATA, expected=1)
            await _read(tx, others, is_nested=is_nested)
            tx.put(state, {"n": now.data["n"] + 1})
            return runs

        assert await store.transact(function, METADATA) == 2
        assert (await state.get()).data == {"n": 101}


async def test_conflicts_in_task_groups_without_end_fail_the_transaction(
    memory_places: Places, monkeypatch: pytest.MonkeyPatch, *, is_nested: bool
):
    """If such reads find a change at every attempt, the transaction fails as it does without a task group."""
    monkeypatch.setattr(manager, "ATTEMPTS_MAX", 3)
    place = memory_places.new()
    async with place.store() as other, place.store() as store:
        state, *others = (store.state(GOVERNOR, name) for name in "abc")
        await state.save({"n": 0}, METADATA)

        async def function(tx: Transaction) -> None:
            now = await tx.get(state)
            await other.update_state(GOVERNOR, "a", {"n": 0}, METADATA, expected=now.version)
            await _read(tx, others, is_nested=is_nested)

        with pytest.raises(TransactionFailed) as failed:
            await store.transact(function, METADATA)
    assert failed.value.attempts == 3
    assert isinstance(failed.value.__cause__, VersionConflict)


async def test_errors_of_its_own_in_a_task_group_are_raised(memory_places: Places):
    """A group with other errors only is the function's own, also if it caught a conflict before."""
    runs = 0
    async with memory_places.new().store() as store:

        async def function(_: Transaction) -> None:
            nonlocal runs
            runs += 1
            with suppress(VersionConflict):
                raise VersionConflict("elsewhere", 1, 2)
            raise ExceptionGroup("two", [LookupError(), VersionConflict("elsewhere", 1, 2)])

        with pytest.raises(ExceptionGroup, match="two"):
            await store.transact(function, METADATA)
    assert runs == 1
