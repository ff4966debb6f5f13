"""How often callbacks run, and what comes after the commit: racing tasks, other writers, lost answers."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest

from tai_state import (
    ANY,
    ConcurrentModification,
    IdempotencyConflict,
    InvalidTransition,
    LockLost,
    StateNotFound,
    StateStore,
    StoreTimeout,
    StoreUnavailable,
)
from tai_state.adapters import AdaptedStep, StatemachineAdapter, TransitionsAdapter
from tai_state.testing import Fault, FaultyEngine

from ..support.adapted import (
    SEEN,
    AsyncBell,
    Bulb,
    Clerk,
    Payments,
    begun,
    bills,
    bulb_machine,
    bulbs,
    clerk_machine,
)
from ..support.faults import NextCommit
from ..support.overtaking import Overtaken
from ..support.stores import GOVERNOR, METADATA, CountingEngine, Places, collected

pytestmark = pytest.mark.anyio

TASKS = 50

Make = Callable[..., Any]
KINDS: dict[str, tuple[Make, str, bool]] = {
    "python-statemachine": (bills, "pay", False),
    "transitions": (bulbs, "light", False),
    "python-statemachine, asynchronous": (
        lambda store, **options: StatemachineAdapter(store, AsyncBell, metadata=METADATA, **options), "ring", True
    ),
    "transitions, asynchronous": (
        lambda store, **options: TransitionsAdapter(store, clerk_machine, model=Clerk, metadata=METADATA, **options),
        "call",
        True,
    ),
}  # fmt: skip
"""Each kind of machine: its adapter, an event that is taken once, and whether it is asynchronous."""
ARGUMENTS = {"pay": {"cents": 100}, "ring": {"times": 3}, "call": {"times": 3}}


@pytest.fixture(autouse=True)
def _seen() -> Iterator[None]:
    SEEN.clear()
    yield
    SEEN.clear()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, anyio_backend: str) -> tuple[Make, str]:
    """Each kind of machine on each event loop that it runs in."""
    make, event, is_async = KINDS[request.param]
    if is_async and anyio_backend != "asyncio":
        pytest.skip("asynchronous machines of these libraries need asyncio")
    return make, event


async def test_of_fifty_racing_tasks_one_takes_the_step_and_its_callbacks_run_once(
    kind: tuple[Make, str], store: StateStore
):
    """The others are refused on what the one has stored; what comes after the commit runs once."""
    make, event = kind
    after: list[AdaptedStep[Any]] = []
    handles = [make(store, after_commit=after.append).machine(GOVERNOR, "m") for _ in range(2)]
    await handles[0].initialize()
    assert [each.event for each in after] == [None]
    outcomes: Counter[str] = Counter()

    async def send(number: int) -> None:
        try:
            await handles[number % 2].send(event, ARGUMENTS.get(event))
        except InvalidTransition:
            outcomes["refused"] += 1
        else:
            outcomes["taken"] += 1

    async with anyio.create_task_group() as tasks:
        for number in range(TASKS):
            tasks.start_soon(send, number)
    assert outcomes == {"taken": 1, "refused": TASKS - 1}
    assert (len(SEEN), (await handles[0].get()).version) == (1, 2)
    assert [each.event for each in after] == [None, event]
    assert after[1].machine == await handles[0].get()
    assert (after[1].arguments, after[1].from_configuration) == (
        ARGUMENTS.get(event, {}),
        after[0].machine.configuration,
    )


async def test_of_fifty_racing_tasks_all_take_a_step_that_stays_legal(memory_places: Places):
    """Each builds on the one before: no count is lost, and each callback ran once."""
    async with memory_places.new().store() as store:
        bulb = await begun(bulbs(store))
        await bulb.send("switch")
        async with anyio.create_task_group() as tasks:
            for _ in range(TASKS):
                tasks.start_soon(bulb.send, "dim")
        done = await bulb.get()
        assert (done.version, done.context, len(SEEN)) == (TASKS + 2, Payments(cents=TASKS + 1), TASKS + 1)


async def test_a_step_costs_one_read_and_one_commit(memory_places: Places):
    """A refusal costs one read."""
    place = memory_places.new()
    engine: Any = CountingEngine(place.engine())
    async with place.store(engine) as store:
        bill = await begun(bills(store))
        engine.reset()
        await bill.send("pay", {"cents": 100}, event_id="p")
        assert (engine.counts.reads, len(engine.counts.commits), engine.counts.scans) == (1, 1, 0)
        engine.reset()
        with pytest.raises(InvalidTransition):
            await bill.send("pay", {"cents": 100})
        assert (engine.counts.reads, len(engine.counts.commits), engine.counts.scans) == (1, 0, 0)


async def test_callbacks_run_again_if_another_process_was_faster(memory_places: Places):
    """They run on what that one wrote, each time on a copy of the arguments; what comes after the commit runs once."""

    class Greedy(Bulb):
        def count(self, cents: int = 1, seen: list[int] | None = None) -> None:
            super().count(cents)
            if seen is not None:
                seen.append(1)
                SEEN.append(f"seen {len(seen)}")

    after: list[Any] = []
    place = memory_places.new()
    engine: Any = Overtaken(place.engine())
    async with place.store(engine) as store, place.store() as elsewhere:
        adapter = TransitionsAdapter(
            store,
            bulb_machine,
            model=Greedy,
            name="Bulb",
            context=Payments,
            metadata=METADATA,
            after_commit=after.append,
        )
        bulb, other = await begun(adapter), bulbs(elsewhere).machine(GOVERNOR, "m")
        await bulb.send("switch", {"cents": 5})
        SEEN.clear()
        after.clear()
        engine.plan(2, lambda: other.send("dim", {"cents": 10}))
        done = await bulb.send("dim", {"cents": 100, "seen": []})
        assert (done.version, done.context) == (4, Payments(cents=115))
        assert SEEN == ["count 100", "seen 1", "count 10", "count 100", "seen 1"]
        assert [each.machine.version for each in after] == [4]
        engine.plan(2, lambda: other.send("switch"))
        with pytest.raises(InvalidTransition):
            await bulb.send("dim")
        assert [each.event for each in await collected(bulb.history(after=4))] == ["switch"]
        assert len(after) == 1


async def test_an_expected_version_that_is_past_runs_nothing(memory_places: Places):
    """It is seen before the callbacks; if another process moves on meanwhile, they have run, and nothing is written."""
    place = memory_places.new()
    engine: Any = Overtaken(place.engine())
    async with place.store(engine) as store, place.store() as elsewhere:
        bulb = await begun(bulbs(store))
        lit = await bulb.send("switch")
        await bulb.send("dim")
        SEEN.clear()
        with pytest.raises(ConcurrentModification) as refused:
            await bulb.send("dim", expected=lit.version)
        assert (refused.value.actual, refused.value.from_state, SEEN) == (3, "lit", [])
        engine.plan(2, lambda: bulbs(elsewhere).machine(GOVERNOR, "m").send("dim", {"cents": 7}))
        with pytest.raises(ConcurrentModification):
            await bulb.send("dim", expected=3)
        assert (SEEN, (await bulb.get()).version) == (["count 1", "count 7"], 4)


async def test_other_writers_that_are_always_faster_end_in_a_timeout(memory_places: Places):
    """The store's own bounds hold for the callbacks, too."""
    place = memory_places.new()
    engine: Any = Overtaken(place.engine())
    async with place.store(engine) as store, place.store() as elsewhere:
        bulb, other = await begun(bulbs(store)), bulbs(elsewhere).machine(GOVERNOR, "m")
        await bulb.send("switch")

        class Faster(Bulb):
            def count(self, cents: int = 1) -> None:
                super().count(cents)
                engine.plan(1, lambda: other.send("dim", {"cents": 7}))

        slow = TransitionsAdapter(store, bulb_machine, model=Faster, name="Bulb", context=Payments, metadata=METADATA)
        with pytest.raises(StoreTimeout):
            await slow.machine(GOVERNOR, "m").send("dim", {"cents": 100})
        ran = Counter(SEEN)
        assert ran["count 100"] == ran["count 7"] == store.core.bounds.attempts_max


async def test_an_id_that_is_known_runs_nothing(memory_places: Places):
    """The same call gives the first result, also after the machine has moved on, and from another process."""
    place = memory_places.new()
    after: list[Any] = []
    async with place.store() as store, place.store() as elsewhere:
        bill = await begun(bills(store, after_commit=after.append))
        first = await bill.send("pay", {"cents": 100}, event_id="payment-1")
        await bill.send("close")
        SEEN.clear()
        for each in (bill, bills(elsewhere, after_commit=after.append).machine(GOVERNOR, "m")):
            again = await each.send("pay", {"cents": 100}, event_id="payment-1")
            assert (again.version, again.state, again.context) == (first.version, first.state, first.context)
            with pytest.raises(IdempotencyConflict):
                await each.send("pay", {"cents": 99}, event_id="payment-1")
            with pytest.raises(IdempotencyConflict):
                await each.send("close", {"cents": 100}, event_id="payment-1")
        assert (SEEN, len(after)) == ([], 3)
        begins = bills(store).machine(GOVERNOR, "n")
        one = await begins.initialize(context=Payments(cents=1), event_id="begin")
        assert await begins.initialize(context=Payments(cents=1), event_id="begin") == one
        with pytest.raises(IdempotencyConflict):
            await begins.initialize(context=Payments(cents=2), event_id="begin")


async def test_one_id_from_two_processes_at_once(memory_places: Places):
    """The slower one ran its callbacks in vain, and gets the result of the faster one."""
    place = memory_places.new()
    after: list[Any] = []
    engine: Any = Overtaken(place.engine())
    async with place.store(engine) as store, place.store() as elsewhere:
        bulb = await begun(bulbs(store, after_commit=after.append))
        other = bulbs(elsewhere, after_commit=after.append).machine(GOVERNOR, "m")

        async def faster() -> None:
            place.clock.advance_us(1)
            await other.send("switch", event_id="s")

        engine.plan(2, faster)
        done = await bulb.send("switch", event_id="s")
        assert (done.version, done.context, len(SEEN), len(after)) == (2, Payments(cents=1), 2, 2)


@pytest.mark.parametrize("fault", [Fault.LOST_BEFORE, Fault.LOST_AFTER, Fault.DUPLICATED, Fault.REFUSED, Fault.DELAYED])
async def test_a_lost_answer_runs_no_callback_again(fault: Fault, memory_places: Places):
    """The commit is settled, and not the step: callbacks, and what comes after the commit, ran once."""
    place = memory_places.new()
    after: list[Any] = []
    async with place.store() as store:
        await begun(bulbs(store))
    engine: Any = FaultyEngine(place.engine(), NextCommit(fault))
    async with place.store(engine) as store:
        bulb = bulbs(store, after_commit=after.append).machine(GOVERNOR, "m")
        assert (await bulb.send("switch", event_id="s")).version == 2
        assert (len(SEEN), [each.event for each in after]) == (1, ["switch"])
        assert (await bulb.get()).context == Payments(cents=1)


async def test_a_commit_that_fails_leaves_the_machine_as_it_was(memory_places: Places):
    """The error goes to the caller; what comes after a commit does not run."""
    place = memory_places.new()
    after: list[Any] = []
    async with place.store() as store:
        await begun(bulbs(store))
    engine: Any = FaultyEngine(place.engine(), NextCommit(Fault.UNAVAILABLE))
    async with place.store(engine) as store:
        bulb = bulbs(store, after_commit=after.append).machine(GOVERNOR, "m")
        with pytest.raises(StoreUnavailable):
            await bulb.send("switch")
        assert (len(SEEN), len(after), (await bulb.get()).version) == (1, 0, 1)


async def test_a_lost_lease_runs_nothing(memory_places: Places):
    """A fence that no longer holds is seen before the callbacks; one that is lost meanwhile refuses the commit."""
    place = memory_places.new()
    engine: Any = Overtaken(place.engine())
    async with place.store(engine) as store:
        bulb = await begun(bulbs(store))
        async with store.lock("socket") as lease:
            assert (await bulb.send("switch", fence=lease)).version == 2
        SEEN.clear()
        with pytest.raises(LockLost):
            await bulb.send("dim", fence=lease)
        assert SEEN == []
        lease = await store.locks.acquire_lock("socket")
        engine.plan(2, lambda: store.locks.release_lock(lease))
        with pytest.raises(LockLost):
            await bulb.send("dim", fence=lease)
        assert (SEEN, (await bulb.get()).version) == (["count 1"], 2)


async def test_a_machine_that_is_not_there_runs_nothing(memory_places: Places):
    """Never written or deleted; it can begin again after that."""
    async with memory_places.new().store() as store:
        adapter = bulbs(store)
        with pytest.raises(StateNotFound):
            await adapter.machine(GOVERNOR, "m").send("switch")
        bulb = await begun(adapter)
        await store.delete_state(GOVERNOR, "m", METADATA, expected=ANY)
        with pytest.raises(StateNotFound):
            await bulb.send("switch", event_id="s")
        assert not await bulb.exists()
        assert (await bulb.initialize()).version == 3
        assert (await bulb.send("switch", event_id="s")).version == 4
        assert len(SEEN) == 1


async def test_what_comes_after_the_commit_may_fail_and_may_send(
    memory_places: Places, caplog: pytest.LogCaptureFixture
):
    """The step stands whatever it raises, and the error is logged with the ids; it may send to the same machine."""
    async with memory_places.new().store() as store:

        async def after(step: AdaptedStep[Payments]) -> None:
            if step.event == "switch" and step.machine.state == "lit":
                await bulb.send("dim")
            elif step.event == "dim":
                raise LookupError("no printer")

        bulb = await begun(bulbs(store, after_commit=after))
        with caplog.at_level(logging.ERROR, "tai_state.adapters"):
            assert (await bulb.send("switch")).version == 2
        assert (await bulb.get()).version == 3
        [record] = caplog.records
        assert (record.__dict__["state_id"], record.__dict__["version"]) == ("m", 3)
        assert record.exc_info is not None
        assert isinstance(record.exc_info[1], LookupError)


async def test_what_comes_after_the_commit_has_a_limit(memory_places: Places, caplog: pytest.LogCaptureFixture):
    """One that never ends is given up, and logged."""

    async def never(_: AdaptedStep[Any]) -> None:
        await anyio.sleep_forever()

    async with memory_places.new().store() as store:
        bulb = bulbs(store, after_commit=never, timeout_seconds=0.01).machine(GOVERNOR, "m")
        with caplog.at_level(logging.ERROR, "tai_state.adapters"), anyio.fail_after(5):
            assert (await bulb.initialize()).version == 1
        assert isinstance(caplog.records[0].exc_info[1], TimeoutError)  # type: ignore[index]
