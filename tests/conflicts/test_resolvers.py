"""Resolvers agree whoever asks, and record what they drop."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tai_state import InvalidData
from tai_state.conflicts.merging import FieldMerge
from tai_state.conflicts.resolutions import Discarded, Resolution
from tai_state.conflicts.resolvers import Causal, Custom, LastWriteWins, Resolver, VersionBased
from tai_state.conflicts.rivals import Rival
from tai_state.errors import ConflictResolutionFailed
from tai_state.values.clocks import VectorClock, merge
from tai_state.values.json import encode

from ..support.rivals import A, B, C, Data, glue, rivals, version


def pick_longer(earlier: Rival, later: Rival, base: Data) -> Data:
    """A rule of one's own that would depend on who asks, were the order not given to it."""
    return later.data if len(later.data or {}) > len(earlier.data or {}) else earlier.data


RESOLVERS: dict[str, Resolver] = {
    "last write wins": LastWriteWins(),
    "version based": VersionBased(),
    "causal": Causal(LastWriteWins()),
    "custom": Custom(pick_longer),
    "merge": FieldMerge(),
    "merge of counters": FieldMerge(default="counter"),
    "merge of sets": FieldMerge(default="union"),
    "merge of maxima": FieldMerge(default="maximum"),
    "merge by function": FieldMerge({"a": glue, "b.a": "maximum", "c": "last"}),
    "merge where removals win": FieldMerge(removal_wins=True),
}

LOSSLESS = {"merge of counters", "merge of sets"}
"""Those that carry on changes in a combined form."""

keys = st.sampled_from(["a", "b", "c", ""])
leaves = st.integers(0, 3) | st.sampled_from(["x", "y", None, True, 1.0, 0.5, -0.0, {}]) | st.lists(st.integers(0, 3))

objects = st.recursive(
    st.dictionaries(keys, leaves, max_size=3),
    lambda inner: st.dictionaries(keys, leaves | inner, max_size=3),
    max_leaves=8,
)

states = st.none() | objects
few = settings(max_examples=50)
"""For what is tried with each resolver."""


@st.composite
def conflicts(draw: st.DrawFn) -> tuple[Rival, Rival, Data]:
    """Two concurrent versions and what they parted from, each side with a few changes of it; or no known base."""
    base = draw(states)
    sides = [draw(st.just(base) | states if base is None else edited(base) | states) for _ in range(2)]
    clocks = draw(st.sampled_from([({A: 2, B: 1}, {A: 1, B: 2}), ({A: 1}, {B: 1}), ({A: 5}, {A: 4, B: 1, C: 1})]))
    made = [
        version(data, clock, hlc=draw(st.integers(0, 1)), number=draw(st.integers(1, 2)))
        for data, clock in zip(sides, clocks, strict=True)
    ]
    return made[0], made[1], base


@st.composite
def edited(draw: st.DrawFn, base: dict[str, Any]) -> dict[str, Any]:
    """An object with some of its fields set, changed or taken away."""
    data = dict(base)
    for key in draw(st.lists(keys, max_size=2)):
        if draw(st.booleans()):
            data.pop(key, None)
        elif isinstance(data.get(key), dict):
            data[key] = draw(edited(data[key]))
        else:
            data[key] = draw(leaves | objects)
    return data


@pytest.mark.parametrize("name", RESOLVERS)
@few
@given(conflict=conflicts())
def test_resolvers_do_not_depend_on_who_asks(name: str, conflict: tuple[Rival, Rival, Data]):
    """Each resolver gives the same data and the same records with the sides swapped, and when it is asked again."""
    ours, theirs, base = conflict
    resolver = RESOLVERS[name]
    resolution = msgspec.json.encode(resolver.resolve(ours, theirs, base), order="sorted")
    assert msgspec.json.encode(resolver.resolve(theirs, ours, base), order="sorted") == resolution
    assert msgspec.json.encode(resolver.resolve(ours, theirs, base), order="sorted") == resolution


@pytest.mark.parametrize("name", RESOLVERS)
@few
@given(conflict=conflicts())
def test_resolvers_leave_versions_as_they_are(name: str, conflict: tuple[Rival, Rival, Data]):
    """Resolving changes neither of the versions nor the base."""
    before = msgspec.json.encode(conflict)
    RESOLVERS[name].resolve(*conflict)
    assert msgspec.json.encode(conflict) == before


@pytest.mark.parametrize("name", sorted(RESOLVERS.keys() - LOSSLESS))
@given(conflict=conflicts())
@example((*rivals({"a": 1, "b": {"a": 2}}, {"b": {"a": 3}}), {"b": {"a": 0}}))
@example((*rivals(None, {"a": 1}), {"a": 0}))
@example((*rivals({"a": 1}, None), None))
@example((*rivals({"a": 1, "": 2}, {"a": 1.0, "": True}), {}))
def test_what_is_dropped_is_recorded(name: str, conflict: tuple[Rival, Rival, Data]):
    """Each change of either side stands in the resolution, or as it was among what it discarded."""
    ours, theirs, base = conflict
    resolution = RESOLVERS[name].resolve(ours, theirs, base)
    for side, other in ((ours, theirs), (theirs, ours)):
        stores = tuple(each for each in (A, B, C) if side.clock.get(each, 0) > other.clock.get(each, 0))
        records = [each for each in resolution.discarded if each.tip == side.tip]
        assert all(each.stores == stores for each in records)
        for path in changed(side.data, base):
            value = at(side.data, path)
            if at(resolution.data, path) != value:
                assert any(holds(record, path, value) for record in records), (path, value, resolution)


GONE = "gone"


def at(data: Any, path: tuple[str, ...]) -> str:
    """The text of what stands at a path; of an object, only that there is one."""
    for key in path:
        if not isinstance(data, dict) or key not in data:
            return GONE
        data = data[key]
    return "an object" if isinstance(data, dict) else encode(data)


def paths(data: Any, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """The paths of all fields of an object, and of their fields."""
    found = {path}
    for key, value in data.items() if isinstance(data, dict) else ():
        found |= paths(value, (*path, key))
    return found


def changed(data: Data, base: Data) -> set[tuple[str, ...]]:
    """The paths of what a version changed; without a base, of all that it has, and of its deletion."""
    if base is None:
        return paths(data)
    return {path for path in paths(data) | paths(base) if at(data, path) != at(base, path)}


def holds(record: Discarded, path: tuple[str, ...], value: str) -> bool:
    """Whether a record says that this was made of the field at a path, or of an object that it is part of."""
    lengths = [length for length in range(len(path) + 1) if ".".join(path[:length]) == record.path]
    if record.removed:
        return bool(lengths) and (value == GONE or path == ())
    return any(at(record.value, path[length:]) == value for length in lengths)


@pytest.mark.parametrize("name", sorted(name for name in RESOLVERS if name.startswith("merge")))
@few
@given(base=objects, drawn=st.data())
def test_what_one_side_changed_is_never_lost(name: str, base: dict[str, Any], drawn: st.DataObject):
    """A merge with a side that changed nothing is the other side, and nothing is discarded."""
    data = drawn.draw(st.none() | edited(base))
    for versions in (rivals(data, base), rivals(base, data)):
        resolution = RESOLVERS[name].resolve(*versions, base)
        assert encode(resolution.data) == encode(data)
        assert resolution.discarded == ()


@given(base=objects, drawn=st.data())
def test_the_same_change_on_both_sides_is_one(base: dict[str, Any], drawn: st.DataObject):
    """What both sides made of a field is so, and nothing is discarded."""
    data = drawn.draw(st.none() | edited(base))
    for known in (base, None):
        resolution = FieldMerge({"a": glue}).resolve(*rivals(data, data), known)
        assert encode(resolution.data) == encode(data)
        assert resolution.discarded == ()


@given(objects, objects, objects)
def test_changes_of_different_fields_are_all_kept(base: dict[str, Any], one: dict[str, Any], other: dict[str, Any]):
    """Sides that changed fields of different objects both have all of their changes in the merge."""
    before = {"left": base, "right": base}
    resolution = FieldMerge().resolve(*rivals({"left": one, "right": base}, {"left": base, "right": other}), before)
    assert encode(resolution.data) == encode({"left": one, "right": other})
    assert resolution.discarded == ()


@pytest.mark.parametrize("name", sorted(name for name in RESOLVERS if name.startswith("merge")))
@few
@given(conflict=conflicts())
def test_merging_again_changes_nothing(name: str, conflict: tuple[Rival, Rival, Data]):
    """A resolution merged with a side that it came from, which it knew of, stays as it is."""
    ours, theirs, base = conflict
    data = RESOLVERS[name].resolve(ours, theirs, base).data
    merged = version(data, merge(ours.clock, theirs.clock), hlc=2)
    for side in (each for each in (ours, theirs) if each.data is not None):
        again = RESOLVERS[name].resolve(merged, side, side.data)
        assert encode(again.data) == encode(data)
        assert again.discarded == ()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (version({"n": 1}, {A: 1}, hlc=5), version({"n": 2}, {B: 1}, hlc=9)),
        (version({"n": 1}, {A: 1}, hlc=5), version({"n": 2}, {B: 1}, hlc=5)),
        (version({"n": 1}, {A: 9, B: 1}, hlc=5), version({"n": 2}, {A: 1, B: 2}, hlc=5)),
        (version({"n": 1}, {A: 3, B: 2, C: 1}, hlc=5), version({"n": 2}, {A: 1, B: 2, C: 2}, hlc=5)),
        (version({"n": 1}, {A: 1}, hlc=5, tip="1"), version({"n": 2}, {A: 1, B: 0}, hlc=5, tip="2")),
    ],
    ids=["later", "greater store", "greater store that moved", "third store", "one store copied"],
)
def test_the_last_write_wins(ours: Rival, theirs: Rival):
    """The later hybrid clock wins; of two at the same time the greater store id, whoever asks."""
    for one, other in ((ours, theirs), (theirs, ours)):
        resolution = LastWriteWins().resolve(one, other, None)
        assert (resolution.data, resolution.strategy) == ({"n": 2}, "last_write_wins")
        [lost] = resolution.discarded
        assert (lost.path, lost.value, lost.removed, lost.tip) == ("n", 1, False, ours.tip)


@given(st.permutations([({A: 1}, 1), ({B: 1}, 1), ({C: 1}, 1), ({A: 2, B: 1}, 1), ({A: 1, C: 2}, 1), ({B: 3}, 0)]))
def test_ranks_are_total(order: list[tuple[VectorClock, int]]):
    """However versions are brought together two by two, the same one is last."""
    versions = [version({"clock": clock}, clock, hlc) for clock, hlc in order]
    winner = versions[0]
    for each in versions[1:]:
        data = LastWriteWins().resolve(winner, each, None).data
        winner = winner if data == winner.data else each
    assert winner.clock == {A: 1, C: 2}


def test_the_higher_version_wins():
    """The version with the higher number wins, then the later one; what it knew of is not discarded."""
    one, other = version({"n": 1}, {A: 3}, hlc=1, number=3), version({"n": 2}, {B: 2}, hlc=9, number=2)
    assert VersionBased().resolve(one, other, None).data == {"n": 1}
    level = version({"n": 3}, {C: 3}, hlc=2, number=3)
    assert VersionBased().resolve(one, level, None).data == {"n": 3}
    after = version({"n": 4}, {A: 3, B: 3}, hlc=10, number=5)
    assert VersionBased().resolve(other, after, None) == Resolution(data={"n": 4}, strategy="version_based")


def test_what_knew_of_the_other_wins():
    """Causal takes the version that knew of the other, with any clock of the wall, and discards nothing."""
    before, after = version({"n": 1}, {A: 1}, hlc=99, number=7), version({"n": 2}, {A: 1, B: 1}, hlc=1)
    for one, other in ((before, after), (after, before)):
        assert Causal().resolve(one, other, None) == Resolution(data={"n": 2}, strategy="causal")
    assert Causal().resolve(after, after, None).data == {"n": 2}


def test_without_a_fallback_concurrent_versions_are_an_error():
    """Causal without a fallback refuses to choose, naming the clocks; with one it is the fallback that chooses."""
    ours, theirs = rivals({"n": 1}, {"n": 2})
    with pytest.raises(ConflictResolutionFailed) as failed:
        Causal().resolve(ours, theirs, None)
    what = "no rule decides between them: give a fallback resolver"
    clocks = ours.clock, theirs.clock
    assert failed.value.fields() == {"path": "governors/bank/states/alice", "clocks": clocks, "what": what}
    assert Causal(LastWriteWins()).resolve(ours, theirs, None).strategy == "last_write_wins"


def test_two_versions_under_one_clock_are_rivals():
    """Two copies of one store that both went on have equal clocks and other data: neither is taken unsaid."""
    ours, theirs = version({"n": 1}, {A: 1}, hlc=1), version({"n": 2}, {A: 1}, hlc=2)
    with pytest.raises(ConflictResolutionFailed):
        Causal().resolve(ours, theirs, None)
    [lost] = Causal(LastWriteWins()).resolve(ours, theirs, None).discarded
    assert lost.value == 1


def test_ones_own_function_is_held_to_the_rules():
    """A function's name and what it drops of both sides are recorded; what is no JSON is refused."""
    ours, theirs = rivals({"n": 1, "m": 1}, {"n": 2, "k": 1})
    both = Custom(lambda earlier, *_: {**(earlier.data or {}), "n": 3}, "ours_and_three")
    resolution = both.resolve(ours, theirs, {"n": 0})
    assert (resolution.data, resolution.strategy) == ({"n": 3, "m": 1}, "ours_and_three")
    assert [(each.path, each.value, each.tip) for each in resolution.discarded] == [
        ("k", 1, "theirs"),
        ("n", 1, "ours"),
        ("n", 2, "theirs"),
    ]
    assert Custom(lambda *_: None).resolve(ours, theirs, None).data is None
    with pytest.raises(InvalidData):
        Custom(lambda *_: {"n": {1, 2}}).resolve(ours, theirs, None)
