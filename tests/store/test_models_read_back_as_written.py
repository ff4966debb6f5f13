"""A model reads back as it was written, of the same class and with everything in it, or it is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar
from zoneinfo import ZoneInfo

import pytest
from pydantic import BaseModel, ConfigDict, Field, SecretStr, TypeAdapter

from tai_state import InvalidData, StateStore, open_store

from ..support.stores import GOVERNOR, METADATA

pytestmark = pytest.mark.anyio

T = TypeVar("T")


class Paid(BaseModel):
    amount: int


class Refunded(BaseModel):
    amount: int


class Order(BaseModel):
    last: Paid | Refunded
    others: list[Paid | Refunded] = []


class Sold(BaseModel):
    kind: Literal["sold"] = "sold"
    amount: int


class Rented(BaseModel):
    kind: Literal["rented"] = "rented"
    amount: int


class Box(BaseModel):
    inside: Any


class Holding(BaseModel, Generic[T]):
    inside: T


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


@dataclasses.dataclass
class User:
    id: int
    password: SecretStr = dataclasses.field(compare=False)


class Visit(BaseModel):
    at: datetime


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: models are turned into JSON above the engines."""
    return "asyncio"


@pytest.fixture
async def store() -> AsyncIterator[StateStore]:
    """An empty store."""
    async with open_store("memory://") as store:
        yield store


VALUES = [
    (Paid | Refunded, Paid(amount=5)),
    (Paid | Refunded, Refunded(amount=5)),
    (Order, Order(last=Refunded(amount=5))),
    (TypeAdapter(Paid | Refunded), Refunded(amount=5)),
    (Annotated[Sold | Rented, Field(discriminator="kind")], Sold(amount=5)),
    (Annotated[Sold | Rented, Field(discriminator="kind")], Rented(amount=5)),
    (Order, Order(last=Paid(amount=5), others=[Paid(amount=5), Refunded(amount=5)])),
    (Box, Box(inside={"a": [1, None]})),
    (Box, Box(inside=Paid(amount=5))),
    (Box, Box(inside=[{"a": Paid(amount=5)}])),
    (Holding[Paid], Holding[Paid](inside=Paid(amount=5))),
    (Holding, Holding(inside=Paid(amount=5))),
    (Open, Open(inside=Paid(amount=5))),
    (User, User(1, SecretStr("s3cret"))),
]


def classes(value: Any) -> Any:
    """What a value is made of, at any depth, by class and by value."""
    if isinstance(value, BaseModel):
        return type(value), {name: classes(each) for name, each in value}
    if dataclasses.is_dataclass(value):
        return type(value), {each.name: classes(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, SecretStr):
        return SecretStr, value.get_secret_value()
    if isinstance(value, dict):
        return {key: classes(each) for key, each in value.items()}
    if isinstance(value, list):
        return [classes(each) for each in value]
    return value


@pytest.mark.parametrize(("model", "value"), VALUES)
async def test_as_written_or_refused(store: StateStore, model: Any, value: Any) -> None:
    """What a handle saves it reads back, class by class and value by value, or the value is ``InvalidData``."""
    handle = store.state(GOVERNOR, "x", model)
    try:
        await handle.save(value, METADATA)
    except InvalidData:
        assert not await store.exists(GOVERNOR, "x")
    else:
        assert classes((await handle.get()).data) == classes(value)


async def test_two_unions_of_the_same_classes_are_two_models(store: StateStore) -> None:
    """A handle reads by its own union, whatever handles of the same classes in another order were made before."""
    await store.save_state(GOVERNOR, "x", {"amount": 5}, METADATA)
    read = [
        type((await store.state(GOVERNOR, "x", union).get()).data)
        for union in (Paid | Refunded, Refunded | Paid, Paid | Refunded)
    ]
    assert read == [Paid, Refunded, Paid]


@pytest.mark.parametrize(("hour", "fold"), [(1, 0), (2, 0), (2, 1), (3, 0)])
async def test_a_time_in_a_repeated_hour_is_saved(store: StateStore, hour: int, fold: int) -> None:
    """A time at a change of the clocks is stored with its exact offset, and reads back as the same moment."""
    at = datetime(2026, 10, 25, hour, 30, fold=fold, tzinfo=ZoneInfo("Europe/Berlin"))
    visits = store.state(GOVERNOR, "x", Visit)
    await visits.save(Visit(at=at), METADATA)
    back = (await visits.get()).data.at
    assert (back.timestamp(), back.utcoffset()) == (at.timestamp(), at.utcoffset())


async def test_an_update_keeps_what_its_model_does_not_know(store: StateStore) -> None:
    """A field that a newer release stored is carried over by an update through an older model, or that is refused."""
    await store.save_state(GOVERNOR, "x", {"amount": 5, "note": "by the newer release"}, METADATA)
    handle = store.state(GOVERNOR, "x", Paid)
    amount = 6
    try:
        await handle.update(lambda paid: Paid(amount=paid.amount + 1), METADATA)
    except InvalidData:
        amount = 5
    assert (await store.get_state(GOVERNOR, "x")).data == {"amount": amount, "note": "by the newer release"}
