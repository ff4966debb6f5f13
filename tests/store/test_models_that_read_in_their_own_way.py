"""Fields that a model does not know are kept, or refused, though the model reorders, renames or adds what it reads."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AliasChoices, BaseModel, Field, create_model, field_validator, model_validator

from tai_state import InvalidData, SerializationError
from tai_state.streams.codec import codec_of
from tai_state.values.json import encode

UPPER, LOWER = "AAAAAAAA-AAAA-4AAA-8AAA-AAAAAAAAAAAA", "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa"


class Item(BaseModel, frozen=True):
    sku: str
    count: int = 1


class Made(BaseModel):
    sku: str
    made: UUID = Field(default_factory=uuid4)


class Noted(BaseModel):
    note: str = ""


class AsSet(Noted):
    items: set[Item]


class Sorted(Noted):
    items: list[Item]

    @field_validator("items")
    @classmethod
    def _sort(cls, items: list[Item]) -> list[Item]:
        return sorted(items, key=lambda item: item.sku)


class Picky(Noted):
    items: list[Item]

    @field_validator("items")
    @classmethod
    def _pick(cls, items: list[Item]) -> list[Item]:
        return [item for item in items if item.sku]


class Numbers(BaseModel):
    price: float


class Priced(Noted):
    items: list[Numbers]


class ByAlias(Noted):
    sub: Item = Field(alias="subItem")


class ById(Noted):
    by_id: dict[UUID, Item]


class OneOf(Noted):
    name: str = Field(validation_alias=AliasChoices("name", "title"))


class Renamed(Noted):
    count: int = Field(default=0, validation_alias=AliasChoices("amount", "count"))


class Migrated(Noted):
    count: int = 0

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, data: Any) -> Any:
        return (
            {"count": data["amount"], **{key: data[key] for key in data if key != "count"}}
            if "amount" in data
            else data
        )


class Lines(Noted):
    items: list[Migrated | Noted] = []


class Fresh(Noted):
    token: UUID = Field(default_factory=uuid4)
    items: list[Made] = []


def rewritten(model: type[Any], stored: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """What is stored after a change through the model."""
    codec = codec_of(model)
    now = codec.to_json(change(codec.from_json(copy.deepcopy(stored), "a path")))
    return codec.keep_unknown(copy.deepcopy(stored), now, "a path")


def noted(value: Any) -> Any:
    """Change the note alone."""
    return value.model_copy(update={"note": "x"})


def item(sku: str, serial: str) -> dict[str, Any]:
    """An item as a newer release stores it."""
    return {"sku": sku, "count": 1, "serial": serial}


@pytest.mark.parametrize("model", [AsSet, Sorted])
def test_items_keep_their_own_fields_in_another_order(model: type[Any]):
    """A set, or a validator that sorts, gives each item's unknown fields to that item."""
    items = [item(f"k{n}", f"S{n}") for n in (5, 3, 4, 1, 2, 0)]
    after = rewritten(model, {"note": "", "items": items}, noted)
    assert {each["sku"]: each["serial"] for each in after["items"]} == {f"k{n}": f"S{n}" for n in range(6)}


def test_what_a_validator_drops_takes_nothing_of_the_others():
    """If the model drops an item, the others keep theirs."""
    after = rewritten(Picky, {"items": [item("", "S0"), item("a", "S1"), item("b", "S2")]}, noted)
    assert after["items"] == [item("a", "S1"), item("b", "S2")]


def test_values_that_the_model_writes_otherwise_keep_their_places():
    """Items whose every known value is written in another way are told apart by their order, which the model keeps."""
    stored = {"items": [{"price": "1.50", "serial": "A"}, {"price": "2.50", "serial": "B"}]}
    assert rewritten(Priced, stored, noted)["items"] == [{"price": 1.5, "serial": "A"}, {"price": 2.5, "serial": "B"}]


@pytest.mark.parametrize(
    ("model", "stored", "after"),
    [
        (ByAlias, {"sub": item("a", "S1")}, {"subItem": item("a", "S1")}),
        (ById, {"by_id": {UPPER: item("a", "S1")}}, {"by_id": {LOWER: item("a", "S1")}}),
        (OneOf, {"title": "a", "note": "", "serial": "S1"}, {"name": "a", "serial": "S1"}),
    ],
    ids=["by its own name", "by a key written otherwise", "by one of several names"],
)
def test_a_value_under_another_key_keeps_what_is_in_it(model: type[Any], stored: Any, after: Any):
    """What the model reads under one key and writes under another one is there once, with all that is in it."""
    assert rewritten(model, stored, noted) == {"note": "x", **after}


@pytest.mark.parametrize("model", [Renamed, Migrated])
@pytest.mark.parametrize("stored", [0, 5])
@pytest.mark.parametrize("before", ["", "x"], ids=["first change", "second change"])
def test_a_former_name_of_a_field_does_not_hold_a_change_up(model: type[Any], stored: int, before: str):
    """A field that the model has under a former name can be changed, also if what is stored there is its default."""
    value = {"amount": stored, "serial": "S1", "deep": {"amount": 1}}
    if before:
        value = rewritten(model, value, noted)
    after = rewritten(model, value, lambda now: now.model_copy(update={"count": 7}))
    assert after == {"count": 7, "note": before, "serial": "S1", "deep": {"amount": 1}}


def test_former_names_in_items_of_a_list_do_not_hold_a_change_up():
    """The same in lists: what the model reads in place of what it has written goes, and the rest stays."""

    def counted(value: Any) -> Any:
        return value.model_copy(update={"items": [each.model_copy(update={"count": 7}) for each in value.items]})

    stored = {"items": [{"amount": 0, "serial": "S1", "note": "a"}, {"amount": 0, "serial": "S2", "note": "b"}]}
    kept = {**stored, "items": stored["items"][:1]}
    assert rewritten(Lines, kept, counted)["items"] == [{"count": 7, "note": "a", "serial": "S1"}]
    with pytest.raises(InvalidData, match="not clear where they belong"):
        rewritten(Lines, stored, counted)


def test_a_model_that_makes_new_values_at_each_reading_keeps_all():
    """Ids and times that are made for fields which are not stored do not hide what the model does not know."""
    after = rewritten(Fresh, {"serial": "S0", "items": [{"sku": "a", "serial": "S1"}]}, noted)
    assert after["serial"] == "S0"
    assert after["items"][0]["serial"] == "S1"


def without_the_first(value: AsSet) -> Any:
    """Remove one item."""
    return value.model_copy(update={"items": list(value.items)[1:]})


def one_more_in_front(value: Any) -> Any:
    """Put an equal item in front of the others."""
    return value.model_copy(update={"items": [Item(sku="a"), *value.items]})


@pytest.mark.parametrize("change", [without_the_first, one_more_in_front])
def test_items_that_are_alike_to_the_model_are_not_guessed(change: Callable[[Any], Any]):
    """If it is not known which of two equal items went or came, the change is refused."""
    with pytest.raises(InvalidData, match=r"items\.0"):
        rewritten(Picky, {"items": [item("a", "S1"), item("a", "S2")]}, change)


def test_items_that_are_alike_throughout_are_no_question():
    """Which of two items went that have the same unknown fields makes no difference."""
    after = rewritten(Picky, {"items": [item("a", "S"), item("a", "S")]}, without_the_first)
    assert after["items"] == [item("a", "S")]


def test_the_model_is_asked_a_few_times_however_long_the_state_is(monkeypatch: pytest.MonkeyPatch):
    """A change reads the state through its model a fixed number of times, not once for each unknown field."""
    codec, calls = codec_of(Picky), Counter[int]()
    read = codec.from_json

    def counted(data: dict[str, Any], path: str) -> Any:
        calls[size] += 1
        return read(data, path)

    monkeypatch.setattr(codec, "from_json", counted)
    for size in (2, 200):
        rewritten(Picky, {"items": [item(f"k{n}", f"S{n}") for n in range(size)]}, noted)
    assert calls[2] == calls[200] <= 6


SKUS = st.sampled_from("abc")
STORED = st.lists(st.builds(item, SKUS, st.sampled_from(["S1", "S2", "S3"])), max_size=5)


@given(
    STORED, st.lists(st.builds(Item, sku=SKUS, count=st.integers(1, 2)), max_size=5), st.sampled_from([AsSet, Sorted])
)
def test_no_item_gets_what_belongs_to_another(stored: list[dict[str, Any]], items: list[Item], model: type[Any]):
    """Whatever becomes of the items: no unknown field goes from one to another, or the change is refused."""
    owners = {(each["sku"], each["serial"]) for each in stored}
    try:
        after = rewritten(
            model, {"items": stored}, lambda value: value.model_copy(update={"items": type(value.items)(items)})
        )
    except InvalidData:
        return
    others = [each for each in after["items"] if "serial" in each and (each["sku"], each["serial"]) not in owners]
    assert len(others) <= 1  # the only one that was changed may have been given another sku
    texts = Counter(map(encode, after["items"]))
    kept = Counter(map(encode, stored))
    for each in stored:
        same = [other for other in stored if other["sku"] == each["sku"]]
        if Item(sku=each["sku"]) in items and len(same) == 1 and model is Sorted:
            assert texts[encode(each)] == kept[encode(each)]


class Area(BaseModel):
    size: Any

    @field_validator("size", mode="before")
    @classmethod
    def _multiplied(cls, size: Any) -> Any:
        return size if isinstance(size, int) else size["width"] * size["height"]


def test_a_validator_that_raises_whatever_it_likes_is_a_misfit():
    """Data at which a model's own code fails does not fit the model: the error is the library's, and names the path."""
    with pytest.raises(SerializationError, match=r"a path.*KeyError") as raised:
        codec_of(Area).from_json({"size": {"depth": 3}}, "a path")
    assert isinstance(raised.value.__cause__, KeyError)
    with pytest.raises(InvalidData, match="KeyError"):
        codec_of(Area).to_json(Area.model_construct(size={"depth": 3}))


def test_a_model_that_is_not_complete_is_refused():
    """A model with a reference that leads nowhere is refused when the handle is made, not when it is used."""
    incomplete: Any = create_model("Incomplete", field=("Nowhere", ...))
    with pytest.raises(InvalidData, match="not a model that pydantic can use"):
        codec_of(incomplete)
