"""Running the pending effects of a whole store, also after the process that took the steps was killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tai_state import ANY, GovernorNotFound, InvalidData, errors, open_store
from tai_state.machines import ComponentState, EffectsReport, allow, check_machines, define, described, run_effects
from tai_state.streams import writing
from tai_state.streams.writing import Intent

from ..support.parcels import PARCEL, SEND, Had, Parcel, packed, parcel, parcel_with
from ..support.processes import started
from ..support.stores import GOVERNOR, METADATA, Place, Places, edit

pytestmark = pytest.mark.anyio

Run = Callable[..., Awaitable[EffectsReport]]

FOLDER = Path(errors.__file__).parents[1]
"""Where the package under test was imported from; the processes import the same."""

TESTS = Path(__file__).parents[1]


async def test_all_machines_of_a_store_are_found(place: Place):
    """Machines of every governor are found among other states, and none has anything pending afterwards."""
    had = Had()
    async with place.store() as store:
        for number in range(3):
            machine = await packed(store, f"p{number}", governor_id=f"g{number}")
            await machine.transition_to(Parcel.Sent, SEND, event_id="sent-1")
        await packed(store, "idle", governor_id="g1")
        await store.save_state("g1", "plain", {"machine": 5}, METADATA)
        await store.save_state("g2", "gone", {}, METADATA)
        await store.delete_state("g2", "gone", METADATA, expected=ANY)
        first = await run_effects(store, [PARCEL], had.handlers, METADATA, governor_id="g1")
        assert first == EffectsReport(done=2)
        assert await run_effects(store, [PARCEL], had.handlers, METADATA) == EffectsReport(done=4)
        assert await run_effects(store, [PARCEL], had.handlers, METADATA) == EffectsReport()
        assert had.ids == ["sent-1:charge", "sent-1:mail"] * 3


async def test_what_fails_stops_no_other_machine(place: Place):
    """A damaged state, a state that its definition does not know, a kind that is not given, a handler that raises."""
    had = Had("charge")
    async with place.store() as store:
        for name in ("a", "b", "c"):
            await (await packed(store, name)).transition_to(Parcel.Sent, SEND, event_id=f"sent-{name}")
        box = parcel_with(name="box")
        await (await packed(store, "d", definition=box)).transition_to(Parcel.Sent, SEND, event_id="sent-d")
        data = (await store.get_state(GOVERNOR, "b")).data
        data["machine"]["state"] = "Nowhere"
        await store.update_state(GOVERNOR, "b", data, METADATA, expected=ANY)
        report = await run_effects(store, [PARCEL], had.handlers, METADATA)
        assert (report.done, report.left, report.failed_count) == (2, 2, 3)
        assert [what for what, _ in report.failed] == ["sent-a:charge", "governors/bank/states/b", "sent-c:charge"]
        assert "UnknownMachineState" in report.failed[1][1]
        had.failing.clear()
        await edit(store.core.engine, "governors/bank/states/a", data={"machine": {}})
        report = await run_effects(store, [PARCEL, box], had.handlers, METADATA)
        assert (report.done, report.failed_count) == (3, 2)
        assert [what for what, _ in report.failed] == ["governors/bank/states/b", "governors/bank/states/a"]


@pytest.mark.parametrize("first", ["newest", "oldest"])
async def test_the_newest_definition_counts_if_the_machines_own_is_not_given(memory_places: Places, first: str):
    """The version decides, not the order in which definitions are given; one alone needs no list."""
    lean = define("parcel", Lean, initial=Lean.Packed, rules=[], dead_ends=[Lean.Packed])
    newest = define(
        "parcel", Parcel, initial=Parcel.Packed, version=3, rules=[allow(Parcel.Packed, [Parcel.Sent, Parcel.Arrived])],
        dead_ends=[Parcel.Sent, Parcel.Arrived],
    )  # fmt: skip
    given = [newest, lean] if first == "newest" else [lean, newest]
    async with memory_places.new().store() as store:
        for name in ("a", "b"):
            await (await packed(store, name)).transition_to(Parcel.Sent, SEND)
        handlers = {"charge": Had().handlers["charge"]}
        assert await run_effects(store, given, handlers, METADATA) == EffectsReport(done=2, left=2)
        assert await run_effects(store, newest, Had().handlers, METADATA) == EffectsReport(done=2)


class Lean(ComponentState):
    """A parcel that is never sent."""

    Packed = described("Stays")


class Box(ComponentState):
    """The states of another machine."""

    Packed = described("Waits")
    Gone = described("Is gone", terminal=True)


async def test_a_machine_is_run_by_the_definition_that_took_its_step(place: Place):
    """Of several definitions of one name, that of the machine's last step reads it; else the last one given."""
    other = define("parcel", Box, initial=Box.Packed, rules=[allow(Box.Packed, Box.Gone)])
    newer = define(
        "parcel",
        Parcel,
        initial=Parcel.Packed,
        rules=[allow(Parcel.Packed, Parcel.Sent), allow(Parcel.Sent, Parcel.Arrived)],
        dead_ends=[Parcel.Arrived],
    )
    async with place.store() as store:
        await (await packed(store)).transition_to(Parcel.Sent, SEND, event_id="sent-1")
        assert await run_effects(store, [PARCEL, other], {}, METADATA) == EffectsReport(left=2)
        assert (await run_effects(store, [newer, other], {}, METADATA)).failed_count == 1
        assert await run_effects(store, [other, newer], Had().handlers, METADATA) == EffectsReport(done=2)


async def test_what_cannot_be_run_is_refused_before_anything_is(place: Place):
    """What is no definition, no handler, no governor or nobody's change is refused, and no handler has run."""
    had = Had()
    run: Run = run_effects
    async with place.store() as store:
        await (await packed(store)).transition_to(Parcel.Sent, SEND)
        for arguments in (
            (None, [PARCEL], had.handlers, METADATA),
            (store, [], had.handlers, METADATA),
            (store, [Parcel], had.handlers, METADATA),
            (store, [PARCEL], None, METADATA),
            (store, [PARCEL], had.handlers, None),
            (store, [PARCEL], had.handlers, "Ada"),
        ):
            with pytest.raises(InvalidData):
                await run(*arguments)
        with pytest.raises(GovernorNotFound):
            await run_effects(store, [PARCEL], had.handlers, METADATA, governor_id="nobody")
    assert had.ids == []


KILLED = """
import os, signal, sys
import anyio
from tai_state import open_store
from support.parcels import SEND, Parcel, packed, parcel_with

def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    async with open_store(sys.argv[1]) as store:
        machine = await packed(store, definition=parcel_with(killed if sys.argv[2] == "after" else None))
        await machine.transition_to(Parcel.Sent, SEND, event_id="sent-1")
        await machine.run_effects({"charge": print if sys.argv[2] == "second" else killed, "mail": killed})

anyio.run(main)
"""


@pytest.mark.parametrize(
    ("where", "left"),
    [
        ("after", ["sent-1:charge", "sent-1:mail"]),
        ("first", ["sent-1:charge", "sent-1:mail"]),
        ("second", ["sent-1:mail"]),
    ],
)
async def test_a_process_that_is_killed_forgets_no_effect(tmp_path: Path, where: str, left: list[str]):
    """A process is killed after its commit, or in a handler: another one has exactly what was not recorded as done."""
    url, had = f"sqlite:///{tmp_path / 'parcels.db'}", Had()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(FOLDER), str(TESTS)))}
    command = [sys.executable, "-c", KILLED, url, where]
    with started(command, env=environment, stdout=subprocess.DEVNULL) as process:
        assert process.wait(60) == -9
    async with open_store(url, create=False, metadata=METADATA) as store:
        await parcel(store).transition_to(Parcel.Sent, SEND, event_id="sent-1")
        assert await run_effects(store, [PARCEL], had.handlers) == EffectsReport(done=len(left))
        assert had.ids == left
        assert (await parcel(store).get()).effects == ()


async def test_a_check_finds_nothing_wrong_with_effects(place: Place):
    """Steps with effects and the events that these are done are no write past the machine; more than that is one."""
    async with place.store() as store:
        machine = await packed(store)
        await machine.transition_to(Parcel.Sent, SEND, event_id="sent-1")
        await machine.run_effects(Had().handlers)
        assert (await check_machines(store, PARCEL)).consistent
        data = (await store.get_state(GOVERNOR, "p")).data
        data["machine"]["epoch"] = 7
        await store.update_state(GOVERNOR, "p", data, METADATA, expected=ANY, action="effect")
        assert not (await check_machines(store, PARCEL)).consistent


@pytest.mark.parametrize("effects", [[], ["charge"], ["charge", "mail", "mail"], ["mail", "charge"]])
async def test_a_check_finds_a_step_without_its_effects(memory_places: Places, effects: list[str]):
    """A step that was written past the machine is illegal if it lacks an effect of its rule, or has another one."""
    async with memory_places.new().store() as store:
        machine = await packed(store)
        data = (await store.get_state(GOVERNOR, "p")).data
        data["machine"] |= {"state": "Sent", "effects": [{"id": f"x:{name}", "name": name} for name in effects]}
        said = {"trigger": {"type": "command", "command": "send"}, "to": "Sent"}
        intent = Intent(METADATA, "transition", "x", payload=said)
        await writing.save(store.core, machine.stream, data, intent, 1, None)
        [finding] = (await check_machines(store, PARCEL)).findings
        assert (finding.kind, finding.version) == ("illegal", 2)
        assert "its effects are not what the step gives" in finding.message
