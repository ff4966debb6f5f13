"""Machines that were moved in two stores: each is merged as a whole, its context by fields, and rules have a say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import permutations
from typing import Any

import pytest
from pydantic import BaseModel, model_validator

from tai_state import (
    ANY,
    Causal,
    ConflictResolutionFailed,
    FieldMerge,
    InvalidData,
    LastWriteWins,
    MachineMerge,
    StateStore,
    open_store,
    recorded_conflicts,
    sync,
)
from tai_state.machines import (
    ANY_STATE,
    Command,
    ComponentState,
    Definition,
    Invariant,
    MachineEvent,
    PersistentMachine,
    Severity,
    allow,
    define,
    described,
    forbid,
    time_out,
)
from tai_state.testing import ManualClock, MemoryEngine

from ..support.rivals import rivals
from ..support.stores import GOVERNOR, METADATA, collected

pytestmark = pytest.mark.anyio

GO = Command("go")


class Pump(ComponentState):
    """The states of a pump."""

    Off = described("Does not run")
    Starting = described("Is getting up to speed")
    Running = described("Runs")
    Serviced = described("Is taken apart")
    Scrapped = described("Is gone", terminal=True)


class Plate(BaseModel):
    """What a pump knows beside its state."""

    hours: int = 0
    litres: int = 0
    note: str = ""


WORKED = MachineEvent("worked", Plate)


def _added(step: Any) -> Plate:
    return Plate(
        hours=step.context.hours + step.payload.hours,
        litres=step.context.litres + step.payload.litres,
        note=step.payload.note or step.context.note,
    )


def pump(*more: Any, **others: Any) -> Definition[Pump, Plate]:
    """The definition of a pump, with more rules."""
    return define(
        "pump",
        Pump,
        initial=Pump.Off,
        context=Plate,
        rules=[
            allow(Pump.Off, [Pump.Starting, Pump.Serviced]),
            allow(Pump.Starting, Pump.Running, advances_epoch=True),
            allow([Pump.Running, Pump.Serviced], Pump.Off),
            *(allow(state, state, on=WORKED, update=_added) for state in (Pump.Off, Pump.Running)),
            allow(ANY_STATE, Pump.Scrapped),
            time_out(Pump.Starting, Pump.Off, seconds=60),
            forbid(Pump.Serviced, [Pump.Starting, Pump.Running], "it is in pieces"),
            *more,
        ],
        **others,
    )


PUMP = pump()
MERGE = MachineMerge(PUMP, {"hours": "counter", "litres": "counter"})


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: what is decided is decided above the engines."""
    return "asyncio"


@pytest.fixture
async def stores() -> AsyncIterator[list[StateStore]]:
    """Four stores, of which each change is later than the one before, whichever store makes it."""
    clock = ManualClock(step_us=1_000)
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(open_store(MemoryEngine(clock), clock=clock)) for _ in range(4)]


def pumped(
    store: StateStore, state_id: str = "P", definition: Definition[Pump, Plate] = PUMP
) -> PersistentMachine[Pump, Plate]:
    """A handle on a pump."""
    return store.machine(GOVERNOR, state_id, definition, metadata=METADATA)


async def go(store: StateStore, *states: Pump, state_id: str = "P") -> None:
    """Take steps."""
    for state in states:
        await pumped(store, state_id).transition_to(state, GO)


async def shared(stores: list[StateStore], *states: Pump, state_id: str = "P") -> None:
    """A pump that all of these stores have, after some steps."""
    await pumped(stores[0], state_id).initialize(context=Plate())
    await go(stores[0], *states, state_id=state_id)
    for other in stores[1:]:
        assert (await sync(stores[0], other)).complete


async def data_of(store: StateStore, state_id: str = "P") -> Any:
    """The data of a pump."""
    return (await store.get_state(GOVERNOR, state_id)).data


async def merged(one: StateStore, other: StateStore, resolver: Any = MERGE) -> Any:
    """The data of the pump in both stores, once they are synced."""
    report = await sync(one, other, resolver=resolver)
    assert report.complete, report.failed
    found = await data_of(one)
    assert await data_of(other) == found
    return found


async def objection(one: StateStore, other: StateStore, resolver: Any = MERGE) -> str:
    """Why the pump cannot be synced; both stores keep what they have."""
    before = await data_of(one), await data_of(other)
    report = await sync(one, other, resolver=resolver)
    assert (await data_of(one), await data_of(other)) == before
    [(path, why)] = report.failed
    assert path == f"{GOVERNOR} P"
    return why


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_the_later_machine_is_taken_whole(stores: list[StateStore], order: tuple[int, int]):
    """State, epoch, time of entering and time-out are those of the later side, whichever store begins the sync."""
    await shared(stores[:2])
    await go(stores[0], Pump.Starting, Pump.Running)
    await go(stores[1], Pump.Starting)
    later = (await data_of(stores[1]))["machine"]
    found = await merged(*(stores[each] for each in order))
    assert found["machine"] == later
    assert (later["state"], later["epoch"], "due" in later) == ("Starting", 0, True)
    [conflict] = await collected(recorded_conflicts(stores[0], GOVERNOR))
    assert conflict.strategies == ("machine_merge",)
    gone = {each["path"]: each["value"] for each in conflict.discarded}
    assert (gone["machine.epoch"], gone["machine.state"]) == (1, "Running")


async def test_contexts_are_merged_by_fields(stores: list[StateStore]):
    """What both sides counted is counted, and the machine stays that of the later one."""
    await shared(stores[:2])
    await pumped(stores[0]).fire(WORKED, Plate(hours=1, note="A"))
    await pumped(stores[1]).fire(WORKED, Plate(hours=10, litres=7))
    await go(stores[0], Pump.Serviced)
    found = await merged(*stores[:2])
    assert found["context"] == {"hours": 11, "litres": 7, "note": "A"}
    assert found["machine"]["state"] == "Serviced"
    assert (await pumped(stores[1]).get()).context == Plate(hours=11, litres=7, note="A")


async def test_a_machine_that_one_side_moved_is_taken_from_there(stores: list[StateStore]):
    """A later event that leaves the machine alone does not take a step back, though a rule names the way as one."""
    merge = MachineMerge(pump(forbid(Pump.Off, Pump.Running, "it must start")))
    await shared(stores[:2])
    await go(stores[0], Pump.Starting, Pump.Running)
    await stores[1].log_event(GOVERNOR, "P", "looked", METADATA)
    assert (await merged(*stores[:2], merge))["machine"]["state"] == "Running"


@pytest.mark.parametrize("moves_last", [False, True])
async def test_the_way_of_the_side_that_moved_is_no_step_of_the_merge(stores: list[StateStore], *, moves_last: bool):
    """If the other side changed the context alone, it is merged, and what the rules say of both states is not asked."""
    merge = MachineMerge(pump(forbid(Pump.Off, Pump.Running, "it must start")))
    await shared(stores[:2])
    await go(stores[0], Pump.Starting)
    if not moves_last:
        await go(stores[0], Pump.Running)
    data = await data_of(stores[1])
    data["context"]["note"] = "leaks"
    await stores[1].update_state(GOVERNOR, "P", data, METADATA, expected=ANY)
    if moves_last:
        await go(stores[0], Pump.Running)
    found = await merged(*stores[:2], merge)
    assert (found["machine"]["state"], found["context"]["note"]) == ("Running", "leaks")


async def test_a_forbidden_step_is_not_merged_and_the_others_go_on(stores: list[StateStore]):
    """A state that the rules do not allow to merge is named with the rule and the remedy; all others are synced."""
    for state_id in ("O", "P", "Q"):
        await shared(stores[:2], state_id=state_id)
    for state_id in ("O", "P", "Q"):
        await go(stores[1], Pump.Serviced, state_id=state_id)
    await go(stores[0], Pump.Serviced, state_id="O")
    await go(stores[0], Pump.Starting)
    why = await objection(*stores[:2])
    assert "it is in pieces (rule 'NoServicedToStartingOrRunning')" in why
    assert "force_state" in why
    assert "where it is in Starting" in why
    assert (await data_of(stores[0], "O")) == (await data_of(stores[1], "O"))
    assert (await data_of(stores[0], "Q"))["machine"]["state"] == "Serviced"
    assert "NoServiced" in await objection(stores[1], stores[0])


@pytest.mark.parametrize("right", [Pump.Serviced, Pump.Starting, Pump.Running])
async def test_a_forced_step_resolves_the_conflict(stores: list[StateStore], right: Pump):
    """As the error advises: forced where it was changed last, the machine is taken, whatever the rules say."""
    await shared(stores[:2])
    await go(stores[1], Pump.Serviced)
    await go(stores[0], Pump.Starting)
    await objection(*stores[:2])
    await pumped(stores[0]).force_state(right, "it was looked at")
    found = await merged(stores[1], stores[0])
    assert found["machine"]["state"] == right.name
    assert [each.kind for each in await collected(pumped(stores[1]).history())][-1] == "merge"
    await go(stores[1], *([Pump.Off] if right is not Pump.Starting else [Pump.Running]))
    assert (await merged(*stores[:2]))["machine"] == (await data_of(stores[1]))["machine"]


async def test_a_step_that_was_forced_before_the_stores_parted_resolves_nothing(stores: list[StateStore]):
    """Only the later machine's last step counts, and only if the other side had not seen it."""
    await shared(stores[:2])
    await pumped(stores[0]).force_state(Pump.Running, "by hand")
    await sync(*stores[:2])
    await go(stores[1], Pump.Off, Pump.Serviced)
    await go(stores[0], Pump.Off)
    await pumped(stores[0]).force_state(Pump.Running, "by hand")
    await go(stores[0], Pump.Off, Pump.Starting)
    assert "it is in pieces" in await objection(*stores[:2])


async def test_a_loser_that_was_forced_resolves_nothing(stores: list[StateStore]):
    """A step that a rule forbids is not merged because the side that would go was forced."""
    await shared(stores[:2])
    await pumped(stores[1]).force_state(Pump.Serviced, "by hand")
    await go(stores[0], Pump.Starting)
    assert "it is in pieces" in await objection(*stores[:2])


async def test_a_step_that_no_rule_allows_is_merged(stores: list[StateStore]):
    """A machine may be in a state to which no rule leads from the other side's, even out of a final one."""
    await shared(stores[:2])
    await go(stores[0], Pump.Scrapped)
    await go(stores[1], Pump.Serviced)
    assert (await merged(*stores[:2]))["machine"]["state"] == "Serviced"
    [*_, last] = await collected(pumped(stores[0]).history())
    assert (last.kind, last.from_state, last.to_state, last.trigger) == ("merge", "Scrapped", "Serviced", None)


async def test_the_same_state_on_both_sides_is_no_step(stores: list[StateStore]):
    """Both sides came to one state, each by its own way: it stays, though a rule forbids to enter it again."""
    again = pump(forbid(Pump.Starting, Pump.Starting, "it starts already"))
    await shared(stores[:2])
    for store in stores[:2]:
        await go(store, Pump.Starting)
    assert (await merged(*stores[:2], MachineMerge(again)))["machine"]["state"] == "Starting"


@pytest.mark.parametrize(("removal_wins", "state"), [(False, "Serviced"), (True, None)])
async def test_a_machine_that_one_side_deleted(stores: list[StateStore], state: str | None, *, removal_wins: bool):
    """A change wins over a deletion, unless told otherwise; no rule is asked, since no step is taken."""
    merge = MachineMerge(PUMP, removal_wins=removal_wins)
    await shared(stores[:2], Pump.Serviced)
    await go(stores[0], Pump.Off, Pump.Serviced)
    await stores[1].delete_state(GOVERNOR, "P", METADATA, expected=ANY)
    report = await sync(*stores[:2], resolver=merge)
    assert report.complete
    for store in stores[:2]:
        assert await store.exists(GOVERNOR, "P") is (state is not None)
        if state is not None:
            assert (await data_of(store))["machine"]["state"] == state


async def test_a_machine_that_both_sides_deleted_stays_away(stores: list[StateStore]):
    """Two deletions are one."""
    await shared(stores[:2])
    for store in stores[:2]:
        await store.delete_state(GOVERNOR, "P", METADATA, expected=ANY)
    assert (await sync(*stores[:2], resolver=MERGE)).complete
    assert not await stores[0].exists(GOVERNOR, "P")


async def test_without_a_base_the_rules_are_asked_too():
    """If what both sides knew is gone, both count as having moved; a forced step counts if it came last."""

    def machine(state: str, second: int, **more: Any) -> dict[str, Any]:
        facts = {"name": "pump", "version": 1, "definition": PUMP.hash, "epoch": 0}
        entered = f"2026-01-01T00:00:{second:02}.000000Z"
        return {"machine": {**facts, "state": state, "entered_at": entered, **more}, "context": {}}

    serviced = machine("Serviced", 5)
    running, forced = machine("Running", 9), machine("Running", 9, is_forced=True)
    with pytest.raises(ConflictResolutionFailed, match="it is in pieces"):
        MERGE.resolve(*rivals(serviced, running), None)
    assert MERGE.resolve(*rivals(serviced, forced), None).data == forced
    for early in (1, 5):
        with pytest.raises(ConflictResolutionFailed, match="it is in pieces"):
            MERGE.resolve(*rivals(serviced, machine("Running", early, is_forced=True)), None)


async def test_an_invariant_that_the_merged_context_would_break(stores: list[StateStore]):
    """Each side keeps it and both together do not: the merge is refused until a forced step says that it is meant."""
    sound = Invariant[Pump, Plate]("few", "few hours", Severity.High, lambda machine: machine.context.hours < 10)
    merge = MachineMerge(pump(invariants=[sound]), {"hours": "counter"})
    await shared(stores[:2])
    for store in stores[:2]:
        await pumped(store).fire(WORKED, Plate(hours=6))
    assert "few hours" in await objection(*stores[:2], merge)
    await pumped(stores[1]).force_state(Pump.Off, "it may")
    assert (await merged(*stores[:2], merge))["context"]["hours"] == 12


async def test_a_merged_context_that_does_not_fit_its_model(stores: list[StateStore]):
    """What would not open afterwards is not written; what the error advises leads on."""

    class Balanced(BaseModel):
        left: int = 0
        right: int = 0

        @model_validator(mode="after")
        def _even(self) -> Balanced:
            if self.left + self.right > 1:
                raise ValueError
            return self

    worn = allow(Pump.Off, Pump.Off, on=MachineEvent("worn", Balanced), update=lambda step: step.payload)
    balance = define(
        "pump", Pump, initial=Pump.Off, rules=[worn], context=Balanced, dead_ends=[*Pump], unreached=[*Pump]
    )
    merge, one, other = MachineMerge(balance), *stores[:2]
    await one.machine(GOVERNOR, "P", balance, metadata=METADATA).initialize(context=Balanced())
    await sync(one, other)
    for store, data in ((one, Balanced(left=1)), (other, Balanced(right=1))):
        await store.machine(GOVERNOR, "P", balance, metadata=METADATA).fire(MachineEvent("worn", Balanced), data)
    assert "does not fit the model" in await objection(one, other, merge)
    await one.update_state(GOVERNOR, "P", await data_of(other), METADATA, expected=ANY)
    assert (await merged(one, other, merge))["context"] == {"left": 0, "right": 1}


async def test_a_definition_that_is_not_at_hand(stores: list[StateStore]):
    """A machine that no definition given knows is left alone; with its definition, it is merged."""
    other = define("door", Pump, initial=Pump.Off, rules=[], dead_ends=[*Pump], unreached=[*Pump])
    await shared(stores[:2])
    await go(stores[0], Pump.Serviced)
    await go(stores[1], Pump.Scrapped)
    why = await objection(*stores[:2], MachineMerge([other]))
    assert "no definition at hand knows the machine 'pump' in Serviced and in Scrapped" in why
    assert (await merged(*stores[:2], MachineMerge([other, PUMP])))["machine"]["state"] == "Scrapped"


async def test_machines_of_two_kinds_are_not_mixed(stores: list[StateStore]):
    """A state under which two stores keep machines of two kinds is named, even if both are in states of one name."""
    door = define("door", Pump, initial=Pump.Off, rules=[], dead_ends=[*Pump], unreached=[*Pump])
    await pumped(stores[0]).initialize(context=Plate())
    await stores[1].machine(GOVERNOR, "P", door, metadata=METADATA).initialize()
    merge = MachineMerge([PUMP, door])
    assert "machines of two kinds, 'pump' and 'door'" in await objection(*stores[:2], merge)
    await stores[0].update_state(GOVERNOR, "P", await data_of(stores[1]), METADATA, expected=ANY)
    assert (await merged(*stores[:2], merge))["machine"]["name"] == "door"


async def test_a_state_that_is_a_machine_on_one_side_alone(stores: list[StateStore]):
    """It is named, and neither side is taken."""
    await shared(stores[:2])
    await go(stores[0], Pump.Serviced)
    await stores[1].update_state(GOVERNOR, "P", {"n": 1}, METADATA, expected=ANY)
    assert "one of them is no machine" in await objection(*stores[:2])


async def test_what_one_side_alone_wrote_is_taken(stores: list[StateStore]):
    """If the other side changed nothing, whatever was written in the place of the machine stands."""
    await shared(stores[:2])
    await stores[1].update_state(GOVERNOR, "P", {"n": 1}, METADATA, expected=ANY)
    await stores[0].log_event(GOVERNOR, "P", "looked", METADATA)
    assert await merged(*stores[:2]) == {"n": 1}


async def test_of_several_versions_the_one_that_wrote_the_machine_counts(stores: list[StateStore]):
    """The definition of the machine that is taken decides; else the newest one that knows both states."""
    older = pump(forbid(Pump.Serviced, Pump.Scrapped, "an older rule"))
    newer = pump(forbid(Pump.Scrapped, Pump.Serviced, "a newer rule"), version=3)
    await shared(stores[:2])
    await go(stores[0], Pump.Serviced)
    await pumped(stores[1], definition=older).transition_to(Pump.Scrapped, GO)
    assert "an older rule" in await objection(*stores[:2], MachineMerge([newer, older]))
    assert "an older rule" in await objection(*stores[:2], MachineMerge([PUMP, older, newer]))
    unknown = [newer, PUMP, pump(forbid(ANY_STATE, Pump.Scrapped, "a rule between", unless_from=[Pump.Off]), version=2)]
    for given in permutations(unknown):
        assert (await sync(*stores[:2], resolver=MachineMerge(given), dry_run=True)).complete


async def test_other_states_have_a_resolver_of_their_own(stores: list[StateStore]):
    """What is no machine is decided by the last writer, or as the caller says."""
    for resolver, total in ((MERGE, 3), (MachineMerge(PUMP, others=FieldMerge({"n": "counter"})), 5)):
        state_id = f"s{total}"
        await stores[0].save_state(GOVERNOR, state_id, {"n": 0}, METADATA)
        await sync(*stores[:2])
        for store, step in zip(stores, (2, 3), strict=False):
            await store.update_state(GOVERNOR, state_id, {"n": step}, METADATA, expected=1)
        assert (await sync(*stores[:2], resolver=resolver)).complete
        assert [await data_of(store, state_id) for store in stores[:2]] == [{"n": total}] * 2


async def test_it_can_stand_behind_another_resolver(stores: list[StateStore]):
    """As a fallback it decides as by itself."""
    await shared(stores[:2])
    await go(stores[1], Pump.Serviced)
    await go(stores[0], Pump.Starting)
    assert "it is in pieces" in await objection(*stores[:2], Causal(MERGE))


@pytest.mark.parametrize("order", [*permutations(range(3))])
async def test_three_stores_come_to_one_machine(stores: list[StateStore], order: tuple[int, ...]):
    """In whatever order three stores are synced, they end with one machine, and count each change once."""
    del stores[3]
    await shared(stores)
    for number, store in enumerate(stores):
        await pumped(store).fire(WORKED, Plate(hours=10**number))
        await go(store, *(Pump.Starting, Pump.Running, Pump.Off)[: number + 1])
    first, second, third = (stores[each] for each in order)
    for one, other in ((first, second), (second, third), (third, first), (first, second)):
        assert (await sync(one, other, resolver=MERGE)).complete
    found = [await data_of(store) for store in stores]
    assert found[0] == found[1] == found[2]
    assert found[0]["context"]["hours"] == 111
    assert found[0]["machine"]["state"] == "Off"


async def test_several_bases_are_merged_as_machines(stores: list[StateStore]):
    """Two stores that each joined the same changes apart have them in common: a counter of the context counts once."""
    await shared(stores)
    for number, store in enumerate(stores[:2]):
        await pumped(store).fire(WORKED, Plate(hours=10**number))
    for one, other in ((0, 2), (1, 3)):
        await sync(stores[one], stores[other], resolver=MERGE)
    for number, store in enumerate(stores):
        await pumped(store).fire(WORKED, Plate(hours=10 ** (number + 2)))
    for one, other in ((0, 1), (2, 3), (0, 2), (1, 3), (0, 3), (0, 1), (2, 3)):
        assert (await sync(stores[one], stores[other], resolver=MERGE)).complete
    for store in stores:
        assert (await data_of(store))["context"]["hours"] == 111_111


@pytest.mark.parametrize("before", ["taken", "forced"])
async def test_an_effect_that_is_done_moves_no_machine(stores: list[StateStore], before: str):
    """A step is kept though the other side records an effect as done later; the effect stays done, the others pend."""
    serve = allow(Pump.Running, Pump.Serviced, effects=["bill", "tell"])
    ended = pump(serve, forbid(Pump.Scrapped, ANY_STATE, "it is gone"))
    one, other = (pumped(store, definition=ended) for store in stores[:2])
    await one.initialize(context=Plate())
    await one.force_state(Pump.Running, "for the test")
    await one.transition_to(Pump.Serviced, GO, event_id="served")
    if before == "forced":
        await one.force_state(Pump.Serviced, "it stays there")
    await sync(*stores[:2])
    await other.transition_to(Pump.Scrapped, GO)
    await one.complete_effect("served:bill")
    found = await merged(*stores[:2], MachineMerge(ended))
    assert found["machine"]["state"] == "Scrapped"
    assert [each["id"] for each in found["machine"]["effects"]] == ["served:tell"]


async def test_effects_that_either_side_has_done_are_done(stores: list[StateStore]):
    """Each side records another effect as done: after the merge, neither is pending."""
    served = pump(allow(Pump.Off, Pump.Running, effects=["bill", "tell", "log"]))
    one, other = (pumped(store, definition=served) for store in stores[:2])
    await one.initialize(context=Plate())
    await one.transition_to(Pump.Running, GO, event_id="ran")
    await sync(*stores[:2])
    await one.complete_effect("ran:bill")
    await other.complete_effect("ran:tell")
    found = await merged(*stores[:2], MachineMerge(served))
    assert [each["id"] for each in found["machine"]["effects"]] == ["ran:log"]


async def test_an_effect_that_was_written_by_hand_is_kept(stores: list[StateStore]):
    """To put another effect in the place of one is more than to record that one as done."""
    served = pump(allow(Pump.Off, Pump.Running, effects=["bill"]))
    one = pumped(stores[0], definition=served)
    await one.initialize(context=Plate())
    await one.transition_to(Pump.Running, GO, event_id="ran")
    await sync(*stores[:2])
    data = await data_of(stores[0])
    data["machine"]["effects"] = [{"id": "by hand", "name": "bill"}]
    await stores[0].update_state(GOVERNOR, "P", data, METADATA, expected=ANY)
    await stores[1].log_event(GOVERNOR, "P", "looked", METADATA)
    found = await merged(*stores[:2], MachineMerge(served))
    assert [each["id"] for each in found["machine"]["effects"]] == ["by hand"]


@pytest.mark.parametrize("wrong", [None, 5, [], ["pump"], {}, Pump])
def test_what_is_no_definition_is_refused(wrong: Any):
    """Something else than definitions is named before anything is merged."""
    with pytest.raises(InvalidData, match="definition"):
        MachineMerge(wrong)


def test_other_arguments_are_looked_at_too():
    """Strategies, the flag and the resolver for other states are what they must be."""
    wrong: list[dict[str, Any]] = [{"strategies": 5}, {"strategies": {5: "last"}}, {"removal_wins": 1}]
    for arguments in [*wrong, {"others": None}, {"others": LastWriteWins}]:
        with pytest.raises(InvalidData):
            MachineMerge(PUMP, **arguments)
    for arguments in ({"strategies": {"n": "sum"}}, {"default": "sum"}):
        with pytest.raises(ValueError, match="there is no strategy"):
            MachineMerge(PUMP, **arguments)
