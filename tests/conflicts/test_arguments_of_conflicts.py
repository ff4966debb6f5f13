"""Arguments of everything about conflicts: what a call cannot mean is refused before the engine is asked anything."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import nan
from typing import Any

import msgspec
import pytest

from tai_state import (
    Causal,
    ChangeMetadata,
    ConflictHistory,
    Custom,
    EventualConsistency,
    FieldMerge,
    LastWriteWins,
    LockManager,
    Rejected,
    Rival,
    StateMachinePersister,
    StateSnapshot,
    StateStore,
    TransactionManager,
    recorded_conflicts,
    sync,
)
from tai_state.testing import ManualClock, MemoryEngine

from ..support.stores import GOVERNOR, METADATA, CountingEngine, collected, make_store

pytestmark = pytest.mark.anyio

READ: StateSnapshot[dict[str, Any]] = StateSnapshot[dict[str, Any]].unsaved(GOVERNOR, "s", {"n": 1})
RIVAL = Rival(snapshot=READ, hlc=1, tip="e")
CLOCKS: list[Any] = [5, None, "a", [("a", 1)], {"a": -1}, {"a": True}, {"a": 1.5}, {1: 1}]
FLAGS: list[Any] = ["no", 1, None]
RESOLVERS: list[Any] = [5, None, LastWriteWins, "last"]
NUMBERS: list[Any] = [True, 1.5, "1", -1, None, nan]
RIVALS: list[Any] = [
    5,
    None,
    READ,
    msgspec.structs.replace(RIVAL, snapshot=5),
    msgspec.structs.replace(RIVAL, snapshot=msgspec.structs.replace(READ, causality={"a": "1"})),
    msgspec.structs.replace(RIVAL, hlc="1"),
    msgspec.structs.replace(RIVAL, tip=None),
]
METADATAS: list[Any] = [5, "ana", {}, ChangeMetadata(5, "why")]  # type: ignore[arg-type]
IDS: list[Any] = ["", 5, b"x"]

Call = Callable[[Any, Any, Any], Any]
"""Called with a store, another one, and the wrong value."""

CALLS: dict[str, tuple[list[Any], Call]] = {
    "EventualConsistency resolver": (RESOLVERS, lambda one, _, it: EventualConsistency(one, it)),
    "EventualConsistency read_repair": (FLAGS, lambda one, _, it: EventualConsistency(one, read_repair=it)),
    "EventualConsistency history": ([5, [], ConflictHistory], lambda one, _, it: EventualConsistency(one, history=it)),
    "compare ours": (RIVALS, lambda one, _, it: EventualConsistency(one).compare(it, RIVAL)),
    "compare theirs": (RIVALS, lambda one, _, it: EventualConsistency(one).compare(RIVAL, it)),
    "detect_stale_read read": ([5, None, {}], lambda one, _, it: EventualConsistency(one).detect_stale_read(it, [])),
    "detect_stale_read known": (
        [5, None, "a", *([each] for each in CLOCKS)],
        lambda one, _, it: EventualConsistency(one).detect_stale_read(READ, it),
    ),
    "check_causality read": ([5, None], lambda one, _, it: EventualConsistency(one).check_causality(it, after={})),
    "check_causality after": (CLOCKS, lambda one, _, it: EventualConsistency(one).check_causality(READ, after=it)),
    "merge_clocks": (CLOCKS, lambda one, _, it: EventualConsistency(one).merge_clocks({}, it)),
    "observe_lamport": (NUMBERS, lambda one, _, it: EventualConsistency(one).observe_lamport(it)),
    "resolve_conflict ours": (RIVALS, lambda one, _, it: EventualConsistency(one).resolve_conflict(it, RIVAL)),
    "resolve_conflict theirs": (RIVALS, lambda one, _, it: EventualConsistency(one).resolve_conflict(RIVAL, it)),
    "resolve_conflict base": (
        [5, [], "a", {"a": nan}],
        lambda one, _, it: EventualConsistency(one).resolve_conflict(RIVAL, RIVAL, it),
    ),
    "read governor_id": (IDS, lambda one, _, it: EventualConsistency(one).read(it, "s")),
    "read state_id": (IDS, lambda one, _, it: EventualConsistency(one).read(GOVERNOR, it)),
    "read_repair governor_id": (IDS, lambda one, _, it: EventualConsistency(one).read_repair(it, "s", [])),
    "read_repair seen": (
        [5, None, "a", *([each] for each in RIVALS)],
        lambda one, _, it: EventualConsistency(one).read_repair(GOVERNOR, "s", it),
    ),
    "read_repair metadata": (
        METADATAS,
        lambda one, _, it: EventualConsistency(one).read_repair(GOVERNOR, "s", [RIVAL], it),
    ),
    "read_repair dry_run": (
        FLAGS,
        lambda one, _, it: EventualConsistency(one).read_repair(GOVERNOR, "s", [RIVAL], METADATA, dry_run=it),
    ),
    "sync first": ([5, None, StateStore], lambda one, _, it: sync(it, one)),
    "sync second": ([5, None, StateStore], lambda one, _, it: sync(one, it)),
    "sync itself": ([0], lambda one, _, __: sync(one, one)),
    "sync governor_id": (IDS, lambda one, other, it: sync(one, other, governor_id=it)),
    "sync resolver": (RESOLVERS, lambda one, other, it: sync(one, other, resolver=it)),
    "sync reducers": ([5, {"add": 5}], lambda one, other, it: sync(one, other, reducers=it)),
    "sync metadata": ([*METADATAS, None], lambda one, other, it: sync(one, other, metadata=it)),
    "sync dry_run": (FLAGS, lambda one, other, it: sync(one, other, dry_run=it)),
    "sync concurrency": ([*NUMBERS, 0], lambda one, other, it: sync(one, other, concurrency=it)),
    "sync progress": ([5, "f"], lambda one, other, it: sync(one, other, progress=it)),
    "sync resume": ([5, "bank", ("bank",), ("bank", 5)], lambda one, other, it: sync(one, other, resume=it)),
    "recorded_conflicts store": ([5, None, StateStore], lambda _, __, it: recorded_conflicts(it, GOVERNOR)),
    "recorded_conflicts governor_id": (IDS, lambda one, _, it: recorded_conflicts(one, it)),
    "Causal": ([5, LastWriteWins], lambda _, __, it: Causal(it)),
    "Custom function": ([5, None, "f"], lambda _, __, it: Custom(it)),
    "Custom strategy": ([5, None], lambda _, __, it: Custom(lambda *_: None, it)),
    "FieldMerge strategies": ([5, "counter", ["a"], {5: "last"}], lambda _, __, it: FieldMerge(it)),
    "FieldMerge removal_wins": (FLAGS, lambda _, __, it: FieldMerge(removal_wins=it)),
    "ConflictHistory clock": ([5, None], lambda _, __, it: ConflictHistory(it)),
    "ConflictHistory kept_max": ([*NUMBERS, 0], lambda _, __, it: ConflictHistory(ManualClock(), kept_max=it)),
    "ConflictHistory.record": ([5, None, {}], lambda _, __, it: ConflictHistory(ManualClock()).record(it)),
    "ConflictHistory.recent": (NUMBERS, lambda _, __, it: ConflictHistory(ManualClock()).recent(it)),
    "has_conflict_storm threshold": (
        NUMBERS,
        lambda _, __, it: ConflictHistory(ManualClock()).has_conflict_storm(it, 1.0),
    ),
    "has_conflict_storm window_seconds": (
        [True, -1, "1", None, nan],
        lambda _, __, it: ConflictHistory(ManualClock()).has_conflict_storm(1, it),
    ),
    "persister of": ([5, None, "sqlite:///x", StateStore], lambda _, __, it: StateMachinePersister(it)),
    "transactions of": ([5, None, "sqlite:///x", StateStore], lambda _, __, it: TransactionManager(it)),
    "locks of": ([5, None, "sqlite:///x", StateStore], lambda _, __, it: LockManager(it)),
    "consistency of": ([5, None, "sqlite:///x", StateStore], lambda _, __, it: EventualConsistency(it)),
}


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: arguments are looked at before it is used."""
    return "asyncio"


@pytest.mark.parametrize(
    ("call", "value"),
    [
        pytest.param(call, value, id=f"{name} {type(value).__name__} {number}")
        for name, (wrong, call) in CALLS.items()
        for number, value in enumerate(wrong)
    ],
)
async def test_what_an_argument_cannot_mean_is_refused(call: Call, value: Any) -> None:
    """It is an error of the library that says so, and no engine was asked anything before."""
    clock = ManualClock()
    engines = [CountingEngine(MemoryEngine(clock)) for _ in range(2)]
    async with make_store(engines[0], clock) as one, make_store(engines[1], clock) as other:  # type: ignore[arg-type]
        for engine in engines:
            engine.reset()

        async def used() -> None:
            result = call(one, other, value)
            await (result if isinstance(result, Awaitable) else collected(result))

        with pytest.raises(Rejected):
            await used()
        assert [engine.counts.calls for engine in engines] == [0, 0]


@pytest.mark.parametrize("strategy", ["sum", 5, None, ["counter"]])
def test_a_strategy_that_is_none_is_refused(strategy: Any) -> None:
    """Whatever is neither a name of a strategy nor a function is named."""
    for make in (lambda: FieldMerge({"n": strategy}), lambda: FieldMerge(default=strategy)):
        with pytest.raises(ValueError, match="there is no strategy"):
            make()


@pytest.mark.parametrize("make", [StateMachinePersister, TransactionManager, LockManager, EventualConsistency])
async def test_a_store_that_is_not_open_says_what_to_do(make: Callable[[Any], Any]) -> None:
    """A store outside of its block is a store: the error is the one that says so."""
    clock = ManualClock()
    with pytest.raises(RuntimeError, match="async with"):
        make(make_store(MemoryEngine(clock), clock))


async def test_versions_may_come_from_a_generator() -> None:
    """What gives its items once is read as a list is."""
    clock = ManualClock()
    async with make_store(MemoryEngine(clock), clock) as one:
        await one.save_state(GOVERNOR, "s", {"n": 1}, METADATA)
        consistency = EventualConsistency(one)
        found = await consistency.read(GOVERNOR, "s")
        consistency.detect_stale_read(found.snapshot, (each for each in [found.clock]))
        seen: Any = (each for each in [found])
        assert (await consistency.read_repair(GOVERNOR, "s", seen, METADATA)).data == {"n": 1}
