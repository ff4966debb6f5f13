"""What the documentation of python-statemachine shows, written anew, and stored: each event in a store opened anew."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

import pytest
from pydantic import BaseModel
from statemachine import HistoryState, State, StateChart, StateMachine
from statemachine.states import States

from tai_state import InvalidTransition, StateStore
from tai_state.adapters import AdaptedMachine, AdaptedSnapshot, StatemachineAdapter

from ..support.stores import GOVERNOR, METADATA, Place, Places, collected

pytestmark = pytest.mark.anyio

Sent = str | tuple[str, dict[str, Any]]


async def played(place: Place, machine: Any, events: Sequence[Sent], **options: Any) -> list[AdaptedSnapshot[Any]]:
    """What became of a machine after each event, each in a store of its own, so that nothing stays in memory."""

    def handle(store: StateStore) -> AdaptedMachine[Any]:
        adapter: StatemachineAdapter[Any] = StatemachineAdapter(store, machine, metadata=METADATA, **options)
        return adapter.machine(GOVERNOR, "m")

    async with place.store() as store:
        found = [await handle(store).initialize()]
    for event in events:
        name, arguments = (event, {}) if isinstance(event, str) else event
        async with place.store() as store:
            found.append(await handle(store).send(name, arguments))
    return found


async def test_a_traffic_light(memory_places: Places):
    """One event that leads around, and callbacks before it and on entering."""
    lamps: list[str] = []

    class TrafficLight(StateMachine):
        go = State(initial=True)
        caution = State()
        halt = State()
        turn = go.to(caution) | caution.to(halt) | halt.to(go)

        def before_turn(self, source: State, target: State) -> str:
            lamps.append(f"{source.id} to {target.id}")
            return "turned"

        def on_enter_halt(self) -> None:
            lamps.append("everybody waits")

    found = await played(memory_places.new(), TrafficLight, ["turn"] * 4)
    assert [each.state for each in found] == ["go", "caution", "halt", "go", "caution"]
    assert lamps == ["go to caution", "caution to halt", "everybody waits", "halt to go", "go to caution"]


class Basket(BaseModel):
    """What an order has in it, and what was paid."""

    total: int = 0
    paid: list[int] = []


class Purchase:
    """The model of an order."""

    def __init__(self) -> None:
        self.total = 0
        self.paid: list[int] = []


class Shop(StateMachine):
    """An order is filled until it is paid in full, and then sent."""

    filling = State(initial=True)
    packing = State()
    sent = State()
    done = State(final=True)
    add = filling.to(filling)
    pay = filling.to(packing, cond="covers") | filling.to(filling, unless="covers")
    pack = packing.to(sent)
    arrive = sent.to(done)

    def covers(self, cents: int) -> bool:
        """Whether this payment covers the rest."""
        return sum(self.model.paid) + cents >= self.model.total

    def on_add(self, cents: int) -> None:
        """Put something in."""
        self.model.total += cents

    def after_pay(self, cents: int) -> None:
        """Note a payment."""
        self.model.paid.append(cents)


async def test_an_order_with_a_model_of_its_own(memory_places: Places):
    """Guards look at the model, whose attributes are there in the next process."""
    place = memory_places.new()
    events = [("add", {"cents": 30}), ("add", {"cents": 40}), ("pay", {"cents": 20}), ("pay", {"cents": 50})]
    found = await played(place, Shop, events, model=Purchase, context=Basket)
    assert [each.state for each in found] == ["filling", "filling", "filling", "filling", "packing"]
    assert found[-1].context == Basket(total=70, paid=[20, 50])
    async with place.store() as store:
        order = StatemachineAdapter(store, Shop, model=Purchase, context=Basket, metadata=METADATA).machine(
            GOVERNOR, "m"
        )
        with pytest.raises(InvalidTransition, match="'add' leads nowhere from here; allowed: pack"):
            await order.send("add", {"cents": 1})
        await order.send("pack")
        assert (await order.send("arrive")).is_final


async def test_a_game_of_guesses(memory_places: Places):
    """A machine that keeps what it knows in itself, and ends in one of two ways."""

    class Secret(BaseModel):
        number: int = 0
        guesses: int = 0

    class Guessing(StateMachine):
        number = 0
        guesses = 0
        asking = State(initial=True)
        low = State()
        high = State()
        won = State(final=True)
        lost = State(final=True)
        guess = (
            lost.from_(asking, low, high, cond="was_last")
            | won.from_(asking, low, high, cond="is_right")
            | low.from_(asking, low, high, cond="is_low")
            | high.from_(asking, low, high)
        )

        def was_last(self, number: int) -> bool:
            return self.guesses >= 3 and number != self.number

        def is_right(self, number: int) -> bool:
            return number == self.number

        def is_low(self, number: int) -> bool:
            return number < self.number

        def on_guess(self) -> None:
            self.guesses += 1

    place = memory_places.new()
    async with place.store() as store:
        game = StatemachineAdapter(store, Guessing, context=Secret, metadata=METADATA).machine(GOVERNOR, "m")
        await game.initialize(context=Secret(number=42))
        states = [(await game.send("guess", {"number": number})).state for number in (10, 60, 42)]
        assert states == ["low", "high", "won"]
        other = StatemachineAdapter(store, Guessing, context=Secret, metadata=METADATA).machine(GOVERNOR, "other")
        await other.initialize(context=Secret(number=5))
        assert [(await other.send("guess", {"number": 1})).state for _ in range(4)] == ["low", "low", "low", "lost"]


async def test_states_from_an_enum(memory_places: Places):
    """The members of an Enum are the states, and are stored by their names."""

    class Stage(Enum):
        DRAFT = 1
        LIVE = 2
        OVER = 3

    class Campaign(StateMachine):
        states = States.from_enum(Stage, initial=Stage.DRAFT, final=Stage.OVER, use_enum_instance=True)
        edit = states.DRAFT.to(states.DRAFT)
        launch = states.DRAFT.to(states.LIVE)
        finish = states.LIVE.to(states.OVER)

    found = await played(memory_places.new(), Campaign, ["edit", "launch", "finish"])
    assert [each.state for each in found] == ["DRAFT", "DRAFT", "LIVE", "OVER"]
    assert found[-1].is_final


async def test_validators_refuse_with_their_own_words(memory_places: Places):
    """What a validator raises reaches the caller as it is."""

    class Gate(StateMachine):
        shut = State(initial=True)
        ajar = State()
        push = shut.to(ajar, validators="has_ticket")
        fall = ajar.to(shut)

        def has_ticket(self, ticket: str = "") -> None:
            if not ticket:
                raise PermissionError("no ticket")

    place = memory_places.new()
    with pytest.raises(PermissionError, match="no ticket"):
        await played(place, Gate, ["push"])
    async with place.store() as store:
        gate = StatemachineAdapter(store, Gate, metadata=METADATA).machine(GOVERNOR, "m")
        assert [await gate.send("push", {"ticket": "t"}), (await gate.get()).state][1] == "ajar"


async def test_a_journey_with_stages_and_a_memory(memory_places: Places):
    """Compound states with starts of their own, eventless transitions, and a history state that leads back."""

    class Supplies(BaseModel):
        food: int = 3

    class Journey(StateChart):
        food = 3

        class walking(State.Compound, initial=True):  # noqa: N801
            """On the way."""

            valley = State(initial=True)
            pass_ = State()
            summit = State()
            climb = valley.to(pass_) | pass_.to(summit)
            back = HistoryState()

        camp = State()
        home = State(final=True)
        rest = walking.to(camp)
        go_on = camp.to(walking.back)
        eat = walking.to(None, on="eats")
        walking.to(home, cond="is_hungry")

        def eats(self) -> None:
            self.food -= 1

        def is_hungry(self) -> bool:
            return self.food == 0

    events = ["climb", "rest", "go_on", "eat", "eat", "eat"]
    found = await played(memory_places.new(), Journey, events, context=Supplies)
    assert [each.state for each in found] == ["valley", "pass_", "camp", "pass_", "pass_", "pass_", "home"]
    assert [each.context.food for each in found[-3:]] == [2, 1, 0]
    assert found[-1].is_final


async def test_work_side_by_side_that_ends_together(memory_places: Places):
    """Parallel regions end in their own time; when all have, the machine takes the event that says so."""

    class Delivery(StateChart):
        class work(State.Parallel, initial=True):  # noqa: N801
            """Three things at once."""

            class goods(State.Compound):  # noqa: N801
                """What is sent."""

                shelf = State(initial=True)
                packed = State(final=True)
                pack = shelf.to(packed)

            class papers(State.Compound):  # noqa: N801
                """What goes with it."""

                blank = State(initial=True)
                signed = State(final=True)
                sign = blank.to(signed)

            class money(State.Compound):  # noqa: N801
                """What is paid for it."""

                owed = State(initial=True)
                paid = State(final=True)
                pay = owed.to(paid)

        shipped = State(final=True)
        done_state_work = work.to(shipped)

    place = memory_places.new()
    found = await played(place, Delivery, ["sign", "pay", "pack"])
    assert [each.state for each in found] == ["shelf|blank|owed", "shelf|signed|owed", "shelf|signed|paid", "shipped"]
    async with place.store() as store:
        delivery = StatemachineAdapter(store, Delivery, metadata=METADATA).machine(GOVERNOR, "m")
        assert [each.event for each in await collected(delivery.history(after=1))] == ["sign", "pay", "pack"]


async def test_asynchronous_guards_and_actions(memory_places: Places, anyio_backend: str):
    """Awaited in the order of the library, each time in another store."""
    if anyio_backend != "asyncio":
        return
    said: list[str] = []

    class Probe(StateMachine):
        idle = State(initial=True)
        measuring = State()
        measure = idle.to(measuring, cond="is_ready")
        reset = measuring.to(idle)

        async def is_ready(self) -> bool:
            return True

        async def on_measure(self, value: int = 0) -> None:
            said.append(f"measures {value}")

        async def on_exit_measuring(self) -> None:
            said.append("has measured")

    found = await played(memory_places.new(), Probe, [("measure", {"value": 7}), "reset"])
    assert [each.state for each in found] == ["idle", "measuring", "idle"]
    assert said == ["measures 7", "has measured"]
