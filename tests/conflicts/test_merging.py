"""Merging field by field: nothing is lost unsaid."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tai_state import InvalidData
from tai_state.conflicts.merging import FieldMerge, FieldStrategy
from tai_state.conflicts.resolutions import Resolution
from tai_state.values.json import encode

from ..support.rivals import A, B, Data, glue, rivals


def one_field(strategy: FieldStrategy, ours: Any, theirs: Any, *base: Any) -> tuple[Any, list[Any]]:
    """What a strategy makes of a field, and the values discarded; without a base where none is given."""
    before = {"f": base[0]} if base else None
    resolution = FieldMerge({"f": strategy}).resolve(*rivals({"f": ours}, {"f": theirs}), before)
    assert resolution.data is not None
    return resolution.data["f"], [each.value for each in resolution.discarded]


@pytest.mark.parametrize(
    ("strategy", "ours", "theirs", "base", "merged", "discarded"),
    [
        ("counter", 15, 12, [10], 17, []),
        ("counter", 7, 12, [10], 9, []),
        ("counter", 0.5, 2, [1], 1.5, []),
        ("counter", 10**30 + 1, 10**30 + 2, [10**30], 10**30 + 3, []),
        ("counter", 11, 11, [10], 12, []),
        ("counter", 11, 11, [], 11, []),
        ("counter", 11, 10, [10], 11, []),
        ("counter", 15, 12, [], 12, [15]),
        ("counter", "x", 12, [10], 12, ["x"]),
        ("counter", True, 12, [10], 12, [True]),
        ("counter", 15, 12, ["x"], 12, [15]),
        ("counter", 1e308, 1.1e308, [0], 1.1e308, [1e308]),
        ("counter", 10**400, 0.5, [0], 0.5, [10**400]),
        ("union", [1, 2, 3], [1, 4], [[1, 2]], [1, 3, 4], []),
        ("union", [3, 1], [4, 1], [[1]], [1, 3, 4], []),
        ("union", [1, True, 1.0], ["1"], [[]], [1, True, 1.0, "1"], []),
        ("union", [{"a": 1}], [{"a": 1}, {"a": 2}], [[{"a": 3}]], [{"a": 1}, {"a": 2}], []),
        ("union", [1, 2], [2, 3], [], [1, 2, 3], []),
        ("union", [1], "x", [[]], "x", [[1]]),
        ("maximum", 5, 3, [4], 5, [3]),
        ("maximum", 3, 5, [1], 5, [3]),
        ("maximum", 3, 5, [], 5, [3]),
        ("maximum", "b", "a", [""], "b", ["a"]),
        ("maximum", "b", 1, [0], 1, ["b"]),
        ("last", 1, 2, [0], 2, [1]),
        (glue, 1, 2, [0], [1, 2, 0], [1, 2]),
        (glue, 1, 2, [], [1, 2, None], [1, 2]),
        (lambda earlier, *_: earlier, 1, 2, [0], 1, [2]),
        ("last", {"a": 1, "b": 1}, {"a": 2, "b": 0}, [{"a": 0, "b": 0}], {"a": 2, "b": 0}, [1, 1]),
    ],
)
def test_how_fields_are_merged(
    strategy: FieldStrategy, ours: Any, theirs: Any, base: list[Any], merged: Any, discarded: list[Any]
):
    """What each strategy makes of two changes of a field, and what it drops; theirs is the later one."""
    found, lost = one_field(strategy, ours, theirs, *base)
    assert (encode(found), encode(lost)) == (encode(merged), encode(discarded))


@given(st.integers(), st.lists(st.integers(), max_size=4), st.lists(st.integers(), max_size=4))
def test_counters_count_every_step_once(base: int, ours: list[int], theirs: list[int]):
    """A counter merged is the base and the steps of both sides."""
    merged, lost = one_field("counter", base + sum(ours), base + sum(theirs), base)
    assert merged == base + sum(ours) + sum(theirs)
    assert lost == []


@given(*[st.lists(st.integers(0, 6), unique=True)] * 3)
def test_sets_gain_and_lose_what_either_side_says(base: list[int], ours: list[int], theirs: list[int]):
    """A set merged has what is new on either side, and nothing that either side took out."""
    merged, lost = one_field("union", ours, theirs, base)
    before, one, other = set(base), set(ours), set(theirs)
    assert set(merged) == (before & one & other) | (one - before) | (other - before)
    assert len(merged) == len(set(merged))
    assert lost == []


def test_objects_are_merged_field_by_field():
    """Fields of nested objects are named by dotted paths; a strategy for an object takes it as a whole."""
    base = {"money": {"balance": 10, "limit": 1}, "place": {"x": 0, "y": 0}, "on": False}
    ours = {"money": {"balance": 12, "limit": 5}, "place": {"x": 1, "y": 0}, "on": True}
    theirs = {"money": {"balance": 9, "limit": 4}, "place": {"x": 0, "y": 1}, "on": True}
    strategies: dict[str, FieldStrategy] = {"money.balance": "counter", "money.limit": "maximum", "place": "last"}
    resolution = FieldMerge(strategies).resolve(*rivals(ours, theirs), base)
    assert resolution.data == {"money": {"balance": 11, "limit": 5}, "place": {"x": 0, "y": 1}, "on": True}
    assert [(each.path, each.value, each.stores) for each in resolution.discarded] == [
        ("money.limit", 4, (B,)),
        ("place.x", 1, (A,)),
    ]


@pytest.mark.parametrize(("removal", "path"), [({"b": 0}, "a"), (None, "")], ids=["field", "state"])
def test_a_removal_gives_way_to_a_change(removal: Data, path: str):
    """A field or a state that one side took away and the other changed stays as changed; the removal is recorded."""
    change, base = {"a": 1, "b": 0}, {"a": 0, "b": 0}
    for ours, theirs in ((change, removal), (removal, change)):
        versions = rivals(ours, theirs)
        resolution = FieldMerge().resolve(*versions, base)
        assert resolution.data == change
        [lost] = resolution.discarded
        assert (lost.path, lost.value, lost.removed) == (path, None, True)
        assert lost.tip == versions[theirs is removal].tip
        resolution = FieldMerge(removal_wins=True).resolve(*versions, base)
        assert resolution.data == removal
        [lost] = resolution.discarded
        assert (lost.path, lost.removed) == (path, False)
        assert lost.tip == versions[theirs is change].tip


def test_a_removal_of_what_the_other_side_left_alone():
    """What one side took away and the other did not touch is gone, and nothing is recorded."""
    for removal in ({}, None):
        for versions in (rivals({"a": 1}, removal), rivals(removal, {"a": 1}), rivals(removal, removal)):
            assert FieldMerge().resolve(*versions, {"a": 1}) == Resolution(data=removal, strategy="field_merge")


def test_without_a_base_nobody_knows_of_removals():
    """Fields that only one side has stay, with any policy; those that differ are decided."""
    for merge_fields in (FieldMerge(), FieldMerge(removal_wins=True)):
        resolution = merge_fields.resolve(*rivals({"a": 1, "c": 1}, {"b": 1, "c": 2}), None)
        assert resolution.data == {"a": 1, "b": 1, "c": 2}
        assert [(each.path, each.value) for each in resolution.discarded] == [("c", 1)]


def test_a_strategy_must_exist():
    """A misspelt strategy is refused when the merge is made, and what a function returns must be JSON."""
    for wrong in ("sum", ""):
        with pytest.raises(ValueError, match="there is no strategy"):
            FieldMerge({"a": wrong})  # type: ignore[dict-item]
        with pytest.raises(ValueError, match="there is no strategy"):
            FieldMerge(default=wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidData):
        one_field(lambda *_: {1, 2}, 1, 2)
