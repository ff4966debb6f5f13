"""How a store is used: the application's schema, its policies, and where time and ids come from."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from tai_state.engines.observing import Observer
from tai_state.streams.policies import EveryEvents, SnapshotPolicy
from tai_state.streams.upcasting import Upcasting
from tai_state.values.metadata import ChangeMetadata
from tai_state.values.times import WallClock


class SystemClock:
    """The machine's clock."""

    def now_us(self) -> int:
        """Microseconds since 1970 in UTC."""
        return time.time_ns() // 1_000


class RandomIds:
    """Random UUIDs (version 4). Asking the system for randomness costs a thread switch: once does for 256 ids."""

    def __init__(self) -> None:
        self.forget()
        os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """Drop what is left: a forked child must not give the ids that its parent gives."""
        self._pool: Iterator[str] = iter(())

    def __call__(self) -> str:
        """The next id."""
        for text in self._pool:
            return text
        drawn = os.urandom(16 * 256).hex()
        self._pool = iter([_uuid(drawn[start : start + 32]) for start in range(0, len(drawn), 32)])
        return next(self._pool)


def _uuid(digits: str) -> str:
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


new_id: Callable[[], str] = RandomIds()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a store is used; the same for its whole life.

    Attributes:
        create: make the store where there is none.
        indexed: state fields that ``find_states`` may ask for.
        snapshots: when a snapshot is kept.
        upcasting: brings data of older schemas up to date.
        timeout_seconds: how long one change is looked after when answers are lost.
        metadata: who makes the changes that do not say it, and why.
        clock: the time of changes that come without one.
        new_id: makes event ids.
        observer: is told of tries, outcomes and waits; None: nobody is.
        jitter: a random number from 0 to 1, for pauses between attempts.
    """

    create: bool = True
    indexed: tuple[str, ...] = ()
    snapshots: SnapshotPolicy = field(default_factory=EveryEvents)
    upcasting: Upcasting = field(default_factory=partial(Upcasting, 1, {}))
    timeout_seconds: float = 30.0
    metadata: ChangeMetadata | None = None
    clock: WallClock = field(default_factory=SystemClock)
    new_id: Callable[[], str] = new_id
    observer: Observer | None = None
    jitter: Callable[[], float] = random.random
