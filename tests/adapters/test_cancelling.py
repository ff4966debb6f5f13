"""Callbacks that are cancelled, that take too long, or that send to machines themselves: no machine is torn."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from statemachine import State, StateChart, StateMachine
from transitions.extensions.asyncio import AsyncMachine

from tai_state.adapters import AdaptedMachine, StatemachineAdapter, TransitionsAdapter
from tai_state.streams import turns

from ..support.adapted import SEEN, begun, bulbs
from ..support.stores import GOVERNOR, METADATA, Places

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The loop of asynchronous machines."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _seen() -> Iterator[None]:
    SEEN.clear()
    yield
    SEEN.clear()


class Sleeper:
    """A model that is halfway when it sleeps."""

    state: Any = None

    async def sleep(self) -> None:
        """Sleep for ever."""
        SEEN.append("sleeps")
        await anyio.sleep_forever()


def sleeping_machine(**options: Any) -> AsyncMachine:
    """A machine that sleeps after it has entered a state; its library swallows cancellations."""
    transitions = [{"trigger": "lie_down", "source": "up", "dest": "down", "after": "sleep"}]
    return AsyncMachine(model=None, states=["up", "down"], initial="up", transitions=transitions, **options)


class Nap(StateChart):
    """The same of the other library."""

    up = State(initial=True)
    down = State()
    lie_down = up.to(down)
    rise = down.to(up)

    async def on_enter_down(self) -> None:
        """Sleep for ever."""
        SEEN.append("sleeps")
        await anyio.sleep_forever()


ADAPTERS: dict[str, Any] = {
    "transitions": lambda store, **options: TransitionsAdapter(
        store, sleeping_machine, model=Sleeper, metadata=METADATA, **options
    ),
    "transitions, told of errors": lambda store, **options: TransitionsAdapter(
        store, lambda: sleeping_machine(on_exception=lambda: None), model=Sleeper, metadata=METADATA, **options
    ),
    "python-statemachine": lambda store, **options: StatemachineAdapter(store, Nap, metadata=METADATA, **options),
}


async def asleep() -> None:
    """Wait until a callback sleeps."""
    while not SEEN:
        await checkpoint()


@pytest.mark.parametrize("name", ADAPTERS)
async def test_a_cancelled_scope_writes_nothing(name: str, memory_places: Places):
    """Also where the library swallows the cancellation and says that the event is over."""
    async with memory_places.new().store() as store:
        machine = await begun(ADAPTERS[name](store))
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:

                async def cancel() -> None:
                    await asleep()
                    scope.cancel()

                tasks.start_soon(cancel)
                await machine.send("lie_down")
        assert scope.cancelled_caught
        assert ((await machine.get()).state, (await machine.get()).version) == ("up", 1)


@pytest.mark.parametrize("name", ADAPTERS)
async def test_a_cancelled_task_writes_nothing(name: str, memory_places: Places):
    """As asyncio itself cancels: the task ends cancelled, and the turn is given back."""
    async with memory_places.new().store() as store:
        machine: AdaptedMachine[Any] = await begun(ADAPTERS[name](store))
        task = asyncio.ensure_future(machine.send("lie_down"))
        await asleep()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert (await machine.get()).version == 1
        assert not store.core.turns.are_taken([machine.stream.state])


@pytest.mark.parametrize("name", ADAPTERS)
async def test_callbacks_that_never_end_are_given_up(name: str, memory_places: Places):
    """The caller gets a TimeoutError, nothing is written, and the next one can send."""
    async with memory_places.new().store() as store:
        machine = await begun(ADAPTERS[name](store, timeout_seconds=0.01))
        for _ in range(2):
            with (
                pytest.raises(TimeoutError, match=r"longer than 0\.01 seconds; nothing was written"),
                anyio.fail_after(9),
            ):
                await machine.send("lie_down")
        assert ((await machine.get()).state, (await machine.get()).version) == ("up", 1)
        assert not store.core.turns.are_taken([machine.stream.state])


async def test_a_timeout_inside_a_callback_is_its_own(memory_places: Places):
    """What a callback limits itself is no cancellation of the event."""

    class Patient(Sleeper):
        async def sleep(self) -> None:
            with anyio.move_on_after(0.001):
                await super().sleep()
            try:
                async with asyncio.timeout(0.001):
                    await super().sleep()
            except TimeoutError:
                SEEN.append("woken")

    async with memory_places.new().store() as store:
        machine = await begun(TransitionsAdapter(store, sleeping_machine, model=Patient, metadata=METADATA))
        assert (await machine.send("lie_down")).version == 2
        assert SEEN == ["sleeps", "sleeps", "woken"]


async def test_a_callback_cannot_send_to_its_own_machine(memory_places: Places):
    """It would wait for itself; the error says so at once, also through another machine, and nothing is written."""
    handles: dict[str, AdaptedMachine[Any]] = {}

    class Echo(StateMachine):
        quiet = State(initial=True)
        loud = State()
        call = quiet.to(loud)
        hush = loud.to(quiet)

        async def on_call(self, to: list[str]) -> None:
            if to:
                await handles[to[0]].send("call", {"to": to[1:]})

    async with memory_places.new().store() as store:
        adapter = StatemachineAdapter(store, Echo, metadata=METADATA)
        for name in "ab":
            handles[name] = await begun(adapter, name)
        for way in (["a"], ["b", "a"]):
            with pytest.raises(RuntimeError, match=r"states/a' is running: in a callback, let the machine itself"):
                await handles["a"].send("call", {"to": way})
        assert [(await each.get()).version for each in handles.values()] == [1, 1]
        assert (await handles["a"].send("call", {"to": ["b"]})).version == 2
        assert (await handles["b"].get()).version == 2


async def test_two_machines_that_send_to_each_other_do_not_wait_for_ever(
    memory_places: Places, monkeypatch: pytest.MonkeyPatch
):
    """A callback goes on without the other's turn, and the versions decide."""
    monkeypatch.setattr(turns, "WAIT_SECONDS_MAX", 0.05)
    handles: dict[str, AdaptedMachine[Any]] = {}
    both = anyio.Event()

    class Pair(StateMachine):
        only = State(initial=True)
        count = only.to.itself(on="tell")

        async def tell(self, to: str = "") -> None:
            if to and to not in SEEN:
                SEEN.append(to)
                if len(SEEN) == 2:
                    both.set()
                await both.wait()
                await handles[to].send("count")

    async with memory_places.new().store() as store:
        adapter = StatemachineAdapter(store, Pair, metadata=METADATA)
        for name in "ab":
            handles[name] = await begun(adapter, name)
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(handles["a"].send, "count", {"to": "b"})
                tasks.start_soon(handles["b"].send, "count", {"to": "a"})
        versions = [(await each.get()).version for each in handles.values()]
        assert versions == [3, 3]


async def test_a_task_that_a_callback_leaves_behind_can_send_later(memory_places: Places):
    """It inherits nothing that would keep it from the machine once the event is over."""
    later: list[asyncio.Task[Any]] = []
    handles: dict[str, AdaptedMachine[Any]] = {}

    class Leaving(Sleeper):
        async def sleep(self) -> None:
            async def send() -> int:
                while (await handles["m"].get()).version < 2:
                    await checkpoint()
                return (await handles["m"].send("to_up")).version

            later.append(asyncio.ensure_future(send()))

    async with memory_places.new().store() as store:
        handles["m"] = await begun(TransitionsAdapter(store, sleeping_machine, model=Leaving, metadata=METADATA))
        await handles["m"].send("lie_down")
        with anyio.fail_after(9):
            assert await later[0] == 3


async def test_an_event_that_comes_after_the_end_is_refused(memory_places: Places):
    """A machine that has run its event takes no other: nobody would store what became of it."""
    kept: list[Any] = []

    class Kept(StateMachine):
        on = State(initial=True)
        off = State()
        flip = on.to(off) | off.to(on)

        def on_flip(self) -> None:
            kept.append(self)

    async with memory_places.new().store() as store:
        machine = await begun(StatemachineAdapter(store, Kept, metadata=METADATA))
        await machine.send("flip")
        with pytest.raises(RuntimeError, match="the event of Kept is over"):
            kept[0].send("flip")
        assert (await machine.get()).state == "off"


async def test_events_of_other_machines_run_meanwhile(memory_places: Places):
    """Only the events of one machine take turns; those of another one do not wait for them."""
    opened = anyio.Event()

    class Slow(Sleeper):
        async def sleep(self) -> None:
            SEEN.append("sleeps")
            await opened.wait()

    async with memory_places.new().store() as store:
        adapter = TransitionsAdapter(store, sleeping_machine, model=Slow, metadata=METADATA)
        first, second = await begun(adapter, "1"), await begun(adapter, "2")
        bulb = await begun(bulbs(store), "bulb")
        assert repr(bulb) == f"<AdaptedMachine 'governors/{GOVERNOR}/states/bulb' as 'Bulb'>"
        with anyio.fail_after(9):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(first.send, "lie_down")
                tasks.start_soon(second.send, "lie_down")
                while len(SEEN) < 2:
                    await checkpoint()
                assert (await bulb.send("switch")).version == 2
                opened.set()
        assert [(await each.get()).version for each in (first, second)] == [2, 2]
