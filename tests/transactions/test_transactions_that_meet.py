"""Transactions that meet others: whom they let pass, what they remember, and those begun inside them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tai_state import NewEvent, StateNotFound, StateStore, Transaction, TransactionManager
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


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="a transaction that begins waits for no other one's turn")
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


@pytest.mark.xfail(strict=True, raises=StateNotFound, reason="what was remembered is not doubted when it is gone")
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


@pytest.mark.xfail(strict=True, raises=ExceptionGroup, reason="tasks inherit the mark of the transaction they begin in")
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
