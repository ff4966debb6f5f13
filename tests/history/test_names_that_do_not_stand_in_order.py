"""A row of SQLite whose name is damaged stands elsewhere than its name says: looking by names goes on past it."""

from __future__ import annotations

from pathlib import Path

import anyio
import apsw
import pytest

from tai_state import EventSourcingError, Inconsistent, StateMachinePersister, StateStore, open_store
from tai_state.history.survey import streams_with_events

from ..support.stores import GOVERNOR, METADATA

pytestmark = pytest.mark.anyio

NAMES = [b"b\xff~000000000001", b"a\xff~000000000002", b"\xff", b"d\xfe~000000000009"]


def damage(path: Path, name: bytes) -> None:
    """Change the name of an event behind the store's back."""
    connection = apsw.Connection(str(path))
    where = "collection LIKE '%/events' AND id = 'b~000000000001'"
    connection.execute(f"UPDATE documents SET id = CAST(? AS TEXT) WHERE {where}", (name,))
    assert connection.changes() == 1
    connection.close()


async def grow(store: StateStore) -> None:
    """Four states of two versions each."""
    for state_id in "abcd":
        await store.save_state(GOVERNOR, state_id, {"n": 1}, METADATA)
        await store.log_event(GOVERNOR, state_id, "looked", METADATA)


@pytest.mark.parametrize("name", NAMES)
async def test_every_stream_is_found_and_every_command_ends(tmp_path: Path, name: bytes):
    """All sound streams are found once, an export is refused, and a recovery names what it cannot mend."""
    path = tmp_path / "store.db"
    async with open_store(f"sqlite:///{path}", metadata=METADATA) as store:
        await grow(store)
    damage(path, name)
    async with open_store(f"sqlite:///{path}", metadata=METADATA) as store:
        with anyio.fail_after(30):
            strange: list[Inconsistent] = []
            found = [stream.state_id async for stream in streams_with_events(store.core, GOVERNOR, strange=strange)]
            assert [each for each in found if each in "abcd"] == [*"abcd"]
            assert len(found) == len(set(found))
            persister = StateMachinePersister(store)
            with pytest.raises(EventSourcingError):
                await persister.export_history(GOVERNOR, tmp_path / "copy.jsonl")
            report = await store.recover()
            assert any(name[:1].decode("latin-1") in failed or "\\x" in failed for failed, _ in report.failed)
            assert (await persister.validate_consistency(GOVERNOR)).consistent is False
