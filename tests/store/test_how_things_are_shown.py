"""What a store and what it gives say of themselves in a log or a debugger: one line, ids and numbers, and no data."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, TypeAdapter

from tai_state import (
    InvalidData,
    Reducers,
    StateMachinePersister,
    StateStore,
    Transaction,
    TransactionManager,
    VersionConflict,
)
from tai_state.streams.layout import Layout

from ..support.stores import GOVERNOR, METADATA, Place, Places, make_store

pytestmark = pytest.mark.anyio


class Account(BaseModel):
    """What a handle gives."""

    balance: int


async def test_a_store_says_where_it_is_and_what_it_remembers(place: Place):
    """A store names its address, tells whether it is open, and counts the states of which it remembers the head."""
    engine = place.engine()
    store = place.store(engine)
    assert repr(store) == f"<StateStore {engine}, closed>"
    async with store:
        for name in ("alice", "bob", "bob"):
            await store.state(GOVERNOR, name).update(lambda _: {"secret": 1}, METADATA, initial={})
        assert repr(store) == f"<StateStore {engine}, open, 2 heads>"
    assert repr(store) == f"<StateStore {engine}, closed>"
    below = make_store(engine, place.clock, layout=Layout("acme", "test"))
    assert repr(below) == f"<StateStore {engine}, below acme/test, closed>"


async def test_a_handle_says_which_state_it_names(memory_places: Places):
    """A handle names its state and its model, whether or not there is such a state."""
    store = memory_places.new().store()
    where = "'governors/bank/states/alice'"
    assert repr(store.state(GOVERNOR, "alice")) == f"<StateHandle {where} as JSON>"
    assert repr(store.state(GOVERNOR, "alice", Account)) == f"<StateHandle {where} as Account>"
    assert repr(store.state(GOVERNOR, "alice", TypeAdapter(Account))).endswith("as TypeAdapter(Account)>")


async def test_a_transaction_says_what_it_read_and_is_to_write(store: StateStore):
    """A transaction tells whether it is open, ended or overtaken, and its manager how many ended how."""
    manager = TransactionManager(store)
    assert repr(manager) == "<TransactionManager, none so far>"
    seen = []

    async def write(tx: Transaction) -> None:
        await tx.get_all("alice", "bob")
        tx.put("alice", {"n": 1})
        seen.append(tx)
        seen.append(repr(tx))
        seen.append(repr(manager))

    await manager.transact(write, METADATA, governor_id=GOVERNOR)
    assert seen[1:] == [
        "<Transaction, open, 2 states read, 1 to be written>",
        "<TransactionManager, 1 pending>",
    ]
    assert repr(seen[0]) == "<Transaction, ended, 2 states read, 1 to be written>"
    with pytest.raises(InvalidData):
        async with manager.transaction(METADATA, governor_id=GOVERNOR) as tx:
            tx.put("alice", {"n": object()})
    assert repr(manager) == "<TransactionManager, 1 committed, 1 rolled back>"


async def test_a_transaction_that_others_outran_says_so(store: StateStore):
    """A transaction that read what has moved since shows that it is overtaken."""

    async def write(tx: Transaction) -> None:
        await tx.find("alice")
        await store.save_state(GOVERNOR, "alice", {}, METADATA)
        with pytest.raises(VersionConflict):
            await tx.find("bob")
        assert repr(tx) == "<Transaction, overtaken, 1 states read, 0 to be written>"
        raise InterruptedError

    with pytest.raises(InterruptedError):
        await store.transactions.transact(write, METADATA, governor_id=GOVERNOR)


async def test_a_watch_of_states_says_what_it_has_shown(store: StateStore):
    """A watch names what it watches, and its iterator counts the states that it has shown and those at hand."""
    for name in ("alice", "bob"):
        await store.save_state(GOVERNOR, name, {"secret": 1}, METADATA)
    watch = store.watch(GOVERNOR)
    assert repr(watch) == "<Following 'governors/bank/states'>"
    async with watch as changes:
        assert repr(changes) == "<watched states of 'bank', 0 shown, 0 at hand>"
        await anext(changes)
        await anext(changes)
        assert repr(changes) == "<watched states of 'bank', 2 shown, 0 at hand>"
    assert repr(store.watch(GOVERNOR, *"abcde")) == (
        "<Following 'governors/bank/states/a', 'governors/bank/states/b', 'governors/bank/states/c', …>"
    )


async def test_a_persister_says_whose_history_it_keeps(store: StateStore):
    """A persister names its store, and counts the actions for which it has a reducer."""
    shown = f"<StateMachinePersister of store {store.store_id}"
    assert repr(StateMachinePersister(store)) == f"{shown}, no reducers>"
    reducers: Reducers = {"opened": lambda state, _: state or {}, "closed": lambda _, __: {}}
    assert repr(StateMachinePersister(store, reducers)) == f"{shown}, reducers for 2 actions>"
