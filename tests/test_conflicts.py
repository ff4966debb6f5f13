"""Conflicts: resolvers that agree whoever asks, merges that lose nothing unsaid, repairs that are written back."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import permutations
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tai_state import (
    ANY,
    NO_STATE,
    EveryEvents,
    InvalidData,
    NewEvent,
    StateMachinePersister,
    StateNotFound,
    StateStore,
    VersionConflict,
)
from tai_state.conflicts.consistency import REPAIRS_MAX, EventualConsistency
from tai_state.conflicts.history import ConflictHistory, ConflictRecord
from tai_state.conflicts.merging import FieldMerge, Strategy
from tai_state.conflicts.repairs import LISTED_MAX, VALUE_BYTES_MAX
from tai_state.conflicts.resolutions import Discarded, Resolution
from tai_state.conflicts.resolvers import Causal, Custom, LastWriteWins, Resolver, VersionBased
from tai_state.conflicts.rivals import Rival
from tai_state.engines.api import ANYTHING, Delete
from tai_state.errors import CausalityViolation, ConflictResolutionFailed, EventSourcingError, StaleRead
from tai_state.testing import ManualClock
from tai_state.values.clocks import Order, VectorClock, merge
from tai_state.values.json import encode
from tai_state.values.states import StateSnapshot
from tai_state.values.times import from_us

from .support.operations import REDUCERS
from .support.stores import GOVERNOR, METADATA, STORE_ID, AroundEngine, Place, Places, collected, fix_identity

A, B, C = "store-a", "store-b", "store-c"
Data = dict[str, Any] | None


def version(data: Data, clock: VectorClock, hlc: int = 0, number: int = 1, head: str = "") -> Rival:
    """A version by hand; None stands for a deleted state."""
    snapshot: StateSnapshot[Any] = StateSnapshot.unsaved(GOVERNOR, "alice", data)
    snapshot = msgspec.structs.replace(snapshot, version=number, causality=clock, deleted=data is None)
    return Rival(snapshot=snapshot, hlc=hlc, head=head or encode(clock))


def rivals(ours: Data, theirs: Data) -> tuple[Rival, Rival]:
    """Two concurrent versions, theirs the later one."""
    return version(ours, {A: 2, B: 1}, hlc=1, head="ours"), version(theirs, {A: 1, B: 2}, hlc=2, head="theirs")


# Resolvers -----------------------------------------------------------------------------------------------------


def pick_longer(earlier: Rival, later: Rival, base: Data) -> Data:
    """A rule of one's own that would depend on who asks, were the order not given to it."""
    return later.data if len(later.data or {}) > len(earlier.data or {}) else earlier.data


def glue(earlier: Any, later: Any, base: Any) -> Any:
    """A strategy of one's own that depends on the order."""
    return [earlier, later, base]


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
        records = [each for each in resolution.discarded if each.head == side.head]
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
        (version({"n": 1}, {A: 1}, hlc=5, head="1"), version({"n": 2}, {A: 1, B: 0}, hlc=5, head="2")),
    ],
    ids=["later", "greater store", "greater store that moved", "third store", "one store copied"],
)
def test_the_last_write_wins(ours: Rival, theirs: Rival):
    """The later hybrid clock wins; of two at the same time the greater store id, whoever asks."""
    for one, other in ((ours, theirs), (theirs, ours)):
        resolution = LastWriteWins().resolve(one, other, None)
        assert (resolution.data, resolution.strategy) == ({"n": 2}, "last_write_wins")
        [lost] = resolution.discarded
        assert (lost.path, lost.value, lost.removed, lost.head) == ("n", 1, False, ours.head)


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
    assert failed.value.fields() == {"path": "governors/bank/states/alice", "clocks": (ours.clock, theirs.clock)}
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
    assert [(each.path, each.value, each.head) for each in resolution.discarded] == [
        ("k", 1, "theirs"),
        ("n", 1, "ours"),
        ("n", 2, "theirs"),
    ]
    assert Custom(lambda *_: None).resolve(ours, theirs, None).data is None
    with pytest.raises(InvalidData):
        Custom(lambda *_: {"n": {1, 2}}).resolve(ours, theirs, None)


# Merging -------------------------------------------------------------------------------------------------------


def one_field(strategy: Strategy, ours: Any, theirs: Any, *base: Any) -> tuple[Any, list[Any]]:
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
    strategy: Strategy, ours: Any, theirs: Any, base: list[Any], merged: Any, discarded: list[Any]
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
    strategies: dict[str, Strategy] = {"money.balance": "counter", "money.limit": "maximum", "place": "last"}
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
        assert lost.head == versions[theirs is removal].head
        resolution = FieldMerge(removal_wins=True).resolve(*versions, base)
        assert resolution.data == removal
        [lost] = resolution.discarded
        assert (lost.path, lost.removed) == (path, False)
        assert lost.head == versions[theirs is change].head


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


# Eventual consistency ------------------------------------------------------------------------------------------


class Overtaking(AroundEngine):
    """An engine on which somebody else writes right before each of the next commits."""

    def __init__(self, engine: Any) -> None:
        super().__init__(engine)
        self.overtakings = 0
        self.other: StateStore

    async def commit(self, writes: Any) -> Any:  # noqa: D102
        if self.overtakings:
            self.overtakings -= 1
            state = await self.other.get_state(GOVERNOR, "alice")
            await self.other.update_state(
                GOVERNOR, "alice", {**state.data, "m": self.overtakings}, METADATA, expected=ANY
            )
        return await self._engine.commit(writes)


@pytest.fixture
def place(memory_places: Places) -> Place:
    """An empty place in memory."""
    return memory_places.new()


@pytest.fixture
async def store(place: Place) -> AsyncIterator[StateStore]:
    """An open store there, its id known."""
    engine = place.engine()
    async with engine:
        await fix_identity(engine)
        async with place.store(engine, snapshots=EveryEvents(2, keep=2)) as store:
            yield store


async def written(store: StateStore, *datas: Data) -> Rival:
    """Alice's state after these changes, as it stands then."""
    for data in datas:
        if data is None:
            await store.delete_state(GOVERNOR, "alice", METADATA, expected=ANY)
        else:
            await store.save_state(GOVERNOR, "alice", data, METADATA, expected=ANY)
    return await EventualConsistency(store).read(GOVERNOR, "alice")


def elsewhere(parted: Rival | None, data: Data, store_id: str = B, *, later: int = 1, count: int = 1) -> Rival:
    """A version of Alice's that another store made of the one they parted at."""
    clock = {} if parted is None else parted.clock
    hlc = 0 if parted is None else parted.hlc
    return version(data, {**clock, store_id: clock.get(store_id, 0) + count}, hlc=hlc + later, number=9)


async def stands(store: StateStore) -> tuple[Data, int]:
    """Alice's data and version."""
    found = await EventualConsistency(store).read(GOVERNOR, "alice")
    return found.data, found.snapshot.version


async def last_note(store: StateStore) -> tuple[str, dict[str, Any]]:
    """The action of Alice's last event, and the note in its context."""
    event = (await collected(store.get_events(GOVERNOR, "alice")))[-1]
    return event.action, event.metadata.context["conflict"]


COUNTING = FieldMerge({"n": "counter"})

anyio_test = pytest.mark.anyio


@anyio_test
async def test_a_newer_version_is_written_back(store: StateStore):
    """A version known to be newer is taken over by an ordinary event that says where it came from; once."""
    parted = await written(store, {"n": 1})
    newer = elsewhere(parted, {"n": 2})
    consistency = EventualConsistency(store)
    repaired = await consistency.read_repair(GOVERNOR, "alice", [newer], METADATA)
    assert (repaired.data, repaired.version, repaired.causality) == ({"n": 2}, 2, {STORE_ID: 2})
    assert repaired == await store.get_state(GOVERNOR, "alice")
    assert await last_note(store) == (
        "read_repair",
        {
            "clock": {STORE_ID: 1, B: 1},
            "heads": [newer.head],
            "strategies": ["causal"],
            "discarded": [],
            "discarded_total": 0,
        },
    )
    assert (repaired.metadata.changed_by, repaired.metadata.context["ticket"]) == ("tester", 7)
    assert await consistency.read_repair(GOVERNOR, "alice", [newer, parted], METADATA) == repaired
    assert consistency.get_stats().repairs == 1
    assert consistency.history.recent(9) == []


@anyio_test
async def test_a_concurrent_version_is_resolved_and_written_back(store: StateStore, caplog: pytest.LogCaptureFixture):
    """Rivals are merged against what they parted from, and what was dropped stands in the event."""
    caplog.set_level(logging.WARNING, "tai_state")
    parted = await written(store, {"n": 10, "by": ""}, {"n": 10, "by": "-"})
    await written(store, {"n": 15, "by": "-"}, {"n": 15, "by": "us"})
    theirs = elsewhere(parted, {"n": 12, "by": "them"}, later=10**9)
    consistency = EventualConsistency(store, COUNTING)
    repaired = await consistency.read_repair(GOVERNOR, "alice", [theirs], METADATA)
    assert (repaired.data, repaired.version) == ({"n": 17, "by": "them"}, 5)
    action, note = await last_note(store)
    assert (action, note["strategies"], note["discarded_total"]) == ("resolve", ["field_merge"], 1)
    [lost] = note["discarded"]
    assert (lost["path"], lost["value"], lost["stores"]) == ("by", "us", [STORE_ID])
    assert [each.id for each in await collected(store.get_events(GOVERNOR, "alice"))][3] == lost["head"]
    [record] = consistency.history.recent(9)
    assert record.path == "governors/bank/states/alice"
    assert record.clocks == ({STORE_ID: 4}, {STORE_ID: 2, B: 1})
    assert (record.strategy, record.discarded, record.repaired) == ("field_merge", 1, True)
    [message] = [each for each in caplog.records if each.name == "tai_state.conflicts"]
    assert message.path == record.path  # type: ignore[attr-defined]
    assert "them" not in str(vars(message))


@anyio_test
async def test_what_was_brought_in_once_is_not_brought_in_again(store: StateStore):
    """A version merged before changes nothing, after further changes and for whoever asks; nothing counts twice."""
    parted = await written(store, {"n": 10})
    await written(store, {"n": 11})
    theirs = elsewhere(parted, {"n": 12}, later=10**12)
    for _ in range(2):
        await EventualConsistency(store, COUNTING).read_repair(GOVERNOR, "alice", [theirs, theirs], METADATA)
        assert await stands(store) == ({"n": 13}, 3)
    await written(store, {"n": 14})
    for resolver in (COUNTING, LastWriteWins()):
        await EventualConsistency(store, resolver).read_repair(GOVERNOR, "alice", [theirs], METADATA)
        assert await stands(store) == ({"n": 14}, 4)


@anyio_test
async def test_a_later_change_of_what_was_brought_in(store: StateStore):
    """What went on from a repaired state is merged against it; what went on beside it is not counted twice either."""
    parted = await written(store, {"n": 10})
    await written(store, {"n": 11})
    first = elsewhere(parted, {"n": 12})
    consistency = EventualConsistency(store, COUNTING)
    await consistency.read_repair(GOVERNOR, "alice", [first], METADATA)
    joined = await consistency.read(GOVERNOR, "alice")
    await written(store, {"n": 20})
    onwards = version({"n": 15}, merge(joined.clock, {B: 2}), hlc=joined.hlc + 1)
    assert (await consistency.read_repair(GOVERNOR, "alice", [onwards], METADATA)).data == {"n": 22}
    beside = elsewhere(parted, {"n": 16}, later=10**12, count=3)
    repaired = await consistency.read_repair(GOVERNOR, "alice", [beside], METADATA)
    assert repaired.data == {"n": 16}
    assert [each["value"] for each in (await last_note(store))[1]["discarded"]] == [22]


@anyio_test
async def test_several_versions_at_once(store: StateStore):
    """Whatever the order in which versions are given, all are merged, each step once; older ones are in newer ones."""
    parted = await written(store, {"n": 10})
    await written(store, {"n": 20})
    older = elsewhere(parted, {"n": 11}, B, later=1)
    newer = elsewhere(parted, {"n": 13}, B, later=2, count=2)
    other = elsewhere(parted, {"n": 15}, C, later=3)
    consistency = EventualConsistency(store, COUNTING)
    for seen in permutations([older, newer, other]):
        proposed = await consistency.read_repair(GOVERNOR, "alice", seen, METADATA, dry_run=True)
        assert proposed.data == {"n": 28}
    await consistency.read_repair(GOVERNOR, "alice", [older, newer, other], METADATA)
    action, note = await last_note(store)
    assert (action, note["clock"]) == ("resolve", {STORE_ID: 1, B: 2, C: 1})
    assert (await consistency.read_repair(GOVERNOR, "alice", [older], METADATA)).version == 3


@anyio_test
async def test_versions_that_share_what_we_lack(store: StateStore):
    """Of two rivals that both hold a change unknown here, that change is not counted twice: the later one is taken."""
    parted = await written(store, {"n": 10})
    one = version({"n": 12}, {STORE_ID: 1, B: 2}, hlc=parted.hlc + 2)
    other = version({"n": 16}, {STORE_ID: 1, B: 1, C: 1}, hlc=parted.hlc + 3)
    consistency = EventualConsistency(store, COUNTING)
    assert (await consistency.read_repair(GOVERNOR, "alice", [one, other], METADATA)).data == {"n": 16}
    assert [each["value"] for each in (await last_note(store))[1]["discarded"]] == [12]


@anyio_test
async def test_our_version_wins(store: StateStore):
    """Where ours wins an event records what was discarded, so that the rival is not met again."""
    parted = await written(store, {"n": 1})
    rival = elsewhere(parted, {"n": 2}, later=0)
    await written(store, {"n": 3})
    consistency = EventualConsistency(store)
    assert (await consistency.read_repair(GOVERNOR, "alice", [rival], METADATA)).data == {"n": 3}
    assert [each["value"] for each in (await last_note(store))[1]["discarded"]] == [2]
    assert (await consistency.read_repair(GOVERNOR, "alice", [rival], METADATA)).version == 3
    assert consistency.get_stats().conflicts == 1
    rival = elsewhere(parted, {"n": 3}, C)
    assert (await consistency.read_repair(GOVERNOR, "alice", [rival], METADATA)).version == 3


@anyio_test
@pytest.mark.parametrize("switched_off", [False, True])
async def test_a_dry_run_writes_nothing(store: StateStore, switched_off: bool):  # noqa: FBT001
    """A dry run, and a consistency whose read repair is off, say what would stand and write nothing."""
    parted = await written(store, {"n": 10})
    before = await written(store, {"n": 11})
    consistency = EventualConsistency(store, COUNTING, read_repair=not switched_off)
    theirs = elsewhere(parted, {"n": 12})
    proposed = await consistency.read_repair(GOVERNOR, "alice", [theirs], METADATA, dry_run=not switched_off)
    assert proposed == before.snapshot.with_data({"n": 13})
    assert await stands(store) == ({"n": 11}, 2)
    assert [each.repaired for each in consistency.history.recent(9)] == [False] * switched_off
    assert consistency.get_stats().repairs == 0


@anyio_test
async def test_deletions_are_repaired_too(store: StateStore):
    """A deletion elsewhere is taken over, and a state deleted here comes back when it was changed elsewhere."""
    parted = await written(store, {"n": 1})
    consistency = EventualConsistency(store)
    deleted = await consistency.read_repair(GOVERNOR, "alice", [elsewhere(parted, None)], METADATA)
    assert (deleted.deleted, deleted.data, deleted.version) == (True, None, 2)
    assert not await store.exists(GOVERNOR, "alice")
    rival = elsewhere(parted, {"n": 2}, C, later=0)
    lost = await consistency.read_repair(GOVERNOR, "alice", [rival], METADATA)
    assert (lost.deleted, lost.version) == (True, 2)
    assert [(each.discarded, each.repaired) for each in consistency.history.recent(9)] == [(1, False)]
    merging = EventualConsistency(store, FieldMerge())
    back = await merging.read_repair(GOVERNOR, "alice", [rival], METADATA)
    assert (back.data, back.version, back.deleted) == ({"n": 2}, 3, False)
    [lost] = (await last_note(store))[1]["discarded"]
    assert (lost["path"], lost["removed"]) == ("", True)


@anyio_test
async def test_a_state_that_was_never_here(store: StateStore):
    """A state known from elsewhere only is created; nothing known at all is an error, and so are events without it."""
    consistency = EventualConsistency(store)
    for call in (consistency.read(GOVERNOR, "alice"), consistency.read_repair(GOVERNOR, "alice", [], METADATA)):
        with pytest.raises(StateNotFound):
            await call
    created = await consistency.read_repair(GOVERNOR, "alice", [elsewhere(None, {"n": 1})], METADATA)
    assert (created.data, created.version) == ({"n": 1}, 1)
    rival = elsewhere(None, {"n": 5}, C)
    counting = EventualConsistency(store, COUNTING)
    assert (await counting.read_repair(GOVERNOR, "alice", [rival], METADATA)).data == {"n": 1}
    await store.core.engine.commit([Delete("governors/bank/states/alice", ANYTHING)])
    with pytest.raises(EventSourcingError):
        await consistency.read_repair(GOVERNOR, "alice", [rival], METADATA)


@anyio_test
async def test_repairs_begin_anew_when_others_are_faster(place: Place):
    """A change that slips in is merged as well; after so many, the conflict is passed on."""
    engine = Overtaking(place.engine())
    async with place.store(engine) as store, place.store() as other:
        engine.other = other
        parted = await written(store, {"n": 10})
        await written(store, {"n": 11})
        theirs = elsewhere(parted, {"n": 12})
        consistency = EventualConsistency(store, COUNTING)
        engine.overtakings = 3
        repaired = await consistency.read_repair(GOVERNOR, "alice", [theirs], METADATA)
        assert (repaired.data, repaired.version) == ({"n": 13, "m": 0}, 6)
        assert len(consistency.history.recent(9)) == 1
        engine.overtakings = REPAIRS_MAX
        with pytest.raises(VersionConflict):
            await consistency.read_repair(GOVERNOR, "alice", [elsewhere(parted, {"n": 1}, C)], METADATA)
        assert engine.overtakings == 0


@anyio_test
async def test_a_base_that_cannot_be_had(place: Place):
    """Where the version that both parted at was cleaned up or needs a reducer it is not guessed: the later one wins."""
    async with place.store(snapshots=EveryEvents(2, keep=2)) as store:
        persister = StateMachinePersister(store, REDUCERS)
        consistency = EventualConsistency(store, COUNTING)
        add = [NewEvent("add", 1)]
        await persister.record(GOVERNOR, "alice", add, METADATA, expected=NO_STATE)
        parted = await consistency.read(GOVERNOR, "alice")
        await written(store, {"n": 7})
        theirs = elsewhere(parted, {"n": 2}, later=10**12)
        for seen in (theirs, elsewhere(parted, {"n": 2}, C, later=10**12)):
            proposed = await consistency.read_repair(GOVERNOR, "alice", [seen], METADATA, dry_run=True)
            assert proposed.data == {"n": 2}
        for n in range(8):
            await written(store, {"n": n})
        place.clock.advance_us(10 * 3_600_000_000)
        assert (await persister.cleanup_old_data(GOVERNOR, keep=timedelta(hours=1))).events_deleted > 1
        repaired = await consistency.read_repair(GOVERNOR, "alice", [theirs], METADATA)
        assert (repaired.data, repaired.version) == ({"n": 2}, 11)
        assert (await consistency.read_repair(GOVERNOR, "alice", [theirs], METADATA)).version == 11


@anyio_test
async def test_notes_are_bounded(store: StateStore):
    """A note lists the first changes that were dropped and says how many there were; large values by size only."""
    parted = await written(store, {})
    large = "x" * VALUE_BYTES_MAX
    mine: dict[str, Any] = {f"f{n:03d}": n for n in range(LISTED_MAX + 5)}
    await written(store, {**mine, "a": large})
    theirs = elsewhere(parted, dict.fromkeys([*mine, "a"], "theirs"), later=10**12)
    await EventualConsistency(store).read_repair(GOVERNOR, "alice", [theirs], METADATA)
    _, note = await last_note(store)
    assert note["discarded_total"] == LISTED_MAX + 6
    assert [each["path"] for each in note["discarded"]] == ["a", *list(mine)[: LISTED_MAX - 1]]
    assert (note["discarded"][0]["bytes"], note["discarded"][0].get("value")) == (VALUE_BYTES_MAX + 2, None)
    assert note["discarded"][1]["value"] == 0


@anyio_test
async def test_only_real_notes_are_read(store: StateStore):
    """A context or an action of somebody's own is not taken for the note of a repair, nor is one overwritten."""
    parted = await written(store, {"n": 10})
    forged = {"conflict": {"clock": {B: 99}, "heads": "no list"}}
    await store.save_state(
        GOVERNOR, "alice", {"n": 11}, msgspec.structs.replace(METADATA, context=forged), expected=1, action="resolve"
    )
    await store.save_state(GOVERNOR, "alice", {"n": 11}, METADATA, expected=2, action="read_repair")
    theirs = elsewhere(parted, {"n": 12})
    consistency = EventualConsistency(store, COUNTING)
    own = msgspec.structs.replace(METADATA, context={"conflict": 1})
    with pytest.raises(InvalidData, match="conflict"):
        await consistency.read_repair(GOVERNOR, "alice", [theirs], own)
    assert (await consistency.read_repair(GOVERNOR, "alice", [theirs], METADATA)).data == {"n": 13}


@anyio_test
async def test_versions_of_another_state_are_refused(store: StateStore):
    """Versions are brought together with those of the same state only."""
    alice = await written(store, {"n": 1})
    bob = msgspec.structs.replace(alice, snapshot=msgspec.structs.replace(alice.snapshot, id="bob"))
    consistency = EventualConsistency(store)
    with pytest.raises(InvalidData, match="another state"):
        consistency.resolve_conflict(alice, bob)
    with pytest.raises(InvalidData, match="another state"):
        await consistency.read_repair(GOVERNOR, "alice", [bob], METADATA)


@anyio_test
async def test_resolving_by_hand(store: StateStore):
    """Versions in hand are compared and resolved without the store; only conflicts are counted as such."""
    consistency = EventualConsistency(store, COUNTING)
    ours, theirs = rivals({"n": 15}, {"n": 12})
    after = version({"n": 9}, merge(ours.clock, theirs.clock))
    assert consistency.compare(ours, theirs) is Order.CONCURRENT
    assert consistency.compare(ours, after) is Order.BEFORE
    assert consistency.resolve_conflict(ours, theirs, {"n": 10}).data == {"n": 17}
    assert consistency.resolve_conflict(ours, theirs).data == {"n": 12}
    assert consistency.resolve_conflict(ours, after).data == {"n": 9}
    assert [(each.discarded, each.repaired) for each in consistency.history.recent(9)] == [(1, False), (0, False)]
    with pytest.raises(ConflictResolutionFailed):
        EventualConsistency(store, Causal()).resolve_conflict(ours, theirs)


@anyio_test
async def test_stale_reads_and_broken_causality(store: StateStore):
    """A read is stale when a known version knew of more, and violates causality when it lacks what was seen."""
    consistency = EventualConsistency(store)
    first = (await written(store, {"n": 1})).snapshot
    second = (await written(store, {"n": 2})).snapshot
    beside = {B: 1}
    consistency.detect_stale_read(first, [first.causality, beside, {}])
    with pytest.raises(StaleRead) as stale:
        consistency.detect_stale_read(first, [beside, second.causality])
    assert stale.value.clocks == ({STORE_ID: 1}, {STORE_ID: 2})
    assert stale.value.is_transient
    consistency.check_causality(second, after=first.causality)
    consistency.check_causality(second, after=second.causality)
    for seen in (beside, consistency.merge_clocks(second.causality, beside), {STORE_ID: 3}):
        with pytest.raises(CausalityViolation) as violation:
            consistency.check_causality(second, after=seen)
        assert violation.value.clocks == ({STORE_ID: 2}, seen)
    assert consistency.merge_clocks() == {}
    stats = consistency.get_stats()
    assert (stats.stale_reads, stats.violations, stats.read_repair) == (1, 3, True)


@anyio_test
async def test_numbers_of_lamport(store: StateStore):
    """The next number is greater than all given and all observed, and the stats tell it."""
    consistency = EventualConsistency(store)
    assert (consistency.next_lamport(), consistency.observe_lamport(9), consistency.next_lamport()) == (1, 10, 11)
    assert consistency.get_stats().lamport_clock == 11


# History -------------------------------------------------------------------------------------------------------


def resolved(clock: ManualClock, path: str = "p") -> ConflictRecord:
    """A conflict resolved now."""
    now = from_us(clock.now_us())
    return ConflictRecord(path=path, clocks=({A: 1}, {B: 1}), strategy="s", resolved_at=now, discarded=0, repaired=True)


def test_a_storm_is_more_conflicts_than_that():
    """A storm is strictly more conflicts than the threshold within the window up to now."""
    clock = ManualClock()
    history = ConflictHistory(clock)
    for _ in range(3):
        history.record(resolved(clock))
        clock.advance_us(10_000_000)
    assert history.has_conflict_storm(2, 30)
    assert not history.has_conflict_storm(3, 30)
    assert not history.has_conflict_storm(2, 29.9)
    assert history.has_conflict_storm(1, 20)
    clock.advance_us(60_000_000)
    assert not history.has_conflict_storm(0, 60)


def test_the_latest_conflicts_are_kept():
    """Only so many are kept, newest first; a threshold that could never be passed is refused."""
    clock = ManualClock()
    history = ConflictHistory(clock, kept_max=3)
    for path in "abcde":
        history.record(resolved(clock, path))
    assert [record.path for record in history.recent(2)] == ["e", "d"]
    assert [record.path for record in history.recent(9)] == ["e", "d", "c"]
    assert history.has_conflict_storm(2, 1)
    with pytest.raises(ValueError, match="latest 3"):
        history.has_conflict_storm(3, 1)
