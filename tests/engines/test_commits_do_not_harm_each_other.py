"""A document that an engine cannot take fails its own commit and no other; what one engine takes all take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import apsw
import pytest

from tai_state.engines.api import ABSENT, At, Check, Delete, Engine, Put, Scan, Write

from ..support.stores import collected

pytestmark = pytest.mark.anyio

EVENTS = "governors/bank/events"
GOOD = 5

BAD: dict[str, Write] = {
    "a timestamp that is an object": Put(f"{EVENTS}/bad", {"timestamp": {"a": 1}}),
    "a timestamp that is a list": Put(f"{EVENTS}/bad", {"timestamp": [1]}),
    "a timestamp that is a number": Put(f"{EVENTS}/bad", {"timestamp": 5}),
    "a revision past 64 bits": Put("c/bad", {}, At(2**70)),
    "a check past 64 bits": Check("c/bad", At(2**70)),
    "a deletion past 64 bits": Delete("c/bad", At(-(2**70))),
    "text that is half a character": Put("c/bad", {"text": "\ud800"}),
    "a number without an end": Put("c/bad", {"number": float("inf")}),
    "a value that is not JSON": Put("c/bad", {"value": object()}),
    "an integer past 64 bits": Put("c/bad", {"number": 2**70}),
}

RED = "a revision past 64 bits"
"""What fails the commits beside it on SQLite."""


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: commits meet in the engine."""
    return "asyncio"


@contextmanager
def held(file: Path) -> Iterator[None]:
    """Let commits to an SQLite file wait, so that those made meanwhile share a transaction; elsewhere nothing."""
    if not file.exists():
        yield
        return
    connection = apsw.Connection(str(file))
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


@pytest.mark.parametrize("what", BAD)
async def test_a_bad_commit_fails_no_other(engine: Engine, what: str, tmp_path: Path) -> None:
    """Commits made at once are judged each by itself: one that cannot be stored leaves the others as they are."""
    failed: list[int] = []

    async def commit(number: int, write: Write) -> None:
        try:
            await engine.commit([write])
        except Exception:  # noqa: BLE001 - whatever it is, whose it is is what matters
            failed.append(number)

    async with anyio.create_task_group() as tasks:
        with held(tmp_path / "store.db"):
            for number in range(GOOD):
                tasks.start_soon(commit, number, Put(f"c/{number}", {"n": number}, ABSENT))
                if number == 1:
                    tasks.start_soon(commit, -1, BAD[what])
            for _ in range(GOOD):
                await anyio.lowlevel.checkpoint()
    assert [number for number in failed if number >= 0] == []
    assert [document.fields() async for document in engine.scan(Scan("c", end="bad"))] == [
        {"n": n} for n in range(GOOD)
    ]


TIMESTAMPS: list[Any] = [5, 2.5, True, None, {"a": 1}, [1], "5", ""]


@pytest.mark.parametrize("value", TIMESTAMPS, ids=repr)
async def test_a_timestamp_may_be_any_json(engine: Engine, value: Any) -> None:
    """A document in any collection of events may have a field ``timestamp`` of any kind, and reads back as it is."""
    await engine.commit([Put("logs/x/events/e", {"timestamp": value})])
    [document] = (await engine.read(["logs/x/events/e"])).documents
    assert document is not None
    assert document.fields() == {"timestamp": value}


async def test_a_scan_by_a_field_leaves_out_what_is_not_text(engine: Engine) -> None:
    """A scan by ``timestamp`` of any collection of events gives documents where it is text, as every other field."""
    for field in ("timestamp", "when"):
        writes = [Put(f"logs/{field}/events/{n}", {field: value}) for n, value in enumerate((5, "6", None, True, "5"))]
        await engine.commit(writes)
    found = {
        field: [each.id for each in await collected(engine.scan(Scan(f"logs/{field}/events", by=field)))]
        for field in ("timestamp", "when")
    }
    assert found == {"timestamp": ["4", "1"], "when": ["4", "1"]}
