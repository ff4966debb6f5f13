"""Taking turns inside one process.

Tasks that change the same state hinder each other: of n tasks that read it, one commits, and the others have to read
again. The tasks of one process can avoid this by taking turns. Correctness does not depend on turns: a task goes on
without its turn if the turn does not move on for too long.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from types import TracebackType

import anyio

from tai_state.engines.observing import Observer, Waited, tell

WAIT_SECONDS_MAX = 1.0
"""How long a task waits for its turn while the turn does not move on, for each state."""


class _Line:
    """The tasks that wait for a turn that is taken."""

    __slots__ = ("moves", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[anyio.Event] = deque()
        self.moves = 0  # how often the turn has moved on to one of them


class Turns:
    """The turns of one store, by the paths of states.

    Args:
        observer: is told of each wait; None: no observer.
    """

    def __init__(self, observer: Observer | None = None) -> None:
        self._observer = observer
        self._turns: dict[str, _Line] = {}  # of each turn that is taken

    def of(self, paths: Iterable[str]) -> Held:
        """A block that holds the turns of these states and governors.

        No deadlock: all tasks take them in one order, and who has taken those of states waits for no other state's.
        Governors come last: a transaction that runs again already has the turns of its states when it finds that it
        needs those of governors.
        """
        return Held(self, sorted(set(paths), key=_in_order))

    def are_taken(self, paths: Iterable[str]) -> bool:
        """Whether somebody has the turn of one of these states."""
        return not self._turns.keys().isdisjoint(paths)

    async def take(self, path: str) -> bool:
        """Take the turn of a state; returns False if it did not come, and did not move on either for too long."""
        line = self._turns.get(path)
        if line is None:
            self._turns[path] = _Line()
            return True
        turn = anyio.Event()
        line.waiting.append(turn)
        begun, is_acquired, moves = anyio.current_time(), False, -1
        try:
            while not turn.is_set() and line.moves != moves:
                moves = line.moves
                with anyio.move_on_after(WAIT_SECONDS_MAX):
                    await turn.wait()
            is_acquired = turn.is_set()
        except BaseException:
            if turn.is_set():  # the turn came, but this task was cancelled meanwhile
                self.give(path)
            raise
        finally:
            if not turn.is_set():
                line.waiting.remove(turn)
            if self._observer is not None:
                seconds = anyio.current_time() - begun
                tell(
                    self._observer.waited, Waited(kind="turn", paths=(path,), seconds=seconds, is_acquired=is_acquired)
                )
        return is_acquired

    def give(self, path: str) -> None:
        """Give the turn of a state to the task that has waited longest."""
        line = self._turns[path]
        if line.waiting:
            line.moves += 1
            line.waiting.popleft().set()
        else:
            del self._turns[path]


def _in_order(path: str) -> tuple[int, str]:
    return -path.count("/"), path


class Held:
    """A block that holds turns. They can be given back before it ends."""

    __slots__ = ("_held", "_paths", "_turns")

    def __init__(self, turns: Turns, paths: list[str]) -> None:
        self._turns = turns
        self._paths = paths
        self._held: list[str] = []

    async def __aenter__(self) -> None:
        try:
            for path in self._paths:
                if await self._turns.take(path):
                    self._held.append(path)
        except BaseException:
            self.give()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.give()

    def give(self) -> None:
        """Give the turns back."""
        while self._held:
            self._turns.give(self._held.pop())
