"""What the checks of the examination share."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Generator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Generic, TypeVar

import anyio
import anyio.lowlevel

from tai_state.engines.api import Document, DocumentChange, Engine, Fields, Put
from tai_state.engines.batching import Batches, weight_of

T = TypeVar("T")

HANG_SECONDS: Final = 60
MANY: Final = 1_300
"""So many documents that they fill more than two pages of any engine."""


async def present(engine: Engine, path: str) -> Document:
    """A document that must be there."""
    [document] = (await engine.read([path])).documents
    assert document is not None, f"{path} is not there"
    return document


async def ids_of(scan: AsyncIterator[Document]) -> list[str]:
    """The ids of all documents that a scan yields."""
    return [document.id async for document in scan]


async def fill(engine: Engine, documents: Mapping[str, Fields]) -> None:
    """Store these documents, in commits within the engine's limits."""
    puts = [Put(path, fields) for path, fields in documents.items()]
    for batch in Batches(engine.capabilities).split(puts, weight_of):
        await engine.commit(batch)


async def raises(error: type[BaseException], awaitable: Awaitable[object]) -> bool:
    """Whether awaiting it raises this error. Any other error comes out."""
    try:
        await awaitable
    except error:
        return True
    return False


async def let_others_run(times: int) -> None:
    """Let every other task run a few steps."""
    for _ in range(times):
        await anyio.lowlevel.checkpoint()


@asynccontextmanager
async def written_together(engine: Engine) -> AsyncGenerator[tuple[list[str], anyio.Event], None]:
    """The paths of documents that are written together again and again, and an event, set after the last time."""
    paths = [f"c/{n:02}" for n in range(40)]
    written = anyio.Event()

    async def write() -> None:
        for n in range(40):
            await engine.commit([Put(path, {"n": n}) for path in paths])
        written.set()

    await engine.commit([Put(path, {"n": -1}) for path in paths])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        yield paths, written


async def until(changes: AsyncIterator[DocumentChange], *wanted: DocumentChange) -> list[DocumentChange]:
    """The changes that a watch yields, until all those wanted have come."""
    missing = set(wanted)
    seen: list[DocumentChange] = []
    with anyio.fail_after(HANG_SECONDS):
        while missing:
            seen.append(await anext(changes))
            missing.discard(seen[-1])
    return seen


class Counted(Awaitable[T], Generic[T]):
    """An awaitable that counts how often the task that awaits it is woken, under any event loop."""

    def __init__(self, awaitable: Awaitable[T]) -> None:
        self._awaitable = awaitable
        self.wakes: int = 0

    def __await__(self) -> Generator[Any, Any, T]:
        steps: Any = self._awaitable.__await__()
        go_on, said = steps.send, None
        while True:
            try:
                waits_for = go_on(said)
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                go_on, said = steps.send, (yield waits_for)
            except BaseException as error:  # noqa: BLE001 - passed on to the task that awaits this
                go_on, said = steps.throw, error
            self.wakes += 1


def sized(size: int) -> Fields:
    """Fields whose JSON has exactly this size in bytes."""
    return {"text": "x" * (size - len('{"text":""}'))}


JSON_VALUES: Final[Fields] = {
    "ints": [0, -1, 2**53 + 1, 2**63 - 1, -(2**63), 2**63, 2**64, -(2**64), 10**60],
    "floats": [0.0, -0.0, 1.0, 0.1, 1e16, 5e-324, 1.7976931348623157e308, -2.5],
    "texts": ["", " ", "é", "e\u0301", "😀", "\x00", "\x1f\x7f", "\ud7ff\ue000\uffff", '"\\/', "\u2028"],
    "true": True,
    "false": False,
    "null": None,
    "empty": {"map": {}, "list": [], "text": ""},
    "nested": [[[]], [{}], [None, [True, {"a": [{"b": {"c": [1, [2, [3]]]}}]}]]],
    "": "the empty key",
    "a.b/c~d": {"__x__": 1, "😀": 2, " ": 3, "\x00": 4},
}


def exactly(value: Any) -> str:
    """A text that differs if two values differ, even in type: 1, 1.0 and true differ, and so do -0.0 and 0.0."""
    return json.dumps(value, sort_keys=True)


CALLERS: Final = 8


def batch_of(moment: int, caller: int) -> list[Put]:
    """One caller's commit: twenty documents that no other caller writes."""
    return [Put(f"c/{moment}-{caller}-{n:02}", {"caller": caller}) for n in range(20)]


async def judge_batches(engine: Engine, moment: int, acknowledged: Mapping[int, int]) -> None:
    """Assert that each commit is there whole or not at all.

    Those that were acknowledged must be there, and so must those of the callers with odd numbers.
    """
    for caller in range(CALLERS):
        documents = (await engine.read([put.path for put in batch_of(moment, caller)])).documents
        revisions = {document and document.revision for document in documents}
        assert len(revisions) == 1, f"only a part of a commit cancelled at moment {moment} is there"
        if caller in acknowledged:
            assert revisions == {acknowledged[caller]}, f"an acknowledged commit is not there (moment {moment})"
        assert caller in acknowledged or caller % 2 == 0, f"another caller's commit was lost (moment {moment})"
