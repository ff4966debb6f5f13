"""Faults at every call of the engine: what callers are told is true, and what they are promised holds."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
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
from tai_state.engines.api import ANYTHING, Delete
from tai_state.errors import Unavailable
from tai_state.testing import ManualClock
from tai_state.testing.faults import AtCalls, Call, Fault, FaultyEngine, Randomly

from .support.judging import at_call, attempt, judge
from .support.operations import CHANGES, EVENT_ID, POLICY, REDUCERS, Change
from .support.stores import GOVERNOR, METADATA, Place, Places, collected, dump, edit, fix_identity, make_store

pytestmark = pytest.mark.anyio

FAULTS = [
    *(pytest.param(fault, 1, id=fault.value.replace(" ", "_")) for fault in Fault if fault is not Fault.DELAYED),
    *(pytest.param(Fault.DELAYED, calls, id=f"delayed_{calls}") for calls in (1, 2, 3, 1_000)),
]


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still, so that two runs give the same documents."""
    return ManualClock()


@pytest.fixture
def places(engine_under_test, clock) -> Iterator[Places]:
    """Empty places, as many as wanted."""
    with Places(engine_under_test, clock) as places:
        yield places


@pytest.fixture
def anyio_backend() -> str:
    """One event loop is enough here: the engines' own tests run under both."""
    return "asyncio"


async def _judged(place: Place, clock: ManualClock, change: Change, event_id: str | None, plan: Any, **options: Any):
    """One attempt under a plan, judged; a failure says what had happened."""
    seen = await attempt(place, clock, change, plan, event_id, **options)
    try:
        await judge(place, clock, change, seen, event_id)
    except AssertionError as error:
        error.add_note(repr(seen))
        raise
    return seen


@pytest.mark.parametrize("event_id", [EVENT_ID, None], ids=["own_id", "no_id"])
@pytest.mark.parametrize(("fault", "delay_calls"), FAULTS)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
async def test_fault_at_every_call_of_a_change(
    places: Places, clock: ManualClock, change: Change, fault: Fault, delay_calls: int, event_id: str | None
):
    """Whatever call goes wrong in whatever way, the caller is told the truth and may call again."""
    hit = 0
    for number in count(1):
        seen = await _judged(
            places.new(), clock, change, event_id, at_call(number, fault), delay_calls=delay_calls
        )
        if seen.calls < number:
            break
        hit += sum(seen.statistics.hit.values())
    assert hit > 0


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
@pytest.mark.parametrize(("fault", "delay_calls"), FAULTS)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
async def test_fault_and_then_no_answer_to_anything(
    places: Places, clock: ManualClock, change: Change, fault: Fault, delay_calls: int, then: Fault
):
    """Where what happened cannot be looked up any more, the caller is told that it is unknown, with the ids."""
    for number in count(1):
        seen = await _judged(
            places.new(),
            clock,
            change,
            EVENT_ID,
            lambda before, number=number: ThenNothing(before + number, fault, then),
            delay_calls=delay_calls,
        )
        if seen.calls < number:
            break


@pytest.mark.parametrize(("fault", "delay_calls"), FAULTS)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
async def test_fault_when_there_is_no_time_left(
    places: Places, clock: ManualClock, change: Change, fault: Fault, delay_calls: int
):
    """With the deadline passed at once, nothing that happened is reported as failed or as a conflict."""
    for number in count(1):
        seen = await _judged(
            places.new(),
            clock,
            change,
            EVENT_ID,
            at_call(number, fault),
            delay_calls=delay_calls,
            timeout_seconds=0.0,
        )
        if seen.calls < number:
            break


@dataclass(frozen=True)
class Work:
    """Something of many commits, which is called again until it is done.

    Attributes:
        name: for the test's id.
        prepare: writes what it starts from.
        run: does it, or the rest of it.
        sees: what it did, to be compared with the same work without a fault.
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


async def _prepare_snapshot(store: StateStore, folder: Path) -> None:
    await _write(store)


async def _prepare_restore(store: StateStore, folder: Path) -> None:
    await _write(store)
    await StateMachinePersister(store).export_history(GOVERNOR, folder / "export.jsonl")
    for path in await dump(store.engine):
        await store.engine.commit([Delete(path, ANYTHING)])


async def _prepare_import(store: StateStore, folder: Path) -> None:
    rows = [f"m{index % 3},{index},2026-01-01T00:00:{index:02d}Z" for index in range(9)]
    (folder / "log.csv").write_text("\n".join(["machine,status,time", *rows, ""]))


async def _prepare_recovery(store: StateStore, folder: Path) -> None:
    await _write(store)
    await store.engine.commit([Delete(store.layout.stream(GOVERNOR, "alice").state, ANYTHING)])
    await edit(store.engine, store.layout.stream(GOVERNOR, "bob").state, data={"n": 77})


async def _prepare_cleanup(store: StateStore, folder: Path) -> None:
    await _write(store)
    store.settings.clock.advance_us(7_200_000_000)  # type: ignore[attr-defined]


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
    Work("create_snapshot", _prepare_snapshot, _create_snapshot),
    Work("restore", _prepare_restore, _restore),
    Work("import", _prepare_import, _import),
    Work("recover", _prepare_recovery, _recover),
    Work("cleanup", _prepare_cleanup, _cleanup),
)


async def _prepared(place: Place, work: Work, folder: Path) -> None:
    async with make_store(place.engine(), ManualClock(), snapshots=POLICY) as store:
        await fix_identity(store.engine)
    clock = ManualClock()
    async with make_store(place.engine(), clock, snapshots=EveryEvents(2, keep=3)) as store:
        await work.prepare(store, folder)


async def _done(place: Place, work: Work, folder: Path, clock: ManualClock) -> dict[str, Any]:
    """What is stored once the work is done without a fault (again, or for the first time)."""
    async with make_store(place.engine(), clock, snapshots=EveryEvents(2, keep=3)) as store:
        await work.run(store, folder)
        return await dump(store.engine)


@pytest.mark.parametrize(("fault", "delay_calls"), FAULTS)
@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.name)
async def test_fault_at_every_call_of_longer_work(
    places: Places, tmp_path: Path, work: Work, fault: Fault, delay_calls: int
):
    """Whatever call goes wrong, the same work called again completes it, and the result is as without the fault."""
    late = ManualClock()
    late.advance_us(7_200_000_000)
    expected_place = places.new()
    await _prepared(expected_place, work, tmp_path)
    expected = await _done(expected_place, work, tmp_path, late)
    hit = 0
    for number in count(1):
        place = places.new()
        await _prepared(place, work, tmp_path)
        faulty = FaultyEngine(place.engine(), AtCalls({}), delay_calls=delay_calls)
        note = f"{fault} at call {number}"
        async with make_store(faulty, late, snapshots=EveryEvents(2, keep=3)) as store:
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
            hit += sum(faulty.statistics().hit.values())
        assert error is None or isinstance(error, Unavailable | CommitOutcomeUnknown), (note, error)
        if error is None and not scope.cancelled_caught:
            async with make_store(place.engine(), late) as store:
                assert await dump(store.engine) == expected, note
        else:
            try:
                assert await _done(place, work, tmp_path, late) == expected, note
            except TaiStateError as raised:
                raised.add_note(note)
                raise
        if calls < number:
            break
    assert hit > 0


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
                    assert tuple(error.event_ids) == (event_id,)
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


async def test_random_faults(places: Places, clock: ManualClock):
    """With a fault in one commit of five, eight concurrent writers' changes are all there, each exactly once."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    place = places.new()
    kinds = ("any", "exists", "exact", "any", "exists", "exact", "any", "exists")
    told: dict[str, str] = {}
    faulty = FaultyEngine(place.engine(), AtCalls({}), delay_calls=3)
    async with make_store(faulty, clock, snapshots=EveryEvents(7, keep=2)) as store:
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
    async with make_store(place.engine(), clock) as store:
        events = await collected(store.get_all_events(GOVERNOR))
        stored = [event.id for event in events if event.version > 1]
        assert len(stored) == len(set(stored)) == 400
        assert set(stored) == {event_id for event_id, outcome in told.items() if outcome == "acknowledged"}
        for state_id, added in (("any", 150), ("exists", 0), ("exact", 100)):
            state = await store.get_state(GOVERNOR, state_id)
            assert state.data == {"n": added}
        report = await StateMachinePersister(store, REDUCERS).validate_consistency(GOVERNOR)
        assert report.consistent, report.findings
