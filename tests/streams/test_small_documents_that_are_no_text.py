"""Documents with a byte that no text has: all of it is damage, also where a reader could pass it over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from tai_state import ANY, CorruptDocument, StateMachinePersister, StateStore, Transaction, open_store
from tai_state.engines.api import Document, Shape, split
from tai_state.engines.memory import MemoryDocuments, MemoryEngine
from tai_state.history.unfinished import RESTORE, RestoreRecord
from tai_state.locks.records import (
    BEAT,
    BREAK,
    LOCK,
    WAITER,
    BeatRecord,
    BreakRecord,
    HeldLock,
    LockRecord,
    WaiterRecord,
)
from tai_state.streams.identity import STORE, StoreRecord
from tai_state.streams.records import GOVERNOR, MARKER, SNAPSHOT, GovernorRecord, MarkerRecord, SnapshotRecord
from tai_state.streams.retirements import RETIRED, RetiredRecord
from tai_state.testing import ManualClock

from ..support.sqlite import seal
from ..support.stores import METADATA

pytestmark = pytest.mark.anyio

SMALL: dict[Shape[Any], msgspec.Struct] = {
    MARKER: MarkerRecord("alice", 1, "ab" * 32, {"governors/bank/states/bob": 2}),
    RESTORE: RestoreRecord("x", finished=True),
    BREAK: BreakRecord("r", 3.0, "me"),
    LOCK: LockRecord("ann", "n", 3.0, "t"),
    BEAT: BeatRecord("n", 3),
    WAITER: WaiterRecord(holder="h", holds=(HeldLock("r", "n"),), wants=("m",), ttl=1.0, ticket=2, n=1),
    STORE: StoreRecord("s", 2),
    GOVERNOR: GovernorRecord("t", {"a": "b"}),
    RETIRED: RetiredRecord("a", {"~x": {"s": 1}}),
    SNAPSHOT: SnapshotRecord(
        state_id="a", state="{}", version=1, timestamp="t", as_of="t", state_hash="h", digest="d", schema=1
    ),
}
"""Every kind of document that is small, each with all of its fields."""

NO_TEXT = 0xFF
"""A byte that is nowhere in UTF-8."""


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: documents are decoded above the engines."""
    return "asyncio"


@pytest.mark.parametrize("shape", SMALL, ids=[each.struct.__name__ for each in SMALL])
async def test_no_byte_of_a_small_document_is_passed_over(shape: Shape[Any]) -> None:
    """Whichever byte is damaged, the document is corrupt, and not one that lacks what may be left out."""
    whole = msgspec.json.encode(SMALL[shape])
    assert Document("c", "i", whole, 1, 1).decode(shape) == SMALL[shape]
    for at in range(len(whole)):
        document = Document("c", "i", whole[:at] + bytes([NO_TEXT]) + whole[at + 1 :], 1, 1)
        with pytest.raises(CorruptDocument):
            document.decode(shape)


MARKER_PATH = "governors/bank/ids/e"


async def _call(store: StateStore) -> Any:
    """A change of two states under one id, which therefore stands for both."""

    async def move(transaction: Transaction) -> None:
        transaction.put(store.state("bank", "a"), {"n": 1}, expected=ANY, event_id="e")
        transaction.put(store.state("bank", "b"), {"n": 1}, expected=ANY)

    return await store.transact(move, METADATA)


def _damaged(text: bytes) -> bytes:
    return text.replace(b'"others"', b'"other\xff"')


@asynccontextmanager
async def _in_memory(_: Path) -> AsyncIterator[StateStore]:
    clock, documents = ManualClock(step_us=1), MemoryDocuments()
    async with open_store(MemoryEngine(clock, documents), clock=clock) as store:
        await _call(store)
        marker = documents.get(MARKER_PATH)
        assert marker is not None
        assert isinstance(marker.content, bytes)
        content = _damaged(marker.content)
        assert content != marker.content
        damaged = Document(*split(MARKER_PATH), content, marker.revision, marker.updated_us)
        documents.set(MARKER_PATH, damaged)
        yield store


@asynccontextmanager
async def _in_a_file(folder: Path) -> AsyncIterator[StateStore]:
    """The same in a file, by one who gives the row the checksum that fits it."""
    async with open_store(f"sqlite:///{folder}/tai-state.db") as store:
        await _call(store)
    with closing(apsw.Connection(str(folder / "tai-state.db"))) as file:
        [(text,)] = file.execute("SELECT CAST(fields AS BLOB) FROM documents WHERE path = ?", (MARKER_PATH,))
        file.execute("UPDATE documents SET fields = CAST(? AS TEXT) WHERE path = ?", (_damaged(text), MARKER_PATH))
        seal(file)
    async with open_store(f"sqlite:///{folder}/tai-state.db") as store:
        yield store


@pytest.mark.parametrize("damaged", [_in_memory, _in_a_file], ids=["memory", "sqlite"])
async def test_a_damaged_marker_is_no_other_change(tmp_path: Path, damaged: Callable[[Path], Any]) -> None:
    """The same call again names the damage; after a recovery it is what it was: a call that was made already."""
    async with damaged(tmp_path) as store:
        persister = StateMachinePersister(store)
        with pytest.raises(CorruptDocument) as caught:
            await _call(store)
        assert caught.value.path == MARKER_PATH
        assert [each.path for each in (await persister.validate_consistency()).findings] == [MARKER_PATH]
        assert (await persister.recover()).rebuilt == (MARKER_PATH,)
        assert (await persister.validate_consistency()).consistent
