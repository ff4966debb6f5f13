"""Taking turns inside one process.

Tasks that change the same state get in each other's way: of n that read it, one commits, and the others have read for
nothing. Those of one process can take turns. Nothing rests on it: a task that waits too long goes on without.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager

import anyio

WAIT_SECONDS_MAX = 1.0
"""So long a task waits for its turn, for each state."""


class _Turn:
    def __init__(self) -> None:
        self.semaphore = anyio.Semaphore(1, fast_acquire=True)
        self.users = 0


class Turns:
    """The turns of one store, by the paths of states."""

    def __init__(self) -> None:
        self._turns: dict[str, _Turn] = {}

    @asynccontextmanager
    async def of(self, paths: Iterable[str]) -> AsyncGenerator[None, None]:
        """Hold the turn of each of these states, taken in one order, so that nobody waits in a circle."""
        async with AsyncExitStack() as stack:
            for path in sorted(set(paths)):
                await stack.enter_async_context(self._one(path))
            yield

    @asynccontextmanager
    async def _one(self, path: str) -> AsyncGenerator[None, None]:
        turn = self._turns.setdefault(path, _Turn())
        turn.users += 1
        taken = False
        try:
            with anyio.move_on_after(WAIT_SECONDS_MAX):
                await turn.semaphore.acquire()
                taken = True
            yield
        finally:
            if taken:
                turn.semaphore.release()
            turn.users -= 1
            if not turn.users:
                del self._turns[path]
