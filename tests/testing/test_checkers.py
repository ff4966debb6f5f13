"""The checkers of histories, checked: what is right passes, and every mistake made on purpose is found by its name."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, permutations
from typing import Any

import pytest

from ..support import bank, linearizability, list_append
from ..support.linearizability import CheckerTimeout, Operation
from ..support.list_append import Transaction
from ..support.simulated_histories import Mistake, lists, registers
from ..support.written_histories import op, txn

SEED = os.environ.get("TAI_STATE_SEED")


@pytest.fixture
def seed() -> int:
    """Printed; to be given again as ``TAI_STATE_SEED``."""
    seed = int(SEED) if SEED else random.SystemRandom().randrange(2**32)
    print(f"repeat with TAI_STATE_SEED={seed}")
    return seed


LINEARIZABLE = {
    "nothing happened": [],
    "one after the other": ["1 1-2 write 5 v1", "1 3-4 read 5 v1", "2 5-6 cas v1 6 v2", "1 7-8 read 6 v2"],
    "during a write both values are right": ["1 1-9 write 5", "2 2-3 read -", "3 4-5 read 5", "2 6-7 read 5"],
    "touching is concurrent": ["1 1-2 write 5", "2 2-3 read -"],
    "writes in the order that reads show": ["1 1-9 write 5", "2 1-9 write 6", "3 10-11 read 5"],
    "unknown, and it did happen": ["1 1- write 5", "2 3-4 read -", "2 5-6 read 5", "2 7-8 read 5"],
    "unknown, and it did not": ["1 1- write 5", "2 3-4 read -", "2 5-6 write 6 v1", "2 7-8 read 6 v1"],
    "unknown, and it lands between two others": ["1 1- write 5", "2 3-4 write 6 v1", "2 5-6 write 7 v3"],
    "unknown cas that lands late": ["1 1- cas v1 5", "2 3-4 read -", "2 5-6 write 6 v1", "2 7-8 read 5 v2"],
    "a read without an answer says nothing": ["1 1- read 77", "2 2-3 read -"],
    "of two on the same version one wins": ["1 1-9 cas v0 5 v1", "2 2-8 cas v0 6 v1 refused", "1 10-11 read 5"],
    "refused, and told why": ["1 1-2 write 5 v1", "2 3-4 cas v0 6 v1 refused"],
    "refused by value": ["1 1-2 write 5", "2 3-4 cas =- 6 refused", "2 5-6 cas =5 6", "2 7-8 read 6"],
    "refused because of an unknown one": ["1 1- write 5", "2 3-4 cas v0 6 refused", "2 5-6 read 5 v1"],
    "failed has no effect": ["1 1-2 write 5 failed", "1 3-4 read - v0", "1 5-6 cas v0 5 v1"],
    "cleared twice": ["1 1-2 write - v1", "1 3-4 write - v2", "1 5-6 read - v2"],
}

NOT_LINEARIZABLE = {
    "stale read": ["1 1-2 write 5", "1 3-4 write 6", "2 5-6 read 5"],
    "stale read, beside a long one": ["1 1-4 write 5", "2 2-20 write 6", "1 5-6 write 7", "3 7-8 read 5"],
    "stale read, own write": ["1 1-2 write 5", "1 3-4 read -"],
    "new, then old": ["1 1-9 write 5", "2 2-3 read 5", "3 4-5 read -"],
    "lost update": ["1 1-9 cas v0 5 v1", "2 2-10 cas v0 6 v1"],
    "lost update by value": ["1 1-3 write 5", "1 4-9 cas =5 6", "2 4-10 cas =5 7"],
    "refused without a reason": ["1 1-2 write 5 v1", "2 3-4 cas v1 6 refused"],
    "refused with a wrong reason": ["1 1-2 write 5 v1", "2 3-4 cas v3 6 v2 refused"],
    "never written": ["1 1-2 write 5", "2 3-4 read 6"],
    "failed, but applied": ["1 1-2 write 5 failed", "2 3-4 read 5"],
    "refused, but applied": ["1 1-2 cas v7 5 refused", "2 3-4 read 5"],
    "a version is left out": ["1 1-2 write 5 v1", "1 3-4 write 6 v3"],
    "a version of another value": ["1 1-2 write 5 v1", "1 3-4 write 6 v2", "2 5-6 read 6 v1"],
    "an unknown one before it was asked for": ["1 5- write 5", "2 3-4 read 5"],
    "an unknown cas on something else": ["1 1- cas v3 5", "2 3-4 read 5"],
    "an unknown one twice": ["1 1- write 5", "2 2-3 read 5", "2 4-5 write 6", "2 6-7 read 6", "2 8-9 read 5"],
}


@pytest.mark.parametrize("texts", LINEARIZABLE.values(), ids=LINEARIZABLE)
def test_linearizable_histories_pass(texts: Sequence[str]):
    """What a register can do passes, whatever overlaps, and whether unknown operations happened or not."""
    verdict = linearizability.check([op(text) for text in texts])
    assert verdict.ok, str(verdict)


@pytest.mark.parametrize("texts", NOT_LINEARIZABLE.values(), ids=NOT_LINEARIZABLE)
def test_other_histories_do_not(texts: Sequence[str]):
    """What no register can do is found, with the operation by which it shows; a good key beside it changes nothing."""
    history = [op(text) for text in texts]
    good = [op(text, key="good") for text in LINEARIZABLE["one after the other"]]
    violation = linearizability.check([*good, *history]).violation
    assert violation is not None
    assert (violation.key, violation.stuck) == ("x", history[-1])


def test_a_violation_is_told():
    """The text of a verdict has the key, the order that exists, the state after it, and what fits nowhere."""
    texts = ["1 1-2 cas v0 5 v1", "2 3- write 6", "3 4-5 cas v0 8 refused", "1 6-7 read - v0", "1 8-9 read 5 v1"]
    assert str(linearizability.check([op(text) for text in texts])).splitlines() == [
        "5 operations on 1 keys, 20.0% unknown, 5 steps: x is not linearizable; 2 operations fit an order:",
        "  process 1 [1..2] cas version 0 -> 5 (version 1)",
        "  process 3 [4..5] cas version 0 -> 8, refused",
        "after these: (1, 5)",
        "fits nowhere: process 1 [6..7] read None (version 0)",
        "  beside it: process 2 [3..] write 6, unknown",
    ]


def test_a_search_without_an_end_is_an_error():
    """A history that takes too many steps has no verdict; with the usual number, and what was tried kept, it has."""
    history = [op(f"{process} 1-99 write {process}") for process in range(10)]
    history.append(op("10 100-101 read 99"))
    with pytest.raises(CheckerTimeout, match="x: no verdict after 500 steps"):
        linearizability.check(history, steps_max=500)
    assert not linearizability.check(history).ok


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["1 1-2 write 5", "2 1- write 5"], "x: 5 was written 2 times"),
        (["1 2-1 write 5"], "returned before it was invoked"),
        (["1 1-2 write 5 refused"], "only a cas is refused"),
        (["1 1- cas v1 5 refused"], "no time of return"),
    ],
)
def test_nonsense_is_no_history(texts: Sequence[str], message: str):
    """A history that could hide a mistake, or was recorded wrongly, is refused."""
    with pytest.raises(ValueError, match=message):
        linearizability.check([op(text) for text in texts])


def subsets(values: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """All of them."""
    for count in range(len(values) + 1):
        yield from combinations(values, count)


def in_time(order: Sequence[Any], intervals: Sequence[tuple[float, float]]) -> bool:
    """Whether none comes after one that began after its end."""
    return not any(intervals[after][1] < intervals[before][0] for before, after in combinations(order, 2))


def replays(operations: Iterable[Operation]) -> bool:
    """Whether a register does these, one after the other, without a search or a model."""
    values: list[Any] = [None]
    for each in operations:
        right = each.version in {None, len(values) - 1}
        holds = each.expected_version in {None, len(values) - 1}
        if each.kind == "cas" and each.expected_version is None:
            holds = each.expected_value == values[-1]
        if each.kind == "read":
            fits = right and each.value == values[-1]
        elif each.outcome == "refused":
            fits = right and not holds
        else:
            fits = holds and each.version in {None, len(values)}
            values.append(each.value)
        if not fits:
            return False
    return True


@pytest.mark.parametrize("mistake", [Mistake.NONE, Mistake.NO_CHECK, Mistake.RETRIED, Mistake.FALSE_FAILURE])
def test_the_search_finds_what_trying_all_orders_finds(mistake: Mistake, seed: int):
    """On small histories, right and wrong ones, the verdict is that of trying every order of every outcome."""
    verdicts = []
    for number in range(150):
        history = registers(
            seed + number, mistake, clients=3, operations=2, unknown=0.35, versions=number % 2 == 0, keys=1
        )
        spoilt = random.Random(seed + number)
        if spoilt.random() < 0.4:
            place = spoilt.randrange(len(history))
            history[place] = _spoilt(history[place], spoilt)
        required = [each for each in history if each.outcome in {"done", "refused"}]
        unknown = [each for each in history if each.outcome == "unknown" and each.kind != "read"]
        intervals = [(each.invoked, each.end) for each in [*required, *unknown]]
        expected = any(
            in_time(order, intervals) and replays(([*required, *unknown])[index] for index in order)
            for chosen in subsets(range(len(required), len(required) + len(unknown)))
            for order in permutations([*range(len(required)), *chosen])
        )
        verdict = linearizability.check(history)
        assert verdict.ok == expected, f"history {number}: {verdict}"
        verdicts.append(expected)
    assert {True, False} == set(verdicts)


def _spoilt(operation: Operation, chance: random.Random) -> Operation:
    """The same with another answer."""
    facts = {name: getattr(operation, name) for name in Operation.__slots__}
    if operation.kind == "read":
        return Operation(**facts | {"value": chance.choice([None, 1, 2, 3]), "version": None})
    return Operation(**facts | {"version": chance.choice([None, 0, 1, 2])})


@pytest.mark.parametrize("versions", [True, False], ids=["versions", "values"])
def test_right_registers_raise_no_alarm(*, versions: bool, seed: int):
    """A hundred histories of registers without a mistake pass, with lost answers that took effect, later or never."""
    unknown = 0
    for number in range(100):
        verdict = linearizability.check(registers(seed + number, versions=versions, keys=1 + number % 3))
        assert verdict.ok, f"history {number}: {verdict}"
        unknown += verdict.unknown
    assert unknown > 100


@pytest.mark.parametrize("versions", [True, False], ids=["versions", "values"])
@pytest.mark.parametrize("mistake", [Mistake.STALE_READ, Mistake.NO_CHECK])
def test_wrong_registers_are_found(mistake: Mistake, *, versions: bool, seed: int):
    """Stale reads and lost updates are found in every one of 30 histories with unique values."""
    missed = [
        number for number in range(30) if linearizability.check(registers(seed + number, mistake, versions=versions)).ok
    ]
    assert not missed


def test_a_commit_reported_as_failed_is_found(seed: int):
    """Answers that were lost and are reported as failures are found in every one of 30 histories."""
    histories = [registers(seed + number, Mistake.FALSE_FAILURE, unknown=0.3) for number in range(30)]
    assert not any(linearizability.check(history).ok for history in histories)


SERIALIZABLE = {
    "nothing happened": [],
    "one after the other": ["1-2 r x, a x 1", "3-4 r x 1, a x 2", "5-6 r x 1 2"],
    "concurrent, either order": ["1-9 a x 1, r y", "2-8 a y 1, r x 1", "10-11 r x 1, r y 1"],
    "blind appends nobody reads": ["1-2 a x 1", "1-2 a x 2", "1-2 a y 1"],
    "its own appends": ["1-2 a x 1, r x 1, a x 2, r x 1 2", "3-4 r x 1 2, a x 3, r x 1 2 3"],
    "touching is concurrent": ["1-2 a x 1", "2-3 r x"],
    "aborted, and nobody saw it": ["1-2 aborted r x 7, a x 1", "3-4 r x"],
    "unknown, and it happened late": ["1- a x 1, a y 1", "3-4 r x, r y", "5-6 r x 1, r y 1"],
    "unknown, and it did not": ["1- r x 5, a x 1", "3-4 r x", "5-6 a x 2", "7-8 r x 2"],
    "unknown, seen through another": ["1- a x 1", "2- r x 1, a y 1", "5-6 r y 1", "7-8 r x 1"],
    "not read to its end": ["1-2 a x 1, a y 1", "1-9 r x, a x 2", "10-11 r y 1"],
}

NOT_SERIALIZABLE = {
    "G1a": ({"G1a"}, ["1-2 aborted a x 1", "3-4 r x 1"]),
    "G1a, seen by a later one only": ({"G1a"}, ["1-2 aborted a x 1", "1-3 a x 2", "4-5 r x 1 2"]),
    "G1b": ({"G1b", "G-single"}, ["1-4 a x 1, a x 2", "2-5 r x 1"]),
    "lost update": ({"lost update", "G-single"}, ["1-5 r x, a x 1", "2-6 r x, a x 2", "7-8 r x 1 2"]),
    "lost update, overwritten": (
        {"lost update", "lost append"},
        ["1-5 r x, a x 1", "2-6 r x, a x 2", "7-8 r x 2"],
    ),
    "incompatible order": ({"incompatible order"}, ["1-9 a x 1", "1-9 a x 2", "1-9 r x 1 2", "1-9 r x 2"]),
    "G0": ({"G0"}, ["1-9 a x 1, a y 1", "1-9 a x 2, a y 2", "10-11 r x 1 2, r y 2 1"]),
    "G0, interleaved": ({"G0"}, ["1-9 a x 1, a x 2", "1-9 a x 3", "10-11 r x 1 3 2"]),
    "G1c": ({"G1c"}, ["1-9 a x 1, r y 1", "1-9 a y 1, r x 1"]),
    "G1c, nobody reads the later write": ({"G1c"}, ["1-9 a x 2, a y 1", "1-9 r y 1, a x 1", "1-9 r x 1"]),
    "G-single": ({"G-single"}, ["1-9 a x 1, a y 1", "1-9 r x, r y 1"]),
    "G-single, half an unknown one": ({"G-single"}, ["1- a x 1, a y 1", "3-4 r x 1, r y"]),
    "G2": ({"G2"}, ["1-9 r x, a y 1", "1-9 r y, a x 1", "10-11 r x 1, r y 1"]),
    "G2, nobody reads it": ({"G2"}, ["1-9 r x, a y 1", "1-9 r y, a x 1"]),
    "G2, phantom": ({"G2"}, ["1-9 r a, r b, a a 1", "1-9 r b, a b 1, r a", "10-11 r a 1, r b 1"]),
    "stale read": ({"G-single (real time)"}, ["1-2 a x 1", "3-4 r x", "3-6 r x 1"]),
    "a later write ordered first": ({"G0 (real time)"}, ["1-2 a x 1", "3-4 a x 2", "1-9 r x 2 1"]),
    "a read of the future": ({"G1c (real time)"}, ["1-2 r x 1", "3-4 a x 1"]),
    "two reads and the clock": ({"G2 (real time)"}, ["1-9 r x, a y 1", "2-3 a x 1", "4-5 r y", "10-11 r x 1, r y 1"]),
    "lost append": ({"lost append"}, ["1-2 a x 1", "3-4 r x"]),
    "duplicate append": ({"duplicate append"}, ["1- a x 1", "3-4 a x 2", "5-6 r x 1 2 1"]),
    "unwritten value": ({"unwritten value"}, ["1-2 r x 9"]),
    "internal, own append missing": ({"internal"}, ["1-2 a x 1, r x"]),
    "internal, two answers": ({"internal"}, ["1-9 r x, r x 1", "1-9 a x 1"]),
    "internal, own append too early": ({"internal"}, ["1-2 r x 1, a x 1"]),
}


@pytest.mark.parametrize("texts", SERIALIZABLE.values(), ids=SERIALIZABLE)
def test_serializable_histories_pass(texts: Sequence[str]):
    """What one transaction after the other can do passes, whether unknown ones happened or not."""
    report = list_append.check(txn(text) for text in texts)
    assert report.ok, str(report)


@pytest.mark.parametrize(("names", "texts"), NOT_SERIALIZABLE.values(), ids=NOT_SERIALIZABLE)
def test_anomalies_are_named(names: set[str], texts: Sequence[str]):
    """Each anomaly is found by its name, and nothing else is."""
    report = list_append.check(txn(text) for text in [*texts, "20-21 a other 1"])
    assert set(report.names) == names, str(report)
    assert all(len(texts) not in anomaly.transactions for anomaly in report.anomalies)


def test_an_anomaly_is_told():
    """The text of a report has the counts, the reasons of the cycle, and its transactions."""
    texts = ["1-9 r x, a y 1", "2-8 r y, a x 1", "10- a x 2", "11-12 r x 1 2", "13-14 aborted a x 3", "15- a x 4"]
    report = list_append.check(txn(text) for text in texts)
    assert (report.found, round(report.unknown_share, 3)) == (1, 0.167)
    assert str(report).splitlines() == [
        "6 transactions (3 committed, 1 aborted, 2 unknown, 1 of these found committed)",
        "G2: no order of 2 transactions",
        "  T0 read before the write of T1: x",
        "  T1 read before the write of T0: y",
        "  T0 is process 0 [1..9] committed: r x [], append y 1",
        "  T1 is process 0 [2..8] committed: r y [], append x 1",
    ]


def test_the_graph_finds_what_trying_all_orders_finds(seed: int):
    """On small histories, right and wrong ones, the verdict is that of trying every order of every outcome."""
    verdicts = []
    kinds = (Mistake.NONE, Mistake.NONE, Mistake.NO_CHECK, Mistake.SNAPSHOT_ISOLATION, Mistake.STALE_READ)
    for number in range(500):
        mistake = kinds[number % len(kinds)]
        history = lists(seed + number, mistake, clients=3, transactions=2, keys=2, unknown=0.3)
        intervals = [(each.start, each.end or float("inf")) for each in history]
        committed = [index for index, each in enumerate(history) if each.outcome == "committed"]
        unknown = [index for index, each in enumerate(history) if each.outcome == "unknown"]
        expected = any(
            in_time(order, intervals) and serial(history[index] for index in order)
            for chosen in subsets(unknown)
            for order in permutations([*committed, *chosen])
        )
        report = list_append.check(history)
        assert report.ok == expected, f"history {number}: {report}\n{[str(each) for each in history]}"
        verdicts.append(expected)
    assert 50 < sum(verdicts) < 450


def serial(transactions: Iterable[Transaction]) -> bool:
    """Whether lists do these, one after the other."""
    state: dict[str, tuple[Any, ...]] = {}
    for transaction in transactions:
        for kind, key, value in transaction.operations:
            if kind == "append":
                state[key] = (*state.get(key, ()), value)
            elif value != state.get(key, ()):
                return False
    return True


def test_right_lists_raise_no_alarm(seed: int):
    """A hundred histories of lists without a mistake pass, with lost answers that took effect, later or never."""
    found = 0
    for number in range(100):
        report = list_append.check(lists(seed + number, unknown=0.05 + 0.1 * (number % 3)))
        assert report.ok, f"history {number}: {report}"
        found += report.found
    assert found > 100


@pytest.mark.parametrize(
    ("mistake", "name"),
    [
        (Mistake.SNAPSHOT_ISOLATION, "G2"),
        (Mistake.NO_CHECK, "lost update"),
        (Mistake.STALE_READ, "G-single (real time)"),
        (Mistake.RETRIED, "duplicate append"),
    ],
)
def test_wrong_lists_are_found(mistake: Mistake, name: str, seed: int):
    """Write skew, lost updates, stale reads and doubled appends are found by name in every one of 20 histories."""
    # Of 480 transactions, one history in some thousands has no append that is doubled and then read.
    length, unknown = (160, 0.3) if mistake is Mistake.RETRIED else (80, 0.05)
    for number in range(20):
        report = list_append.check(lists(seed + number, mistake, transactions=length, unknown=unknown))
        assert name in report.names, f"history {number}: {report}"
        if mistake is Mistake.SNAPSHOT_ISOLATION:
            assert set(report.names) <= {"G2", "G2 (real time)"}, f"history {number}: {report}"


def test_fifty_thousand_transactions(seed: int):
    """A long history is judged in seconds, and one stale read at its end is found in it."""
    history = lists(seed, clients=10, transactions=5_000, keys=5)
    began = time.process_time()
    report = list_append.check(history)
    print(f"{time.process_time() - began:.2f} s for {report}")
    assert report.ok
    assert time.process_time() - began < 10
    last = max(each.end or 0 for each in history)
    texts = [f"{last + 1}-{last + 2} a new 1", f"{last + 3}-{last + 4} r new", f"{last + 3}-{last + 5} r new 1"]
    assert set(list_append.check([*history, *map(txn, texts)]).names) == {"G-single (real time)"}


START = {"a": 10, "b": 10, "c": 0}
MOVED = {"a": 7, "b": 13, "c": 0}


@pytest.mark.parametrize(
    ("balances", "problem"),
    [
        ({"a": 7, "b": 10, "c": 0}, "the total is 17, not 20: a 7, b 10, c 0"),
        ({"a": 10, "b": 13, "c": 0}, "the total is 23, not 20: a 10, b 13, c 0"),
        ({"a": 7, "b": 13}, "c missing"),
        ({"a": 7, "b": 13, "c": 0, "d": 0}, "d never opened"),
        ({"a": -3, "b": 23, "c": 0}, "a is at -3, below 0"),
    ],
)
def test_torn_transfers_are_found(balances: dict[str, int], problem: str):
    """Totals that change, accounts that go or come, and overdrawn ones are found, in a reading and at the end."""
    readings = [bank.Reading("r1", START), bank.Reading("r2", balances)]
    assert bank.check(START, readings, MOVED, minimum=0) == [f"r2: {problem}"]
    assert bank.check(START, readings[:1], balances, minimum=0) == [f"the final state: {problem}"]
    assert bank.check(START, readings[:1], MOVED, minimum=0) == []


def test_whole_transfers_that_are_lost_or_doubled_are_found():
    """With the transfers given, a final state is right only if some outcome of the unknown ones explains it."""
    done = bank.Transfer("a", "b", 3, "committed")
    never, open_ = bank.Transfer("b", "a", 5, "aborted"), bank.Transfer("b", "c", 1, "unknown")
    assert bank.check(START, [], MOVED, [done, never, open_]) == []
    assert bank.check(START, [], {"a": 7, "b": 12, "c": 1}, [done, never, open_]) == []
    for final in (START, {"a": 4, "b": 16, "c": 0}, {"a": 12, "b": 8, "c": 0}, {"a": 7, "b": 11, "c": 2}):
        (problem,) = bank.check(START, [], final, [done, never, open_])
        assert "no outcome of the 1 unknown ones explains it" in problem
    with pytest.raises(bank.TooManyUnknown):
        bank.check(START, [], MOVED, [bank.Transfer("a", "b", 2**power, "unknown") for power in range(16)])
