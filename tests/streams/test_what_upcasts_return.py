"""What an upcast returns is checked like what a reducer returns, and what it gets is its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from tai_state import (
    ANY,
    NewEvent,
    SerializationError,
    StateMachinePersister,
    StateStore,
    Transaction,
    TransactionManager,
    Upcast,
)
from tai_state.streams.upcasting import Upcasting

from ..support.stores import GOVERNOR, METADATA, Place, Places, collected, dump

pytestmark = pytest.mark.anyio

REDUCERS = {"grow": lambda data, event: {**(data or {}), "by": event.payload}}

Call = Callable[[StateStore], Awaitable[Any]]


async def _update(store: StateStore) -> None:
    await store.state(GOVERNOR, "alice").update(lambda data: {**data, "seen": True}, METADATA, initial={"n": 0})


async def _record(store: StateStore) -> None:
    persister = StateMachinePersister(store, REDUCERS)
    await persister.record(GOVERNOR, "alice", [NewEvent("grow", 1)], METADATA, expected=ANY)


async def _in_a_transaction(store: StateStore, *, reads: bool, records: bool) -> None:
    async def function(transaction: Transaction) -> None:
        alice = store.state(GOVERNOR, "alice")
        if reads:
            await transaction.get(alice)
        if records:
            transaction.record(alice, [NewEvent("grow", 1)])
        else:
            transaction.log(alice, "seen")

    await TransactionManager(store, REDUCERS).transact(function, METADATA)


READS: dict[str, Call] = {
    "get_state": lambda store: store.get_state(GOVERNOR, "alice"),
    "list_states": lambda store: collected(store.list_states(GOVERNOR)),
    "get_events": lambda store: collected(store.get_events(GOVERNOR, "alice")),
    "at": lambda store: store.state(GOVERNOR, "alice").at(1),
}
WRITES: dict[str, Call] = {
    "log": lambda store: store.log_event(GOVERNOR, "alice", "seen", METADATA),
    "update": _update,
    "record": _record,
    "log in a transaction": lambda store: _in_a_transaction(store, reads=False, records=False),
    "record in a transaction": lambda store: _in_a_transaction(store, reads=False, records=True),
    "get and log in a transaction": lambda store: _in_a_transaction(store, reads=True, records=False),
    "get and record in a transaction": lambda store: _in_a_transaction(store, reads=True, records=True),
}


def _works_in_place(data: dict[str, Any]) -> None:
    data["full"] = data.pop("name")


NOT_JSON: dict[str, Callable[[dict[str, Any]], Any]] = {
    "nothing": _works_in_place,
    "a list": lambda _: [],
    "NaN": lambda data: {**data, "x": float("nan")},
    "a time": lambda data: {**data, "x": datetime.now(UTC)},
    "a tuple": lambda data: {**data, "x": (1, 2)},
}


def older(place: Place, state: Callable[..., Any], payload: Callable[..., Any] | None = None) -> StateStore:
    """A store whose application has a third schema; this is its first upcast, and the second one does nothing."""
    first = Upcast(state=state) if payload is None else Upcast(state=state, payload=payload)
    return place.store(upcasting=Upcasting(3, {1: first, 2: Upcast()}))


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: a step is a plain function."""
    return "asyncio"


@pytest.fixture
async def place(memory_places: Places) -> Place:
    """A place with a state that the first release has written."""
    place = memory_places.new()
    async with place.store() as store:
        await store.save_state(GOVERNOR, "alice", {"name": "Ada", "n": 5}, METADATA, payload=5)
    return place


@pytest.mark.parametrize("state", NOT_JSON.values(), ids=NOT_JSON)
@pytest.mark.parametrize("call", [*READS.values(), *WRITES.values()], ids=[*READS, *WRITES])
async def test_what_is_no_json_object_is_refused(place: Place, call: Call, state: Callable[..., Any]):
    """The error names the document and the step, and nothing is written."""
    async with older(place, state) as store:
        before = await dump(store.core.engine)
        with pytest.raises(SerializationError, match="schema 1") as told:
            await call(store)
        assert told.value.path in ("governors/bank/states/alice", "governors/bank/events/alice~000000000001")
        assert await dump(store.core.engine) == before


@pytest.mark.parametrize("payload", [float("nan"), datetime.now(UTC), (1, 2)], ids=["NaN", "a time", "a tuple"])
async def test_a_payload_that_is_not_json_is_refused(place: Place, payload: Any):
    """The error names the event and the step."""
    async with older(place, lambda data: data, lambda _action, _payload: payload) as store:
        with pytest.raises(SerializationError, match="schema 1") as told:
            await collected(store.get_events(GOVERNOR, "alice"))
        assert told.value.path == "governors/bank/events/alice~000000000001"


async def test_any_json_is_a_payload(place: Place):
    """A payload need not be an object, and None means none."""
    for payload in ([1], "five", None):
        async with older(place, lambda data: data, lambda _action, _payload, made=payload: made) as store:
            [event] = await collected(store.get_events(GOVERNOR, "alice"))
            assert event.payload == payload


def _in_cents(data: dict[str, Any]) -> dict[str, Any]:
    data["n"] *= 100
    return data


@pytest.mark.parametrize("call", WRITES.values(), ids=WRITES)
async def test_a_step_that_works_in_place_is_taken_once(place: Place, call: Call):
    """However often a state is looked at within a change, the step works on what is stored."""
    async with older(place, _in_cents) as store:
        await call(store)
        assert (await store.get_state(GOVERNOR, "alice")).data["n"] == 500


async def test_what_a_step_keeps_for_itself_is_not_the_states(place: Place):
    """A step may return the same object each time; what a reader does with it is the reader's own."""
    always = {"n": 1}
    async with older(place, lambda _: always) as store:
        for _ in range(2):
            found = await store.get_state(GOVERNOR, "alice")
            assert found.data == {"n": 1}
            found.data["n"] = 2
