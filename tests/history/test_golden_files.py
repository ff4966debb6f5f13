"""Stores and exports that earlier releases wrote, as they wrote them: ``tests/data`` has the files and their makers."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tai_state import ChangeMetadata, Reducers, StateMachinePersister, StateNotFound, StateStore, open_store
from tai_state.streams.identity import FORMAT

from ..support.stores import Places, collected, fields_at

pytestmark = pytest.mark.anyio

DATA = Path(__file__).parent.parent / "data"
REDUCERS: Reducers = {"add": lambda state, event: {"n": (state or {"n": 0})["n"] + event.payload}}
METADATA = ChangeMetadata("teller", "golden", {"ticket": 7})
OPENED = datetime(2026, 3, 1, 6, tzinfo=UTC)
ALICE: list[dict[str, Any] | None] = [{"n": 0, "who": "é"}, {"n": 1}, {"n": 2}, {"n": 3}, {"n": 3}]


async def check(store: StateStore) -> None:
    """All that the file held is there, sound, and can be gone on from."""
    persister = StateMachinePersister(store, REDUCERS)
    report = await persister.validate_consistency()
    assert report.consistent, report.findings
    assert [event.to_state for event in await collected(persister.replay("bank", "alice"))] == ALICE
    assert (await store.get_state("bank", "carol")).data == {"n": 6}
    with pytest.raises(StateNotFound):
        await store.get_state("bank", "bob")
    before = await store.get_state("bank", "alice")
    again = await store.save_state(
        "bank", "alice", {"n": 0, "who": "é"}, METADATA, event_id="open-alice", timestamp=OPENED
    )
    assert again.version == 1
    written = await store.update_state("bank", "alice", {"n": 4}, before.metadata, expected=before)
    assert written.version == 6
    [event] = await collected(persister.replay("bank", "alice", after=5))
    assert event.from_state == {"n": 3}
    assert (await persister.validate_consistency()).consistent


async def test_an_export_of_format_1_is_restored(memory_places: Places):
    """Its events lack what came later, and are as sound as they were."""
    async with memory_places.new().store() as store:
        await StateMachinePersister(store).import_history(DATA / "format-1.jsonl")
        await check(store)


async def test_a_file_of_format_1_is_upgraded(tmp_path: Path):
    """A store on SQLite is opened, read, gone on with and opened again; its note says the new format."""
    file = tmp_path / "store.db"
    shutil.copy(DATA / "format-1.db", file)
    async with open_store(f"sqlite:///{file}") as store:
        await check(store)
        assert (await store.get_state("other/governor", "x y")).data == {"deep": [[1, [2]], 2**70]}
        assert (await fields_at(store.core.engine, "meta/store"))["format"] == FORMAT
    async with open_store(f"sqlite:///{file}", create=False) as store:
        assert (await store.get_state("bank", "alice")).version == 6
