"""Who is alive: judged by the engine's clock where all share it, else by what was seen to stand still or to move.

The clock of this machine's wall decides nothing: it jumps, and other machines have others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from tai_state.engines.api import Document, Engine
from tai_state.engines.matters import Look
from tai_state.locks.records import BEAT, LOCK, LockRecord
from tai_state.streams.layout import Layout

SIGHTINGS_MAX = 8_192
"""Documents whose standing still is remembered, where there is no shared clock."""

_MARGIN = 0.1
"""Of a lease, waited in addition where only standing still shows its end: clocks do not run equally fast."""


class Stillness(msgspec.Struct, frozen=True):
    """A document, and for how long it has certainly stood as it is.

    Attributes:
        document: as read.
        still_seconds: how long; perhaps longer, where there is no shared clock.
        is_sure: whether it was written so lately that this tells of life: by the clock, or because it was seen to
            move.
    """

    document: Document
    still_seconds: float
    is_sure: bool


class Standing(msgspec.Struct, frozen=True):
    """A lock that is there: its document and its last renewal, of one look.

    Attributes:
        lock: the lock's document.
        record: what is in it.
        beat: the document of renewals, whoever wrote it; None where there is none.
        remaining_seconds: from the look to when it may be taken over; 0: now.
        lasts: whether its lease is not over yet, as far as was seen.
        last_sign_us: when its holder last showed that it lives, by the engine's clock.
    """

    lock: Document
    record: LockRecord
    beat: Document | None
    remaining_seconds: float
    lasts: bool
    last_sign_us: int


class _Sighting(NamedTuple):
    revision: int
    since: float
    has_moved: bool


class Sightings:
    """Looks at documents and says how long they have stood still.

    Args:
        engine: the waist.
        layout: where locks live.
        monotonic: seconds of a clock that never goes back.
    """

    def __init__(self, engine: Engine, layout: Layout, monotonic: Callable[[], float]) -> None:
        self._engine = engine
        self._layout = layout
        self._monotonic = monotonic
        self._shared_clock = engine.capabilities.shared_clock
        self._patience = 1.0 if self._shared_clock else 1.0 + _MARGIN
        self._sightings: OrderedDict[str, _Sighting] = OrderedDict()

    async def read(self, paths: Sequence[str]) -> dict[str, Stillness]:
        """Those of the documents that are there, all of one moment."""
        asked = self._monotonic()
        reading = await self._engine.read(paths)
        documents = dict(zip(paths, reading.documents, strict=True))
        return self.seen(Look(documents, time_us=reading.time_us, asked=asked, answered=self._monotonic()))

    def seen(self, look: Look) -> dict[str, Stillness]:
        """Those of the documents of a look that are there, and for how long they have stood still."""
        there = [document for document in look.documents.values() if document is not None]
        if self._shared_clock:
            return {each.path: Stillness(each, max(0, look.time_us - each.updated_us) / 1e6, True) for each in there}
        return {each.path: self._sighted(each, look.asked, look.answered) for each in there}

    async def locks(self, resources: Sequence[str]) -> dict[str, Standing | None]:
        """How the locks on these resources stand, all of one moment; None where there is none."""
        seen = await self.read(self.paths(resources))
        return self.standings(resources, seen)

    def standings(self, resources: Sequence[str], seen: Mapping[str, Stillness]) -> dict[str, Standing | None]:
        """How the locks on these resources stand, by a look that took in their paths; None where there is none."""
        return {resource: self.standing(resource, seen) for resource in resources}

    def paths(self, resources: Sequence[str]) -> list[str]:
        """What must be read to know how these locks stand."""
        return [path for each in resources for path in (self._layout.lock(each), self._layout.lockbeat(each))]

    def standing(self, resource: str, seen: Mapping[str, Stillness]) -> Standing | None:
        """How one lock stands, by a look that took in its paths.

        Raises:
            CorruptDocument: the lock's document is damaged.
        """
        lock, beat = seen.get(self._layout.lock(resource)), seen.get(self._layout.lockbeat(resource))
        if lock is None:
            return None
        record = lock.document.decode(LOCK)
        signs = [lock]
        if beat is not None and beat.document.decode(BEAT).nonce == record.nonce:
            signs.append(beat)
        still = min(each.still_seconds for each in signs)
        return Standing(
            lock.document,
            record,
            None if beat is None else beat.document,
            max(0.0, record.ttl * self._patience - still),
            still < record.ttl,
            max(each.document.updated_us for each in signs),
        )

    def is_gone(self, seen: Stillness, ttl_seconds: float) -> bool:
        """Whether a document that is to be rewritten within so many seconds has not been."""
        return seen.still_seconds >= ttl_seconds * self._patience

    def _sighted(self, document: Document, asked: float, answered: float) -> Stillness:
        before = self._sightings.pop(document.path, None)
        if before is None or before.revision != document.revision:
            before = _Sighting(document.revision, answered, before is not None)
        self._sightings[document.path] = before
        if len(self._sightings) > SIGHTINGS_MAX:
            self._sightings.popitem(last=False)
        return Stillness(document, max(0.0, asked - before.since), before.has_moved)
