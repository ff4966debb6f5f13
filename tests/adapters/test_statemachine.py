"""Machines of python-statemachine, stored: their own guards and callbacks, one commit for each event."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from pydantic import BaseModel
from statemachine import Event, State, StateChart, StateMachine
from statemachine.contrib.timeout import timeout
from statemachine.exceptions import TransitionNotAllowed

from tai_state import InvalidData, InvalidDefinition, InvalidTransition, StateStore
from tai_state.adapters import AdaptedMachine, StatemachineAdapter

from ..support.adapted import SEEN, AsyncBell, Bill, Payments, Works, begun, bills
from ..support.stores import GOVERNOR, METADATA, Places, collected

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _seen() -> Iterator[None]:
    SEEN.clear()
    yield
    SEEN.clear()


async def test_a_bill_goes_its_way(store: StateStore):
    """Each event is one version, with the configuration and the attributes that are kept."""
    bill = await begun(bills(store))
    part = await bill.send("pay", {"cents": 40})
    assert (part.version, part.state, part.configuration, part.context) == (
        2,
        "unpaid",
        ("unpaid",),
        Payments(cents=40),
    )
    paid = await bill.send("pay", {"cents": 60}, event_id="payment-2")
    assert (paid.version, paid.state, paid.context, paid.is_final) == (3, "paid", Payments(cents=100), False)
    closed = await bill.send("close")
    assert (closed.state, closed.is_final) == ("closed", True)
    assert await bill.get() == closed
    events = await collected(bill.history())
    assert [(each.kind, each.event, each.arguments) for each in events] == [
        ("initialize", None, {}),
        ("transition", "pay", {"cents": 40}),
        ("transition", "pay", {"cents": 60}),
        ("transition", "close", {}),
    ]
    assert [(each.from_configuration, each.to_configuration) for each in events] == [
        (None, ("unpaid",)),
        (("unpaid",), ("unpaid",)),
        (("unpaid",), ("paid",)),
        (("paid",), ("closed",)),
    ]
    assert events[2].reason == "Event: pay"
    assert SEEN == ["paid 60", "close"]


async def test_refusals_name_the_machine_and_the_events_that_lead_on(memory_places: Places):
    """What no transition takes is refused, with the library's own error as the cause, and nothing is written."""
    async with memory_places.new().store() as store:
        bill = await begun(bills(store))
        with pytest.raises(InvalidTransition, match="'close' leads nowhere from here") as refused:
            await bill.send("close")
        assert (refused.value.machine, refused.value.from_state) == (f"governors/{GOVERNOR}/states/m", "unpaid")
        assert refused.value.allowed == ("pay", "remind")
        assert isinstance(refused.value.__cause__, TransitionNotAllowed)
        await bill.send("pay", {"cents": 100})
        await bill.send("close")
        with pytest.raises(InvalidTransition, match="the machine has ended"):
            await bill.send("close")
        assert (await bill.get()).version == 3


async def test_a_guard_that_does_not_hold_is_a_refusal(memory_places: Places):
    """Also in a chart that is told to ignore what no transition takes."""

    class Door(StateChart):
        shut = State(initial=True)
        ajar = State()
        push = shut.to(ajar, cond="fits")
        slam = ajar.to(shut)

        def fits(self, metal: str = "") -> bool:
            return metal == "brass"

    async with memory_places.new().store() as store:
        door = await begun(StatemachineAdapter(store, Door, metadata=METADATA))
        with pytest.raises(InvalidTransition, match="no condition of the event 'push' holds"):
            await door.send("push", {"metal": "tin"})
        with pytest.raises(InvalidTransition, match="leads nowhere"):
            await door.send("slam")
        assert (await door.send("push", {"metal": "brass"})).version == 2


async def test_an_error_of_a_callback_reaches_the_caller_and_nothing_is_written(memory_places: Places):
    """It is the callback's own error, and the machine is as it was."""
    async with memory_places.new().store() as store:
        bill = await begun(bills(store))
        await bill.send("pay", {"cents": 100})
        with pytest.raises(LookupError, match="no such book"):
            await bill.send("close", {"fails": True})
        assert ((await bill.get()).state, (await bill.get()).version) == ("paid", 2)


class Robot(StateChart):
    """A chart that turns errors into events; one kind of error has a transition."""

    idle = State(initial=True)
    busy = State()
    safe = State()
    work = idle.to(busy)
    wait = idle.to(safe)
    again = safe.to(busy)
    stop = busy.to(idle)
    error_execution = busy.to(safe, cond="is_jammed")

    def is_jammed(self, error: Exception) -> bool:
        """Whether this is what went wrong."""
        return "jammed" in str(error)

    def on_work(self, fails: bool = False) -> None:  # noqa: FBT001, FBT002
        """Work, or fail."""
        if fails:
            raise LookupError("jammed")

    def on_enter_safe(self, fails: bool = False) -> None:  # noqa: FBT001, FBT002
        """Be safe, or fail."""
        if fails:
            raise LookupError("no brake")

    def on_again(self) -> None:
        """Fail."""
        raise LookupError("worn out")


async def test_errors_that_a_chart_turns_into_events(memory_places: Places):
    """If a transition takes the error, what became of the machine is stored; otherwise the caller gets the error."""
    async with memory_places.new().store() as store:
        robot = await begun(StatemachineAdapter(store, Robot, metadata=METADATA))
        assert (await robot.send("work", {"fails": True})).state == "safe"
        with pytest.raises(LookupError, match="worn out"):
            await robot.send("again")
        other = await begun(StatemachineAdapter(store, Robot, metadata=METADATA), "other")
        with pytest.raises(LookupError, match="no brake"):
            await other.send("wait", {"fails": True})
        assert [(await each.get()).version for each in (robot, other)] == [2, 1]


async def test_an_error_of_an_initial_state_is_not_swallowed(memory_places: Places):
    """A chart whose first callback fails is not stored."""

    class Stillborn(StateChart):
        first = State(initial=True)
        second = State(final=True)
        go = first.to(second)

        def on_enter_first(self) -> None:
            raise LookupError("no power")

    async with memory_places.new().store() as store:
        machine: AdaptedMachine[Any] = StatemachineAdapter(store, Stillborn, metadata=METADATA).machine(GOVERNOR, "m")
        with pytest.raises(LookupError, match="no power"):
            await machine.initialize()
        assert not await machine.exists()


async def test_callbacks_may_have_any_name(memory_places: Places):
    """What watches the machine is not taken for a callback, and an error of an initial state may be dealt with."""

    class Plain(StateChart):
        first = State(initial=True)
        second = State()
        go = second.to(first, cond="check", on="end", after="taken")
        error_execution = first.to(second)

        def on_enter_first(self, event: str) -> None:
            if event == "__initial__":
                raise LookupError("no power")

        def check(self) -> bool:
            return True

        def end(self) -> None:
            SEEN.append("end")

        def taken(self) -> None:
            SEEN.append("taken")

    async with memory_places.new().store() as store:
        plain = await begun(StatemachineAdapter(store, Plain, metadata=METADATA))
        assert (await plain.get()).state == "second"
        assert (await plain.send("go")).state == "first"
        assert SEEN == ["end", "taken"]


async def test_nested_and_parallel_states_are_restored_without_a_callback(memory_places: Places):
    """Each event finds the whole configuration, and what history states remember."""
    async with memory_places.new().store() as store:
        works = await begun(StatemachineAdapter(store, Works, metadata=METADATA))
        first = await works.get()
        assert (first.state, first.is_final) == ("cold|empty", False)
        assert set(first.configuration) == {"running", "lines", "left", "cold", "right", "empty"}
        assert (await works.send("heat")).state == "hot|empty"
        assert (await works.send("fill")).state == "hot|full"
        assert (await works.send("stop")).configuration == ("stopped",)
        state = await store.get_state(GOVERNOR, "m")
        assert set(state.data["chart"]["history"]["last"]) == {"lines", "left", "right", "hot", "full"}
        assert (await works.send("resume")).state == "hot|full"
        await works.send("stop")
        assert (await works.send("scrap")).is_final


async def test_states_with_values_are_stored_by_their_ids(memory_places: Places):
    """What a model holds as its state may be a number; what is stored is the id, and the field has any name."""

    class Lift(StateMachine):
        ground = State(initial=True, value=0)
        first = State(value=1)
        up = ground.to(first)
        down = first.to(ground)

    class Cabin:
        floor: int | None = None

    async with memory_places.new().store() as store:
        adapter = StatemachineAdapter(
            store, lambda model: Lift(model, state_field="floor"), model=Cabin, state_field="floor", metadata=METADATA
        )
        lift = await begun(adapter)
        assert (await lift.send("up")).state == "first"
        assert (await lift.send("down")).configuration == ("ground",)


class Total(BaseModel):
    """One number."""

    total: int = 0


async def test_attributes_of_the_machine_itself(memory_places: Places):
    """A machine without a model of its own keeps its own attributes, which its first callbacks see."""

    class Tally(StateMachine):
        total = 0
        start = State(initial=True)
        more = start.to.itself(on="count")

        def on_enter_start(self) -> None:
            SEEN.append(f"enters with {self.total}")

        def count(self, by: int = 1) -> None:
            self.total += by

    async with memory_places.new().store() as store:
        adapter = StatemachineAdapter(store, Tally, context=Total, metadata=METADATA)
        tally = adapter.machine(GOVERNOR, "m")
        assert (await tally.initialize(context=Total(total=5))).context == Total(total=5)
        assert SEEN == ["enters with 5"]
        assert (await tally.send("more", {"by": 2})).context == Total(total=7)
        assert (await tally.send("more")).context == Total(total=8)


async def test_asynchronous_callbacks_are_awaited(memory_places: Places, anyio_backend: str):
    """On asyncio they run; elsewhere the adapter says that the library needs asyncio."""
    async with memory_places.new().store() as store:
        if anyio_backend != "asyncio":
            with pytest.raises(InvalidData, match="needs asyncio"):
                StatemachineAdapter(store, AsyncBell, metadata=METADATA)
            return
        bell = await begun(StatemachineAdapter(store, AsyncBell, metadata=METADATA))
        assert (await bell.send("ring", {"times": 3})).state == "ringing"
        assert SEEN == ["ring"]
        with pytest.raises(InvalidTransition):
            await bell.send("ring")
        assert (await bell.send("hush")).version == 3


async def test_events_that_a_callback_sends_are_part_of_the_step(memory_places: Places):
    """What a machine sends itself runs before the commit, which holds all of it."""

    class Chain(StateMachine):
        first = State(initial=True)
        second = State()
        third = State()
        go = first.to(second)
        on = second.to(third)
        back = third.to(first)

        def after_go(self) -> None:
            self.send("on")

        def after_back(self) -> None:
            self.send("on")

    async with memory_places.new().store() as store:
        chain = await begun(StatemachineAdapter(store, Chain, metadata=METADATA))
        done = await chain.send("go")
        assert (done.version, done.state) == (2, "third")
        with pytest.raises(TransitionNotAllowed):  # of the callback, not of what was asked for
            await chain.send("back")
        assert (await chain.get()).state == "third"


def delayed(**options: Any) -> type[StateChart[Any]]:
    """A chart with an event that may be delayed."""

    class Kettle(StateChart):
        cold = State(initial=True)
        hot = State()
        boil = Event(cold.to(hot), **options)
        cool = hot.to(cold)

        def on_cool(self) -> None:
            self.send("boil", delay=5_000)

    return Kettle


async def test_what_lives_in_memory_alone_is_refused_by_name(memory_places: Places):
    """A delayed event and a state that invokes work are refused where the adapter is made, or where they are sent."""

    class Waiting(StateChart):
        waiting = State(initial=True, invoke=timeout(5, on="expired"))
        late = State(final=True)
        expired = waiting.to(late)

    class Loading(StateChart):
        waiting = State(initial=True)
        late = State(final=True)
        go = waiting.to(late)

        def on_invoke_waiting(self) -> int:
            SEEN.append("invoked")
            return 1

    async with memory_places.new().store() as store:
        for machine in (Waiting, Loading):
            with pytest.raises(InvalidDefinition, match="'waiting' invokes work"):
                StatemachineAdapter(store, machine)
        with pytest.raises(InvalidDefinition, match="'boil' is delayed"):
            StatemachineAdapter(store, delayed(delay=1_000))
        kettle = await begun(StatemachineAdapter(store, delayed(), metadata=METADATA))
        await kettle.send("boil")
        with pytest.raises(InvalidDefinition, match="'boil' is delayed"), anyio.fail_after(4):
            await kettle.send("cool")
        assert ((await kettle.get()).state, SEEN) == ("hot", [])


async def test_a_delay_that_the_machine_itself_would_take_as_an_error_is_refused(memory_places: Places):
    """A transition for errors does not turn what cannot be stored into a step."""

    class Calm(StateChart):
        idle = State(initial=True)
        late = State()
        safe = State()
        go = idle.to(late)
        back = late.to(idle) | safe.to(idle)
        error_execution = late.to(safe) | idle.to(safe)

        def on_go(self) -> None:
            self.send("back", delay=5_000)

    async with memory_places.new().store() as store:
        calm = await begun(StatemachineAdapter(store, Calm, metadata=METADATA))
        with pytest.raises(InvalidDefinition, match="'back' is delayed"), anyio.fail_after(4):
            await calm.send("go")
        assert (await calm.get()).version == 1


async def test_a_machine_that_has_ended_stays_so(memory_places: Places):
    """Regions that have all ended end the machine, though their parent has a transition; so it is in the next store."""

    class Pair(StateChart):
        class both(State.Parallel, initial=True):  # noqa: N801
            class left(State.Compound):  # noqa: N801
                a = State(initial=True)
                b = State(final=True)
                first = a.to(b)

            class right(State.Compound):  # noqa: N801
                c = State(initial=True)
                d = State(final=True)
                second = c.to(d)

        off = State(final=True)
        abort = both.to(off)

    async with memory_places.new().store() as store:
        pair = await begun(StatemachineAdapter(store, Pair, metadata=METADATA))
        await pair.send("first")
        assert (await pair.send("second")).is_final
        with pytest.raises(InvalidTransition, match="the machine has ended"):
            await pair.send("abort")
        assert (await pair.get()).version == 3


async def test_what_is_no_event_is_refused_before_anything_is_read(memory_places: Places):
    """Names of attributes, of states and of the library's own, and arguments with its own names."""
    async with memory_places.new().store() as store:
        bill = await begun(bills(store))
        for event in ("", "__initial__", "model", "configuration", "send", "unpaid", "__class__"):
            with pytest.raises(InvalidData, match="cannot have an event"):
                await bill.send(event)
        for name in ("delay", "send_id", "internal", "event", "machine", "model", "state", "source", "self", "key"):
            with pytest.raises(InvalidData, match=f"cannot be named {name}"):
                await bill.send("pay", {name: 1})
        assert (await bill.get()).version == 1


async def test_what_is_no_machine_is_refused(memory_places: Places):
    """What makes no machine, or one that does not take its model, and states that share an id."""

    class Twins(StateChart):
        class left(State.Compound):  # noqa: N801
            same = State(initial=True, value="l")

        class right(State.Compound):  # noqa: N801
            same = State(initial=True, value="r")

        go = left.to(right)
        back = right.to(left)

    async with memory_places.new().store() as store:
        wrong: Any = [5, lambda _: 5, lambda _: bills(store), lambda _: Works()]
        for machine in wrong:
            with pytest.raises(InvalidData):
                StatemachineAdapter(store, machine)
        with pytest.raises(InvalidDefinition, match="the same id"):
            StatemachineAdapter(store, Twins)
        with pytest.raises(InvalidData, match="state is in the attribute 'floor'"):
            StatemachineAdapter(store, Works, state_field="floor")
        kinds: Any = [5, "text", dict, Bill]
        for context in kinds:
            with pytest.raises(InvalidData, match="must be a pydantic model"):
                StatemachineAdapter(store, Works, context=context)
