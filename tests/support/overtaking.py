"""Another caller's whole call in the middle of one's own, at a place that the test chooses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from tai_state.engines.api import Document, Engine, Scan, Write, after
from tai_state.engines.paging import Paged, take

from .stores import AroundEngine


class Overtaken(AroundEngine):
    """An engine that lets somebody else act right before one of its calls.

    Args:
        engine: the one that does the work.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.calls = 0
        self._at = 0
        self._rival: Callable[[], Awaitable[object]] | None = None

    def plan(self, at: int, rival: Callable[[], Awaitable[object]]) -> None:
        """Let somebody act right before the how-many-eth call from here, counted from 1."""
        self.calls, self._at, self._rival = 0, at, rival

    async def read(self, paths: Sequence[str]) -> Any:  # noqa: D102
        await self._step()
        return await self._engine.read(paths)

    def scan(self, *args: Any, **bounds: Any) -> Paged[Document]:  # noqa: D102
        scan = self._engine.scan(*args, **bounds)
        begun = False

        async def fetch() -> Any:
            nonlocal begun
            if not begun:
                begun = True
                await self._step()
            return await scan.page()

        return Paged(fetch)

    async def commit(self, writes: Sequence[Write]) -> Any:  # noqa: D102
        await self._step()
        return await self._engine.commit(writes)

    async def _step(self) -> None:
        self.calls += 1
        if self.calls == self._at and self._rival is not None:
            await self._rival()


class InSmallPages(AroundEngine):
    """An engine that scans two documents at a time, each page by a scan of its own.

    Args:
        engine: the one that does the work.
        before: called before each page, with the scan and the number of the page, counted from 1.
    """

    def __init__(self, engine: Engine, before: Callable[[Scan, int], Awaitable[object]]) -> None:
        super().__init__(engine)
        self._before = before

    def scan(self, scan: Scan) -> Paged[Document]:  # noqa: D102
        place, number = scan.start, 0

        async def fetch() -> list[Document] | None:
            nonlocal place, number
            number += 1
            await self._before(scan, number)
            page = await take(self._engine.scan(msgspec.structs.replace(scan, start=place, limit=2)), 2)
            place = after(page[-1].id) if page else place
            return page or None

        return Paged(fetch)
