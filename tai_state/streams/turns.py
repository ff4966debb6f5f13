"""Taking turns inside one process.

Tasks that change the same state hinder each other: of n tasks that read it, one commits, and the others have to read
again. The tasks of one process can avoid this by taking turns. Correctness does not depend on turns: a task goes on
without its turn if the turn does not move on for too long.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Self

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
        self._turns: dict[str, _Line | None] = {}  # of each turn that is taken; None: nobody has waited for it

    def of(self, states: Iterable[str], governors: Iterable[str] = ()) -> Held:
        """A block that holds the turns of these states and governors.

        No deadlock: all tasks take them in one order, and who has taken those of states waits for no other state's.
        Governors come last: a transaction that runs again already has the turns of its states when it finds that it
        needs those of governors.
        """
        return Held(self, states, governors)

    def are_taken(self, paths: Iterable[str]) -> bool:
        """Whether somebody has the turn of one of these states."""
        return not self._turns.keys().isdisjoint(paths)

    def take_free(self, path: str) -> bool:
        """Take the turn of a state if nobody has it; returns whether it is taken."""
        if path in self._turns:
            return False
        self._turns[path] = None
        return True

    async def take(self, path: str) -> bool:
        """Take the turn of a state; returns False if it did not come, and did not move on either for too long."""
        if self.take_free(path):
            return True
        line = self._turns[path]
        if line is None:
            line = self._turns[path] = _Line()
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
        if line is not None and line.waiting:
            line.moves += 1
            line.waiting.popleft().set()
        else:
            del self._turns[path]


class Held:
    """A block that holds turns. They can be given back before it ends.

    Args:
        turns: the turns of the store.
        states: the paths of states.
        governors: the paths of governors.

    Attributes:
        is_asked: whether any turn was asked for, whether or not it came.
    """

    __slots__ = ("_governors", "_held", "_is_over", "_states", "_turns", "is_asked")

    def __init__(self, turns: Turns, states: Iterable[str], governors: Iterable[str]) -> None:
        self.is_asked: bool = False
        self._turns = turns
        self._states = states
        self._governors = governors
        self._held: list[str] = []
        self._is_over = False

    async def __aenter__(self) -> Self:
        await self.take(self._states, self._governors)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.give()

    @property
    def is_held(self) -> bool:
        """Whether it holds any turn now."""
        return bool(self._held)

    @contextmanager
    def around(self) -> Generator[None, None, None]:
        """While these turns are held, let the code in the block, and the tasks that it starts, wait for no others."""
        before = _around.get()
        _around.set((*before, self))
        try:
            yield
        finally:
            _around.set(before)

    async def take(self, states: Iterable[str], governors: Iterable[str] = ()) -> None:
        """Take turns, while none are held; those of states only if none are held around this code either."""
        wanted = [] if any(each.is_held for each in _around.get()) else sorted(set(states))
        wanted += sorted(set(governors))
        self.is_asked = self.is_asked or bool(wanted)
        try:
            for path in wanted:
                if await self._turns.take(path):
                    self._held.append(path)
        except BaseException:
            self._return()
            raise
        if self._is_over:  # a task that nobody waits for any more has waited until now
            self._return()

    def give(self) -> None:
        """Give the turns back, and hold none from now on."""
        self._is_over = True
        self._return()

    def _return(self) -> None:
        while self._held:
            self._turns.give(self._held.pop())


_around: ContextVar[tuple[Held, ...]] = ContextVar("tai_state_turns", default=())
"""The turns of the transactions that are under way around this code: a task begun in one inherits it."""
