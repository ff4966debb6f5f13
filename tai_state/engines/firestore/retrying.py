"""Trying again what passes by itself: one rule for all calls, and one length of pauses for calls and streams."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from tai_state.errors import Unavailable

T = TypeVar("T")

_logger = logging.getLogger("tai_state.store")

_PAUSE_SECONDS_MIN: Final = 0.1
"""A shorter pause would not help: the driver waits longer before it connects again."""
_PAUSE_SECONDS_MAX: Final = 5.0


def pause_seconds(failures: int) -> float:
    """How long to wait after so many failures in a row; the random part spreads the load of many processes."""
    bound = _PAUSE_SECONDS_MIN * 2.0 ** min(failures - 1, 16)
    return min(bound, _PAUSE_SECONDS_MAX) * (1 + random.random())  # noqa: S311


async def tried(call: Callable[[float], Awaitable[T]], seconds: float) -> T:
    """Make a call. After an error that passes, make it again, unless a commit may have been applied.

    Args:
        call: the call, given the seconds that are left for it.
        seconds: how long all tries may take together.

    Raises:
        Unavailable: the error lasts, a commit's outcome is unknown, or the time is over.
    """
    until = time.monotonic() + seconds
    failures = 0
    while True:
        try:
            return await call(seconds)
        except Unavailable as error:
            failures += 1
            pause = pause_seconds(failures)
            seconds = until - time.monotonic() - pause
            if not error.is_transient or error.unknown or seconds <= 0:
                raise
            _logger.warning("a call failed and is made again", extra=error.fields())
        await asyncio.sleep(pause)
