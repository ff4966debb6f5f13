"""Clocks of retired stores, against what each event really knew of: a model of stores that are synced in pairs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from itertools import combinations, count, permutations, product
from typing import NamedTuple, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tai_state.values.clocks import ClockOrder, VectorClock, compare, merge, tick
from tai_state.values.retired import Retired, has_marks, is_mark, mark_of

IS_PROOF = os.environ.get("TAI_STATE_PROOF") == "1"
LENGTH = 5 if IS_PROOF else 4
"""How many things happen in each life that is short."""

VISITORS = 60

Rule: TypeAlias = Callable[[dict[str, VectorClock], VectorClock, str, str], VectorClock]
"""What a retirement makes of a clock: what is on record, the clock with the event counted, the store, the mark."""

Step: TypeAlias = tuple[str, int, int]
"""What happens, and the numbers of the stores."""


class Event(NamedTuple):
    """An event: its clock as stored, and the numbers of all events that it really knew of, itself included."""

    number: int
    clock: VectorClock
    past: frozenset[int]


NOTHING = Event(0, {}, frozenset())


class Store:
    """A store with one state, of which only the newest event is kept."""

    def __init__(self, store_id: str) -> None:
        self.store_id = store_id
        self.head = NOTHING
        self.taken_out: dict[str, VectorClock] = {}


class Model:
    """Stores that change their state, retire each other, and are synced; each new event is judged.

    Args:
        stores: how many.
        retire: what a retirement makes of a clock.

    Attributes:
        told: what happened.
    """

    def __init__(self, stores: int, retire: Rule) -> None:
        self._names = (f"s{number}" for number in count())
        self._numbers = count(1)
        self.stores = [Store(next(self._names)) for _ in range(stores)]
        self._events: list[Event] = []
        self._retire = retire
        self._all: dict[str, VectorClock] = {}
        self.told: list[str] = []

    def step(self, step: Step) -> None:
        """One thing happens."""
        kind, first, second = step
        one, other = self.stores[first % len(self.stores)], self.stores[second % len(self.stores)]
        if kind == "write":
            self._made(one, tick(one.head.clock, one.store_id), one.head.past)
        elif kind == "restore":
            one.store_id = next(self._names)
        elif one is other:
            return
        elif kind == "retire":
            self.retire(one, other.store_id)
        else:
            self.sync(one, other)

    def retire(self, store: Store, store_id: str) -> None:
        """A store hears that another one will not write again."""
        if store_id not in store.head.clock:
            return
        number = next(self._numbers)
        mark = mark_of(str(number))
        clock = self._retire(store.taken_out, tick(store.head.clock, store.store_id), store_id, mark)
        self._all.update(store.taken_out)
        self._made(store, clock, store.head.past, number)

    def sync(self, one: Store, other: Store) -> None:
        """Two stores meet; what their clocks say must be so."""
        retired = Retired({**one.taken_out, **other.taken_out})
        if {one.store_id, other.store_id} & retired.stores:
            self.told.append("refused")
            return
        ours, theirs = retired.whole(one.head.clock), retired.whole(other.head.clock)
        order = compare(ours, theirs)
        assert order is real_order(one.head, other.head)
        quick = compare(one.head.clock, other.head.clock)
        assert quick in {order, ClockOrder.CONCURRENT}, "without what is on record too little is known, never wrong"
        one.taken_out, other.taken_out = {**retired.taken_out}, {**retired.taken_out}
        if order is ClockOrder.CONCURRENT:
            self._made(one, retired.reduced(merge(ours, theirs)), one.head.past | other.head.past, is_counted=False)
            other.head = one.head
        else:
            newer = one if order is ClockOrder.AFTER else other
            one.head = other.head = newer.head
        self.told.append(order.value)

    def _made(
        self, store: Store, clock: VectorClock, past: frozenset[int], number: int = 0, *, is_counted: bool = True
    ) -> None:
        """An event was made; its clock relates to that of every other event as the two events do."""
        number = number or next(self._numbers)
        event = Event(number, clock, past | {number} if is_counted else past)
        whole = Retired(self._all)
        for each in self._events:
            assert compare(whole.whole(clock), whole.whole(each.clock)) is real_order(event, each)
            assert (clock == each.clock) is (event.past == each.past), "equal clocks mean the same event"
        self._events.append(event)
        store.head = event


def real_order(one: Event, other: Event) -> ClockOrder:
    """How two events relate, by what they really knew of."""
    if one.past == other.past:
        return ClockOrder.SAME
    if one.past < other.past:
        return ClockOrder.BEFORE
    return ClockOrder.AFTER if one.past > other.past else ClockOrder.CONCURRENT


def on_record(taken_out: dict[str, VectorClock], clock: VectorClock, store_id: str, mark: str) -> VectorClock:
    """The rule of the library."""
    retired, reduced = Retired(taken_out).with_retirement(mark, clock, store_id)
    taken_out.update(retired.taken_out)
    return reduced


def just_dropped(_taken_out: dict[str, VectorClock], clock: VectorClock, store_id: str, _mark: str) -> VectorClock:
    """The naive rule: the entry is dropped, and nothing is on record."""
    return {each: n for each, n in clock.items() if each != store_id}


def without_count(taken_out: dict[str, VectorClock], clock: VectorClock, store_id: str, mark: str) -> VectorClock:
    """It is on record that the store is retired, as if all that it ever wrote had been seen."""
    clock = on_record(taken_out, clock, store_id, mark)
    taken_out[mark] = {each: n if is_mark(each) else 1_000_000 for each, n in taken_out[mark].items()}
    return clock


def without_earlier_marks(
    taken_out: dict[str, VectorClock], clock: VectorClock, store_id: str, mark: str
) -> VectorClock:
    """Earlier retirements are forgotten by the next one."""
    taken_out[mark] = {store_id: clock[store_id]}
    return {**{each: n for each, n in clock.items() if each != store_id and not is_mark(each)}, mark: 1}


def run(steps: Iterable[Step], stores: int, rule: Rule = on_record) -> Model:
    """A model in which this happened."""
    model = Model(stores, rule)
    for step in steps:
        model.step(step)
    return model


STEPS: list[Step] = [
    *(("write", each, each) for each in range(3)),
    *(("retire", one, other) for one, other in permutations(range(3), 2)),
    *(("sync", one, other) for one, other in combinations(range(3), 2)),
]


BEGUN: list[Step] = [("write", 0, 0), ("sync", 0, 1), ("write", 1, 1), ("sync", 1, 2), ("sync", 0, 1)]
"""Two of three stores have changed the state, and all have it."""


def test_all_short_lives_of_three_stores() -> None:
    """Whatever happens next, so many things one after the other, the clocks tell what was known."""
    for steps in product(STEPS, repeat=LENGTH):
        run([*BEGUN, *steps], 3)


steps_of_five = st.lists(
    st.tuples(
        st.sampled_from(["write"] * 4 + ["sync"] * 5 + ["retire"] * 2 + ["restore"]),
        st.integers(0, 4),
        st.integers(0, 4),
    ),
    min_size=10,
    max_size=60,
)


@given(steps_of_five)
@settings(max_examples=30_000 if IS_PROOF else 300, deadline=None)
def test_long_lives_of_five_stores(steps: list[Step]) -> None:
    """The same for long lives by chance, with stores that are restored from an export, as new stores."""
    run(steps, 5)


@pytest.mark.parametrize("rule", [just_dropped, without_count, without_earlier_marks])
def test_a_wrong_rule_is_noticed(rule: Rule) -> None:
    """The model notices rules under which a change could be lost, or count twice."""

    def is_noticed() -> bool:
        for steps in product(STEPS, repeat=3):
            try:
                run([*BEGUN, *steps], 3, rule)
            except AssertionError:
                return True
        return False

    assert is_noticed()


def test_a_clock_stays_short_however_many_stores_are_retired() -> None:
    """Stores that change the state once each and are then retired leave two entries."""
    model = run([("write", 0, 0)], 2)
    centre, visitor = model.stores
    for number in range(VISITORS):
        visitor.store_id, visitor.head, visitor.taken_out = f"visitor {number}", NOTHING, {}
        for kind in ("sync", "write", "sync"):
            model.step((kind, 1, 0))
        model.retire(centre, visitor.store_id)
    assert len(centre.head.clock) == 2
    assert has_marks(centre.head.clock)
    assert len(Retired(centre.taken_out).whole(centre.head.clock)) == 1 + 2 * VISITORS
    assert Retired(centre.taken_out).stores == {f"visitor {number}" for number in range(VISITORS)}
