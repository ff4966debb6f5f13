"""Plans of faults, and engines on which something else happens meanwhile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from tai_state.engines.api import Engine
from tai_state.testing import Fault
from tai_state.testing.faults import Call

from .stores import AroundEngine


class NextCommit:
    """A fault at the next commit, once."""

    planned = 1

    def __init__(self, fault: Fault) -> None:
        self._fault: Fault | None = fault

    def fault(self, call: Call) -> Fault | None:
        """The fault of a call."""
        if call.verb != "commit":
            return None
        fault, self._fault = self._fault, None
        return fault


class BeforeReads(AroundEngine):
    """Something happens before the first read, and only then."""

    def __init__(self, engine: Engine, meanwhile: Callable[[], Awaitable[Any]]) -> None:
        super().__init__(engine)
        self._meanwhile = meanwhile
        self.calls = 0

    async def read(self, paths: Sequence[str]) -> Any:  # noqa: D102
        self.calls += 1
        if self.calls == 1:
            await self._meanwhile()
        return await self._engine.read(paths)
