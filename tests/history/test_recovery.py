"""Recovery: what was lost is rebuilt from what is left, and what cannot be is reported."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tai_state import (
    EventSourcingError,
    GovernorNotFound,
    RecoveryReport,
    StateMachinePersister,
    StateNotFound,
    StateStore,
)
from tai_state.engines.api import ANYTHING, Delete, Put
from tai_state.errors import Unavailable
from tai_state.history import reporting
from tai_state.testing.faults import AtCalls, Fault, FaultyEngine

from ..support.histories import ALICE, add, event_path, grow, snapshot_path
from ..support.stores import GOVERNOR, METADATA, Place, dump, edit, fields_at

pytestmark = pytest.mark.anyio


async def test_recovery_rebuilds_what_was_lost(place: Place, persister: StateMachinePersister, store: StateStore):
    """Lost, damaged and unreadable states come back exactly as they were, and sound ones are left alone."""
    await grow(store, 7)
    await add(persister, 5, "bob")
    await add(persister, 2, "carol")
    await store.save_state(GOVERNOR, "dave", {"n": 1}, METADATA)
    await store.delete_state(GOVERNOR, "dave", METADATA, expected=1)
    await grow(store, 2, "erin")
    before = await dump(store.core.engine)
    paths = [f"governors/bank/states/{name}" for name in ("alice", "bob", "carol", "dave")]
    await store.core.engine.commit([Delete(paths[0], ANYTHING)])
    await edit(store.core.engine, paths[1], data={"n": 1_000})
    await store.core.engine.commit([Put(paths[2], {"nonsense": True})])
    await store.core.engine.commit([Delete(paths[3], ANYTHING)])
    assert not (await persister.validate_consistency()).consistent
    report = await persister.recover(concurrency=2)
    assert report == RecoveryReport(checked=5, sound=1, rebuilt=tuple(paths), rebuilt_count=4)
    assert report.consistent
    assert await dump(store.core.engine) == before
    assert await persister.recover() == RecoveryReport(checked=5, sound=5)
    assert (await store.save_state(GOVERNOR, "alice", {}, METADATA, expected=7)).version == 8


async def test_a_recovery_counts_more_than_it_lists(
    persister: StateMachinePersister, store: StateStore, monkeypatch: pytest.MonkeyPatch
):
    """Of each kind, what the report has no room for is counted all the same."""
    monkeypatch.setattr(reporting, "LISTED_MAX", 2)
    lost, hurt = [f"lost {n}" for n in range(3)], [f"hurt {n}" for n in range(4)]
    for state_id in (*lost, *hurt):
        await store.save_state(GOVERNOR, state_id, {}, METADATA)
        stream = store.core.layout.stream(GOVERNOR, state_id)
        await store.core.engine.commit([Delete(stream.state, ANYTHING)])
        if state_id in hurt:
            await edit(store.core.engine, stream.event(1), action="other")
    report = await persister.recover()
    assert (report.checked, report.sound, report.rebuilt_count, report.failed_count) == (7, 0, 3, 4)
    assert (len(report.rebuilt), len(report.failed), report.consistent) == (2, 2, False)


@pytest.mark.parametrize("is_behind", [True, False], ids=["behind", "ahead"])
async def test_recovery_of_a_state_from_another_time(
    store: StateStore,
    persister: StateMachinePersister,
    is_behind: bool,  # noqa: FBT001
):
    """A state that was set back is brought forward; one whose events are gone is not invented."""
    await grow(store, 2)
    old = await fields_at(store.core.engine, ALICE)
    await store.save_state(GOVERNOR, "alice", {"n": 3}, METADATA, expected=2)
    new = await fields_at(store.core.engine, ALICE)
    if is_behind:
        await store.core.engine.commit([Put(ALICE, old)])
        assert (await persister.recover(GOVERNOR)).rebuilt == (ALICE,)
        assert await fields_at(store.core.engine, ALICE) == new
    else:
        await store.core.engine.commit([Delete(event_path(3), ANYTHING)])
        report = await persister.recover(GOVERNOR)
        assert [path for path, _ in report.failed] == [event_path(3)]
        assert not report.consistent
        assert await fields_at(store.core.engine, ALICE) == new


async def test_recovery_says_what_it_cannot_do(store: StateStore, persister: StateMachinePersister):
    """Streams that need a reducer are unchecked, never sound; damaged ones are failed; the others go on."""
    await add(persister, 2, "needs")
    await grow(store, 4, "gap")
    await grow(store, 4, "edited")
    await grow(store, 1, "sound")
    for state_id in ("needs", "gap", "edited", "sound"):
        await store.core.engine.commit([Delete(f"governors/bank/states/{state_id}", ANYTHING)])
    await store.core.engine.commit([Delete(event_path(2, "gap"), ANYTHING), Delete(snapshot_path(3, "gap"), ANYTHING)])
    await edit(store.core.engine, event_path(4, "edited"), action="edited")
    report = await StateMachinePersister(store).recover(GOVERNOR)
    assert report.rebuilt == ("governors/bank/states/sound",)
    assert report.unchecked == ("governors/bank/states/needs",)
    assert sorted(path for path, _ in report.failed) == [
        event_path(4, "edited"),
        event_path(2, "gap"),
    ]
    assert all("CANARY" not in reason and reason for _, reason in report.failed)
    assert (report.checked, report.sound, report.consistent) == (4, 0, False)


async def test_recovery_reports_an_event_that_it_cannot_mend(place: Place):
    """A state in an event that is not what the event's hash says fails the recovery, as it fails the verification."""
    async with place.store() as store:
        await grow(store, 3)
        await edit(store.core.engine, event_path(1), to_state='{"n":9}')
        persister = StateMachinePersister(store)
        report = await persister.recover(GOVERNOR)
        assert not report.consistent
        assert [path for path, _ in report.failed] == [event_path(1)]
        assert not (await persister.validate_consistency(GOVERNOR)).consistent
        with pytest.raises(EventSourcingError, match="restore a backup") as error:
            await persister.get_state_at(GOVERNOR, "alice", 1)
        assert error.value.path == event_path(1)


@pytest.mark.parametrize(
    "place_of_none", ["events/aaa", "events/%FF~000000000001", "states/%FF", "snapshots/alice~00000000001x"]
)
async def test_recovery_goes_on_after_what_stands_in_no_place(store: StateStore, place_of_none: str):
    """A document that belongs to no state is reported, or removed if it is a snapshot; the states are recovered."""
    await grow(store, 2)
    path = f"governors/bank/{place_of_none}"
    await store.core.engine.commit([Put(path, {"x": 1}), Delete(ALICE, ANYTHING)])
    is_removed = "snapshots" in path
    report = await StateMachinePersister(store).recover(GOVERNOR)
    assert report.rebuilt == ((ALICE, path) if is_removed else (ALICE,))
    left = [] if is_removed else [path]
    assert [each for each, _ in report.failed] == left
    paths = [each.path for each in (await StateMachinePersister(store).validate_consistency(GOVERNOR)).findings]
    assert paths == left


async def test_recovery_reports_progress_and_resumes(store: StateStore, persister: StateMachinePersister):
    """A recovery that was stopped goes on after what it had reported, whatever order the ids' escapes sort in."""
    places = [(governor, state) for governor in ("__x__", "a/b", "a-b", "Z", "%") for state in ("s/1", "s-1", "é")]
    for governor, state in places:
        await grow(store, 1, state, governor)
        await store.core.engine.commit([Delete(store.core.layout.stream(governor, state).state, ANYTHING)])
    seen: list[RecoveryReport] = []

    class Stop(Exception):
        """The operator has seen enough."""

    async def progress(report: RecoveryReport) -> None:
        seen.append(report)
        if len(seen) == 3:
            raise Stop

    with pytest.raises(Stop):
        await persister.recover(concurrency=2, progress=progress)
    assert [report.checked for report in seen] == [2, 4, 6]
    assert seen[-1].resume is not None
    rest = await persister.recover(concurrency=4, resume=seen[-1].resume)
    assert (rest.checked, len(rest.rebuilt), rest.sound, rest.resume) == (9, 9, 0, None)
    assert await persister.recover() == RecoveryReport(checked=15, sound=15)
    last: list[RecoveryReport] = []

    async def note(report: RecoveryReport) -> None:
        last.append(report)

    await persister.recover(concurrency=1, progress=note)
    for index, report in enumerate(last, start=1):
        assert (await persister.recover(resume=report.resume)).checked == len(places) - index


async def test_recovery_when_the_engine_fails(place: Place):
    """An engine that is unavailable ends the recovery with its own error, not with a group of them."""
    async with place.store() as store:
        await grow(store, 2)
        await grow(store, 2, "bob")
    faulty = FaultyEngine(place.engine(), AtCalls({}))
    async with place.store(faulty) as store:
        number = 0
        while True:
            number += 1
            before = faulty.statistics().calls
            faulty.plan = AtCalls({("any", before + number): Fault.UNAVAILABLE})
            try:
                await store.recover()
            except Unavailable:
                continue
            break
        assert number > 4


async def test_load_state_mends_on_the_way(store: StateStore, persister: StateMachinePersister):
    """Loading a state gives one that agrees with its stream, and tells whether it had to be rebuilt."""
    await add(persister, 4)
    loaded = await persister.load_state(GOVERNOR, "alice")
    assert (loaded.recovered, loaded.snapshot) == (False, await store.get_state(GOVERNOR, "alice"))
    await edit(store.core.engine, ALICE, data={"n": 99})
    again = await persister.load_state(GOVERNOR, "alice")
    assert (again.recovered, again.snapshot.data) == (True, {"n": 4})
    await store.core.engine.commit([Delete(ALICE, ANYTHING)])
    assert (await persister.load_state(GOVERNOR, "alice")).recovered
    with pytest.raises(StateNotFound):
        await persister.load_state(GOVERNOR, "nobody")
    await store.delete_state(GOVERNOR, "alice", METADATA, expected=4)
    with pytest.raises(StateNotFound):
        await persister.load_state(GOVERNOR, "alice")


async def test_what_has_no_governor(persister: StateMachinePersister, tmp_path: Path):
    """Work on a governor under which nothing was ever written is an error that names it."""
    calls: list[Callable[[], Any]] = [
        lambda: persister.recover("nobody"),
        lambda: persister.validate_consistency("nobody"),
        lambda: persister.cleanup_old_data("nobody", keep=timedelta(hours=1)),
        lambda: persister.export_history("nobody", tmp_path / "export.jsonl"),
    ]
    for call in calls:
        with pytest.raises(GovernorNotFound) as error:
            await call()
        assert error.value.path == "governors/nobody"
    assert await persister.recover() == RecoveryReport()
    assert (await persister.validate_consistency()).consistent
