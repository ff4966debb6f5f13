"""The turn of a machine of another library: its callbacks run once in a process, not once in each task that asks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar

from tai_state.streams.turns import Turns


class _Running:
    """A machine whose callbacks run, and the one whose callbacks asked for that."""

    __slots__ = ("is_running", "outer", "path")

    def __init__(self, path: str, outer: _Running | None) -> None:
        self.path = path
        self.outer = outer
        self.is_running = True


_running: ContextVar[_Running | None] = ContextVar("running", default=None)
"""The machine whose callbacks the present task runs. A task that a callback has started inherits it."""


@contextmanager
def callbacks_of(path: str) -> Generator[None, None, None]:
    """A block that runs the callbacks of a machine.

    Raises:
        RuntimeError: it is asked for by a callback of the same machine, which would wait for itself.
    """
    outer = _innermost()
    running = _Running(path, outer)
    token = _running.set(running)
    try:
        yield
    finally:
        running.is_running = False
        _running.reset(token)


@asynccontextmanager
async def turn(turns: Turns, path: str) -> AsyncGenerator[None, None]:
    """A block that holds the turn of a machine.

    A task waits until its turn comes. A task that runs the callbacks of another machine holds that one's turn, so it
    goes on without this one if it does not come: two of them might wait for each other.

    Raises:
        RuntimeError: a callback of the machine asks for it, and would wait for itself.
    """
    running = _innermost()
    each = running
    while each is not None:
        if each.path == path:
            raise RuntimeError(f"an event of {path!r} is running: in a callback, let the machine itself send the next")
        each = each.outer
    while not (is_taken := await turns.take(path)) and running is None:
        pass
    try:
        yield
    finally:
        if is_taken:
            turns.give(path)


def _innermost() -> _Running | None:
    """The innermost machine whose callbacks still run."""
    running = _running.get()
    while running is not None and not running.is_running:
        running = running.outer
    return running
