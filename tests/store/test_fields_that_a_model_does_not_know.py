"""Fields that a newer release stored, and an older model does not know: each way to write keeps them, or refuses."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from pydantic import BaseModel, Field

from tai_state import ANY, EXISTS, InvalidData, StateHandle, StateStore, Transaction, open_store
from tai_state.testing import ManualClock, MemoryEngine

from ..support.stores import GOVERNOR, METADATA, CountingEngine

pytestmark = pytest.mark.anyio


class Line(BaseModel):
    article: str
    count: int = 1


class Basket(BaseModel):
    customer: str = Field(alias="customerName", default="nobody")
    main: Line = Line(article="nothing")
    lines: list[Line] = []
    by_name: dict[str, Line] = {}


@dataclasses.dataclass
class Plain:
    amount: int


LINES = [{"article": "a", "count": 1, "unit": "l"}, {"article": "b", "count": 2}]
BY_NAME = {"x": {"article": "x", "count": 1, "unit": "m"}, "y": {"article": "y", "count": 1, "unit": "m"}}
STORED: dict[str, Any] = {
    "customerName": "Ada",
    "note": "kept",
    "main": {"article": "tea", "count": 1, "unit": "kg"},
    "lines": LINES,
    "by_name": BY_NAME,
}

Change = Callable[[Any], None]


def rename(basket: Basket) -> None:
    """Change a field beside those that are not known."""
    basket.customer = "Eve"


def count(basket: Basket) -> None:
    """Change a model that is a field."""
    basket.main.count = 2


def put_first(basket: Basket) -> None:
    """Move the items of a list."""
    basket.lines.insert(0, Line(article="c"))


def remove(basket: Basket) -> None:
    """Remove an item of a list and of a mapping, with all that it has."""
    del basket.lines[0], basket.by_name["x"]


def change_one(basket: Basket) -> None:
    """Change one item of a list and of a mapping."""
    basket.lines[0].count = 5
    basket.by_name["y"].count = 5


BASKETS: list[tuple[Change, dict[str, Any]]] = [
    (rename, {"customerName": "Eve"}),
    (count, {"main": {"article": "tea", "count": 2, "unit": "kg"}}),
    (put_first, {"lines": [{"article": "c", "count": 1}, *LINES]}),
    (remove, {"lines": LINES[1:], "by_name": {"y": BY_NAME["y"]}}),
    (
        change_one,
        {
            "lines": [{"article": "a", "count": 5, "unit": "l"}, LINES[1]],
            "by_name": {**BY_NAME, "y": {"article": "y", "count": 5, "unit": "m"}},
        },
    ),
]


async def by_update(store: StateStore, handle: StateHandle[Any], change: Change) -> None:
    """Change a state by a function."""

    def function(value: Any) -> Any:
        change(value)
        return value

    await handle.update(function, METADATA)


async def by_save(store: StateStore, handle: StateHandle[Any], change: Change) -> None:
    """Change a state that was read, and save it at its version."""
    now = await handle.get()
    change(now.data)
    await handle.save(now.data, METADATA, expected=now)


async def by_another_handle(store: StateStore, handle: StateHandle[Any], change: Change) -> None:
    """Save it through a handle that has not read it, at its version."""
    now = await handle.get()
    change(now.data)
    await store.state(GOVERNOR, "x", Basket).save(now.data, METADATA, expected=now.version)


async def by_last_word(store: StateStore, handle: StateHandle[Any], change: Change) -> None:
    """Save it whatever its version, once another writer has changed it since."""
    now = await handle.get()
    change(now.data)
    await store.save_state(GOVERNOR, "x", {**STORED, "customerName": "Eve"}, METADATA, expected=EXISTS)
    await handle.save(now.data, METADATA, expected=ANY)


async def in_transaction(store: StateStore, handle: StateHandle[Any], change: Change) -> None:
    """Write it twice in a transaction, which sees its own first write."""

    async def function(tx: Transaction) -> None:
        now = (await tx.get(handle)).data
        change(now)
        tx.put(handle, now)
        tx.put(handle, (await tx.get(handle)).data)

    await store.transact(function, METADATA)


async def blindly(store: StateStore, handle: StateHandle[Any], change: Change) -> None:
    """Write it in a transaction that has not read it."""
    now = (await handle.get()).data
    change(now)

    async def function(tx: Transaction) -> None:
        tx.put(handle, now)

    await store.transact(function, METADATA)


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: models are turned into JSON above the engines."""
    return "asyncio"


@pytest.fixture
async def store() -> AsyncIterator[StateStore]:
    """A store that counts, with one state that a newer release has written."""
    clock = ManualClock(step_us=1)
    engine: Any = CountingEngine(MemoryEngine(clock))
    async with open_store(engine, clock=clock) as store:
        await store.save_state(GOVERNOR, "x", copy.deepcopy(STORED), METADATA)
        yield store


@pytest.mark.parametrize(
    "way", [by_update, by_save, by_another_handle, by_last_word, in_transaction, blindly], ids=lambda way: way.__name__
)
@pytest.mark.parametrize(("change", "after"), BASKETS, ids=lambda each: getattr(each, "__name__", ""))
async def test_they_are_kept(store: StateStore, way: Any, change: Change, after: dict[str, Any]) -> None:
    """What the model does not know stays as it was, at every depth; what it knows is as it was changed."""
    await way(store, store.state(GOVERNOR, "x", Basket), change)
    assert (await store.get_state(GOVERNOR, "x")).data == {**STORED, **after}


async def test_a_dataclass_keeps_them_too(store: StateStore) -> None:
    """Fields are kept by dataclasses as by pydantic's models."""
    await store.save_state(GOVERNOR, "y", {"amount": 5, "note": "kept"}, METADATA)
    await store.state(GOVERNOR, "y", Plain).update(lambda before: Plain(before.amount + 1), METADATA)
    assert (await store.get_state(GOVERNOR, "y")).data == {"amount": 6, "note": "kept"}


async def test_it_is_refused_where_it_is_not_clear_whose_they_are(store: StateStore) -> None:
    """Of two items that were changed and one of which had an unknown field, none is guessed to be the one."""

    def change(basket: Basket) -> Basket:
        return basket.model_copy(update={"lines": [Line(article="d"), Line(article="e")]})

    with pytest.raises(InvalidData, match=r"lines\.0"):
        await store.state(GOVERNOR, "x", Basket).update(change, METADATA)
    assert (await store.get_state(GOVERNOR, "x")).data == STORED


@pytest.mark.parametrize("is_in_transaction", [False, True])
async def test_an_id_stands_for_exactly_its_data(store: StateStore, *, is_in_transaction: bool) -> None:
    """With a caller's id, a write that would have to keep fields is refused, and a repetition is still known."""
    basket = store.state(GOVERNOR, "x", Basket)
    value = Basket(customerName="Eve")

    async def write(expected: Any) -> None:
        if not is_in_transaction:
            await basket.save(value, METADATA, expected=expected, event_id="once")
            return

        async def function(tx: Transaction) -> None:
            tx.put(basket, value, expected=expected, event_id="once")

        await store.transact(function, METADATA)

    with pytest.raises(InvalidData, match="event id"):
        await write(ANY)
    known = {"customerName": "Bob", "main": LINES[1], "lines": [], "by_name": {}}
    await store.save_state(GOVERNOR, "x", known, METADATA, expected=1)
    await write(2)
    await store.save_state(GOVERNOR, "x", STORED, METADATA, expected=3)
    await write(2)
    assert (await store.get_state(GOVERNOR, "x")).version == 4


async def test_a_field_that_is_stored_by_its_other_name_is_known(store: StateStore) -> None:
    """A field that the model reads by its name, and writes by its alias, is not kept a second time."""
    await store.save_state(GOVERNOR, "y", {"customer": "Ada", "note": "kept"}, METADATA)
    after = await store.state(GOVERNOR, "y", Basket).update(
        lambda basket: basket.model_copy(update={"customer": "Eve"}), METADATA
    )
    assert after.data.customer == "Eve"
    data = (await store.get_state(GOVERNOR, "y")).data
    assert (data["customerName"], data["note"], "customer" in data) == ("Eve", "kept", False)


async def test_data_that_a_model_cannot_read_is_replaced(store: StateStore) -> None:
    """A state that does not fit the model was not read through it; a save replaces all of it, and so mends it."""
    await store.state(GOVERNOR, "x", Plain).save(Plain(1), METADATA, expected=ANY)
    assert (await store.get_state(GOVERNOR, "x")).data == {"amount": 1}


async def test_a_save_after_a_read_reads_nothing_more(store: StateStore) -> None:
    """A handle that has read or written a state saves it without another read; one that has not reads it once."""
    engine: Any = store.core.engine
    basket = store.state(GOVERNOR, "x", Basket)
    now = await basket.get()
    engine.reset()
    for number in range(3):
        now = await basket.save(now.data.model_copy(update={"customer": str(number)}), METADATA, expected=now)
    assert (engine.counts.reads, len(engine.counts.commits)) == (0, 3)
    await store.state(GOVERNOR, "x", Basket).save(now.data, METADATA, expected=now)
    assert (engine.counts.reads, len(engine.counts.commits)) == (1, 4)
    assert (await store.get_state(GOVERNOR, "x")).data["note"] == "kept"
