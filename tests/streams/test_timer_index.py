"""The index of time-outs is as the states say, whoever writes them; what is wrong with it is found and mended."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tai_state import (
    ANY,
    EventualConsistency,
    LastWriteWins,
    StateMachinePersister,
    StateStore,
    TaiStateError,
    Transaction,
    sync,
)
from tai_state.engines.api import Delete, Put, Scan, Write
from tai_state.machines import run_timers
from tai_state.testing import Fault, FaultyEngine, Randomly
from tai_state.values.times import format_us

from ..support.kettles import KETTLE, ON, Kettle
from ..support.small_engine import SmallEngine
from ..support.stores import GOVERNOR, METADATA, AroundEngine, Place, Places, collected, edit, fields_at
from ..support.timers import SECOND_US, check_index, entries, later, switched_on

pytestmark = pytest.mark.anyio

FAULTS = (Fault.REFUSED, Fault.LOST_BEFORE, Fault.LOST_AFTER, Fault.DUPLICATED)
STATE = f"governors/{GOVERNOR}/states/k"


async def findings(store: StateStore, governor_id: str | None = None) -> list[tuple[str, str]]:
    """What verifying finds: kinds and paths."""
    report = await StateMachinePersister(store).validate_consistency(governor_id)
    assert report.consistent == (not report.findings)
    return [(each.kind, each.path) for each in report.findings]


async def test_an_entry_names_its_machine_and_its_time(store: StateStore):
    """Its id is the time, in a text of fixed width, and a hash of governor and state; its fields name these."""
    machine = await switched_on(store, "kettle ~ 1/2")
    due = (await fields_at(store.core.engine, machine.stream.state))["data"]["machine"]["due"]
    [(path, fields)] = (await entries(store)).items()
    assert fields == {"governor_id": GOVERNOR, "state_id": "kettle ~ 1/2"}
    collection, _, document_id = path.rpartition("/")
    time, _, digest = document_id.partition("~")
    assert (collection, time, len(time), len(digest)) == ("timers", due, 27, 32)


async def test_a_plain_state_has_no_entry(store: StateStore):
    """Nothing is written beside the event and the state of what is no machine, or of a machine without a time-out."""
    for n, data in enumerate(({"n": 1}, {"machine": "a lathe"}, {"machine": {"due": None}}, {"machine": {"due": 7}})):
        await store.save_state(GOVERNOR, "s", data, METADATA, expected=n)
    await store.save_state(GOVERNOR, "s", {"machine": {"due": "2026-01-01T00:00:00Z"}}, METADATA, expected=4)
    await store.machine(GOVERNOR, "k", KETTLE, metadata=METADATA).initialize()
    assert await entries(store) == {}


async def _wait(store: StateStore, place: Place) -> None:
    later(place, 1)
    await store.log_event(GOVERNOR, "k", "seen", METADATA)


async def _by_a_transaction(store: StateStore, _: Place) -> None:
    async def decide(transaction: Transaction) -> None:
        transaction.put("k", {**(await transaction.get("k")).data, "more": 1})

    await store.transactions.execute_transaction(GOVERNOR, decide, metadata=METADATA)


async def _by_a_repair(store: StateStore, _: Place) -> None:
    read = await EventualConsistency(store).read(GOVERNOR, "k")
    await EventualConsistency(store).read_repair(GOVERNOR, "k", [read], metadata=METADATA)


def _with_due(seconds: int | None) -> Callable[[StateStore, Place], Awaitable[Any]]:
    async def write(store: StateStore, place: Place) -> None:
        due = None if seconds is None else format_us(place.clock.now_us() + seconds * SECOND_US)
        await store.save_state(GOVERNOR, "k", {"machine": {"due": due}}, METADATA, expected=ANY)

    return write


WRITES: dict[str, Callable[[StateStore, Place], Awaitable[Any]]] = {
    "a step": lambda store, _: store.machine(GOVERNOR, "k", KETTLE, metadata=METADATA).force_state(Kettle.On, "x"),
    "a step to a state without one": lambda store, _: store.machine(
        GOVERNOR, "k", KETTLE, metadata=METADATA
    ).force_state(Kettle.Off, "x"),
    "an event": _wait,
    "a transaction": _by_a_transaction,
    "a repair": _by_a_repair,
    "a write past the machine": _with_due(50),
    "one without a time-out": _with_due(None),
    "one in the past": _with_due(-50),
    "an update": lambda store, _: store.state(GOVERNOR, "k").update(lambda data: {**data, "n": 1}, METADATA),
    "a deletion": lambda store, _: store.delete_state(GOVERNOR, "k", METADATA, expected=ANY),
    "a snapshot": lambda store, _: store.create_snapshot(GOVERNOR, "k"),
    "a recovery": lambda store, _: store.recover(),
}


@pytest.mark.parametrize("seed", range(4))
async def test_the_index_follows_whatever_is_written(memory_places: Places, seed: int):
    """After every write, in any order, also one whose answer was lost, the index is as the states say."""
    random = Random(f"{os.environ.get('TAI_STATE_SEED', '')} {seed}")
    place = memory_places.new()
    faulty = FaultyEngine(place.engine(), Randomly(random.randrange(2**32), 0.3, FAULTS))
    async with place.store(faulty) as store:
        await switched_on(store)
        for _ in range(40):
            name = random.choice(list(WRITES))
            with suppress(TaiStateError):  # a deleted state, or one that is no machine any more
                await WRITES[name](store, place)
            later(place, random.choice([0, 1]))
            assert (name, await check_index(store)) in {(name, 0), (name, 1)}
        assert await findings(store) == []


async def test_a_sync_carries_time_outs(place: Place, places: Places):
    """A store that takes over machines has their time-outs; one that takes over a step has it no longer."""
    other_place = places.new()
    other_place.skip_ids()
    async with place.store() as store, other_place.store() as other:
        await switched_on(store)
        await sync(store, other)
        assert await entries(other) == await entries(store) != {}
        later(place, 30)
        assert (await run_timers(store, KETTLE)).fired == 1
        await sync(store, other)
        assert await entries(other) == await entries(store) != {}
        later(other_place, 30)
        assert (await run_timers(other, KETTLE)).fired == 0
        assert await findings(other) == []


async def test_machines_that_were_moved_on_apart_are_joined_with_one_time_out(place: Place, places: Places):
    """Each of two stores took the time-out by itself: a sync joins both steps, and one time-out is left in each."""
    other_place = places.new()
    other_place.skip_ids()
    async with place.store() as store, other_place.store() as other:
        machine = await switched_on(store)
        await sync(store, other)
        later(place, 30)
        later(other_place, 31)
        for one in (store, other):
            assert (await run_timers(one, KETTLE)).fired == 1
        report = await sync(store, other, resolver=LastWriteWins())
        assert (report.joined, report.failed) == (1, ())
        assert await entries(other) == await entries(store) != {}
        assert (await machine.get()).state is Kettle.Hot
        for one in (store, other):
            assert await findings(one) == []


async def test_an_export_carries_no_index_and_a_restore_makes_it(place: Place, places: Places, tmp_path: Path):
    """The file says nothing of the index; where it is restored, the machines have their time-outs."""
    file = tmp_path / "bank.jsonl"
    async with place.store() as store, places.new().store() as other:
        await switched_on(store)
        await switched_on(store, "off")
        await store.machine(GOVERNOR, "off", KETTLE, metadata=METADATA).transition_to(Kettle.Off, ON)
        await StateMachinePersister(store).export_history(GOVERNOR, file)
        assert "timers/" not in file.read_text()
        await StateMachinePersister(other).import_history(file)
        assert await entries(other) == await entries(store)
        assert await check_index(other) == 1
        await StateMachinePersister(other).import_history(file)
        assert await findings(other) == []


async def test_a_restore_of_many_machines_fits_into_small_commits(memory_places: Places, tmp_path: Path):
    """The entries of the index count for what a commit takes."""
    file = tmp_path / "bank.jsonl"
    place, other_place = memory_places.new(), memory_places.new()
    async with place.store() as store:
        for n in range(150):
            await switched_on(store, f"{n:03}")
        await StateMachinePersister(store).export_history(GOVERNOR, file)
    async with other_place.store(SmallEngine(other_place.engine())) as other:
        await StateMachinePersister(other).import_history(file)
        assert await check_index(other) == 150


async def _missing(store: StateStore) -> str:
    [path] = await entries(store)
    await store.core.engine.commit([Delete(path)])
    return path


async def _stray(store: StateStore) -> str:
    path = store.core.layout.stream(GOVERNOR, "k").timer("2026-01-01T00:00:00.000000Z")
    await store.core.engine.commit([Put(path, {"governor_id": GOVERNOR, "state_id": "k"})])
    return path


async def _of_nobody(store: StateStore) -> str:
    path = store.core.layout.stream(GOVERNOR, "nobody").timer("2026-01-01T00:00:00.000000Z")
    await store.core.engine.commit([Put(path, {"governor_id": GOVERNOR, "state_id": "nobody"})])
    return path


async def _of_another_machine(store: StateStore) -> str:
    [path] = await entries(store)
    await edit(store.core.engine, path, state_id="other")
    return path


async def _misplaced(store: StateStore) -> str:
    [path] = await entries(store)
    await store.core.engine.commit([Put(f"{path}0", await fields_at(store.core.engine, path))])
    return f"{path}0"


async def _no_entry(store: StateStore) -> str:
    await store.core.engine.commit([Put("timers/soon", {})])
    return "timers/soon"


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (_missing, "timer"),
        (_stray, "timer"),
        (_of_nobody, "timer"),
        (_of_another_machine, "corrupt"),
        (_misplaced, "corrupt"),
        (_no_entry, "corrupt"),
    ],
)
async def test_what_is_wrong_with_the_index_is_found_and_mended(
    store: StateStore, spoil: Callable[[StateStore], Awaitable[str]], kind: str
):
    """An entry that is missing, stray or damaged is one finding with advice, and recovering makes it good."""
    await switched_on(store)
    path = await spoil(store)
    report = await StateMachinePersister(store).validate_consistency()
    assert [(each.kind, each.path) for each in report.findings] == [(kind, path)]
    assert "`tai-state recover`" in report.findings[0].message
    recovered = await store.recover()
    assert (recovered.rebuilt, recovered.failed) == ((path,), ())
    assert await findings(store) == []
    assert await check_index(store) == 1


@pytest.mark.parametrize("spoil", [_missing, _stray, _of_another_machine])
async def test_one_governor_is_verified_and_recovered_by_itself(
    store: StateStore, spoil: Callable[[StateStore], Awaitable[str]]
):
    """What is wrong with the index is found in its own governor, and not in another one."""
    await switched_on(store)
    path = await spoil(store)
    await switched_on(store, "k", governor_id="club")
    assert await findings(store, "club") == []
    assert [each for _, each in await findings(store, GOVERNOR)] == [path]
    assert (await store.recover("club")).rebuilt == ()
    assert (await store.recover(GOVERNOR)).rebuilt == (path,)
    assert await findings(store) == []


async def test_a_state_that_is_rebuilt_gets_its_time_out_back(store: StateStore):
    """A recovery that makes a state from its events makes its entry, too, in the same commit."""
    await switched_on(store)
    before = await entries(store)
    await store.core.engine.commit([Delete(STATE), *map(Delete, before)])
    await StateMachinePersister(store).load_state(GOVERNOR, "k")
    assert await entries(store) == before
    await edit(store.core.engine, STATE, data={"machine": {"due": "2026-01-01T00:00:00.000000Z"}})
    await StateMachinePersister(store).recover(GOVERNOR)
    assert await entries(store) == before
    assert await findings(store) == []


async def test_a_stray_entry_is_removed_by_the_runner(place: Place):
    """The runner removes an entry whose machine has no such time-out, and not one that it cannot read."""
    async with place.store() as store:
        await switched_on(store)
        stray, of_nobody, unreadable = await _stray(store), await _of_nobody(store), await _no_entry(store)
        later(place, 30)
        await store.core.engine.commit([Put("timers/2026", {})])
        await switched_on(store, "other")
        report = await run_timers(store, KETTLE)
        assert [path for path, _ in report.failed] == ["timers/2026"]
        assert (report.fired, report.overtaken) == (1, 0)
        removed = report.removed + (await run_timers(store, KETTLE)).removed  # not while its machine takes a step
        assert removed == 2
        left = await entries(store)
        assert not {stray, of_nobody} & left.keys()
        assert unreadable in left


class WriterBetween(AroundEngine):
    """Lets another writer come right before the first commit that removes an entry alone."""

    def __init__(self, engine: Any) -> None:
        super().__init__(engine)
        self.write: Callable[[], Awaitable[Any]] | None = None

    async def commit(self, writes: Sequence[Write]) -> Any:
        """See ``Engine``."""
        if self.write is not None and isinstance(writes[0], Delete):
            write, self.write = self.write, None
            await write()
        return await self._engine.commit(writes)


async def test_an_entry_that_is_needed_again_is_not_removed(place: Place):
    """Where a machine gets the time-out of a stray entry right before that is removed, the entry stays."""
    long_ago = {"machine": {"due": "2026-01-01T00:00:00.000000Z"}}
    async with place.store(engine := WriterBetween(place.engine())) as store, place.store() as other:
        await store.save_state(GOVERNOR, "k", {"n": 1}, METADATA)
        await _stray(store)
        engine.write = lambda: other.save_state(GOVERNOR, "k", long_ago, METADATA, expected=1)
        assert (await run_timers(store, KETTLE)).removed == 0
        assert engine.write is None
        assert await check_index(store) == 1


async def test_a_damaged_machine_keeps_its_entry(store: StateStore, place: Place):
    """Where the state of a machine cannot be read, its entry may be needed: neither runner nor recovery removes it."""
    await switched_on(store)
    before = await entries(store)
    await edit(store.core.engine, STATE, data={"machine": {"due": None}})
    later(place, 30)
    report = await run_timers(store, KETTLE)
    assert (report.fired, report.removed, [path for path, _ in report.failed]) == (0, 0, [STATE])
    assert await entries(store) == before


async def test_the_size_of_a_store_counts_its_time_outs(store: StateStore):
    """Each entry is a document of the store."""
    await store.machine(GOVERNOR, "k", KETTLE, metadata=METADATA).initialize()
    before = await store.get_size()
    await store.machine(GOVERNOR, "k", KETTLE, metadata=METADATA).transition_to(Kettle.On, ON)
    after = await store.get_size()
    assert after.documents - before.documents == 2
    assert after.other_bytes > before.other_bytes
    assert len(await collected(store.core.engine.scan(Scan(store.core.layout.timers)))) == 1
