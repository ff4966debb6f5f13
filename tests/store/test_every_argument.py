"""Every argument of every public method: a value that it cannot mean is refused before the engine is asked anything."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, date, datetime, timedelta
from math import inf, nan
from typing import Any

import pytest

from tai_state import (
    ChangeMetadata,
    Columns,
    InvalidData,
    NewEvent,
    Rejected,
    StateHandle,
    StateMachinePersister,
    StateSnapshot,
    StateStore,
)
from tai_state.adapters import AdaptedMachine, TransitionsAdapter
from tai_state.locks.locking import LockManager
from tai_state.machines import Command, PersistentMachine
from tai_state.testing import ManualClock, MemoryEngine
from tai_state.transactions.manager import TransactionManager
from tai_state.transactions.transaction import Transaction

from ..support.adapted import bulbs
from ..support.orders import ORDER, PAY, Order, Payment
from ..support.stores import GOVERNOR, METADATA, CountingEngine, collected, make_store

pytestmark = pytest.mark.anyio

HALF_A_PAIR = "\ud800"
NUMBERS = [True, 1.5, "1", -1, 10**30, nan, [1]]
IDS = ["", 5, True, b"x", HALF_A_PAIR, "x" * 1_500, ["x"]]
TEXTS = [5, True, b"x", HALF_A_PAIR, None]
FUNCTIONS = [5, "function", {}]
MOMENTS = ["2026-01-01T00:00:00Z", 5, True, nan, date(2026, 1, 1), datetime(2026, 1, 1), timedelta(1)]  # noqa: DTZ001
DATA = [5, "text", None, [], {"a": nan}, {"a": {1}}, {1: 2}, {"a": object()}]
STATE: StateSnapshot[dict[str, Any]] = StateSnapshot[dict[str, Any]].unsaved(GOVERNOR, "s", {"n": 1})

WRONG: dict[str, list[Any]] = {
    "governor_id": IDS,
    "state_id": IDS,
    "state_ids": IDS,
    "resource": IDS,
    "data": DATA,
    "value": DATA,
    "metadata": [5, "ana", {}, ChangeMetadata(5, "why"), ChangeMetadata("ana", "why", [])],  # type: ignore[arg-type]
    "expected": [True, 1.0, "1", -1, 10**30, nan, [], METADATA, StateSnapshot.unsaved(GOVERNOR, "other", {})],
    "action": TEXTS,
    "holder": TEXTS,
    "client": TEXTS,
    "token": TEXTS,
    "transaction_id": [5, True, b"x", []],
    "payload": [nan, {1}, b"x", object(), {1: 2}, 10**5_000],
    "event_id": IDS,
    "timestamp": [*MOMENTS, datetime(2100, 1, 1, tzinfo=UTC)],
    "start": MOMENTS,
    "end": MOMENTS,
    "fence": [5, True, "lease", object(), []],
    "function": [*FUNCTIONS, None],
    "decide": [*FUNCTIONS, None],
    "progress": FUNCTIONS,
    "acknowledged": FUNCTIONS,
    "reducer": FUNCTIONS,
    "model": [5, object()],
    "ttl_seconds": [None, True, 0, -1, nan, inf, "3", 10**30, [3]],
    "ttl": [None, True, 0, -1, nan, inf, "3", 10**30, [3]],
    "wait_seconds": [True, -1, nan, "3", 10**30, [3]],
    "holding": [5, None, "lease", [5], ["lease"]],
    "resources": [5, None, "r", [], [5], [""]],
    "lease": [5, None, True, "lease"],
    "ids": [5, None, "s", b"s", [5], [""]],
    "to_read": [5, None, "s", b"s", [5], [""]],
    "states": [5, None, "", b"s", STATE],
    "state": [5, None, "", b"s", STATE],
    "after": NUMBERS,
    "until": NUMBERS,
    "limit": NUMBERS,
    "version": [*NUMBERS, 0],
    "version_or_time": [None, True, 0, -1, 1.5, "1", nan, 10**30, datetime(2026, 1, 1)],  # noqa: DTZ001
    "newest_first": ["no", 1, None],
    "keep_changed": ["no", 1, None],
    "end_restore": ["no", 1, None],
    "deleted": ["no", 1, None],
    "where": [5, None, [], "f", {"other": 1}, {"f": {"on": True}}, {"f": nan}, {"f": [[1]]}, {"f": {1}}],
    "concurrency": [*NUMBERS, 0, None],
    "resume": [5, "bank", ("bank",), ("bank", 5), ("", "s")],
    "keep": [5, None, "30d", timedelta(-1), nan],
    "path": [5, None, True, "", b"x", "a\0b", HALF_A_PAIR],
    "columns": [5, None, ("m",), Columns("m", "s", "t"), Columns("m", ("s",), 5)],  # type: ignore[arg-type]
    "from_state": [5, {}, StateSnapshot.unsaved(GOVERNOR, "other", {})],
    "to_state": [5, None, {}, StateSnapshot.unsaved("other", "s", {}), StateSnapshot.unsaved(GOVERNOR, "s", 5)],
    "events": [5, None, [], [None], "add", [{"action": "add"}], [NewEvent(5)]],  # type: ignore[arg-type]
    "definition": [5, None, Order],
    "machine": [5, None, "s"],
    "new_state": [5, None, "Paid", Order],
    "initial": [5, "Placed", Order.Paid],
    "context": [5, "text", {"cents": 5}],
    "trigger": [5, None, "ship", Command],
    "update": FUNCTIONS,
    "event": [5, None, "pay"],
    "reason": TEXTS,
    "arguments": [5, "text", [], {"a": nan}, {"a": {1}}, {1: 2}, {"model": 1}],
    "handlers": [5, None, [], "mail", {"mail": 5}, {5: print}, {"mail": None}],
    "timeout_seconds": [None, True, -1, nan, "3", 10**30, [3]],
    "effect_id": TEXTS,
}
"""What an argument of this name cannot mean."""

WRONG_OF: dict[str, list[Any]] = {
    "StateStore.list_states after": IDS,
    "StateStore.list_governors after": IDS,
    "StateHandle.update expected": [True, 1.0, "1", -1, 10**30, nan, [], METADATA],
    "PersistentMachine.fire payload": [5, None, {"cents": 5}],
}
"""The same for arguments that mean something else in one method."""

RIGHT: dict[str, Any] = {
    "governor_id": GOVERNOR,
    "state_id": "s",
    "data": {},
    "value": {},
    "metadata": METADATA,
    "expected": 1,
    "action": "noted",
    "event_id": "e",
    "start": datetime(2023, 1, 1, tzinfo=UTC),
    "end": datetime(2023, 1, 2, tzinfo=UTC),
    "decide": lambda _: {},
    "resource": "r",
    "client": "ana",
    "token": "t",
    "resources": ["r"],
    "lease": None,
    "ids": ["s"],
    "to_read": ["s"],
    "state": "s",
    "states": "s",
    "version_or_time": 1,
    "where": {"f": 1},
    "keep": timedelta(days=1),
    "path": "log.csv",
    "columns": Columns("m", ("s",), "t"),
    "from_state": None,
    "to_state": STATE,
    "events": [NewEvent("add", 1)],
    "transaction_id": "t",
    "definition": ORDER,
    "new_state": Order.Paid,
    "trigger": Command("ship"),
    "event": PAY,
    "payload": Payment(cents=5),
    "reason": "a mistake",
    "handlers": {"mail": print},
    "effect_id": "e:mail",
}
"""What a method is given besides the wrong argument."""

RIGHT_OF: dict[str, Any] = {"AdaptedMachine.send event": "switch"}
"""The same for arguments that mean something else in one method."""

FREE = {"StateHandle.update initial"}
"""Arguments that the application's own code judges."""

INTERNAL = {
    *(
        "StateHandle.typed",
        "PersistentMachine.typed",
        "AdaptedMachine.typed",
        "Transaction.commit",
        "Transaction.confirm",
        "Transaction.end",
    ),
    *("Transaction.add", "Transaction.who", "Transaction.run_afterwards", "Transaction.is_overtaken_by"),
}
"""Methods that only the library calls."""

OWNERS: list[type] = [
    *(StateStore, StateHandle, PersistentMachine, StateMachinePersister, TransactionManager, LockManager, Transaction),
    *(TransitionsAdapter, AdaptedMachine),
]


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: arguments are looked at before it is used."""
    return "asyncio"


async def nothing(_: Transaction) -> None:
    """A transaction that does nothing."""


def arguments_of(method: Callable[..., Any]) -> list[inspect.Parameter]:
    """The arguments of a method, without the object itself."""
    return list(inspect.signature(method).parameters.values())[1:]


def cases() -> list[Any]:
    """Each argument of each public method, with each value that it cannot mean."""
    found: list[Any] = []
    for owner in OWNERS:
        for name, method in inspect.getmembers(owner, inspect.isfunction):
            if name.startswith("_") or f"{owner.__name__}.{name}" in INTERNAL:
                continue
            for each in arguments_of(method):
                place = f"{owner.__name__}.{name} {each.name}"
                wrong = [] if place in FREE else WRONG_OF.get(place) or WRONG[each.name]
                for number, value in enumerate(wrong):
                    name_of_it = f"{place} {type(value).__name__} {number}"
                    found.append(pytest.param(owner, name, each.name, value, id=name_of_it))
    return found


def given(method: Callable[..., Any], name: str, value: Any) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call in which one is wrong."""
    those: list[Any] = []
    named: dict[str, Any] = {}
    for each in arguments_of(method):
        right = RIGHT.get(each.name, nothing if each.name == "function" else None)
        chosen = value if each.name == name else RIGHT_OF.get(f"{method.__qualname__} {each.name}", right)
        if each.kind is inspect.Parameter.VAR_POSITIONAL:
            those = [named.pop(before.name) for before in arguments_of(method)[: len(named)]] + [chosen]
        elif each.name == name or each.default is inspect.Parameter.empty:
            named[each.name] = chosen
    return those, named


async def used(result: Any) -> None:
    """Use what a method returned, as its caller would."""
    if isinstance(result, Awaitable):
        await result
    elif isinstance(result, AbstractAsyncContextManager):
        async with result:
            pass
    elif isinstance(result, AsyncIterator):
        await collected(result)


@pytest.mark.parametrize(("owner", "name", "argument", "value"), cases())
async def test_a_value_that_an_argument_cannot_mean_is_refused(owner: type, name: str, argument: str, value: Any):
    """It is an error of the library that says so, and the engine was asked nothing before."""
    clock = ManualClock()
    engine = CountingEngine(MemoryEngine(clock))
    async with make_store(engine, clock, indexed=("f",)) as store:
        objects: dict[type, Any] = {
            StateStore: store,
            StateHandle: store.state(GOVERNOR, "s"),
            PersistentMachine: store.machine(GOVERNOR, "s", ORDER, metadata=METADATA),
            TransitionsAdapter: bulbs(store),
            AdaptedMachine: bulbs(store).machine(GOVERNOR, "s"),
            StateMachinePersister: StateMachinePersister(store),
            TransactionManager: store.transactions,
            LockManager: store.locks,
        }
        engine.reset()
        those, named = given(getattr(owner, name), argument, value)

        async def in_a_transaction() -> None:
            async with store.transactions.transaction(METADATA, governor_id=GOVERNOR) as transaction:
                await used(getattr(transaction, name)(*those, **named))

        async def call() -> None:
            await used(getattr(objects[owner], name)(*those, **named))

        with pytest.raises(Rejected):
            await (in_a_transaction() if owner is Transaction else call())
        assert engine.counts.calls == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda store: StateMachinePersister(store, 5),
        lambda store: StateMachinePersister(store, {"add": 5}),
        lambda store: TransactionManager(store, {5: lambda *_: {}}),
        lambda store: TransactionManager(store, [("add", lambda *_: {})]),
        lambda store: LockManager(store, monotonic=5),
        lambda store: LockManager(store, sleep=5),
    ],
)
async def test_what_a_manager_is_made_with_is_checked(make: Callable[[Any], Any]):
    """Reducers are functions by action, and a clock is a function."""
    clock = ManualClock()
    async with make_store(MemoryEngine(clock), clock) as store:
        with pytest.raises(InvalidData):
            make(store)


async def test_ids_may_come_from_a_generator():
    """What gives its ids once is read as a list is."""
    clock = ManualClock()
    async with make_store(MemoryEngine(clock), clock) as store:
        for state_id in "ab":
            await store.save_state(GOVERNOR, state_id, {"id": state_id}, METADATA)
        ids: Any = (each for each in "abc")
        found = await store.batch_get_states(GOVERNOR, ids)
        assert {name: each and each.data for name, each in found.items()} == {
            "a": {"id": "a"},
            "b": {"id": "b"},
            "c": None,
        }
