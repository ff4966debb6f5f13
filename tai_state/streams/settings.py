"""The settings of a store: the application's schema, its policies, and the sources of time and ids."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from struct import Struct

from tai_state.engines.observing import Observer
from tai_state.streams.damage import Report, raising
from tai_state.streams.policies import EveryEvents, SnapshotPolicy
from tai_state.streams.upcasting import Upcasting
from tai_state.values.metadata import ChangeMetadata
from tai_state.values.times import AHEAD_MAX_US, WallClock, format_us


class SystemClock:
    """The machine's clock."""

    def now_us(self) -> int:
        """Microseconds since 1970 in UTC."""
        return time.time_ns() // 1_000


class RandomIds:
    """Random UUIDs (version 4). Asking the system for randomness costs a thread switch, so it asks for 256 at once."""

    def __init__(self) -> None:
        self.forget()
        os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """Drop the prepared ids: a forked child must not use the same ids as its parent."""
        self._pool: Iterator[str] = iter(())

    def __call__(self) -> str:
        """The next id."""
        for text in self._pool:
            return text
        drawn = bytearray(os.urandom(16 * 256))
        drawn[6::16] = drawn[6::16].translate(_VERSION)
        drawn[8::16] = drawn[8::16].translate(_VARIANT)
        parts = _UUID.iter_unpack(drawn.hex().encode())
        self._pool = iter([b"-".join(each).decode() for each in parts])
        return next(self._pool)


_UUID = Struct("8s 4s 4s 4s 12s")
_VERSION = bytes([0x40 | byte & 0x0F for byte in range(256)])
_VARIANT = bytes([0x80 | byte & 0x3F for byte in range(256)])


new_id: Callable[[], str] = RandomIds()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of an open store; they do not change while it is open.

    Attributes:
        create: create the store if there is none.
        indexed: the state fields that ``find_states`` may ask for.
        snapshots: decides when a snapshot is kept.
        upcasting: brings data of older schemas up to date.
        timeout_seconds: how long one change is tried after the first refusal or lost answer.
        metadata: who makes the changes that do not name it, and why.
        clock: the clock for changes without a timestamp.
        new_id: makes event ids.
        jitter: returns a random number from 0 to 1, for pauses between attempts.
        unidentified: called if the store's own document is damaged or missing. If it returns, the store is open all the
            same, but only to be read and recovered: it has no id to write under.
        observer: is told of commits, outcomes and waits; None: no observer.
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
    unidentified: Report = raising

    @property
    def latest(self) -> str:
        """The latest time that a caller may give now, as text."""
        return format_us(self.clock.now_us() + AHEAD_MAX_US)
