"""Export and restore: the whole history moves, or nothing of it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tai_state import (
    CorruptDocument,
    EveryEvents,
    IncompatibleFormat,
    InvalidData,
    NotRetained,
    StateMachinePersister,
    StateStore,
    TaiStateError,
)
from tai_state.engines.api import ANYTHING, Committed, Delete, Engine, Put, Scan, Write
from tai_state.errors import Conflict, GovernorExists, Inconsistent, Unavailable
from tai_state.testing.faults import AtCalls, Fault, FaultyEngine

from ..support.histories import ALICE, add, event_path, grow, grow_old, snapshot_path
from ..support.operations import REDUCERS
from ..support.overtaking import InSmallPages
from ..support.stores import GOVERNOR, METADATA, SQLITE, AroundEngine, Place, Places, collected, dump, edit

pytestmark = pytest.mark.anyio


async def test_an_export_is_the_whole_history(written: StateStore, memory_places: Places, tmp_path: Path):
    """Restored elsewhere, a governor has the same documents, digests included, and goes on from there."""
    file = tmp_path / "export.jsonl"
    exported = await StateMachinePersister(written).export_history(GOVERNOR, file)
    assert (exported.governor, exported.states, exported.events, exported.snapshots, exported.markers) == (
        (GOVERNOR, 3, 12, 2, 5)
    )
    async with memory_places.new().store() as fresh:
        persister = StateMachinePersister(fresh, REDUCERS)
        assert await persister.import_history(file) == exported
        assert await dump(fresh.core.engine) == await dump(written.core.engine)
        assert (await persister.validate_consistency(GOVERNOR)).consistent
        assert (await fresh.save_state(GOVERNOR, "alice", {}, METADATA, expected=5)).causality == {
            written.store_id: 5,
            fresh.store_id: 1,
        }
        again = await fresh.save_state(
            GOVERNOR, "alice", {"n": 1, "deep": {"x": [1]}}, METADATA, expected=1, event_id="a1"
        )
        assert again.version == 2
        with pytest.raises(Conflict):
            await persister.import_history(file)
    with pytest.raises(Conflict):
        await StateMachinePersister(written).import_history(file)


async def test_a_file_is_named_as_python_users_name_it(written: StateStore, memory_places: Places, tmp_path: Path):
    """A plain str will do for a path."""
    file = str(tmp_path / "export.jsonl")
    exported = await StateMachinePersister(written).export_history(GOVERNOR, file)
    async with memory_places.new().store() as fresh:
        assert await StateMachinePersister(fresh).import_history(file) == exported


async def test_a_governor_moved_to_another_engine_and_back(place: Place, tmp_path: Path):
    """From a SQLite file to each engine and to a SQLite file again: every document is the same, digests included."""
    there, back_again = tmp_path / "there.jsonl", tmp_path / "back.jsonl"
    with Places(SQLITE) as files:
        async with files.new().store(snapshots=EveryEvents(3, keep=2)) as first:
            persister = StateMachinePersister(first, REDUCERS)
            await grow(first, 7)
            await add(persister, 5, "bob")
            await first.save_state(GOVERNOR, "carol", {"deep": [{"x": None}], "__odd__": 2**70}, METADATA, event_id="c")
            await first.delete_state(GOVERNOR, "carol", METADATA, expected=1)
            await persister.export_history(GOVERNOR, there)
            expected = await dump(first.core.engine)
        async with place.store() as away:
            persister = StateMachinePersister(away, REDUCERS)
            await persister.import_history(there)
            assert (await persister.validate_consistency()).consistent
            assert await dump(away.core.engine) == expected
            await persister.export_history(GOVERNOR, back_again)
        async with files.new().store() as back:
            persister = StateMachinePersister(back, REDUCERS)
            await persister.import_history(back_again)
            assert await dump(back.core.engine) == expected


async def test_an_export_after_cleanup(place: Place, store: StateStore, memory_places: Places, tmp_path: Path):
    """A stream that begins with its anchor can be exported, restored and verified as well."""
    await grow_old(place, store)
    persister = StateMachinePersister(store)
    await persister.cleanup_old_data(GOVERNOR, keep=timedelta(hours=1))
    await persister.export_history(GOVERNOR, tmp_path / "export.jsonl")
    async with memory_places.new().store() as fresh:
        other = StateMachinePersister(fresh)
        await other.import_history(tmp_path / "export.jsonl")
        assert await dump(fresh.core.engine) == await dump(store.core.engine)
        assert (await other.validate_consistency(GOVERNOR)).consistent
        with pytest.raises(NotRetained):
            await other.get_state_at(GOVERNOR, "alice", 1)


async def test_an_export_that_fails_leaves_no_file(written: StateStore, tmp_path: Path):
    """A file of that name is either the whole export or not there."""
    await edit(written.core.engine, ALICE, version="no number")
    with pytest.raises(CorruptDocument):
        await StateMachinePersister(written).export_history(GOVERNOR, tmp_path / "export.jsonl")
    assert _names_in(tmp_path) == []


async def test_an_export_while_others_write(place: Place, store: StateStore, memory_places: Places, tmp_path: Path):
    """What others write and what a cleanup removes during an export is not seen in its file."""
    await grow_old(place, store)
    before = await dump(store.core.engine)
    times: list[int] = []

    async def meanwhile() -> None:
        times.append(1)
        version = (await store.get_state(GOVERNOR, "alice")).version
        await store.save_state(GOVERNOR, "alice", {"n": -1}, METADATA, expected=version, event_id=f"id-{version}")
        await store.save_state(GOVERNOR, f"new-{version}", {"n": -1}, METADATA)
        await StateMachinePersister(store).cleanup_old_data(GOVERNOR, keep=timedelta(hours=1))

    async def before_page(scan: Scan, page: int) -> None:
        if page == 2 and scan.collection.endswith("/events"):
            await meanwhile()

    async with place.store(InSmallPages(place.engine(), before_page)) as exporting:
        exported = await StateMachinePersister(exporting).export_history(GOVERNOR, tmp_path / "export.jsonl")
    assert times
    assert await dump(store.core.engine) != before
    async with memory_places.new().store() as fresh:
        other = StateMachinePersister(fresh)
        assert await other.import_history(tmp_path / "export.jsonl") == exported
        assert await dump(fresh.core.engine) == before
        assert (await other.validate_consistency(GOVERNOR)).consistent


LOST = {"first event": event_path(1), "event": event_path(2), "last event": event_path(5), "snapshot": snapshot_path(3)}


@pytest.mark.parametrize("kind", LOST)
async def test_a_document_that_is_gone_ends_the_export(written: StateStore, tmp_path: Path, kind: str):
    """What could not be restored is not exported: the error names the document, and there is no file."""
    await written.core.engine.commit([Delete(LOST[kind], ANYTHING)])
    with pytest.raises(Inconsistent) as error:
        await StateMachinePersister(written).export_history(GOVERNOR, tmp_path / "export.jsonl")
    assert error.value.path == (ALICE if kind == "snapshot" else LOST[kind])
    assert _names_in(tmp_path) == []


EDITED: dict[str, tuple[str, dict[str, Any]]] = {
    "event": (event_path(2), {"action": "edited"}),
    "order": (event_path(2), {"version": 3}),
    "state": (ALICE, {"data": {"n": 1_000}}),
    "snapshot": (snapshot_path(3), {"state": '{"n":1000}'}),
    "marker": ("governors/bank/ids/a1", {"version": "no number"}),
}


@pytest.mark.parametrize("kind", EDITED)
async def test_a_damaged_document_ends_the_export(written: StateStore, tmp_path: Path, kind: str):
    """What a restore would refuse is found by the export: the error names the document, and there is no file."""
    path, changes = EDITED[kind]
    await edit(written.core.engine, path, **changes)
    with pytest.raises(Inconsistent) as error:
        await StateMachinePersister(written).export_history(GOVERNOR, tmp_path / "export.jsonl")
    assert error.value.path == path
    assert _names_in(tmp_path) == []


def _names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


Lines = list[dict[str, Any]]


def _edit_event(lines: Lines) -> None:
    lines[_index(lines, "event")]["fields"]["action"] = "edited"


def _edit_state(lines: Lines) -> None:
    lines[_index(lines, "state")]["fields"]["data"] = {"n": 1_000}


def _edit_snapshot(lines: Lines) -> None:
    lines[_index(lines, "snapshot")]["fields"]["state"] = '{"n":1000}'


def _edit_kind(lines: Lines) -> None:
    lines[-2]["kind"] = "something"


def _drop_event(lines: Lines) -> None:
    del lines[_index(lines, "event") + 1]


def _drop_state(lines: Lines) -> None:
    del lines[_index(lines, "state")]


def _drop_the_end(lines: Lines) -> None:
    del lines[-3:]


def _swap_events(lines: Lines) -> None:
    index = _index(lines, "event")
    lines[index], lines[index + 1] = lines[index + 1], lines[index]


def _rename_governor(lines: Lines) -> None:
    lines[0]["governor_id"] = "another"


def _another_id(kind: str, identifier: str) -> Callable[[Lines], None]:
    def damage(lines: Lines) -> None:
        lines[_index(lines, kind)]["id"] = identifier

    damage.__name__ = f"{kind} at {identifier}"
    return damage


def _another_place(lines: Lines) -> None:
    last = max(index for index, line in enumerate(lines) if line.get("kind") == "event")
    lines[last]["id"] = "carol~000000000007"


def _two_of_one(lines: Lines) -> None:
    index = _index(lines, "marker")
    lines.insert(index, lines[index])
    lines[-1]["fields"]["lines"] += 1


def _drop_snapshot(lines: Lines) -> None:
    del lines[_index(lines, "snapshot")]
    lines[-1]["fields"]["lines"] -= 1


def _drop_first_event(lines: Lines) -> None:
    del lines[_index(lines, "event")]
    lines[-1]["fields"]["lines"] -= 1


def _index(lines: Lines, kind: str) -> int:
    return next(index for index, line in enumerate(lines) if line.get("kind") == kind)


@pytest.mark.parametrize(
    "damage",
    [
        _edit_event,
        _edit_state,
        _edit_snapshot,
        _edit_kind,
        _drop_event,
        _drop_state,
        _drop_the_end,
        _swap_events,
        _rename_governor,
        _another_place,
        _two_of_one,
        _drop_snapshot,
        _drop_first_event,
        *(
            _another_id(kind, identifier)
            for kind in ("governor", "marker", "event", "snapshot", "state")
            for identifier in ("../../locks/x", "x/y", "", "zoe", "..")
            if (kind, identifier) != ("marker", "zoe")
        ),
    ],
)
async def test_a_damaged_export_is_refused_whole(
    written: StateStore, memory_places: Places, tmp_path: Path, damage: Callable[[Lines], None]
):
    """The whole file is checked before anything is written."""
    file = tmp_path / "export.jsonl"
    await StateMachinePersister(written).export_history(GOVERNOR, file)
    _rewrite(file, damage)
    async with memory_places.new().store() as fresh:
        with pytest.raises((CorruptDocument, InvalidData)) as error:
            await StateMachinePersister(fresh).import_history(file)
        assert file.name in str(error.value)
        assert await collected(fresh.list_governors()) == []
        assert await dump(fresh.core.engine) == {}


def _rewrite(file: Path, damage: Callable[[Lines], None]) -> None:
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    damage(lines)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    ("content", "error_type"),
    [
        (None, InvalidData),
        (b"", InvalidData),
        (b"a,b,c\n1,2,3\n", InvalidData),
        (b"\xff\xfe\x00", InvalidData),
        (b'{"tai_state_export": 99, "export_id": "", "governor_id": "g", "store_id": "", "exported_at": ""}\n',
         IncompatibleFormat),
    ],
)  # fmt: skip
async def test_a_file_that_is_no_export(
    store: StateStore, tmp_path: Path, content: bytes | None, error_type: type[TaiStateError]
):
    """What is no export, or one of a newer release, is refused by name."""
    file = tmp_path / "file.jsonl"
    if content is not None:
        _write(file, content)
    with pytest.raises(error_type):
        await StateMachinePersister(store).import_history(file)


def _write(file: Path, content: bytes) -> None:
    file.write_bytes(content)


async def test_a_restore_goes_on_where_it_was_interrupted(written: StateStore, memory_places: Places, tmp_path: Path):
    """Stopped at any call, a restore of the same file completes; another file is not let in between."""
    persister = StateMachinePersister(written)
    file, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    await persister.export_history(GOVERNOR, file)
    await persister.export_history(GOVERNOR, other)
    expected = await dump(written.core.engine)
    for number in range(1, 30):
        place = memory_places.new()
        faulty = FaultyEngine(place.engine(), AtCalls({}))
        async with place.store(faulty) as store:
            restoring = StateMachinePersister(store)
            faulty.plan = AtCalls({("any", faulty.statistics().calls + number): Fault.UNAVAILABLE})
            try:
                await restoring.import_history(file)
            except Unavailable:
                if await dump(store.core.engine):
                    with pytest.raises(Conflict):
                        await restoring.import_history(other)
                await restoring.import_history(file)
                assert await dump(store.core.engine) == expected
            else:
                break
    assert number > 4


async def test_a_governor_that_exists_is_not_restored_over(written: StateStore, memory_places: Places, tmp_path: Path):
    """A governor of the same name with a single state is enough to refuse, and nothing is mixed in."""
    file = tmp_path / "export.jsonl"
    await StateMachinePersister(written).export_history(GOVERNOR, file)
    async with memory_places.new().store() as fresh:
        await grow(fresh, 1, "zoe")
        before = await dump(fresh.core.engine)
        with pytest.raises(Conflict):
            await StateMachinePersister(fresh).import_history(file)
        assert await dump(fresh.core.engine) == before


async def test_a_governor_with_nothing_below_it_is_restored_over(
    written: StateStore, memory_places: Places, tmp_path: Path
):
    """A governor's own document, left by a first write that was refused, gives way to the one of the export."""
    file = tmp_path / "export.jsonl"
    await StateMachinePersister(written).export_history(GOVERNOR, file)
    async with memory_places.new().store() as fresh:
        left = {"created_at": "2001-02-03T04:05:06.000007Z", "labels": {}}
        await fresh.core.engine.commit([Put("governors/bank", left)])
        await StateMachinePersister(fresh).import_history(file)
        assert await dump(fresh.core.engine) == await dump(written.core.engine)


class _Obstructed(AroundEngine):
    """Does something right after the first commit, which is the note of a restore."""

    def __init__(self, engine: Engine, obstruct: Callable[[], Awaitable[Any]]) -> None:
        super().__init__(engine)
        self.obstruct: Callable[[], Awaitable[Any]] | None = obstruct

    async def commit(self, writes: Sequence[Write]) -> Committed:
        """Commit, then obstruct what follows."""
        committed = await self._engine.commit(writes)
        if self.obstruct is not None:
            obstruct, self.obstruct = self.obstruct, None
            await obstruct()
        return committed


async def test_a_restore_refused_before_it_wrote_leaves_no_note(
    written: StateStore, memory_places: Places, tmp_path: Path
):
    """Somebody else's first write comes between: the restore is refused, and nothing of it stays."""
    file = tmp_path / "export.jsonl"
    await StateMachinePersister(written).export_history(GOVERNOR, file)
    place = memory_places.new()
    async with place.store() as other:
        first = partial(other.save_state, GOVERNOR, "alice", {}, METADATA, event_id="a1")
        async with place.store(_Obstructed(place.engine(), first)) as store:
            with pytest.raises(GovernorExists):
                await StateMachinePersister(store).import_history(file)
        assert (await other.core.engine.read([other.core.layout.restore(GOVERNOR)])).documents == (None,)
        assert [state.data async for state in other.list_states(GOVERNOR)] == [{}]
