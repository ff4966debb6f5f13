"""How many documents recovery reads, by an engine that counts them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Self

import ours
from work import GOVERNOR, MACHINE

from tai_state import StateMachinePersister, StateStore
from tai_state.engines.api import ANYTHING, Capabilities, Change, Committed, Delete, Document, Put, Reading, Write
from tai_state.engines.sqlite.engine import SqliteEngine
from tai_state.store.core import Settings, SystemClock
from tai_state.store.layout import Layout


class Counting:
    """An engine that passes everything on and counts what is read.

    Args:
        engine: the one that does the work.

    Attributes:
        documents: asked for by ``read``, there or not, and given by ``scan``.
    """

    def __init__(self, engine: SqliteEngine) -> None:
        self._engine = engine
        self.documents = 0

    @property
    def capabilities(self) -> Capabilities:  # noqa: D102
        return self._engine.capabilities

    async def __aenter__(self) -> Self:
        await self._engine.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._engine.__aexit__(*exc)

    async def read(self, paths: Sequence[str]) -> Reading:  # noqa: D102
        self.documents += len(paths)
        return await self._engine.read(paths)

    async def scan(self, collection: str, **bounds: Any) -> AsyncIterator[Document]:  # noqa: D102
        async for document in self._engine.scan(collection, **bounds):
            self.documents += 1
            yield document

    async def commit(self, writes: Sequence[Write]) -> Committed:  # noqa: D102
        return await self._engine.commit(writes)

    def watch(self, *targets: str) -> AbstractAsyncContextManager[AsyncIterator[Change]]:  # noqa: D102
        return self._engine.watch(*targets)


def documents_read(path: Path, count: int) -> dict[str, int]:
    """The documents read to recover a state of so many events, by what had happened to it.

    The stream ends 99 events after its last kept snapshot, which is as far as the default policy lets it come.
    """
    ours.build(path, count)
    return asyncio.run(_recover(path))


async def _recover(path: Path) -> dict[str, int]:
    engine = Counting(SqliteEngine(str(path), SystemClock()))
    found: dict[str, int] = {}
    async with StateStore(engine, Layout(), Settings()) as store:
        stream = store.layout.stream(GOVERNOR, MACHINE)
        [document] = (await engine.read([stream.state])).documents
        if document is None:
            raise AssertionError("the state is not there")
        edited = document.fields() | {"data": {"edited": True}}
        cases: dict[str, Write] = {
            "sound": Put(stream.state, document.fields(), ANYTHING),
            "edited": Put(stream.state, edited, ANYTHING),
            "lost": Delete(stream.state, ANYTHING),
        }
        for name, write in cases.items():
            await engine.commit([write])
            engine.documents = 0
            report = await StateMachinePersister(store).recover(GOVERNOR)
            found[name] = engine.documents
            if not report.consistent or bool(report.rebuilt) is (name == "sound"):
                raise AssertionError(f"{name}: {report}")
    return found
