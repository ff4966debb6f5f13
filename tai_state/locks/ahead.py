"""Looking ahead in line: who stands there, who holds a waiter up, and who is dead."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import islice
from math import inf

from tai_state.engines.api import Delete, Document, Scan, after, split
from tai_state.engines.rewriting import write_unless_moved
from tai_state.errors import TaiStateError
from tai_state.locks.common import Common
from tai_state.locks.damage import sound_waiter
from tai_state.locks.records import WaiterRecord
from tai_state.streams.damage import as_read

_logger = logging.getLogger("tai_state.locks")

NEAR = 3
"""How many waiters ahead one looks at, for each resource. With fewer than that ahead, it watches the locks."""


class Ahead:
    """The waiters right ahead of one waiter, as last seen.

    Args:
        common: what all parts of the locks share.
        wants: the resources that the waiter wants.

    Attributes:
        lines: for each resource, the collection of its waiters.
        places: the documents of those right ahead in each line.
        behind: those of them behind which it stays.
        is_in_doubt: whether none of the latter is known to be alive.
        silent_at: when all of the latter count as dead unless one gives a sign of life, by the monotonic clock.
    """

    def __init__(self, common: Common, wants: Sequence[str]) -> None:
        self._common = common
        self._wants = frozenset(wants)
        self._tried: set[tuple[str, int]] = set()
        self.lines: list[str] = [common.core.layout.waiters(each) for each in wants]
        self.places: tuple[str, ...] = ()
        self.behind: tuple[str, ...] = ()
        self.is_in_doubt: bool = False
        self.silent_at: float = inf

    @property
    def count(self) -> int:
        """How many waiters are right ahead, each counted once."""
        return len({split(place)[1] for place in self.places})

    async def look(self, owner: str) -> None:
        """Look at the waiters right ahead, and remove those who are dead.

        Args:
            owner: the owner of the waiter's place.
        """
        sightings = self._common.sightings
        while True:
            lines = [await self._right_ahead(line, owner) for line in self.lines]
            records = {place: record for line in lines for place, record in line.items()}
            seen = await sightings.read(list(records)) if records else {}
            gone = [place for place, each in seen.items() if sightings.is_gone(each, records[place].ttl)]
            if not await self._are_removed([seen[place].document for place in gone]):
                break
        self.places = tuple(place for place in seen if place not in gone)
        full = {place for line in lines if len(line) == NEAR for place in line}
        self.behind = tuple(
            place for place in self.places if place in full and self._wants.issuperset(records[place].wants)
        )
        here = self._common.waiting
        self.is_in_doubt = not any(seen[place].is_sure or split(place)[1] in here for place in self.behind)
        left = [sightings.seconds_until_gone(seen[place], records[place].ttl) for place in self.behind]
        self.silent_at = self._common.monotonic() + max(left, default=inf)

    async def _right_ahead(self, line: str, owner: str) -> dict[str, WaiterRecord]:
        """The waiters right ahead in a line. Damaged documents are removed: one who is alive writes its own again.

        Those that cannot be removed are passed over.
        """
        passed = 0
        while True:
            scan = self._common.scan(Scan(line, start=after(owner), limit=NEAR + passed))
            found = [(document, sound_waiter(document)) async for document in scan]
            damaged = [document for document, record in found if record is None]
            if await self._are_removed(damaged):
                continue
            sound = {document.path: record for document, record in found if record is not None}
            if len(sound) >= NEAR or len(found) < NEAR + passed:
                return dict(islice(sound.items(), NEAR))
            passed = len(damaged)

    async def _are_removed(self, dead: Sequence[Document]) -> bool:
        """Remove waiters, unless they show life; False: there is no other look to take, as none was tried.

        Each is tried once at each revision, as there may be one that no call removes. An engine that fails holds nobody
        up.
        """
        untried = [each for each in dead if (each.path, each.revision) not in self._tried]
        try:
            for each in untried:
                await write_unless_moved(self._common, [Delete(each.path, as_read(each))], self._common.bounds)
                self._tried.add((each.path, each.revision))
        except TaiStateError as error:
            _logger.debug("could not remove dead waiters from a queue", extra=error.fields())
            return False
        return bool(untried)
