"""What every part of a store shares: the engine, where things live, and how data is brought up to date."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from tai_state.engines.api import Document, Engine
from tai_state.errors import GovernorNotFound, InvalidData
from tai_state.store.appending import Appender
from tai_state.store.changes import Fence, Guard
from tai_state.store.layout import Layout, Stream
from tai_state.store.policies import EveryEvents, SnapshotPolicy
from tai_state.store.records import StateRecord, checked_state, head_of, to_snapshot
from tai_state.store.streams import StreamReader
from tai_state.store.turns import Turns
from tai_state.store.upcasting import Upcasting
from tai_state.values.states import JsonSnapshot
from tai_state.values.times import Clock


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
        clock: the time of changes that come without one.
        new_id: makes event ids.
        jitter: a random number from 0 to 1, for pauses between attempts.
    """

    create: bool = True
    indexed: tuple[str, ...] = ()
    snapshots: SnapshotPolicy = field(default_factory=EveryEvents)
    upcasting: Upcasting = field(default_factory=partial(Upcasting, 1, {}))
    timeout_seconds: float = 30.0
    clock: Clock = field(default_factory=SystemClock)
    new_id: Callable[[], str] = new_id
    jitter: Callable[[], float] = random.random


class StoreCore:
    """The base of :class:`~tai_state.store.store.StateStore`: what its parts share.

    Attributes:
        engine: the waist.
        layout: where documents live.
        settings: how the store is used.
        streams: reads streams.
        turns: taken by the tasks of this process that change the same states.
        store_id: this store's identity, known once it is open.
    """

    appender: Appender

    def __init__(self, engine: Engine, layout: Layout, settings: Settings) -> None:
        self.engine = engine
        self.layout = layout
        self.settings = settings
        self.turns: Turns = Turns()
        self.streams: StreamReader = StreamReader(engine, settings.upcasting)
        self.store_id: str = ""

    def guards(self, fence: Fence | None) -> tuple[Guard, ...]:
        """What a change checks besides its own state.

        Raises:
            InvalidData: the fence is of another store.
        """
        if fence is None:
            return ()
        if fence.store_id != self.store_id:
            raise InvalidData("the lease given as fence is of another store")
        return (fence.guard(),)

    async def require_governor(self, governor_id: str) -> None:
        """See that something was ever written under a governor.

        Raises:
            GovernorNotFound: nothing was.
        """
        path = self.layout.governor(governor_id)
        if (await self.engine.read([path])).documents == (None,):
            raise GovernorNotFound(path)

    async def read_state(self, stream: Stream) -> tuple[Document, StateRecord] | None:
        """A state's document and record, deleted or not, its hash checked; None where there is none.

        Raises:
            CorruptDocument: the data is not what its hash says.
        """
        [document] = (await self.engine.read([stream.state])).documents
        return None if document is None else (document, self.checked(stream, document))

    def checked(self, stream: Stream, document: Document) -> StateRecord:
        """The record of a state's document, whose head is remembered.

        Raises:
            CorruptDocument: the data is not what its hash says.
        """
        record = checked_state(document)
        self.appender.heads.put(stream.state, head_of(record, document.revision))
        return record

    def snapshot(self, stream: Stream, record: StateRecord, recorded_us: int) -> JsonSnapshot:
        """What callers get of a record, brought up to date."""
        found = to_snapshot(stream, record, recorded_us)
        if record.data is None or self.settings.upcasting.is_current(record.schema):
            return found
        return found.with_data(self.settings.upcasting.state(record.data, record.schema, stream.state))
