"""Faults at every call of the engine: what callers are told is true, and what they are promised holds."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import pytest

from tai_state import (
    ANY,
    EXISTS,
    Columns,
    CommitOutcomeUnknown,
    EveryEvents,
    NewEvent,
    StateMachinePersister,
    StateStore,
    TaiStateError,
    VersionConflict,
)
from tai_state.engines.api import ABSENT, ANYTHING, At, Delete, Engine, Put, Scan
from tai_state.errors import StoreTimeout, StoreUnavailable, Unavailable
from tai_state.testing import ENGINE_CHECKS
from tai_state.testing.faults import AtCalls, Call, Fault, FaultyEngine, Randomly

from ..support.judging import at_call, attempt, judge, prepared
from ..support.operations import CHANGES, EVENT_ID, REDUCERS, Change
from ..support.stores import GOVERNOR, METADATA, Place, Places, collected, dump, edit, fix_identity

pytestmark = pytest.mark.anyio

FAULTS = [
    *(pytest.param(fault, 1, id=fault.value.replace(" ", "_")) for fault in Fault if fault is not Fault.DELAYED),
    *(pytest.param(Fault.DELAYED, calls, id=f"delayed_{calls}") for calls in (1, 2, 1_000)),
]


@pytest.fixture
def anyio_backend() -> str:
    """One event loop is enough here: the engines' own tests run under both."""
    return "asyncio"


async def _judged(places: Places, change: Change, event_id: str | None, plan: Any, **options: Any):
    """One attempt under a plan, judged; a failure says what had happened."""
    place = await prepared(places, change)
    seen = await attempt(place, change, plan, event_id, **options)
    try:
        await judge(place, change, seen, event_id)
    except AssertionError as error:
        error.add_note(repr(seen))
        raise
    return seen


def _is_never_refused(change: Change, fault: Fault) -> bool:
    """Whether the fault cannot happen: a state that is not there has no revision at which a commit could be refused."""
    return fault is Fault.REFUSED and change.versions == 0


@pytest.mark.parametrize("event_id", [EVENT_ID, None], ids=["own_id", "no_id"])
@pytest.mark.parametrize(("fault", "delay_calls"), FAULTS)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
async def test_fault_at_every_call_of_a_change(
    places: Places, change: Change, fault: Fault, delay_calls: int, event_id: str | None
):
    """Whatever call goes wrong in whatever way, the caller is told the truth and may call again."""
    hit = 0
    for number in count(1):
        seen = await _judged(places, change, event_id, at_call(number, fault), delay_calls=delay_calls)
        if seen.calls < number:
            break
        hit += sum(seen.statistics.hit.values())
    assert hit > 0 or _is_never_refused(change, fault)


@dataclass
class ThenNothing:
    """One fault, and from then on an engine that gives no answer to anything."""

    number: int
    first: Fault
    then: Fault
    planned: int = 0

    def fault(self, call: Call) -> Fault | None:
        """The fault of a call."""
        if call.overall < self.number:
            return None
        self.planned += 1
        return self.first if call.overall == self.number else self.then


@pytest.mark.parametrize("then", [Fault.UNAVAILABLE, Fault.LOST_BEFORE], ids=lambda fault: fault.name.lower())
@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name.lower())
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
async def test_fault_and_then_no_answer_to_anything(memory_places: Places, change: Change, fault: Fault, then: Fault):
    """Where what happened cannot be looked up any more, the caller is told that it is unknown, with the ids."""
    hit: Counter[Fault] = Counter()
    for number in count(1):
        seen = await _judged(
            memory_places,
            change,
            EVENT_ID,
            lambda before, number=number: ThenNothing(before + number, fault, then),
        )
        if seen.calls < number:
            break
        hit.update(seen.statistics.hit)
    assert hit[fault] > 0 or _is_never_refused(change, fault)
    # Where it was said that nothing happened, or the caller was cancelled, nothing is asked any more.
    assert hit[then] > 0 or fault in {Fault.UNAVAILABLE, Fault.CANCELLED_BEFORE, Fault.CANCELLED_AFTER}


@pytest.mark.parametrize(("fault", "delay_calls"), FAULTS)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
async def test_fault_when_there_is_no_time_left(memory_places: Places, change: Change, fault: Fault, delay_calls: int):
    """With the deadline passed at once, nothing that happened is reported as failed or as a conflict."""
    hit = 0
    for number in count(1):
        seen = await _judged(
            memory_places,
            change,
            EVENT_ID,
            at_call(number, fault),
            delay_calls=delay_calls,
            timeout_seconds=0.0,
        )
        if seen.calls < number:
            break
        hit += sum(seen.statistics.hit.values())
    assert hit > 0 or _is_never_refused(change, fault)


@dataclass(frozen=True)
class Work:
    """Something of many commits, which is called again until it is done.

    Attributes:
        name: for the test's id.
        prepare: writes what it starts from.
        run: does it, or the rest of it.
    """

    name: str
    prepare: Callable[[StateStore, Path], Awaitable[None]]
    run: Callable[[StateStore, Path], Awaitable[Any]]


async def _write(store: StateStore) -> None:
    persister = StateMachinePersister(store, REDUCERS)
    for version in range(5):
        await store.save_state(
            GOVERNOR, "alice", {"n": version}, METADATA, expected=version, event_id=f"alice-{version}"
        )
    await persister.record(GOVERNOR, "bob", [NewEvent("add", 1), NewEvent("add", 2)], METADATA, expected=ANY)
    await store.save_state(GOVERNOR, "carol", {}, METADATA)
    await store.delete_state(GOVERNOR, "carol", METADATA, expected=1)


async def _prepare_history(store: StateStore, folder: Path) -> None:
    await _write(store)


async def _prepare_restore(store: StateStore, folder: Path) -> None:
    await _write(store)
    await StateMachinePersister(store).export_history(GOVERNOR, folder / "export.jsonl")
    for path in await dump(store.core.engine):
        await store.core.engine.commit([Delete(path, ANYTHING)])


async def _prepare_import(store: StateStore, folder: Path) -> None:
    rows = [f"m{index % 3},{index},2026-01-01T00:00:{index:02d}Z" for index in range(9)]
    (folder / "log.csv").write_text("\n".join(["machine,status,time", *rows, ""]))


async def _prepare_recovery(store: StateStore, folder: Path) -> None:
    await _write(store)
    await store.core.engine.commit([Delete(store.core.layout.stream(GOVERNOR, "alice").state, ANYTHING)])
    await edit(store.core.engine, store.core.layout.stream(GOVERNOR, "bob").state, data={"n": 77})


async def _restore(store: StateStore, folder: Path) -> Any:
    return await StateMachinePersister(store).import_history(folder / "export.jsonl")


async def _import(store: StateStore, folder: Path) -> Any:
    async def acknowledged(_: object) -> None:
        """Nothing to do."""

    return await StateMachinePersister(store).import_csv(
        GOVERNOR, folder / "log.csv", Columns("machine", ("status",), "time"), acknowledged
    )


async def _recover(store: StateStore, folder: Path) -> Any:
    return await StateMachinePersister(store, REDUCERS).recover()


async def _cleanup(store: StateStore, folder: Path) -> Any:
    return await StateMachinePersister(store).cleanup_old_data(GOVERNOR, keep=timedelta(hours=1))


async def _create_snapshot(store: StateStore, folder: Path) -> Any:
    return await store.create_snapshot(GOVERNOR, "alice")


WORKS = (
    Work("create_snapshot", _prepare_history, _create_snapshot),
    Work("restore", _prepare_restore, _restore),
    Work("import", _prepare_import, _import),
    Work("recover", _prepare_recovery, _recover),
    Work("cleanup", _prepare_history, _cleanup),
)


POLICY_OF_WORK = EveryEvents(2, keep=3)


async def _prepared(places: Places, work: Work, folder: Path) -> Place:
    async def prepare(place: Place) -> None:
        async with place.store() as store:
            await fix_identity(store.core.engine)
        async with place.store(snapshots=POLICY_OF_WORK) as store:
            await work.prepare(store, folder)

    place = await places.prepared(work.name, prepare)
    place.clock.advance_us(7_200_000_000)
    return place


async def _stored_at_the_end(place: Place, work: Work, folder: Path) -> dict[str, Any]:
    """What is stored once the work is done without a fault, again or for the first time."""
    async with place.store(snapshots=POLICY_OF_WORK) as store:
        await work.run(store, folder)
        return await _documents(store, work)


async def _documents(store: StateStore, work: Work) -> dict[str, Any]:
    """Every document. Each call that imports rows has an id of its own, from which the digests of its events follow."""
    documents = await dump(store.core.engine)
    if work.name != "import":
        return documents
    follows = {"call", "digest", "previous"}
    return {path: {name: fields[name] for name in fields.keys() - follows} for path, fields in documents.items()}


@pytest.mark.parametrize(("fault", "delay_calls"), FAULTS)
@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.name)
async def test_fault_at_every_call_of_longer_work(
    places: Places, tmp_path: Path, work: Work, fault: Fault, delay_calls: int
):
    """Whatever call goes wrong, the same work called again completes it, and the result is as without the fault."""
    await _work_under_faults(places, tmp_path, work, fault, delay_calls)


@pytest.mark.parametrize("anyio_backend", ["trio"])
@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name.lower())
@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.name)
async def test_fault_under_an_event_loop_that_sees_leaks(
    memory_places: Places, tmp_path: Path, work: Work, fault: Fault
):
    """Errors and cancellations leave no iterator open, which trio would report."""
    await _work_under_faults(memory_places, tmp_path, work, fault, 1)


async def _work_under_faults(places: Places, tmp_path: Path, work: Work, fault: Fault, delay_calls: int) -> None:
    """One fault at each call in turn, until there is no such call."""
    expected = await _stored_at_the_end(await _prepared(places, work, tmp_path), work, tmp_path)
    for number in count(1):
        place = await _prepared(places, work, tmp_path)
        faulty = FaultyEngine(place.engine(), AtCalls({}), delay_calls=delay_calls)
        async with place.store(faulty, snapshots=POLICY_OF_WORK) as store:
            before = faulty.statistics().calls
            faulty.plan = AtCalls({("any", before + number): fault})
            error: TaiStateError | None = None
            with faulty.cancellable() as scope:
                try:
                    await work.run(store, tmp_path)
                except TaiStateError as raised:
                    error = raised
            calls = faulty.statistics().calls - before
            faulty.plan = AtCalls({})
            await faulty.settle()
        note = f"{fault} at call {number} of {calls}: {error!r}"
        assert error is None or isinstance(error, Unavailable | CommitOutcomeUnknown), note
        async with place.store() as store:
            stored = await _documents(store, work)
        if error is None and not scope.cancelled_caught and work.name != "cleanup":
            assert stored == expected, note
        # The one call after which nothing is left to do but to hear of it: there the work is refused as done.
        elif not (work.name == "restore" and scope.cancelled_caught and stored == expected):
            assert await _stored_at_the_end(place, work, tmp_path) == expected, note
        if calls < number:
            break


RANDOM_FAULTS = tuple(Fault)


async def _worker(
    store: StateStore, faulty: FaultyEngine, name: str, kind: str, appends: int, told: dict[str, str]
) -> None:
    """Appends under faults as a careful caller does: the same id while unknown, a new one once it is known to fail."""
    persister = StateMachinePersister(store, REDUCERS)
    numbers = count()
    for _ in range(appends):
        event_id = f"{name}-{next(numbers)}"
        while told.get(event_id) != "acknowledged":
            with faulty.cancellable():
                try:
                    await _one(store, persister, kind, event_id)
                    told[event_id] = "acknowledged"
                except CommitOutcomeUnknown as error:
                    told[event_id] = error.event_ids[0]
                except VersionConflict:
                    assert kind == "exact"
                except Unavailable:
                    told[event_id] = "failed"
            if told.get(event_id) == "failed":
                event_id = f"{name}-{next(numbers)}"


async def _one(store: StateStore, persister: StateMachinePersister, kind: str, event_id: str) -> None:
    if kind == "any":
        await persister.record(GOVERNOR, "any", [NewEvent("add", 1, event_id)], METADATA, expected=ANY)
    elif kind == "exists":
        await store.log_event(GOVERNOR, "exists", "ping", METADATA, expected=EXISTS, event_id=event_id)
    else:
        before = await store.get_state(GOVERNOR, "exact")
        await persister.record(GOVERNOR, "exact", [NewEvent("add", 1, event_id)], METADATA, expected=before)


async def test_random_faults(places: Places):
    """With a fault in one commit of five, eight concurrent writers' changes are all there, each exactly once."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    place = places.new()
    kinds = ("any", "exists", "exact", "any", "exists", "exact", "any", "exists")
    told: dict[str, str] = {}
    faulty = FaultyEngine(place.engine(), AtCalls({}), delay_calls=3)
    async with place.store(faulty, snapshots=EveryEvents(7, keep=2)) as store:
        for state_id in ("any", "exists", "exact"):
            await store.save_state(GOVERNOR, state_id, {"n": 0}, METADATA)
        faulty.plan = Randomly(seed, 0.2, RANDOM_FAULTS)
        async with anyio.create_task_group() as tasks:
            for index, kind in enumerate(kinds):
                tasks.start_soon(_worker, store, faulty, f"{kind}{index}", kind, 50, told)
        statistics = faulty.statistics()
        faulty.plan = AtCalls({})
        await faulty.settle()
    assert set(statistics.hit) == set(RANDOM_FAULTS)
    assert statistics.all_hit
    async with place.store() as store:
        events = await collected(store.get_all_events(GOVERNOR))
        stored = [event.event_id for event in events if event.version > 1]
        assert all(outcome in ("acknowledged", "failed", event_id) for event_id, outcome in told.items())
        assert len(stored) == len(set(stored)) == 400
        assert set(stored) == {event_id for event_id, outcome in told.items() if outcome == "acknowledged"}
        for state_id, added in (("any", 150), ("exists", 0), ("exact", 100)):
            state = await store.get_state(GOVERNOR, state_id)
            assert state.data == {"n": added}
        report = await StateMachinePersister(store, REDUCERS).validate_consistency(GOVERNOR)
        assert report.consistent, report.findings


# The faulty engine itself --------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", ENGINE_CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
async def test_an_engine_without_faults_is_like_the_one_inside(places: Places, check: Callable[[Any], Awaitable[None]]):
    """With an empty plan, a faulty engine passes the examination of engines."""
    async with FaultyEngine(places.new().engine(), AtCalls({})) as engine:
        await check(engine)


PUT = [Put("c/a", {"n": 1})]

SHAPES: dict[Fault, tuple[str, bool, int]] = {
    Fault.UNAVAILABLE: ("StoreUnavailable", False, 0),
    Fault.REFUSED: ("CommitRefused", False, 0),
    Fault.LOST_BEFORE: ("StoreTimeout", True, 0),
    Fault.LOST_AFTER: ("StoreTimeout", True, 1),
    Fault.DELAYED: ("StoreTimeout", True, 0),
    Fault.DUPLICATED: ("CommitRefused", False, 1),
    Fault.CANCELLED_BEFORE: ("cancelled", False, 0),
    Fault.CANCELLED_AFTER: ("cancelled", False, 1),
}
"""What the caller sees of a commit, whether it is said to be unknown, and how often it is applied by then."""


@pytest.mark.parametrize("fault", SHAPES, ids=lambda fault: fault.name.lower())
async def test_what_a_fault_does_to_a_commit(memory_places: Places, fault: Fault):
    """Each fault of a commit shows to the caller, and happens underneath, as it is described."""
    name, is_unknown, applied = SHAPES[fault]
    inner = memory_places.new().engine()
    async with FaultyEngine(inner, AtCalls({("commit", 1): fault})) as engine:
        first = await inner.commit([Put("c/a", {"n": 0})])
        seen: TaiStateError | None = None
        fields = {"n": 1}
        with engine.cancellable() as scope:
            try:
                await engine.commit([Put("c/a", fields, At(first.revision)), Put("c/b", {}, ABSENT)])
            except TaiStateError as error:
                seen = error
        fields["n"] = 99
        assert ("cancelled" if scope.cancelled_caught else type(seen).__name__) == name
        assert getattr(seen, "unknown", False) == is_unknown
        assert await _stored(inner) == {"n": applied}
        await engine.settle()
        late = applied + (fault is Fault.DELAYED)
        assert await _stored(inner) == {"n": late}
        statistics = engine.statistics()
        assert (statistics.calls, statistics.planned, statistics.hit) == (1, 1, {fault: 1})
        assert (statistics.landed, statistics.dead, statistics.all_hit) == (fault is Fault.DELAYED, 0, True)


async def _stored(engine: Engine) -> Any:
    [document] = (await engine.read(["c/a"])).documents
    assert document is not None
    return document.fields()


async def test_a_delayed_commit_that_comes_too_late(memory_places: Places):
    """A delayed commit arrives before the call it was told to, and only if its requirements still hold then."""
    inner = memory_places.new().engine()
    plan = AtCalls({("commit", 1): Fault.DELAYED, ("commit", 3): Fault.DELAYED})
    async with FaultyEngine(inner, plan, delay_calls=2) as engine:

        def arrived() -> tuple[int, int]:
            statistics = engine.statistics()
            return statistics.landed, statistics.dead

        with pytest.raises(StoreTimeout):
            await engine.commit([Put("c/a", {"n": 1}, ABSENT)])
        await engine.commit([Put("c/b", {})])
        assert (arrived(), (await inner.read(["c/a"])).documents) == ((0, 0), (None,))
        with pytest.raises(StoreTimeout):
            await engine.commit([Put("c/a", {"n": 3}, ABSENT)])
        assert (arrived(), await _stored(inner)) == ((1, 0), {"n": 1})
        await engine.read(["c/a"])
        assert arrived() == (1, 0)
        await engine.read(["c/a"])
        assert (arrived(), await _stored(inner)) == ((1, 1), {"n": 1})


async def test_faults_of_other_verbs(memory_places: Places):
    """Reads, scans and watches fail as well; a scan whose answer is lost breaks off after its first document."""
    inner = memory_places.new().engine()
    plan = AtCalls({("read", 1): Fault.UNAVAILABLE, ("scan", 2): Fault.LOST_AFTER, ("watch", 1): Fault.LOST_BEFORE})
    async with FaultyEngine(inner, plan) as engine:
        await inner.commit([Put("c/a", {}), Put("c/b", {})])
        with pytest.raises(StoreUnavailable):
            await engine.read(["c/a"])
        assert len(await collected(engine.scan(Scan("c")))) == 2
        scan = engine.scan(Scan("c"))
        assert (await anext(scan)).path == "c/a"
        with pytest.raises(StoreTimeout) as error:
            await anext(scan)
        assert not error.value.unknown
        with pytest.raises(StoreTimeout):
            async with engine.watch("c"):
                raise AssertionError
        async with engine.watch("c") as changes:
            assert (await anext(changes)).path == "c/a"
        assert engine.statistics().all_hit


async def test_a_fault_that_is_not_possible_is_not_hit(memory_places: Places):
    """A plan that cannot come true is seen in the statistics; the calls go through."""
    plan = AtCalls({("read", 1): Fault.DUPLICATED, ("commit", 1): Fault.REFUSED, ("any", 99): Fault.UNAVAILABLE})
    async with FaultyEngine(memory_places.new().engine(), plan) as engine:
        await engine.read(["c/a"])
        await engine.commit(PUT)
        assert (engine.statistics().planned, engine.statistics().hit) == (3, {})
        assert not engine.statistics().all_hit


async def test_a_cancellation_needs_a_scope(memory_places: Places):
    """Without a scope to cancel, a planned cancellation is the test's mistake and says so."""
    async with FaultyEngine(memory_places.new().engine(), AtCalls({("any", 1): Fault.CANCELLED_BEFORE})) as engine:
        with pytest.raises(RuntimeError, match="cancellable"):
            await engine.read(["c/a"])


def test_random_faults_are_repeatable():
    """The same seed gives the same faults, about as many as asked for, for the verbs asked for."""

    def drawn(seed: int) -> list[Fault | None]:
        plan = Randomly(seed, 0.3, tuple(Fault), verbs=("commit", "read"))
        faults = [plan.fault(Call(verb, 1, 1)) for _ in range(500) for verb in ("commit", "read", "scan")]
        assert plan.planned == sum(fault is not None for fault in faults)
        assert faults[2::3] == [None] * 500
        return faults

    assert drawn(1) == drawn(1) != drawn(2)
    assert 200 < sum(fault is not None for fault in drawn(3)) < 400
