"""Makes ``format-1.db`` and ``format-1.jsonl`` in a folder. It ran with the last release that wrote format 1."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tai_state import NO_STATE, ChangeMetadata, EveryEvents, NewEvent, StateMachinePersister, open_store
from tai_state.testing import ManualClock

METADATA = ChangeMetadata("teller", "golden", {"ticket": 7})
AT = datetime(2026, 3, 1, 6, tzinfo=UTC)
REDUCERS = {"add": lambda state, event: {"n": (state or {"n": 0})["n"] + event.payload}}


async def main(folder: Path) -> None:
    """Every kind of document: states, one deleted, events with states and payloads, snapshots, markers."""
    url = f"sqlite:///{folder}/format-1.db"
    async with open_store(url, clock=ManualClock(step_us=1), snapshots=EveryEvents(2, keep=2)) as store:
        persister = StateMachinePersister(store, REDUCERS)
        await store.save_state("bank", "alice", {"n": 0, "who": "é"}, METADATA, event_id="open-alice", timestamp=AT)
        for n in range(1, 4):
            later = AT + timedelta(hours=n)
            await store.update_state("bank", "alice", {"n": n}, METADATA, expected=n, timestamp=later)
        earlier = AT - timedelta(hours=1)
        await store.log_event("bank", "alice", "note", METADATA, payload={"text": "kept"}, timestamp=earlier)
        await store.save_state("bank", "bob", {"n": 1}, METADATA, timestamp=AT)
        await store.delete_state("bank", "bob", METADATA, expected=1, timestamp=AT + timedelta(hours=2))
        first = [NewEvent("add", 1), NewEvent("add", 2)]
        await persister.record("bank", "carol", first, METADATA, expected=NO_STATE)
        await persister.record("bank", "carol", [NewEvent("add", 3, "third")], METADATA, expected=2)
        await store.save_state("other/governor", "x y", {"deep": [[1, [2]], 2**70]}, METADATA)
        await persister.export_history("bank", folder / "format-1.jsonl")


asyncio.run(main(Path(sys.argv[1])))
