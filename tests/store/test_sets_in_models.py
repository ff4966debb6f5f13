"""Sets in models: equal ones are the same change, in whatever order Python iterates them."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, deque
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, RootModel, field_serializer, model_serializer
from pydantic.alias_generators import to_camel
from typing_extensions import TypedDict

from tai_state import InvalidData, StateStore, Transaction, open_store

from ..support.stores import GOVERNOR, METADATA

pytestmark = pytest.mark.anyio


class Tagged(BaseModel):
    tags: set[int]
    order: list[int] = [8, 0]


class Aliased(BaseModel):
    first_tags: set[int] = Field(alias="tags")


class Generated(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)
    first_tags: AbstractSet[int]
    excluded: set[int] = Field(default=set(), exclude=True)


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, set[int]] = {}  # pyright: ignore[reportIncompatibleVariableOverride]


class Tree(BaseModel):
    below: list[Tree | Tagged] = []
    by_name: dict[int, Tagged | None] = {}


class Frozen(BaseModel, frozen=True):
    inner: frozenset[int]


class Several(BaseModel):
    items: set[Frozen]


class Root(RootModel[dict[str, tuple[set[int], int]]]):
    pass


@dataclasses.dataclass
class Plain:
    tags: set[int]
    more: dict[str, deque[frozenset[int]]]


class Typed(TypedDict, total=False):
    other: int
    tags: set[int]


class Counted(BaseModel):
    tags: set[int]

    @field_serializer("tags")
    def _written(self, tags: set[int]) -> list[int]:
        return sorted(tags, reverse=True)


class Own(BaseModel):
    tags: set[int]

    @model_serializer
    def _written(self) -> dict[str, Any]:
        return {"tags": [*self.tags]}


SHAPES: list[tuple[Any, Callable[[list[int]], Any]]] = [
    (Tagged, lambda items: Tagged(tags=set(items))),
    (Aliased, lambda items: Aliased(tags=set(items))),
    (Generated, lambda items: Generated(first_tags=set(items))),
    (Extra, lambda items: Extra.model_validate({"more": items})),
    (Tree, lambda items: Tree(below=[Tree(below=[Tagged(tags=set(items))])], by_name={3: Tagged(tags=set(items))})),
    (Several, lambda items: Several(items={Frozen(inner=frozenset(items)), Frozen(inner=frozenset([1]))})),
    (Root, lambda items: Root({"a": (set(items), 1)})),
    (Plain, lambda items: Plain(set(items), {"a": deque([frozenset(items)])})),
    (Typed, lambda items: {"tags": set(items), "other": 1}),
    (Tagged | Plain, lambda items: Tagged(tags=set(items))),
    (dict[str, set[int]], lambda items: {"b": set(items), "a": set[int]()}),
    (Counted, lambda items: Counted(tags=set(items))),
    (Own, lambda items: Own(tags=set(items))),
    (Annotated[Tagged, "a note"], lambda items: Tagged(tags=set(items))),
]


@pytest.fixture
def anyio_backend() -> str:
    """Converting a model is the same under every event loop."""
    return "asyncio"


@pytest.fixture
async def store() -> Any:
    """An open store in memory."""
    async with open_store("memory://") as opened:
        yield opened


@pytest.mark.parametrize(("model", "value_of"), SHAPES)
async def test_equal_sets_are_the_same_change(store: StateStore, model: Any, value_of: Callable[[list[int]], Any]):
    """A request that is repeated with an equal value returns the first result, whatever the order of its sets."""
    assert [*{0, 8}] != [*{8, 0}]  # Python keeps these two in the order in which they came
    state, again = store.state(GOVERNOR, "s", model), store.state(GOVERNOR, "t", model)
    first = await state.save(value_of([0, 8]), METADATA, event_id="r-1")
    assert await state.save(value_of([8, 0]), METADATA, event_id="r-1") == first
    assert first.data == value_of([0, 8])

    for items in ([0, 8], [8, 0]):

        async def function(tx: Transaction, items: list[int] = items) -> None:
            tx.put(again, value_of(items), event_id="r-2")

        await store.transact(function, METADATA)
    assert (await again.get()).version == 1
    stored = [await store.get_state(GOVERNOR, each) for each in "st"]
    assert stored[0].data == stored[1].data


async def test_lists_stay_as_they_are(store: StateStore):
    """Only sets are put in order."""
    await store.state(GOVERNOR, "s", Tagged).save(Tagged(tags={0, 8, 16}, order=[8, 0, 16]), METADATA)
    assert (await store.get_state(GOVERNOR, "s")).data == {"tags": [0, 16, 8], "order": [8, 0, 16]}


class Sorted(BaseModel):
    names: OrderedDict[str, int]


async def test_an_order_that_json_loses_is_refused(store: StateStore):
    """The fields of JSON have no order, so an ``OrderedDict`` is saved only if its keys are sorted."""
    state = store.state(GOVERNOR, "s", Sorted)
    await state.save(Sorted(names=OrderedDict(a=1, b=2)), METADATA)
    with pytest.raises(InvalidData, match="read back as a different one"):
        await state.save(Sorted(names=OrderedDict(b=2, a=1)), METADATA, expected=1)
    assert [*(await state.get()).data.names] == ["a", "b"]
