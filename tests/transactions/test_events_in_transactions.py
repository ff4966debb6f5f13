"""Events in transactions: logged and recorded ones, payloads, ids of the caller's, several of one state."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import msgspec
import pytest

from tai_state import (
    NO_STATE,
    ChangeMetadata,
    CommitOutcomeUnknown,
    IdempotencyConflict,
    InvalidData,
    NewEvent,
    StateMachinePersister,
    StateNotFound,
    StateStore,
    TaiStateError,
    Transaction,
    TransactionManager,
    VersionConflict,
)
from tai_state.testing import AtCalls, Fault, FaultyEngine

from ..support.operations import REDUCERS
from ..support.stores import GOVERNOR, METADATA, CountingEngine, Place, Places, collected

pytestmark = pytest.mark.anyio

OTHER = ChangeMetadata("somebody else", "another reason")


@pytest.fixture
async def store(place: Place) -> AsyncIterator[StateStore]:
    """An open store with two states at version 1."""
    async with place.store() as store:
        await begin(store)
        yield store


async def begin(store: StateStore) -> None:
    """Alice and bob at version 1."""
    for name in ("alice", "bob"):
        await store.save_state(GOVERNOR, name, {"n": 1}, METADATA)


async def run(store: StateStore, function: Callable[[Transaction], Awaitable[Any]]) -> Any:
    """Run a transaction on states of the governor, with reducers."""
    return await TransactionManager(store, REDUCERS).execute_transaction(GOVERNOR, function, METADATA)


async def events_of(store: StateStore, name: str) -> list[tuple[Any, ...]]:
    """What happened to a state after its first version."""
    replayed = StateMachinePersister(store, REDUCERS).replay(GOVERNOR, name, after=1)
    return [
        (each.version, each.action, each.payload, each.from_state, each.to_state) for each in await collected(replayed)
    ]


async def state_of(store: StateStore, name: str) -> tuple[int, Any]:
    """A state's version and data."""
    [found] = (await store.batch_get_states(GOVERNOR, [name])).values()
    return (0, None) if found is None else (found.version, found.data)


# What they do ----------------------------------------------------------------------------------------------------


async def test_a_logged_event_leaves_the_state(store: StateStore):
    """It is an event of its own with its payload, and the state is at the next version with the same data."""

    async def function(tx: Transaction) -> Any:
        tx.log("alice", "ping", OTHER, payload=[1, {"two": None}])
        return await tx.get("alice")

    seen = await run(store, function)
    assert await events_of(store, "alice") == [(2, "ping", [1, {"two": None}], {"n": 1}, {"n": 1})]
    stands = await store.get_state(GOVERNOR, "alice")
    assert (seen.version, seen.data, seen.metadata) == (2, stands.data, stands.metadata)
    assert stands.metadata == msgspec.structs.replace(OTHER, parent_version=1)


async def test_recorded_events_are_folded(store: StateStore):
    """Payload-carrying events are folded by the manager's reducers; one without a reducer leaves the state."""

    async def function(tx: Transaction) -> list[int]:
        tx.record("alice", [NewEvent("add", 5), NewEvent("seen", "by"), NewEvent("add", 6)])
        first = await tx.get("alice")
        tx.record("carol", [NewEvent("add", 2)])
        return [first.data["n"], first.version, (await tx.get("carol")).data["n"]]

    assert await run(store, function) == [12, 4, 2]
    assert await events_of(store, "alice") == [
        (2, "add", 5, {"n": 1}, {"n": 6}),
        (3, "seen", "by", {"n": 6}, {"n": 6}),
        (4, "add", 6, {"n": 6}, {"n": 12}),
    ]
    assert await state_of(store, "carol") == (1, {"n": 2})


async def test_a_reducer_that_changes_what_it_is_given(store: StateStore):
    """However often events are folded, to read what they give and to write it, they count once."""

    def added(state: Any, event: Any) -> Any:
        state["n"] += event.payload
        return state

    async def function(tx: Transaction) -> list[int]:
        await tx.get("alice")
        tx.record("alice", [NewEvent("add", 5)])
        return [(await tx.get("alice")).data["n"] for _ in range(3)]

    seen = await TransactionManager(store, {"add": added}).execute_transaction(GOVERNOR, function, METADATA)
    assert seen == [6, 6, 6]
    assert await state_of(store, "alice") == (2, {"n": 6})


async def test_reading_between_events_folds_each_once(store: StateStore):
    """However many events there are before a read, only those since the read before it are folded."""
    folded: list[int] = []

    def added(state: Any, event: Any) -> Any:
        folded.append(event.version)
        return {"n": state["n"] + event.payload}

    async def function(tx: Transaction) -> list[int]:
        await tx.get("alice")
        seen: list[int] = []
        for n in range(20):
            tx.record("alice", [NewEvent("add", n), NewEvent("add", 1)])
            seen.append((await tx.get("alice")).data["n"])
        return seen

    seen = await TransactionManager(store, {"add": added}).execute_transaction(GOVERNOR, function, METADATA)
    assert seen == [1 + sum(range(n + 1)) + n + 1 for n in range(20)]
    assert folded == list(range(2, 42))


async def test_a_put_takes_a_payload_and_a_time(store: StateStore):
    """They stand in the event; the payload is no part of the state."""
    then = datetime(2024, 2, 3, tzinfo=UTC)

    async def function(tx: Transaction) -> None:
        tx.put("alice", {"n": 2}, action="pay", payload={"slip": 7}, timestamp=then)
        tx.log("bob", "told", payload="of it", timestamp=then + timedelta(seconds=1))

    await run(store, function)
    [paid] = await collected(store.get_events(GOVERNOR, "alice", after=1))
    assert (paid.action, paid.payload, paid.to_state, paid.timestamp) == ("pay", {"slip": 7}, {"n": 2}, then)
    [logged] = await collected(store.get_events(GOVERNOR, "bob", after=1))
    assert (logged.payload, logged.timestamp) == ("of it", then + timedelta(seconds=1))


async def several(tx: Transaction, prefix: str | None = None) -> list[tuple[int, Any]]:
    """Six events of alice and one of bob; what is read of alice after each of hers."""
    seen: list[tuple[int, Any]] = []

    def named(name: str) -> str | None:
        return prefix and f"{prefix} {name}"

    async def look() -> None:
        found = await tx.find("alice")
        seen.append((0, None) if found is None else (found.version, found.data))

    tx.put("alice", {"n": 10}, payload=1, event_id=named("put"))
    await look()
    tx.log("alice", "ping")
    await look()
    tx.record("alice", [NewEvent("add", 5, named("add")), NewEvent("add", 6)])
    await look()
    tx.delete("alice", event_id=named("delete"))
    await look()
    tx.put("alice", {"n": 100})
    await look()
    tx.log("bob", "told", payload=[len(seen)])
    return seen


SEVERAL = [
    (2, "update", 1, {"n": 1}, {"n": 10}),
    (3, "ping", None, {"n": 10}, {"n": 10}),
    (4, "add", 5, {"n": 10}, {"n": 15}),
    (5, "add", 6, {"n": 15}, {"n": 21}),
    (6, "delete", None, {"n": 21}, None),
    (7, "update", None, None, {"n": 100}),
]


async def test_several_events_of_one_state(place: Place):
    """They follow one another in one commit, and what is read in between is what the events so far give."""
    engine = CountingEngine(place.engine())
    async with place.store(engine) as store:
        await begin(store)
        engine.reset()
        seen = await run(store, several)
        assert seen == [(2, {"n": 10}), (3, {"n": 10}), (5, {"n": 21}), (0, None), (7, {"n": 100})]
        assert len(engine.counts.commits) == 1
        assert await events_of(store, "alice") == SEVERAL
        assert await events_of(store, "bob") == [(2, "told", [5], {"n": 1}, {"n": 1})]
        report = await StateMachinePersister(store, REDUCERS).validate_consistency()
        assert report.consistent, report.findings


async def test_events_of_a_state_that_is_not_read(store: StateStore):
    """Events that build on what stands are folded on that, whatever it is by the time of the commit."""

    async def function(tx: Transaction) -> None:
        tx.record("alice", [NewEvent("add", 5)])
        tx.log("alice", "ping")
        tx.record("alice", [NewEvent("add", 1)])

    await run(store, function)
    await store.update_state(GOVERNOR, "alice", {"n": 50}, METADATA, expected=4)
    await run(store, function)
    assert await state_of(store, "alice") == (8, {"n": 56})


# What they refuse ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_read", [True, False], ids=["read", "not_read"])
async def test_there_must_be_a_state_to_log_to(store: StateStore, is_read: bool):  # noqa: FBT001
    """An event of a state that is not there is refused with all that the transaction writes."""

    async def function(tx: Transaction) -> None:
        if is_read:
            assert await tx.find("nobody") is None
        tx.put("alice", {"n": 2})
        tx.log("nobody", "ping")

    with pytest.raises(StateNotFound):
        await run(store, function)
    assert await state_of(store, "alice") == (1, {"n": 1})


@pytest.mark.parametrize("second", ["log", "delete"])
@pytest.mark.parametrize("gone", ["delete", "record"])
@pytest.mark.parametrize("is_read", [True, False], ids=["read", "not_read"])
async def test_there_must_be_a_state_left(store: StateStore, gone: str, second: str, is_read: bool):  # noqa: FBT001
    """What needs a live state is refused at once behind a write of the same transaction that leaves none."""
    runs = 0

    async def function(tx: Transaction) -> None:
        nonlocal runs
        runs += 1
        if is_read:
            await tx.get("alice")
        if gone == "delete":
            tx.delete("alice")
        else:
            tx.record("alice", [NewEvent("end", 1)])
        if second == "log":
            tx.log("alice", "ping")
        else:
            tx.delete("alice")

    with pytest.raises(StateNotFound):
        await TransactionManager(store, {"end": lambda _state, _event: None}).execute_transaction(
            GOVERNOR, function, METADATA
        )
    assert runs == 1
    assert await state_of(store, "alice") == (1, {"n": 1})


async def test_what_an_event_expects(store: StateStore):
    """What is said to be expected of a state is compared with what stands, or with what the events so far leave."""

    async def late(tx: Transaction) -> None:
        tx.log("alice", "ping", expected=7)

    with pytest.raises(VersionConflict):
        await run(store, late)

    async def function(tx: Transaction) -> None:
        await tx.get("alice")
        tx.record("alice", [NewEvent("add", 1), NewEvent("add", 1)], expected=1)
        with pytest.raises(VersionConflict):
            tx.log("alice", "ping", expected=2)
        tx.log("alice", "ping", expected=3)
        tx.record("dora", [NewEvent("add", 1)], expected=NO_STATE)

    await run(store, function)
    assert await state_of(store, "alice") == (4, {"n": 3})


async def test_an_id_stands_for_one_event(store: StateStore):
    """The same id twice in a transaction is a mistake that is told at once, in whatever way it is given."""

    async def function(tx: Transaction) -> None:
        tx.put("alice", {"n": 2}, event_id="x")
        with pytest.raises(InvalidData, match="same event id"):
            tx.log("bob", "ping", event_id="x")
        with pytest.raises(InvalidData, match="same event id"):
            tx.record("alice", [NewEvent("add", 1), NewEvent("add", 1, "x")])
        with pytest.raises(InvalidData, match="same event id"):
            tx.record("alice", [NewEvent("add", 1, "y"), NewEvent("add", 1, "y")])
        tx.delete("bob", event_id="y")

    await run(store, function)
    assert await state_of(store, "alice") == (2, {"n": 2})
    assert await state_of(store, "bob") == (0, None)


# Again, and with faults ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """A transaction with ids of the caller's.

    Attributes:
        name: for the test's id.
        function: what it does.
        events: how many events it records of alice and bob.
    """

    name: str
    function: Callable[[Transaction], Awaitable[Any]]
    events: tuple[int, int]


async def _log(tx: Transaction) -> None:
    tx.log("alice", "ping", payload=[1], event_id="ping 1")


async def _record(tx: Transaction) -> None:
    tx.record("alice", [NewEvent("add", 5, "add 1"), NewEvent("add", 6)])


async def _put(tx: Transaction) -> None:
    tx.put("alice", {"n": 7}, payload={"slip": 1}, event_id="put 1")


async def _both(tx: Transaction) -> None:
    tx.record("alice", [NewEvent("add", 5)])
    tx.log("bob", "told", event_id="told 1")


async def _read_first(tx: Transaction) -> None:
    if (await tx.get("alice")).version == 1:
        tx.put("alice", {"n": 7}, event_id="put 1")
        tx.put("bob", {"n": (await tx.get("bob")).data["n"] + 1})


async def _several(tx: Transaction) -> None:
    if (await tx.get("alice")).version == 1:
        await several(tx, "1")


REQUESTS = (
    Request("log", _log, (1, 0)),
    Request("record", _record, (2, 0)),
    Request("put", _put, (1, 0)),
    Request("both", _both, (1, 1)),
    Request("read_first", _read_first, (1, 1)),
    Request("several", _several, (6, 1)),
)


async def lengths(store: StateStore) -> tuple[int, ...]:
    """How many events alice and bob have after their first, in a store whose streams and states agree."""
    report = await StateMachinePersister(store, REDUCERS).validate_consistency()
    assert report.consistent, report.findings
    return tuple([len(await collected(store.get_events(GOVERNOR, name, after=1))) for name in ("alice", "bob")])


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name.lower())
@pytest.mark.parametrize("request_", REQUESTS, ids=lambda each: each.name)
async def test_fault_at_every_call(places: Places, request_: Request, fault: Fault):
    """Whichever call goes wrong, all of it happens or nothing, the caller is told which, and may ask again."""
    for number in count(1):
        place = await places.prepared("events in transactions", _prepared)
        faulty = FaultyEngine(place.engine(), AtCalls({}))
        told = "cancelled"
        async with place.store(faulty) as store:
            before = faulty.statistics().calls
            faulty.plan = AtCalls({("any", before + number): fault})
            with faulty.cancellable():
                try:
                    await run(store, request_.function)
                    told = "done"
                except CommitOutcomeUnknown:
                    told = "unknown"
                except TaiStateError:
                    told = "failed"
            calls = faulty.statistics().calls - before
            faulty.plan = AtCalls({})
            await faulty.settle()
        async with place.store() as store:
            happened = await lengths(store)
            possible = {"done": (request_.events,), "failed": ((0, 0),)}
            assert happened in possible.get(told, (request_.events, (0, 0))), told
            for _ in range(2):
                await run(store, request_.function)
                assert await lengths(store) == request_.events
        if calls < number:
            break
    assert number > 1


async def _prepared(place: Place) -> None:
    async with place.store() as store:
        await begin(store)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda tx: tx.log("alice", "ping", payload=[2], event_id="ping 1"), id="another_payload"),
        pytest.param(lambda tx: tx.log("bob", "ping", payload=[1], event_id="ping 1"), id="another_state"),
        pytest.param(lambda tx: tx.put("alice", {"n": 1}, event_id="ping 1"), id="another_kind"),
    ],
)
async def test_another_event_under_a_known_id(store: StateStore, other: Callable[[Transaction], None]):
    """It is refused with all that its transaction writes."""
    await run(store, _log)

    async def function(tx: Transaction) -> None:
        tx.put("carol", {"n": 1})
        other(tx)

    with pytest.raises(IdempotencyConflict):
        await run(store, function)
    assert await lengths(store) == (1, 0)
    assert not await store.exists(GOVERNOR, "carol")


async def test_more_states_under_a_known_id(store: StateStore):
    """A transaction that also writes another state than the one recorded under its id is refused, not half done."""
    await run(store, _log)

    async def function(tx: Transaction) -> None:
        await _log(tx)
        tx.put("carol", {"n": 1})

    with pytest.raises(IdempotencyConflict):
        await run(store, function)
    assert not await store.exists(GOVERNOR, "carol")
