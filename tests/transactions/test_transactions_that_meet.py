"""Transactions that meet others: whom they let pass, what they remember, and those begun inside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tai_state import (
    NewEvent,
    Observer,
    StateHandle,
    StateNotFound,
    StateStore,
    Transaction,
    TransactionManager,
    Waited,
)
from tai_state.engines.api import Delete

from ..support.stores import GOVERNOR, METADATA, Places, dump

pytestmark = pytest.mark.anyio


@pytest.fixture
async def stores(memory_places: Places) -> AsyncIterator[tuple[StateStore, StateStore]]:
    """Two open stores on the same documents, as of two processes, with one state."""
    place = memory_places.new()
    async with place.store() as store, place.store() as other:
        await store.save_state(GOVERNOR, "s", {"n": 0}, METADATA)
        yield store, other


@pytest.fixture
def store(stores: tuple[StateStore, StateStore]) -> StateStore:
    """One of them."""
    return stores[0]


async def test_who_runs_again_is_not_overtaken_by_who_came_later(stores: tuple[StateStore, StateStore]):
    """A transaction that was refused once has its turn: one of the same process that begins later comes after it."""
    store, other = stores
    state = store.state(GOVERNOR, "s")
    runs = 0
    is_second = anyio.Event()

    async def patient(tx: Transaction) -> None:
        nonlocal runs
        runs += 1
        now = await tx.get(state)
        if runs == 1:  # somebody elsewhere is faster
            await other.update_state(GOVERNOR, "s", {"n": 100}, METADATA, expected=1)
        elif runs == 2:
            is_second.set()
            for _ in range(200):  # long enough for another one to read and commit
                await anyio.lowlevel.checkpoint()
        tx.put(state, {"n": now.data["n"] + 1})

    async def late() -> None:
        await is_second.wait()

        async def count(tx: Transaction) -> None:
            tx.put(state, {"n": (await tx.get(state)).data["n"] + 1})

        await store.transact(count, METADATA)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(late)
        await store.transact(patient, METADATA)
    assert runs == 2
    assert (await store.get_state(GOVERNOR, "s")).data == {"n": 102}


async def test_who_comes_while_another_runs_again_runs_once(stores: tuple[StateStore, StateStore]):
    """Transactions that begin while another one has the turn run one after the other, each of them once."""
    store, other = stores
    state = store.state(GOVERNOR, "s")
    runs = [0] * 21
    is_second = anyio.Event()

    async def count(index: int) -> None:
        async def function(tx: Transaction) -> None:
            runs[index] += 1
            now = await tx.get(state)
            if index == 0 and runs[0] == 1:  # somebody elsewhere is faster
                await other.update_state(GOVERNOR, "s", {"n": 100}, METADATA, expected=1)
            elif index == 0:
                is_second.set()
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
            tx.put(state, {"n": now.data["n"] + 1})

        await store.transact(function, METADATA)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(count, 0)
        await is_second.wait()
        for index in range(1, 21):
            tasks.start_soon(count, index)
    assert runs == [2] + [1] * 20
    assert (await store.get_state(GOVERNOR, "s")).data == {"n": 121}


async def test_the_turn_is_given_back_by_whoever_gives_up(store: StateStore):
    """One that waited for its turn, and then fails or is cancelled, leaves the turn to the next one."""
    state = store.state(GOVERNOR, "s")
    async with anyio.create_task_group() as tasks, store.core.turns.of([state.stream.state]):

        async def failing(tx: Transaction) -> None:
            await tx.get(state)
            raise LookupError

        async def fail() -> None:
            with pytest.raises(LookupError):
                await store.transact(failing, METADATA)

        async def be_cancelled() -> None:
            with anyio.CancelScope() as scope:
                tasks.start_soon(cancel, scope)
                await store.transact(failing, METADATA)

        async def cancel(scope: anyio.CancelScope) -> None:
            await anyio.wait_all_tasks_blocked()
            scope.cancel()

        tasks.start_soon(be_cancelled)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(fail)
        await anyio.wait_all_tasks_blocked()
    assert not store.core.turns.are_taken([state.stream.state])


async def test_a_state_that_was_removed_is_forgotten(store: StateStore):
    """After its database was emptied, a transaction sees that a state which it remembers is not there, and makes it."""
    state = store.state(GOVERNOR, "s")

    async def count(tx: Transaction) -> int:
        [now] = await tx.get_all(state)
        n = 1 if now is None else now.data["n"] + 1
        tx.put(state, {"n": n})
        return n

    assert [await store.transact(count, METADATA) for _ in range(2)] == [1, 2]
    await store.core.engine.commit([Delete(path) for path in await dump(store.core.engine)])
    assert await store.transact(count, METADATA) == 1
    assert (await store.get_state(GOVERNOR, "s")).version == 1
    assert await store.count_states(GOVERNOR) == 1


@pytest.mark.parametrize("is_read", [False, True])
async def test_a_state_that_is_not_there_is_still_an_error(store: StateStore, *, is_read: bool):
    """A transaction that deletes a state which never was, read or not, raises what it did, and runs once."""
    state, runs = store.state(GOVERNOR, "never written"), 0

    async def function(tx: Transaction) -> None:
        nonlocal runs
        runs += 1
        if is_read:
            assert await tx.find(state) is None
        tx.delete(state)

    with pytest.raises(StateNotFound):
        await store.transact(function, METADATA)
    assert runs == 1


async def test_a_task_begun_in_a_transaction_has_its_own(store: StateStore):
    """A task that is started inside a transaction may run one of its own, on another state."""
    other = store.state(GOVERNOR, "other")

    async def note(tx: Transaction) -> None:
        tx.put(other, {"n": 1})

    async with store.transactions.transaction(METADATA) as tx:
        tx.put(store.state(GOVERNOR, "s"), {"n": 1})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.transact, note, METADATA)
    assert (await store.get_state(GOVERNOR, "other")).data == {"n": 1}
    assert (await store.get_state(GOVERNOR, "s")).data == {"n": 1}


async def test_a_transaction_in_a_transaction_of_its_task_is_refused(store: StateStore):
    """In the task of a transaction, another one cannot begin: it would not see what the first one is to write."""

    async def nothing(_: Transaction) -> None:
        """Nothing."""

    async with store.transactions.transaction(METADATA):
        with pytest.raises(RuntimeError, match="under way"):
            await store.transact(nothing, METADATA)


async def test_reducers_see_what_stands(stores: tuple[StateStore, StateStore]):
    """What reducers refuse on a state that was only remembered is decided again on the state as others have left it."""
    store, other = stores

    def paid(state: Any, event: Any) -> Any:
        if state["n"] < event.payload:
            raise ValueError("too little")
        return {"n": state["n"] - event.payload}

    manager = TransactionManager(store, {"paid": paid})
    state = store.state(GOVERNOR, "s")

    async def empty(tx: Transaction) -> None:
        tx.put(state, {"n": 0})

    async def pay(tx: Transaction) -> None:
        await tx.get(state)
        tx.record(state, [NewEvent("paid", 5)])

    await manager.transact(empty, METADATA)
    await other.update_state(GOVERNOR, "s", {"n": 100}, METADATA, expected=2)
    await manager.transact(pay, METADATA)
    assert (await state.get()).data == {"n": 95}


class Waits(Observer):
    """Counts how tasks fared that waited for a turn."""

    def __init__(self) -> None:
        self.acquired: Counter[bool] = Counter()

    def waited(self, waited: Waited) -> None:
        """Count a wait."""
        self.acquired[waited.is_acquired] += waited.kind == "turn"


@pytest.mark.parametrize("reads", [1, 2], ids=["one is read", "both are read"])
async def test_nobody_waits_in_a_circle(memory_places: Places, reads: int):
    """Tasks that read one state and write another wait for one another's turns, and each turn comes."""
    waits = Waits()
    async with memory_places.new().store(observer=waits) as store:
        states = [store.state(GOVERNOR, name) for name in "ab"]
        for each in states:
            await each.save({"n": 0}, METADATA)

        async def change(mine: Sequence[StateHandle[Any]]) -> None:
            async def function(tx: Transaction) -> None:
                await tx.get_all(*mine[:reads])
                tx.put(mine[1], {"n": 1})

            for _ in range(5):
                await store.transact(function, METADATA)

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(change, states[:: 1 if number % 2 else -1])
    assert waits.acquired[True] > 0
    assert waits.acquired[False] == 0


async def test_governors_have_their_turn_after_states(memory_places: Places):
    """A transaction that runs again, and needs the turn of the governor, does not wait for one that waits for it."""
    place = memory_places.new()
    runs = 0
    is_second = anyio.Event()
    async with place.store() as other:
        await other.save_state(GOVERNOR, "s", {"n": 0}, METADATA)
        async with place.store() as store:
            state = store.state(GOVERNOR, "s")

            async def function(tx: Transaction) -> None:
                nonlocal runs
                runs += 1
                now = await tx.get(state)
                if runs == 1:  # somebody elsewhere is faster
                    await other.update_state(GOVERNOR, "s", {"n": 100}, METADATA, expected=1)
                else:
                    is_second.set()
                    for _ in range(50):  # long enough for the other one to take its turns
                        await anyio.lowlevel.checkpoint()
                tx.put(state, {"n": now.data["n"] + 1})
                tx.put(store.state(GOVERNOR, "first written here"), {})

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(store.transact, function, METADATA)
                await is_second.wait()
                await state.update(lambda data: {"n": data["n"] + 1}, METADATA, initial={"n": 0})
            assert (await state.get()).data == {"n": 102}
    assert runs == 2
