"""A restore was killed, and a service changed the governor before it went on: there is a way out that loses nothing."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tai_state import (
    ANY,
    CorruptDocument,
    EveryEvents,
    GovernorExists,
    NotRetained,
    StateMachinePersister,
    StateStore,
    StoreUnavailable,
    sync,
)
from tai_state.engines.api import Delete, Engine, Put
from tai_state.engines.memory import MemoryEngine
from tai_state.testing import ManualClock

from ..support.stores import GOVERNOR, METADATA, Killed, dump, edit, make_store

pytestmark = pytest.mark.anyio

STATES = ("a", "b", "c")
VERSIONS = 5
FILE = "backup.jsonl"


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: all of it is decided above the engines."""
    return "asyncio"


async def _export(folder: Path, **options: Any) -> dict[str, Any]:
    """The documents of a governor whose export is in the folder."""
    clock = ManualClock(step_us=1)
    async with make_store(MemoryEngine(clock), clock, snapshots=EveryEvents(2, keep=2)) as store:
        for state in STATES:
            for n in range(VERSIONS):
                await store.save_state(GOVERNOR, state, {"n": n}, METADATA, expected=ANY, event_id=f"{state}{n}")
        await StateMachinePersister(store).export_history(GOVERNOR, folder / FILE, **options)
        return await dump(store.core.engine)


async def _half(folder: Path, clock: ManualClock, last: str) -> Engine:
    """A store in which a restore was killed after this document."""
    engine = MemoryEngine(clock)
    async with make_store(Killed(engine, last), clock) as store:  # type: ignore[arg-type]
        with pytest.raises(StoreUnavailable):
            await StateMachinePersister(store).import_history(folder / FILE)
    return engine


def _store(engine: Engine, clock: ManualClock) -> StateStore:
    return make_store(engine, clock, snapshots=EveryEvents(2, keep=2))


async def test_a_state_that_moved_on_stops_nothing(tmp_path: Path, clock: ManualClock):
    """A state that was whole already, and was changed since, keeps the change; the restore is completed."""
    there = await _export(tmp_path)
    engine = await _half(tmp_path, clock, "states/a")
    async with _store(engine, clock) as store:
        persister = StateMachinePersister(store)
        for n in range(10, 16):  # long enough for the restored snapshots to be dropped
            await store.save_state(GOVERNOR, "a", {"n": n}, METADATA, expected=ANY)
        moved = await dump(engine)
        restored = await persister.import_history(tmp_path / FILE)
        assert (restored.states, restored.kept) == (len(STATES), ())
        assert await dump(engine) == {**{path: each for path, each in there.items() if "a~" not in path}, **moved}
        assert (await persister.validate_consistency()).consistent
        assert (await store.get_state(GOVERNOR, "a")).data == {"n": 15}


@pytest.mark.parametrize("last", ["ids/b0", "states/a", "ids/c4"])
async def test_a_state_made_in_between_is_named(tmp_path: Path, clock: ManualClock, last: str):
    """A state that was made anew is neither overwritten nor passed over: all others are restored, and it is named."""
    await _export(tmp_path)
    engine = await _half(tmp_path, clock, last)
    async with _store(engine, clock) as store:
        persister = StateMachinePersister(store)
        await store.save_state(GOVERNOR, "b", {"n": "new"}, METADATA)
        for _ in range(2):
            with pytest.raises(GovernorExists) as caught:
                await persister.import_history(tmp_path / FILE)
            assert caught.value.changed == (f"governors/{GOVERNOR}/states/b",)
            assert "--keep-changed" in str(caught.value)
            assert (await store.get_state(GOVERNOR, "b")).data == {"n": "new"}
            assert (await store.get_state(GOVERNOR, "c")).version == VERSIONS
            assert not (await persister.validate_consistency()).consistent


@pytest.mark.parametrize("last", ["ids/b0", "states/a", "ids/c4"])
async def test_what_was_made_in_between_can_be_kept(tmp_path: Path, clock: ManualClock, last: str):
    """Who chooses so keeps that state as it is; the governor is whole then, and the file's state can be joined."""
    await _export(tmp_path)
    engine = await _half(tmp_path, clock, last)
    async with _store(engine, clock) as store:
        persister = StateMachinePersister(store)
        await store.save_state(GOVERNOR, "b", {"n": "new"}, METADATA, event_id="mine")
        restored = await persister.import_history(tmp_path / FILE, keep_changed=True)
        assert restored.kept == (f"governors/{GOVERNOR}/states/b",)
        assert (await persister.validate_consistency()).findings == ()
        assert (await persister.recover()).rebuilt == ()
        await persister.export_history(GOVERNOR, tmp_path / "whole.jsonl")
        assert (await store.get_state(GOVERNOR, "b")).data == {"n": "new"}
        again = await store.save_state(GOVERNOR, "b", {"n": "new"}, METADATA, event_id="mine")
        assert again.version == 1
        async with make_store(MemoryEngine(clock), clock) as other:
            await StateMachinePersister(other).import_history(tmp_path / FILE)
            report = await sync(store, other)
            assert (report.joined, report.complete) == (1, True)


async def test_an_id_that_was_used_in_between_is_named(tmp_path: Path, clock: ManualClock):
    """A caller's id that stands for another change by now goes on standing for it."""
    await _export(tmp_path)
    engine = await _half(tmp_path, clock, "ids/a0")
    async with _store(engine, clock) as store:
        persister = StateMachinePersister(store)
        await store.save_state(GOVERNOR, "z", {"n": 0}, METADATA, event_id="c1")
        with pytest.raises(GovernorExists) as caught:
            await persister.import_history(tmp_path / FILE)
        assert caught.value.changed == (f"governors/{GOVERNOR}/ids/c1",)
        await persister.import_history(tmp_path / FILE, keep_changed=True)
        assert (await persister.validate_consistency()).findings == ()
        assert (await store.save_state(GOVERNOR, "z", {"n": 0}, METADATA, event_id="c1")).version == 1


async def test_what_was_damaged_in_between_is_written_again(tmp_path: Path, clock: ManualClock):
    """A document of a state that is not whole yet can only be the restore's own: if it is damaged, it is put right."""
    there = await _export(tmp_path)
    engine = await _half(tmp_path, clock, "events/b~000000000003")
    async with _store(engine, clock) as store:
        await engine.commit([Put(f"governors/{GOVERNOR}/events/b~000000000002", {"no": "event"})])
        await engine.commit([Put(f"governors/{GOVERNOR}/ids/c3", {"no": "marker"})])
        await StateMachinePersister(store).import_history(tmp_path / FILE)
        assert await dump(engine) == there


@pytest.mark.parametrize(
    ("last", "path", "fields"),
    [
        ("events/b~000000000003", "events/b~000000000002", {"action": "edited"}),
        ("events/b~000000000003", "events/b~000000000002", {"as_of": "2020-01-01T00:00:00.000000Z"}),
        ("events/b~000000000003", "events/b~000000000002", {"state_id": "a"}),
        ("snapshots/b~000000000004", "snapshots/b~000000000004", {"state": "{}"}),
        ("events/b~000000000003", "ids/b1", {"content": "0" * 64}),
    ],
)
async def test_what_was_edited_in_between_is_written_again(
    tmp_path: Path, clock: ManualClock, last: str, path: str, fields: dict[str, Any]
):
    """So it is if it can still be read: the rest of its state is not left out because of it."""
    there = await _export(tmp_path)
    engine = await _half(tmp_path, clock, last)
    async with _store(engine, clock) as store:
        await edit(engine, f"governors/{GOVERNOR}/{path}", **fields)
        assert (await StateMachinePersister(store).import_history(tmp_path / FILE)).kept == ()
        assert await dump(engine) == there


async def test_a_marker_that_names_another_place_is_named(tmp_path: Path, clock: ManualClock):
    """An id may stand for another change by now: nothing else is left out, and a recovery mends what is wrong."""
    there = await _export(tmp_path)
    engine = await _half(tmp_path, clock, "events/b~000000000003")
    async with _store(engine, clock) as store:
        persister = StateMachinePersister(store)
        await edit(engine, f"governors/{GOVERNOR}/ids/c1", version=4)
        restored = await persister.import_history(tmp_path / FILE, keep_changed=True)
        assert restored.kept == (f"governors/{GOVERNOR}/ids/c1",)
        assert [each.kind for each in (await persister.validate_consistency()).findings] == ["marker"]
        await persister.recover()
        assert await dump(engine) == there


@pytest.mark.parametrize("how", [Put("", {"no": "marker"}), Delete("")], ids=["damaged", "lost"])
@pytest.mark.parametrize("state", ["a", "b"])
async def test_a_marker_of_a_cleaned_up_event_is_put_back(
    tmp_path: Path, clock: ManualClock, state: str, how: Put | Delete
):
    """No event can give it back, but the file can: the same request is not made twice, be its state whole or not."""
    async with _store(MemoryEngine(clock), clock) as origin:
        for each in ("a", "b", "z"):
            for n in range(12):
                await origin.save_state(GOVERNOR, each, {"n": n}, METADATA, expected=ANY, event_id=f"{each}{n}")
        clock.advance_us(100 * 86_400_000_000)
        await StateMachinePersister(origin).cleanup_old_data(GOVERNOR, keep=timedelta(days=1))
        await StateMachinePersister(origin).export_history(GOVERNOR, tmp_path / FILE)
        there = await dump(origin.core.engine)
    engine = await _half(tmp_path, clock, "states/a")
    async with _store(engine, clock) as store:
        persister = StateMachinePersister(store)
        await engine.commit([msgspec.structs.replace(how, path=f"governors/{GOVERNOR}/ids/{state}0")])
        assert (await persister.import_history(tmp_path / FILE)).kept == ()
        assert await dump(engine) == there
        assert (await persister.validate_consistency()).findings == ()
        with pytest.raises(NotRetained):
            await store.save_state(GOVERNOR, state, {"n": 0}, METADATA, expected=ANY, event_id=f"{state}0")


async def test_ids_of_a_state_that_was_left_out_are_not_put_back(tmp_path: Path, clock: ManualClock):
    """Their requests were made in a history that is not here, so they can be made."""
    await _export(tmp_path)
    engine = await _half(tmp_path, clock, "ids/b0")
    async with _store(engine, clock) as store:
        persister = StateMachinePersister(store)
        await store.save_state(GOVERNOR, "b", {"n": "new"}, METADATA)
        await persister.import_history(tmp_path / FILE, keep_changed=True)
        assert [path for path in await dump(engine) if "/ids/b" in path] == []
        assert (await store.save_state(GOVERNOR, "b", {"n": 0}, METADATA, expected=ANY, event_id="b0")).version == 2


async def test_sound_events_of_a_state_that_was_lost_are_not_overwritten(tmp_path: Path, clock: ManualClock):
    """A service made the state, and its document was lost: the state is named, and a recovery brings back its own."""
    await _export(tmp_path)
    engine = await _half(tmp_path, clock, "ids/b0")
    path = f"governors/{GOVERNOR}/states/b"
    async with _store(engine, clock) as store:
        persister = StateMachinePersister(store)
        for n in ("new", "newer"):
            await store.save_state(GOVERNOR, "b", {"n": n}, METADATA, expected=ANY)
        await engine.commit([Delete(path)])
        with pytest.raises(GovernorExists) as caught:
            await persister.import_history(tmp_path / FILE)
        assert caught.value.changed == (path,)
        assert (await persister.import_history(tmp_path / FILE, keep_changed=True)).kept == (path,)
        assert not (await persister.validate_consistency()).consistent
        assert path in (await persister.recover()).rebuilt
        assert (await persister.validate_consistency()).findings == ()
        assert (await store.get_state(GOVERNOR, "b")).data == {"n": "newer"}


async def test_a_state_that_moved_on_and_was_lost_is_not_set_back(tmp_path: Path, clock: ManualClock):
    """Its events go on after the file's: a recovery brings it back as it was."""
    await _export(tmp_path)
    engine = await _half(tmp_path, clock, "states/b")
    path = f"governors/{GOVERNOR}/states/b"
    async with _store(engine, clock) as store:
        persister = StateMachinePersister(store)
        await store.save_state(GOVERNOR, "b", {"n": "newer"}, METADATA, expected=ANY)
        await engine.commit([Delete(path)])
        assert (await persister.import_history(tmp_path / FILE, keep_changed=True)).kept == (path,)
        assert (await persister.recover()).rebuilt == (path,)
        assert (await persister.validate_consistency()).findings == ()
        assert (await store.get_state(GOVERNOR, "b")).data == {"n": "newer"}


async def test_a_damaged_state_is_left_to_recovery(tmp_path: Path, clock: ManualClock):
    """A damaged state does not stop the restore; once that is finished, a recovery mends the state."""
    await _export(tmp_path)
    engine = await _half(tmp_path, clock, "states/b")
    async with _store(engine, clock) as store:
        await engine.commit([Put(f"governors/{GOVERNOR}/states/b", {"no": "state"})])
        persister = StateMachinePersister(store)
        await persister.import_history(tmp_path / FILE)
        assert (await persister.recover()).rebuilt == (f"governors/{GOVERNOR}/states/b",)
        assert (await persister.validate_consistency()).consistent


@pytest.mark.parametrize("is_whole", [False, True])
async def test_a_damaged_note_is_written_again_by_a_restore(tmp_path: Path, clock: ManualClock, *, is_whole: bool):
    """Whether or not the restore was finished, its file leads out, if one says that it is its file."""
    there = await _export(tmp_path)
    engine = await _half(tmp_path, clock, "states/b")
    note = f"meta/store/restores/{GOVERNOR}"
    async with _store(engine, clock) as store:
        persister = StateMachinePersister(store)
        if is_whole:
            await persister.import_history(tmp_path / FILE)
        await edit(engine, note, export_id=7)
        before = await dump(engine)
        [finding] = (await persister.validate_consistency()).findings
        assert (finding.path, "`tai-state restore`" in finding.message) == (note, True)
        for refused in (
            persister.export_history(GOVERNOR, tmp_path / "part.jsonl"),
            persister.import_history(tmp_path / FILE),
        ):
            with pytest.raises(CorruptDocument, match="--keep-changed"):
                await refused
        assert await dump(engine) == before
        assert (await persister.import_history(tmp_path / FILE, keep_changed=True)).kept == ()
        assert (await persister.validate_consistency()).consistent
        assert await dump(engine) == there


async def test_a_damaged_note_lets_no_foreign_file_in(tmp_path: Path, clock: ManualClock):
    """The restore was finished long ago, and its note was damaged: the governor can be made whole without any file."""
    there = await _export(tmp_path)
    engine = await _half(tmp_path, clock, "states/b")
    note = f"meta/store/restores/{GOVERNOR}"
    async with _store(engine, clock) as store, make_store(MemoryEngine(clock), clock) as foreign:
        persister = StateMachinePersister(store)
        await persister.import_history(tmp_path / FILE)
        for state in ("b", "x"):
            await foreign.save_state(GOVERNOR, state, {"n": "foreign"}, METADATA)
        await StateMachinePersister(foreign).export_history(GOVERNOR, tmp_path / "foreign.jsonl")
        await engine.commit([Put(note, {"no": "note"})])
        with pytest.raises(CorruptDocument):
            await persister.import_history(tmp_path / "foreign.jsonl")
        assert await dump(engine) == there
        [finding] = (await persister.validate_consistency()).findings
        assert f"`tai-state recover {GOVERNOR} --end-restore`" in finding.message
        assert (await persister.recover(GOVERNOR, end_restore=True)).consistent
        with pytest.raises(GovernorExists):
            await persister.import_history(tmp_path / "foreign.jsonl")
        assert await dump(engine) == there


async def test_verify_checks_what_is_there_of_an_unfinished_restore(tmp_path: Path, clock: ManualClock):
    """The states that are whole are checked and counted; the restore is one finding, other damage is another."""
    await _export(tmp_path)
    engine = await _half(tmp_path, clock, "events/c~000000000003")
    async with _store(engine, clock) as store:
        persister = StateMachinePersister(store)
        report = await persister.validate_consistency()
        assert ([each.kind for each in report.findings], report.states, report.events) == (["restore"], 2, 10)
        await engine.commit([Delete(f"governors/{GOVERNOR}/events/b~000000000002")])
        report = await persister.validate_consistency()
        assert [each.kind for each in report.findings] == ["restore", "gap"]


async def test_a_sync_names_an_unfinished_restore(tmp_path: Path, clock: ManualClock):
    """What there is is synced, and the sync is not called complete."""
    await _export(tmp_path)
    engine = await _half(tmp_path, clock, "events/c~000000000003")
    note = f"meta/store/restores/{GOVERNOR}"
    async with _store(engine, clock) as store, make_store(MemoryEngine(clock), clock) as other:
        for governor in (None, GOVERNOR):
            report = await sync(store, other, governor_id=governor)
            assert (report.checked, [path for path, _ in report.failed], report.complete) == (2, [note], False)
        assert (await sync(store, other, governor_id="another")).complete
        assert await other.count_states(GOVERNOR) == 2
