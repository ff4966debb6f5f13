"""Mistakes made on purpose that more than one check must find."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tai_state.errors import Unavailable
from tai_state.streams import appending

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    import pytest

    from tai_state.engines.api import Committed, Write


def changes_are_committed_by(
    patch: pytest.MonkeyPatch, commit: Callable[[Any, Sequence[Write]], Awaitable[Committed]]
) -> None:
    """Changes are committed by this function, which gets the engine and the writes."""
    original = appending.settle

    async def settle(waist: Any, *args: Any, **options: Any) -> Any:
        return await original(_Instead(waist, commit), *args, **options)

    patch.setattr(appending, "settle", settle)


def lost_answer_is_a_failure(patch: pytest.MonkeyPatch) -> None:
    """A lost answer is taken for a failure."""

    async def commit(engine: Any, writes: Sequence[Write]) -> Committed:
        try:
            committed: Committed = await engine.commit(writes)
        except Unavailable as error:
            raise type(error)(error.operation, error.code, error.what) from error
        return committed

    changes_are_committed_by(patch, commit)


class _Instead:
    """An engine whose commits another function makes."""

    def __init__(self, engine: Any, commit: Callable[[Any, Sequence[Write]], Awaitable[Committed]]) -> None:
        self._engine = engine
        self._commit = commit
        self.read = engine.read
        self.scan = engine.scan

    async def commit(self, writes: Sequence[Write]) -> Committed:
        return await self._commit(self._engine, writes)
