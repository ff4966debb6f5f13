"""Mistakes made on purpose, in the process of the workload only: each must turn one kind of proof red."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tai_state.engines.sqlite import engine, writer
from tai_state.errors import StoreUnavailable

OFTEN = "checkpoints-often"
"""No mistake: the log is carried over into the main file every few commits, where it would take hundreds."""


def _pragma(text: str) -> Callable[[], None]:
    """The file is opened with another setting."""

    def patch() -> None:
        connect = engine.connect

        def careless(*args: Any, **options: Any) -> Any:
            connection = connect(*args, **options)
            connection.execute(f"PRAGMA {text}")
            return connection

        engine.connect = careless

    return patch


def _split() -> None:
    """The writes of a commit are committed one by one."""
    commit = engine.SqliteEngine.commit

    async def in_pieces(self: Any, writes: Any) -> Any:
        for write in writes:
            done = await commit(self, [write])
        return done

    engine.SqliteEngine.commit = in_pieces


def _deaf() -> None:
    """A failed commit is taken for a success."""
    commit = engine.SqliteEngine.commit

    async def optimistic(self: Any, writes: Any) -> Any:
        try:
            return await commit(self, writes)
        except StoreUnavailable:
            return engine.Committed(1 << 40, 0)

    engine.SqliteEngine.commit = optimistic


def _hasty() -> None:
    """Success is said of an event before it is handed over; it goes with the next."""
    commit = engine.SqliteEngine.commit
    held: list[Any] = []

    async def late(self: Any, writes: Any) -> Any:
        if not any("/events/" in write.path for write in writes):
            return await commit(self, writes)
        while held:
            await commit(self, held.pop())
        held.append(writes)
        return engine.Committed(1 << 40, 0)

    engine.SqliteEngine.commit = late


def _sure() -> None:
    """An error from COMMIT is taken for a failure, without looking and without a write that makes it one."""

    def is_applied(self: Any, _: Any) -> bool:
        self._abandon()
        return False

    writer.Writer._is_applied = is_applied


MUTANTS: dict[str, Callable[[], None]] = {
    "synchronous-off": _pragma("synchronous = OFF"),
    "synchronous-normal": _pragma("synchronous = NORMAL"),
    "split": _split,
    "deaf": _deaf,
    "hasty": _hasty,
    "sure": _sure,
    OFTEN: _pragma("wal_autocheckpoint = 24"),
}
