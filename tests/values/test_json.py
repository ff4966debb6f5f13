"""JSON that reads back equal."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tai_state import ChangeMetadata, InvalidData
from tai_state.values.json import DEPTH_MAX, decode, encode, normalise, normalise_object
from tai_state.values.metadata import check_metadata

from ..support.plain_json import scalars, texts, values


class Colour(IntEnum):
    """An int with a name."""

    RED = 1


impostors = st.sampled_from(
    [
        (1, 2),
        {1, 2},
        frozenset(),
        b"bytes",
        bytearray(b"x"),
        {1: "a"},
        {None: 1},
        {(1, 2): 3},
        1j,
        math.nan,
        math.inf,
        -math.inf,
        datetime(2026, 1, 1, tzinfo=UTC),
        timedelta(1),
        object(),
        int,
        "half of a pair: \ud800",
        {"\udfff": 1},
        msgspec.Raw(b"1"),
        ChangeMetadata("a", "b"),
        range(3),
    ]
)
"""Some of them a JSON encoder would take, and read back as something else."""


def same(one: Any, other: Any) -> bool:
    """Equal, with the same types all the way down; the sign of a zero included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other and (not isinstance(one, float) or math.copysign(1, one) == math.copysign(1, other))


@given(values)
@example(2**64)
@example(-(2**70))
@example(-0.0)
@example(5e-324)
@example(1e22)
@example({"a": {"": [[], {}, "\x00\u2028\U0001f600"]}})
def test_json_reads_back_equal(value: Any):
    """Whatever plain JSON goes in comes out with the same values and types, and its text is one and the same."""
    text, copy = normalise(value, "data")
    assert same(copy, value)
    assert same(decode(text), value)
    assert encode(copy) == text
    assert normalise(copy, "data")[0] == text


@given(
    st.recursive(
        scalars | impostors,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=6,
    )
)
def test_what_is_accepted_reads_back_equal(value: Any):
    """Whatever is not refused reads back equal: nothing is turned silently into something else."""
    try:
        text, copy = normalise(value, "data")
    except InvalidData:
        return
    assert copy == value
    assert same(decode(text), copy)


@given(impostors, st.sampled_from(["x", 0]))
def test_what_is_no_json_is_refused_with_its_place(value: Any, step: str | int):
    """The error names the place and never quotes the value."""
    data = {"a": {"x": value}} if step == "x" else {"a": [value]}
    with pytest.raises(InvalidData) as error:
        normalise(data, "state data")
    assert str(error.value).startswith("state data is not plain JSON")
    assert error.value.path.startswith("$.a.x" if step == "x" else "$.a[0]")


def test_named_numbers_and_subclasses_are_what_they_are():
    """An enumeration's number is stored as the number it equals."""
    assert normalise({"n": Colour.RED}, "data") == ('{"n":1}', {"n": 1})


def test_keys_are_sorted_by_code_point():
    """The canonical text does not depend on the order in which keys were put in."""
    assert normalise({"b": 1, "a": 2, "é": 3, "Z": 4, "\U0001f600": 5, "\uffff": 6}, "data")[0] == (
        '{"Z":4,"a":2,"b":1,"é":3,"\uffff":6,"\U0001f600":5}'
    )


def _nested(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


def test_depth_has_a_limit():
    """Data may be nested as deep as the limit, and no deeper, however deep it is."""
    assert normalise(_nested(DEPTH_MAX - 1), "data")
    for levels in (DEPTH_MAX + 1, 2_000, 100_000):
        with pytest.raises(InvalidData, match="nested deeper"):
            normalise(_nested(levels), "data")


def test_many_small_things_are_not_deep():
    """What is wide is not deep."""
    wide = [[0]] * 1_000
    assert normalise(wide, "data")[1] == wide


def test_data_that_holds_itself_is_refused():
    """A loop ends in an error, not in a crash."""
    loop: list[Any] = []
    loop.append({"again": loop})
    with pytest.raises(InvalidData):
        normalise(loop, "data")


@pytest.mark.parametrize("value", [[], "text", None, 1, [("a", 1)]])
def test_states_are_objects(value: Any):
    """A state's data is a JSON object and nothing else."""
    with pytest.raises(InvalidData, match="must be a JSON object"):
        normalise_object(value, "state data")


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"changed_by": "a", "reason": "b"},
        ChangeMetadata(1, "b"),  # type: ignore[arg-type]
        ChangeMetadata("a", None),  # type: ignore[arg-type]
        ChangeMetadata("\ud800", "b"),
        ChangeMetadata("a", "b", {"c": object()}),
        ChangeMetadata("a", "b", [1]),  # type: ignore[arg-type]
    ],
)
def test_metadata_is_checked(metadata: Any):
    """Metadata of another shape, or that cannot be stored, is refused."""
    with pytest.raises(InvalidData):
        check_metadata(metadata)
