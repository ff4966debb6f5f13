"""How many documents recovery reads, counted by an engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Self

import ours
from work import GOVERNOR, MACHINE

from tai_state import StateMachinePersister, StateStore
from tai_state.engines.api import (
    ANYTHING,
    Capabilities,
    Committed,
    Delete,
    Document,
    DocumentChange,
    Put,
    Reading,
    Scan,
    Write,
)
from tai_state.engines.paging import Paged, take
from tai_state.engines.sqlite.engine import SqliteEngine
from tai_state.streams.layout import Layout
from tai_state.streams.settings import Settings, SystemClock


class Counting:
    """An engine that passes all calls on to another one and counts the documents read.

    Args:
        engine: the engine that does the work.

    Attributes:
        documents: how many documents ``read`` and ``scan`` have returned.
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
        reading = await self._engine.read(paths)
        self.documents += sum(document is not None for document in reading.documents)
        return reading

    def scan(self, scan: Scan) -> Paged[Document]:  # noqa: D102
        documents = self._engine.scan(scan)

        async def fetch() -> list[Document] | None:
            page = await take(documents, 1)
            self.documents += len(page)
            return page or None

        return Paged(fetch)

    async def commit(self, writes: Sequence[Write]) -> Committed:  # noqa: D102
        return await self._engine.commit(writes)

    def watch(self, *targets: str) -> AbstractAsyncContextManager[AsyncIterator[DocumentChange]]:  # noqa: D102
        return self._engine.watch(*targets)


def documents_read(path: Path, count: int) -> dict[str, int]:
    """How many documents it takes to recover a state of this many events, by what had happened to the state.

    The stream ends 99 events after its last kept snapshot: with the default policy, it is never further.
    """
    ours.build(path, count)
    return asyncio.run(_recover(path))


async def _recover(path: Path) -> dict[str, int]:
    engine = Counting(SqliteEngine(str(path), SystemClock()))
    found: dict[str, int] = {}
    async with StateStore(engine, Layout(), Settings()) as store:
        stream = store.core.layout.stream(GOVERNOR, MACHINE)
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
            loaded = await StateMachinePersister(store).load_state(GOVERNOR, MACHINE)
            found[name] = engine.documents
            if loaded.recovered is (name == "sound") or loaded.snapshot.version != edited["version"]:
                raise AssertionError(f"{name}: {loaded}")
    return found
