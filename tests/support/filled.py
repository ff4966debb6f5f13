"""What the filled store of the command line's tests holds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import apsw

from tai_state import ChangeMetadata, EveryEvents, NewEvent, StateMachinePersister, open_store
from tai_state.values.times import WallClock

from .program import Program

METADATA = ChangeMetadata("ana", "a test", {"ticket": 7})
START = datetime(2026, 3, 1, 6, tzinfo=UTC)
HOSTILE = "\x1b[31mred\x9b2J\x07\u202eevil\r\n\x7f"

REDUCERS_MODULE = """
print("this module prints when it is imported")

def _add(state, event):
    return {"total": (state or {"total": 0})["total"] + event.payload}

def _fail(state, event):
    raise ZeroDivisionError("inside a reducer")

GOOD = {"add": _add}
BAD = {"add": _fail}
NONE = {"add": 5}
"""


async def fill(url: str) -> None:
    """A little of everything: a state of five versions, a deleted one, one with a difficult id, one to be folded."""
    async with open_store(url) as store:
        for version in range(5):
            await store.update_state(
                "bank",
                "alice",
                {"balance": 10 * version, "tags": ["new"] if version < 3 else []},
                METADATA,
                expected=version,
                action=f"step {version}",
                timestamp=START + timedelta(hours=version),
            )
        await store.save_state("bank", "bob", {"balance": 1}, METADATA)
        await store.delete_state("bank", "bob", METADATA, expected=1)
        await store.save_state("a/b", "../Zoë", {"x": 1.5, "long": "word " * 40 + "e" * 90 + "nd"}, METADATA)
        await store.save_state("hostile", HOSTILE, {HOSTILE: HOSTILE}, METADATA, action=HOSTILE)
        persister = StateMachinePersister(
            store, {"add": lambda state, event: {"total": (state or {"total": 0})["total"] + event.payload}}
        )
        await persister.record("sums", "s", [NewEvent("add", 2), NewEvent("add", 3)], METADATA, expected=0)


def on_store(url: str, work: Any, clock: WallClock | None = None) -> None:
    """Run asynchronous work on a store."""

    async def run() -> None:
        async with open_store(url, snapshots=EveryEvents(2), clock=clock) as store:
            await work(store)

    anyio.run(run)


def fits(found: dict[str, Any], **expected: Any) -> None:
    """The found object has exactly these keys, in this order; ``...`` stands for any value."""
    assert list(found) == list(expected)
    assert {key: found[key] for key, value in expected.items() if value is not ...} == {
        key: value for key, value in expected.items() if value is not ...
    }


def with_removed_state(program: Program, state_id: str) -> None:
    """Remove a state's document behind the store's back."""
    connection = apsw.Connection(str(program.folder / "tai-state.db"))
    connection.execute("DELETE FROM documents WHERE collection GLOB '*/states' AND id = ?", (state_id,))
    assert connection.changes() == 1
    connection.close()
