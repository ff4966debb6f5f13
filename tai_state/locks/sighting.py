"""Judging which holders and waiters are alive: by the engine's clock if all users share it, else by seen changes.

The local wall clock is never used: it can jump, and machines disagree.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import NamedTuple, Protocol

import msgspec

from tai_state.engines.api import Document, Engine, Reading
from tai_state.engines.matters import Look
from tai_state.locks.damage import decoded, nonce_of
from tai_state.locks.marks import Marks
from tai_state.locks.records import BEAT, LOCK, LockRecord
from tai_state.streams.layout import Layout

SIGHTINGS_MAX = 8_192
"""For how many documents the last change is remembered, where there is no shared clock."""

_MARGIN = 0.1
"""The part of a lease to wait in addition where there is no shared clock: clocks do not run equally fast."""


class Stillness(msgspec.Struct, frozen=True):
    """A document, and for how long at least it has been unchanged.

    Attributes:
        document: as read.
        still_seconds: how long it has been unchanged; without a shared clock it may have been longer.
        is_sure: whether the time of its last write is known: by the shared clock, or because it was seen to change.
    """

    document: Document
    still_seconds: float
    is_sure: bool


class Standing(msgspec.Struct, frozen=True):
    """An existing lock: its document and its last renewal, from one look.

    Attributes:
        lock: the lock's document.
        record: the decoded content of that document.
        beat: the document of renewals, of this tenure or an earlier one; None if there is none.
        remaining_seconds: how long after the look it may be taken over; 0: now.
        lasts: whether its lease was in force at the look, as far as can be seen.
        last_sign_us: when its holder last gave a sign of life that can be read, by the engine's clock.
    """

    lock: Document
    record: LockRecord
    beat: Document | None
    remaining_seconds: float
    lasts: bool
    last_sign_us: int


class _Reads(Protocol):
    async def read(self, paths: Sequence[str]) -> Reading: ...


class _Sighting(NamedTuple):
    revision: int
    since: float
    has_moved: bool


class Sightings:
    """Reads documents and tells how long they have been unchanged.

    Args:
        engine: the store's engine.
        layout: the paths of the lock documents.
        monotonic: a clock in seconds that never goes back.

    Attributes:
        engine: as given.
    """

    def __init__(self, engine: Engine, layout: Layout, monotonic: Callable[[], float]) -> None:
        self.engine: _Reads = engine
        self._layout = layout
        self._monotonic = monotonic
        self._shared_clock = engine.capabilities.shared_clock
        self._patience = 1.0 if self._shared_clock else 1.0 + _MARGIN
        self._sightings: OrderedDict[str, _Sighting] = OrderedDict()
        self._marks = Marks()

    def through(self, engine: _Reads) -> Sightings:
        """The same, which reads through another engine."""
        found = copy(self)
        found.engine = engine
        return found

    async def read(self, paths: Sequence[str]) -> dict[str, Stillness]:
        """Read documents at one moment; those that do not exist are left out."""
        asked = self._monotonic()
        reading = await self.engine.read(paths)
        documents = dict(zip(paths, reading.documents, strict=True))
        return self.seen(Look(documents, time_us=reading.time_us, asked=asked, answered=self._monotonic()))

    def seen(self, look: Look) -> dict[str, Stillness]:
        """The existing documents of a look, each with how long it has been unchanged."""
        there = [document for document in look.documents.values() if document is not None]
        if self._shared_clock:
            return {each.path: Stillness(each, max(0, look.time_us - each.updated_us) / 1e6, True) for each in there}
        return {each.path: self._still(each, look.asked, look.answered) for each in there}

    def told(self, path: str, revision: int | None) -> None:
        """Note what a watch has just told of a document, so that a later look knows how long it stood still."""
        if revision is None or self._shared_clock:
            return
        before = self._sightings.get(path)
        if before is None or before.revision < revision:
            self._sighted(path, revision, self._monotonic())

    def standings(self, resources: Sequence[str], seen: Mapping[str, Stillness]) -> dict[str, Standing | None]:
        """The locks on these resources, from a look that includes their paths; None where there is no lock."""
        return {resource: self.standing(resource, seen) for resource in resources}

    def paths(self, resources: Sequence[str]) -> list[str]:
        """The documents to read for the standing of these locks."""
        return [path for each in resources for path in (self._layout.lock(each), self._layout.lockbeat(each))]

    def standing(self, resource: str, seen: Mapping[str, Stillness]) -> Standing | None:
        """The lock on one resource, from a look that includes its paths; None if there is no lock.

        A damaged renewal counts as one of the holder's: it may have been its last sign of life.

        Raises:
            CorruptDocument: the lock's document is damaged; the error says what to do about it.
        """
        lock, beat = seen.get(self._layout.lock(resource)), seen.get(self._layout.lockbeat(resource))
        if lock is None:
            return None
        record = decoded(lock.document, LOCK)
        still, last_sign_us = lock.still_seconds, lock.document.updated_us
        renewed = None if beat is None else nonce_of(beat.document, BEAT)
        if beat is not None and renewed in (None, record.nonce):
            still = min(still, beat.still_seconds)
        if beat is not None and renewed == record.nonce:
            last_sign_us = max(last_sign_us, beat.document.updated_us)
        return Standing(
            lock.document,
            record,
            None if beat is None else beat.document,
            max(0.0, record.ttl * self._patience - still),
            still < record.ttl,
            last_sign_us,
        )

    def is_gone(self, seen: Stillness, ttl_seconds: float) -> bool:
        """Whether the writer of a document, due to rewrite it every ``ttl_seconds``, has failed to do so."""
        return self.seconds_until_gone(seen, ttl_seconds) <= 0

    def seconds_until_gone(self, seen: Stillness, ttl_seconds: float) -> float:
        """How long after the look the writer of a document may still rewrite it in time; 0: it has failed to do so."""
        return max(0.0, ttl_seconds * self._patience - seen.still_seconds)

    def _still(self, document: Document, asked: float, answered: float) -> Stillness:
        sighting = self._sighted(document.path, document.revision, answered)
        return Stillness(document, max(0.0, asked - sighting.since), sighting.has_moved)

    def _sighted(self, path: str, revision: int, now: float) -> _Sighting:
        before = self._sightings.pop(path, None)
        if before is None or before.revision != revision:
            before = _Sighting(revision, self._marks.since(revision, now), before is not None)
        self._sightings[path] = before
        if len(self._sightings) > SIGHTINGS_MAX:
            _, oldest = self._sightings.popitem(last=False)
            self._marks.note(oldest.revision, oldest.since)
        return before
