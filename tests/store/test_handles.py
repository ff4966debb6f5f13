"""Typed handles: states as models, and updates by a function."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, TypeAdapter, computed_field
from typing_extensions import TypedDict

from tai_state import InvalidData, SerializationError, StateNotFound, StateStore

from ..support.accounts import Account
from ..support.stores import GOVERNOR, METADATA, collected

pytestmark = pytest.mark.anyio


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
        await store.state(GOVERNOR, "alice", Account).save({"balance": "CANARY"}, METADATA)  # type: ignore[arg-type]
    assert str(error.value) == "dict is not a value of the model Account: it does not fit at owner, balance"
    with pytest.raises(InvalidData, match=r"^dict is not a value of the model Account$"):
        await store.state(GOVERNOR, "alice", Account).save({"owner": "a", "balance": 1}, METADATA)  # type: ignore[arg-type]
    wrong = Account(owner="a", balance=1).model_copy(update={"balance": "CANARY"})
    with pytest.raises(InvalidData, match=r"^Account is not a value of the model Account: it does not fit at balance$"):
        await store.state(GOVERNOR, "alice", Account).save(wrong, METADATA)
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
