"""Named effects of stored machines: pending from the step's commit until they are done, whatever comes between."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import anyio
import pytest

from tai_state import InvalidData, PreconditionFailed, StateMachinePersister, StateNotFound, StateStore, Transaction
from tai_state.engines.api import Delete
from tai_state.machines import EffectsReport, MachineSnapshot, PendingEffect
from tai_state.machines.effects import EFFECTS_MAX
from tai_state.testing import ManualClock

from ..support.parcels import ARRIVE, RETURN, SEND, Had, Parcel, packed, parcel
from ..support.stores import GOVERNOR, METADATA, CountingEngine, Place, Places, collected

pytestmark = pytest.mark.anyio

CHARGE, MAIL = PendingEffect("sent-1:charge", "charge"), PendingEffect("sent-1:mail", "mail")


async def test_effects_are_pending_until_they_are_done(store: StateStore, clock: ManualClock):
    """A step's effects stand in the machine, are had in their order, and leave nothing but their events."""
    machine, had = await packed(store), Had()
    sent = await machine.transition_to(Parcel.Sent, SEND, event_id="sent-1")
    assert sent.effects == (CHARGE, MAIL)
    assert (await parcel(store).get()).effects == (CHARGE, MAIL)
    clock.advance_us(1_000_000)
    assert await machine.run_effects(had.handlers) == EffectsReport(done=2)
    assert had.ids == [CHARGE.id, MAIL.id]
    after = await machine.get()
    assert (after.effects, after.state, after.version) == ((), Parcel.Sent, 4)
    assert (after.entered_at, after.due, after.epoch) == (sent.entered_at, sent.due, sent.epoch)
    assert "effects" not in (await store.get_state(GOVERNOR, "p")).data["machine"]
    events = (await collected(machine.history()))[2:]
    assert [(each.kind, each.from_state, each.to_state, each.trigger) for each in events] == [
        ("effect", "Sent", "Sent", None)
    ] * 2
    assert [each.reason for each in events] == ["Effect: sent-1:charge", "Effect: sent-1:mail"]
    assert (await StateMachinePersister(store).validate_consistency(GOVERNOR)).consistent
    assert await machine.run_effects(had.handlers) == EffectsReport()


async def test_a_repeated_call_has_no_effect_twice(place: Place):
    """A step that is asked for again with its id adds no effect: neither while it is pending, nor once it is done."""
    had = Had()
    async with place.store() as store:
        machine = await packed(store)
        await machine.transition_to(Parcel.Sent, SEND, event_id="sent-1")
        await machine.transition_to(Parcel.Sent, SEND, event_id="sent-1")
        assert (await machine.get()).effects == (CHARGE, MAIL)
        await machine.run_effects(had.handlers)
    async with place.store() as store:
        await parcel(store).transition_to(Parcel.Sent, SEND, event_id="sent-1")
        assert (await parcel(store).get()).effects == ()
        await parcel(store).run_effects(had.handlers)
    assert had.ids == [CHARGE.id, MAIL.id]


async def test_an_effect_that_fails_stays_pending(store: StateStore, caplog: pytest.LogCaptureFixture):
    """The others are had, the failure is logged with its ids, and the next try has the same id."""
    machine, had = await packed(store), Had("charge")
    await machine.transition_to(Parcel.Sent, SEND, event_id="sent-1")
    report = await machine.run_effects(had.handlers)
    assert report == EffectsReport(done=1, failed=((CHARGE.id, "RuntimeError: it failed"),), failed_count=1)
    [record] = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert (vars(record)["governor_id"], vars(record)["state_id"], vars(record)["effect_id"]) == (
        GOVERNOR,
        "p",
        CHARGE.id,
    )
    assert (await machine.get()).effects == (CHARGE,)
    had.failing.clear()
    assert await machine.run_effects(had.handlers) == EffectsReport(done=1)
    assert had.ids == [CHARGE.id, MAIL.id, CHARGE.id]


async def test_an_effect_without_a_handler_is_left(store: StateStore):
    """It stays pending, is counted, and stops no other."""
    machine, had = await packed(store), Had()
    await machine.transition_to(Parcel.Sent, SEND, event_id="sent-1")
    assert await machine.run_effects({"mail": had.handlers["mail"]}) == EffectsReport(done=1, left=1)
    assert (await machine.get()).effects == (CHARGE,)


async def test_a_handler_that_never_ends_has_a_limit(store: StateStore):
    """An asynchronous handler is cancelled at the limit, and its effect stays pending."""

    async def endless(_: PendingEffect, __: MachineSnapshot[Parcel, None]) -> None:
        await anyio.sleep_forever()

    machine = await packed(store)
    await machine.transition_to(Parcel.Sent, SEND, event_id="sent-1")
    report = await machine.run_effects({"charge": endless}, timeout_seconds=0)
    assert (report.failed_count, report.failed[0][0], report.left) == (1, CHARGE.id, 1)
    assert "TimeoutError" in report.failed[0][1]
    assert (await machine.get()).effects == (CHARGE, MAIL)


async def test_steps_go_on_while_an_effect_is_had(place: Place):
    """A step of another store during a handler is neither undone nor refused, and what it adds stays pending."""
    async with place.store() as store, place.store() as other:
        machine = await packed(store)
        await machine.transition_to(Parcel.Sent, SEND, event_id="sent-1")

        async def meanwhile(_: PendingEffect, __: MachineSnapshot[Parcel, None]) -> None:
            await parcel(other).transition_to(Parcel.Arrived, ARRIVE, event_id="there-1")

        assert await machine.run_effects({"charge": meanwhile}) == EffectsReport(done=1, left=1)
        now = await machine.get()
        assert (now.state, now.effects) == (Parcel.Arrived, (MAIL, PendingEffect("there-1:mail", "mail")))


async def test_a_step_that_was_overtaken_keeps_the_effects_of_others(place: Place):
    """A step that is judged again after a conflict carries what became pending or done meanwhile, and its own."""
    async with place.store() as store, place.store() as other:
        machine = await packed(store)
        await machine.transition_to(Parcel.Sent, SEND, event_id="sent-1")
        await parcel(other).transition_to(Parcel.Arrived, ARRIVE, event_id="there-1")
        await parcel(other).complete_effect(CHARGE.id)
        await machine.transition_to(Parcel.Packed, RETURN)
        assert (await machine.get()).effects == (MAIL, PendingEffect("there-1:mail", "mail"))
        await parcel(other).complete_effect(MAIL.id)
        sent = await machine.transition_to(Parcel.Sent, SEND, event_id="sent-2")
        assert [each.id for each in sent.effects] == ["there-1:mail", "sent-2:charge", "sent-2:mail"]


async def test_two_runners_record_an_effect_once(place: Place):
    """Two runners at once may both have an effect, and it is recorded as done once."""
    async with place.store() as store, place.store() as other:
        await (await packed(store)).transition_to(Parcel.Sent, SEND, event_id="sent-1")
        both, started = Had(), [anyio.Event(), anyio.Event()]
        reports: list[EffectsReport] = []

        async def run(number: int, machine: Any) -> None:
            async def charge(effect: PendingEffect, _: object) -> None:
                started[number].set()
                await started[1 - number].wait()
                both.ids.append(effect.id)

            reports.append(await machine.run_effects({"charge": charge}))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, 0, parcel(store))
            tasks.start_soon(run, 1, parcel(other))
        assert both.ids == [CHARGE.id] * 2
        assert [report.failed_count for report in reports] == [0, 0]
        events = await collected(parcel(store).history())
        assert [each.kind for each in events] == ["initialize", "transition", "effect"]


async def test_what_is_done_already_costs_no_write(memory_places: Places):
    """Completing an effect is one commit, and one that is not pending writes nothing."""
    place = memory_places.new()
    engine: Any = CountingEngine(place.engine())
    async with place.store(engine) as store:
        machine = await packed(store)
        await machine.transition_to(Parcel.Sent, SEND, event_id="sent-1")
        engine.reset()
        assert (await machine.complete_effect(CHARGE.id)).effects == (MAIL,)
        assert (engine.counts.reads, [len(each) for each in engine.counts.commits]) == (0, [2])
        engine.reset()
        assert (await machine.complete_effect(CHARGE.id)).effects == (MAIL,)
        assert engine.counts.commits == []


async def test_a_machine_has_a_hundred_pending_effects_at_most(memory_places: Places):
    """A step that would have more is refused before anything is written; other steps and forced ones are not."""
    place = memory_places.new()
    async with place.store() as store:
        machine = await packed(store)
        while len((await machine.get()).effects) + 2 <= EFFECTS_MAX:
            await machine.transition_to(Parcel.Sent, SEND)
            await machine.transition_to(Parcel.Packed, RETURN)
        before = await machine.get()
        assert not await machine.can_transition_to(Parcel.Sent)
        with pytest.raises(PreconditionFailed, match="100 effects are pending") as refused:
            await machine.transition_to(Parcel.Sent, SEND)
        assert (refused.value.from_state, refused.value.to_state, refused.value.rule) == (
            "Packed",
            "Sent",
            "PackedToSent",
        )
        assert (await machine.get()).version == before.version
        assert (await machine.force_state(Parcel.Sent, "it has gone")).effects == before.effects
        assert (await machine.transition_to(Parcel.Packed, RETURN)).effects == before.effects
        for effect in before.effects[:2]:
            await machine.complete_effect(effect.id)
        assert len((await machine.transition_to(Parcel.Sent, SEND)).effects) == EFFECTS_MAX


async def test_effects_survive_what_states_survive(memory_places: Places, tmp_path: Path):
    """A recovery and a restore bring back what was pending, and nothing that was done."""
    place, other = memory_places.new(), memory_places.new()
    async with place.store() as store:
        machine = await packed(store)
        await machine.transition_to(Parcel.Sent, SEND, event_id="sent-1")
        await machine.complete_effect(CHARGE.id)
        await store.core.engine.commit([Delete(machine.stream.state)])
        assert (await store.recover()).rebuilt == (machine.stream.state,)
        assert (await parcel(store).get()).effects == (MAIL,)
        await StateMachinePersister(store).export_history(GOVERNOR, tmp_path / "parcels.jsonl")
    async with other.store() as store:
        await StateMachinePersister(store).import_history(tmp_path / "parcels.jsonl")
        assert await parcel(store).run_effects(Had().handlers) == EffectsReport(done=1)


async def test_effects_of_steps_in_transactions(store: StateStore):
    """Steps of several machines leave their effects with all else; if one is refused, none."""
    await packed(store, "a")
    await packed(store, "b")

    async def send(transaction: Transaction) -> None:
        transaction.machine(parcel(store, "a")).transition_to(Parcel.Sent, SEND, event_id="sent-1")
        transaction.machine(parcel(store, "a")).transition_to(Parcel.Arrived, ARRIVE, event_id="there-1")
        transaction.machine(parcel(store, "b")).transition_to(Parcel.Sent, SEND, event_id="sent-2")

    await store.transact(send, METADATA)
    ids = {each: [effect.id for effect in (await parcel(store, each).get()).effects] for each in "ab"}
    assert ids == {"a": ["sent-1:charge", "sent-1:mail", "there-1:mail"], "b": ["sent-2:charge", "sent-2:mail"]}


async def test_a_machine_that_is_gone_has_no_effects(store: StateStore):
    """A deletion drops what was pending, and a handler that ran meanwhile has failed to be recorded."""
    machine = await packed(store)
    await machine.transition_to(Parcel.Sent, SEND, event_id="sent-1")

    async def delete(_: PendingEffect, __: MachineSnapshot[Parcel, None]) -> None:
        await store.delete_state(GOVERNOR, "p", METADATA, expected=3 - 1)

    report = await machine.run_effects({"charge": delete})
    assert (report.done, report.failed_count, report.failed[0][0]) == (0, 1, CHARGE.id)
    with pytest.raises(StateNotFound):
        await machine.run_effects({})
    assert (await machine.initialize()).effects == ()


async def test_what_cannot_be_run_is_refused_before_anything_is(store: StateStore):
    """Handlers that are none, and ids and limits that are none, are refused, and no handler has run."""
    machine: Any = await packed(store)
    await machine.transition_to(Parcel.Sent, SEND)
    had = Had()
    for handlers in (None, [had.handlers], {"charge": 5}, {5: had.handlers["charge"]}):
        with pytest.raises(InvalidData):
            await machine.run_effects(handlers)
    with pytest.raises(InvalidData):
        await machine.run_effects(had.handlers, "Ada")
    with pytest.raises(InvalidData):
        await machine.run_effects(had.handlers, timeout_seconds="long")
    with pytest.raises(InvalidData):
        await machine.complete_effect(5)
    assert had.ids == []
