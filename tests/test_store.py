"""The store's behaviour that the model does not cover: several stores, typed handles, watching, budgets, leaks."""

from __future__ import annotations

import logging
import traceback
import unicodedata
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import msgspec
import pytest
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    TypeAdapter,
    computed_field,
)
from typing_extensions import TypedDict

from tai_state import (
    ANY,
    EXISTS,
    NO_STATE,
    ChangeMetadata,
    CommitTooLarge,
    DocumentTooLarge,
    EventSourcingError,
    EveryEvents,
    IdempotencyConflict,
    InvalidData,
    InvalidId,
    NewEvent,
    SerializationError,
    StateMachinePersister,
    StateNotFound,
    StateStore,
    StoreNotFound,
    StoreTimeout,
    TaiStateError,
    UnindexedField,
    UnknownStore,
    VersionConflict,
    open_store,
)
from tai_state.engines.api import ANYTHING, Delete, Document, Engine, Reading, Scan
from tai_state.engines.paging import Paged, taken
from tai_state.history.recovery import Recovery
from tai_state.history.replay import Replay
from tai_state.streams.changes import Append, always
from tai_state.streams.layout import Layout
from tai_state.streams.planning import Composition, Draft
from tai_state.testing import ManualClock, MemoryEngine
from tai_state.values.times import from_us

from .support.operations import REDUCERS
from .support.stores import (
    GOVERNOR,
    MEMORY,
    METADATA,
    AroundEngine,
    CountingEngine,
    Opened,
    Place,
    Places,
    collected,
    edit,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def store(place: Place) -> AsyncIterator[StateStore]:
    """An open store at that place."""
    async with place.store() as store:
        yield store


# Several stores on the same documents --------------------------------------------------------------------------


async def test_two_stores_with_stale_heads(place: Place):
    """A store that remembers an old head is told of a conflict, with what it had not seen, and can then go on."""
    async with place.store() as one, place.store() as other:
        await one.save_state(GOVERNOR, "alice", {"n": 0}, METADATA)
        seen = await other.get_state(GOVERNOR, "alice")
        await one.update_state(GOVERNOR, "alice", {"n": 1}, METADATA, expected=1)
        await one.update_state(GOVERNOR, "alice", {"n": 2}, METADATA, expected=2, action="raise")
        with pytest.raises(VersionConflict) as conflict:
            await other.update_state(GOVERNOR, "alice", {"n": 9}, METADATA, expected=seen)
        unseen = await collected(one.get_events(GOVERNOR, "alice", after=1))
        assert list(conflict.value.events) == unseen
        assert conflict.value.fields() == {
            "path": "governors/bank/states/alice",
            "expected": 1,
            "actual": 3,
            "events": [{"version": event.version, "id": event.id, "action": event.action} for event in unseen],
        }
        written = await other.update_state(GOVERNOR, "alice", {"n": 9}, METADATA, expected=3)
        assert (written.version, written.data) == (4, {"n": 9})
        assert written.causality == {one.store_id: 4}
        assert (await one.update_state(GOVERNOR, "alice", {"n": 10}, METADATA, expected=written)).version == 5


async def test_a_commit_that_is_seen_in_part(place: Place):
    """Where an engine shows a commit document by document, as an emulator may, a conflict is not taken for damage."""
    async with place.store() as one, place.store() as other:
        await one.save_state(GOVERNOR, "alice", {"n": 0}, METADATA)
        seen = await other.get_state(GOVERNOR, "alice")
        [before] = (await one.core.engine.read(["governors/bank/states/alice"])).documents
        await one.update_state(GOVERNOR, "alice", {"n": 1}, METADATA, expected=1)
        read, old = other.core.engine.read, [before] * 5

        async def torn(paths: Any) -> Any:
            reading = await read(paths)
            return (
                reading if not old else msgspec.structs.replace(reading, documents=(old.pop(), *reading.documents[1:]))
            )

        other.core.appender._engine = SimpleNamespace(
            read=torn, scan=other.core.engine.scan, commit=other.core.engine.commit
        )
        with pytest.raises(VersionConflict) as conflict:
            await other.update_state(GOVERNOR, "alice", {"n": 9}, METADATA, expected=seen)
        assert not old
        assert conflict.value.actual == 2


class Seldom(AroundEngine):
    """Does something of somebody else's after the first read that it passes on."""

    def __init__(self, engine: Engine, meddle: Callable[[], Awaitable[Any]]) -> None:
        super().__init__(engine)
        self.meddle: Callable[[], Awaitable[Any]] | None = meddle

    async def read(self, paths: Any) -> Any:  # noqa: D102
        reading = await self._engine.read(paths)
        if paths[0].endswith("states/alice") and (meddle := self.meddle) is not None:
            self.meddle = None
            await meddle()
        return reading


async def test_a_state_that_appears_while_it_is_looked_for(place: Place):
    """Is not found, and is not taken for one whose events are all that is left."""
    async with place.store() as one:
        engine = Seldom(place.engine(), partial(one.save_state, GOVERNOR, "alice", {"n": 0}, METADATA))
        async with place.store(engine) as other:
            with pytest.raises(StateNotFound):
                await other.get_state(GOVERNOR, "alice")
            assert engine.meddle is None
            assert (await other.get_state(GOVERNOR, "alice")).version == 1


async def test_a_conflict_carries_a_bounded_number_of_events(store: StateStore):
    """However far behind a writer is, it is given at most the hundred events it should read first."""
    await _grow(store, "alice", 130)
    with pytest.raises(VersionConflict) as conflict:
        await store.update_state(GOVERNOR, "alice", {}, METADATA, expected=5)
    assert [event.version for event in conflict.value.events] == list(range(6, 106))


async def test_concurrent_updates_lose_nothing(place: Place):
    """Thirty concurrent increments through two stores are all there in the end."""
    async with place.store() as one, place.store() as other:
        await one.save_state(GOVERNOR, "counter", {"n": 0}, METADATA)

        async def increment(store: StateStore) -> None:
            await store.state(GOVERNOR, "counter").update(lambda data: {"n": data["n"] + 1}, METADATA)

        async with anyio.create_task_group() as tasks:
            for _ in range(15):
                tasks.start_soon(increment, one)
                tasks.start_soon(increment, other)
        state = await other.get_state(GOVERNOR, "counter")
        assert (state.version, state.data) == (31, {"n": 30})


async def test_concurrent_creation_has_one_winner(place: Place):
    """Of many who create the same state at once exactly one succeeds; the others are told who did."""
    async with place.store() as one, place.store() as other:
        outcomes: list[object] = []

        async def create(store: StateStore, name: str) -> None:
            try:
                outcomes.append(await store.save_state(GOVERNOR, "alice", {"by": name}, METADATA))
            except VersionConflict as conflict:
                outcomes.append(conflict)

        async with anyio.create_task_group() as tasks:
            for index in range(6):
                tasks.start_soon(create, (one, other)[index % 2], str(index))
        [winner] = [each for each in outcomes if not isinstance(each, Exception)]
        state = await one.get_state(GOVERNOR, "alice")
        assert state == winner
        assert [each.events[0].to_state for each in outcomes if isinstance(each, VersionConflict)] == [state.data] * 5


async def test_stores_under_different_roots_do_not_meet(place: Place):
    """Stores under their own root and namespace share an engine and see nothing of each other."""
    layouts = (Layout(), Layout("apps", "one"), Layout("apps", "two"), Layout("a/b", ".."))
    async with (
        place.store(layout=layouts[0]) as first,
        place.store(layout=layouts[1]) as second,
        place.store(layout=layouts[2]) as third,
        place.store(layout=layouts[3]) as fourth,
    ):
        stores = (first, second, third, fourth)
        assert len({store.store_id for store in stores}) == 4
        for index, store in enumerate(stores):
            await store.save_state(GOVERNOR, "alice", {"n": index}, METADATA, event_id="the same id")
        for index, store in enumerate(stores):
            assert await collected(store.list_governors()) == [GOVERNOR]
            assert [each.data for each in await collected(store.list_states(GOVERNOR))] == [{"n": index}]
            assert (await store.get_stats()).versions == 1
            assert (await StateMachinePersister(store).validate_consistency()).consistent


@pytest.mark.parametrize(("root", "namespace"), [("apps", ""), ("", "one")])
def test_root_and_namespace_go_together(root: str, namespace: str):
    """Only one of root and namespace would leave documents in the wrong place, and is refused."""
    with pytest.raises(InvalidId):
        Layout(root, namespace)


# Events and their times ----------------------------------------------------------------------------------------


async def test_recorded_time_is_the_engines(place: Place, store: StateStore):
    """What a caller says of the time is kept as said; when it was stored is the engine's own word."""
    said = datetime(2001, 2, 3, 4, 5, 6, 7, tzinfo=UTC)
    first = from_us(place.clock.now_us())
    saved = await store.save_state(GOVERNOR, "alice", {"n": 1}, METADATA, timestamp=said)
    assert (saved.timestamp, saved.recorded_at) == (said, first)
    place.clock.advance_us(1_000_000)
    updated = await store.update_state(GOVERNOR, "alice", {"n": 2}, METADATA, expected=saved)
    second = from_us(place.clock.now_us())
    assert (updated.timestamp, updated.recorded_at) == (second, second)
    assert (await store.get_state(GOVERNOR, "alice")).recorded_at == second
    events = await collected(store.get_events(GOVERNOR, "alice"))
    assert [(event.timestamp, event.recorded_at) for event in events] == [(said, first), (second, second)]


async def test_times_with_offsets_are_the_same_moment(store: StateStore):
    """A time with another offset is the same moment in UTC; one without any is refused."""
    there = datetime(2026, 1, 31, 23, 0, tzinfo=UTC).astimezone(tz=None)
    saved = await store.save_state(GOVERNOR, "alice", {}, METADATA, timestamp=there)
    assert saved.timestamp == datetime(2026, 1, 31, 23, 0, tzinfo=UTC)
    with pytest.raises(InvalidData):
        await store.save_state(GOVERNOR, "bob", {}, METADATA, timestamp=datetime(2026, 1, 31))  # noqa: DTZ001
    assert not await store.exists(GOVERNOR, "bob")


async def test_metadata_tells_the_version_before(store: StateStore):
    """Each change tells who made it and on which version, whatever the caller put there."""
    metadata = ChangeMetadata("ann", "why", {"ticket": {"n": 1}}, parent_version=77)
    await store.save_state(GOVERNOR, "alice", {}, metadata)
    state = await store.update_state(GOVERNOR, "alice", {}, metadata, expected=1)
    assert state.metadata == ChangeMetadata("ann", "why", {"ticket": {"n": 1}}, parent_version=1)


@pytest.mark.parametrize("expected", [-1, True, 1.0, "1", None, 10**12])
async def test_expected_must_mean_something(store: StateStore, expected: Any):
    """What is no version and no expectation is refused before anything is sent."""
    with pytest.raises(InvalidData):
        await store.save_state(GOVERNOR, "alice", {}, METADATA, expected=expected)
    assert not await store.exists(GOVERNOR, "alice")


# Ids of callers ------------------------------------------------------------------------------------------------


async def test_an_id_stands_for_one_change_of_one_state(store: StateStore):
    """The same id for other content, on the same state or another, is refused; in another governor it is free."""
    await store.save_state(GOVERNOR, "alice", {"n": 1}, METADATA, event_id="once")
    refused: list[Callable[[], Any]] = [
        lambda: store.save_state(GOVERNOR, "alice", {"n": 2}, METADATA, expected=ANY, event_id="once"),
        lambda: store.save_state(GOVERNOR, "alice", {"n": 1}, METADATA, expected=ANY, event_id="once", action="other"),
        lambda: store.save_state(GOVERNOR, "bob", {"n": 1}, METADATA, event_id="once"),
        lambda: store.delete_state(GOVERNOR, "alice", METADATA, expected=1, event_id="once"),
        lambda: store.log_event(GOVERNOR, "alice", "save", METADATA, event_id="once"),
    ]
    for call in refused:
        with pytest.raises(IdempotencyConflict) as conflict:
            await call()
        assert conflict.value.event_id == "once"
    await store.save_state("another", "alice", {"n": 2}, METADATA, event_id="once")
    assert (await store.get_state(GOVERNOR, "alice")).version == 1
    assert not await store.exists(GOVERNOR, "bob")


async def test_the_same_call_again_has_the_first_result_much_later(store: StateStore):
    """An id keeps its meaning when the state has moved on, was deleted and has come back."""
    first = await store.save_state(GOVERNOR, "alice", {"n": 1}, METADATA, event_id="create")
    second = await store.update_state(GOVERNOR, "alice", {"n": 2}, METADATA, expected=1, event_id="update")
    gone = await store.delete_state(GOVERNOR, "alice", METADATA, expected=2, event_id="delete")
    await store.save_state(GOVERNOR, "alice", {"n": 4}, METADATA)
    assert await store.save_state(GOVERNOR, "alice", {"n": 1}, METADATA, event_id="create") == first
    again = await store.update_state(GOVERNOR, "alice", {"n": 2}, METADATA, expected=1, event_id="update")
    assert again == second
    assert await store.delete_state(GOVERNOR, "alice", METADATA, expected=2, event_id="delete") == gone
    assert (gone.deleted, gone.data) == (True, None)
    assert (await store.get_state(GOVERNOR, "alice")).version == 4


async def test_a_batch_with_and_without_ids_can_be_recorded_again(store: StateStore):
    """Of a batch, the ids that the caller gave are enough to find it again."""
    persister = StateMachinePersister(store, REDUCERS)
    batch = [NewEvent("add", 1), NewEvent("add", 2, "middle"), NewEvent("add", 3)]
    await store.save_state(GOVERNOR, "alice", {"n": 0}, METADATA)
    first = await persister.record(GOVERNOR, "alice", batch, METADATA, expected=ANY)
    assert await persister.record(GOVERNOR, "alice", batch, METADATA, expected=ANY) == first
    assert (await store.get_state(GOVERNOR, "alice")).data == {"n": 6}


async def test_a_batch_never_mixes_with_another(store: StateStore):
    """A batch that shares ids with earlier ones without being one of them is refused as a whole."""
    persister = StateMachinePersister(store, REDUCERS)
    one, two = NewEvent("add", 1, "one"), NewEvent("add", 1, "two")
    await persister.record(GOVERNOR, "alice", [one], METADATA, expected=ANY)
    await persister.record(GOVERNOR, "alice", [NewEvent("add", 1)], METADATA, expected=ANY)
    await persister.record(GOVERNOR, "alice", [two], METADATA, expected=ANY)
    for batch in ([one, two], [two, one], [one, NewEvent("add", 1, "three")]):
        with pytest.raises(IdempotencyConflict):
            await persister.record(GOVERNOR, "alice", batch, METADATA, expected=ANY)
    assert (await store.get_state(GOVERNOR, "alice")).data == {"n": 3}


async def test_a_batch_names_each_id_once(store: StateStore):
    """Two events of one batch cannot have one id."""
    persister = StateMachinePersister(store, REDUCERS)
    with pytest.raises(InvalidData):
        await persister.record(
            GOVERNOR, "alice", [NewEvent("add", 1, "x"), NewEvent("add", 1, "x")], METADATA, expected=ANY
        )


# Streams without their state -----------------------------------------------------------------------------------


@pytest.mark.parametrize("expected", [NO_STATE, EXISTS, ANY, 2], ids=str)
async def test_events_without_a_state_are_reported(place: Place, expected: Any):
    """A state whose document is gone is not written anew over its events: the error names the way out."""
    async with place.store() as store:
        await _grow(store, "alice", 2)
        await store.core.engine.commit([Delete("governors/bank/states/alice", ANYTHING)])
    async with place.store() as store:
        with pytest.raises(EventSourcingError, match="recover"):
            await store.save_state(GOVERNOR, "alice", {}, METADATA, expected=expected)
        assert (await store.recover(GOVERNOR)).rebuilt == ("governors/bank/states/alice",)
        assert (await store.save_state(GOVERNOR, "alice", {}, METADATA, expected=2)).version == 3


async def test_a_damaged_state_is_not_built_upon(place: Place, store: StateStore):
    """What reads the state to write it anew refuses damaged data instead of making it the truth."""
    persister = StateMachinePersister(store, REDUCERS)
    await store.save_state(GOVERNOR, "alice", {"n": 1}, METADATA)

    await edit(store.core.engine, "governors/bank/states/alice", data={"n": 100})
    changes: list[Callable[[], Any]] = [
        lambda: persister.record(GOVERNOR, "alice", [NewEvent("add", 1)], METADATA, expected=ANY),
        lambda: store.log_event(GOVERNOR, "alice", "ping", METADATA),
        lambda: store.state(GOVERNOR, "alice").update(lambda data: data, METADATA),
        lambda: store.get_state(GOVERNOR, "alice"),
        lambda: store.batch_get_states(GOVERNOR, ["alice"]),
        lambda: collected(store.list_states(GOVERNOR)),
        lambda: store.create_snapshot(GOVERNOR, "alice"),
    ]
    for change in changes:
        with pytest.raises(TaiStateError, match="recover"):
            await change()
    await store.recover(GOVERNOR)
    assert (await store.get_state(GOVERNOR, "alice")).data == {"n": 1}


# Typed handles -------------------------------------------------------------------------------------------------


class Account(BaseModel):
    """A model of pydantic's."""

    owner: str
    balance: int = 0
    tags: list[str] = []


@dataclass
class Pump:
    """A dataclass."""

    speed: float
    log: list[str] = field(default_factory=list)


class Order(TypedDict):
    """A typed dict."""

    items: list[str]


async def test_a_handle_with_a_model(store: StateStore):
    """With a model, everything that comes back is the model."""
    account = store.state(GOVERNOR, "alice", Account)
    saved = await account.save(Account(owner="Alice"), METADATA)
    assert saved.data == Account(owner="Alice")
    updated = await account.update(lambda data: data.model_copy(update={"balance": 5}), METADATA, action="deposit")
    assert (updated.version, updated.data.balance) == (2, 5)
    assert await account.get() == updated
    assert (await account.at(1)).data == Account(owner="Alice")
    assert (await account.at(updated.timestamp)).version == 2
    events = await collected(account.history())
    assert [(event.from_state, event.to_state) for event in events] == [
        (None, Account(owner="Alice")),
        (Account(owner="Alice"), Account(owner="Alice", balance=5)),
    ]
    assert [event.version for event in await collected(account.history(after=1, until=2))] == [2]
    deleted = await account.delete(METADATA, expected=updated)
    assert (deleted.deleted, deleted.data) == (True, None)
    with pytest.raises(StateNotFound):
        await account.get()
    [deletion] = await collected(account.history(after=2))
    assert (deletion.from_state, deletion.to_state) == (Account(owner="Alice", balance=5), None)


async def test_handles_with_other_kinds_of_models(store: StateStore):
    """Dataclasses, typed dicts and plain JSON work alike."""
    pump = store.state(GOVERNOR, "pump", Pump)
    await pump.save(Pump(1.5), METADATA)
    assert (await pump.update(lambda data: Pump(data.speed * 2, [*data.log, "x"]), METADATA)).data == Pump(3.0, ["x"])
    order = store.state(GOVERNOR, "order", Order)
    await order.save({"items": ["a"]}, METADATA)
    assert (await order.get()).data == {"items": ["a"]}
    plain = store.state(GOVERNOR, "plain")
    await plain.save({"any": [1, None]}, METADATA)
    assert (await plain.update(lambda data: {**data, "more": True}, METADATA)).data == {"any": [1, None], "more": True}


async def test_data_that_does_not_fit_its_model(store: StateStore):
    """Stored data of another shape is an error that names the fields and quotes no value."""
    await store.save_state(GOVERNOR, "alice", {"owner": ["CANARY"], "balance": "CANARY"}, METADATA)
    account = store.state(GOVERNOR, "alice", Account)
    for read in (account.get, lambda: account.at(1), lambda: collected(account.history())):
        with pytest.raises(SerializationError) as error:
            await read()  # type: ignore[operator]
        assert error.value.path == "governors/bank/states/alice"
        assert "owner" in str(error.value)
        assert "balance" in str(error.value)
        assert "CANARY" not in "".join(traceback.format_exception(error.value))
        assert "CANARY" not in str(error.value.fields())


async def test_a_value_that_is_not_its_model(store: StateStore):
    """A value that does not fit its model, or dumps to no JSON object, is refused and not written."""
    with pytest.raises(InvalidData) as error:
        await store.state(GOVERNOR, "alice", Account).save({"owner": "CANARY"}, METADATA)  # type: ignore[arg-type]
    assert "CANARY" not in str(error.value)
    with pytest.raises(InvalidData):
        await store.state(GOVERNOR, "alice", list[int]).save([1], METADATA)
    assert not await store.exists(GOVERNOR, "alice")


class Renamed(BaseModel):
    """Its JSON has other names than its fields."""

    owner: str = Field(alias="ownerName")
    note: str = Field(default="", validation_alias=AliasChoices("memo", "remark"))


class Exact(BaseModel):
    """Takes nothing but its own types and fields, and dumps more than it takes."""

    model_config = ConfigDict(strict=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")
    when: datetime
    names: frozenset[str]
    places: dict[int, tuple[int, int]]
    raw: bytes
    _cache: object = PrivateAttr(default_factory=object)

    @computed_field
    def year(self) -> int:
        """Not stored."""
        return self.when.year


@dataclass(eq=False)
class Valve:
    """A dataclass without an equality, which makes up one of its fields."""

    turns: int
    is_open: bool = field(init=False)

    def __post_init__(self) -> None:
        self.is_open = self.turns > 0


EXACT = Exact(when=datetime(2026, 3, 1, tzinfo=UTC), names=frozenset({"x"}), places={1: (2, 3)}, raw=b"\xff")


@pytest.mark.parametrize(
    "value", [Renamed(ownerName="Alice", memo="important"), EXACT, Valve(2)], ids=lambda value: type(value).__name__
)
async def test_a_model_reads_back_as_it_was_written(store: StateStore, value: Any):
    """Aliases, strict types and fields that are computed lose nothing, in what is returned and in what is written."""
    handle = store.state(GOVERNOR, "alice", type(value))
    adapter = TypeAdapter(type(value))
    whole = adapter.dump_python(value)
    assert adapter.dump_python((await handle.save(value, METADATA)).data) == whole
    assert adapter.dump_python((await handle.update(lambda data: data, METADATA)).data) == whole


async def test_the_keys_of_a_model_with_aliases(store: StateStore):
    """Data is stored under the aliases; under them or the names of the fields, it is read."""
    handle = store.state(GOVERNOR, "alice", Renamed)
    await handle.save(Renamed(ownerName="Alice", memo="x"), METADATA)
    assert (await store.get_state(GOVERNOR, "alice")).data == {"ownerName": "Alice", "note": "x"}
    for state_id, data in (("bob", {"owner": "Bob", "note": "y"}), ("carol", {"ownerName": "Carol", "remark": "z"})):
        await store.save_state(GOVERNOR, state_id, data, METADATA)
        read = (await store.state(GOVERNOR, state_id, Renamed).get()).data
        assert [read.owner, read.note] == [*data.values()]


class Torn(BaseModel):
    """Goes out under another name than it comes in by."""

    note: str = Field(default="", validation_alias="in", serialization_alias="out")


class Hidden(BaseModel):
    """Its dump hides what it holds."""

    key: SecretStr


class Overdraft(Account):
    """More than an account."""

    limit: int = 0


class Bank(BaseModel):
    """Holds models."""

    accounts: list[Account]
    size: int = Field(default=0, le=9)


@pytest.mark.parametrize(
    ("model", "value"),
    [
        (Torn, Torn.model_validate({"in": "CANARY"})),
        (Hidden, Hidden(key=SecretStr("CANARY"))),
        (Account, Overdraft(owner="CANARY", limit=5)),
        (Bank, Bank(accounts=[Overdraft(owner="CANARY", limit=5)])),
        (Bank, Bank(accounts=[]).model_copy(update={"size": 10})),
        (Order, {"items": ["CANARY"], "more": 1}),
    ],
    ids=["torn", "hidden", "subclass", "inner subclass", "unfit", "more keys"],
)
async def test_a_value_that_would_not_read_back(store: StateStore, model: Any, value: Any):
    """What its model would not read back from JSON, or as another value, is refused and not written."""
    with pytest.raises(InvalidData, match="read back") as error:
        await store.state(GOVERNOR, "alice", model).save(value, METADATA)
    assert "CANARY" not in "".join(traceback.format_exception(error.value))
    assert not await store.exists(GOVERNOR, "alice")


async def test_update_runs_its_function_on_what_is_there(place: Place):
    """When somebody else is faster, the function runs again on the newer state, and only its last result counts."""
    async with place.store() as one, place.store() as other:
        await one.save_state(GOVERNOR, "alice", {"n": 0}, METADATA)
        await other.get_state(GOVERNOR, "alice")
        handle = other.state(GOVERNOR, "alice")
        seen: list[int] = []
        started, go_on = anyio.Event(), anyio.Event()
        read = handle.get

        async def slow_get() -> Any:
            state = await read()
            if not started.is_set():
                started.set()
                await go_on.wait()
            return state

        handle.get = slow_get  # type: ignore[method-assign]

        def function(data: dict[str, Any]) -> dict[str, Any]:
            seen.append(data["n"])
            return {"n": data["n"] + 1}

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(handle.update, function, METADATA)
            await started.wait()
            await one.update_state(GOVERNOR, "alice", {"n": 10}, METADATA, expected=1)
            go_on.set()
        assert seen == [0, 10]
        assert (await one.get_state(GOVERNOR, "alice")).data == {"n": 11}


async def test_update_with_an_id_happens_once(store: StateStore):
    """An update called again with the same id has the first result, whatever its function would do now."""
    handle = store.state(GOVERNOR, "alice")
    await handle.save({"n": 0}, METADATA)

    def increment(data: dict[str, Any]) -> dict[str, Any]:
        return {"n": data["n"] + 1}

    first = await handle.update(increment, METADATA, event_id="once")
    await handle.update(increment, METADATA)
    assert await handle.update(increment, METADATA, event_id="once") == first
    assert (await handle.get()).data == {"n": 2}


async def test_update_with_an_id_of_something_else(store: StateStore):
    """An id that stands for another kind of change is refused by update as by everything else."""
    handle = store.state(GOVERNOR, "alice", Account)
    await handle.save(Account(owner="Alice"), METADATA, event_id="created")
    await store.log_event(GOVERNOR, "alice", "ping", METADATA, event_id="logged")
    await store.save_state(GOVERNOR, "bob", {}, METADATA, event_id="bob's")
    for event_id in ("created", "logged", "bob's"):
        with pytest.raises(IdempotencyConflict):
            await handle.update(lambda data: data, METADATA, event_id=event_id)


async def test_update_of_nothing(store: StateStore):
    """There must be a state to update, and a function that raises changes nothing."""
    handle = store.state(GOVERNOR, "alice")
    with pytest.raises(StateNotFound):
        await handle.update(lambda data: data, METADATA)
    await handle.save({"n": 0}, METADATA)

    def failing(data: dict[str, Any]) -> dict[str, Any]:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await handle.update(failing, METADATA)
    assert (await handle.get()).version == 1


# Finding and watching ------------------------------------------------------------------------------------------


async def test_find_states(place: Place):
    """States are found by the fields that the store indexes, one value or any of several, exactly by type."""
    async with place.store(indexed=("status", "address.city", "n")) as store:
        data: dict[str, dict[str, Any]] = {
            "a": {"status": "failed", "address": {"city": "Ulm"}, "n": 1},
            "b": {"status": "done", "address": {"city": "Ulm"}, "n": True},
            "c": {"status": "failed", "address": "Ulm", "n": None},
            "d": {"status": None},
            "e": {"status": "failed"},
        }
        for state_id, each in data.items():
            await store.save_state(GOVERNOR, state_id, each, METADATA)
        await store.delete_state(GOVERNOR, "e", METADATA, expected=1)

        async def found(where: dict[str, Any]) -> list[str]:
            return [state.id for state in await collected(store.find_states(GOVERNOR, where))]

        assert await found({"status": "failed"}) == ["a", "c"]
        assert await found({"status": ["done", None]}) == ["b", "d"]
        assert await found({"address.city": "Ulm"}) == ["a", "b"]
        assert await found({"status": "failed", "address.city": "Ulm"}) == ["a"]
        assert await found({"n": 1}) == ["a"]
        assert await found({"n": True}) == ["b"]
        assert await found({"n": None}) == ["c"]
        assert await found({"status": []}) == []
        assert await found({"status": "no such"}) == []
        assert await found({}) == ["a", "b", "c", "d"]


async def test_find_by_a_field_that_is_not_indexed(place: Place):
    """A field that the store was not opened with is refused, on every engine, before anything is read."""
    async with place.store(indexed=("status",)) as store:
        with pytest.raises(UnindexedField) as error:
            await collected(store.find_states(GOVERNOR, {"status": 1, "other": 1}))
        assert error.value.fields() == {"what": "other", "indexed": ("status",)}


async def test_watch_shows_what_is_there_and_what_comes(place: Place):
    """Watching starts with the state as it is and goes on with each newest version, a deletion included."""
    async with place.store() as store, place.store() as other:
        await store.save_state(GOVERNOR, "alice", {"n": 0}, METADATA)
        async with aclosing(store.watch(GOVERNOR, "alice", "bob")) as changes:
            assert (await anext(changes)).data == {"n": 0}
            await store.update_state(GOVERNOR, "alice", {"n": 1}, METADATA, expected=1)
            assert (await anext(changes)).version == 2
            await store.save_state(GOVERNOR, "carol", {}, METADATA)
            await other.save_state(GOVERNOR, "bob", {"n": 5}, METADATA)
            newest = await anext(changes)
            assert (newest.id, newest.data) == ("bob", {"n": 5})
            await store.delete_state(GOVERNOR, "alice", METADATA, expected=2)
            gone = await anext(changes)
            assert (gone.id, gone.version, gone.deleted, gone.data) == ("alice", 3, True, None)


async def test_watch_a_whole_governor(store: StateStore):
    """Without ids all states of the governor are watched, those to come included, and only those."""
    await store.save_state(GOVERNOR, "a/b", {"n": 0}, METADATA)
    async with aclosing(store.watch(GOVERNOR)) as changes:
        assert (await anext(changes)).id == "a/b"
        await store.save_state("another", "x", {}, METADATA)
        await store.create_snapshot(GOVERNOR, "a/b")
        await store.save_state(GOVERNOR, "new", {}, METADATA)
        assert (await anext(changes)).id == "new"


async def test_a_watching_handle_gives_models(store: StateStore):
    """A typed handle's watch gives models, and a deletion without one."""
    handle = store.state(GOVERNOR, "alice", Account)
    await handle.save(Account(owner="Alice"), METADATA)
    async with aclosing(handle.watch()) as changes:
        assert (await anext(changes)).data == Account(owner="Alice")
        await handle.delete(METADATA, expected=1)
        assert (await anext(changes)).deleted


async def test_breaking_off_an_iterator_leaves_nothing_behind(place: Place):
    """Every iterator of the store can be left after the first value, and the store goes on."""
    async with place.store(indexed=("n",)) as store:
        for state_id in ("alice", "bob"):
            await _grow(store, state_id, 3)
        persister = StateMachinePersister(store)
        start, end = from_us(0), from_us(place.clock.now_us()) + timedelta(days=1)
        for iterator in (
            store.list_states(GOVERNOR),
            store.find_states(GOVERNOR, {}),
            store.get_events(GOVERNOR, "alice"),
            store.get_all_events(GOVERNOR),
            store.get_events_between(GOVERNOR, start, end),
            persister.replay(GOVERNOR, "alice"),
            store.state(GOVERNOR, "alice").history(),
            store.list_governors(),
        ):
            async for _ in iterator:
                break
        assert (await store.get_stats()).versions == 6


class _Flaky(AroundEngine):
    """Each second read, and each second page of a scan, gets no answer, once calls are counted."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.calls: Counter[str] | None = None

    def _call(self, verb: str) -> None:
        if self.calls is not None:
            self.calls[verb] += 1
            if self.calls[verb] % 2:
                raise StoreTimeout(verb, "BUSY")

    async def read(self, paths: Sequence[str]) -> Reading:
        """Each second one is answered."""
        self._call("read")
        return await self._engine.read(paths)

    def scan(self, scan: Scan) -> Paged[Document]:
        """Small pages."""
        documents = self._engine.scan(scan)

        async def fetch() -> list[Document] | None:
            self._call("scan")
            return await taken(documents, 30) or None

        return Paged(fetch)


async def _insisting(values: AsyncIterator[Any]) -> list[Any]:
    """All that an iterator gives to somebody who asks again where there was no answer."""
    got: list[Any] = []
    while True:
        try:
            got.append(await anext(values))
        except StoreTimeout:
            continue
        except StopAsyncIteration:
            return got


@pytest.mark.parametrize(
    "read",
    [
        lambda store: store.get_events_between(GOVERNOR, from_us(0), datetime(2999, 1, 1, tzinfo=UTC)),
        lambda store: store.get_all_events(GOVERNOR),
        lambda store: store.get_events(GOVERNOR, "alice"),
        lambda store: StateMachinePersister(store).replay(GOVERNOR, "alice"),
        lambda store: store.state(GOVERNOR, "alice").history(),
        lambda store: store.list_states(GOVERNOR),
        lambda store: store.find_states(GOVERNOR, {}),
        lambda store: store.list_governors(),
    ],
    ids=["between", "all", "events", "replay", "history", "states", "found", "governors"],
)
async def test_an_iterator_goes_on_where_there_was_no_answer(place: Place, read: Callable[..., AsyncIterator[Any]]):
    """Asked again after an error that passes, an iterator gives what comes next: nothing is lost, nothing doubled."""
    async with place.store() as store:
        for state_id in ("alice", "bob"):
            await _grow(store, state_id, 65)
        expected = await collected(read(store))
    flaky = _Flaky(place.engine())
    async with place.store(flaky) as store:
        flaky.calls = Counter()
        assert await _insisting(read(store)) == expected


async def test_one_str_is_no_sequence_of_ids(store: StateStore):
    """Ids given as one str are refused; its letters are not what was meant."""
    with pytest.raises(InvalidId):
        await store.batch_get_states(GOVERNOR, "abc")


# What is the caller's stays the caller's -----------------------------------------------------------------------


async def test_nothing_aliases_the_callers_data(place: Place):
    """Neither what goes in nor what comes out shares anything with what the store holds."""
    async with place.store() as store:
        data: dict[str, Any] = {"list": [1], "map": {"k": []}}
        context: dict[str, Any] = {"c": [1]}
        payload: list[Any] = [{"p": 1}]
        saved = await store.save_state(GOVERNOR, "alice", data, ChangeMetadata("ann", "why", context))
        event = await store.log_event(GOVERNOR, "alice", "ping", METADATA, payload=payload)
        data["list"].append("changed")
        context["c"].append("changed")
        payload[0]["p"] = "changed"
        for given in (saved, event, await store.get_state(GOVERNOR, "alice")):
            given.causality["changed"] = 9
            given.metadata.context["changed"] = 9
        saved.data["list"].append("changed")
        event.from_state["map"]["k"].append("changed")
        event.to_state["map"]["k"].append("changed")
        event.payload.append("changed")
        seen = await collected(store.get_events(GOVERNOR, "alice"))
        seen[0].to_state["list"].append("changed")
        assert seen[1].from_state == {"list": [1], "map": {"k": []}}
        await store.log_event(GOVERNOR, "alice", "ping", METADATA)
        state = await store.get_state(GOVERNOR, "alice")
        assert state.data == {"list": [1], "map": {"k": []}}
        assert state.causality == {store.store_id: 3}
        events = await collected(store.get_events(GOVERNOR, "alice"))
        assert [each.causality for each in events] == [{store.store_id: n} for n in (1, 2, 3)]
        assert events[0].metadata.context == {"c": [1]}
        assert events[1].payload == [{"p": 1}]
        assert events[1].metadata.context == METADATA.context
        assert (await StateMachinePersister(store).validate_consistency()).consistent


async def test_a_function_may_change_what_it_is_given(store: StateStore):
    """An update's function may change its argument in place: it is nobody else's."""
    handle = store.state(GOVERNOR, "alice")
    await handle.save({"list": []}, METADATA)

    def append(data: dict[str, Any]) -> dict[str, Any]:
        data["list"].append(1)
        return data

    await handle.update(append, METADATA)
    await handle.update(append, METADATA)
    assert [event.to_state for event in await collected(handle.history())] == [
        {"list": []},
        {"list": [1]},
        {"list": [1, 1]},
    ]


async def test_two_spellings_are_two_states(store: StateStore):
    """Ids are not normalised: the composed and the decomposed form of a letter are two states, also in lists."""
    composed = unicodedata.normalize("NFC", "é")
    decomposed = unicodedata.normalize("NFD", "é")
    await store.save_state(composed, composed, {"n": 1}, METADATA)
    await store.save_state(composed, decomposed, {"n": 2}, METADATA)
    await store.save_state(decomposed, composed, {"n": 3}, METADATA)
    assert (await store.get_state(composed, composed)).data == {"n": 1}
    assert (await store.get_state(composed, decomposed)).data == {"n": 2}
    assert {state.id for state in await collected(store.list_states(composed))} == {composed, decomposed}
    assert set(await collected(store.list_governors())) == {composed, decomposed}


async def test_what_is_too_large_is_refused_whole(store: StateStore):
    """Data over the engine's limit is refused before it is sent, and the store goes on as if nothing had been."""
    await store.save_state(GOVERNOR, "alice", {"n": 0}, METADATA)
    with pytest.raises(DocumentTooLarge) as error:
        await store.update_state(GOVERNOR, "alice", {"text": "x" * 1_100_000}, METADATA, expected=1)
    assert error.value.size > error.value.limit == store.core.engine.capabilities.max_document_bytes
    with pytest.raises(CommitTooLarge):
        await StateMachinePersister(store).record(
            GOVERNOR,
            "alice",
            [NewEvent("note")] * store.core.engine.capabilities.max_ops_per_commit,
            METADATA,
            expected=1,
        )
    assert (await store.update_state(GOVERNOR, "alice", {"n": 1}, METADATA, expected=1)).version == 2
    assert (await StateMachinePersister(store).validate_consistency()).consistent


async def test_neither_logs_nor_errors_hold_state_data(place: Place, caplog: pytest.LogCaptureFixture):
    """Nothing that callers keep in states, payloads and contexts appears in a log record or an error's text."""
    caplog.set_level(logging.DEBUG, "tai_state")
    canary = "CANARY-5f2e"
    data = {"secret": canary, canary: 1}
    metadata = ChangeMetadata("ann", canary, {canary: canary})
    errors: list[TaiStateError] = []

    async def failing(call: Callable[[], Any]) -> None:
        with pytest.raises(TaiStateError) as error:
            await call()
        errors.append(error.value)

    async with place.store(snapshots=EveryEvents(2, keep=2)) as store:
        persister = StateMachinePersister(store, REDUCERS)
        for version in range(4):
            await store.save_state(GOVERNOR, "alice", data, metadata, expected=version, event_id=f"id-{version}")
        await store.log_event(GOVERNOR, "alice", "ping", metadata, payload=canary)
        await failing(lambda: store.save_state(GOVERNOR, "alice", data, metadata))
        await failing(lambda: store.save_state(GOVERNOR, "alice", {canary: 1}, metadata, event_id="id-1"))
        await failing(lambda: store.save_state(GOVERNOR, "x", {canary: {canary}}, metadata))
        await failing(lambda: store.save_state(GOVERNOR, "x", {canary: "x" * 1_100_000}, metadata))
        await failing(lambda: persister.record(GOVERNOR, "alice", [NewEvent("x", {canary})], metadata, expected=ANY))
        await store.core.engine.commit([Delete("governors/bank/states/alice", ANYTHING)])
        await failing(lambda: store.save_state(GOVERNOR, "alice", data, metadata))

        await edit(store.core.engine, "governors/bank/snapshots/alice~000000000004", state=f'{{"a":"{canary}"}}')
        assert await store.recover(GOVERNOR)
        assert await collected(persister.replay(GOVERNOR, "alice"))
        await edit(store.core.engine, "governors/bank/states/alice", data={"secret": f"{canary} and more"})
        await failing(lambda: store.get_state(GOVERNOR, "alice"))
        await edit(store.core.engine, "governors/bank/states/alice", version=canary)
        await failing(lambda: store.get_state(GOVERNOR, "alice"))
        await edit(store.core.engine, "governors/bank/events/alice~000000000002", to_state=canary)
        await failing(lambda: collected(store.get_events(GOVERNOR, "alice")))
        report = await persister.validate_consistency()
        assert report.findings
    told = [*map(repr, report.findings), *(f"{error} {error.fields()} {error.__cause__!r}" for error in errors)]
    for record in caplog.records:
        told.append(f"{record.getMessage()} {vars(record)}")
    # The path in an InvalidData names the key, which a caller cannot do without.
    told = [each for each in told if "is not plain JSON" not in each]
    assert caplog.records
    assert not [each for each in told if canary in each]


async def test_log_records_name_the_document(place: Place, caplog: pytest.LogCaptureFixture):
    """Conflicts and repairs are logged as warnings, with the path as a field of the record."""
    caplog.set_level(logging.WARNING, "tai_state")
    async with place.store() as store:
        await store.save_state(GOVERNOR, "alice", {}, METADATA)
        with pytest.raises(VersionConflict):
            await store.save_state(GOVERNOR, "alice", {}, METADATA, expected=9)
        await store.core.engine.commit([Delete("governors/bank/states/alice", ANYTHING)])
        await store.recover(GOVERNOR)
    assert [(record.name.split(".")[1], vars(record)["path"]) for record in caplog.records] == [
        ("store", "governors/bank/states/alice"),
        ("history", "governors/bank/states/alice"),
    ]


# Budgets -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def counted() -> AsyncIterator[tuple[StateStore, CountingEngine]]:
    """A store on an engine that counts; the counts are made above the waist and are the same for every engine."""
    with Places(MEMORY) as places:
        place = places.new()
        engine = CountingEngine(place.engine())
        async with place.store(engine, snapshots=EveryEvents(10, keep=1)) as store:  # type: ignore[arg-type]
            yield store, engine


Cost = tuple[int, int, list[int]]
"""Reads, scans, and the writes of each commit."""


async def _cost(engine: CountingEngine, call: Any) -> Cost:
    engine.reset()
    await (call() if callable(call) else call)
    counts = engine.counts
    return counts.reads, counts.scans, [len(writes) for writes in counts.commits]


async def test_budget_of_reads(counted: tuple[StateStore, CountingEngine]):
    """One state or many are one read."""
    store, engine = counted
    await _grow(store, "alice", 3)
    assert await _cost(engine, store.get_state(GOVERNOR, "alice")) == (1, 0, [])
    assert await _cost(engine, store.exists(GOVERNOR, "alice")) == (1, 0, [])
    assert await _cost(engine, store.batch_get_states(GOVERNOR, ["alice", "bob", "carol"])) == (1, 0, [])
    assert await _cost(engine, lambda: collected(store.get_events(GOVERNOR, "alice"))) == (0, 1, [])


async def test_budget_of_changes(counted: tuple[StateStore, CountingEngine]):
    """A change on a known head is one commit of state and event; what comes on top is stated here."""
    store, engine = counted
    persister = StateMachinePersister(store)
    await store.save_state(GOVERNOR, "first", {}, METADATA)
    assert await _cost(engine, store.save_state(GOVERNOR, "alice", {}, METADATA)) == (0, 0, [2])
    assert await _cost(engine, store.update_state(GOVERNOR, "alice", {}, METADATA, expected=1)) == (0, 0, [2])
    before = await store.get_state(GOVERNOR, "alice")
    transition = persister.log_transition(GOVERNOR, before, before.with_data({"n": 1}), "move", METADATA)
    assert await _cost(engine, transition) == (0, 0, [2])
    with_id = store.update_state(GOVERNOR, "alice", {}, METADATA, expected=3, event_id="x")
    assert await _cost(engine, with_id) == (0, 0, [3])
    assert await _cost(engine, store.delete_state(GOVERNOR, "alice", METADATA, expected=4)) == (0, 0, [2])
    assert await _cost(engine, store.save_state(GOVERNOR, "alice", {}, METADATA)) == (0, 0, [2])
    assert await _cost(engine, store.save_state(GOVERNOR, "alice", {}, METADATA, expected=ANY)) == (1, 0, [2])
    assert await _cost(engine, store.save_state(GOVERNOR, "alice", {}, METADATA, expected=EXISTS)) == (1, 0, [2])
    assert await _cost(engine, store.log_event(GOVERNOR, "alice", "ping", METADATA)) == (1, 0, [2])


async def test_budget_of_kept_snapshots(counted: tuple[StateStore, CountingEngine]):
    """A snapshot that falls due goes with its event, and an old one leaves with it: one commit of four."""
    store, engine = counted
    await _grow(store, "alice", 9)
    assert await _cost(engine, store.update_state(GOVERNOR, "alice", {}, METADATA, expected=9)) == (0, 0, [3])
    for version in range(10, 19):
        assert await _cost(engine, store.update_state(GOVERNOR, "alice", {}, METADATA, expected=version)) == (
            (0, 0, [2])
        )
    assert await _cost(engine, store.update_state(GOVERNOR, "alice", {}, METADATA, expected=19)) == (0, 0, [4])
    assert await store.list_snapshots(GOVERNOR, "alice") == [20]


async def test_budget_of_the_first_state(counted: tuple[StateStore, CountingEngine]):
    """A governor's own document is looked at once, and written by the commit of its first state."""
    store, engine = counted
    assert await _cost(engine, store.save_state(GOVERNOR, "alice", {}, METADATA)) == (1, 0, [3])
    assert await _cost(engine, store.save_state(GOVERNOR, "bob", {}, METADATA)) == (0, 0, [2])


async def test_budget_of_a_conflict(counted: tuple[StateStore, CountingEngine]):
    """A refusal costs a look, which shows the event that the writer had not seen; several cost a scan."""
    store, engine = counted
    await _grow(store, "alice", 3)
    other = StateStore(Opened(engine), store.core.layout, store.core.settings)  # type: ignore[arg-type]
    async with other:
        await other.get_state(GOVERNOR, "alice")
        await store.update_state(GOVERNOR, "alice", {}, METADATA, expected=3)
        engine.reset()
        with pytest.raises(VersionConflict):
            await other.update_state(GOVERNOR, "alice", {}, METADATA, expected=3)
        assert (engine.counts.reads, engine.counts.scans, len(engine.counts.commits)) == (1, 0, 1)
        await _grow(store, "alice", 2, start=4)
        engine.reset()
        with pytest.raises(VersionConflict) as far:
            await other.update_state(GOVERNOR, "alice", {}, METADATA, expected=4)
        assert [event.version for event in far.value.events] == [5, 6]
        assert (engine.counts.reads, engine.counts.scans, len(engine.counts.commits)) == (1, 1, 1)


async def test_budget_of_a_refreshed_head(counted: tuple[StateStore, CountingEngine]):
    """A head that another store made stale without moving the version costs one look and one more commit."""
    store, engine = counted
    await _grow(store, "alice", 3)
    async with StateStore(Opened(engine), store.core.layout, store.core.settings) as other:  # type: ignore[arg-type]
        await other.create_snapshot(GOVERNOR, "alice")
        assert await _cost(engine, store.update_state(GOVERNOR, "alice", {}, METADATA, expected=3)) == (1, 0, [2, 2])


async def test_budget_of_time_travel(counted: tuple[StateStore, CountingEngine]):
    """A past state takes one look where an event carries it; else also one scan from the nearest kept snapshot."""
    store, engine = counted
    persister = StateMachinePersister(store, REDUCERS)
    await _grow(store, "alice", 13)
    for _ in range(13):
        await persister.record(GOVERNOR, "bob", [NewEvent("add", 1)], METADATA, expected=ANY)
    assert await _cost(engine, persister.get_state_at(GOVERNOR, "alice", 12)) == (1, 0, [])
    assert await _cost(engine, lambda: collected(persister.replay(GOVERNOR, "alice", after=12))) == (1, 1, [])
    for state_id in ("alice", "bob"):
        state = await store.get_state(GOVERNOR, state_id)
        assert await _cost(engine, lambda: collected(persister.replay(GOVERNOR, state_id))) == (1, 1, [])  # noqa: B023
        assert await _cost(engine, persister.get_state_at(GOVERNOR, state_id, state.timestamp)) == (1, 1, [])
    assert await _cost(engine, persister.get_state_at(GOVERNOR, "bob", 12)) == (1, 1, [])
    assert await _cost(engine, lambda: collected(persister.replay(GOVERNOR, "bob", after=12))) == (1, 1, [])
    store.core.appender.heads.drop("governors/bank/states/bob")
    assert await _cost(engine, persister.get_state_at(GOVERNOR, "bob", 12)) == (2, 1, [])


@pytest.mark.parametrize("length", [1_099, pytest.param(100_099, id="long")])
async def test_recovery_reads_no_more_of_a_long_stream(length: int):
    """At the worst moment, right before a snapshot, a state is checked by one interval, however long its stream."""
    with Places(MEMORY) as places:
        place = places.new()
        engine = CountingEngine(place.engine())
        async with place.store(engine, snapshots=EveryEvents(100)) as store:  # type: ignore[arg-type]
            await _grow_fast(store, "alice", length)

            async def read_by_recovery() -> int:
                engine.reset()
                recovery = Recovery(store.core, Replay(store.core, {}))
                await recovery.recover_one(store.core.layout.stream(GOVERNOR, "alice"))
                return engine.counts.documents

            assert await read_by_recovery() <= 100 + 3
            await edit(store.core.engine, "governors/bank/states/alice", data={})
            assert await read_by_recovery() <= 100 + 3
            # Which snapshots there are is not known any more: all five are looked at, and the first event.
            await store.core.engine.commit([Delete("governors/bank/states/alice", ANYTHING)])
            assert await read_by_recovery() <= 100 + 3 + 5
            assert (await store.get_state(GOVERNOR, "alice")).version == length


async def _grow(store: StateStore, state_id: str, versions: int, start: int = 0) -> None:
    for version in range(start, start + versions):
        await store.save_state(GOVERNOR, state_id, {"n": version}, METADATA, expected=version)


async def _grow_fast(store: StateStore, state_id: str, versions: int) -> None:
    """Many events, up to a hundred in one commit, so that snapshots fall due as they do one by one."""
    stream = store.core.layout.stream(GOVERNOR, state_id)
    for start in range(0, versions, 100):
        numbers = range(start, min(start + 100, versions))
        drafts = tuple(
            Draft(
                event_id=f"event-{number}",
                action="grow",
                timestamp="2026-01-01T00:00:00.000000Z",
                changed_by="tester",
                reason="",
                context="{}",
                state=f'{{"n":{number}}}',
            )
            for number in numbers
        )
        composition = Composition(drafts, {"n": numbers[-1]})
        append = Append(stream=stream, expected=start, drafts=drafts)
        await store.core.appender.append_one(append, always(composition))


# Opening -------------------------------------------------------------------------------------------------------


async def test_opening_by_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The address is taken from the call, else from the environment, else it is a file in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TAI_STATE_STORE", raising=False)
    async with open_store() as store:
        await store.save_state(GOVERNOR, "alice", {}, METADATA)
    assert (tmp_path / "tai-state.db").exists()
    monkeypatch.setenv("TAI_STATE_STORE", f"sqlite:///{tmp_path}/with%20space.db?root=r&namespace=n&indexed=a,b")
    async with open_store() as store:
        await store.save_state(GOVERNOR, "alice", {"a": 1}, METADATA)
        assert [state.id for state in await collected(store.find_states(GOVERNOR, {"a": 1}))] == ["alice"]
        assert store.core.layout.governors == "r/n/governors"
    assert (tmp_path / "with space.db").exists()
    async with open_store("sqlite:///tai-state.db") as store:
        assert await store.exists(GOVERNOR, "alice")
    async with open_store("memory://") as store:
        assert not await store.exists(GOVERNOR, "alice")


def _names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_reading_creates_no_store(tmp_path: Path):
    """Told not to create, opening what is not there is an error and leaves nothing behind."""
    with pytest.raises(StoreNotFound):
        async with open_store(f"sqlite:///{tmp_path}/none.db", create=False):
            raise AssertionError
    assert _names_in(tmp_path) == []
    with pytest.raises(StoreNotFound):
        async with open_store("memory://", create=False):
            raise AssertionError


@pytest.mark.parametrize(
    "address",
    ["nonsense", "redis://x", "memory://name", "sqlite://relative.db", "sqlite:///", "memory://?colour=red"],
)
def test_addresses_that_mean_nothing(address: str):
    """An address that names no store is refused with a hint, before anything is opened."""
    with pytest.raises(UnknownStore) as error:
        open_store(address)
    assert error.value.hint


async def test_a_store_keeps_its_identity(tmp_path: Path):
    """A store's id, which its clocks count by, is made once and stays."""
    address = f"sqlite:///{tmp_path}/store.db"
    async with open_store(address) as store:
        first = store.store_id
    async with open_store(address) as one, open_store(address) as other:
        assert one.store_id == other.store_id == first


# Opening on an engine ------------------------------------------------------------------------------------------


async def test_a_store_on_an_engine_that_is_given():
    """The engine is the one that was made, and both go by the clock that was set."""
    clock = ManualClock(start_us=1_000_000)
    engine = MemoryEngine(clock)
    async with open_store(engine, clock=clock, snapshots=EveryEvents(1)) as store:
        saved = await store.save_state(GOVERNOR, "alice", {}, METADATA)
        assert saved.timestamp == saved.recorded_at == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
        assert [each.id async for each in engine.scan(Scan("governors/bank/states"))] == ["alice"]


@pytest.mark.parametrize("nonsense", [5, object(), b"memory://", ""], ids=["number", "object", "bytes", "empty"])
def test_what_is_neither_address_nor_engine(nonsense: Any):
    """It is refused before anything is opened."""
    with pytest.raises(UnknownStore, match="is no store's address"):
        open_store(nonsense)
