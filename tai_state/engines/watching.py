"""Watching by looking again: for engines that can tell *that* something changed, not *what*."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeAlias

import anyio

from tai_state.engines.api import Change

Revisions: TypeAlias = dict[str, int | None]


class Signal:
    """Wakes everybody who waits, each time it is raised."""

    def __init__(self) -> None:
        self._event: anyio.Event | None = None  # made only when somebody waits: raising is part of every commit

    def next(self) -> anyio.Event:
        """The event that the next :meth:`raise_` sets. Take it before looking, or a change is missed."""
        if self._event is None:
            self._event = anyio.Event()
        return self._event

    def raise_(self) -> None:
        """Wake all who wait."""
        event, self._event = self._event, None
        if event is not None:
            event.set()


async def changes(
    signal: Signal,
    entered: Revisions,
    look: Callable[[], Awaitable[Revisions]],
    wait: Callable[[anyio.Event], Awaitable[None]],
) -> AsyncGenerator[Change, None]:
    """The differences between one look and the next, for ever.

    Args:
        signal: raised at each commit.
        entered: the first look, made when the watch was entered.
        look: the present revisions of all that is watched; None for an absent document.
        wait: returns when the event is set, or earlier when a look is due for another reason.
    """
    for path, revision in entered.items():
        yield Change(path, revision)
    seen = entered
    while True:
        event = signal.next()
        present = await look()
        for path, revision in present.items():
            if path not in seen or seen[path] != revision:
                yield Change(path, revision)
        for path in seen:
            if path not in present:
                yield Change(path, None)
        seen = present
        await wait(event)


def is_collection(path: str) -> bool:
    """Whether a path names a collection (an odd number of segments) and no document."""
    return path.count("/") % 2 == 0
